"""Pictures -> one aligned face each and the features of the frozen network, computed once and kept.

A face is read in several copies: as it is, mirrored, and both turned, scaled, shifted and lit a little
differently. What was computed stays in the cache folder, by the bytes of the file: a stopped run goes on
where it was, and a second task on the same pictures starts at once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from mien import geometry
from mien.errors import PhotoError
from mien.inference.reader import Reader
from mien.io.image import load_photo
from mien.training.finetune.graph import FeatureNetwork
from mien.training.finetune.table import Row
from mien.types import Array, Crop, Detection, Floats, Pixels, View

RECIPE = 1  # of what is kept; another number forgets what older versions kept
COPIES = 4
SHARD = 64  # faces in a file of the cache
RIVAL = 0.5  # a second face with so much of the largest one's area makes a picture ambiguous
TILT, ZOOM, SHIFT = 12.0, 0.08, 0.05  # degrees, share, and share of the crop: limits of a copy's change
PADDING = 0.35  # of a picture's side, around pictures that are nothing but a face
_BITS = 16  # rows and columns of the hash that finds near duplicates


@dataclass(eq=False)
class Kept:
    """What is kept of one picture.

    Attributes:
        status: "ok", "unreadable", "no_face" or "several".
        note: why a picture is unreadable.
        points: (5, 2) of the face, pixels of the photo.
        box: (4,) of the face.
        score: of its detection.
        pixels: sha256 of the picture's pixels.
        bits: (2, 256) of the aligned face and of its mirror image: which of two neighbors is brighter.
        thumb: (2, 16, 16) uint8: these faces in gray.
        features: (copies, d).
    """

    status: str
    note: str = ""
    points: Array = field(default_factory=lambda: np.zeros((5, 2)))
    box: Array = field(default_factory=lambda: np.zeros(4))
    score: float = 0.0
    pixels: str = ""
    bits: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros((2, _BITS * _BITS), bool))
    thumb: Pixels = field(default_factory=lambda: np.zeros((2, 16, 16), np.uint8))
    features: npt.NDArray[np.float16] | None = None


_SMALL = ("status", "note", "points", "box", "score", "pixels", "bits", "thumb")


class Store:
    """Kept pictures by key, in files of up to `SHARD` in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.known: dict[str, Kept] = {}
        self.places: dict[str, tuple[Path, int]] = {}
        self.waiting: dict[str, Kept] = {}
        for path in sorted(folder.glob("*.npz")):
            self._index(path)

    def _index(self, path: Path) -> None:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as shard:
                keys, small = shard["keys"].tolist(), {n: shard[n] for n in _SMALL}
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            path.unlink()  # damaged, or half written by a run that was killed: its pictures are read again
            return
        row = 0  # of the arrays that only good pictures have
        for i, key in enumerate(keys):
            facts = {n: small[n][i] for n in _SMALL}
            facts |= {n: str(facts[n]) for n in ("status", "note", "pixels")} | {
                "score": float(facts["score"])
            }
            self.known[key] = Kept(**facts)
            if self.known[key].status == "ok":
                self.places[key] = path, row
                row += 1

    def add(self, key: str, kept: Kept) -> None:
        """One picture; it is in a file when the shard is full, or after `flush`."""
        self.known[key] = self.waiting[key] = kept
        if len(self.waiting) >= SHARD:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self.waiting:
            return
        keys, kept = list(self.waiting), list(self.waiting.values())
        good = [k for k in kept if k.status == "ok"]
        arrays: dict[str, Any] = {n: np.array([getattr(k, n) for k in kept]) for n in _SMALL}
        arrays["features"] = np.array([k.features for k in good])
        path = self.folder / f"{hashlib.sha256(''.join(keys).encode()).hexdigest()[:24]}.npz"
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, keys=np.array(keys), **arrays)
        os.replace(part, path)
        for row, key in enumerate(k for k in keys if self.waiting[k].status == "ok"):
            self.places[key] = path, row
            of = self.known[key]
            of.features = None
        self.waiting = {}

    def gather(self, keys: Sequence[str]) -> npt.NDArray[np.float16]:
        """The features of these pictures, (n, copies, d)."""
        by_file: dict[Path, list[tuple[int, int]]] = {}
        for i, key in enumerate(keys):
            path, row = self.places[key]
            by_file.setdefault(path, []).append((i, row))
        out: npt.NDArray[np.float16] | None = None
        for path, pairs in by_file.items():
            with np.load(path, allow_pickle=False) as shard:
                found = shard["features"]
            if out is None:
                out = np.empty((len(keys), *found.shape[1:]), np.float16)
            out[[i for i, _ in pairs]] = found[[row for _, row in pairs]]
        assert out is not None
        return out


