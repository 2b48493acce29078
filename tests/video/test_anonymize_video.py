"""Videos: faces stay covered between detections, spans, people who stay visible, sound, and the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

av = pytest.importorskip("av")

import cv2  # noqa: E402

import mien  # noqa: E402
from mien.cli import app  # noqa: E402
from mien.cli.anonymize_video import span_of, video_targets  # noqa: E402
from mien.errors import NotFound, UsageError  # noqa: E402
from mien.io.image import load_photo  # noqa: E402
from mien.io.paths import split_videos  # noqa: E402
from mien.tasks.identity import Identity  # noqa: E402
from mien.types import Face  # noqa: E402
from mien.video.anonymization import anonymize_video  # noqa: E402
from mien.video.container import VideoContainer, Writer  # noqa: E402
from mien.video.cover_plan import plan_cover  # noqa: E402
from mien.video.following import Follower, follow  # noqa: E402
from mien.visualize.anonymization import GRAY  # noqa: E402

RATE, SIZE = 10, (160, 120)
WHO = np.eye(3, dtype=np.float32)
PATTERN = np.random.default_rng(5).integers(0, 256, (30, 40, 3), np.uint8)


def picture(x: float, y: float) -> np.ndarray:
    """A textured picture of 160 x 120 whose content is moved by x, y."""
    whole = cv2.resize(PATTERN, (320, 240), interpolation=cv2.INTER_CUBIC)
    moved = np.float32([[1, 0, x - 80], [0, 1, y - 60]])
    return cv2.warpAffine(whole, moved, SIZE, borderMode=cv2.BORDER_REFLECT)


def place(number: int) -> np.ndarray:
    """Where the face of the test video is: it moves by 2 pixels per frame."""
    return np.array([30.0, 40.0, 60.0, 80.0]) + np.tile([2.0 * number, 0.0], 2)


def face(box: np.ndarray, score: float = 0.9, who: int | None = None) -> Face:
    answers = {} if who is None else {"identity": Identity(WHO[who])}
    return Face(np.asarray(box, np.float32), score, np.zeros((5, 2), np.float32), answers)


def follower(seen: dict[int, list[Face]], count: int = 40, hold: float = 1.0, cuts: tuple[int, ...] = ()):
    made = Follower(hold)
    for i in range(count):
        made.add(i, i / RATE, picture(2 * i, 0), seen.get(i, []), cut=i in cuts)
    return made


def planned(seen: dict[int, list[Face]], visible=None, count: int = 40, **more):
    made = follower(seen, count, **more)
    return plan_cover(made, [i / RATE for i in range(count)], SIZE, 0.4, visible)


def is_covered(boxes: list[np.ndarray], wanted: np.ndarray, share: float = 0.9) -> bool:
    mask = np.zeros((SIZE[1] * 2, SIZE[0] * 2), bool)
    for box in boxes:
        x1, y1, x2, y2 = np.clip(box, 0, None).astype(int)
        mask[y1 : y2 + 1, x1 : x2 + 1] = True
    x1, y1, x2, y2 = wanted.astype(int)
    return bool(mask[y1:y2, x1:x2].mean() >= share)


def test_flow_moves_and_scales_a_box() -> None:
    before = cv2.cvtColor(picture(0, 0), cv2.COLOR_RGB2GRAY)
    now = cv2.cvtColor(picture(5, -3), cv2.COLOR_RGB2GRAY)
    moved = follow(before, now, [40, 40, 80, 90])
    assert moved is not None
    assert moved == pytest.approx([45, 37, 85, 87], abs=0.5)
    larger = cv2.warpAffine(before, np.float32([[1.06, 0, -3.6], [0, 1.06, -3.9]]), SIZE)  # about (60, 65)
    grown = follow(before, larger, [40, 40, 80, 90])
    assert grown is not None
    assert grown == pytest.approx([38.8, 38.5, 81.2, 91.5], abs=0.7)
    assert follow(before, now, [-90, -90, -50, -50]) is None


def test_a_face_is_covered_in_gaps_and_before_and_after_its_detections() -> None:
    plan = planned({i: [face(place(i))] for i in (12, 13, 14, 19, 20)})  # a gap of half a second
    covered = list(plan.frames())
    for i in range(2, 31):  # hold is ten frames
        assert is_covered(covered[i], place(i)), i
    assert covered[0] == [] and covered[35] == []
    [track] = plan.tracks
    assert (track.first_frame, track.last_frame, track.detections, track.visible) == (12, 20, 5, 0)
    assert 28 <= track.covered <= 30
    reasons = {c.reason: (c.first_frame, c.last_frame) for c in plan.check}
    assert set(reasons) == {"track starts", "track ends"}
    assert reasons["track starts"][1] < 12 and reasons["track ends"][0] > 20


def test_a_cut_ends_the_cover() -> None:
    covered = list(planned({i: [face(place(i))] for i in range(10, 20)}, cuts=(8, 22)).frames())
    assert covered[7] == [] and covered[22] == []
    assert is_covered(covered[8], place(8)) and is_covered(covered[21], place(21))


def test_weak_detections_continue_a_track_and_start_none() -> None:
    seen = {i: [face(place(i), 0.15)] for i in range(40)}
    assert planned(seen).lines == []
    seen[20] = [face(place(20), 0.6)]
    covered = list(planned(seen).frames())
    assert all(is_covered(covered[i], place(i)) for i in range(10, 40))


def test_a_brief_weak_track_is_listed_and_not_covered() -> None:
    plan = planned({20: [face(place(20), 0.35)]})
    assert plan.lines == [] and plan.tracks == []
    [check] = plan.check
    assert (check.reason, check.first_frame, check.last_frame) == ("possible face", 20, 20)
    assert check.to_dict()["box"] == [70.0, 40.0, 100.0, 80.0]


def test_half_a_face_next_to_an_occluder_is_covered_completely() -> None:
    seen = {i: [face(place(i))] for i in range(40)}
    half = place(20)
    half[2] = (half[0] + half[2]) / 2
    seen[20] = [face(half, 0.5)]
    covered = list(planned(seen).frames())
    assert is_covered(covered[20], place(20), 0.98)


def test_a_person_stays_visible_where_every_embedding_near_says_so() -> None:
    seen = {i: [face(place(i), who=0)] for i in range(40)}
    plan = planned(seen, visible=lambda e: float(e @ WHO[0]) > 0.9)
    assert all(boxes == [] for boxes in plan.frames())
    assert (plan.tracks[0].visible, plan.tracks[0].covered) == (40, 0)
    plan = planned(seen, visible=lambda e: float(e @ WHO[1]) > 0.9)
    assert all(boxes for boxes in plan.frames())
    assert (plan.tracks[0].visible, plan.tracks[0].covered) == (0, 40)


# Whole videos


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """A portrait that moves for two seconds, with sound."""
    path = tmp_path_factory.mktemp("film") / "clip.mp4"
    portrait = cv2.resize(load_photo("examples/astronaut.jpg").pixels[20:210, 130:320], (200, 200))
    plain = path.with_name("plain.mp4")
    with Writer(plain, rate=RATE) as out:
        for i in range(20):
            frame = np.full((240, 320, 3), (40, 90, 60), np.uint8)
            frame[20:220, 10 + 4 * i : 210 + 4 * i] = portrait
            out.add(frame, i / RATE)
    with av.open(str(plain)) as source, av.open(str(path), "w") as out:
        pictures = out.add_stream_from_template(source.streams.video[0])
        sound = out.add_stream("aac", rate=16_000, layout="mono")
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = pictures
                out.mux(packet)
        for i in range(30):
            wave = (np.sin(np.arange(1024) / 9 + i) / 4).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 1024 * i
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return path


def gray_frames(path: Path) -> list[float]:
    """Share of each frame that is filled."""
    with VideoContainer(path) as written:
        return [
            float((np.abs(written.pixels(raw).astype(int) - GRAY).max(2) <= 16).mean())
            for _, raw in written.frames()
        ]


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as film:
        return [bytes(p) for p in film.demux(audio=0) if p.size] if film.streams.audio else []


def test_a_video_is_covered_and_keeps_its_sound(film, tmp_path) -> None:
    passes = []
    report = anonymize_video(
        film, tmp_path / "out.mp4", mien.load(tasks=[], threads=1), how="fill",
        on_frame=lambda a, b, c: passes.append((a, b)),
    )  # fmt: skip
    assert (report.frames, report.covered_frames, len(report.tracks)) == (20, 20, 1)
    assert report.check == [] and report.damage is None and report.warnings == []
    assert passes == [(1, i) for i in range(20)] + [(2, i) for i in range(20)]
    assert min(gray_frames(tmp_path / "out.mp4")) > 0.08
    assert len(packets(film)) > 20 and packets(tmp_path / "out.mp4") == packets(film)
    found = mien.load(tasks=[], threads=1)
    with VideoContainer(tmp_path / "out.mp4") as written:
        assert not any(found(written.pixels(raw)) for _, raw in written.frames())


def test_spans_and_the_command(film, tmp_path) -> None:
    words = ["anonymize", str(film), "-o", str(tmp_path / "o" / "x.mp4"), "--how", "fill", "--threads", "1"]
    words += ["--span", "0.5-0:01", "--mute", "--report", str(tmp_path / "r.json"), "--stride", "2"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "1 face track; faces covered in 6 of 20 frames" in done.output
    gray = gray_frames(tmp_path / "o" / "x.mp4")
    assert [g > 0.08 for g in gray] == [5 <= i <= 10 for i in range(20)]
    assert packets(tmp_path / "o" / "x.mp4") == []
    [report] = json.loads((tmp_path / "r.json").read_text())["videos"]
    assert report["spans"] == [[0.5, 1.0]] and report["tracks"][0]["track"] == 1


def test_an_example_photo_keeps_its_person_visible(film, tmp_path) -> None:
    words = [
        "anonymize",
        str(film),
        "-o",
        str(tmp_path),
        "--visible",
        "examples/astronaut.jpg",
        "--threads",
        "1",
    ]
    done = CliRunner().invoke(app, [*words, "--fmr", "0.01"])
    assert done.exit_code == 0, done.output
    assert "1 left visible" in done.output and "faces covered in 0 of 20 frames" in done.output
    other = [w.replace("astronaut", "grace_hopper") for w in words]
    done = CliRunner().invoke(app, other)
    assert done.exit_code == 0, done.output
    assert "faces covered in 20 of 20 frames" in done.output


def test_a_video_that_cannot_be_opened_is_an_error(film, tmp_path) -> None:
    (tmp_path / "short.mp4").write_bytes(film.read_bytes()[:-400])
    with pytest.raises(mien.PhotoError):  # the index is at its end
        anonymize_video(tmp_path / "short.mp4", tmp_path / "x.mp4", mien.load(tasks=[], threads=1))
    with pytest.raises(NotFound):
        anonymize_video(tmp_path / "none.mp4", tmp_path / "x.mp4", mien.load(tasks=[], threads=1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hold": 0}, "hold must be above 0"),
        ({"score": 0.01}, "score must lie between 0.1 and 1"),
        ({"stride": 0}, "stride must be 1"),
        ({"spans": [(3, 2)]}, "a span needs 0 <= start < end"),
        ({"how": "hide"}, "how is one of"),
        ({"visible": lambda e: True}, "visible needs a reader with identity"),
    ],
)
def test_wrong_arguments(film, tmp_path, change, words) -> None:
    with pytest.raises(UsageError, match=words):
        anonymize_video(film, tmp_path / "x.mp4", mien.load(tasks=[], threads=1), **change)


def test_wrong_places(film, tmp_path) -> None:
    for source, target, words in [
        (film, film, "is the source itself"),
        (film, tmp_path / "x.avi", "written as FILE.mp4"),
        ("-", tmp_path / "x.mp4", "cannot come from stdin"),
    ]:
        with pytest.raises(UsageError, match=words):
            anonymize_video(source, target)
    with pytest.raises(UsageError, match="is one of the videos"):
        video_targets([str(film)], film.parent)
    with pytest.raises(UsageError, match="give a folder"):
        video_targets(["a.mp4", "b.mp4"], tmp_path / "x.mp4")
    assert video_targets(["a/x.mp4", "b/X.mov"], tmp_path)["b/X.mov"] == tmp_path / "X-2.mp4"
    done = CliRunner().invoke(app, ["anonymize", "examples/astronaut.jpg", "-o", str(tmp_path), "--mute"])
    assert "are for videos" in str(done.exception)


def test_span_texts() -> None:
    assert span_of("12.5-20") == (12.5, 20.0)
    assert span_of("1:05-1:02:03") == (65.0, 3723.0)
    assert span_of("-3") == (0.0, 3.0)
    assert span_of("3-") == (3.0, float("inf"))
    for text in ("3", "5-3", "a-b", "1:2:3:4-9", "nan-3"):
        with pytest.raises(UsageError, match="--span takes START-END"):
            span_of(text)


def test_videos_are_separated_from_photos(tmp_path) -> None:
    (tmp_path / "both").mkdir()
    (tmp_path / "films").mkdir()
    for name in ("both/a.jpg", "both/b.MP4", "films/c.mov", "films/.hidden.mp4"):
        (tmp_path / name).write_bytes(b"x")
    both, films = str(tmp_path / "both"), str(tmp_path / "films")
    assert split_videos([both, films, "photo.png", "clip.webm"]) == (
        [both + "/b.MP4", films + "/c.mov", "clip.webm"],
        [both, "photo.png"],
    )
    assert split_videos([str(tmp_path / "*" / "*.MP4")]) == ([both + "/b.MP4"], [])
