"""Faces in video: decoding, tracking and averages per track. Needs the extra `video`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien._lazy import attach

if TYPE_CHECKING:
    from mien.video.reader import read_video
    from mien.video.tracker import Tracker

__all__ = ["Tracker", "read_video"]

__getattr__ = attach(__name__, {"read_video": "reader", "Tracker": "tracker"})
