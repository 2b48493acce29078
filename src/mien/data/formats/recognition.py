"""Recognition sets in the layouts of their publishers: MS1MV3, the verification files, LFW; and LFWA's
attributes.

A training picture's label is the number of its class. A test picture's label lists the (pair number, same
person?) in which it stands, which is what `mien.tasks.identity.Verification` scores; that two embeddings of a
picture and its mirror image are added is the protocol's affair.
"""

from __future__ import annotations

import pickletools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien import geometry
from mien.data.formats.attributes import Table, bad, files_below, found_points
from mien.data.formats.common import need, optional, pick
from mien.errors import MissingData, UsageError
from mien.io.image import load_photo
from mien.tasks.attributes import CELEBA40
from mien.types import Sample

# Medians of a detector's points over 1,549 deep-funneled pictures, as fractions of the 250 px side, picture
# order.
LFW_POINTS = np.array([(0.418, 0.448), (0.588, 0.447), (0.503, 0.552), (0.430, 0.628), (0.580, 0.627)])
# These sets contain crops of this template, in its own pixels: a 112 px view of it gets the crops unchanged.
CROP_POINTS = geometry.TEMPLATES["arcface"]

# MS1MV3: RecordIO

_MAGIC = struct.pack("<I", 0xCED7230A)


def read_record(path: Path, offset: int) -> bytes:
    """One RecordIO record: parts of (magic, 3 bits of kind and 29 of length, data padded to four bytes).

    Data that holds the magic at a multiple of four is cut there, and the magic left out: kind 0 is whole, 1
    the first part, 2 a middle one, 3 the last.
    """
    parts = list[bytes]()
    with path.open("rb") as file:
        file.seek(offset)
        while True:
            head = file.read(8)
            if len(head) < 8 or head[:4] != _MAGIC:
                raise UsageError(
                    f"{path}: no record begins at byte {offset}; its .idx belongs to another file, or it is"
                    " cut short"
                )
            (word,) = struct.unpack("<I", head[4:])
            kind, length = word >> 29, word & 0x1FFFFFFF
            data = file.read(length)
            if len(data) < length or kind not in ((2, 3) if parts else (0, 1)):
                raise UsageError(
                    f"{path}: the record at byte {offset} is damaged or cut short; download it again"
                )
            parts.append(data)
            if kind in (0, 3):
                return _MAGIC.join(parts)
            file.seek(-length % 4, 1)


def _unpack(record: bytes, path: Path, key: int) -> tuple[list[float], bytes]:
    """A record -> (labels, the rest): flag, label (float32), id and id2, then `flag` more labels that replace
    the first.
    """
    if len(record) < 24:
        raise bad(path, key, len(record), "bytes are no record; 24 of header are needed")
    flag, label = struct.unpack_from("<If", record)
    if len(record) < 24 + 4 * flag:
        raise bad(path, key, flag, "labels are announced and do not fit into the record")
    labels = np.frombuffer(record, "<f4", flag, 24).tolist() if flag else [label]
    return labels, record[24 + 4 * flag :]


class Records:
    """Pictures of a RecordIO pair, read one by one: `classes` people, label identity512 = class number."""

    def __init__(
        self, name: str, path: Path, classes: int, keys: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]
    ):
        self.name, self.path, self.classes, self._keys, self._offsets = name, path, classes, keys, offsets

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"picture {i} of the {len(self)} in {self.name}")
        key = int(self._keys[i])
        labels, data = _unpack(read_record(self.path, int(self._offsets[i])), self.path, key)
        who = labels[0]
        if not (who.is_integer() and 0 <= who < self.classes):
            raise bad(self.path, key, who, f"is not a class of 0..{self.classes - 1}")
        pixels = load_photo(data).pixels
        return Sample(
            pixels,
            {"identity512": int(who)},
            CROP_POINTS * (pixels.shape[1], pixels.shape[0]) - 0.5,
            str(key),
        )


