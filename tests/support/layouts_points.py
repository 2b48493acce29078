"""Tiny landmark and parsing sets in their publishers' layouts: a few flat pictures, labels that a test can
compute.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mien.data.formats import landmarks, parsing
from mien.data.formats.landmarks import Listed

WIDTH, HEIGHT = 64, 48


def color(face: int) -> tuple[int, int, int]:
    return (20 + 30 * face, 100, 220 - 30 * face)


def places(n: int, face: int) -> np.ndarray:
    """(n, 2) places inside a 64 x 48 picture."""
    k = np.arange(n)
    return np.stack([8 + 7 * k % 41 + 0.25 * face, 6 + 11 * k % 31 + 0.5 * face], 1)


def paint(path: Path, face: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color(face)).save(
        path, **({"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {})
    )
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def gray(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def ibug300w(root: Path) -> None:
    """Three pictures of training (faces 0 to 2), two common (3, 4), one challenging (5) with the space in its
    name.
    """
    names = ("lfpw/trainset/image_0001.png", "helen/trainset/100_1.jpg", "afw/1_2.jpg",
    "lfpw/testset/image_0003.png",
             "helen/testset/300_1.jpg", "ibug/image_092 _01.jpg")  # fmt: skip
    for face, name in enumerate(names):
        rows = "\n".join(f"{x:.6f} {y:.6f}" for x, y in places(68, face) + 1)
        write(paint(root / name, face).with_suffix(".pts"), f"version: 1\nn_points:  68\n{{\n{rows}\n}}\n")


def wflw(root: Path) -> None:
    """Three training faces in two pictures, three of the test: large pose and blur, expression, nothing."""
    attributes = {"train": ("0 0 0 0 0 0",) * 3, "test": ("1 0 0 0 0 1", "0 1 0 0 0 0", "0 0 0 0 0 0")}
    names = ("0--Parade/0_1.jpg", "0--Parade/0_1.jpg", "1--Car Race/1_7.jpg")
    for split, rows in attributes.items():
        text = ""
        for face, (name, flags) in enumerate(zip(names, rows, strict=True)):
            paint(root / "WFLW_images" / name, face)
            numbers = " ".join(f"{v:.6f}" for v in places(98, face).ravel())
            text += f"{numbers} 1 2 30 40 {flags} {name}\n"
        write(root / f"WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{split}.txt", text)


def cofw(root: Path) -> None:
    """Two pictures of training (the second gray), one of the test, as MATLAB writes version 7.3."""
    import h5py

    root.mkdir(parents=True, exist_ok=True)
    for split, end, faces in (("train", "Tr", (0, 1)), ("test", "T", (2,))):
        with h5py.File(root / f"COFW_{split}_color.mat", "w") as file:
            cells = file.create_dataset(f"Is{end}", (1, len(faces)), h5py.ref_dtype)
            for at, face in enumerate(faces):
                pixels = np.full((HEIGHT, WIDTH, 3), color(face), np.uint8)
                pixels[5, 7] = (1, 2, 3)
                # MATLAB's (H, W, 3) is (3, W, H) to HDF5
                cells[0, at] = file.create_dataset(
                    f"#refs#/{face}", data=(pixels[..., 0] if face == 1 else pixels).T
                ).ref
            rows = [
                np.concatenate([places(29, f)[:, 0], places(29, f)[:, 1], np.arange(29) % 2]) for f in faces
            ]
            file[f"phis{end}"] = np.stack(rows).T
            file[f"bboxes{end}"] = np.tile([[1.0], [2.0], [30.0], [40.0]], (1, len(faces)))


def aflw19(root: Path) -> None:
    """Four faces in three pictures; the order is 3, 1, 4, 2.

    Of face 0 two places are unmarked, of face 3 some hidden.
    """
    from scipy.io import savemat

    files = ("0/image00002.jpg", "0/image00004.jpg", "0/image00004.jpg", "2/image00013.png")
    data = np.stack([places(19, f).T.ravel() for f in range(4)])
    data[0, [13, 13 + 19]] = 0  # the nose tip
    data[0, [18, 18 + 19]] = np.nan  # the chin
    seen = np.ones((4, 19), np.uint8)
    seen[3, 5:] = 0
    for face, name in enumerate(files):
        paint(root / "data" / "flickr" / name, face)
    names = np.empty((4, 1), object)
    names[:, 0] = files
    boxes = np.array([[10.0, 40 + f, 5, 35 + f] for f in range(4)])  # left, right, top, bottom
    savemat(
        root / "AFLWinfo_release.mat",
        {"nameList": names, "data": data, "bbox": boxes, "mask_new": seen, "ra": [[3, 1, 4, 2]]},
    )


def mtfl(root: Path) -> None:
    """Two pictures of training, one of the test."""
    facts = ("1 2 1 1", "2 1 2 5", "1 1 2 3")  # gender, smile, glasses, pose
    names = ("lfw_5590\\A_1.jpg", "net_7876\\B.jpg", "AFLW\\0001-image.jpg")
    rows = []
    for face, (name, fact) in enumerate(zip(names, facts, strict=True)):
        paint(root / name.replace("\\", "/"), face)
        rows.append(f" {name} {' '.join(f'{v:.6f}' for v in places(5, face).T.ravel())} {fact}\r\n")
    write(root / "training.txt", rows[0] + rows[1] + " \r\n")
    write(root / "testing.txt", rows[2])


def celebamask_hq(root: Path) -> None:
    """Pictures 0 (train), 1999 (val) and 2000 (test), 32 x 32 with masks of 16 x 16, in the archive's own
    folder.
    """
    root = root / "CelebAMask-HQ"
    originals = {0: "119613.jpg", 1999: "099094.jpg", 2000: "200121.jpg"}
    write(
        root / "CelebA-HQ-to-CelebA-mapping.txt",
        "idx         orig_idx       orig_file\n"
        + "".join(f"{i}         {int(o[:6])}         {o}\n" for i, o in originals.items()),
    )
    write(root / "list_eval_partition.txt", "".join(f"{o} {n}\n" for n, o in enumerate(originals.values())))
    for face, idx in enumerate(originals):
        paint(root / "CelebA-HQ-img" / f"{idx}.jpg", face, (32, 32))
        for part, (y1, y2, x1, x2) in {
            "skin": (4, 14, 2, 14), "nose": (6, 12, 7, 9), "l_eye": (6, 8, 9, 12), "eye_g": (5, 9, 3, 13),
            "hair": (0, 5, 0, 16),
        }.items():  # fmt: skip
            seen = np.zeros((16, 16, 3), np.uint8)
            seen[y1:y2, x1:x2] = 255
            gray(root / "CelebAMask-HQ-mask-anno" / str(idx // 2000) / f"{idx:05d}_{part}.png", seen)


def lapa_mask(face: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:40, 20:44] = 1
    mask[0:10] = 10
    mask[30, 25 : 35 + face] = 8
    return mask


def lapa(root: Path) -> None:
    """One picture a split; the mask of val has a palette."""
    for face, split in enumerate(("train", "val", "test")):
        folder, name = root / "LaPa" / split, f"{face}_{split}"
        paint(folder / "images" / f"{name}.jpg", face)
        path = gray(folder / "labels" / f"{name}.png", lapa_mask(face))
        if split == "val":
            image = Image.fromarray(lapa_mask(face))
            image.putpalette([(37 * v + 11) % 256 for v in range(768)])
            image.save(path)
        write(
            folder / "landmarks" / f"{name}.txt",
            "106\n" + "".join(f"{x:.4f} {y:.4f}\n" for x, y in places(106, face)),
        )


# class of Helen's 11 -> rows and columns of its block
HELEN_BLOCKS = {
    1: (8, 44, 12, 52), 2: (12, 14, 16, 28), 3: (12, 14, 36, 48), 4: (16, 21, 18, 27), 5: (16, 21, 38, 47),
    6: (20, 30, 29, 36),
    7: (34, 36, 22, 43), 8: (36, 38, 24, 41), 9: (38, 40, 26, 39), 10: (0, 8, 0, 64),
}  # fmt: skip


def helen(root: Path) -> None:
    """One picture a list; a skin of 120 lies under all parts, which have 200."""
    for face, (file, name) in enumerate(
        (("exemplars.txt", "100_1"), ("tuning.txt", "200_1"), ("testing.txt", "300_1"))
    ):
        write(root / file, f"1 , {name}\n\n")
        paint(root / "images" / f"{name}.jpg", face)
        for k in range(11):
            level = np.full((HEIGHT, WIDTH), 60 if k == 0 else 0, np.uint8)
            if k:
                y1, y2, x1, x2 = HELEN_BLOCKS[k]
                level[y1:y2, x1:x2] = 120 if k == 1 else 200
            gray(root / "labels" / name / f"{name}_lbl{k:02d}.png", level)


def aflw19_of_four(root: Path, split: str) -> Listed[Any]:
    """The reader for the four faces of `aflw19`: two of training."""
    return landmarks.aflw19(root, split, train_faces=2)


Layout = tuple[Callable[[Path], None], Callable[[Path, str], Listed[Any]], dict[str, int], str]
# name -> writer, reader, pictures by split, module that it needs
POINT_SETS: dict[str, Layout] = {
    "ibug300w": (ibug300w, landmarks.ibug300w, {"train": 3, "common": 2, "challenging": 1, "full": 3}, ""),
    "wflw": (
        wflw,
        landmarks.wflw,
        {"train": 3, "test": 3, "test_largepose": 1, "test_expression": 1, "test_illumination": 0,
        "test_makeup": 0,
         "test_occlusion": 0, "test_blur": 1},
        "",
    ),
    "cofw": (cofw, landmarks.cofw, {"train": 2, "test": 1}, "h5py"),
    "aflw19": (aflw19, aflw19_of_four, {"train": 2, "test": 2, "test_frontal": 1}, "scipy"),
    "mtfl": (mtfl, landmarks.mtfl, {"train": 2, "test": 1}, ""),
}  # fmt: skip
MASK_SETS: dict[str, Layout] = {
    "celebamask_hq": (celebamask_hq, parsing.celebamask_hq, {"train": 1, "val": 1, "test": 1}, ""),
    "lapa": (lapa, parsing.lapa, {"train": 1, "val": 1, "test": 1}, ""),
    "helen": (helen, parsing.helen, {"train": 1, "val": 1, "test": 1}, ""),
}
