r"""Labels for the heads of eyes, gaze, occlusion and quality, on aligned crops of faces.

    python -m recipes.face_state_labels all --teachers TEACHERS     # or, step by step:
    python -m recipes.face_state_labels screen --teachers TEACHERS
    python -m recipes.face_state_labels faces --teachers TEACHERS
    python -m recipes.face_state_labels occluded
    python -m recipes.face_state_labels photos
    python -m recipes.face_state_labels degraded

TEACHERS is a folder with `open-closed-eye-0001.onnx`, `gaze-estimation-adas-0002.xml` and
`head-pose-estimation-adas-0001.xml` (Open Model Zoo, Apache-2.0), run by OpenVINO: pip install openvino. Each
step writes one file to the cache folder `face_state`; `recipes.face_state` trains from them, and computes no
label again for a new network.

Closed eyes are rare: `screen` reads the eyes of many faces, and `faces` takes those with the lowest scores
besides random ones. A label of the eyes has two sources, the teacher and the distance of the lids by the
landmarks of the network; `faces` keeps both numbers. Gaze is the mean of the teacher's answers for a face and
for its mirror image; their difference is kept. `occluded` draws masks, sunglasses, hands and blocks, and
measures the covered shares of eyes, nose and mouth. `photos` takes faces with and without masks from
`face_boxes`. `degraded` blurs, shrinks, darkens, turns and covers faces, and keeps the cosine between the
identity embeddings of such a crop and of the plain one.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import typer

from mien import geometry, settings
from mien.data import set_aside
from mien.data.detection import decoded
from mien.data.formats import wild
from mien.data.occlusion import OCCLUDERS, covered_shares, degrade_for_identity, draw_occluder
from mien.inference.detector import Detector
from mien.inference.onnx_model import OnnxModel
from mien.inference.weights_file import WEIGHTS
from mien.tasks import ATTRIBUTES, LANDMARKS
from mien.types import Crop, View

app = typer.Typer(add_completion=False)
VIEW = View((128, 128), "head", (0, 0, 0), (1, 1, 1))
LARGE = View((224, 224), "head", (0, 0, 0), (1, 1, 1))  # where the teachers read eyes
EYE_WIDTH = 0.47  # of the distance between the eyes
MAYBE_SUNGLASSES = 0.4  # `darkness` below which a face is not taken as one without sunglasses
OPEN_CROP, GAZE_CROP = 1.6, 1.8  # side of an eye's crop in widths of the eye
Teachers = Annotated[Path, typer.Option(help="Folder of the teacher networks.")]
SETS = {
    "fairface": lambda: wild.fairface("train"),
    "celeba_wild": lambda: wild.celeba_wild("train"),
    "aaf": lambda: wild.aaf("train", landmarks=False),
    "fairface-aside": lambda: wild.fairface("aside"),
    "celeba_wild-aside": lambda: wild.celeba_wild("aside"),
}


def folder() -> Path:
    """Where the labels are."""
    path = settings.cache_root() / "face_state"
    path.mkdir(parents=True, exist_ok=True)
    return path


def square(pixels: np.ndarray, center: np.ndarray, side: float, out: int) -> np.ndarray:
    """A square around a place, (out, out, 3)."""
    f = out / max(side, 1.0)
    return geometry.warp(
        pixels, [[f, 0, out / 2 - f * center[0]], [0, f, out / 2 - f * center[1]]], (out, out)
    )


class EyeTeacher:
    """Probability that an eye is open, by `open-closed-eye-0001`."""

    def __init__(self, teachers: Path):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = ort.InferenceSession(
            teachers / "open-closed-eye-0001.onnx", options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, pixels: np.ndarray, center: np.ndarray, width: float) -> float:
        """pixels: (H, W, 3) RGB, upright; center and width of the eye."""
        eye = square(pixels, center, OPEN_CROP * width, 32)[..., ::-1]
        given = (eye.astype(np.float32) - 127).transpose(2, 0, 1)[None] / 255
        return float(self.session.run(None, {"input.1": given})[0].ravel()[1])


class GazeTeacher:
    """Yaw and pitch of gaze in degrees, as `Pose` counts them, by `gaze-estimation-adas-0002`."""

    def __init__(self, teachers: Path):
        import openvino

        core = openvino.Core()
        self.gaze, self.pose = (
            core.compile_model(str(teachers / name), "CPU", {"INFERENCE_NUM_THREADS": 1})
            for name in ("gaze-estimation-adas-0002.xml", "head-pose-estimation-adas-0001.xml")
        )

    def once(self, pixels: np.ndarray, eyes: list[np.ndarray], widths: list[float], box: Any) -> np.ndarray:
        """(yaw, pitch) of one picture (H, W, 3) RGB, upright.

        Args:
            eyes, widths: of the eye on the picture's left, then on its right.
            box: x1, y1, x2, y2 of the face.
        """
        x1, y1, x2, y2 = (float(v) for v in box)
        side = max(x2 - x1, y2 - y1)
        head = square(pixels, np.array([(x1 + x2) / 2, (y1 + y2) / 2]), side, 60)[..., ::-1]
        angles = self.pose({"data": head.astype(np.float32).transpose(2, 0, 1)[None]})
        yaw, pitch = (float(angles[f"angle_{a}_fc"].ravel()[0]) for a in "yp")
        crops = [
            square(pixels, c, GAZE_CROP * w, 60)[..., ::-1].astype(np.float32).transpose(2, 0, 1)[None]
            for c, w in zip(eyes, widths, strict=True)
        ]
        # the subject's left eye is on the picture's right; the crop is upright, so that there is no roll
        vector = self.gaze(
            {
                "left_eye_image": crops[1],
                "right_eye_image": crops[0],
                "head_pose_angles": np.array([[yaw, pitch, 0.0]], np.float32),
            }
        )["gaze_vector"].ravel()
        x, y, z = vector / np.linalg.norm(vector)
        return np.degrees([np.arctan2(x, -z), np.arcsin(y)])

    def __call__(
        self, pixels: np.ndarray, eyes: list[np.ndarray], widths: list[float], box: Any
    ) -> tuple[np.ndarray, float]:
        """The mean over the face and its mirror image, and the angle between the two."""
        plain = self.once(pixels, eyes, widths, box)
        w = pixels.shape[1] - 1
        flipped = [np.array([w - c[0], c[1]]) for c in eyes[::-1]]
        turned = self.once(
            np.ascontiguousarray(pixels[:, ::-1]),
            flipped,
            widths[::-1],
            (w - box[2], box[1], w - box[0], box[3]),
        )
        turned = turned * (-1, 1)
        return (plain + turned) / 2, float(np.hypot(*(plain - turned)))


def eye_geometry(points: np.ndarray) -> tuple[list[np.ndarray], list[float], list[float]]:
    """68 points -> centers, widths, and lid distances by width, of the picture's left eye and its right."""
    centers, widths, lids = [], [], []
    for first in (36, 42):
        p = points[first : first + 6]
        width = float(np.hypot(*(p[3] - p[0])))
        lid = (np.hypot(*(p[1] - p[5])) + np.hypot(*(p[2] - p[4]))) / 2
        centers.append(p.mean(0))
        widths.append(max(width, 1.0))
        lids.append(float(lid / max(width, 1.0)))
    return centers, widths, lids


