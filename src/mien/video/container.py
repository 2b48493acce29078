"""Video files and cameras: packets in, upright pixels and times out, and an annotated video with its sound
written back.

Needs PyAV (`pip install 'mien[video]'`), which is imported when a video is opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mien.errors import EmptyFile, NotFound, PhotoError, Truncated, Unreadable, UsageError
from mien.io.paths import drop_link
from mien.types import Pixels

RESTART = 0.3  # seconds; a frame's time that falls back further is a clock that starts again
BT709 = 1  # in the numbering of ITU-T H.273, for primaries, transfer and matrix alike
# ticks per second of annotated videos: all usual rates are whole numbers, and MPEG-4 Part 2 allows at most
# 65,535
TICKS = 60_000
CAMERAS = ("v4l2", "avfoundation", "dshow")
RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
AS_IT_IS = frozenset(
    ("aac", "mp3", "ac3", "eac3", "alac")
)  # sound that players expect in an MP4; other sound becomes AAC


class NotAVideo(PhotoError):
    """The file holds no moving pictures that FFmpeg knows."""

    code = "not_a_video"


def library() -> Any:
    """PyAV.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UsageError(f"video needs PyAV ({error}); install it with: pip install 'mien[video]'") from error
    return av


class DamageReport:
    """How often something went wrong, and what the first time."""

    def __init__(self) -> None:
        self.first, self.count = "", 0

    def note(self, what: str) -> None:
        """Once more."""
        self.first, self.count = self.first or what, self.count + 1

    def __str__(self) -> str:
        return self.first + (f", and {self.count - 1} more" if self.count > 1 else "")


# Decoding


class _Clock:
    """The times of packets, where the clock of a file may start again, as in joined transport streams.

    All streams share the shifts, so that pictures and sound stay together after a restart.

    Attributes:
        shifts: seconds to add to the times before the first restart, after it, after the second one, etc.
    """

    def __init__(self, start: Fraction, rate: Fraction):
        self.shifts, self._start, self._rate = [0.0], start, rate
        self._last: dict[int, float] = {}  # stream -> its last decoding time
        self._restarts: dict[int, int] = {}
        self._end = 0.0

    def shift(self, packet: Any) -> float:
        """Seconds to add to the times of this packet, which is the next of its stream."""
        stream = packet.stream.index
        count = self._restarts.setdefault(stream, 0)
        if packet.dts is None and packet.pts is None:
            return self.shifts[count]
        order, shown = (
            float((first if second is None else second) * packet.time_base - self._start)
            for first, second in ((packet.pts, packet.dts), (packet.dts, packet.pts))
        )
        if order < self._last.get(stream, order) - RESTART:
            count += 1
            self._restarts[stream] = count
            if count == len(self.shifts):
                self.shifts.append(self._end - shown)
        self._last[stream] = order
        length = float((packet.duration or 0) * packet.time_base)
        if not length and packet.stream.type == "video":
            length = 1 / float(self._rate)
        self._end = max(self._end, shown + length + self.shifts[count])
        return self.shifts[count]


