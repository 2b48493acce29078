"""Distributed training with `torchrun`: several processes train one network.

Each rank computes its share of the pictures of a step and holds a full copy of everything else. Per step, the
ranks exchange the number of labels of each task, the losses, and one flat buffer of gradients after the last
backward pass.

Ours: one all-reduce of a flat buffer instead of torch's DistributedDataParallel. That class wraps `forward`,
while models here may compute their losses in `learn`, and it expects a gradient for every parameter, while a
batch of many tasks leaves some without. Here such a parameter counts as zero on that rank, and has no
gradient if no rank has one, as in one process. The cost: gradients are sent after the backward pass, not
during it.

Batch norms normalize each share separately (there is no SyncBatchNorm). The running statistics of trained
batch norms are averaged over the ranks in each step, so that all ranks hold and save the same state.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mien.errors import MienError, UsageError
from mien.tasks import Task


class RankLost(MienError):
    """Another process of the same training ended, or did not answer in time."""

    code = "rank_lost"


@dataclass
class Distributed:
    """This process in its process group. By default it is the only one, and every method does nothing.

    Attributes:
        rank: index of this process.
        world: number of processes.
        device: of the model and the batches.
        store: torch's key-value store, which tells which rank is missing.
        timeout: seconds to wait for the other ranks.
        exchanges: number of exchanges so far.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    store: Any = None
    timeout: float = 0.0
    exchanges: int = 0

    @property
    def first(self) -> bool:
        """Whether this rank writes, logs and validates."""
        return self.rank == 0

    def seed(self, seed: int, step: int) -> None:
        """Seed torch's generator for a step, differently on each rank.

        A single process on a CPU keeps the generator of its checkpoint.
        """
        if self.world > 1 or self.device.type != "cpu":
            torch.manual_seed(int(np.random.SeedSequence([seed, 3, step, self.rank]).generate_state(1)[0]))

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over ranks, bit-identical on all of them.

        Raises:
            RankLost: another rank has ended, or does not respond within the timeout.
        """
        if self.world == 1:
            return values
        return self._all_reduce(values.detach().to(self.device, copy=True).contiguous()).to(values.device)

    def _all_reduce(self, total: Tensor) -> Tensor:
        with self._exchange():
            dist.all_reduce(total)  # in place: a buffer of all gradients is large
        return total

    def barrier(self) -> None:
        """Wait until all ranks have called this method."""
        float(self.all_reduce(torch.zeros(1)))

    def assert_equal(self, value: int, what: str) -> None:
        """Check that all ranks hold the same value.

        Raises:
            UsageError: they do not.
        """
        local = torch.zeros(self.world, dtype=torch.int64)
        local[self.rank] = value
        if len(set(gathered := self.all_reduce(local).tolist())) > 1:
            raise UsageError(
                f"the ranks do not agree on {what}: {gathered}; give all the same recipe, settings and folder"
            )

    def all_reduce_losses(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses by name, summed over ranks; every rank has the same names."""
        if self.world == 1:
            return losses
        total = self.all_reduce(torch.stack([v.detach().float() for v in losses.values()]))
        return dict(zip(losses, total, strict=True))

    @torch.no_grad()
    def all_reduce_gradients(self, learning: nn.Module) -> None:
        """Sum gradients over ranks, and average the running statistics of the trained batch norms."""
        if self.world == 1:
            return
        weights = [p for p in learning.parameters() if p.requires_grad]
        statistics = [
            b
            for n in learning.modules()
            if _updates_statistics(n)
            for b in n.buffers(recurse=False)
            if b.is_floating_point()
        ]
        has = torch.tensor([float(p.grad is not None) for p in weights], device=self.device)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in weights]
        flat = self._all_reduce(
            torch.cat(
                [has, *(t.reshape(-1) for t in grads), *(b.reshape(-1) / self.world for b in statistics)]
            )
        )
        total, *parts = torch.split(flat, [len(weights), *(t.numel() for t in (*weights, *statistics))])
        for p, n, grad, part in zip(weights, total.tolist(), grads, parts, strict=False):
            p.grad = grad.copy_(part.view_as(grad)) if n else None
        for b, part in zip(statistics, parts[len(weights) :], strict=True):
            b.copy_(part.view_as(b))

    @torch.no_grad()
    def broadcast_state(self, learning: nn.Module) -> None:
        """Copy the weights and buffers of rank 0 to all ranks."""
        if self.world == 1:
            return
        for t in (*learning.parameters(), *learning.buffers()):
            buffer = t.detach().contiguous()
            with self._exchange():
                dist.broadcast(buffer, 0)
            t.copy_(buffer)

    @contextlib.contextmanager
    def _exchange(self) -> Iterator[None]:
        self.exchanges += 1
        try:
            self.store.set(f"mien/{self.rank}", str(self.exchanges))
            yield
        except RuntimeError as e:  # torch raises it for a closed connection and for a timeout
            reason = (str(e).splitlines() or ["no reason given"])[0]
            raise RankLost(
                f"rank {self.rank} of {self.world} lost the others at exchange {self.exchanges}"
                f" ({self._missing()}). Check that rank's own message, or increase the timeout of"
                f" {self.timeout:g} s if it was only slow; then continue with --resume. torch: {reason}"
            ) from e

    def _missing(self) -> str:
        try:
            seen = {
                r: int(self.store.get(f"mien/{r}")) if self.store.check([f"mien/{r}"]) else 0
                for r in range(self.world)
            }
        except RuntimeError:
            return "the store is gone too: rank 0 or torchrun has ended"
        missing = [f"rank {r} at {n}" for r, n in seen.items() if n < self.exchanges]
        return "not arrived: " + ", ".join(missing) if missing else "all had arrived, one ended during it"


