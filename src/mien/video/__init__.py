"""Faces in video: decoding, tracking, averages per track and anonymization. Needs the extra `video`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien._lazy import attach

if TYPE_CHECKING:
    from mien.video.anonymization import AnonymizationReport, anonymize_video
    from mien.video.people import join_tracks
    from mien.video.reader import read_video
    from mien.video.tracker import Tracker

__all__ = ["AnonymizationReport", "Tracker", "anonymize_video", "join_tracks", "read_video"]

__getattr__ = attach(
    __name__,
    {
        "AnonymizationReport": "anonymization",
        "anonymize_video": "anonymization",
        "join_tracks": "people",
        "read_video": "reader",
        "Tracker": "tracker",
    },
)