class VideoContainer:
    """An open video: its frames, upright, with their times; what was damaged on the way. A context manager.

    Args:
        source: a file; "-" for what is piped into stdin; a camera: /dev/video0, or "avfoundation:0",
            "dshow:video=NAME".

    Attributes:
        duration: seconds by the header, or None.
        rate: mean frames per second by the header.
        damage: what went wrong so far.

    Raises:
        NotFound, Unreadable, EmptyFile, NotAVideo: see there. UsageError: PyAV is not installed, or the
            source is a URL.
    """

    def __init__(self, source: str | os.PathLike[str]):
        self.name, self.damage = os.fspath(source), DamageReport()
        # given every packet of sound as it comes, and the seconds to add to its times
        self.sound: Callable[[Any, float], None] | None = None
        self._av = library()
        self.container = _opened(self._av, self.name)
        if not self.container.streams.video:
            self.container.close()
            raise NotAVideo(f"{self.name!r} has no video stream; give a video file")
        self.stream = self.container.streams.best("video")
        live = self.container.duration is None or self.container.duration <= 0
        self.duration = None if live else self.container.duration / self._av.time_base
        self.start = Fraction(self.container.start_time or 0, self._av.time_base)
        if (
            self.duration is not None
            and "matroska" in self.container.format.name
            and 0 < self.start < self.duration
        ):
            self.duration -= float(self.start)  # Matroska's duration is the time of its end
        self.rate = Fraction(self.stream.average_rate or self.stream.guessed_rate or 25)
        if not 1 <= self.rate <= 1000:
            self.rate = Fraction(25)
        self._end, self._convert = 0.0, self._av.video.reformatter.VideoReformatter()

    def __enter__(self) -> VideoContainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def frames(self) -> Iterator[tuple[float, Any]]:
        """(seconds, PyAV frame) in order of presentation; damaged packets are noted in `damage`, skipped."""
        last, shift, restarts = -1 / float(self.rate), 0.0, 0
        clock = _Clock(self.start, self.rate)
        for frame in self._decoded(clock):
            if frame.is_corrupt:
                self.damage.note(f"a frame near {max(last, 0):.2f} s is damaged")
            time = last + 1 / float(self.rate)
            if frame.pts is not None and frame.time_base:
                time = float(frame.pts * frame.time_base - self.start) + shift
                if time < last - RESTART:  # the clock starts again: go on from here
                    again, restarts = last + 1 / float(self.rate), restarts + 1
                    known = clock.shifts[restarts] if restarts < len(clock.shifts) else shift + again - time
                    shift, time = known, time - shift + known
            last = time if time > last else last + 1e-3  # clocks of broken files run backwards
            yield last, frame
        # a header may round, and leave the last frame out
        slack = max(0.25, 1.5 / float(self.rate)) + min(0.02 * (self.duration or 0.0), 5.0)
        if self.duration is not None and not self.damage.count and self._end < self.duration - slack:
            self.damage.note(f"it ends at {self._end:.2f} s of {self.duration:.2f} s")

    def _decoded(self, clock: _Clock) -> Iterator[Any]:
        for packet in self._packets():
            shift = clock.shift(packet) if packet and packet.size else 0.0
            if packet and packet.pts is not None:
                self._end = max(
                    self._end, float((packet.pts + (packet.duration or 0)) * packet.time_base - self.start)
                )
            if packet and packet.stream.index != self.stream.index:
                if packet.stream.type == "audio" and self.sound and packet.size:
                    self.sound(packet, shift)
                continue
            try:
                yield from packet.decode() if packet else self.stream.codec_context.decode(None)
            except self._av.FFmpegError as error:
                self.damage.note(f"near {self._end:.2f} s: {error.strerror}")

    def _packets(self) -> Iterator[Any]:
        """Packets as they lie in the file; where it cannot be read on, a last None, so that the decoder is
        emptied.
        """
        try:
            yield from self.container.demux()
        except self._av.FFmpegError as error:
            self.damage.note(f"after {self._end:.2f} s it cannot be read on ({error.strerror})")
            yield None

    def pixels(self, frame: Any) -> Pixels:
        """A PyAV frame -> (H, W, 3) uint8 RGB, upright, with square pixels: the shorter side of other pixels
        is stretched.
        """
        aspect = self.stream.sample_aspect_ratio or Fraction(1)  # a stored pixel's width by its height
        if not Fraction(1, 4) <= aspect <= 4:
            aspect = Fraction(1)
        width, height = round(frame.width * max(aspect, 1)), round(frame.height / min(aspect, 1))
        plain = self._convert.reformat(frame, width=width, height=height, format="rgb24").to_ndarray()
        return np.ascontiguousarray(turned(plain, _matrix(frame)))

    def thumbnail(self, frame: Any) -> Pixels:
        """32 x 32 gray, for `is_cut`."""
        return self._convert.reformat(
            frame, width=32, height=32, format="gray8", interpolation="AREA"
        ).to_ndarray()

    def error(self) -> Truncated | None:
        """All damage as one error, or None."""
        if not self.damage.count:
            return None
        return Truncated(
            f"{self.name!r} is damaged or ends too early: {self.damage}; what could be read is kept"
        )