@dataclass(eq=False)
class Faces:
    """Labeled pictures with one face each.

    Attributes:
        rows: their labels.
        kept: what is known of each.
        features: (n, copies, d) float16.
        problems: what was left out, each with its fix.
        counts: status -> pictures.
    """

    rows: list[Row]
    kept: list[Kept]
    features: npt.NDArray[np.float16]
    problems: list[str]
    counts: dict[str, int]


class FaceReader:
    """Finds the face of each picture and reads its features.

    Args:
        reader: finds and aligns faces: the pipeline of `mien.load`, without tasks.
        network: pictures -> tensors; None keeps no features.
        how: of each tensor: "vector" or "mean", see `Graph.append_vector_head`.
        stamp: identifies network, detector and tensors; other stamps share nothing in the cache.
        cache: folder of the cache.
    """

    def __init__(
        self,
        reader: Reader,
        network: FeatureNetwork | None,
        how: Sequence[str],
        *,
        stamp: str,
        cache: Path,
    ):
        self.reader, self.network, self.how, self.view = reader, network, how, reader.model.view
        facts = json.dumps([RECIPE, COPIES, stamp, self.view.to_dict(), list(how)])
        self.store = Store(cache / "finetune" / hashlib.sha256(facts.encode()).hexdigest()[:16])

    def read(self, rows: Sequence[Row], step: Callable[[], None] = lambda: None) -> Faces:
        """All rows whose picture shows one face.

        Args:
            step: called after each picture.
        """
        keys = list[str]()
        try:
            for row in rows:
                keys.append(self._key(row))
                if keys[-1] not in self.store.known:
                    self.store.add(keys[-1], self._picture(row))
                step()
        finally:
            self.store.flush()
        kept = [self.store.known[k] for k in keys]
        good = [i for i, k in enumerate(kept) if k.status == "ok"]
        counts = {s: sum(k.status == s for k in kept) for s in ("ok", "unreadable", "no_face", "several")}
        names = [keys[i] for i in good]
        empty = np.zeros((0, COPIES, 0), np.float16)
        return Faces(
            [rows[i] for i in good],
            [kept[i] for i in good],
            self.store.gather(names) if names else empty,
            list(_problems(rows, kept)),
            counts,
        )

    @staticmethod
    def _key(row: Row) -> str:
        if isinstance(row.source, bytes):
            return hashlib.sha256(row.source).hexdigest()[:32]
        path = Path(row.source)
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()[:32]
        except OSError:  # the reader of pictures has the message
            return "missing-" + hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:24]

    def _picture(self, row: Row) -> Kept:
        try:
            reading = self.reader.read(row.source, max_faces=2)
        except PhotoError as e:
            return Kept("unreadable", f"{e.code}: {e}"[:300])
        assert reading.photo is not None
        pixels = reading.photo.pixels
        found = [Detection(f.box, f.score, f.points) for f in reading] or self._with_border(pixels)
        if not found:
            return Kept("no_face")
        if len(found) > 1 and found[1].area > RIVAL * found[0].area:
            return Kept("several")
        return self._face(pixels, found[0])

    def _with_border(self, pixels: Pixels) -> list[Detection]:
        """Faces of a picture that is nothing but a face: with a border, it looks like a face in a photo."""
        h, w = pixels.shape[:2]
        y, x = round(PADDING * h), round(PADDING * w)
        if (h + 2 * y) * (w + 2 * x) > self.reader.max_pixels:
            return []
        wider = cv2.copyMakeBorder(pixels, y, y, x, x, cv2.BORDER_CONSTANT, value=(127, 127, 127))
        shift = np.array([x, y], np.float32)
        found = self.reader.read(Image.fromarray(np.asarray(wider, np.uint8)), max_faces=2)
        return [Detection(f.box - np.tile(shift, 2), f.score, f.points - shift) for f in found]

    def _face(self, pixels: Pixels, face: Detection) -> Kept:
        digest = hashlib.sha256(f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes())
        crops = list(copies(pixels, face.points, self.view, int.from_bytes(digest.digest()[:4], "big")))
        parts = [np.zeros((COPIES, 0), np.float32)]
        if self.network is not None:
            tensors = self.network(self.view.tensor(np.stack([c.pixels for c in crops])))
            parts += [flat(t, how) for t, how in zip(tensors, self.how, strict=True)]
        gray = [cv2.cvtColor(c.pixels, cv2.COLOR_RGB2GRAY) for c in crops[:2]]
        return Kept(
            "ok",
            points=np.asarray(face.points, np.float64),
            box=np.asarray(face.box, np.float64),
            score=float(face.score),
            pixels=digest.hexdigest(),
            bits=np.stack([_bits(g) for g in gray]),
            thumb=np.asarray([cv2.resize(g, (16, 16), interpolation=cv2.INTER_AREA) for g in gray], np.uint8),
            features=np.concatenate(parts, 1).astype(np.float16),
        )


