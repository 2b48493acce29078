"""FAR-AMTN: attention multi-task network for face attributes (Gao, Wang, Liu, Zhao; CVIU 2025, arXiv
2601.01537).

A trunk shared by all groups of attributes, one convolution block whose weights all groups share and whose
output each group gates for itself (WSGSA), an exchange between the groups (CGFF), one classifier per group.
Its third part, dynamic weighting of the groups' losses, is `mien.training.loss_weighting.Dynamic`. There is
no public code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import UsageError
from mien.models.backbones.efficientnet_lite import EfficientNetLite, efficientnet_lite
from mien.models.backbones.resnet import Bottleneck, ResNet50
from mien.tasks import ATTRIBUTES
from mien.tasks.attribute_groups import GROUPS
from mien.types import View


class Wsgsa(nn.Module):
    """Weight-shared group-specific attention: (B, C, H, W) -> (B, K, C, H, W), the convolutions run once for
    all K.

    f is a bottleneck's three convolutions; group g has a gate Psi_g = sigmoid(FC(ReLU(FC(mean of X)))).
    Ours: the input is added as in the block it replaces, ReLU(X + f(X) * Psi_g); gates of 1 give that block.

    Args:
        channels: C.
        groups: K.
        reduction: C / reduction is the gates' inner width (paper: 16).
        gated: False leaves the gates open: every group sees the same block, to measure what they do.
    """

    def __init__(self, channels: int, groups: int, *, reduction: int = 16, gated: bool = True):
        super().__init__()
        self.groups, self.gated = groups, gated
        self.block = Bottleneck(channels, channels // 4, channels)
        inner = channels // reduction
        self.gates = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels), nn.Sigmoid())
            for _ in range(groups if gated else 0)
        )

    def psi(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> gates (B, K, C) in 0..1."""
        z = x.mean((2, 3))
        if not self.gated:
            return torch.ones_like(z)[:, None].expand(-1, self.groups, -1)
        return torch.stack([gate(z) for gate in self.gates], 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x[:, None] + self.block.residual(x)[:, None] * self.psi(x)[..., None, None])


