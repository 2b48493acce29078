"""Recognition sets on three pictures, a verification file that would run code, and LFWA's attributes."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from mien import geometry
from mien.data.formats import recognition
from mien.errors import MissingData, UsageError
from mien.tasks.attributes import CELEBA40
from mien.tasks.identity import Identity, Verification
from mien.types import View
from tests.support import layouts_people as draw
from tests.support.layouts_people import which

ARCFACE = View((112, 112), "arcface", (0.5,) * 3, (0.5,) * 3)


def test_ms1mv3(tmp_path: Path):
    data = recognition.ms1mv3(draw.ms1mv3(tmp_path))
    assert (len(data), data.classes, data.name) == (
        3,
        2,
        "ms1mv3/train",
    )  # records 0, 4 and 5 are no pictures
    assert [data[i].labels for i in range(3)] == [{"identity512": 0}, {"identity512": 1}, {"identity512": 1}]
    assert [which(data[i].image) for i in range(3)] == [0, 1, 2]
    assert [data[i].name for i in range(3)] == ["1", "2", "3"]
    assert isinstance(data[0].labels["identity512"], int)
    with pytest.raises(IndexError, match="picture 3 of the 3"):
        data[3]


def test_crops_reach_a_view_of_their_template_unchanged(tmp_path: Path):
    sample = recognition.ms1mv3(draw.ms1mv3(tmp_path))[0]
    np.testing.assert_allclose(
        geometry.align(sample.image, sample.points, ARCFACE).from_photo, np.eye(2, 3), atol=1e-9
    )


def test_record_cut_at_a_magic_is_joined(tmp_path: Path):
    draw.ms1mv3(tmp_path)
    offset = int((tmp_path / "train.idx").read_text().split("\n")[3].split("\t")[1])
    assert recognition.read_record(tmp_path / "train.rec", offset) == draw.third_record()


def test_ms1mv3_whose_first_record_is_a_picture(tmp_path: Path):
    records = [draw.part(struct.pack("<IfQQ", 0, i, i, 0) + draw.encoded(i), 0) for i in range(3)]
    draw.put(tmp_path / "train.rec", b"".join(records))
    draw.put(tmp_path / "train.idx", "".join(f"{i}\t{sum(map(len, records[:i]))}\n" for i in (2, 0, 1)))
    draw.put(tmp_path / "property", "3,112,112")
    data = recognition.ms1mv3(tmp_path)
    assert [data[i].labels["identity512"] for i in range(len(data))] == [0, 1, 2]


def test_ms1mv3_messages(tmp_path: Path):
    for gone in ("train.rec", "train.idx", "property"):
        root = draw.ms1mv3(tmp_path / gone)
        (root / gone).unlink()
        with pytest.raises(MissingData, match=f"expected .*{gone}; it is missing"):
            recognition.ms1mv3(root)
    root = draw.ms1mv3(tmp_path / "classes", people=(0, 2, 1))
    with pytest.raises(UsageError, match=r"train\.rec, row 2: 2\.0 is not a class of 0\.\.1"):
        recognition.ms1mv3(root)[1]
    idx = (root / "train.idx").read_text()
    (root / "train.idx").write_text(
        "".join(line for line in idx.splitlines(True) if not line.startswith("2\t"))
    )
    with pytest.raises(UsageError, match=r"lists 2 of the 3 pictures 1\.\.3"):
        recognition.ms1mv3(root)
    (root / "train.idx").write_text(idx.replace("1\t", "1\t1"))
    with pytest.raises(UsageError, match="no record begins at byte 1"):
        recognition.ms1mv3(root)[0]
    (root / "train.idx").write_text("one\ttwo\n")
    with pytest.raises(UsageError, match="is not a list of number and byte"):
        recognition.ms1mv3(root)
    cut = draw.put(tmp_path / "cut.rec", draw.part(b"x" * 100, 0)[:50])
    with pytest.raises(UsageError, match="the record at byte 0 is damaged or cut short"):
        recognition.read_record(cut, 0)
    last_only = draw.put(tmp_path / "last.rec", draw.part(b"x" * 8, 3))
    with pytest.raises(UsageError, match="damaged"):
        recognition.read_record(last_only, 0)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("arrays", [False, True])
def test_verification(tmp_path: Path, protocol: int, arrays: bool):
    data = recognition.verification(
        draw.verification(tmp_path, "cfp_fp", protocol=protocol, arrays=arrays), "cfp_fp"
    )
    assert len(data) == 4 and data.name == "verification/cfp_fp"
    assert [data[i].labels for i in range(4)] == [
        {"identity512": [(p, s)]} for p, s in ((0, True), (0, True), (1, False), (1, False))
    ]
    assert [which(data[i].image) for i in range(4)] == [0, 0, 1, 2]
    np.testing.assert_allclose(data[0].points, geometry.template_points(ARCFACE))


def test_verification_files_of_python_2(tmp_path: Path):
    # what cPickle of Python 2 wrote: text opcodes hold the bytes; T has four bytes of length, U one
    big, small = draw.encoded(1), b"\xff\xd8\xe9"
    data = (
        b"\x80\x02]q\x01(T"
        + struct.pack("<I", len(big))
        + big
        + b"q\x02U\x03"
        + small
        + b"e]q\x03I01\na\x86."
    )
    assert recognition.read_bin(draw.put(tmp_path / "lfw.bin", data)) == ([big, small], [True])


@pytest.mark.parametrize(("directions", "accuracy"), [((0, 1, 1), 100.0), ((0, 1, 2), 50.0)])
def test_pairs_are_scored(tmp_path: Path, directions: tuple[int, ...], accuracy: float):
    data = recognition.lfw(draw.lfw(tmp_path), task="identity")
    metric = Verification(folds=2)
    for i in range(len(data)):
        embedding = np.eye(3, dtype=np.float32)[
            directions[which(data[i].image)]
        ]  # pictures 1 and 2 show one person
        metric.update(Identity(embedding), data[i].labels["identity"])
    score = metric.compute()
    assert (score["n"], score["accuracy"]) == (4, accuracy)


class Evil:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, protocol: int):
    target = tmp_path / "ran"
    path = draw.pickled(tmp_path / "lfw.bin", ([b"a", Evil(target)], [True]), protocol)
    with pytest.raises(
        UsageError,
        match=(
            r"lfw\.bin is refused: at byte \d+ it (would import '(posix|nt)\.mkdir'|has the opcode UNICODE)"
        ),
    ):
        recognition.read_bin(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "would import 'os.system'"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", "would import 'builtins.eval'"),
        (b"(S'true'\nios\nsystem\n.", "opcode"),  # INST
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "opcode NEWOBJ"),
        (b"Pid\n.", "opcode PERSID"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R.", "calls numpy.dtype in a way"),
        (
            b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.",
            "calls _codecs.encode in a way",
        ),
        (b"\x80\x02]K\x01R.", "calls something without a name"),
        (b"\x80\x02]K\x01b.", "sets the state of something that is not an array"),
        (b"\x80\x02K\x01K\x01a.", "appends to something that is not a list"),
        (b"\x80\x04]\x8c\x01a\x93.", "a name in it is not a text"),
        (b"\x80\x02]q\x00h\x00a\x85.", "does not hold two lists"),  # a list within itself
        (b"\x80\x02" + b"]" * 3000 + b"a" * 2999 + b"]\x86.", "is not an encoded picture"),
        (b"\x80\x02h\x05.", "is refused"),  # a memo that was never set
        (b"\x80\x02e.", "is refused"),  # no mark
        (b"\x80\x02]T\xff\xff\xff\x7fabc", "is refused"),  # a length beyond the file's end
        (b"\x80\x02]", "is refused"),
        (b"", "is refused"),
        (b"\x80\x02](K\x01K\x02e](\x88e\x86.", "row 1: 'int' is not an encoded picture"),
        (b"\x80\x02](U\x01aU\x01be](K\x02e\x86.", "row 1: 'int' is neither yes nor no"),
        (b"\x80\x02](U\x01ae](\x88e\x86.", "has 1 pictures and 1 pairs"),
    ],
)
def test_whatever_two_lists_do_not_need_is_refused(tmp_path: Path, data: bytes, why: str):
    with pytest.raises(UsageError, match=why.replace(".", r"\.")):
        recognition.read_bin(draw.put(tmp_path / "lfw.bin", data))


def test_arrays_that_are_no_row_of_bytes_are_refused(tmp_path: Path):
    for array in (np.zeros((2, 2), np.uint8), np.zeros(3, np.float32), np.array([None])):
        with pytest.raises(UsageError, match="is refused"):
            recognition.read_bin(draw.pickled(tmp_path / "lfw.bin", ([array, b"b"], [True])))


def test_the_reader_never_loads_a_pickle():
    source = Path(recognition.__file__).read_text()
    assert "import pickle\n" not in source and "loads(" not in source


def test_verification_file_is_missing(tmp_path: Path):
    with pytest.raises(MissingData, match=r"expected .*agedb_30\.bin; it is missing"):
        recognition.verification(tmp_path, "agedb_30")


def test_lfw(tmp_path: Path):
    data = recognition.lfw(draw.lfw(tmp_path))
    assert [data[i].name for i in range(len(data))] == [
        "Abel_Pacheco/Abel_Pacheco_0001.jpg",
        "Abel_Pacheco/Abel_Pacheco_0004.jpg",
        "Aaron_Eckhart/Aaron_Eckhart_0001.jpg",
    ]
    assert [data[i].labels["identity512"] for i in range(3)] == [
        [(0, True), (1, False), (2, True)],
        [(0, True), (2, True), (3, False)],
        [(1, False), (3, False)],
    ]
    assert [which(data[i].image) for i in range(3)] == [1, 2, 0]
    np.testing.assert_allclose(data[0].points, recognition.LFW_POINTS * 250 - 0.5)


def test_lfw_other_lists_and_folders(tmp_path: Path):
    draw.lfw(tmp_path, "lfw_funneled")
    data = recognition.lfw(tmp_path, "val", pictures="lfw_funneled", task="identity")
    assert [data[i].labels["identity"] for i in range(3)] == [
        [(0, True), (1, False)],
        [(0, True)],
        [(1, False)],
    ]


def test_lfw_messages(tmp_path: Path):
    with pytest.raises(MissingData, match=r"expected .*pairs\.txt; it is missing"):
        recognition.lfw(tmp_path)
    draw.lfw(tmp_path, "elsewhere")
    with pytest.raises(MissingData, match=r"expected .*/lfw; it is missing"):
        recognition.lfw(tmp_path)
    with pytest.raises(UsageError, match="LFW has no split 'view2'; there are: test, val, train"):
        recognition.lfw(tmp_path, "view2")
    text = (tmp_path / "pairs.txt").read_text()
    for new, why in (
        (text.replace("2\t1\n", "3\t1\n", 1), r"lists 4 pairs; its first line announces 6"),
        (text.replace("2\t1\n", "ten\t1\n", 1), r"begins with 'ten 1'"),
        (
            text.replace("2\t1\n", "1\t2\n", 1),
            r"row 2: 'Abel_Pacheco 1 Aaron_Eckhart 1' is not a pair; name n1 n2 is needed here",
        ),
        (
            text.replace("Eckhart\t1\tAbel", "Eckhart\tx\tAbel"),
            r"row 4: 'Aaron_Eckhart x Abel_Pacheco 4' is not a pair; name1 n1 name2 n2",
        ),
    ):
        (tmp_path / "pairs.txt").write_text(new)
        with pytest.raises(UsageError, match=why):
            recognition.lfw(tmp_path)


@pytest.mark.parametrize(("package", "hdf5"), [("scipy.io", False), ("h5py", True)])
def test_lfwa(tmp_path: Path, package: str, hdf5: bool):
    pytest.importorskip(package)
    draw.lfwa(tmp_path, hdf5=hdf5)
    train, test = recognition.lfwa(tmp_path, "train"), recognition.lfwa(tmp_path, "test")
    assert (len(train), len(test)) == (2, 1)
    assert [train[0].name, train[1].name] == [
        "Aaron_Eckhart/Aaron_Eckhart_0001.jpg",
        "Abel_Pacheco/Abel_Pacheco_0004.jpg",
    ]
    assert [which(s.image) for s in (train[0], test[0], train[1])] == [0, 1, 2]
    for sample, name in ((train[0], "Male"), (test[0], "Smiling"), (train[1], "Young")):
        assert tuple(sample.labels["attributes"]) == CELEBA40
        assert [n for n, v in sample.labels["attributes"].items() if v] == [name]


@pytest.mark.parametrize(
    ("package", "module", "hdf5"), [("scipy", "scipy.io", False), ("h5py", "h5py", True)]
)
def test_lfwa_without_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, module: str, hdf5: bool
):
    head = (
        b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n"
        if hdf5
        else b"MATLAB 5.0 MAT-file".ljust(128)
    )
    draw.put(tmp_path / "lfw_att_40.mat", head)
    monkeypatch.setitem(sys.modules, module, None)  # what an import of it then meets
    with pytest.raises(
        MissingData,
        match=(
            f"lfw_att_40.mat cannot be read without {package}, which is not installed: pip install {package}"
        ),
    ):
        recognition.lfwa(tmp_path, "train")


def test_lfwa_messages(tmp_path: Path):
    with pytest.raises(MissingData, match=r"expected .*lfw_att_40\.mat; it is missing"):
        recognition.lfwa(tmp_path, "train")
    pytest.importorskip("scipy.io")
    draw.lfwa(tmp_path, hdf5=False)
    (tmp_path / "indices_train_test.mat").rename(tmp_path / "split.mat")
    with pytest.raises(MissingData, match=r"expected .*indices_train_test\.mat; it is missing"):
        recognition.lfwa(tmp_path, "train")
    assert len(recognition.lfwa(tmp_path, "train", indices="split.mat")) == 2
    with pytest.raises(MissingData, match="has no variable 'indices_img_train'"):
        recognition.lfwa(tmp_path, "train", indices="lfw_att_40.mat")
