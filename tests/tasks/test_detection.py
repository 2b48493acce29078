"""The detector's task, its network and its training pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mien import geometry
from mien.tasks.detection import (
    FACES,
    HFLIP_ORDER,
    ROWS,
    FaceTask,
    cells,
    clip_to_window,
    decode,
    pad_rows,
    transform_faces,
    weighted_nms,
)
from mien.types import Crop, Detection

SIDE = 128
N = len(cells((SIDE, SIDE))[0])


def label(x: float, y: float, w: float, h: float, score: float = 0.9) -> np.ndarray:
    """A face whose points sit at the usual places of its box."""
    at = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)])
    return np.array([x, y, w, h, *(at * (w, h) + (x, y)).ravel(), score])


def encode(rows: np.ndarray, size: tuple[int, int], score: float = 4.0) -> np.ndarray:
    """Rows (n, 16) -> raw answers (cells, 15) that encode them, at the nearest cell of a fitting stride."""
    centers, strides = cells(size)
    raw = np.zeros((len(centers), 15), np.float32)
    raw[:, 0] = -8
    for r in rows:
        middle, extent = (r[:2] + r[2:4]) / 2, r[2:4] - r[:2]
        stride = 8 if extent.max() < 45 else 16 if extent.max() < 90 else 32
        i = int(np.argmin(np.abs(centers - middle).sum(1) + 1e6 * (strides != stride)))
        raw[i, 0] = score
        raw[i, 1:3] = (middle - centers[i]) / strides[i]
        raw[i, 3:5] = np.log(extent / strides[i])
        raw[i, 5:] = ((r[4:14].reshape(5, 2) - centers[i]) / strides[i]).ravel()
    return raw


def whole(size: tuple[int, int], affine: np.ndarray | None = None) -> Crop:
    return Crop(np.zeros((size[1], size[0], 3), np.uint8), np.eye(2, 3) if affine is None else affine)


FACES3 = np.stack([label(10, 10, 20, 24), label(60, 50, 60, 70), label(90, 8, 12, 14)])


def test_reading_gives_back_what_was_encoded() -> None:
    affine = geometry.about((5, 9), scale=0.5, degrees=0, shift=(3, 4))
    found = FACES.read(encode(transform_faces(FACES3, affine, False), (160, 96)), whole((160, 96), affine))
    assert len(found) == 3
    for d in found:
        best = FACES3[np.argmin(np.abs(FACES3[:, 0] - d.box[0]))]
        np.testing.assert_allclose(d.box, [*best[:2], *(best[:2] + best[2:4])], atol=1e-3)
        np.testing.assert_allclose(d.points, best[4:14].reshape(5, 2), atol=1e-3)
        assert d.score == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-5)


def test_raw_answers_must_fit_the_picture() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        decode(np.zeros((10, 15), np.float32), (64, 64), 0.5)


def test_merging_keeps_one_a_face_and_averages_those_that_agree() -> None:
    boxes = np.array([(0, 0, 10, 10), (1, 0, 11, 10), (4, 0, 14, 10), (50, 50, 60, 60)], float)
    kept = weighted_nms(boxes, np.array([0.9, 0.9, 0.6, 0.5]), np.zeros((4, 5, 2)), 0.4)
    assert [d.score for d in kept] == [0.9, 0.5]
    np.testing.assert_allclose(kept[0].box, (0.5, 0, 10.5, 10))
    assert weighted_nms(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2)), 0.4) == []


def test_mirror_keeps_the_picture_order_of_points() -> None:
    face = label(10, 20, 40, 50)
    row = transform_faces(face, geometry.about((63.5, 63.5), mirror=True), True)[0]
    points = row[4:14].reshape(5, 2)
    assert points[0, 0] < points[1, 0] and points[3, 0] < points[4, 0]
    np.testing.assert_allclose(points[:, 0], 127 - face[4:14].reshape(5, 2)[list(HFLIP_ORDER), 0])
    np.testing.assert_allclose(row[:4], [127 - 50, 20, 127 - 10, 70])


def test_a_turned_box_follows_its_ellipse() -> None:
    row = transform_faces(label(40, 30, 40, 60), geometry.about((60, 60), degrees=90), False)[0]
    np.testing.assert_allclose(row[:4], [30, 40, 90, 80], atol=1e-9)


def test_window_drops_cuts_and_doubts() -> None:
    places = ((10, 10, 20, 20), (-12, 10, 20, 20), (-6, 40, 20, 20), (200, 0, 20, 20), (50, 50, 4, 4))
    rows = np.stack([label(*p) for p in places])
    out = clip_to_window(transform_faces(rows, np.eye(2, 3), False), (0, 0, 100, 100))
    assert len(out) == 4  # the one beyond the window is gone
    np.testing.assert_array_equal(out[:, 14], [0.9, 0.0, 0.9, 0.0])
    assert out[1, 0] == 0 and out[2, 0] == -6  # unsure: cut; sure: whole, even beyond the window


def test_padding_keeps_the_largest() -> None:
    many = np.stack([label(0, 0, 10 + i, 10) for i in range(ROWS + 5)])
    rows = pad_rows(transform_faces(many, np.eye(2, 3), False))
    assert rows.shape == (ROWS, 16) and rows[0, 2] == 10 + ROWS + 4 and rows[-1, 2] == 15
    assert FACES.missing_target((SIDE, SIDE))[0].shape == (ROWS, 16)


def target(*faces: np.ndarray) -> np.ndarray:
    rows = np.stack(faces) if faces else np.zeros((0, 15))
    return FACES.encode_target(rows, np.eye(2, 3), False, (SIDE, SIDE))[0]


def test_loss_of_boxes_and_points_is_zero_at_the_truth() -> None:
    torch = pytest.importorskip("torch")
    mask, truth = torch.ones(1, dtype=torch.bool), torch.from_numpy(target(FACES3[1]))[None]
    row = transform_faces(FACES3[1], np.eye(2, 3), False)[0]
    centers, strides = cells((SIDE, SIDE))
    raw = np.zeros((1, N, 15), np.float32)
    raw[..., 0] = -4
    raw[0, :, 1:3] = ((row[:2] + row[2:4]) / 2 - centers) / strides[:, None]
    raw[0, :, 3:5] = np.log((row[2:4] - row[:2]) / strides[:, None])
    raw[0, :, 5:] = ((row[4:14].reshape(1, 5, 2) - centers[:, None]) / strides[:, None, None]).reshape(-1, 10)
    at_truth = torch.from_numpy(raw)
    only_score = FaceTask(box_weight=0, point_weight=0).criterion()
    both = FACES.criterion()
    assert abs(float(both(at_truth, truth, mask)) - float(only_score(at_truth, truth, mask))) < 1e-3
    off = at_truth.clone()
    off[..., 1] += 0.5
    assert float(both(off, truth, mask)) - float(only_score(off, truth, mask)) > 0.1


def test_score_loss_wants_faces_where_they_are_and_none_elsewhere() -> None:
    torch = pytest.importorskip("torch")
    loss, mask = FACES.criterion(), torch.ones(1, dtype=torch.bool)
    claim = torch.from_numpy(encode(transform_faces(FACES3[1], np.eye(2, 3), False), (SIDE, SIDE)))[None]
    blank = torch.zeros(1, N, 15)
    blank[..., 0] = -8
    face, nothing = (torch.from_numpy(target(*f))[None] for f in ((FACES3[1],), ()))
    assert float(loss(blank, nothing, mask)) < 1e-3 < 1 < float(loss(claim, nothing, mask))
    assert float(loss(claim, face, mask)) < float(loss(blank, face, mask))


def test_an_unsure_face_teaches_nothing_about_scores() -> None:
    torch = pytest.importorskip("torch")
    raw = torch.zeros(1, N, 15, requires_grad=True)
    unsure = torch.from_numpy(target(label(30, 30, 60, 60, 0.4)))[None]
    FACES.criterion()(raw, unsure, torch.ones(1, dtype=torch.bool)).backward()
    assert raw.grad is not None
    grad = raw.grad[0, :, 0].numpy()
    inside = ((cells((SIDE, SIDE))[0] > 30) & (cells((SIDE, SIDE))[0] < 90)).all(1)
    assert inside.sum() > 10 and (grad[inside] == 0).all() and (grad[~inside] != 0).sum() > N // 2
    assert (raw.grad[0, :, 1:] == 0).all()


def test_unknown_pictures_give_zero_loss_and_zero_gradients() -> None:
    torch = pytest.importorskip("torch")
    raw = torch.randn(2, N, 15, requires_grad=True)
    loss = FACES.criterion()(raw, torch.zeros(2, ROWS, 16), torch.zeros(2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0 and raw.grad is not None and (raw.grad == 0).all()


def test_assignment_puts_sizes_on_strides_and_a_cell_serves_one_face() -> None:
    torch = pytest.importorskip("torch")
    from mien.tasks.detection import assign

    centers, strides = (torch.tensor(v).float() for v in cells((SIDE, SIDE)))
    faces = np.stack(
        [label(8, 8, 10, 10), label(9, 9, 10, 10), label(30, 30, 60, 64), label(-10, -10, 130, 140)]
    )
    truth = torch.from_numpy(transform_faces(faces, np.eye(2, 3), False)).float()
    picture = torch.zeros(4, dtype=torch.long)
    raw = torch.zeros(1, N, 15)
    raw[..., 3:5] = 1.4  # boxes of four strides, as the network starts
    face, cell = assign(raw, truth, picture, centers, strides, SIDE)
    assert len(set(cell.tolist())) == len(cell)
    used = {int(f): {int(strides[c]) for g, c in zip(face, cell, strict=True) if g == f} for f in face}
    assert used[2] == {16} and used[3] == {32} and {8} in (used.get(0), used.get(1))


def test_metric_counts_hits_wrongs_and_leaves_unsure_ones_out() -> None:
    metric = FACES.metrics()
    truth = np.stack([label(0, 0, 10, 10), label(40, 40, 20, 20), label(80, 0, 20, 20, 0.4)])

    def detection(f: np.ndarray, shift: float = 0.0) -> Detection:
        box, points = np.array([*f[:2], *(f[:2] + f[2:4])], np.float32), f[4:14].reshape(5, 2) + (shift, 0)
        return Detection(box, 0.9, points.astype(np.float32))

    metric.update([detection(truth[0], 1.0), detection(truth[2]), detection(label(0, 60, 9, 9))], truth)
    assert metric.compute() == {"recall": 0.5, "precision": 0.5, "point_error": pytest.approx(10.0), "n": 2}


def test_network_is_small_and_takes_any_multiple_of_32() -> None:
    torch = pytest.importorskip("torch")
    from mien.models.detector import detector

    model = detector().eval()
    assert sum(p.numel() for p in model.parameters()) < 400_000
    assert model.builder[0] == "detector" and model.tasks == (FACES,)
    with torch.no_grad():
        out = model(torch.zeros(2, 3, 64, 96))["faces"]
    assert out.shape == (2, len(cells((96, 64))[0]), 15)
    scores = 1 / (1 + np.exp(-out[..., 0].numpy()))
    assert (scores < 0.05).all()  # an untrained network starts without faces


def test_network_rows_follow_the_order_of_cells() -> None:
    torch = pytest.importorskip("torch")
    from mien.models.detector import detector

    model = detector(stem=4, widths=(4, 4, 4, 4), depths=(0, 0, 0, 0), dim=4, head=1)
    for number, head in enumerate(model.heads):
        last = list(head.children())[-1]
        assert isinstance(last, torch.nn.Conv2d) and last.bias is not None
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.constant_(last.bias, float(number))
    with torch.no_grad():
        rows = model.eval()(torch.zeros(1, 3, 64, 96))["faces"][0, :, 0].numpy()
    np.testing.assert_array_equal(8.0 * 2**rows, cells((96, 64))[1])


@pytest.fixture(scope="module")
def photos() -> list:
    """Two drawn photos: one with a face at a known place, one with many small ones."""
    from mien.data.detection import Photo

    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (240, 320, 3), dtype=np.uint8) for _ in range(2)]
    faces = [
        np.stack([label(100, 60, 90, 110)]),
        np.stack([label(20 + 60 * i, 40 + 20 * i, 30, 36) for i in range(4)]),
    ]
    return [
        Photo(str(i), p, f.astype(np.float32)) for i, (p, f) in enumerate(zip(pictures, faces, strict=True))
    ]


def test_source_is_a_function_of_index_and_generator(photos: list) -> None:
    from mien.data.detection import MosaicSource

    source = MosaicSource(photos)
    for i in range(12):
        a, b = (source.example(i % 2, np.random.default_rng([3, i])) for _ in range(2))
        assert a.pixels.shape == (320, 320, 3) and a.pixels.dtype == np.uint8
        np.testing.assert_array_equal(a.pixels, b.pixels)
        np.testing.assert_array_equal(a.labels["faces"][0], b.labels["faces"][0])


def test_faces_of_a_mosaic_stay_in_their_tile(photos: list) -> None:
    from mien.data.detection import show, tiled

    rng = np.random.default_rng(1)
    for _ in range(30):
        tile = (80, 160, 160, 240)
        affine, mirrored = tiled(photos[1], tile, rng)
        pixels, rows = show(photos[1], affine, mirrored, tile, (0, 0, 0))
        assert pixels.shape == (80, 80, 3)
        confident, middle = rows[:, 14] >= 0.6, (rows[:, :2] + rows[:, 2:4]) / 2
        assert ((middle[confident] >= (79.5, 159.5)) & (middle[confident] <= (159.5, 239.5))).all()
        cut = rows[~confident]
        assert (cut[:, :2] >= (79.5, 159.5)).all() and (cut[:, 2:4] <= (159.5, 239.5)).all()


def test_pixels_and_labels_move_together() -> None:
    from mien.data.detection import Photo, around_face, show

    face = label(100, 60, 90, 110)
    picture = np.zeros((240, 320, 3), np.uint8)
    x, y = face[4:6].astype(int)  # a bright spot on the first eye, in the picture's order
    picture[y - 4 : y + 5, x - 4 : x + 5] = 255
    photo = Photo("spot", picture, face[None].astype(np.float32))
    rng, seen = np.random.default_rng(2), 0
    for _ in range(40):
        affine, mirrored = around_face(photo, 320, rng)
        pixels, rows = show(photo, affine, mirrored, (0, 0, 320, 320), (0, 0, 0))
        if len(rows) and rows[0, 14] > 0.6 and pixels.max() > 200:
            ys, xs = np.nonzero(pixels[..., 0] > 127)
            eye = rows[0, 4:14].reshape(5, 2)[1 if mirrored else 0]
            clear = min(xs.min(), ys.min()) > 0 and max(xs.max(), ys.max()) < 319
            if clear:
                seen += 1
                assert np.hypot(xs.mean() - eye[0], ys.mean() - eye[1]) < 3.5
    assert seen > 10


def test_large_and_small_faces_both_occur(photos: list) -> None:
    from mien.data.detection import MosaicSource

    source = MosaicSource(photos)
    rows = np.concatenate(
        [source.example(i % 2, np.random.default_rng([5, i])).labels["faces"][0] for i in range(120)]
    )
    rows = rows[rows[:, 14] >= 0.6]
    sides = np.sqrt((rows[:, 2:4] - rows[:, :2]).prod(1))
    assert sides.min() < 12 and sides.max() > 180


def test_background_touches_no_face(photos: list) -> None:
    from mien.data.detection import Photo, background

    marked = np.zeros((240, 320, 3), np.uint8)
    marked[60:170, 100:190] = 255
    made = [background(Photo("m", marked, photos[0].faces), 64, np.random.default_rng(i)) for i in range(20)]
    assert any(m is not None for m in made) and all(m.max() == 0 for m in made if m is not None)


def test_the_pack_reads(data_folder: Path) -> None:
    from mien.data.detection import PhotosDataset

    val = PhotosDataset(data_folder, "val")
    assert len(val) == 200
    for pixels, faces in val:
        assert pixels.ndim == 3 and faces.shape[1] == 15


@pytest.fixture
def data_folder() -> Path:
    import os

    folder = Path(os.environ.get("MIEN_DATA", "../shared/data"))
    if not (folder / "photos" / "val.parquet").is_file():
        pytest.skip(f"needs the data pack's photos; none at {folder} (set MIEN_DATA)")
    return folder


def test_thresholds_are_the_tasks_own() -> None:
    raw = encode(transform_faces(FACES3, np.eye(2, 3), False), (SIDE, SIDE), 0.0)
    assert len(FaceTask(threshold=0.4).read(raw, whole((SIDE, SIDE)))) == 3
    assert FaceTask(threshold=0.6).read(raw, whole((SIDE, SIDE))) == []