def _opened(av: Any, name: str) -> Any:
    """A PyAV container for reading."""
    kind, colon, device = name.partition(":")
    try:
        if name == "-":
            return av.open("pipe:0", options={"protocol_whitelist": "pipe,crypto,data"})
        if colon and kind in CAMERAS:
            return av.open(device, format=kind)
        if "://" in name and not os.path.exists(name):
            raise UsageError(
                f"{name!r} is a URL, and mien opens no socket; pipe it: ffmpeg -i URL -c copy -f matroska - |"
                " mien video -"
            )
        mode = os.stat(name).st_mode
        if stat.S_ISDIR(mode):
            raise Unreadable(f"{name!r} is a folder, not a video file")
        if stat.S_ISCHR(mode):
            return av.open(name, format=CAMERAS[0])
        if stat.S_ISREG(mode) and not os.path.getsize(name):
            raise EmptyFile(f"{name!r} is empty (0 bytes); save or download it again")
        # "file:" prevents that a colon in a name is read as a protocol; a playlist must not name a site
        return av.open(f"file:{name}", options={"protocol_whitelist": "file,crypto,data"})
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {name!r}; check the path") from error
    except PermissionError as error:
        raise Unreadable(f"{name!r} may not be read; change its permissions") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        hint = (
            "; a camera needs a PyAV with its format, and nobody else using it"
            if name.startswith("/dev/") or colon
            else ""
        )
        why = getattr(error, "strerror", None) or error  # without FFmpeg's number
        raise NotAVideo(
            f"{name!r} cannot be opened by FFmpeg ({why}); it may be incomplete, or not a video{hint}"
        ) from error


def _matrix(frame: Any) -> tuple[int, int, int, int]:
    """The display matrix's a, b, c, d as signs: (x, y) of the stored picture is shown at (a x + c y, b x + d
    y).
    """
    for side in frame.side_data:
        if side.type.name == "DISPLAYMATRIX":
            m = np.frombuffer(bytes(side), np.int32)
            a, b, c, d = (int(np.sign(v)) if abs(v) >= 2**15 else 0 for v in m[[0, 1, 3, 4]])
            if abs(a * d - b * c) == 1:  # a turn by quarters; phones write no others
                return a, b, c, d
    return 1, 0, 0, 1


def turned(pixels: Pixels, matrix: tuple[int, int, int, int]) -> Pixels:
    """Pixels as a display matrix of quarter turns and mirrors, see `_matrix`, wants them shown."""
    a, b, c, d = matrix
    if not a:  # x is shown along y
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1]


class Writer:
    """An MP4 of frames at their times: H.264 where PyAV has it, else MPEG-4 Part 2. A context manager;
    closing finishes the file.

    Args:
        path: FILE.mp4.
        rate: frames per second, for players and the encoder; the frames' own times are kept.
        sound_of: a video whose sound is kept: packets copied, or made AAC where an MP4 does not take them.

    Attributes:
        warnings: what was lost, such as sound that could not be decoded.

    Raises:
        UsageError: the path is not an .mp4. OSError: it cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        rate: Fraction | float = 25,
        sound_of: VideoContainer | None = None,
    ):
        self._av, self.warnings = library(), list[str]()
        if Path(path).suffix.lower() != ".mp4":
            raise UsageError(f"an annotated video is written as FILE.mp4, not {os.fspath(path)!r}")
        self._path = Path(path)
        drop_link(self._path)
        self.container = self._av.open(f"file:{self._path}", "w", format="mp4")
        self._rate, self._sound_source, self._last = Fraction(rate).limit_denominator(TICKS), sound_of, -1
        self._video: Any = None
        self._convert = self._av.video.reformatter.VideoReformatter()
        self._sounds: dict[int, _Sound] = {}
        self._early: list[tuple[Any, float]] = []  # sound that comes before the size of the pictures is known
        if sound_of is not None:
            sound_of.sound = self._hear

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, pixels: Pixels, time: float) -> None:
        """One frame, (H, W, 3) uint8 RGB of the same size each time, shown at `time` seconds, later than the
        one before.

        An odd side is continued by one row or column, since half-size color needs even ones: coordinates
        stay.
        """
        height, width = pixels.shape[:2]
        if height % 2 or width % 2:
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._video is None:
            self._start(pixels.shape[1], pixels.shape[0])
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = self._convert.reformat(
            frame, format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
        )
        self._last = max(round(time * TICKS), self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
        self.container.mux(self._video.encode(frame))

    def _start(self, width: int, height: int) -> None:
        codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
        options = (
            {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {"qscale": "3", "flags": "+qscale"}
        )
        self._video = self.container.add_stream(codec, rate=self._rate, options=options)
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        context = self._video.codec_context
        context.time_base = Fraction(1, TICKS)
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = 1  # limited, as players expect
        for stream in self._sound_source.container.streams.audio if self._sound_source is not None else ():
            self._sounds[stream.index] = _Sound(
                self._av,
                self.container,
                stream,
                self._sound_source.start if self._sound_source else Fraction(0),
            )
        for packet, shift in self._early:
            self._hear(packet, shift)
        self._early = []

    def _hear(self, packet: Any, shift: float) -> None:
        """A packet of the video's sound, and the seconds to add to its times."""
        if self._video is None:
            self._early.append((packet, shift))
            return
        sound = self._sounds[packet.stream.index]
        try:
            self.container.mux(sound.copied(packet, shift) if sound.copies else sound.encoded(packet, shift))
        except self._av.FFmpegError as error:
            sound.lost.note(error.strerror)

    def close(self) -> None:
        """Finish the file; a video without frames leaves no file. A second call does nothing."""
        if self._sound_source is not None:
            self._sound_source.sound = None
        container, self.container = self.container, None
        if container is None:
            return
        try:
            if self._video is not None:
                container.mux(self._video.encode(None))
            for sound in self._sounds.values():
                container.mux(sound.rest())
                if sound.lost.count:
                    self.warnings.append(f"packets of sound are lost: {sound.lost}")
        finally:
            container.close()
            if self._video is None:
                self._path.unlink(missing_ok=True)


