"""The new head: linear layers on pooled features, trained in seconds, from strong to weak regularization."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.tasks import Task
from mien.training.finetune.faces import mirrored
from mien.types import Crop, Floats

BATCH = 256
RATE = 3e-3  # learning rate of Adam at the start of a stage
L2 = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)  # a stage each, every one begins where the last one ended
HIDDEN = 192  # width of the middle layer of the larger head
HIDDEN_L2 = (0.1, 0.03, 0.01)
HIDDEN_FROM = 200  # training pictures from which on the larger head is tried too
DROPOUT = 0.3  # of the larger head
_NO_CROP = Crop(np.zeros((2, 2, 3), np.uint8), np.eye(2, 3))

Layers = list[tuple[Floats, Floats]]
Targets = tuple[npt.NDArray[Any], npt.NDArray[Any]]


@dataclass(eq=False)
class Head:
    """A trained head.

    Attributes:
        layers: weight (out, in) and bias (out,) of each linear layer, on features as they are.
        l2: weight of the squared weights in the loss.
        hidden: width of the middle layer; 0 for a linear head.
        loss: the task's loss on the validation part.
        score: the task's headline metric there.
    """

    layers: Layers
    l2: float
    hidden: int
    loss: float
    score: float

    def __call__(self, features: npt.ArrayLike) -> Floats:
        """(n, d) features -> (n, k) raw numbers."""
        x = np.asarray(features, np.float32)
        for i, (weight, bias) in enumerate(self.layers):
            x = x @ weight.T + bias
            if i < len(self.layers) - 1:
                x = np.maximum(x, 0)
        return x


def targets_of(task: Task[Any], labels: Sequence[Any], mirror: bool) -> Targets:
    """Encoded labels and their masks."""
    pairs = [task.encode_target(v, np.eye(2, 3), mirror, (2, 2)) for v in labels]
    return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])


def score_of(task: Task[Any], raw: Floats, labels: Sequence[Any]) -> dict[str, float]:
    """The task's metrics."""
    metrics = task.metrics()
    for numbers, label in zip(raw, labels, strict=True):
        metrics.update(task.read(numbers, _NO_CROP), label)
    return metrics.compute()


