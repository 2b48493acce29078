"""Clocks that restart or start late, and the color of written films."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")

from mien.video.container import VideoContainer, Writer  # noqa: E402


def _film(path: Path, ticks: list[int], aspect: Fraction | None = None) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for tick in ticks:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def _times(path: Path) -> tuple[list[float], VideoContainer]:
    with VideoContainer(path) as film:
        return [time for time, _ in film.frames()], film


def test_a_clock_that_starts_again_goes_on(tmp_path: Path) -> None:
    one = _film(tmp_path / "one.ts", list(range(20))).read_bytes()
    (tmp_path / "two.ts").write_bytes(one + one)
    times, _ = _times(tmp_path / "two.ts")
    assert len(times) >= 38
    assert np.diff(times).min() > 0.02 and np.diff(times).max() < 0.2


def test_a_matroska_video_that_starts_late_is_complete(tmp_path: Path) -> None:
    times, film = _times(_film(tmp_path / "late.mkv", list(range(2500, 2530))))
    assert len(times) == 30 and times[0] == pytest.approx(0, abs=0.05)
    assert film.error() is None


@pytest.mark.parametrize("size", [(480, 640), (720, 1280)])
def test_a_written_video_is_tagged_and_converted_as_bt709(tmp_path: Path, size: tuple[int, int]) -> None:
    with Writer(tmp_path / "green.mp4") as writer:
        for i in range(3):
            writer.add(np.broadcast_to(np.array([0, 254, 0], np.uint8), (*size, 3)), i / 25)
    with VideoContainer(tmp_path / "green.mp4") as film:
        frame = next(film.frames())[1]
        assert int(frame.colorspace) == 1
        plain = film._convert.reformat(frame, format="rgb24", src_colorspace="ITU709").to_ndarray()
        assert np.abs(plain.astype(int) - [0, 254, 0]).max() <= 6


@pytest.mark.parametrize(("aspect", "shape"), [(Fraction(3, 2), (48, 96, 3)), (Fraction(3, 4), (64, 64, 3))])
def test_pixels_that_are_not_square_are_read_square(
    tmp_path: Path, aspect: Fraction, shape: tuple[int, ...]
) -> None:
    with VideoContainer(_film(tmp_path / "wide.mp4", [0, 1, 2], aspect)) as film:
        assert film.pixels(next(film.frames())[1]).shape == shape


def _film_with_sound(path: Path, codec: str) -> Path:
    """Twenty frames and as much sound, at 25 frames a second."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = out.add_stream(codec, rate=48_000, layout="mono")
        for i in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            out.mux(stream.encode(frame))
            for k in range(2):
                wave = (np.sin(np.arange(960) / 20) / 4).astype(np.float32)[None]
                part = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
                part.sample_rate, part.pts, part.time_base = 48_000, 960 * (2 * i + k), Fraction(1, 48_000)
                if codec == "mp2":
                    part = av.AudioResampler(format="s16p", layout="mono", rate=48_000).resample(part)[0]
                    part.pts, part.time_base = 960 * (2 * i + k), Fraction(1, 48_000)
                out.mux(sound.encode(part))
        out.mux(stream.encode(None))
        out.mux(sound.encode(None))
    return path


@pytest.mark.parametrize("codec", ["aac", "mp2"])  # copied, and encoded anew
def test_sound_goes_on_after_the_clock_starts_again(tmp_path: Path, codec: str) -> None:
    one = _film_with_sound(tmp_path / "one.ts", codec).read_bytes()
    (tmp_path / "two.ts").write_bytes(one + one)
    with VideoContainer(tmp_path / "two.ts") as film:
        with Writer(tmp_path / "out.mp4", rate=25, sound_of=film) as writer:
            for time, raw in film.frames():
                writer.add(film.pixels(raw), time)
        assert writer.warnings == []
    with av.open(str(tmp_path / "out.mp4")) as written:
        sound = [float(f.pts * f.time_base) for f in written.decode(audio=0)]
    with av.open(str(tmp_path / "out.mp4")) as written:
        pictures = [float(f.pts * f.time_base) for f in written.decode(video=0)]
    assert len(pictures) >= 38 and pictures[-1] == pytest.approx(1.56, abs=0.15)
    assert sound[-1] == pytest.approx(pictures[-1], abs=0.15)  # together to the end
    assert max(np.diff(sound)) < 0.2
