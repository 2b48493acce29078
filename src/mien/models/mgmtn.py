"""MGMTN: mask-guided multi-task network for face attributes (Gao, Wang, J. Zhao, Xie, Liu, W. Zhao; 2026,
arXiv 2601.01408).

A small U-Net learns from landmarks where each group of attributes is to be seen (adaptive mask learning,
AML): seven parts of a face and the entire face. Its masks cut the trunk's maps to what concerns a group, and
each group's feature is fused with that of the entire picture (G2FF). Landmarks are needed to train the U-Net
only. There is no public code.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import UsageError
from mien.models.backbones.efficientnet_lite import EfficientNetLite, conv_bn, efficientnet_lite
from mien.models.backbones.resnest import ResNeSt50
from mien.tasks import ATTRIBUTES, LANDMARKS, WFLW98
from mien.tasks.attribute_groups import GROUPS
from mien.tasks.base import zero_loss
from mien.types import Pixels, View

MASKS = tuple(GROUPS["mgmtn8"])  # Mouth, Ear, Lower Face, Cheeks, Nose, Eyes, Hair, Object
COLORS = (
    (255, 60, 90),
    (255, 200, 0),
    (150, 220, 60),
    (255, 130, 60),
    (0, 190, 255),
    (60, 90, 255),
    (150, 70, 230),
    (0, 230, 160),
)

Array = npt.NDArray[np.float64]


# --- Points -> masks


def _parts(points: Array) -> dict[str, Array]:
    """Named pieces of 68 (iBUG) or 98 (WFLW) points. `contour` has 17 points in both, ear to ear; `lids` and
    `wings` two each: the middle of the lower lids and the sides of the nose.
    """
    p = points
    if p.shape == (68, 2):
        lids = np.stack([p[40:42].mean(0), p[46:48].mean(0)])
        return {"contour": p[:17], "brows": p[17:27], "nose": p[27:36], "base": p[31:36], "eyes": p[36:48],
        "mouth": p[48:68],
                "lids": lids, "wings": p[[31, 35]]}  # fmt: skip
    if p.shape == (98, 2):
        eyes = np.concatenate([p[60:76], p[96:98]])
        return {"contour": p[0:33:2], "brows": p[33:51], "nose": p[51:60], "base": p[55:60], "eyes": eyes,
        "mouth": p[76:96],
                "lids": p[[66, 74]], "wings": p[[55, 59]]}  # fmt: skip
    raise UsageError(f"masks are made of (68, 2) iBUG or (98, 2) WFLW points; got {p.shape}")


def _outlines(part: Mapping[str, Array], unit: float, far: float) -> dict[str, list[Array]]:
    """Group -> sets of points whose convex hulls, together, are its mask before it is widened.

    Lengths are in `unit`, the size of the face, and directions the face's own, so that masks turn with it.
    """
    up = part["eyes"].mean(0) - part["mouth"].mean(0)
    if not np.linalg.norm(up) > 0:
        raise UsageError("these points have eyes and mouth at one place; they are no face")
    up = up / np.linalg.norm(up)
    right = np.array([-up[1], up[0]])
    contour, brows, eyes, mouth, nose = (part[k] for k in ("contour", "brows", "eyes", "mouth", "nose"))
    left_ear, right_ear = contour[:4], contour[13:]
    band = 0.2 * unit * right
    # both ends of the contour, a little out (hair hangs next to the face too), lifted to the brows' height
    ends = contour[[0, 16]] + 0.2 * unit * np.stack([-right, right])
    ends = ends + ((brows.mean(0) - ends) @ up)[:, None] * up
    hairline = np.concatenate([brows, ends]) + 0.05 * unit * up
    cheeks = [
        np.stack([part["lids"][s], part["wings"][s], contour[outer], contour[lower]])
        for s, outer, lower in ((0, 1, 4), (1, 15, 12))
    ]
    everything = np.concatenate([contour, brows, eyes, mouth, nose])
    return {
        "Mouth": [mouth],
        "Ear": [np.concatenate([left_ear, left_ear - band]), np.concatenate([right_ear, right_ear + band])],
        "Lower Face": [np.concatenate([contour[3:14], part["base"]])],
        "Cheeks": cheeks,
        "Nose": [nose],
        "Eyes": [np.concatenate([brows, eyes])],
        "Hair": [np.concatenate([hairline, hairline + far * up])],
        "Object": [np.concatenate([everything, brows + 0.4 * unit * up])],
    }


def _fill(points: Array, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The pixels (H, W) whose center is within the convex hull of points (n, 2).

    Row by row: the hull's edges that cross a row bound it. Unlike OpenCV's fillers, which also draw an
    outline of rounded pixels, this gives a mirrored mask for mirrored points.
    """
    a = cv2.convexHull(points.astype(np.float32))[:, 0].astype(np.float64)
    b = np.roll(a, -1, 0)
    y = np.arange(size[1])[:, None]
    crosses = (y >= np.minimum(a[:, 1], b[:, 1])) & (y <= np.maximum(a[:, 1], b[:, 1]))
    rise = b[:, 1] - a[:, 1]
    x = a[:, 0] + (y - a[:, 1]) / np.where(rise == 0, 1, rise) * (b[:, 0] - a[:, 0])
    left, right = np.where(crosses, x, np.inf).min(1), np.where(crosses, x, -np.inf).max(1)
    column = np.arange(size[0])
    return (column >= left[:, None]) & (column <= right[:, None])