class _Sound:
    """One stream of sound on its way into an MP4: packets copied, or encoded as AAC (mono or stereo)."""

    def __init__(self, av: Any, container: Any, stream: Any, start: Fraction):
        self.start, self.lost = start, DamageReport()
        self._dts: int | None = None
        self._samples: int | None = None
        self._shift = 0.0
        self._rate, self.copies = (
            stream.rate or 48_000,
            stream.codec_context.name.removesuffix("float") in AS_IT_IS,
        )
        if self.copies:
            self.out = container.add_stream_from_template(stream)
            return
        layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        self.out = container.add_stream(
            "aac", rate=self._rate if self._rate in RATES else 48_000, layout=layout
        )
        self._resample = av.AudioResampler(format="fltp", layout=layout, rate=self.out.rate)

    def copied(self, packet: Any, shift: float) -> list[Any]:
        """The packet, to be written where it was, `shift` seconds later."""
        dts = packet.pts if packet.dts is None else packet.dts
        if dts is None:
            self.lost.note("its clock is missing")
            return []
        back = round((float(self.start) - shift) / packet.time_base)
        dts -= back
        if self._dts is not None and dts <= self._dts:
            # after a restart of the clock the sound may begin before the pictures: that much overlaps
            if not shift or float((self._dts - dts) * packet.time_base) > RESTART:
                self.lost.note("its clock runs backwards")
            return []
        self._dts = dts
        packet.pts = dts if packet.pts is None else packet.pts - back
        packet.dts = dts
        packet.stream = self.out
        return [packet]

    def encoded(self, packet: Any, shift: float) -> list[Any]:
        """The packet as packets of AAC, of the same time, `shift` seconds later."""
        if (
            self._samples is None or shift != self._shift
        ):  # where it starts; from there on samples are counted
            at = (
                round((float(packet.pts * packet.time_base - self.start) + shift) * self.out.rate)
                if packet.pts is not None
                else 0
            )
            self._samples, self._shift = max(at, self._samples or at), shift
        return [
            p
            for frame in packet.decode()
            for part in self._resample.resample(frame)
            for p in self._encode(part)
        ]

    def _encode(self, part: Any) -> list[Any]:
        part.pts, part.time_base = self._samples, Fraction(1, self.out.rate)
        self._samples = (self._samples or 0) + part.samples
        return list(self.out.encode(part))

    def rest(self) -> list[Any]:
        """What the encoder still holds."""
        if self.copies:
            return []
        tail = (
            [p for part in self._resample.resample(None) for p in self._encode(part)]
            if self._samples is not None
            else []
        )
        return tail + list(self.out.encode(None))