SINGLE_PROCESS = Distributed()


def _updates_statistics(module: nn.Module) -> bool:
    """Whether a batch norm updates its statistics; frozen ones are in evaluation mode."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training


@contextlib.contextmanager
def join(timeout: float = 600.0) -> Iterator[Distributed]:
    """The process group that `torchrun` describes in the environment; a single process without it.

    Args:
        timeout: seconds after which a silent rank counts as lost. The other ranks wait while rank 0
            validates.

    Raises:
        UsageError: the environment names a rank but no address.
        RankLost: not all ranks joined.
    """
    env = os.environ
    if "RANK" not in env or "WORLD_SIZE" not in env:
        yield Distributed()
        return
    rank, world, local = int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", env["RANK"]))
    cuda = torch.cuda.is_available()
    if cuda and local >= torch.cuda.device_count():
        raise UsageError(
            f"rank {rank} wants CUDA device {local}, and there are {torch.cuda.device_count()}; lower"
            " --nproc-per-node"
        )
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if world == 1:
        yield Distributed(device=device)
        return
    if missing := [n for n in ("MASTER_ADDR", "MASTER_PORT") if n not in env]:
        raise UsageError(
            f"RANK and WORLD_SIZE are set, but not {', '.join(missing)}; start with torchrun, or unset them"
        )
    patience = timedelta(seconds=timeout)
    try:
        found = dist.rendezvous("env://", timeout=patience)  # type: ignore[attr-defined]
        store, _, _ = next(iter(found))
        dist.init_process_group(
            "nccl" if cuda else "gloo", store=store, rank=rank, world_size=world, timeout=patience
        )
    except RuntimeError as e:
        raise RankLost(f"rank {rank} did not find the other {world - 1} within {timeout:g} s: {e}") from e
    yield Distributed(rank, world, device, store, timeout)
    dist.destroy_process_group()  # not after a failure: it could wait for lost ranks


@runtime_checkable
class HasLossWeight(Protocol):
    """A criterion whose mean is over something else than its task's."""

    def weigh(self, target: Tensor, mask: Tensor, /) -> Tensor | float:
        """What it divides its sum by."""
        ...


def loss_weight(task: Task[Any], criterion: Any, target: Tensor, mask: Tensor) -> float:
    """What a criterion divides its sum by: means over shares, weighed by it, are the mean over all of them.

    A criterion with a weight of its own (`HasLossWeight`) tells it, else the task does, see
    `Task.loss_weight`.
    """
    if isinstance(criterion, HasLossWeight):
        return float(criterion.weigh(target, mask))
    return task.loss_weight(target, mask)


def batch_shares(
    tasks: Iterable[Task[Any]],
    criteria: dict[str, Any],
    batches: list[Any],
    mixtures: int,
    ranks: Distributed,
) -> list[dict[str, float]]:
    """For each batch of this rank: loss name -> its weight in the mean over the joined batch.

    The key "" is for a loss without a task: its weight is the share of the pictures. Without any label the
    loss is zero, whatever its weight.

    Args:
        tasks: of the model.
        criteria: by task name.
        batches: numpy batches, one per mixture, micro-batch after micro-batch.
        mixtures: number of mixtures.
        ranks: the process group.
    """
    by_name = {t.name: t for t in tasks}
    rows = []
    for batch in batches:
        pairs = {
            n: (torch.from_numpy(batch.targets[n]), torch.from_numpy(batch.mask[n]))
            for n in by_name
            if n in batch.targets
        }
        rows.append(
            [loss_weight(t, criteria[n], *pairs[n]) if n in pairs else 0.0 for n, t in by_name.items()]
            + [len(batch.images)]
        )
    numbers = torch.tensor(rows, dtype=torch.float64)
    local = numbers.reshape(-1, mixtures, numbers.shape[1])  # (micro-batches, mixtures, names)
    total = ranks.all_reduce(local.sum(0))
    share = (local / total.clamp_min(torch.finfo(torch.float64).tiny)).flatten(0, 1)
    return [dict(zip((*by_name, ""), row, strict=True)) for row in share.tolist()]


def loss_share(name: str, shares: dict[str, float]) -> float:
    """The weight of a loss by its name: that of its task, also for "task:part"; else that of the pictures."""
    return next((shares[n] for n in (name, name.split(":")[0]) if n in shares), shares[""])
