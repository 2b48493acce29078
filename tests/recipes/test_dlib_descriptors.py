"""The teacher of identity: its file, its network, and the blends that it describes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mien.data import face_morphs
from mien.data.formats import pack
from mien.errors import BadWeights, MissingData
from recipes import dlib_descriptors
from tests.conftest import needs_pack

_rng = np.random.default_rng(0)


def whole(n: int) -> bytes:
    """A whole number as dlib writes it."""
    body = n.to_bytes((n.bit_length() + 7) // 8, "little")
    return bytes([len(body)]) + body


def layer(kind: str, sides: tuple[int, ...], before: tuple[int, ...] = ()) -> tuple[bytes, np.ndarray]:
    """The bytes of a layer with drawn numbers, and these."""
    numbers = _rng.normal(0, 0.1, int(np.prod(sides))).astype("<f4")
    head = bytes([len(kind)]) + kind.encode() + b"".join(map(whole, (*before, 2, *sides)))
    return head + numbers.tobytes() + struct.pack("<q", 7), numbers


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    """A file of the teacher's layers."""
    shapes = [
        (3, 32, 7),
        *(
            (a, b, 3)
            for c_in, c_out, _ in dlib_descriptors._BLOCKS
            for a, b in ((c_in, c_out), (c_out, c_out))
        ),
    ]
    parts = [b"\x01\x01\x01\x0dloss_metric_2"]
    numbers = []
    for c_in, c_out, k in shapes:
        for kind, n in (("con_4", c_out * c_in * k * k + c_out), ("affine_", 2 * c_out)):
            data, values = layer(kind, (n, 1, 1, 1))
            parts.append(data)
            numbers.append(values)
    data, values = layer("fc_2", (256, 128, 1, 1), before=(128, 256))
    path = tmp_path_factory.mktemp("teacher") / dlib_descriptors.FILE
    path.write_bytes(b"".join([*parts, data]))
    return path, [*numbers, values]


def test_layers_come_back_in_order(drawn: tuple[Path, list[np.ndarray]]) -> None:
    path, numbers = drawn
    found = list(dlib_descriptors.layers(path))
    assert [k for k, _ in found] == 29 * ["con_4", "affine_"] + ["fc_2"]
    assert all(np.array_equal(v, want) for (_, v), want in zip(found, numbers, strict=True))


def test_the_network_is_filled_and_answers(drawn: tuple[Path, list[np.ndarray]]) -> None:
    path, numbers = drawn
    teacher = dlib_descriptors.Teacher(path).eval()
    assert sum(p.numel() for p in teacher.parameters()) == sum(len(v) for v in numbers) == 5_614_592
    np.testing.assert_array_equal(teacher.first.conv.bias.detach(), numbers[0][-32:])
    np.testing.assert_array_equal(teacher.first.shift.detach().flatten(), numbers[1][32:])
    np.testing.assert_array_equal(teacher.out.weight.detach(), numbers[-1].reshape(256, 128).T)
    with torch.no_grad():
        faces = torch.randint(0, 256, (2, 3, 150, 150)).float()
        sides = [m.shape[-1] for m in _maps(teacher, faces)]
        assert sides == [35, 35, 35, 17, 17, 17, 17, 8, 8, 8, 4, 4, 4, 2]
        assert teacher(faces).shape == (2, 128)


def _maps(teacher: dlib_descriptors.Teacher, faces: torch.Tensor) -> list[torch.Tensor]:
    maps: list[torch.Tensor] = []
    hooks = [b.register_forward_hook(lambda m, given, out: maps.append(out)) for b in teacher.blocks]
    teacher(faces)
    for hook in hooks:
        hook.remove()
    return maps


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.dat").write_bytes(b"\x05con_4" + b"\x01\x01" * 5 + bytes(4))
    with pytest.raises(BadWeights, match="does not hold dlib's face descriptor"):
        dlib_descriptors.Teacher(tmp_path / "other.dat")


def test_pairs_are_of_two_faces_and_follow_from_the_seed() -> None:
    names = [f"s/{i}" for i in range(9)]
    rows = dlib_descriptors.pairs(names, ["t/1"], 50, seed=2)
    assert (
        rows
        == dlib_descriptors.pairs(names, ["t/1"], 50, seed=2)
        != dlib_descriptors.pairs(names, ["t/1"], 50, seed=3)
    )
    assert rows[-1] == ("t/1", "", 0.0) and len(rows) == 51
    assert all(a != b and {a, b} <= set(names) and 0.25 <= w <= 0.75 for a, b, w in rows[:-1])


def test_a_missing_table_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_morphs, "table", lambda: tmp_path / "blends.parquet")
    with pytest.raises(MissingData, match=r"python -m recipes\.dlib_descriptors"):
        face_morphs.FaceMorphs()


@needs_pack
@pytest.mark.slow
def test_blends_of_the_pack_are_described(
    drawn: tuple[Path, list[np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(face_morphs, "table", lambda: tmp_path / "blends.parquet")
    faces = face_morphs.Faces()
    assert not any("lfw_" in n for n in faces.names) and len(faces.names) > 20_000
    first, second = faces.names[0], faces.names[-1]
    mean = (faces[first].astype(float) + faces[second]) / 2
    np.testing.assert_allclose(faces.blend(first, second, 0.5), mean, atol=1)
    np.testing.assert_array_equal(faces.blend(first, "", 0.0), faces[first])
    rows = [(first, second, 0.5), (second, "", 0.0)]
    told = dlib_descriptors.describe(dlib_descriptors.Teacher(drawn[0]).eval(), faces, rows)
    table = {
        "first": [first, second],
        "second": [second, ""],
        "weight": [0.5, 0.0],
        "descriptor": told.tolist(),
    }
    pq.write_table(pa.table(table), tmp_path / "blends.parquet")
    data = face_morphs.FaceMorphs(mean_fraction=0.3)
    assert len(data) == 2 and data[0].image.shape == (176, 176, 3)
    np.testing.assert_allclose(
        data[0].labels["identity"], pack.centered(told.astype(np.float32), 0.3)[0], rtol=1e-5
    )
    np.testing.assert_array_equal(data[0].points, face_morphs.POINTS)


@needs_pack
def test_centered_descriptors_have_no_mean_or_what_is_left_of_it() -> None:
    none, some = (np.stack(list(pack.descriptors(mean_fraction=left).values())) for left in (0.0, 0.3))
    assert np.abs(none.mean(0)).max() < 1e-3 and none.std() == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(
        some - none, np.broadcast_to(some.mean(0) - none.mean(0), some.shape), atol=1e-4
    )
    assert np.linalg.norm(some.mean(0)) > 1
