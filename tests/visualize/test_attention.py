"""Where a network looked: the weights shown are those used, maps sum to 1 and lie upright, pictures say what
they should.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

import mien
from mien.errors import BadArray, UsageError
from mien.inference.reader import Reader
from mien.models.decoders import Attention, QueryDecoder, lay_out
from mien.models.faceptor import faceptor_base, faceptor_tiny
from mien.models.qface import FUSIONS, qface_tiny
from mien.models.torch_model import TorchModel
from mien.tasks import AGE, ATTRIBUTES, EXPRESSION, IDENTITY, LANDMARKS, PARSING
from mien.types import Crop
from mien.visualize import attention, drawing


def network(make, **arguments):
    torch.manual_seed(0)
    return make(size=64, **arguments).eval()


@pytest.fixture(scope="module", params=[qface_tiny, faceptor_tiny], ids=["qface", "faceptor"])
def read(request, astronaut) -> tuple[Reader, mien.Face]:
    """A reader with an untrained network, and the astronaut's face as it read it."""
    reader = mien.load(TorchModel(network(request.param)), threads=1)
    return reader, reader(astronaut)[0]


def crop_of(side: int = 64) -> Crop:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return Crop(pixels, np.eye(2, 3))


# The weights


def test_the_weights_are_those_of_the_fast_path():
    torch.manual_seed(0)
    module = Attention(16, 4)
    query, key, value = torch.randn(2, 3, 16), torch.randn(2, 9, 16), torch.randn(2, 9, 16)
    weights = module.weights(query, key)
    assert weights.shape == (2, 4, 3, 9)
    shown = module.out((weights @ module.split(module.v(value))).transpose(1, 2).flatten(2))
    assert torch.allclose(shown, module(query, key, value), atol=1e-6)


def test_faceptors_attention_is_what_its_last_layer_reads_with():
    model = network(faceptor_tiny)
    images, kept = torch.randn(2, 3, 64, 64), {}
    cross = model.decoder.layers[-1].cross
    cross.register_forward_hook(lambda _, given, answer: kept.update(value=given[2], answer=answer))
    with torch.no_grad():
        model(images)
        seen = model.attention(images)
        weights = torch.cat(list(seen.values()), 1).transpose(1, 2)
        shown = cross.out((weights @ cross.split(cross.v(kept["value"]))).transpose(1, 2).flatten(2))
    assert torch.allclose(shown, kept["answer"], atol=1e-6)
    queries = {"landmarks": 68, "points5": 5, "parsing": 19, "age": 101, "expression": 8, "attributes": 40}
    assert {k: tuple(v.shape) for k, v in seen.items()} == {
        k: (2, n, 4, 16 + 4) for k, n in queries.items()
    }  # identity has none
    assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)
    assert model.grids(images) == ((4, 4), (2, 2))


def test_each_task_gets_its_own_queries():
    both, alone = network(faceptor_tiny, tasks=(AGE, ATTRIBUTES)), network(faceptor_tiny, tasks=(ATTRIBUTES,))
    alone.load_state_dict({k: v[101:] if k.startswith("query_") else v for k, v in both.state_dict().items()})
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(
            both.attention(images)["attributes"], alone.attention(images)["attributes"], atol=1e-6
        )


def test_six_levels_of_the_base_size():
    with torch.device("meta"):
        model, images = faceptor_base(size=112, levels=(11, 1, 3, 5, 7, 9)), torch.empty(1, 3, 112, 112)
        assert model.attention(images)["attributes@celeba"].shape == (1, 40, 8, 6 * 49)
    assert model.grids(images) == ((7, 7),) * 6


def test_tokens_stand_level_by_level_and_row_by_row():
    torch.manual_seed(0)
    decoder = QueryDecoder((3, 5), dim=8, heads=2, layers=1, ffn=8)
    memory = decoder.memory([torch.randn(1, 3, 4, 6), torch.randn(1, 5, 2, 3)])
    _, value = decoder.tokens(memory)
    assert torch.equal(value[0, 1 * 6 + 2], memory[0][0, :, 1, 2])
    assert torch.equal(value[0, 24 + 1 * 3 + 2], memory[1][0, :, 1, 2])


def test_laying_out_by_hand():
    """Two heads, a 2 x 4 level and a 1 x 2 level."""
    fine, coarse = torch.arange(8.0) / 100, torch.tensor([0.4, 0.32])
    weights = torch.stack([torch.cat([fine, coarse]), torch.cat([fine * 3, coarse * 0])])
    got = lay_out(weights, [(2, 4), (1, 2)])
    expected = torch.tensor([[0.05, 0.07, 0.08, 0.10], [0.13, 0.15, 0.16, 0.18]])
    assert torch.allclose(got, expected)
    assert torch.allclose(got.sum(), weights.mean(0).sum())
    assert torch.equal(lay_out(weights[None], [(2, 4), (1, 2)])[0], got)
    with pytest.raises(UsageError, match="10 tokens"):
        lay_out(weights, [(2, 4)])
    with pytest.raises(UsageError, match="does not divide"):
        lay_out(torch.ones(1, 13), [(3, 3), (2, 2)])


