"""Faces are covered where they are, nothing else changes, and no metadata goes along."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import mien
from mien import geometry
from mien.cli import app
from mien.errors import UsageError
from mien.types import Face
from mien.visualize.anonymization import GRAY, anonymize, region


def box_face(x1: float, y1: float, x2: float, y2: float) -> Face:
    return Face(np.array([x1, y1, x2, y2], np.float32), 0.9, np.zeros((5, 2), np.float32))


@pytest.fixture(scope="module")
def seen(astronaut):
    return mien.load(tasks=["parsing", "identity"], threads=1)(astronaut)


def noise(side: int = 100) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8)


@pytest.mark.parametrize("how", ["blur", "mosaic", "fill"])
def test_a_box_is_covered_and_the_rest_is_untouched(how) -> None:
    pixels = noise()
    face = box_face(20, 30, 60, 80)
    before = pixels.copy()
    out = anonymize(pixels, [face], how=how)
    assert np.array_equal(pixels, before)
    mask = region(face, (100, 100))
    assert mask[30:80, 20:60].all()
    assert 1.0 <= mask.sum() / (40 * 50) < 1.45
    assert np.array_equal(out[~mask], pixels[~mask])
    assert out[mask].std() < 0.4 * pixels[mask].std()
    if how == "fill":
        assert (out[mask] == GRAY).all()


def test_mosaic_has_blocks_of_a_sixth_of_the_face() -> None:
    out = anonymize(noise(), [box_face(20, 20, 80, 80)], how="mosaic")
    row = out[50, 20:80].astype(int)
    changes = (np.abs(np.diff(row, axis=0)).sum(1) > 0).sum()
    assert 5 <= changes <= 7
    stronger = anonymize(noise(), [box_face(20, 20, 80, 80)], how="mosaic", strength=2)
    assert (np.abs(np.diff(stronger[50, 20:80].astype(int), axis=0)).sum(1) > 0).sum() <= 3


def test_strength_grows_with_the_face() -> None:
    """The blur of a face twice as wide is twice as wide: what is left of noise falls alike in both."""
    small = anonymize(noise(80), [box_face(20, 20, 60, 60)])[30:50, 30:50].std()
    large = anonymize(noise(160), [box_face(40, 40, 120, 120)])[60:100, 60:100].std()
    assert large < small < 0.2 * noise().std()


@pytest.mark.parametrize(
    "box", [(-30, -30, 20, 20), (90, 90, 130, 140), (300, 300, 320, 320), (-10, -10, 500, 500)]
)
def test_faces_over_the_edge(box) -> None:
    out = anonymize(noise(), [box_face(*box)], how="fill")
    inside = out[max(0, box[1]) : max(0, box[3]), max(0, box[0]) : max(0, box[2])]
    assert (inside == GRAY).all()


def test_the_outline_leaves_hair_and_clothes(seen) -> None:
    pixels = seen.photo.pixels
    mask = region(seen[0], (512, 512))
    parsing = seen[0]["parsing"].mask_in(512, 512)
    names = seen[0]["parsing"].names
    for part in ("skin", "nose", "l_eye", "r_eye", "u_lip", "l_lip"):
        assert mask[parsing == names.index(part)].mean() > 0.99, part
    assert mask[parsing == names.index("hair")].mean() < 0.35
    assert mask[300:].sum() == 0
    out = anonymize(pixels, seen, how="fill")
    assert np.array_equal(out[~mask], pixels[~mask])


@pytest.mark.parametrize("how", ["blur", "mosaic", "fill"])
def test_the_network_no_longer_takes_it_for_the_same_person(how, seen) -> None:
    """Hair and clothes stay, and the network sees these too: similar it may be, the same it is not."""
    reader = mien.load(tasks=["identity"], threads=1)

    def similarity(pixels: np.ndarray) -> float:
        crop = geometry.align(pixels, seen[0].points, reader.model.view)
        return seen[0]["identity"].similarity(reader.read_crops([crop])[0]["identity"])

    assert similarity(seen.photo.pixels) > 0.99
    outlined = similarity(anonymize(seen.photo.pixels, seen, how=how))
    boxed = similarity(anonymize(seen.photo.pixels, [box_face(*seen[0].box)], how=how))
    assert outlined < 0.8
    assert boxed < 0.8


def test_a_wrong_mask_does_not_show_the_face(seen) -> None:
    wrong = replace(seen[0]["parsing"], mask=np.zeros_like(seen[0]["parsing"].mask))  # background everywhere
    face = Face(seen[0].box, 0.9, seen[0].points, {"parsing": wrong})
    mask = region(face, (512, 512))
    x1, y1, x2, y2 = (int(v) for v in face.box)
    assert mask[(y1 + y2) // 2, (x1 + x2) // 2]
    assert mask.sum() == pytest.approx(np.pi / 4 * 0.64 * (x2 - x1) * (y2 - y1), rel=0.05)


def test_wrong_settings() -> None:
    with pytest.raises(UsageError, match="blur, mosaic, fill, not 'pixelate'"):
        anonymize(noise(), [], how="pixelate")  # type: ignore[arg-type]
    for strength in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="strength"):
            anonymize(noise(), [], strength=strength)


def test_command_writes_upright_pictures_without_metadata(tmp_path, astronaut) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8825] = 6, "a camera", {1: "N", 2: (48.0, 51.0, 29.0)}
    turned = Image.open(astronaut).convert("RGB").rotate(90, expand=True)
    turned.save(tmp_path / "a.jpg", exif=exif, icc_profile=b"x" * 200)
    Image.fromarray(noise()).save(tmp_path / "none.png")
    (tmp_path / "bad.jpg").write_bytes(b"nope")
    done = CliRunner().invoke(
        app, ["anonymize", str(tmp_path), "--out", str(tmp_path / "out"), "--how", "fill", "--threads", "1"]
    )
    assert done.exit_code == 1, done.output
    assert "no face found, check it yourself" in done.output
    assert sorted(os.listdir(tmp_path / "out")) == ["a.jpg", "none.png"]
    with Image.open(tmp_path / "out" / "a.jpg") as image:
        assert not image.getexif()
        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi"}
        pixels = np.asarray(image).astype(int)
    original = np.asarray(Image.open(astronaut).convert("RGB")).astype(int)
    assert np.abs(pixels[300:] - original[300:]).mean() < 4
    assert np.abs(pixels[110:130, 215:235] - GRAY).max() < 12
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "none.png")), noise())


def test_command_does_not_write_over_originals(tmp_path, astronaut) -> None:
    Image.open(astronaut).save(tmp_path / "a.jpg")
    done = CliRunner().invoke(app, ["anonymize", str(tmp_path / "a.jpg"), "--out", str(tmp_path)])
    assert isinstance(done.exception, UsageError)
    assert "is one of the photos" in str(done.exception)
    refused = CliRunner().invoke(app, ["anonymize", astronaut, "--out", "o", "--how", "x"])
    assert refused.exit_code == 2
    assert "'x' is not one of" in refused.output