class Copies(nn.Module):
    """The alternative to WSGSA: one complete block per group without gates, as in plain multi-task nets.

    (B, C, H, W) -> (B, K, C, H, W).
    """

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.blocks = nn.ModuleList(Bottleneck(channels, channels // 4, channels) for _ in range(groups))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([block(x) for block in self.blocks], 1)


def _zeros(c_in: int, c_out: int) -> nn.Linear:
    linear = nn.Linear(c_in, c_out, bias=False)
    nn.init.zeros_(linear.weight)
    return linear


class AttentionFusion(nn.Module):
    """Cross-group feature fusion: V (B, K, C) -> V + A V W, A = softmax(Q K^T / sqrt(d)) over groups.

    Ours: the form (the paper's is not public), a small d, a W of low rank, and W = 0 at first, so that it
    starts silent.
    """

    def __init__(self, channels: int, *, d: int = 64, rank: int = 64):
        super().__init__()
        self.query, self.key = nn.Linear(channels, d), nn.Linear(channels, d)
        self.w = nn.Sequential(nn.Linear(channels, rank, bias=False), _zeros(rank, channels))

    def attention(self, v: Tensor) -> Tensor:
        """(B, K, C) -> A (B, K, K); rows sum to 1."""
        q = self.query(v)
        return (q @ self.key(v).transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1)

    def forward(self, v: Tensor) -> Tensor:
        return v + self.attention(v) @ self.w(v)


class ConcatFusion(nn.Module):
    """The other reading of CGFF: all groups side by side -> linear -> added to each. V (B, K, C) -> (B, K,
    C).

    Ours: of low rank and zero at first, as in `AttentionFusion`; a full matrix would be larger than the
    trunk.
    """

    def __init__(self, channels: int, groups: int, *, rank: int = 64):
        super().__init__()
        self.w = nn.Sequential(nn.Linear(groups * channels, rank, bias=False), _zeros(rank, channels))

    def forward(self, v: Tensor) -> Tensor:
        return v + self.w(v.flatten(1))[:, None]


def _fusion(name: str, channels: int, groups: int) -> nn.Module:
    if name == "attention":
        return AttentionFusion(channels)
    if name == "concat":
        return ConcatFusion(channels, groups)
    if name == "off":
        return nn.Identity()
    raise UsageError(f"no fusion is called {name!r}; choose one of: attention, concat, off")


class FarAmtn(nn.Module):
    """See the module's text. forward: (B, 3, H, W) -> {"attributes": (B, 40) logits}, in the task's order.

    Args:
        encoder: images -> pyramid, of which the last map is used.
        view: crop, template and normalization.
        groups: name of a table in `tasks.attribute_groups.GROUPS`.
        fusion: "attention", "concat" or "off".
        shared: WSGSA; otherwise one complete block per group.
        gates: of WSGSA, see `Wsgsa`.
    """

    builder: tuple[str, dict[str, object]]

    order: Tensor  # where each attribute stands among the classifiers' answers

    def __init__(
        self,
        encoder: ResNet50 | EfficientNetLite,
        view: View,
        *,
        groups: str,
        fusion: str = "attention",
        shared: bool = True,
        gates: bool = True,
    ):
        super().__init__()
        if groups not in GROUPS:
            raise UsageError(f"no group table is called {groups!r}; choose one of: {', '.join(GROUPS)}")
        self.encoder, self.view, self.tasks = encoder, view, (ATTRIBUTES,)
        self.members = {g: [ATTRIBUTES.index[n] for n in names] for g, names in GROUPS[groups].items()}
        c, k = encoder.channels[-1], len(self.members)
        self.split = Wsgsa(c, k, gated=gates) if shared else Copies(c, k)
        self.fusion = _fusion(fusion, c, k)
        self.classifiers = nn.ModuleList(nn.Linear(c, len(m)) for m in self.members.values())
        place = [i for m in self.members.values() for i in m]
        self.register_buffer(
            "order", torch.tensor([place.index(i) for i in range(len(place))]), persistent=False
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        v = self.fusion(self.split(self.encoder(images)[-1]).mean((3, 4)))
        logits = torch.cat([classify(v[:, g]) for g, classify in enumerate(self.classifiers)], 1)
        return {ATTRIBUTES.name: logits[:, self.order]}

    def learn(
        self,
        images: Tensor,
        targets: Mapping[str, Tensor],
        mask: Mapping[str, Tensor],
        criteria: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """One loss per group, "attributes:Mouth" and so on, for weighting by group: the mean BCE over labels.

        A group without labels has zero loss and zero gradients. The task's criterion in `criteria` is not
        used, since it weights pictures and the paper weights groups.
        """
        name = ATTRIBUTES.name
        weight = mask[name].float()
        bce = (
            F.binary_cross_entropy_with_logits(self(images)[name].float(), targets[name], reduction="none")
            * weight
        )
        return {
            f"{name}:{g}": bce[:, m].sum() / weight[:, m].sum().clamp_min(1) for g, m in self.members.items()
        }


def far_amtn(
    *, groups: str = "mgmtn8", size: int = 224, fusion: str = "attention", shared: bool = True
) -> FarAmtn:
    """The paper's system: ResNet-50 whose last block of conv5 is WSGSA. Without fusion 27.8 M parameters for
    8 groups.

    Ours: size, alignment and ImageNet normalization. A published ResNet-50's `layer4.2` fits `split.block`.
    """
    encoder = ResNet50((3, 4, 6, 2))
    view = View((size, size), "head", encoder.mean, encoder.std)
    model = FarAmtn(encoder, view, groups=groups, fusion=fusion, shared=shared)
    model.builder = ("far_amtn", {"groups": groups, "size": size, "fusion": fusion, "shared": shared})
    return model


def far_amtn_tiny(
    *,
    groups: str = "mgmtn8",
    size: int = 112,
    imagenet: bool = False,
    fusion: str = "attention",
    shared: bool = True,
    gates: bool = True,
) -> FarAmtn:
    """FAR-AMTN on EfficientNet-Lite0: small enough for 2 CPU cores.

    Ours: the encoder; WSGSA stands after its last map (320 channels), as no bottleneck there could be
    replaced.

    Args:
        size: side of the crop in pixels.
        imagenet: start the encoder from ImageNet weights.
    """
    encoder, view = efficientnet_lite(size, imagenet)
    model = FarAmtn(encoder, view, groups=groups, fusion=fusion, shared=shared, gates=gates)
    model.builder = (
        "far_amtn_tiny",
        {"groups": groups, "size": size, "fusion": fusion, "shared": shared, "gates": gates},
    )
    return model
