"""A torch model with the interface of `OnnxModel`."""

from __future__ import annotations

from typing import Any

from mien.types import Floats, View


class TorchModel:
    """A torch model behind the face of an ONNX one: numpy in, numpy out.

    Args:
        view: where faces are shown in another than the model's own, as to a network that was raised on two.
    """

    def __init__(self, model: Any, *, view: View | None = None):
        self.model, self.view, self.tasks = model.eval(), view or model.view, model.tasks

    def __call__(self, images: Floats) -> dict[str, Floats]:
        import torch

        with torch.inference_mode():
            x = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
            return {k: v.float().numpy() for k, v in self.model(x).items()}
