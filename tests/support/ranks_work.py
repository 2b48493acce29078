"""What ranks do in test_ranks: a small recipe, and work that two processes do together."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mien.data import synthetic
from mien.data.augment import Augment
from mien.data.dataset import FaceSource
from mien.data.mixture import Mixture
from mien.tasks import AGE, ATTRIBUTES, LANDMARKS
from mien.training.distributed import Distributed, join
from mien.training.loop import fit
from mien.training.loss_weighting import Fixed, Uncertainty
from mien.training.recipe import Recipe
from mien.types import Sample, View

VIEW = View((32, 32), "head", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Small(nn.Module):
    """A layer norm, so that nobody's share changes how a picture is seen; and a weight that nothing asks."""

    builder = ("small", {})
    tasks, view = (LANDMARKS, AGE, ATTRIBUTES), VIEW

    def __init__(self, dropout: float):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(192, 32), nn.LayerNorm(32), nn.GELU(), nn.Dropout(dropout))
        self.heads = nn.ModuleDict(
            {"landmarks": nn.Linear(32, 136), "age": nn.Linear(32, 101), "attributes": nn.Linear(32, 40)}
        )
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.body(F.adaptive_avg_pool2d(images, 8).flatten(1))
        told = {name: head(x) for name, head in self.heads.items()}
        return {**told, "landmarks": told["landmarks"].view(-1, 68, 2)}


class Uneven:
    """Drawn faces, of which some know less: points without a place, attributes that nobody asked."""

    name = "uneven"

    def __init__(self, n: int, tasks: tuple[str, ...]):
        self.faces = synthetic.toy(n=n, tasks=tasks)

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, i: int) -> Sample:
        face = self.faces[i]
        labels = dict(face.labels)
        if "landmarks" in labels:
            labels["landmarks"] = np.where(
                np.arange(68)[:, None] < 68 - 20 * (i % 3), labels["landmarks"], np.nan
            )
        if "attributes" in labels:
            labels["attributes"] = dict(list(labels["attributes"].items())[: 1 + i % 4])
        return Sample(face.image, labels, face.points)


def small(
    steps: int = 4,
    *,
    accumulate: int = 1,
    dropout: float = 0.0,
    schedule: Callable[[int, int], float] = lambda *_: 1.0,
    loss_weighting: Any = None,
) -> Recipe:
    """Seven pictures a step: three places, three with attributes, and one age, which only one share has."""
    torch.manual_seed(5)
    model = Small(dropout)
    parts = [(Uneven(9, ("landmarks",)), 3), (Uneven(8, ("attributes",)), 3), (Uneven(5, ("age",)), 1)]
    mixture = Mixture(
        [(FaceSource(d, VIEW, Augment()), n) for d, n in parts], model.tasks, seed=2, size=VIEW.size
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=0.01)
    return Recipe(
        "small",
        model,
        mixture,
        optimizer,
        schedule,
        steps,
        loss_weighting=loss_weighting or Fixed({"landmarks": 0.5}),
        accumulate=accumulate,
        ema=0.5,
    )


# -- processes: a server that has imported everything forks each rank


def child(rank: int, port: int, timeout: float, folder: Path, work: Callable[..., None]) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        with join(timeout) as ranks:
            work(ranks, folder)
    except Exception as e:  # noqa: BLE001  (told to the parent, whatever it is)
        (folder / f"error{rank}").write_text(f"{type(e).__name__}: {e}")
        raise SystemExit(2) from None


def pair(
    work: Callable[..., None], folder: Path, *, timeout: float = 60, wait: tuple[int, ...] = (0, 1)
) -> list[int | None]:
    """Two ranks do some work -> their exit codes, or None for one that was stopped; `wait` for these."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.ranks_work"])
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    ranks = [context.Process(target=child, args=(r, port, timeout, folder, work)) for r in range(2)]
    for p in ranks:
        p.start()
    for r in wait:
        ranks[r].join(90)
    codes = [p.exitcode for p in ranks]
    for p in ranks:
        p.kill()
        p.join()
    return codes


def several_runs(ranks: Distributed, folder: Path) -> None:
    fit(small(), folder / "two", report=1, ranks=ranks)
    fit(small(accumulate=2, loss_weighting=Uncertainty(0.1)), folder / "four", report=1, ranks=ranks)
    fit(small(dropout=0.5), folder / "whole", report=1, ranks=ranks)
    fit(small(dropout=0.5), folder / "parts", report=1, stop_after=1, ranks=ranks)
    fit(small(dropout=0.5), folder / "parts", report=1, resume=True, ranks=ranks)
    fit(small(), folder / "fewer", report=1, stop_after=2, ranks=ranks)
    fit(small(), folder / "more", report=1, stop_after=2) if ranks.first else None
    ranks.barrier()
    fit(small(), folder / "more", report=1, resume=True, ranks=ranks)
    (folder / f"weights{ranks.rank}").write_bytes(
        b"".join(v.numpy().tobytes() for v in normed(ranks, folder).values())
    )


def normed(ranks: Distributed, folder: Path) -> dict[str, torch.Tensor]:
    """A batch norm that saw other numbers on each rank, and whose weight rank 0 has no gradient for."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4)
    norm(torch.randn(5, 4) + ranks.rank).sum().backward()
    if ranks.first:
        norm.weight.grad = None
    ranks.all_reduce_gradients(norm)
    state = dict(norm.state_dict())
    state.pop("num_batches_tracked")
    return {**state, "weight": norm.weight.grad, "bias": norm.bias.grad}


def dies(ranks: Distributed, folder: Path) -> None:
    def schedule(step: int, steps: int) -> float:
        if ranks.rank == 1 and step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return 1.0

    fit(small(schedule=schedule), folder / "run", report=1, save=2, ranks=ranks)


def sleeps(ranks: Distributed, folder: Path) -> None:
    ranks.barrier()
    if ranks.rank == 1:
        time.sleep(300)
    ranks.barrier()


def differs(ranks: Distributed, folder: Path) -> None:
    ranks.assert_equal(7 + ranks.rank, "the step to resume from")