def masks_of(points: npt.ArrayLike, size: tuple[int, int], *, widen: float = 0.05) -> npt.NDArray[np.uint8]:
    """Where each group of attributes is to be seen: landmarks -> (8, H, W) of 0 and 1, groups in the order of
    `MASKS`.

    Ours: which points and lengths make a group (the paper has 98 points and one mask per group, but does not
    say how they are made).

    Args:
        points: (68, 2) iBUG or (98, 2) WFLW, pixels of the crop.
        size: (width, height) of the crop.
        widen: how far masks reach beyond their points, in sizes of the face (twice the points' RMS distance
            from their mean).

    Raises:
        UsageError: another number of points, or some are not finite, or eyes and mouth are at one place.
    """
    p = np.asarray(points, np.float64)
    if not np.isfinite(p).all():
        raise UsageError("masks need finite points; some are NaN or infinite")
    part = _parts(p)
    unit = 2 * float(np.sqrt(((p - p.mean(0)) ** 2).sum(1).mean()))
    turn = np.arange(16) * np.pi / 8
    circle = widen * unit * np.stack([np.cos(turn), np.sin(turn)], 1)
    out = np.zeros((len(MASKS), size[1], size[0]), np.uint8)
    for i, hulls in enumerate(_outlines(part, unit, far=float(sum(size))).values()):
        for hull in hulls:
            out[i] |= _fill((hull[:, None] + circle).reshape(-1, 2), size)
    return out


def draw_masks(pixels: Pixels, masks: npt.ArrayLike, names: Sequence[str] = MASKS) -> Pixels:
    """Pictures in rows of four, one per group: tinted in the group's color, with its name.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        masks: (K, H, W), 0..1.
    """
    tiles = []
    for i, (name, mask) in enumerate(zip(names, np.asarray(masks, np.float32), strict=True)):
        weight = 0.6 * mask[..., None]
        tile = np.rint(pixels * (1 - weight) + weight * COLORS[i % len(COLORS)]).astype(np.uint8)
        scale = max(0.35, pixels.shape[0] / 400)
        for color, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(
                tile,
                name,
                (3, 3 + round(24 * scale)),
                cv2.FONT_HERSHEY_SIMPLEX,
                scale,
                color,
                thick,
                cv2.LINE_AA,
            )
        tiles.append(tile)
    tiles += [np.zeros_like(pixels)] * (-len(tiles) % 4)
    return np.concatenate([np.concatenate(tiles[i : i + 4], 1) for i in range(0, len(tiles), 4)])


# --- Picture -> masks


class MaskNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015) with one binary head per group, for any H and W.

    (B, 3, H, W) -> (B, 8, H, W) logits.

    The heads are the rows of one 1x1 convolution. Ours: sizes, strided convolutions in place of pools.

    Args:
        widths: channels per level, each level half the size of the one before.
        stride: of the first convolution; with 2 everything is computed at half the size and the logits are
            enlarged.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 256, 512), *, stride: int = 1):
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, widths[0], 3, stride), conv_bn(widths[0], widths[0], 3))
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(nn.Sequential(conv_bn(a, b, 3, 2), conv_bn(b, b, 3)) for a, b in pairs)
        self.up = nn.ModuleList(conv_bn(b + a, a, 3) for a, b in reversed(pairs))
        self.heads = nn.Conv2d(widths[0], len(MASKS), 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = [self.stem(images)]
        for down in self.down:
            maps.append(down(maps[-1]))
        x = maps.pop()
        for up in self.up:
            skip = maps.pop()
            x = up(
                torch.cat(
                    [F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False), skip], 1
                )
            )
        logits = self.heads(x)
        if logits.shape[-2:] != images.shape[-2:]:
            logits = F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)
        return logits


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy plus Dice, both the mean over pictures and groups: (B, K, H, W) each -> scalar."""
    p = logits.sigmoid()
    dice = 1 - (2 * (p * truth).sum((2, 3)) + 1) / (p.sum((2, 3)) + truth.sum((2, 3)) + 1)
    return F.binary_cross_entropy_with_logits(logits, truth) + dice.mean()


# --- Masks and maps -> groups


def _shares(pixels: int, cells: int, like: Tensor) -> Tensor:
    """(cells, pixels): the share of each pixel in each cell's mean, when a line of pixels is cut into equal
    cells.
    """
    pixel = torch.arange(pixels, device=like.device, dtype=like.dtype)
    low = torch.arange(cells, device=like.device, dtype=like.dtype)[:, None] * (pixels / cells)
    overlap = torch.minimum(low + pixels / cells, pixel + 1) - torch.maximum(low, pixel)
    return overlap.clamp_min(0) * (cells / pixels)


def resize(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Masks (B, K, H, W) -> (B, K, h, w), smaller: each cell gets the mean over its area, so that no pixel is
    passed over.

    Ours: area. It is a product of matrices, so that sizes that do not divide export to ONNX too.
    """
    return _shares(masks.shape[-2], size[0], masks) @ masks @ _shares(masks.shape[-1], size[1], masks).T


def pooled_groups(maps: Tensor, masks: Tensor, *, inside: bool = False) -> Tensor:
    """The mean over places of Gr = resize(P) * F, the groups of one scale, without making them.

    Maps F (B, C, h, w) and masks P (B, K, H, W) -> (B, K, C), in one matrix product.

    Args:
        inside: divide by the mask's area instead of the map's, so that small parts count as much as large
            ones.
    """
    weight = resize(masks, maps.shape[-2:]).flatten(2)
    area = weight.sum(2, keepdim=True).clamp_min(1e-3) if inside else float(weight.shape[2])
    return weight @ maps.flatten(2).transpose(1, 2) / area


class G2ff(nn.Module):
    """Group-global feature fusion: groups (B, K, C), whole (B, C) -> gate * whole + group, (B, K, C).

    A group's gate is sigmoid(FC(ReLU(FC([group, whole])))). Ours: the form (the paper's is not public), and
    the inner width.
    """

    def __init__(self, channels: int, groups: int, hidden: int):
        super().__init__()
        self.gates = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2 * channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid()
            )
            for _ in range(groups)
        )

    def forward(self, groups: Tensor, whole: Tensor) -> Tensor:
        gates = [gate(torch.cat([groups[:, g], whole], 1)) for g, gate in enumerate(self.gates)]
        return torch.stack(gates, 1) * whole[:, None] + groups