def moved(points: np.ndarray, rng: np.random.Generator, amount: float = 1.0) -> np.ndarray:
    """Five points as a detector could have found them: the fit is turned, scaled and shifted a little."""
    d = float(np.hypot(*(points[1] - points[0]))) + float(np.hypot(*(points[3] - points[0])))
    move = geometry.about(
        points.mean(0), degrees=rng.normal(0, 3 * amount), scale=float(np.exp(rng.normal(0, 0.03 * amount))),
        shift=rng.normal(0, 0.015 * d * amount, 2),
    )  # fmt: skip
    return geometry.move_points(points, move)


@app.callback()
def main() -> None:
    """Labels of eyes, gaze, occlusion and quality."""


@app.command()
def screen(
    teachers: Teachers, limit: Annotated[int, typer.Option(help="Maximum faces of a set.")] = 9000
) -> None:
    """The teacher's opinion of the eyes of many faces, placed by five points."""
    teacher, out, since, total = EyeTeacher(teachers), dict[str, np.ndarray](), time.perf_counter(), 0
    for name, build in SETS.items():
        data = build()
        order = np.random.default_rng(0).permutation(len(data))[:limit]
        scores = np.full((len(data), 2), np.nan, np.float32)
        for i in order:
            sample = data[int(i)]
            large = geometry.align(sample.image, sample.points, LARGE)
            eyes = geometry.move_points(sample.points[:2], large.from_photo)
            width = EYE_WIDTH * float(np.hypot(*(eyes[1] - eyes[0])))
            scores[i] = [teacher(large.pixels, e, width) for e in eyes]
        out[name] = scores
        total += len(order)
    np.savez(folder() / "screen.npz", **out)
    typer.echo(f"{total} faces, {total / (time.perf_counter() - since):.0f} faces/s")


