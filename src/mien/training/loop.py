"""Training: a recipe and one visible loop, which can be stopped and resumed."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mien.data.mixture import Mixture
from mien.errors import UsageError
from mien.models.torch_model import TorchModel, as_module
from mien.tasks.base import zero_loss
from mien.training import checkpoint
from mien.training.distributed import SINGLE_PROCESS, Distributed, batch_shares, loss_share
from mien.training.ema import Average
from mien.training.recipe import Recipe
from mien.types import Batch, FaceModel, HasForwardTasks, HasOwnLosses, View


def training_mode(model: nn.Module) -> None:
    """Set training mode, except for frozen batch norms: they keep their statistics too."""
    model.train()
    for m in model.modules():
        if (
            isinstance(m, nn.modules.batchnorm._BatchNorm)
            and m.weight is not None
            and not m.weight.requires_grad
        ):
            m.eval()


def to_tensors(batch: Batch, view: View) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """A numpy batch -> normalized images (B, 3, H, W) float32 channels-last, targets, masks."""
    images = (
        torch.from_numpy(batch.images).permute(0, 3, 1, 2).float().div_(255)
    )  # a permuted view is channels-last
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (view.mean, view.std))
    tensors = [{k: torch.from_numpy(v) for k, v in part.items()} for part in (batch.targets, batch.mask)]
    return images.sub_(mean).div_(std), tensors[0], tensors[1]


def losses_of(
    model: FaceModel,
    criteria: dict[str, Any],
    images: Tensor,
    targets: dict[str, Tensor],
    mask: dict[str, Tensor],
    *,
    bf16: bool = False,
) -> dict[str, Tensor]:
    """Losses by name, one per task with targets in the batch; without labels, gradients are zero, not none.

    A model with losses of its own (`HasOwnLosses`) computes them. With several views, the batch of one view
    may lack targets of another. A model with `forward_tasks` then computes only the tasks of this view, so
    that its other heads do not see it, and only these tasks have a loss. In other models the losses of
    missing tasks are zero.
    """
    some = any(t.name not in targets for t in model.tasks)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        if isinstance(model, HasOwnLosses):
            return model.learn(images, targets, mask, criteria)
        if some and isinstance(model, HasForwardTasks):
            answer = model.forward_tasks(images, targets.keys())
        else:
            answer = model(images)
    raw = {t.name: answer[t.name].float() for t in model.tasks if t.name in answer}
    return {n: criteria[n](r, targets[n], mask[n]) if n in targets else zero_loss(r) for n, r in raw.items()}


def keep_memory() -> None:
    """Make glibc keep freed memory; elsewhere do nothing.

    A training step frees and allocates the same hundreds of megabytes. If the system zeroes them each time,
    that takes about a quarter of the step.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # musl has none
            m_trim_threshold, m_mmap_max = -1, -4
            libc.mallopt(m_mmap_max, 0)
            libc.mallopt(m_trim_threshold, 2**31 - 1)


class Log:
    """JSON lines in the run's folder, and a progress line for people."""

    def __init__(self, path: Path, shown: bool = True):
        self.path, self.shown = path, shown

    def write(self, **row: Any) -> None:
        """Append one row."""
        with self.path.open("a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")

    def progress(
        self, done: int, steps: int, means: Mapping[str, float], rate: float, pictures: int, lr: float
    ) -> None:
        """Write mean losses since the last report to the file, and a line for people.

        Args:
            done: steps so far.
            steps: total number of steps.
            means: loss name -> mean.
            rate: steps per second.
            pictures: pictures per step.
            lr: learning rate of the first parameter group.
        """
        self.write(step=done, losses=means, images_per_s=rate * pictures, lr=lr)
        losses = "  ".join(f"{k} {v:.3f}" for k, v in means.items())
        self.say(
            f"step {done}/{steps}  {rate * pictures:.0f} images/s  ETA {(steps - done) / rate / 60:.0f} min "
            f" {losses}"
        )

    def say(self, text: str) -> None:
        """Print progress for people, on stderr."""
        if self.shown:
            print(text, file=sys.stderr, flush=True)


