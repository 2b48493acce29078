"""Moves of the picture: what a mirror does to the places of a set whose labels lean to one side."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np

from mien import geometry
from mien.data import synthetic
from mien.data.augment import NONE, Augment, crop_example, grayed, tightened
from mien.data.dataset import FaceSource
from mien.data.mixture import Mixture
from mien.tasks import EXPRESSION, task
from mien.types import Sample, View


def test_a_label_offset_keeps_its_direction_in_a_flipped_picture():
    """Labels 2 px to the right of a drawn face's places: mirrored, they lie 2 px to the right of the mirrored
    places.
    """
    view = View((96, 96), "head", (0.5,) * 3, (0.5,) * 3)
    picture, labels, five = synthetic.draw(np.random.default_rng(3))
    honest = Sample(picture, labels, five)
    leaning = Sample(
        picture,
        {**labels, "landmarks": labels["landmarks"] + (2.0, 0.0)},
        five + (2.0, 0.0),
        label_offset_x=2.0,
    )
    step = 2.0 / 96 * float(np.hypot(*geometry.fit_similarity(five, geometry.template_points(view))[0, :2]))
    for mirror in (0.0, 1.0):
        still = Augment(0, 0, 0, mirror, 0, 0, 0, 0, 0, 0)
        a, b = (crop_example(s, view, still, np.random.default_rng(0)) for s in (honest, leaning))
        # the crop follows the leaning points, so places stay where they were in it and the picture moves
        # under them
        assert np.allclose(a.labels["landmarks"][0], b.labels["landmarks"][0], atol=1e-6)
        shown, moved = a.pixels.astype(float), b.pixels.astype(float)
        shift = step * 96
        assert (
            np.abs(np.roll(shown, -round(shift), 1) - moved)[20:-20, 20:-20].mean()
            < np.abs(shown - moved)[20:-20, 20:-20].mean()
        )


def test_a_tight_face_borrows_what_is_around_it_and_keeps_its_own():
    """A gray cut-out of a drawn face in another one's crop: its middle stays, the corners are the other's
    without color.
    """
    view, still = (
        View((96, 96), "head", (0.5,) * 3, (0.5,) * 3),
        Augment(0, 0, 0, 0, 0, 0, 0, 0, 0, fill_border=1, paste_background=1),
    )
    picture, _labels, five = synthetic.draw(np.random.default_rng(3))
    (left, top), (right, bottom) = five.min(0).astype(int) - 8, five.max(0).astype(int) + 8
    tight = Sample(grayed(picture)[top:bottom, left:right].copy(), {}, five - (left, top))
    other = np.random.default_rng(1).integers(0, 256, (96, 96, 3), np.uint8)
    alone = crop_example(tight, view, still, np.random.default_rng(0)).pixels
    both = crop_example(tight, view, still, np.random.default_rng(0), lambda rng: other).pixels
    assert np.array_equal(both[:8, :8], grayed(other)[:8, :8])
    assert np.array_equal(both[50:60, 44:52], alone[50:60, 44:52])
    colored = Sample(np.ascontiguousarray(picture[top:bottom, left:right]), {}, five - (left, top))
    assert np.array_equal(
        crop_example(colored, view, still, np.random.default_rng(0), lambda rng: other).pixels[:8, :8],
        other[:8, :8],
    )


def test_turn_and_size_of_parsing_crops_are_normally_distributed():
    """The official code's standard deviations: 18 degrees, where a uniform range of 18 has 10.4; and a tenth
    of the size.
    """
    view = View((64, 64), "head", (0.5,) * 3, (0.5,) * 3)
    moves = Augment(
        degrees=18,
        scale=0.1,
        shift=0,
        mirror=0,
        photometric=0,
        gray=0,
        blur=0,
        erase=0,
        noise=0,
        fill_border=0,
    )

    def drawn(augment: Augment) -> tuple[np.ndarray, np.ndarray]:
        rng, turns, sizes = np.random.default_rng(0), [], []
        base = geometry.template_points(view)
        for _ in range(1500):
            sample = Sample(np.zeros((64, 64, 3), np.uint8), {"points5": base}, base)
            eyes = crop_example(sample, view, augment, rng).labels["points5"][0]
            eyes = (eyes[1] - eyes[0]) * 64
            turns.append(np.degrees(np.arctan2(eyes[1], eyes[0])))
            sizes.append(np.hypot(*eyes) / np.hypot(*(base[1] - base[0])))
        return np.array(turns), np.array(sizes)

    turns, sizes = drawn(dataclasses.replace(moves, normal=True))
    assert abs(turns.std() - 18) < 1.2 and abs(sizes.std() - 0.1) < 0.01
    assert np.abs(turns).max() > 40
    turns, sizes = drawn(moves)
    assert abs(turns.std() - 10.4) < 0.6 and np.abs(turns).max() <= 18.01
    assert sizes.max() <= 1.101


def test_labels_are_encoded_by_the_tasks_that_are_given():
    """Those of a model may have other settings than the catalogue's, and labels of other tasks stay out."""
    sample = synthetic.toy(n=1, tasks=("age", "expression"))[0]
    dataset = [replace(sample, labels=sample.labels | {"age": 35.0})]
    view = View((64, 64), "head", (0.5,) * 3, (0.25,) * 3)
    later = replace(task("age@utkface"), year_offset=21)

    class Faces(list):
        name = "faces"

    source = FaceSource(Faces(dataset), view, Augment(), at="utkface")
    example = source.example(0, np.random.default_rng(0), [later, EXPRESSION])
    assert {n: t.tolist() for n, (t, _) in example.labels.items()} == {"age@utkface": [14, 14]}
    mixture = Mixture([(source, 2)], [later, EXPRESSION], seed=1, size=view.size)
    assert mixture.batch(0).targets["age@utkface"].tolist() == [[14, 14], [14, 14]]
    assert not mixture.batch(0).mask["expression"].any()
    every = FaceSource(Faces(dataset), view, Augment()).example(0, np.random.default_rng(0))
    assert every.labels["age"][0].tolist() == [35, 35]
    assert set(every.labels) == {"age", "expression"}


def test_a_tight_picture_shows_the_face_where_it_was_and_less_around_it():
    view = View((128, 128), "head", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    points = geometry.move_points(geometry.template_points(view), geometry.about((0, 0), shift=(200, 150)))
    picture = np.random.default_rng(0).integers(1, 256, (500, 600, 3)).astype(np.uint8)
    sample = Sample(picture, {}, points)
    plain = crop_example(sample, view, NONE, np.random.default_rng(1)).pixels
    tight = crop_example(sample, view, replace(NONE, tighten=1.0), np.random.default_rng(1)).pixels
    kept = tight.any(2)
    assert 0.2 < kept.mean() < 0.98
    assert kept[48:80, 48:80].all()
    assert np.abs(tight[kept].astype(int) - plain[kept]).mean() < 8  # edges are blended with black
    with_labels = np.random.default_rng(2)
    image, affine = tightened(picture, np.eye(2, 3), view, with_labels)
    assert image.shape[0] < 500
    assert affine[0, 2] >= 0