# The maps


def test_every_label_has_a_map_that_sums_to_one(read):
    reader, face = read
    maps = attention.attention_of(reader, face)
    assert tuple(maps["attributes"]) == ATTRIBUTES.names
    assert tuple(maps["expression"]) == EXPRESSION.names
    assert list(maps["age"]) == [str(n) for n in range(101)]
    assert "identity" not in maps
    for by_label in maps.values():
        for seen in by_label.values():
            assert seen.shape == (4, 4)
            assert seen.dtype == np.float32
            assert (seen >= 0).all()
            assert seen.sum() == pytest.approx(1, abs=1e-5)
    assert not np.allclose(maps["attributes"]["Male"], maps["attributes"]["Eyeglasses"], atol=1e-6)


def test_network_answerer_and_reader_face_and_crop_are_one(read):
    reader, face = read
    first = attention.attention_of(reader, face)["attributes"]["Male"]
    for model in (reader.model, reader.model.model):
        assert np.array_equal(attention.attention_of(model, face.crop)["attributes"]["Male"], first)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_of_qface(fusion):
    model = network(qface_tiny, tasks=(EXPRESSION,), fusion=fusion)
    seen = attention.attention_of(model, crop_of())["expression"]["fear"]
    with torch.no_grad():
        weights = model.attention(torch.from_numpy(model.view.tensor(crop_of().pixels[None])))["expression"]
    expected = weights[0, EXPRESSION.names.index("fear")].mean(0).reshape(-1, 4, 4).sum(0)
    assert np.allclose(seen, expected, atol=1e-6)


# The pictures


def test_heat_is_where_the_map_is():
    pixels = np.full((40, 60, 3), 120, np.uint8)
    seen = np.zeros((2, 3))
    seen[0, 2] = 5
    hot = drawing.heat(pixels, seen)
    assert hot.shape == (40, 60, 3)
    assert (pixels == 120).all()
    changed = (hot != 120).any(-1)
    assert changed[:20, 40:].all()
    assert not changed[:, :10].any()
    assert not changed[30:].any()
    red, _, blue = (int(v) for v in hot[5, 55])
    assert red > 180 > blue
    assert np.array_equal(drawing.heat(pixels, seen / 7), hot)  # scale does not matter
    for flat in (np.zeros((2, 3)), np.full((2, 3), 0.2)):
        assert np.abs(drawing.heat(pixels, flat).astype(int) - 120).max() <= 1


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((0, 2)), -np.ones((2, 2)), np.full((2, 2), np.nan)])
def test_what_is_no_map_is_not_drawn(bad):
    with pytest.raises(UsageError, match="map to draw"):
        drawing.heat(np.zeros((8, 8, 3), np.uint8), bad)
    with pytest.raises(BadArray):
        drawing.heat(np.zeros((8, 8)), np.ones((2, 2)))


def test_a_sheet_has_a_tile_a_label():
    rng = np.random.default_rng(0)
    maps = {n: rng.random((4, 4), np.float32) for n in ATTRIBUTES.names}
    crop = crop_of(attention.SIDE)
    answer = ATTRIBUTES.read(np.where(np.arange(40) == 9, 2.0, -2.0), crop)
    picture = attention.sheet(maps, crop, answer, title="attributes")
    step, tall = attention.SIDE + attention.GAP, attention.SIDE + attention.CAPTION
    assert picture.shape == (attention.HEAD + 5 * tall + attention.GAP, 8 * step + attention.GAP, 3)

    def part(row: int, column: int, top: int, height: int) -> np.ndarray:
        x, y = attention.GAP + column * step, attention.HEAD + row * tall + top
        return picture[y : y + height, x : x + attention.SIDE]

    assert np.array_equal(part(1, 1, 0, attention.SIDE), drawing.heat(crop.pixels, maps[ATTRIBUTES.names[9]]))
    green = [
        (r, c)
        for r in range(5)
        for c in range(8)
        if (part(r, c, attention.SIDE, attention.CAPTION) == drawing.BOX).all(-1).any()
    ]
    assert green == [(1, 1)]  # the one likely label, and only where it stands
    assert (picture[: attention.HEAD] != picture[0, 0]).any()