def batches_of(
    mixtures: Sequence[Mixture],
    start: int,
    stop: int,
    *,
    accumulate: int = 1,
    ranks: Distributed = SINGLE_PROCESS,
) -> Iterator[tuple[Batch, ...]]:
    """One batch of each mixture per step, micro-batch after micro-batch; threads end with the iterator."""
    shares, of = [ranks.rank + ranks.world * m for m in range(accumulate)], ranks.world * accumulate
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(contextlib.closing(m.batches(start, stop, shares=shares, of=of)))
            for m in mixtures
        ]
        for _ in range(start, stop):
            yield tuple(next(stream) for _ in shares for stream in streams)


def learning_of(model: nn.Module, criteria: Mapping[str, Any]) -> nn.ModuleList:
    """All trained modules: the model, and criteria with weights of their own."""
    return nn.ModuleList([model, *(c for c in criteria.values() if isinstance(c, nn.Module))])


def train_step(
    recipe: Recipe, criteria: dict[str, Any], batches: Sequence[Batch], ranks: Distributed = SINGLE_PROCESS
) -> dict[str, float]:
    """Forward, losses, weights, backward, clip, step -> losses of the joined batch and gradient norm.

    There is one forward pass per mixture; losses with the same name are added. All views share one backward
    pass, because the loss weighting needs the losses of the entire step. Batch norms normalize each view
    separately. Their running statistics follow the views that pass through them: all views in the encoder; in
    heads, the views of their own tasks if the model has `forward_tasks`.

    Each micro-batch has its own backward pass, so with several of them, a loss weighting that depends on the
    losses of the same step is refused. Each loss is scaled by its weight in the joined mean, see
    `batch_shares`.

    Args:
        recipe: what is trained, and how.
        criteria: by task name.
        batches: of this rank, one per mixture, micro-batch after micro-batch.
        ranks: the process group.
    """
    model, mixtures, joined = recipe.model, recipe.mixtures, dict[str, Tensor]()
    parts = len(batches) // len(mixtures)
    undivided = parts * ranks.world == 1
    shares = (
        [{"": 1.0}] * len(batches)
        if undivided
        else batch_shares(model.tasks, criteria, list(batches), len(mixtures), ranks)
    )
    used, weights = list[dict[str, float]](), dict[str, float]()
    recipe.optimizer.zero_grad()
    for first in range(0, len(batches), len(mixtures)):
        losses = dict[str, Tensor]()
        for mixture, batch, share in zip(mixtures, batches[first:], shares[first:], strict=False):
            images, targets, mask = _placed(to_tensors(batch, mixture.view or model.view), ranks.device)
            for name, loss in losses_of(model, criteria, images, targets, mask, bf16=recipe.bf16).items():
                scaled = loss if undivided else loss * loss_share(name, share)
                losses[name] = losses[name] + scaled if name in losses else scaled
        if parts == 1:
            joined = ranks.all_reduce_losses(losses)
            weights = recipe.loss_weighting(joined)
        else:
            weights = copy.deepcopy(recipe.loss_weighting)(losses)
            joined = {n: joined[n] + v.detach() if n in joined else v.detach() for n, v in losses.items()}
        used.append(weights)
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        total.backward()  # type: ignore[no-untyped-call]
    if parts > 1:
        joined = ranks.all_reduce_losses(joined)
        weights = recipe.loss_weighting(joined)
        if any(u != weights for u in used):
            raise UsageError(
                f"{type(recipe.loss_weighting).__name__} depends on the losses of the same step; with it,"
                " accumulate must be 1"
            )
    if not torch.isfinite(torch.stack([weights[name] * loss for name, loss in joined.items()]).sum()):
        bad = {n: float(v.detach()) for n, v in joined.items() if not torch.isfinite(v)}
        raise UsageError(
            f"the loss is not finite: {bad or joined}; lower the learning rate or check these tasks' labels"
        )
    learning = learning_of(as_module(model), criteria)
    ranks.all_reduce_gradients(learning)
    norm = nn.utils.clip_grad_norm_(learning.parameters(), recipe.clip)
    recipe.optimizer.step()
    return {**{n: float(v.detach()) for n, v in joined.items()}, "norm": float(norm)}


Tensors = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]


def _placed(tensors: Tensors, device: torch.device) -> Tensors:
    images, targets, mask = tensors
    return (
        images.to(device),
        {k: v.to(device) for k, v in targets.items()},
        {k: v.to(device) for k, v in mask.items()},
    )