def ms1mv3(root: Path, split: str = "train") -> Records:
    """MS1MV3 (Deng et al. 2019, cleaned for the ICCV 2019 challenge): 5,179,510 crops of 112 px, 93,431
    people.

    Reads `train.rec`, `train.idx` (number, byte) and `property` (classes, height, width) as InsightFace
    writes them; its other sets in that form (CASIA-WebFace, Glint360K) too. Record 0 says how far the
    pictures reach.
    """
    pick("MS1MV3", split, {"train": 0})
    rec, idx, facts = (
        need(root / "train.rec"),
        need(root / "train.idx"),
        need(root / "property").read_text().strip(),
    )
    if not facts.split(",")[0].isdigit():
        raise UsageError(
            f"{root / 'property'}: {facts!r} does not begin with the number of people, as in 93431,112,112"
        )
    try:
        table = np.loadtxt(idx, np.int64, ndmin=2)
    except ValueError as e:
        raise UsageError(f"{idx} is not a list of number and byte: {e}") from e
    if table.shape[1:] != (2,) or not len(table):
        raise UsageError(f"{idx} is not a list of number and byte")
    table = table[np.argsort(table[:, 0], kind="stable")]
    keys, offsets = table.T
    if keys[0] == 0:
        labels, rest = _unpack(read_record(rec, int(offsets[0])), rec, 0)
        stop = int(labels[0]) if not rest else int(keys[-1]) + 1  # a first record with a picture is a picture
        begin = 0 if rest else 1
    else:
        begin, stop = int(keys[0]), int(keys[-1]) + 1
    chosen = (keys >= begin) & (keys < stop)
    if chosen.sum() != stop - begin:
        raise UsageError(
            f"{idx} lists {int(chosen.sum())} of the {stop - begin} pictures {begin}..{stop - 1} of {rec};"
            " download it again"
        )
    return Records("ms1mv3/train", rec, int(facts.split(",")[0]), keys[chosen], offsets[chosen])


# Verification files: a pickle, which is parsed and never executed


class _Refused(Exception):
    """The reason why a file is refused."""


class _Name(str):
    """The name of what a pickle would import; nothing is imported."""


class _Raw:
    """A future array: `data` arrives with its state."""

    data: bytes | None = None


_CODEC, _ARRAY, _TYPE = "_codecs.encode", "numpy.ndarray", "numpy.dtype"
_MAKE = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_SCALAR = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_NAMES = {_CODEC, _ARRAY, _TYPE, *_MAKE, *_SCALAR}
_CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False, "NONE": None, "EMPTY_TUPLE": ()}
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
_MARK = object()


def _text(value: object) -> str:
    if not isinstance(value, (str, bytes)):
        raise _Refused("a name in it is not a text")
    return value.decode("latin-1") if isinstance(value, bytes) else value  # Python 2 wrote text as bytes


def _call(name: object, args: object) -> Any:
    """The result of calling a known name, without the call."""
    if not isinstance(name, _Name) or not isinstance(args, tuple):
        raise _Refused("it calls something without a name")
    if name == _CODEC and len(args) == 2 and isinstance(args[0], str) and args[1] == "latin1":
        return args[0].encode("latin-1")
    if name == _TYPE and args and _text(args[0]) in ("u1", "b1"):
        return (_TYPE, _text(args[0]))
    if name in _MAKE and args and args[0] == _ARRAY:
        return _Raw()
    if name in _SCALAR and len(args) == 2 and args[0] == (_TYPE, "b1") and args[1] in (b"\0", b"\1"):
        return args[1] == b"\1"
    raise _Refused(f"it calls {name} in a way that no list of pictures needs")


def _state(target: object, state: object) -> None:
    """Set an array's bytes; a type's state adds nothing."""
    if isinstance(target, tuple) and target[:1] == (_TYPE,):
        return
    if not isinstance(target, _Raw) or not isinstance(state, tuple) or len(state) != 5:
        raise _Refused("it sets the state of something that is not an array")
    _, shape, kind, _, data = state
    if kind != (_TYPE, "u1") or not isinstance(data, bytes) or shape != (len(data),):
        raise _Refused("it holds an array that is not one row of uint8")
    target.data = data


def _walk(data: bytes) -> Any:
    """A pickle's lists, tuples, bytes, bools, ints and uint8 rows. Nothing is imported and nothing called.

    Raises:
        _Refused: an opcode or a name that such data do not need. ValueError, LookupError, TypeError: damage.
    """
    stack, memo = list[Any](), dict[int, Any]()

    def above_mark() -> list[Any]:
        at = max(i for i, v in enumerate(stack) if v is _MARK)
        items = stack[at + 1 :]
        del stack[at:]
        return items

    for op, arg, at in pickletools.genops(data):
        name = op.name
        if name in ("PROTO", "FRAME"):
            continue
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            stack.append(arg)
        elif name in ("BINSTRING", "SHORT_BINSTRING"):  # Python 2's bytes, which pickletools shows as text
            stack.append(str(arg).encode("latin-1"))
        elif name in ("EMPTY_LIST", "MARK"):
            stack.append([] if name == "EMPTY_LIST" else _MARK)
        elif name in ("LIST", "TUPLE"):
            items = above_mark()
            stack.append(items if name == "LIST" else tuple(items))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            n = int(name[-1])
            stack[-n:] = [tuple(stack[-n:])]
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else above_mark()
            if not isinstance(stack[-1], list):
                raise _Refused(f"at byte {at} it appends to something that is not a list")
            stack[-1].extend(items)
        elif name == "MEMOIZE" or name in _PUTS:
            memo[len(memo) if arg is None else int(str(arg))] = stack[-1]
        elif name in _GETS:
            stack.append(memo[int(str(arg))])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            full = (
                str(arg).replace(" ", ".")
                if name == "GLOBAL"
                else ".".join(_text(v) for v in (stack.pop(-2), stack.pop()))
            )
            if full not in _NAMES:
                raise _Refused(f"at byte {at} it would import {full!r}")
            stack.append(_Name(full))
        elif name == "REDUCE":
            args = stack.pop()
            stack.append(_call(stack.pop(), args))
        elif name == "BUILD":
            state = stack.pop()
            _state(stack[-1], state)
        elif name == "STOP":
            return stack.pop()
        else:
            raise _Refused(f"at byte {at} it has the opcode {name}, which no list of pictures needs")
    raise _Refused("it has no end")


