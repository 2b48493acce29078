"""Data sets of three pictures as their publishers lay them out, drawn into a folder; every label is known
here.

Picture number i of a set is one color, COLORS[i], so that a test sees which picture it got.
"""

from __future__ import annotations

import csv
import io
import pickle  # noqa: TID251  (verification files are pickles; only tests write them, and nothing loads them)
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mien.tasks.attributes import CELEBA40

COLORS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40))
MAGIC = 0xCED7230A
FIVE = np.array([(60.0, 110.0), (116.0, 110.0), (88.0, 140.0), (66.0, 170.0), (110.0, 170.0)])


def encoded(i: int, size: tuple[int, int] = (112, 112), form: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, COLORS[i]).save(out, form, quality=95)
    return out.getvalue()


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def which(pixels: np.ndarray) -> int:
    """The number of the picture with that color."""
    return int(np.abs(np.array(COLORS) - pixels.reshape(-1, 3).mean(0)).sum(1).argmin())


def points_table(path: Path, names: Sequence[str], scores: Sequence[float] | None = None) -> Path:
    columns = {"name": list(names), "points5": [(FIVE + i).reshape(-1).tolist() for i in range(len(names))]}
    pq.write_table(pa.table(columns | ({"score": list(scores)} if scores else {})), path)
    return path


def morph2(root: Path, ages: Sequence[object] = (16, 34, 77)) -> Path:
    rows = ["id_num,picture_num,dob,doa,race,gender,facial_hair,age,age_diff,glasses,photo"]
    for i, age in enumerate(ages):
        photo = f"Album2/00905{i}_0M{age}.JPG"
        rows.append(f"00905{i},{i},1970-01-02,2004-05-06,W,M,NULL,{age},0,NULL,{photo}")
        put(root / photo, encoded(i, (40, 48)))
    put(root / "morph_2008_nonCommercial.csv", "\n".join(rows) + "\n")
    return root


UTKFACE = ("1_0_0_20161219140623097", "26_1_2_20170116184024662", "90_0_4_20170120221457681")


def utkface(root: Path, stems: Sequence[str] = UTKFACE) -> Path:
    for i, stem in enumerate(stems):
        put(root / "UTKFace" / f"{stem}.jpg.chip.jpg", encoded(i % 4, (200, 200)))
    return root


def utkface_coral(root: Path, ages: Sequence[int] = (21, 40, 60)) -> Path:
    """All in both lists, as CORAL's authors write them: ages less 21."""
    stems = [f"{a}_{i % 2}_3_201701{i:011}" for i, a in enumerate(ages)]
    rows = "".join(
        f"{18896 + i},{s}.jpg.chip.jpg,{a - 21}\n" for i, (s, a) in enumerate(zip(stems, ages, strict=True))
    )
    for split in ("train", "test"):
        put(root / f"utk_{split}.csv", f",file,age\n{rows}")
    return utkface(root, stems)


def marks68() -> np.ndarray:
    """68 points whose five are FIVE."""
    marks = np.zeros((68, 2))
    marks[36:42], marks[42:48], marks[30], marks[48], marks[54] = FIVE
    return marks


def affectnet(root: Path, kinds: Sequence[object]) -> Path:
    """A list of all kinds for training (with its header) and the first three of them for validation (without
    one).
    """
    marks = ";".join(f"{v:.2f}" for v in marks68().reshape(-1))
    header = "subDirectory_filePath,face_x,face_y,face_width,face_height,"
    header += "facial_landmarks,expression,valence,arousal\n"
    rows = [f"{i}/p{i}.jpg,10,20,150,151,{marks},{kind},-0.5,0.25\n" for i, kind in enumerate(kinds)]
    put(root / "Manually_Annotated_file_lists" / "training.csv", header + "".join(rows))
    put(root / "Manually_Annotated_file_lists" / "validation.csv", "".join(rows[:3]))
    for i in range(len(kinds)):
        put(root / "Manually_Annotated_Images" / f"{i}/p{i}.jpg", encoded(i % 4, (178, 218)))
    return root