def chosen(scores: np.ndarray, lowest: int, others: int, seed: int) -> np.ndarray:
    """Numbers of faces: those with the lowest mean of their eyes' scores, and random others."""
    mean = np.where(np.isnan(scores).any(1), np.inf, scores.mean(1))
    order = np.argsort(mean)[:lowest]
    rest = np.setdiff1d(np.flatnonzero(np.isfinite(mean)), order)
    return np.concatenate([order, np.random.default_rng(seed).permutation(rest)[:others]])


@app.command()
def faces(
    teachers: Teachers,
    weights: Annotated[Path, typer.Option(help="The network whose landmarks and attributes are used.")] = (
        WEIGHTS / "mien.onnx"
    ),
    share: Annotated[float, typer.Option(help="Fewer faces: this fraction of the plan.")] = 1.0,
) -> None:
    """Eyes by teacher and lids, gaze, head pose, and what covers the eyes."""
    plan = {
        "fairface": (550, 600), "celeba_wild": (200, 250), "aaf": (150, 100),
        "fairface-aside": (100, 250), "celeba_wild-aside": (0, 200),
    }  # fmt: skip
    seen = np.load(folder() / "screen.npz")
    network = OnnxModel(weights, threads=1, tasks=["landmarks", "attributes"])
    open_teacher, gaze_teacher = EyeTeacher(teachers), GazeTeacher(teachers)
    columns: dict[str, list[Any]] = {
        k: [] for k in ("crop", "points5", "set", "index", "name", "eyes", "lids", "gaze", "gaze_gap", "yaw",
        "pitch", "glasses", "dark")
    }  # fmt: skip
    since = time.perf_counter()
    for name, (lowest, others) in plan.items():
        data, rng = SETS[name](), np.random.default_rng([1, len(name)])
        for i in chosen(seen[name], round(share * lowest), round(share * others), 2):
            sample = data[int(i)]
            crop = geometry.align(sample.image, sample.points, VIEW)
            raw = network(network.view.tensor(crop.pixels[None]))
            points = LANDMARKS.read(raw["landmarks"][0], Crop(crop.pixels, np.eye(2, 3))).points
            attributes = ATTRIBUTES.read(raw["attributes"][0], crop)
            large = geometry.align(sample.image, sample.points, LARGE)
            placed = geometry.move_points(
                points, geometry.compose(large.from_photo, geometry.invert(crop.from_photo))
            )
            centers, widths, lids = eye_geometry(placed)
            both = [
                (open_teacher(large.pixels, c, w) + open_teacher(large.pixels[:, ::-1], mirror_of(c), w)) / 2
                for c, w in zip(centers, widths, strict=True)
            ]
            box = (*placed.min(0), *placed.max(0))
            gaze, gap = gaze_teacher(large.pixels, centers, widths, widened(box))
            five = moved(sample.points, rng) if not name.endswith("aside") else sample.points
            shown = geometry.align(sample.image, five, VIEW)
            pose = pose_of(points)
            row = {
                "crop": shown.pixels, "points5": geometry.move_points(sample.points, shown.from_photo),
                "set": name, "index": int(i), "name": sample.name, "eyes": both, "lids": lids, "gaze": gaze,
                "gaze_gap": gap, "yaw": pose[0], "pitch": pose[1], "glasses": attributes["Eyeglasses"],
                "dark": darkness(large.pixels, centers, widths),
            }  # fmt: skip
            for key, value in row.items():
                columns[key].append(value)
    write("faces", columns)
    n = len(columns["crop"])
    typer.echo(f"{n} faces, {n / (time.perf_counter() - since):.1f} faces/s")