def fit(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    report: int = 50,
    save: int = 500,
    ranks: Distributed = SINGLE_PROCESS,
    progress: bool = True,
) -> FaceModel:
    """Train a recipe in a folder and return the averaged model.

    A resumed run gives the same weights as an uninterrupted one: batches depend on the step only, and the
    checkpoint contains weights, averages, optimizer and torch's generator. With several ranks, the first one
    writes.

    Args:
        recipe: what is trained, and how.
        out: run folder; gets `last.safetensors` (complete state), `model.safetensors` (averaged weights) and
            `log.jsonl`.
        resume: continue from `last.safetensors`.
        stop_after: stop after this many steps; resume to run the rest.
        report: steps between progress lines.
        save: steps between checkpoints.
        ranks: the process group, see `mien.training.distributed.join`.
        progress: print progress lines to stderr; `log.jsonl` has them in any case.

    Raises:
        UsageError: the folder holds a run and `resume` is not set, a loss is not finite, or see
            `Recipe.criteria_by_task`.
        RankLost: another rank ended or does not respond.
    """
    last = out / "last.safetensors"
    if last.exists() and not resume:
        raise UsageError(f"{out} already holds a run; continue it with --resume, or choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    keep_memory()
    torch.manual_seed(recipe.seed)
    model = as_module(recipe.model)
    model.to(ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # in place
    criteria, pictures = recipe.criteria_by_task(), sum(m.batch_size for m in recipe.mixtures)
    ranks.broadcast_state(learning_of(model, criteria).to(ranks.device))
    average = Average(model, recipe.ema)
    averaged = cast("FaceModel", average.module)  # a copy of recipe.model
    base = [g["lr"] for g in recipe.optimizer.param_groups]
    run = (model, average.module, recipe.optimizer, recipe.loss_weighting)
    start = checkpoint.load_run(last, *run, criteria) if resume and last.exists() else 0
    stop = recipe.steps if stop_after is None else min(recipe.steps, start + stop_after)
    ranks.assert_equal(start, "the step to resume from")
    training_mode(model)
    log, sums, seen, since = Log(out / "log.jsonl", progress), dict[str, float](), 0, time.perf_counter()
    for step, batches in enumerate(
        batches_of(recipe.mixtures, start, stop, accumulate=recipe.accumulate, ranks=ranks), start
    ):
        ranks.seed(recipe.seed, step)
        factor = recipe.schedule(step, recipe.steps)
        for group, lr in zip(recipe.optimizer.param_groups, base, strict=True):
            group["lr"] = lr * factor
        for name, value in train_step(recipe, criteria, batches, ranks).items():
            sums[name] = sums.get(name, 0.0) + value
        seen += 1
        average.update(model, step)
        done = step + 1
        if done % report == 0 or done == stop:
            means, rate = {k: v / seen for k, v in sums.items()}, seen / (time.perf_counter() - since)
            log.progress(done, recipe.steps, means, rate, pictures, base[0] * factor) if ranks.first else None
            sums, seen, since = {}, 0, time.perf_counter()
        if done % save == 0 or done == stop:
            if ranks.first:
                checkpoint.save_run(last, *run, done, criteria)
                checkpoint.save(out / "model.safetensors", averaged, **recipe.provenance(done))
            ranks.barrier()
        if recipe.protocols and (done % recipe.every == 0 or done == recipe.steps):
            _validate(recipe, averaged, done, log) if ranks.first else None
            ranks.barrier()
            since = time.perf_counter()
    return averaged


def _validate(recipe: Recipe, model: FaceModel, step: int, log: Log) -> None:
    from mien.evaluation.protocols import PROTOCOLS
    from mien.evaluation.scoring import evaluate

    if next(model.parameters()).is_cuda:  # answers are numpy
        model = copy.deepcopy(model)
        as_module(model).cpu()
    scores = {
        name: evaluate(TorchModel(model), PROTOCOLS[name], limit=recipe.limit).headline
        for name in recipe.protocols
    }
    log.write(step=step, scores=scores)
    log.say(f"step {step}  validation  " + "  ".join(f"{k} {v:.2f}" for k, v in scores.items()))