def rafdb(root: Path, kinds: Sequence[object] = (5, 1, 4)) -> Path:
    names = [f"train_0000{i + 1}" for i in range(len(kinds) - 1)] + ["test_0001"]
    put(
        root / "basic/EmoLabel/list_patition_label.txt",
        "".join(f"{n}.jpg {k}\n" for n, k in zip(names, kinds, strict=True)),
    )
    for i, n in enumerate(names):
        put(root / f"basic/Image/aligned/{n}_aligned.jpg", encoded(i % 4, (100, 100)))
        put(root / f"basic/Image/original/{n}.jpg", encoded(i % 4, (178, 218)))
        marks = "".join(f"{x:.3f}\t{y:.3f}\n" for x, y in FIVE + i)
        put(root / f"basic/Annotation/manual/{n}_manu_attri.txt", marks + "1\n0\n2\n")
    return root


def ferplus(root: Path, votes: Sequence[tuple[str, str, Sequence[int]]]) -> Path:
    """votes: (usage, name, ten counts) of each picture; picture i is all of gray level 10 i."""
    pictures = ["emotion,pixels,Usage"]
    lines = ["Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"]
    for i, (usage, name, counts) in enumerate(votes):
        pictures.append(f"0,{' '.join([str(10 * i)] * 48 * 48)},{usage}")
        lines.append(f"{usage},{name},{','.join(map(str, counts))}")
    put(root / "fer2013.csv", "\n".join(pictures) + "\n")
    put(root / "fer2013new.csv", "\n".join(lines) + "\n")
    return root


def celeba(root: Path) -> Path:
    """Three pictures, one a split; picture i has only the i-th attribute, and its points are FIVE + i."""
    names = [f"00000{i + 1}.jpg" for i in range(3)]
    rows = ["3", " ".join(CELEBA40) + " "]
    rows += [f"{n} {'  '.join('1' if k == i else '-1' for k in range(40))}" for i, n in enumerate(names)]
    put(root / "Anno/list_attr_celeba.txt", "\n".join(rows) + "\n")
    rows = [
        "3",
        (
            "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x"
            " rightmouth_y"
        ),
    ]
    rows += [f"{n} {'  '.join(str(int(v)) for v in (FIVE + i).reshape(-1))}" for i, n in enumerate(names)]
    put(root / "Anno/list_landmarks_align_celeba.txt", "\n".join(rows) + "\n")
    put(root / "Anno/identity_CelebA.txt", "".join(f"{n} {2880 + i}\n" for i, n in enumerate(names)))
    put(root / "Eval/list_eval_partition.txt", "".join(f"{n} {i}\n" for i, n in enumerate(names)))
    for i, n in enumerate(names):
        put(root / "Img/img_align_celeba" / n, encoded(i, (178, 218)))
    return root


LFWA_NAMES = (
    "Aaron_Eckhart\\Aaron_Eckhart_0001.jpg",
    "Abel_Pacheco\\Abel_Pacheco_0001.jpg",
    "Abel_Pacheco\\Abel_Pacheco_0004.jpg",
)


def lfwa_values() -> np.ndarray:
    values = np.zeros((3, 40))
    values[range(3), [20, 31, 39]] = 1  # Male, Smiling, Young
    return values


def lfwa(root: Path, *, hdf5: bool) -> Path:
    """Two pictures to train (the first and the third) and one to test, in either form of MATLAB file."""
    for i, n in enumerate(LFWA_NAMES):
        put(root / "lfw" / n.replace("\\", "/"), encoded(i, (250, 250)))
    attributes = {"AttrName": list(CELEBA40), "label": lfwa_values(), "name": list(LFWA_NAMES)}
    indices = {"indices_img_train": np.array([[1.0], [3.0]]), "indices_img_test": np.array([[2.0]])}
    for path, values in ((root / "lfw_att_40.mat", attributes), (root / "indices_train_test.mat", indices)):
        (_write_hdf5 if hdf5 else _write_mat5)(path, values)
    return root


def _write_mat5(path: Path, values: dict[str, object]) -> None:
    import scipy.io

    def cell(v: object) -> object:
        return np.array(v, dtype=object).reshape(-1, 1) if isinstance(v, list) else v

    scipy.io.savemat(path, {k: cell(v) for k, v in values.items()})


