"""Videos: decode -> read every n-th frame -> track -> rows and an annotated video. Needs PyAV (`pip install
'mien[video]'`).

    for frame in mien.read_video("clip.mp4", reader, stride=5):
        for face in frame.faces:
            print(frame.time, face.track, face["age"].years)

Everything is a stream: a frame is dropped when the next one is requested, so an hour costs the memory of a
minute.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from mien.errors import UsageError
from mien.types import Face, Pixels
from mien.video.container import VideoContainer
from mien.video.tracker import Summary, Tracked, Tracker
from mien.visualize import drawing


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One frame and its faces.

    Attributes:
        number: from 0, counting every frame that could be decoded.
        time: seconds from the start of the video.
        pixels: (H, W, 3) uint8 RGB, upright.
        faces: largest first.
        read: False for a frame between two strides: its faces are predictions to draw, without answers of
            their own.
    """

    number: int
    time: float
    pixels: Pixels = field(repr=False)
    faces: list[Tracked]
    read: bool = True

    def drawn(self, *, style: str = "corners", overlay: str = "landmarks") -> Pixels:
        """A copy of the pixels with faces, mean answers so far and track numbers drawn in.

        Args:
            style: see `mien.annotate`.
            overlay: see `mien.annotate`.
        """
        shown = [Face(f.box, f.score, f.points, {**f.answers, **f.so_far}) for f in self.faces]
        numbers = [f"#{face.track}" for face in self.faces]
        return drawing.annotate(self.pixels, shown, style=style, overlay=overlay, names=numbers)


def is_cut(before: Pixels, now: Pixels) -> bool:
    """Whether two gray thumbnails are of different scenes: much changed, and the pattern too (a flash changes
    no pattern).
    """
    a, b = before.astype(np.float64).ravel(), now.astype(np.float64).ravel()
    changed = float(np.abs(a - b).mean()) / 255
    a, b = a - a.mean(), b - b.mean()
    similarity = float(a @ b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-9)
    return changed > 0.06 and similarity < 0.5


# Reading


@dataclass(slots=True)
class Reading:
    """An iterable of frames, to be walked once. See `read`.

    Attributes:
        container: the video that is read.
        reader, stride, every, max_seconds: see `read`.
        tracker: what gives the tracks.
        count: frames decoded so far.
    """

    container: VideoContainer
    reader: Callable[[Any], Sequence[Face]]
    tracker: Tracker = field(default_factory=Tracker)
    stride: int = 1
    every: bool = False
    max_seconds: float | None = None
    count: int = 0

    @property
    def tracks(self) -> list[Summary]:
        """Every track so far, by number; whole when all frames were taken."""
        return self.tracker.summaries()

    def __iter__(self) -> Iterator[Frame]:
        """Raises Truncated after the last frame that could be read, where the video is damaged."""
        before, cut = None, False
        with self.container:
            for number, (time, raw) in enumerate(self.container.frames()):
                if self.max_seconds is not None and time >= self.max_seconds:
                    break
                self.count += 1
                thumbnail = self.container.thumbnail(raw)
                cut, before = cut or (before is not None and is_cut(before, thumbnail)), thumbnail
                if number % self.stride == 0:
                    pixels = self.container.pixels(raw)
                    found = self.reader(
                        Image.fromarray(pixels)
                    )  # an Image is RGB for sure; arrays are looked at for BGR
                    yield Frame(number, time, pixels, self.tracker.update(found, number, time, cut=cut))
                    cut = False
                elif self.every:
                    yield Frame(
                        number,
                        time,
                        self.container.pixels(raw),
                        [] if cut else self.tracker.expect(time),
                        read=False,
                    )
        error = self.container.error()
        if error is not None:
            raise error


def read_video(
    source: str | os.PathLike[str],
    reader: Callable[[Any], Sequence[Face]],
    *,
    stride: int = 1,
    every: bool = False,
    max_seconds: float | None = None,
    tracker: Tracker | None = None,
) -> Reading:
    """Faces of a video, frame by frame: `for frame in mien.read_video(path, mien.load()): ...`, then
    `.tracks`.

    Args:
        source: see `VideoContainer`.
        reader: of `mien.load()`, or any callable from a Pillow image to faces.
        stride: every n-th frame is read.
        every: the frames between come too, with predicted boxes and `read` False.
        max_seconds: where to stop.
        tracker: with other settings than `Tracker()`.

    Raises:
        Truncated: after all frames that could be read, where the video is damaged. And what `VideoContainer`
            raises, at once.
    """
    if stride < 1:
        raise UsageError(f"stride must be 1 frame or more, not {stride}")
    return Reading(VideoContainer(source), reader, tracker or Tracker(), stride, every, max_seconds)


# Writing
