"""`Reader.read`: one photo, its options, and what a caller sees of its stages."""

from __future__ import annotations

import logging

import pytest

import mien
from mien.errors import NotAPicture, UsageError


def test_stages_are_reported_in_order_and_may_end_the_read(reader: mien.Reader, astronaut: str) -> None:
    seen: list[tuple[str, int, int]] = []
    reading = reader.read(astronaut, on_stage=lambda stage, r, faces: seen.append((stage, faces, len(r))))
    assert seen == [("decode", 0, 0), ("detect", 1, 0), ("align", 1, 0), ("read", 1, 1)]
    assert (
        list(reading.timing_ms) == ["decode", "detect", "align", "read"]
        and min(reading.timing_ms.values()) > 0
    )

    def stop(stage: str, *_: object) -> None:
        if stage == "detect":
            raise TimeoutError(stage)

    with pytest.raises(TimeoutError, match="detect"):
        reader.read(astronaut, on_stage=stop)


def test_options_of_one_read_leave_the_reader_as_it_is(reader: mien.Reader) -> None:
    collage = "examples/collage.jpg"
    usual = reader.read(collage)
    assert len(reader.read(collage, max_faces=2, tasks=["age"])) == 2
    assert list(reader.read(collage, max_faces=1, tasks=["age"])[0]) == ["age"]
    assert [f.box.tolist() for f in reader.read(collage, max_faces=2)] == [f.box.tolist() for f in usual[:2]]
    high = max(f.score for f in usual) + 1e-4
    assert len(reader.read(collage, score=min(high, 0.999))) < len(usual)
    assert [f.score for f in reader.read(collage)] == [f.score for f in usual]
    with pytest.raises(UsageError, match="score must lie between 0 and 1, not 3"):
        reader.read(collage, score=3)


def test_one_photo_s_error_is_raised_and_not_logged_too(
    reader: mien.Reader, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(NotAPicture):
        reader(b"no picture at all, but some bytes")
    assert not caplog.records
    assert reader([b"no picture at all, but some bytes"])[0].error is not None
    assert len(caplog.records) == 1


def test_tasks_are_a_list() -> None:
    with pytest.raises(UsageError, match=r"tasks must be a list of names, not a string: tasks=\['age'\]"):
        mien.load(tasks="age")
    with pytest.raises(UsageError, match="score must lie between 0 and 1, not 3"):
        mien.load(score=3)


def test_a_score_needs_a_detector_that_takes_one(reader: mien.Reader, astronaut: str) -> None:
    other = mien.Reader(lambda pixels: [], reader.model)
    assert other.read(astronaut) == []
    with pytest.raises(UsageError, match="takes no score"):
        other.read(astronaut, score=0.5)