class Trainer:
    """Trains heads of one task on kept features.

    Args:
        task: what is learned.
        features: (n, copies, d).
        labels: of the n pictures, as `Task.encode_target` takes them.
        seed: of batches and initial weights.
        folder: finished stages are kept here, so that a stopped run goes on; None keeps none.
    """

    def __init__(
        self,
        task: Task[Any],
        features: npt.NDArray[np.float16],
        labels: Sequence[Any],
        *,
        seed: int = 0,
        folder: Path | None = None,
    ):
        self.task, self.features, self.labels, self.seed = task, features, list(labels), seed
        self.folder = folder
        self.targets = [targets_of(task, labels, mirror) for mirror in (False, True)]

    def best(
        self,
        train: npt.NDArray[np.int64],
        val: npt.NDArray[np.int64],
        log: Callable[[str], None] = lambda text: None,
    ) -> Head:
        """The head with the lowest loss on the validation part.

        Args:
            train, val: numbers of pictures.
            log: called with one line per stage.
        """
        stages = [(0, l2) for l2 in L2]
        if len(train) >= HIDDEN_FROM:
            stages += [(HIDDEN, l2) for l2 in HIDDEN_L2]
        found = list[Head]()
        for i, (hidden, l2) in enumerate(stages):
            begin = found[-1].layers if found and found[-1].hidden == hidden else None
            head = self._stage(i, hidden, l2, train, val, begin)
            found.append(head)
            better = head is min(found, key=lambda h: h.loss)
            kind = f"hidden layer of {hidden}" if hidden else "linear"
            log(
                f"{kind}, l2 {l2:g}: validation loss {head.loss:.4f}, {self.task.metrics().headline}"
                f" {head.score:.2f}{'  (best so far)' if better else ''}"
            )
        return min(found, key=lambda h: h.loss)

    def again(self, like: Head, train: npt.NDArray[np.int64], val: npt.NDArray[np.int64]) -> Head:
        """A head with the settings of another one, on other pictures."""
        head: Head | None = None
        for i, l2 in enumerate(HIDDEN_L2 if like.hidden else L2):
            begin = head.layers if head else None
            head = self._stage(100 + i, like.hidden, l2, train, val, begin)
            if l2 == like.l2:
                break
        assert head is not None
        return head

    def _stage(
        self,
        number: int,
        hidden: int,
        l2: float,
        train: npt.NDArray[np.int64],
        val: npt.NDArray[np.int64],
        begin: Layers | None,
    ) -> Head:
        path = self._file(number, hidden, l2, train)
        if path is not None and path.is_file():
            with np.load(path, allow_pickle=False) as kept:
                layers = [(kept[f"w{i}"], kept[f"b{i}"]) for i in range(len(kept.files) // 2)]
        else:
            layers = self._fit(number, hidden, l2, train, begin)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_suffix(".part")
                with part.open("wb") as file:
                    arrays: dict[str, Any] = {
                        k + str(i): v for i, w in enumerate(layers) for k, v in zip("wb", w, strict=True)
                    }
                    np.savez(file, **arrays)
                part.replace(path)
        head = Head(layers, l2, hidden, 0.0, 0.0)
        raw = head(self.features[val, 0])
        head.loss = self._loss(raw, val)
        metrics = self.task.metrics()
        head.score = score_of(self.task, raw, [self.labels[i] for i in val])[metrics.headline]
        return head

    def _file(self, number: int, hidden: int, l2: float, train: npt.NDArray[np.int64]) -> Path | None:
        if self.folder is None:
            return None
        digest = hashlib.sha256(json.dumps([number, hidden, l2, self.seed, self.task.labels]).encode())
        for array in (train, self.features[train, 0], self.targets[0][0], self.targets[0][1]):
            digest.update(np.ascontiguousarray(array).tobytes())
        return self.folder / f"stage-{number:02d}-{digest.hexdigest()[:16]}.npz"

    def _loss(self, raw: Floats, which: npt.NDArray[np.int64]) -> float:
        import torch

        target, mask = self.targets[0]
        given = torch.from_numpy(raw), torch.from_numpy(target[which]), torch.from_numpy(mask[which])
        return float(self.task.criterion()(*given))

    def _fit(
        self, number: int, hidden: int, l2: float, train: npt.NDArray[np.int64], begin: Layers | None
    ) -> Layers:
        """One stage of Adam; the penalty is explicit, so that it means the same at every learning rate."""
        import torch
        from torch import nn

        rng = np.random.default_rng([self.seed, number])
        torch.manual_seed(1000 * self.seed + number)
        plain = self.features[train, 0].astype(np.float32)
        mean, spread = plain.mean(0), plain.std(0)
        spread = np.maximum(spread, 0.01 * float(spread.mean()) + 1e-6)
        d, k, copies = plain.shape[1], self.task.shape.n, self.features.shape[1]  # type: ignore[union-attr]
        linear = [nn.Linear(d, hidden or k), *([nn.Linear(hidden, k)] if hidden else [])]
        if begin is None:
            nn.init.zeros_(linear[-1].weight)
            nn.init.zeros_(linear[-1].bias)
        else:
            for i, (layer, (weight, bias)) in enumerate(zip(linear, begin, strict=True)):
                shift = weight @ mean if i == 0 else 0.0
                layer.weight.data = torch.from_numpy(weight * spread if i == 0 else weight.copy())
                layer.bias.data = torch.from_numpy(np.asarray(bias + shift, np.float32))
        net: nn.Module = (
            nn.Sequential(linear[0], nn.ReLU(), nn.Dropout(DROPOUT), linear[1]) if hidden else linear[0]
        )
        steps = int(np.clip(3 * len(train) * copies / BATCH, 80, 600))
        optimizer = torch.optim.Adam(net.parameters(), RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, RATE / 30)
        criterion = self.task.criterion()
        for _ in range(steps):
            which, copy = train[rng.integers(len(train), size=BATCH)], rng.integers(copies, size=BATCH)
            x = (self.features[which, copy].astype(np.float32) - mean) / spread
            side = np.array([mirrored(int(c)) for c in copy])
            (plain_t, plain_m), (flip_t, flip_m) = self.targets
            target = np.where(_wide(side, plain_t), flip_t[which], plain_t[which])
            mask = np.where(_wide(side, plain_m), flip_m[which], plain_m[which])
            loss = criterion(net(torch.from_numpy(x)), torch.from_numpy(target), torch.from_numpy(mask))
            loss = loss + 0.5 * l2 * sum(layer.weight.square().sum() for layer in linear)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        layers = [(m.weight.detach().numpy().copy(), m.bias.detach().numpy().copy()) for m in linear]
        weight, bias = layers[0]
        folded = (weight / spread).astype(np.float32)
        return [(folded, (bias - folded @ mean).astype(np.float32)), *layers[1:]]


def _wide(side: npt.NDArray[np.bool_], like: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(n,) -> (n, 1, ...), to go with an array of n items."""
    return side.reshape(-1, *[1] * (like.ndim - 1))