def flat(tensor: Floats, how: str) -> Floats:
    """A tensor as features (B, d), see `Graph.append_vector_head`."""
    return np.asarray(tensor.mean((2, 3)), np.float32) if how == "mean" else tensor


def mirrored(copy: int) -> bool:
    """Whether that copy of a face is mirrored."""
    return copy % 2 == 1


def copies(pixels: Pixels, points: Floats, view: View, seed: int) -> Iterator[Crop]:
    """The aligned face in `COPIES` copies, the first as it is; every second one is mirrored."""
    rng = np.random.default_rng(seed)
    w, h = view.size
    plain = geometry.fit_similarity(points, geometry.template_points(view))
    for i in range(COPIES):
        changed = i > 1
        move = geometry.about(
            ((w - 1) / 2, (h - 1) / 2),
            degrees=float(rng.uniform(-TILT, TILT)) if changed else 0.0,
            scale=float(1 + rng.uniform(-ZOOM, ZOOM)) if changed else 1.0,
            shift=rng.uniform(-SHIFT, SHIFT, 2) * (w, h) if changed else np.zeros(2),
            mirror=mirrored(i),
        )
        affine = geometry.compose(move, plain)
        crop = geometry.warp(pixels, affine, view.size)
        if changed:
            gain, gamma = rng.uniform(0.8, 1.2), rng.uniform(0.8, 1.25)
            table = np.clip(255 * gain * (np.arange(256) / 255) ** gamma, 0, 255)
            crop = np.asarray(cv2.LUT(crop, table.astype(np.uint8)), np.uint8)
        yield Crop(crop, affine)


def crop_of(row: Row, kept: Kept, view: View) -> Crop:
    """The aligned face of a kept picture, decoded again."""
    source = row.source
    pixels = load_photo(source if isinstance(source, bytes) else str(source)).pixels
    return geometry.align(pixels, kept.points, view)


def _bits(gray: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(256,): which of two neighbors in a row is brighter, on 16 x 17 cells."""
    small = cv2.resize(gray, (_BITS + 1, _BITS), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.asarray(small[:, 1:] > small[:, :-1]).reshape(-1)


def _problems(rows: Sequence[Row], kept: Sequence[Kept]) -> Iterator[str]:
    """What cannot be learned from, in words."""
    fixes = {
        "unreadable": "cannot be read; replace or remove them",
        "no_face": "show no face that the detector finds; use larger or more upright faces, or remove them",
        "several": "show several faces of similar size; cut out the one that the label is about",
    }
    for status, fix in fixes.items():
        found = [(r.name, k) for r, k in zip(rows, kept, strict=True) if k.status == status]
        if found:
            shown = ", ".join(n for n, _ in found[:3]) + (", ..." if len(found) > 3 else "")
            why = f" ({found[0][1].note})" if found[0][1].note else ""
            count = f"{len(found)} picture" + ("" if len(found) == 1 else "s")
            yield f"{count} {fix}. Left out: {shown}{why}"


__all__ = ["COPIES", "FaceReader", "Faces", "Kept", "copies", "crop_of", "flat", "mirrored"]