def read_bin(path: Path) -> tuple[list[bytes], list[bool]]:
    """A verification file: (encoded pictures, two for each pair; is each pair the same person?).

    The file is a pickle, which could run any code. Its opcodes are walked here and none is run; whatever a
    pair of lists does not need is refused.

    Raises:
        MissingData: no such file. UsageError: it holds anything else, or is damaged.
    """
    data = need(path).read_bytes()
    try:
        value = _walk(data)
    except (_Refused, ValueError, LookupError, TypeError) as e:
        raise UsageError(
            f"{path} is refused: {e}; a verification file holds two lists, of pictures and of yes or no"
        ) from e
    if not (isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(v, list) for v in value)):
        raise UsageError(f"{path} is refused: it does not hold two lists, of pictures and of yes or no")
    pictures, same = list[bytes](), value[1]
    for i, item in enumerate(value[0], 1):
        picture = item.data if isinstance(item, _Raw) else item
        if not isinstance(picture, bytes):
            raise bad(path, i, type(picture).__name__, "is not an encoded picture; bytes are needed")
        pictures.append(picture)
    for i, answer in enumerate(same, 1):
        if not (isinstance(answer, int) and answer in (0, 1)):
            raise bad(path, i, type(answer).__name__, "is neither yes nor no")
    if len(pictures) != 2 * len(same):
        raise UsageError(
            f"{path} has {len(pictures)} pictures and {len(same)} pairs; two pictures per pair are needed"
        )
    return pictures, [bool(s) for s in same]


