"""Torch model -> ONNX with its header inside, and the provenance file next to it."""

from __future__ import annotations

import json
import os
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from mien.errors import BadWeights
from mien.inference.onnx_model import OnnxModel
from mien.inference.provenance import remove_provenance, write_provenance
from mien.training.checkpoint import header_of, load
from mien.types import FaceModel


class _Traced(nn.Module):
    """Outputs in task order, as a tuple: exporters keep the order of tuples everywhere."""

    def __init__(self, model: FaceModel):
        super().__init__()
        self.model, self.names = model, [t.name for t in model.tasks]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        answers = self.model(images)
        return tuple(answers[n] for n in self.names)


def export(model: FaceModel, path: Path, *, free_size: bool = False, **header: Any) -> None:
    """Write a model as one ONNX file: input "images" (B, 3, H, W), one output per task, any batch size.

    Args:
        free_size: leave height and width free too (a detector's), in multiples of 32.
        header: more to keep in the header, next to builder, arguments, view and tasks.
    """
    traced = _Traced(model).eval()
    w, h = model.view.size
    batch = torch.export.Dim("batch", min=1, max=4096)
    free: dict[int, Any] = {0: batch}
    if free_size:
        free |= {
            2: 32 * torch.export.Dim("rows", min=1, max=256),
            3: 32 * torch.export.Dim("columns", min=1, max=256),
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of torch's own deprecated parts
        program = torch.onnx.export(
            traced,
            (torch.zeros(2, 3, h, w),),
            dynamo=True,
            input_names=["images"],
            output_names=traced.names,
            dynamic_shapes={"images": free},
            verbose=False,
        )
    if program is None:
        raise BadWeights(f"the exporter gave nothing for {header_of(model)['builder']}")
    proto = program.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = "mien", json.dumps(header_of(model, **header))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    onnx.save(proto, part)
    remove_provenance(path)  # it tells of the file that is replaced
    os.replace(part, path)


def difference(model: FaceModel, onnx_path: Path, images: np.ndarray) -> dict[str, float]:
    """Largest absolute difference per task between torch and ONNX on (B, 3, H, W) float32."""
    with torch.inference_mode():
        ours = {k: v.numpy() for k, v in model.eval()(torch.from_numpy(images)).items()}
    exported = OnnxModel(onnx_path)(images)
    return {k: float(np.abs(ours[k] - exported[k]).max()) for k in ours}


def commit() -> str:
    """The checkout's commit, "+" when it has uncommitted changes, or "" outside a checkout."""
    folder = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:  # no git
        return ""
    return result.stdout.strip()


LICENSE = "research use only: trained on sets that allow no other (see `sets`)"
SETS = {
    "mtfl": "MTFL (Zhang et al. 2014): research use",
    "helen68": "Helen (Le et al. 2012), iBUG 68 points: research use",
    "afw68": "AFW (Zhu & Ramanan 2012), iBUG 68 points: research use",
    "celebamask": "CelebAMask-HQ (Lee et al. 2020), a sample: non-commercial research",
    "celeba": "CelebA (Liu et al. 2015), a sample: non-commercial research",
    "utkface": "UTKFace (Zhang et al. 2017), small and full size: non-commercial research",
    "ferplus": "FER2013 with FER+ votes (Barsoum et al. 2016): labels MIT, pictures research use",
    "imagenet": (
        "ImageNet-1k (Russakovsky et al. 2015), through the EfficientNet-Lite0 weights that the encoder"
        " started from: pictures research use"
    ),
    "descriptors": (
        "identity was taught by descriptors of dlib's ResNet v1 (CC0) of pictures of mtfl, celeba and"
        " utkface, and of blends of two training pictures"
    ),
    "fairface": "FairFace (Karkkainen & Joo 2021), 39,000 pictures of its training part: CC BY 4.0",
    "aaf": "All-Age-Faces (Cheng et al. 2019): non-commercial research",
    "celeba_wild": "CelebA (Liu et al. 2015), whole photos of its training part: non-commercial research",
    "yunet": (
        "faces of fairface, utkface, aaf and celeba_wild were placed by YuNet-n's five points (Apache-2.0)"
    ),
    "toy": "drawn by mien itself: free",
    "face_boxes": (
        "400 photographs with boxes of faces, many of them masked, drawn by people; points by YuNet-n"
        " (Apache-2.0) where it agrees: research use"
    ),
    "photos": "photographs with boxes and points by a teacher detector (YuNet-n, Apache-2.0): research use",
}


def release(weights: Path, path: Path, *, note: str = "", tolerance: float = 1e-4) -> dict[str, Any]:
    """Checkpoint -> ONNX, compared with torch, with its provenance next to it; returns the provenance.

    Raises:
        BadWeights: torch and ONNX differ by more than `tolerance` somewhere.
    """
    model = load(weights)
    detects = any(t.name == "faces" for t in model.tasks)
    facts = {k: model.header[k] for k in ("recipe", "step", "seed", "data") if k in model.header}
    export(model, path, free_size=detects, **facts)
    w, h = model.view.size
    images = np.random.default_rng(0).standard_normal((2, 3, h, w), np.float32)
    gap = difference(model, path, images)
    worst = max(gap, key=lambda k: gap[k])
    if gap[worst] > tolerance:
        raise BadWeights(
            f"{path}: {worst} differs between torch and ONNX by {gap[worst]:.2g} > {tolerance:.0g}; do not"
            " ship it"
        )
    return write_provenance(
        path,
        license=LICENSE,
        uses=["research"],  # others are for the owner of the rights to add, see `mien.inference.provenance`
        sets={k: SETS.get(k, "license not stated") for k in facts.get("data", [])},
        parity=gap,
        **facts,
        commit=commit(),
        note=note,
        header=header_of(model),
    )
