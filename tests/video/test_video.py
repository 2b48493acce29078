"""Films made here, read back: times, turns, sound, damage, and what a user finds on disk."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import mien
from mien.cli import app
from mien.diagnostics.memory import resident
from mien.errors import EmptyFile, NotFound, Truncated, Unreadable, UsageError
from mien.io.image import load_photo
from mien.tasks.identity import Identity
from mien.types import Face
from mien.video import container as film
from mien.video import reader as video
from mien.video.tracker import Tracker

av = pytest.importorskip("av")
RED, BLUE, GRAY = (220, 40, 40), (40, 40, 220), (128, 128, 128)


def scene(*blocks, size=(160, 96), ground=GRAY) -> np.ndarray:
    """(H, W, 3) RGB with squares of 32 px: (colour, left, top)."""
    out = np.full((size[1], size[0], 3), ground, np.uint8)
    for color, x, y in blocks:
        out[max(y, 0) : y + 32, max(x, 0) : x + 32] = color
    return out


def squares(image) -> list[Face]:
    """A reader that takes red and blue squares for faces, and knows them by colour."""
    pixels, found = np.asarray(image).astype(int), []
    for who, (own, other) in enumerate(((0, 2), (2, 0))):
        rows, columns = np.nonzero(pixels[..., own] - pixels[..., other] > 90)
        if len(rows) > 200:
            box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
            points = box[:2] + (box[2:] - box[:2]) * np.array(
                [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
            )
            found.append(
                Face(
                    box,
                    0.9,
                    points.astype(np.float32),
                    {"identity": Identity(np.eye(2, dtype=np.float32)[who])},
                )
            )
    return found


def nobody(image) -> list[Face]:
    return []


def clip(
    path,
    frames,
    *,
    rate=10,
    times=None,
    sound=None,
    sound_rate=16000,
    codec="libx264",
    pix_fmt="yuv420p",
    layout="mono",
    options=None,
) -> str:
    """A film of frames, at `rate` or at `times` in seconds, with a tone as long as the pictures."""
    with av.open(str(path), "w", options=options or {}) as out:
        pictures = out.add_stream(
            codec, rate=rate, options={"preset": "ultrafast", "g": "10"} if codec == "libx264" else {}
        )
        tone = out.add_stream(sound, rate=sound_rate, layout=layout) if sound else None
        for i, pixels in enumerate(frames):
            if i == 0:
                pictures.width, pictures.height, pictures.pix_fmt = pixels.shape[1], pixels.shape[0], pix_fmt
                pictures.codec_context.time_base = Fraction(1, 1000) if times else Fraction(1, rate)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (
                (round(1000 * times[i]), Fraction(1, 1000)) if times else (i, Fraction(1, rate))
            )
            out.mux(pictures.encode(frame))
            if tone:  # frame by frame, so that pictures and sound lie side by side in the file
                at = np.arange(i * sound_rate // rate, (i + 1) * sound_rate // rate)
                wave = (8000 * np.sin(2 * np.pi * 440 * at / sound_rate)).astype(np.int16)
                samples = av.AudioFrame.from_ndarray(
                    wave.repeat(1 + (layout == "stereo"))[None], format="s16", layout=layout
                )
                samples.sample_rate, samples.pts, samples.time_base = (
                    sound_rate,
                    int(at[0]),
                    Fraction(1, sound_rate),
                )
                out.mux(tone.encode(samples))
        for stream in (pictures, tone) if tone else (pictures,):
            out.mux(stream.encode(None))
    return str(path)


def contents(path) -> dict:
    """What is in a film: seconds of each frame, its size, and codec, packets and seconds of sound."""
    found = {"times": [], "packets": 0, "codec": None}
    with av.open(str(path)) as opened:
        if opened.streams.audio:
            sound = opened.streams.audio[0]
            found |= {"codec": sound.codec_context.name, "seconds": float(sound.duration * sound.time_base)}
        for packet in opened.demux():
            if packet.stream.type == "audio":
                found["packets"] += bool(packet.size)
            else:
                for frame in packet.decode():
                    found["times"].append(round(frame.time, 3))
                    found["size"] = (frame.width, frame.height)
    return found


def annotate(source, target, reader=squares, **settings) -> film.Writer:
    reading = video.read_video(source, reader, every=True, **settings)
    with film.Writer(target, rate=reading.container.rate, sound_of=reading.container) as out:
        for frame in reading:
            out.add(frame.drawn(), frame.time)
    return out


def crossing(n=20) -> list[np.ndarray]:
    return [scene((RED, 4 + 6 * i, 4), (BLUE, 124 - 6 * i, 56)) for i in range(n)]


# --- Reading


def test_drawn_frames_show_track_numbers_in_a_style(tmp_path):
    frame = next(iter(video.read_video(clip(tmp_path / "a.mp4", crossing()), squares)))
    corners, box = frame.drawn(), frame.drawn(style="box", overlay="none")
    assert corners.shape == box.shape == frame.pixels.shape
    assert (corners != box).any()
    assert (corners != mien.annotate(frame.pixels, frame.faces)).any()  # which has no numbers


def test_frames_have_numbers_times_and_steady_tracks(tmp_path):
    reading = video.read_video(clip(tmp_path / "a.mp4", crossing()), squares)
    frames = list(reading)
    assert [f.number for f in frames] == list(range(20))
    assert [f.time for f in frames] == pytest.approx([i / 10 for i in range(20)])
    assert all(f.pixels.shape == (96, 160, 3) for f in frames)
    assert [{face.track for face in f.faces} for f in frames] == [{1, 2}] * 20
    for f in frames[1:]:
        red = next(face for face in f.faces if face.track == 1)
        assert red.box[0] == pytest.approx(4 + 6 * f.number, abs=3)
    assert [(t.track, t.first, t.last, t.frames) for t in reading.tracks] == [
        (1, 0.0, 1.9, 20),
        (2, 0.0, 1.9, 20),
    ]


def test_a_stride_reads_fewer_and_predicts_the_rest(tmp_path):
    path = clip(tmp_path / "a.mp4", crossing())
    seen = []
    some = list(video.read_video(path, lambda image: seen.append(1) or squares(image), stride=4))
    assert len(seen) == 5
    assert [f.number for f in some] == [0, 4, 8, 12, 16]
    every = list(video.read_video(path, squares, stride=4, every=True))
    assert [f.read for f in every] == [i % 4 == 0 for i in range(20)]
    between = next(face for face in every[14].faces if face.track == 1)
    assert between.box[0] == pytest.approx(4 + 6 * 14, abs=4)
    assert not between.answers
    assert "identity" in between.so_far


def test_one_that_leaves_and_returns(tmp_path):
    there, away = scene((RED, 20, 20)), scene()
    path = clip(tmp_path / "a.mp4", [there] * 5 + [away] * 20 + [scene((RED, 100, 40))] * 5)
    tracks = video.read_video(path, squares)
    assert [f.faces[0].track for f in tracks if f.faces] == [1] * 10
    (only,) = tracks.tracks
    assert (only.frames, only.first, only.last) == (10, 0.0, 2.9)
    nameless = video.read_video(path, lambda image: [Face(f.box, f.score, f.points) for f in squares(image)])
    assert [f.faces[0].track for f in nameless if f.faces] == [1] * 5 + [2] * 5


def test_a_cut_starts_new_tracks(tmp_path, rng):
    scenes = [
        cv2.resize(rng.integers(40, 215, (6, 10, 1), np.uint8).repeat(3, 2), (160, 96)) for _ in range(2)
    ]
    for ground in scenes:
        ground[20:52, 20:52] = RED
    path = clip(tmp_path / "a.mp4", [scenes[0]] * 5 + [scenes[1]] * 5)
    nameless = lambda image: [Face(f.box, f.score, f.points) for f in squares(image)]  # noqa: E731
    assert [f.faces[0].track for f in video.read_video(path, nameless)] == [1] * 5 + [2] * 5
    between = list(video.read_video(path, nameless, stride=4, every=True))
    assert [len(f.faces) for f in between] == [1] * 5 + [0] * 3 + [
        1
    ] * 2  # after the cut nothing is predicted


def test_a_flash_is_no_cut_and_a_move_neither():
    before = scene((RED, 20, 20))[::3, ::5, 0]
    assert not video.is_cut(before, np.minimum(before.astype(int) + 90, 255).astype(np.uint8))
    assert not video.is_cut(before, scene((RED, 28, 20))[::3, ::5, 0])
    slope = np.tile(np.arange(0, 256, 8, np.uint8), (32, 1))
    assert not video.is_cut(slope, slope // 2 + 100)
    assert video.is_cut(slope, slope[:, ::-1])


def test_max_seconds_stops(tmp_path):
    reading = video.read_video(clip(tmp_path / "a.mp4", crossing()), squares, max_seconds=0.5)
    assert len(list(reading)) == 5
    assert reading.count == 5


def test_a_variable_frame_rate_keeps_its_times(tmp_path):
    times = [0.0, 0.04, 0.2, 0.21, 0.9, 1.0, 2.5, 2.533]
    path = clip(tmp_path / "a.mkv", crossing(8), times=times)
    assert [f.time for f in video.read_video(path, squares)] == pytest.approx(times)
    annotate(path, tmp_path / "b.mp4")
    assert contents(tmp_path / "b.mp4")["times"] == pytest.approx(times, abs=1e-3)


# --- Turned films


def test_all_turns_and_mirrors():
    corner = np.arange(6).reshape(2, 3)
    assert film.turned(corner, (1, 0, 0, 1)).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert film.turned(corner, (0, 1, -1, 0)).tolist() == [[3, 0], [4, 1], [5, 2]]  # a quarter clockwise
    assert film.turned(corner, (-1, 0, 0, -1)).tolist() == [[5, 4, 3], [2, 1, 0]]
    assert film.turned(corner, (0, -1, 1, 0)).tolist() == [[2, 5], [1, 4], [0, 3]]
    assert film.turned(corner, (-1, 0, 0, 1)).tolist() == [[2, 1, 0], [5, 4, 3]]
    assert film.turned(corner, (0, 1, 1, 0)).tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_the_turn_of_a_phone_is_applied_to_pixels_faces_and_the_film(matrix, turns, tmp_path):
    stored = scene((RED, 4, 4), (BLUE, 120, 4))
    path = Path(clip(tmp_path / "a.mp4", [stored] * 3))
    data = bytearray(path.read_bytes())
    at = (
        data.index(b"tkhd") + 44
    )  # version and flags, two clocks, track, nothing, length, 16 more bytes: the matrix
    a, b, c, d = (v * 65536 for v in matrix)
    data[at : at + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 2**30], ">i4").tobytes()
    path.write_bytes(data)
    frames = list(video.read_video(path, squares))
    shown = np.rot90(stored, turns)
    assert frames[0].pixels.shape == shown.shape
    assert np.abs(frames[0].pixels.astype(int) - shown).mean() < 4
    red = next(f for f in frames[0].faces if f.answers["identity"].embedding[0] == 1)
    assert np.allclose(red.box, squares(shown)[0].box, atol=2)
    annotate(path, tmp_path / "b.mp4")
    assert contents(tmp_path / "b.mp4")["size"] == (shown.shape[1], shown.shape[0])


# --- Writing


def test_the_annotated_video_has_the_frames_and_the_very_sound(tmp_path):
    path = clip(tmp_path / "a.mp4", crossing(), sound="aac")
    out = annotate(path, tmp_path / "b.mp4", stride=3)
    before, after = contents(path), contents(tmp_path / "b.mp4")
    assert before["packets"] > 20
    assert after["times"] == before["times"]
    assert (after["packets"], after["codec"]) == (before["packets"], "aac")
    assert after["seconds"] == pytest.approx(before["seconds"], abs=1e-3)
    assert out.warnings == []
    (first, *_) = video.read_video(tmp_path / "b.mp4", nobody)
    assert (
        np.abs(first.pixels[3:6, 40:140].astype(int) - GRAY).mean() < 10
    )  # drawn where the faces are and nowhere else
    box = np.abs(first.pixels[4:36, 4:36].astype(int) - GRAY).max(-1)
    assert (box > 60).sum() > 30, "corners are drawn around the face"


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout"),
    [
        ("a.mkv", "pcm_s16le", 16000, "stereo"),
        ("a.mkv", "libopus", 48000, "mono"),
        ("a.avi", "pcm_mulaw", 8000, "mono"),
        ("a.ts", "mp2", 44100, "stereo"),
    ],
)
def test_sound_that_an_mp4_does_not_take_becomes_aac(name, codec, rate, layout, tmp_path):
    path = clip(tmp_path / name, crossing(), sound=codec, sound_rate=rate, layout=layout)
    out = annotate(path, tmp_path / "b.mp4", nobody)
    after = contents(tmp_path / "b.mp4")
    assert (after["codec"], out.warnings) == ("aac", [])
    assert after["seconds"] == pytest.approx(2.0, abs=0.08)
    assert len(after["times"]) == 20
    with av.open(str(tmp_path / "b.mp4")) as opened:
        wave = np.concatenate([f.to_ndarray()[0] for f in opened.decode(audio=0)])
        rate = opened.streams.audio[0].rate
    tone = np.fft.rfftfreq(rate, 1 / rate)[np.abs(np.fft.rfft(wave[rate // 2 : rate // 2 + rate])).argmax()]
    assert tone == pytest.approx(440, abs=2)


def test_copied_sound_of_a_transport_stream_starts_with_the_film(tmp_path):
    path = clip(tmp_path / "a.ts", crossing(), sound="aac")
    assert next(f.time for f in video.read_video(path, nobody)) < 0.2  # such files start at 1.4 s
    annotate(path, tmp_path / "b.mp4", nobody)
    after = contents(tmp_path / "b.mp4")
    assert after["codec"] == "aac"
    assert after["seconds"] == pytest.approx(2.0, abs=0.2)


def test_odd_sizes_keep_their_coordinates(tmp_path):
    path = clip(tmp_path / "a.mkv", [scene((RED, 40, 40), size=(161, 97))] * 4, pix_fmt="yuv444p")
    assert next(iter(video.read_video(path, squares))).pixels.shape == (97, 161, 3)
    annotate(path, tmp_path / "b.mp4", nobody)
    assert contents(tmp_path / "b.mp4")["size"] == (162, 98)
    (face,) = next(iter(video.read_video(tmp_path / "b.mp4", squares))).faces
    assert face.box[:2] == pytest.approx([40, 40], abs=1)


def test_without_h264_it_is_mpeg4(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    annotate(clip(tmp_path / "a.mp4", crossing(6), rate=30), tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as opened:
        assert opened.streams.video[0].codec_context.name == "mpeg4"
    assert contents(tmp_path / "b.mp4")["times"] == pytest.approx([i / 30 for i in range(6)], abs=1e-3)


def test_a_video_of_no_frames_leaves_no_file(tmp_path):
    film.Writer(tmp_path / "b.mp4").close()
    assert not (tmp_path / "b.mp4").exists()
    with pytest.raises(UsageError, match=r"FILE\.mp4"):
        film.Writer(tmp_path / "b.gif")


def test_memory_stays_flat(tmp_path):
    head = load_photo("examples/astronaut.jpg").pixels[20:260, 100:340]
    small = cv2.resize(head, (72, 72), interpolation=cv2.INTER_AREA)

    def moved(n):
        for i in range(n):
            out = scene()
            x = 10 + i * 3 % 70
            out[12:84, x : x + 72] = small
            yield out

    path = clip(tmp_path / "a.mp4", moved(600), rate=25, sound="aac")
    sizes, reading = [], video.read_video(path, squares, every=True, stride=2)
    with film.Writer(tmp_path / "b.mp4", rate=25, sound_of=reading.container) as out:
        for frame in reading:
            out.add(frame.drawn(), frame.time)
            if frame.number % 100 == 99:
                sizes.append(resident()["now"])
    assert len(sizes) == 6
    assert sizes[-1] - sizes[1] < 10, sizes  # MB; the frames alone would be 26
    assert len(contents(tmp_path / "b.mp4")["times"]) == 600


# --- What goes wrong


def test_what_was_read_of_a_video_that_is_cut_short_is_kept(tmp_path):
    whole = Path(clip(tmp_path / "a.mkv", crossing(), sound="aac")).read_bytes()
    path = tmp_path / "short.mkv"
    path.write_bytes(whole[: int(0.6 * len(whole))])
    frames = list[video.Frame]()
    with pytest.raises(Truncated, match=r"short\.mkv.*what could be read is kept"):
        frames.extend(video.read_video(path, squares))
    assert 3 < len(frames) < 20
    assert frames[3].faces[0].track == 1


def test_damaged_packets_are_reported_and_the_rest_is_read(tmp_path, rng):
    path = Path(clip(tmp_path / "a.mp4", [rng.integers(0, 255, (96, 160, 3), np.uint8) for _ in range(40)]))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(data)
    reading = video.read_video(path, nobody)
    times = []
    with pytest.raises(Truncated, match="damaged"):
        times.extend(f.time for f in reading)
    assert times[0] == 0
    assert times == sorted(times)
    assert times[-1] == pytest.approx(3.9)


def test_a_faststart_video_that_is_cut_short(tmp_path):
    whole = Path(clip(tmp_path / "a.mp4", crossing(), options={"movflags": "+faststart"})).read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole[: int(0.8 * len(whole))])
    frames = list[video.Frame]()
    with pytest.raises(Truncated):
        frames.extend(video.read_video(tmp_path / "a.mp4", nobody))
    assert 0 < len(frames) < 20


def test_what_cannot_be_opened_says_why(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(b"no film at all" * 100)
    with av.open(str(tmp_path / "sound.wav"), "w") as out:
        tone = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        samples.sample_rate = 8000
        out.mux(tone.encode(samples))
        out.mux(tone.encode(None))
    for name, kind, said in (
        ("missing.mp4", NotFound, "there is no file"),
        ("empty.mp4", EmptyFile, "0 bytes"),
        ("", Unreadable, "folder"),
        ("noise.mp4", film.NotAVideo, "not a video"),
        ("sound.wav", film.NotAVideo, "no video stream"),
    ):
        with pytest.raises(kind, match=said):
            film.VideoContainer(tmp_path / name)
    with pytest.raises(UsageError, match="opens no socket"):
        film.VideoContainer("https://example.org/a.mp4")
    with pytest.raises(UsageError, match="stride"):
        video.read_video(clip(tmp_path / "a.mp4", crossing(2)), nobody, stride=0)


def test_a_name_with_a_colon_is_a_name(tmp_path):
    assert len(list(video.read_video(clip(tmp_path / "a.mp4", crossing(3)), nobody))) == 3
    (tmp_path / "a.mp4").rename(tmp_path / "concat:ü 1.mp4")
    os.chdir(tmp_path)
    assert len(list(video.read_video("concat:ü 1.mp4", nobody))) == 3


def test_without_pyav_the_mend_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r"pip install 'mien\[video\]'"):
        film.VideoContainer("a.mp4")


def test_nothing_else_imports_pyav():
    code = "import sys, mien, mien.cli, mien.video.reader, mien.video.tracker; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- The command


@pytest.fixture(scope="module")
def two_women(tmp_path_factory) -> str:
    """Two heads that pass each other, 320 x 180, 12 frames with sound."""
    path = tmp_path_factory.mktemp("film") / "two.mp4"
    return clip(path, heads(12), sound="aac")


def heads(n: int):
    one = cv2.resize(
        load_photo("examples/astronaut.jpg").pixels[20:270, 100:350], (100, 100), interpolation=cv2.INTER_AREA
    )
    two = cv2.resize(
        load_photo("examples/grace_hopper.jpg").pixels[:400, 80:440], (72, 80), interpolation=cv2.INTER_AREA
    )
    for i in range(n):
        out = np.full((180, 320, 3), (90, 110, 130), np.uint8)
        x, y = 10 + 4 * i % 200, 240 - 5 * i % 200
        out[2:102, x : x + 100] = one
        out[100:180, y : y + 72] = two
        yield out


def test_the_command_writes_rows_tracks_crops_and_a_film(two_women, tmp_path):
    out, tracks, film = tmp_path / "deep" / "rows.parquet", tmp_path / "tracks.csv", tmp_path / "drawn.mp4"
    words = [
        "--out",
        out,
        "--tracks",
        tracks,
        "--draw",
        film,
        "--crops",
        tmp_path / "crops",
        "--stride",
        "3",
        "--score",
        "0.7",
        "--threads",
        "1",
    ]
    done = CliRunner().invoke(app, ["video", two_women, *map(str, words)])
    assert done.exit_code == 0, done.output
    assert "12 frames, 2 tracks" in done.output
    rows = pq.read_table(out)
    assert rows["frame"].to_pylist() == [0, 0, 3, 3, 6, 6, 9, 9]
    assert rows["time"].to_pylist()[-1] == pytest.approx(0.9)
    places = {t: [r["y1"] for r in rows.to_pylist() if r["track"] == t] for t in (1, 2)}
    assert all(max(y) - min(y) < 5 for y in places.values())  # each stays in its row
    assert abs(places[1][0] - places[2][0]) > 50
    assert {
        "x1",
        "y2",
        "score",
        "age",
        "age_low",
        "gender",
        "attributes_Smiling",
        "parsing_hat",
        "pose_yaw",
    } <= set(rows.column_names)
    with tracks.open(encoding="utf-8", newline="") as file:
        about = list(csv.DictReader(file))
    assert [(t["track"], t["frames"], t["first"], t["last"]) for t in about] == [
        ("1", "4", "0.0", "0.9"),
        ("2", "4", "0.0", "0.9"),
    ]
    seen = {t: {r["gender"] for r in rows.to_pylist() if r["track"] == t} for t in (1, 2)}
    assert all(t["gender"] in seen[int(t["track"])] for t in about)
    assert {t["expression"] for t in about} >= {"happiness"}
    assert not {"x1", "pose_yaw", "landmarks_0_x"} & set(about[0])
    assert {p.name for p in (tmp_path / "crops").iterdir()} == {"1.jpg", "2.jpg"}
    again = CliRunner().invoke(app, ["video", two_women, "--crops", str(tmp_path / "crops")])
    assert "of an earlier run" in str(again.exception)  # its tracks are other people
    before, after = contents(two_women), contents(film)
    assert after["times"] == before["times"]
    assert after["packets"] == before["packets"]


def test_a_woman_who_returns_is_known_by_her_embedding_and_another_is_not_taken_for_her(tmp_path):
    named = mien.load(threads=1, tasks=["identity"])
    small = [
        cv2.resize(
            load_photo(f"examples/{name}.jpg").pixels[y : y + 250, x : x + 250],
            (side, side),
            interpolation=cv2.INTER_AREA,
        )
        for name, x, y, side in (
            ("astronaut", 100, 20, 84),
            ("grace_hopper", 130, 90, 84),
            ("astronaut", 100, 20, 72),
        )
    ]
    frames = [scene(size=(240, 96)) for _ in range(16)]
    for i, (head, x) in {1: (0, 4), 2: (0, 6), 7: (1, 8), 8: (1, 10), 13: (2, 150), 14: (2, 148)}.items():
        side = len(small[head])
        frames[i][4 : 4 + side, x : x + side] = small[head]
    reading = video.read_video(clip(tmp_path / "a.mp4", frames), named, tracker=Tracker(gap=0.2))
    assert {f.number: [face.track for face in f.faces] for f in reading if f.faces} == {
        1: [1],
        2: [1],
        7: [2],
        8: [2],
        13: [1],
        14: [1],
    }


def test_rows_are_json_lines_and_csv(two_women, tmp_path):
    for name in ("rows.jsonl", "rows.csv"):
        words = [
            "video",
            two_women,
            "--out",
            str(tmp_path / name),
            "--tasks",
            "age",
            "--stride",
            "6",
            "--score",
            "0.7",
            "--threads",
            "1",
        ]
        assert CliRunner().invoke(app, words).exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [list(r) for r in rows] == [["frame", "time", "track", "box", "score", "points5", "age"]] * 4
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(float(r["x1"]), float(r["age"])) for r in table] == [
        (r["box"][0], r["age"]["years"]) for r in rows
    ]
    assert [float(table[0]["points5_0_x"]), float(table[0]["points5_4_y"])] == [
        rows[0]["points5"][0][0],
        rows[0]["points5"][4][1],
    ]


def test_a_video_without_faces_still_gives_a_table(tmp_path):
    path = clip(tmp_path / "a.mp4", [scene()] * 3)
    for name in ("rows.parquet", "rows.csv"):
        assert (
            CliRunner()
            .invoke(app, ["video", path, "--out", str(tmp_path / name), "--tasks", "age", "--threads", "1"])
            .exit_code
            == 0
        )
    table = pq.read_table(tmp_path / "rows.parquet")
    assert (table.num_rows, table.column_names[:4], table.column_names[-1]) == (
        0,
        ["frame", "time", "track", "x1"],
        "age_at_least_25",
    )
    assert (tmp_path / "rows.csv").read_text().startswith("frame,time,track,x1,")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "rows.xml"], "FILE.parquet"),
        (["--draw", "film.gif"], "FILE.mp4"),
        (["--tasks", "agee"], "agee"),
        (["--stride", "0"], "stride"),
        (["--out", "x.csv", "--tracks", "x.csv"], "overwrite"),
    ],
)
def test_wrong_usage(words, said, two_women, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["video", two_women, *words])
    assert done.exit_code != 0
    assert said in done.output + str(done.exception)
    assert not list(tmp_path.iterdir())


def test_the_video_itself_is_not_overwritten(two_women):
    size = os.path.getsize(two_women)
    done = CliRunner().invoke(app, ["video", two_women, "--draw", two_women])
    assert "overwrite" in str(done.exception)
    assert os.path.getsize(two_women) == size


def test_a_damaged_video_from_a_pipe_is_exit_code_one_with_what_was_read(tmp_path):
    whole = Path(clip(tmp_path / "a.mkv", heads(20))).read_bytes()
    run = [sys.executable, "-m", "mien", "video", "-", "--tasks", "age", "--stride", "4", "--threads", "1"]
    done = subprocess.run(run, input=whole[: len(whole) // 2], capture_output=True, check=False)
    assert done.returncode == 1, done.stderr
    assert b"what could be read is kept" in done.stderr
    assert b"Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) >= 2
    missing = CliRunner().invoke(app, ["video", "missing.mp4"])
    assert missing.exit_code == 1


def test_ctrl_c_leaves_complete_files(tmp_path):
    path, film, rows = (
        clip(tmp_path / "a.mp4", heads(300), sound="aac"),
        tmp_path / "b.mp4",
        tmp_path / "rows.jsonl",
    )
    run = [
        sys.executable,
        "-m",
        "mien",
        "video",
        path,
        "--tasks",
        "age",
        "--out",
        rows,
        "--draw",
        film,
        "--threads",
        "1",
    ]
    process = subprocess.Popen(
        [str(w) for w in run], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 20
    while time.monotonic() < until and not (rows.exists() and rows.read_text().count("\n") > 8):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert "the files are finished" in errors
    assert "Traceback" not in errors
    last = json.loads(rows.read_text().splitlines()[-1])["frame"]
    found = contents(film)
    assert len(found["times"]) == last + 1 < 300
    assert found["codec"] == "aac"


def test_a_tracker_of_ones_own_is_used(tmp_path):
    path = clip(tmp_path / "a.mp4", crossing(4))
    tracker = Tracker(smooth=False)
    list(video.read_video(path, squares, tracker=tracker))
    assert [t.frames for t in tracker.summaries()] == [4, 4]