def verification(root: Path, split: str, *, task: str = "identity512") -> Table:
    """InsightFace's verification files, 112 px crops in pairs: `root/SPLIT.bin`, such as lfw (6,000 pairs),
    cfp_fp (7,000), agedb_30, calfw and cplfw (6,000 each).

    Labels: `task` -> [(pair number, same?)]. A picture that stands in two pairs comes twice, as in the file.
    """
    pictures, same = read_bin(root / f"{split}.bin")
    names = [f"{i // 2:05}-{i % 2}" for i in range(len(pictures))]
    return Table(
        f"verification/{split}",
        names,
        lambda i: load_photo(pictures[i]).pixels,
        lambda i: {task: [(i // 2, same[i // 2])]},
        fixed=CROP_POINTS,
    )


# LFW


def read_pairs(path: Path) -> list[tuple[str, str, bool]]:
    """LFW's pairs in order: (picture, picture, same?), pictures as NAME/NAME_0001.jpg.

    The first line says folds and pairs per fold ("10 300"), or pairs alone for one fold; a fold lists its
    matched pairs (name n1 n2), then as many others (name1 n1 name2 n2).
    """
    lines = [line.split() for line in need(path).read_text(encoding="utf-8").split("\n") if line.strip()]
    head = lines[0] if lines else []
    if len(head) not in (1, 2) or not all(h.isdigit() for h in head):
        raise UsageError(
            f"{path} begins with {' '.join(head)!r}; folds and pairs per fold are needed, such as '10 300'"
        )
    folds, per = (1, int(head[0])) if len(head) == 1 else (int(head[0]), int(head[1]))
    if len(lines) - 1 != 2 * folds * per:
        raise UsageError(f"{path} lists {len(lines) - 1} pairs; its first line announces {2 * folds * per}")
    pairs = list[tuple[str, str, bool]]()
    for row, cells in enumerate(lines[1:], 1):
        same = (row - 1) % (2 * per) < per
        if len(cells) != (3 if same else 4) or not all(c.isdigit() for c in (cells[1], cells[-1])):
            raise bad(
                path,
                row,
                " ".join(cells),
                f"is not a pair; {'name n1 n2' if same else 'name1 n1 name2 n2'} is needed here",
            )
        a, b = ((cells[0], cells[1]), (cells[-2] if not same else cells[0], cells[-1]))
        pairs.append((f"{a[0]}/{a[0]}_{int(a[1]):04}.jpg", f"{b[0]}/{b[0]}_{int(b[1]):04}.jpg", same))
    return pairs


def lfw(
    root: Path,
    split: str = "test",
    *,
    pictures: str = "lfw",
    points: Path | None = None,
    task: str = "identity512",
) -> Table:
    """LFW (Huang et al. 2007), 250 px: each picture of a list of pairs once.

    Args:
        split: "test" is View 2 (`pairs.txt`, ten folds of 300 + 300); "train" and "val" are View 1's
            pairsDevTrain.txt and pairsDevTest.txt.
        pictures: the folder below root: lfw, lfw_funneled, lfw-deepfunneled.
        points: else a median of the last of these.

    Labels: `task` -> [(pair number, same?), ...], in the order of first appearance.
    """
    listed = pick(
        "LFW", split, {"test": "pairs.txt", "val": "pairsDevTest.txt", "train": "pairsDevTrain.txt"}
    )
    takes_part = dict[str, list[tuple[int, bool]]]()
    for pair, (a, b, same) in enumerate(read_pairs(root / listed)):
        takes_part.setdefault(a, []).append((pair, same))
        takes_part.setdefault(b, []).append((pair, same))
    files = list(takes_part)
    labels = [{task: part} for part in takes_part.values()]
    return files_below(
        f"lfw/{split}",
        need(root / pictures),
        files,
        labels,
        found_points("LFW", files, points, LFW_POINTS),
        LFW_POINTS,
    )


def lfwa(
    root: Path,
    split: str,
    *,
    points: Path | None = None,
    pictures: str = "lfw",
    indices: str = "indices_train_test.mat",
) -> Table:
    """LFWA (Liu et al. 2015), CelebA's forty attributes on LFW: "train" 6,263 and "test" 6,880 pictures.

    Args:
        pictures: the folder below root that holds NAME/NAME_0001.jpg.
        indices: the file of the split, counted from 1.

    Labels: attributes, 0 or 1. The .mat files need h5py (MATLAB 7.3, as published) or scipy (older ones).
    """
    key = pick("LFWA", split, {"train": "indices_img_train", "test": "indices_img_test"})
    path = root / "lfw_att_40.mat"
    columns, names, values = read_mat(path, "AttrName", "name", "label")
    (chosen,) = read_mat(root / indices, key)
    spelled = {c.casefold(): c for c in CELEBA40}
    try:
        columns = [spelled[c.strip().replace(" ", "_").casefold()] for c in columns]
    except KeyError as e:
        raise UsageError(f"{path}: {e.args[0]!r} is none of CelebA's forty attributes") from e
    values = np.asarray(values).reshape(len(names), len(columns))
    wrong = np.argwhere(~np.isin(values, (0, 1)))
    if len(wrong):
        raise bad(
            path,
            int(wrong[0][0]) + 1,
            float(values[tuple(wrong[0])]),
            f"in column {columns[wrong[0][1]]} is neither 0 nor 1",
        )
    rows = np.asarray(chosen).reshape(-1).astype(int) - 1
    if rows.size and not (rows.min() >= 0 and rows.max() < len(names)):
        raise UsageError(
            f"{root / indices}: {key} reaches {int(rows.max()) + 1}; {path} has {len(names)} pictures"
        )
    files = [names[i].replace("\\", "/") for i in rows]
    labels = [{"attributes": dict(zip(columns, values[i].astype(int).tolist(), strict=True))} for i in rows]
    return files_below(
        f"lfwa/{split}",
        need(root / pictures),
        files,
        labels,
        found_points("LFWA", files, points, LFW_POINTS),
        LFW_POINTS,
    )


def read_mat(path: Path, *keys: str) -> list[Any]:
    """Variables of a MATLAB file: cells of text as a list of str, numbers as an array.

    Raises:
        MissingData: no such file or variable, or the library that reads it is not installed.
    """
    with need(path).open("rb") as file:
        hdf5 = b"\x89HDF\r\n\x1a\n" in file.read(1024)  # MATLAB 7.3 puts 512 bytes of its own before it
    library = optional("h5py" if hdf5 else "scipy.io", path)
    if not hdf5:
        found = library.loadmat(path, squeeze_me=True, variable_names=keys)
        values = {k: np.atleast_1d(v) for k, v in found.items()}
        out = {k: [str(x) for x in v] if v.dtype.kind in "OU" else v for k, v in values.items()}
    else:
        out = {}
        with library.File(path, "r") as file:
            for k in (k for k in keys if k in file):
                v = file[k][()]
                # text is stored as a cell of references to arrays of UTF-16 codes, and every array transposed
                out[k] = (
                    ["".join(map(chr, file[r][()].reshape(-1))) for r in v.reshape(-1)]
                    if v.dtype.kind == "O"
                    else v.T
                )
    for k in keys:
        if k not in out:
            raise MissingData(f"{path} has no variable {k!r}; download it again")
    return [out[k] for k in keys]