def _write_hdf5(path: Path, values: dict[str, object]) -> None:
    """As MATLAB 7.3 does: arrays transposed, text as UTF-16 codes behind references."""
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        for key, value in values.items():
            if isinstance(value, list):
                codes = [
                    file.create_dataset(f"#refs#/{key}{i}", data=np.array([[ord(c)] for c in t], np.uint16))
                    for i, t in enumerate(value)
                ]
                file.create_dataset(key, data=np.array([[c.ref for c in codes]], dtype=h5py.ref_dtype))
            else:
                file.create_dataset(key, data=np.asarray(value).T)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def part(data: bytes, kind: int) -> bytes:
    """One framed part of a RecordIO record."""
    return struct.pack("<II", MAGIC, kind << 29 | len(data)) + data + b"\0" * (-len(data) % 4)


def ms1mv3(root: Path, people: Sequence[float] = (0, 1, 1)) -> Path:
    """Three pictures of two people: labels alone in the header, as two numbers, and a record that is cut at a
    magic.
    """
    header = struct.pack("<IfQQ", 2, 0, 0, 0) + struct.pack("<ff", 4, 6)
    records = [part(header, 0)]
    first = struct.pack("<IfQQ", 0, people[0], 1, 0) + encoded(0)
    second = struct.pack("<IfQQ", 2, 0, 2, 0) + struct.pack("<ff", people[1], 7) + encoded(1)
    records += [part(first, 0), part(second, 0)]
    # JPEG readers stop at the end of image, so that what follows it may hold the magic, at a multiple of four
    third = struct.pack("<IfQQ", 0, people[2], 3, 0) + encoded(2)
    third += b"\0" * (-len(third) % 4)
    records.append(part(third, 1) + part(b"middle!", 2) + part(b"end", 3))
    records += [
        part(struct.pack("<IfQQ", 2, 0, k, 0) + struct.pack("<ff", *r), 0)
        for k, r in ((4, (1, 2)), (5, (2, 4)))
    ]
    offsets = np.cumsum([0, *map(len, records)])[:-1]
    put(root / "train.rec", b"".join(records))
    put(root / "train.idx", "".join(f"{i}\t{at}\n" for i, at in enumerate(offsets)))
    put(root / "property", "2,112,112\n")
    return root


def third_record() -> bytes:
    """What the cut record of `ms1mv3` is when whole."""
    data = struct.pack("<IfQQ", 0, 1, 3, 0) + encoded(2)
    return (
        data
        + b"\0" * (-len(data) % 4)
        + struct.pack("<I", MAGIC)
        + b"middle!"
        + struct.pack("<I", MAGIC)
        + b"end"
    )


def pickled(path: Path, value: object, protocol: int = 4) -> Path:
    return put(path, pickle.dumps(value, protocol=protocol))


def verification(root: Path, name: str = "lfw", *, protocol: int = 4, arrays: bool = False) -> Path:
    """Two pairs: pictures 0 and 0 of one person, 1 and 2 of two."""
    pictures = [encoded(i) for i in (0, 0, 1, 2)]
    same = [True, False]
    if arrays:
        pickled(
            root / f"{name}.bin",
            ([np.frombuffer(p, np.uint8) for p in pictures], [np.bool_(s) for s in same]),
            protocol,
        )
    else:
        pickled(root / f"{name}.bin", (pictures, same), protocol)
    return root


def lfw(root: Path, pictures: str = "lfw") -> Path:
    """Two folds of one matched and one other pair, over three pictures of two people; and View 1 with one of
    each.
    """
    pairs = [
        "Abel_Pacheco\t1\t4",
        "Abel_Pacheco\t1\tAaron_Eckhart\t1",
        "Abel_Pacheco\t4\t1",
        "Aaron_Eckhart\t1\tAbel_Pacheco\t4",
    ]
    put(root / "pairs.txt", "\n".join(["2\t1", *pairs]) + "\n")
    put(root / "pairsDevTest.txt", "\n".join(["1", *pairs[:2]]) + "\n")
    for i, n in enumerate(LFWA_NAMES):
        put(root / pictures / n.replace("\\", "/"), encoded(i, (250, 250)))
    return root


def own_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def own_pictures(root: Path, n: int = 3) -> list[str]:
    return [
        str(put(root / f"pictures/{i}.png", encoded(i, (60, 80), "PNG")).relative_to(root)) for i in range(n)
    ]
