"""The CLIP image tower (Radford et al., 2021) as an encoder: FaRL's and Faceptor's backbone.

Parameter names are those of the official code below `visual.`, so that its state dicts load as they are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import BadWeights, UsageError


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), which CLIP was trained with; the exact GELU differs by up to 0.02."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class SelfAttention(nn.Module):
    """nn.MultiheadAttention's parameters, batch first, without its slow path: (B, N, width) -> the same."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor) -> Tensor:
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm: x + attn(ln_1(x)), then x + mlp(ln_2(x)).

    Args:
        drop: probability that a sample skips a residual branch while training (stochastic depth).
    """

    def __init__(self, width: int, heads: int, drop: float):
        super().__init__()
        self.drop = drop
        self.attn = SelfAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, 4 * width), gelu=QuickGELU(), c_proj=nn.Linear(4 * width, width)
            ),
        )
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.path(self.attn(self.ln_1(x)))
        return x + self.path(self.mlp(self.ln_2(x)))

    def path(self, x: Tensor) -> Tensor:
        """A branch, left out for some samples and scaled for the others so that the mean is kept.

        Ours: per sample, as stochastic depth is published. Official Faceptor keeps tokens as (tokens, batch,
        width) there and drops along the first axis, so that its branches are left out for token positions, in
        the whole batch.
        """
        if not self.training or self.drop == 0:
            return x
        keep = 1 - self.drop
        return x * x.new_empty(x.shape[0], 1, 1).bernoulli_(keep) / keep


class Transformer(nn.Module):
    """The blocks, under the official name."""

    def __init__(self, width: int, depth: int, heads: int, drop_path: float):
        super().__init__()
        drops = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.resblocks = nn.ModuleList(Block(width, heads, d) for d in drops)


def resize_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """(1 + s * s, width) -> (1 + h * w, width), bicubic; the first row (CLS) has no place and is kept."""
    side = round((positions.shape[0] - 1) ** 0.5)
    if grid == (side, side):
        return positions
    cells = positions[1:].T.unflatten(1, (side, side))[None]
    cells = F.interpolate(cells, grid, mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], cells[0].flatten(1).T])


class VisionTransformer(nn.Module):
    """forward: (B, 3, H, W), sides multiples of `patch` -> `depth` maps (B, width, H / patch, W / patch),
    without CLS.

    `ln_post` and `proj` are CLIP's pooled read-out. Maps never pass through them; they are here to load and
    count as the official tower does, so they get no gradient and `forward` leaves them still.

    Args:
        grid: side of the stored positions' grid, re-interpolated to the real one in each forward. FaRL: 14;
            Faceptor: 32.
        out: columns of `proj`.
        drop_path: stochastic depth of the last block, growing linearly from 0.
    """

    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)

    def __init__(
        self,
        *,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        patch: int = 16,
        grid: int = 32,
        out: int = 512,
        drop_path: float = 0.0,
    ):
        super().__init__()
        if width % heads:
            raise UsageError(f"width {width} does not divide into {heads} heads")
        self.patch = patch
        self.channels, self.strides = (width,) * depth, (patch,) * depth
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positional_embedding = nn.Parameter(torch.randn(1 + grid * grid, width) * width**-0.5)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, depth, heads, drop_path)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, out) * width**-0.5)
        # No map reads these; left learnable they would have missing gradients
        self.ln_post.requires_grad_(False)
        self.proj.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        if images.shape[-2] % self.patch or images.shape[-1] % self.patch:
            raise UsageError(
                f"sides {tuple(images.shape[-2:])} are no multiples of the patch, {self.patch}; resize the"
                " crop"
            )
        cells = self.conv1(images)
        h, w = cells.shape[-2:]
        x = torch.cat(
            [self.class_embedding.expand(cells.shape[0], 1, -1), cells.flatten(2).transpose(1, 2)], 1
        )
        x = self.ln_pre(x + resize_positions(self.positional_embedding, (h, w)))
        maps = []
        for block in self.transformer.resblocks:
            x = block(x)
            maps.append(x[:, 1:].transpose(1, 2).unflatten(2, (h, w)))
        return maps


def load_clip(encoder: VisionTransformer, state_dict: Mapping[str, Any]) -> VisionTransformer:
    """Fill a tower from a CLIP or FaRL state dict; the text tower and masked-image heads are ignored.

    Args:
        state_dict: flat or {"state_dict": flat}; keys as they are, or below `visual.` (whatever stands before
            that). Positions of another grid are interpolated.

    Raises:
        BadWeights: naming missing tensors and wrong shapes; the encoder is then unchanged.
    """
    flat = state_dict.get("state_dict", state_dict)
    visual = {
        k.split("visual.", 1)[1]: v for k, v in flat.items() if k.startswith("visual.") or ".visual." in k
    }
    loaded = visual or dict(flat)
    ours = encoder.state_dict()
    missing = [k for k in ours if k not in loaded]
    if missing:
        raise BadWeights(
            f"no CLIP image tower: {len(missing)} of {len(ours)} tensors are missing, such as"
            f" {', '.join(missing[:5])}"
        )
    chosen = {k: loaded[k].float() for k in ours}
    name = "positional_embedding"
    given, side = chosen[name], round((ours[name].shape[0] - 1) ** 0.5)
    square = (
        given.ndim == 2
        and given.shape[0] > 1
        and round((given.shape[0] - 1) ** 0.5) ** 2 == given.shape[0] - 1
    )
    if square:
        chosen[name] = resize_positions(given, (side, side))
    wrong = [
        f"{k} {tuple(chosen[k].shape)} for {tuple(v.shape)}"
        for k, v in ours.items()
        if chosen[k].shape != v.shape
    ]
    if wrong:
        raise BadWeights(f"the tower has other shapes (file for model): {'; '.join(wrong[:5])}")
    encoder.load_state_dict(chosen)
    return encoder