def mirror_of(center: np.ndarray) -> np.ndarray:
    """A place in the mirrored large picture."""
    return np.array([LARGE.size[0] - 1 - center[0], center[1]])


def widened(box: Any) -> tuple[float, float, float, float]:
    """The box of 68 points, which end at the brows, with the forehead."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return x1, y1 - 0.2 * (y2 - y1), x2, y2


def pose_of(points: np.ndarray) -> tuple[float, float, float]:
    """Head pose in degrees by the landmarks."""
    from mien.tasks.pose import pose_from_68

    return pose_from_68(points)


def darkness(pixels: np.ndarray, eyes: list[np.ndarray], widths: list[float]) -> float:
    """Brightness of the areas around the eyes by that of the cheeks below them; low under sunglasses."""
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float64)
    rate = list[float]()
    for center, width in zip(eyes, widths, strict=True):
        x, y, r = int(center[0]), int(center[1]), max(2, int(0.4 * width))
        eye = gray[max(0, y - r) : y + r, max(0, x - r) : x + r]
        below = y + int(1.5 * width)
        cheek = gray[max(0, below - r) : below + r, max(0, x - r) : x + r]
        if eye.size and cheek.size:
            rate.append(float(eye.mean() / max(cheek.mean(), 1)))
    return float(np.mean(rate)) if rate else 1.0


def write(name: str, columns: dict[str, list[Any]]) -> None:
    """One file of arrays, all or nothing."""
    path = folder() / f"{name}.npz"
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **{k: np.array(v) for k, v in columns.items()})
    part.replace(path)


@app.command()
def occluded(count: Annotated[int, typer.Option(help="Number of training crops.")] = 3000) -> None:
    """Drawn masks, sunglasses, hands and blocks, with the covered shares.

    Half of the faces are those of `faces`, if that file is there, so that they keep their other labels.
    """
    rng, path = np.random.default_rng(5), folder() / "faces.npz"
    known = np.load(path) if path.is_file() else None
    columns: dict[str, list[Any]] = {k: [] for k in ("crop", "points5", "source", "kind", "shares", "aside")}

    def add(crop: np.ndarray, points: np.ndarray, source: int, aside: bool) -> None:
        kind = OCCLUDERS[int(rng.integers(len(OCCLUDERS)))]
        drawn, alpha = draw_occluder(crop, points, kind, rng)
        row = {
            "crop": drawn, "points5": points, "source": source, "kind": kind,
            "shares": covered_shares(alpha, points), "aside": aside,
        }  # fmt: skip
        for key, value in row.items():
            columns[key].append(value)

    if known is not None:
        crops, points, sets = known["crop"], known["points5"], known["set"].tolist()
        of = [np.flatnonzero([s.endswith("aside") == kept for s in sets]) for kept in (False, True)]
        for j in (*rng.choice(of[0], count // 2), *rng.choice(of[1], count // 10)):
            add(crops[j], points[j], int(j), sets[j].endswith("aside"))
    done = len(columns["crop"])
    for name in ("fairface", "celeba_wild-aside"):
        data = SETS[name]()
        for i in rng.permutation(len(data)):
            aside = name.endswith("aside")
            if sum(a == aside for a in columns["aside"][done:]) >= (count // 5 if aside else count - done):
                break
            sample = data[int(i)]
            large = geometry.align(sample.image, sample.points, VIEW)
            eyes = geometry.move_points(sample.points[:2], large.from_photo)
            width = EYE_WIDTH * float(np.hypot(*(eyes[1] - eyes[0])))
            if darkness(large.pixels, list(eyes), [width, width]) < MAYBE_SUNGLASSES:
                continue
            crop = geometry.align(sample.image, sample.points if aside else moved(sample.points, rng), VIEW)
            add(crop.pixels, geometry.move_points(sample.points, crop.from_photo), -1, aside)
    write("occluded", columns)
    typer.echo(f"{len(columns['crop'])} crops")


@app.command()
def photos(
    min_width: Annotated[float, typer.Option(help="Minimum width of a face in pixels.")] = 16.0,
    copies: Annotated[int, typer.Option(help="Crops of each training face; all but one are moved.")] = 2,
) -> None:
    """Faces of `face_boxes` as the detector finds them, with and without masks."""
    aside, rng = set_aside.names("face_boxes"), np.random.default_rng(6)
    detector = Detector(OnnxModel(WEIGHTS / "detector.onnx", threads=1))
    path = settings.data_more_root() / "face_boxes" / "train.parquet"
    columns: dict[str, list[Any]] = {
        k: [] for k in ("crop", "points5", "name", "label", "width", "found", "aside")
    }
    for record in pq.read_table(path).to_pylist():
        pixels = decoded(record, path)
        detections = detector(pixels)
        boxes = np.array([d.box for d in detections], np.float64).reshape(-1, 4)
        for face in record["faces"]:
            box = np.asarray(face["box"], np.float64)
            if min(box[2] - box[0], box[3] - box[1]) < min_width:
                continue
            overlap = geometry.iou(box[None], boxes)[0] if len(boxes) else np.zeros(0)
            found = bool(len(overlap)) and float(overlap.max()) >= 0.4
            if not found and record["name"] not in aside:
                continue
            points = (
                np.asarray(detections[int(overlap.argmax())].points, np.float64)
                if found
                else placed_by_box(box)
            )
            for copy in range(1 if record["name"] in aside else copies):
                crop = geometry.align(pixels, moved(points, rng) if copy else points, VIEW)
                row = {
                    "crop": crop.pixels, "points5": geometry.move_points(points, crop.from_photo),
                    "name": record["name"], "label": face["label"],
                    "width": float(min(box[2] - box[0], box[3] - box[1])), "found": found,
                    "aside": record["name"] in aside,
                }  # fmt: skip
                for key, value in row.items():
                    columns[key].append(value)
    write("photos", columns)
    typer.echo(f"{len(columns['crop'])} crops, {int(np.sum(columns['aside']))} of them set aside")


def placed_by_box(box: np.ndarray) -> np.ndarray:
    """Five points of an upright face by its box, for faces that the detector does not find."""
    share = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.34, 0.78), (0.66, 0.78)])
    return box[:2] + share * (box[2:] - box[:2])


@app.command()
def degraded(
    count: Annotated[int, typer.Option(help="Number of training crops.")] = 1200,
    weights: Annotated[Path, typer.Option(help="The network whose identity embeddings are compared.")] = (
        WEIGHTS / "mien.onnx"
    ),
) -> None:
    """Blurred, small, dark, covered and turned faces, with the cosine to the plain face's embedding."""
    known, rng = np.load(folder() / "faces.npz"), np.random.default_rng(7)
    sets, yaw = known["set"], known["yaw"]
    network = OnnxModel(weights, threads=1, tasks=["identity"])
    plain = np.flatnonzero(
        [abs(y) < 30 and s.startswith(("fairface", "celeba_wild")) for y, s in zip(yaw, sets, strict=True)]
    )
    rng.shuffle(plain)
    aside = [j for j in plain if sets[j].endswith("aside")][: count // 8]
    train = [j for j in plain if not sets[j].endswith("aside")][: count // 2]
    columns: dict[str, list[Any]] = {
        k: [] for k in ("crop", "source", "cosine", "sharpness", "light", "occlusion", "aside")
    }
    for j in (*train, *aside):
        crop, points = known["crop"][j], known["points5"][j]
        made = [degrade_for_identity(crop, points, rng) for _ in range(2)]
        raw = network(network.view.tensor(np.stack([crop, *(m.pixels for m in made)])))["identity"]
        unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        for m, vector in zip(made, unit[1:], strict=True):
            row = {
                "crop": m.pixels, "source": j, "cosine": float(vector @ unit[0]), "sharpness": m.sharpness,
                "light": m.light, "occlusion": m.occlusion, "aside": bool(sets[j].endswith("aside")),
            }  # fmt: skip
            for key, value in row.items():
                columns[key].append(value)
    write("degraded", columns)
    typer.echo(f"{len(columns['crop'])} crops")


@app.command(name="all")
def everything(teachers: Teachers) -> None:
    """All steps, one after another: about ten minutes on one idle core."""
    screen(teachers, 9000)
    faces(teachers, WEIGHTS / "mien.onnx", 1.0)
    occluded(3000)
    photos(16.0, 2)
    degraded(1200, WEIGHTS / "mien.onnx")


if __name__ == "__main__":
    app()
