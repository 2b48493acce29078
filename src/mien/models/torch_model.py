"""A torch model with the interface of `OnnxModel`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien.errors import UsageError
from mien.types import FaceModel, Floats, View

if TYPE_CHECKING:
    from torch import nn


def as_module(model: object) -> nn.Module:
    """A torch network as the `torch.nn.Module` that it is.

    Raises:
        UsageError: it is none.
    """
    from torch import nn

    if not isinstance(model, nn.Module):
        raise UsageError(f"a {type(model).__name__} is not a torch.nn.Module; give the torch network itself")
    return model


class TorchModel:
    """A torch model behind the face of an ONNX one: numpy in, numpy out.

    Args:
        view: another view than the model's own, for a network that was trained on two.
    """

    def __init__(self, model: FaceModel, *, view: View | None = None):
        self.model, self.view, self.tasks = model.eval(), view or model.view, model.tasks

    def __call__(self, images: Floats) -> dict[str, Floats]:
        import torch

        with torch.inference_mode():
            x = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
            return {k: v.float().numpy() for k, v in self.model(x).items()}