def test_captions_stay_on_their_tiles():
    crop, wide = crop_of(attention.SIDE), "W" * 24
    plain = attention.sheet({"a": np.ones((2, 2), np.float32), "b": np.ones((2, 2), np.float32)}, crop)
    long = attention.sheet({wide: np.ones((2, 2), np.float32), "b": np.ones((2, 2), np.float32)}, crop)
    second = np.s_[:, attention.SIDE + 2 * attention.GAP :]
    assert np.array_equal(plain[second], long[second])
    font = ImageFont.load_default(attention.LETTERS)
    assert max(map(font.getlength, ATTRIBUTES.names)) <= attention.SIDE < font.getlength(wide)


def test_a_sheet_keeps_the_crops_proportions_and_needs_a_map():
    crop = Crop(np.zeros((30, 60, 3), np.uint8), np.eye(2, 3))
    one = attention.sheet({"a": np.ones((2, 2), np.float32)}, crop, side=100)
    assert one.shape == (attention.HEAD + 50 + attention.CAPTION + attention.GAP, 100 + 2 * attention.GAP, 3)
    with pytest.raises(UsageError, match="no maps"):
        attention.sheet({}, crop)


def test_peaks():
    assert attention.peak(np.full((4, 4), 1 / 16)) == pytest.approx(1)
    assert attention.peak(np.eye(16)[3].reshape(4, 4)) == pytest.approx(16)


def test_one_file_per_face_and_task(read, tmp_path):
    reader, face = read
    wanted = attention.chosen(reader, ("attributes", "expression"))
    paths = attention.save(tmp_path / "new" / "maps", "a", reader, [face, face], wanted)
    assert {p.name for p in paths} == {f"a-{i}-{t}.jpg" for i in (1, 2) for t in ("attributes", "expression")}
    step, tall = attention.SIDE + attention.GAP, attention.SIDE + attention.CAPTION
    for name, columns, rows in (("attributes", 8, 5), ("expression", 4, 2)):
        with Image.open(tmp_path / "new" / "maps" / f"a-2-{name}.jpg") as image:
            assert image.format == "JPEG"
            assert image.size == (
                columns * step + attention.GAP,
                attention.HEAD + rows * tall + attention.GAP,
            )
    (alone,) = attention.save(
        tmp_path, "a", reader, [face], attention.chosen(reader, reader.requested, "Eyeglasses")
    )
    assert alone.name == "a-1-attributes-Eyeglasses.jpg"
    with Image.open(alone) as image:
        assert image.size == (
            attention.LARGE + 2 * attention.GAP,
            attention.HEAD + attention.LARGE + attention.CAPTION + attention.GAP,
        )


# What is asked for, and what is refused


def test_what_is_drawn():
    model = network(faceptor_tiny, tasks=(AGE, LANDMARKS, PARSING, EXPRESSION, IDENTITY))
    names = ("age", "landmarks", "parsing", "expression")
    assert attention.chosen(model, names) == {"parsing": PARSING.names, "expression": EXPRESSION.names}
    assert attention.chosen(model, names, "fear") == {"expression": ("fear",)}
    assert attention.chosen(model, names, "30") == {"age": ("30",), "landmarks": ("30",)}
    with pytest.raises(UsageError, match=r"no label 'Eyeglasses'.*expression: neutral, happiness"):
        attention.chosen(model, names, "Eyeglasses")
    with pytest.raises(UsageError, match=r"no label 'fear'.*only numbers"):
        attention.chosen(model, ("age",), "fear")
    with pytest.raises(UsageError, match="none of age, landmarks has named labels"):
        attention.chosen(model, ("age", "landmarks"))


def test_networks_without_attention_are_refused(reader):
    for model in (reader, reader.model):
        with pytest.raises(UsageError, match=r"mien\.onnx gives answers only.*\.safetensors"):
            attention.network_of(model)
    with pytest.raises(UsageError, match=r"Linear has no attention.*Q-Face or a Faceptor"):
        attention.network_of(torch.nn.Linear(2, 2))


def test_crops_and_modes_that_do_not_fit_are_refused():
    model = network(qface_tiny, tasks=(EXPRESSION,))
    with pytest.raises(UsageError, match=r"\(64, 64, 3\), not \(32, 32, 3\)"):
        attention.attention_of(model, crop_of(32))
    without = mien.Face(np.zeros(4, np.float32), 1.0, np.zeros((5, 2), np.float32))
    with pytest.raises(UsageError, match="not none"):
        attention.attention_of(model, without)
    with pytest.raises(UsageError, match=r"call eval\(\)"):
        attention.attention_of(model.train(), crop_of())


def test_importing_it_needs_no_torch():
    code = "import sys, mien.visualize.attention, mien.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