class Mgmtn(nn.Module):
    """See the module's text. forward: (B, 3, H, W) -> {"attributes": (B, 40) logits}, in the task's order.

    Trained in two steps: `learn_masks`, then `learn_attributes` (so it begins) with the U-Net frozen.

    Args:
        encoder: images -> pyramid, of which the last three maps are used.
        view: crop, template and normalization.
        unet: images -> mask logits; None puts masks of ones in their place, the ablation.
        groups: name of a table in `tasks.attribute_groups.GROUPS`; with masks its groups must be `MASKS`.
        hidden: inner width of G2FF's gates.
        hard: masks of 0 and 1, cut at 0.5.
        inside: see `pooled_groups`.
    """

    builder: tuple[str, dict[str, object]]

    order: Tensor  # where each attribute stands among the classifiers' answers

    def __init__(
        self,
        encoder: ResNeSt50 | EfficientNetLite,
        unet: MaskNet | None,
        view: View,
        *,
        groups: str,
        hidden: int,
        hard: bool,
        inside: bool,
    ):
        super().__init__()
        if groups not in GROUPS:
            raise UsageError(f"no group table is called {groups!r}; choose one of: {', '.join(GROUPS)}")
        if unet is not None and tuple(GROUPS[groups]) != MASKS:
            raise UsageError(
                f"there are masks for {', '.join(MASKS)}, the groups of 'mgmtn8'; use {groups!r} with"
                " masks=False"
            )
        self.encoder, self.view, self.tasks = encoder, view, (ATTRIBUTES,)
        self.hard, self.inside = hard, inside
        self.members = {g: [ATTRIBUTES.index[n] for n in names] for g, names in GROUPS[groups].items()}
        c, k = sum(encoder.channels[1:]), len(self.members)
        self.fusion = G2ff(c, k, hidden)
        self.classifiers = nn.ModuleList(nn.Linear(c, len(m)) for m in self.members.values())
        self.unet = unet
        place = [i for m in self.members.values() for i in m]
        self.register_buffer(
            "order", torch.tensor([place.index(i) for i in range(len(place))]), persistent=False
        )
        self.learn_attributes()

    def learn_masks(self) -> Self:
        """Train the U-Net alone: `learn` needs landmarks and returns the loss "masks".

        Raises:
            UsageError: the model has no U-Net.
        """
        if self.unet is None:
            raise UsageError("this model was built with masks=False and has no U-Net to train")
        return self._learn_only(self.unet.parameters(), masks=True)

    def learn_attributes(self) -> Self:
        """Train everything but the U-Net, which stays frozen, including its batch-norm statistics."""
        return self._learn_only(
            (p for n, p in self.named_parameters() if not n.startswith("unet.")), masks=False
        )

    def _learn_only(self, chosen: Iterable[nn.Parameter], *, masks: bool) -> Self:
        self.learning_masks = masks
        for p in self.parameters():
            p.requires_grad_(False)
            p.grad = None  # otherwise an optimizer would use the gradients of the other step
        for p in chosen:
            p.requires_grad_(True)
        return self

    def load_masks(self, other: Mgmtn) -> Self:
        """Copy the U-Net of a model that has learned masks, before training the attributes.

        Raises:
            UsageError: one of the two models has no U-Net.
        """
        unet = getattr(other, "unet", None)
        if self.unet is None or unet is None:
            raise UsageError("masks go from one model with a U-Net to another; build both with masks=True")
        self.unet.load_state_dict(unet.state_dict())
        return self

    def group_masks(self, images: Tensor) -> Tensor:
        """Masks of the groups: (B, 3, H, W) -> (B, K, H, W), 0..1."""
        if self.unet is None:
            return images.new_ones(images.shape[0], len(self.members), *images.shape[-2:])
        masks: Tensor = self.unet(images).sigmoid()
        # Ours: soft by default; a logit near zero must not decide alone
        return (masks >= 0.5).to(masks.dtype) if self.hard else masks

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.encoder(images)[1:]
        whole = torch.cat([m.mean((2, 3)) for m in maps], 1)
        if self.unet is None:  # masks of ones: every group's feature is that of the whole picture
            groups = whole[:, None].expand(-1, len(self.members), -1)
        else:
            masks = self.group_masks(images)
            groups = torch.cat([pooled_groups(m, masks, inside=self.inside) for m in maps], 2)
        fused = self.fusion(groups, whole)
        logits = torch.cat([classify(fused[:, g]) for g, classify in enumerate(self.classifiers)], 1)
        return {ATTRIBUTES.name: logits[:, self.order]}

    def learn(
        self,
        images: Tensor,
        targets: Mapping[str, Tensor],
        known: Mapping[str, Tensor],
        criteria: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """{"attributes": the task's loss}, or after `learn_masks` {"masks": BCE + Dice against masks of 68 or
        98 points}.

        Raises:
            UsageError: masks are to be learned from a batch without landmarks.
        """
        if not self.learning_masks:
            name = ATTRIBUTES.name
            return {name: criteria[name](self(images)[name].float(), targets[name], known[name])}
        labeled = [t.name for t in (LANDMARKS, WFLW98) if t.name in targets]
        if not labeled:
            raise UsageError(
                f"masks are learned from 'landmarks' or 'wflw98'; the batch has: {', '.join(targets)}. Name"
                " one in Mixture(tasks=...)"
            )
        logits, (h, w) = self.unet(images).float(), images.shape[-2:]  # type: ignore[misc]  # learn_masks has checked it
        truth = dict[int, npt.NDArray[np.uint8]]()
        for name in labeled:
            complete = (
                known[name].flatten(1).all(1) if known[name].ndim > 1 else known[name]
            )  # a mask needs all of its points
            for i in complete.nonzero()[:, 0].tolist():
                truth[i] = masks_of(targets[name][i].cpu().numpy() * (w, h) - 0.5, (w, h))
        if not truth:
            return {"masks": zero_loss(logits)}
        return {
            "masks": mask_loss(
                logits[list(truth)], torch.from_numpy(np.stack(list(truth.values()))).to(logits)
            )
        }


def mgmtn(
    *,
    groups: str = "mgmtn8",
    size: int = 227,
    masks: bool = True,
    hidden: int = 128,
    hard: bool = False,
    inside: bool = False,
) -> Mgmtn:
    """The paper's system: ResNeSt-50 at 227 px, a U-Net of usual size.

    Ours: alignment, ImageNet normalization, the sizes of U-Net and gates (gates a sixteenth as wide as what
    they read would outweigh the trunk).
    """
    encoder = ResNeSt50()
    view = View((size, size), "head", encoder.mean, encoder.std)
    unet = MaskNet() if masks else None
    model = Mgmtn(encoder, unet, view, groups=groups, hidden=hidden, hard=hard, inside=inside)
    model.builder = (
        "mgmtn",
        {"groups": groups, "size": size, "masks": masks, "hidden": hidden, "hard": hard, "inside": inside},
    )
    return model


def mgmtn_tiny(
    *,
    size: int = 112,
    imagenet: bool = False,
    groups: str = "mgmtn8",
    masks: bool = True,
    hidden: int = 64,
    hard: bool = False,
    inside: bool = False,
) -> Mgmtn:
    """MGMTN on EfficientNet-Lite0 with a U-Net that works at half the size: small enough for 2 CPU cores.

    Ours: the encoder and the U-Net's widths.

    Args:
        size: side of the crop in pixels.
        imagenet: start the encoder from ImageNet weights.
        masks: False builds no U-Net and uses the entire picture for every group.
        hidden, hard, inside: see `Mgmtn`.
    """
    encoder, view = efficientnet_lite(size, imagenet)
    unet = MaskNet((12, 24, 48, 64), stride=2) if masks else None
    model = Mgmtn(encoder, unet, view, groups=groups, hidden=hidden, hard=hard, inside=inside)
    model.builder = (
        "mgmtn_tiny",
        {"size": size, "groups": groups, "masks": masks, "hidden": hidden, "hard": hard, "inside": inside},
    )
    return model
