"""Training: a recipe, and one visible loop that can be stopped and go on."""

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
    """Training mode, except for batch norms that do not learn: frozen ones keep their statistics too."""
    model.train()
    for m in model.modules():
        if (
            isinstance(m, nn.modules.batchnorm._BatchNorm)
            and m.weight is not None
            and not m.weight.requires_grad
        ):
            m.eval()


def to_tensors(batch: Batch, view: View) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """A numpy batch -> images (B, 3, H, W) float32 normalised channels-last, targets, known."""
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
    """Losses by name: one a task that the batch has targets of, labelled or not: an unlabelled task has zero
    gradients, not none.

    A model with losses of its own (`HasOwnLosses`) is asked for them.
    A batch of one view of several may leave out targets that another view has. A model with `forward_tasks`
    then computes only
    the tasks of this view, so that its other heads do not see it, and only they have a loss; of other models
    their losses are zero.
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
    """Ask glibc to keep freed memory: a training step frees and asks again for the same hundreds of
    megabytes, and
    having the system zero them each time costs about a quarter of the step. Elsewhere nothing happens."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # musl has none
            m_trim_threshold, m_mmap_max = -1, -4
            libc.mallopt(m_mmap_max, 0)
            libc.mallopt(m_trim_threshold, 2**31 - 1)


class Log:
    """JSON lines in the run's folder, and a progress line for people."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, **row: Any) -> None:
        """Append one row."""
        with self.path.open("a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")

    def progress(
        self, done: int, steps: int, means: Mapping[str, float], rate: float, pictures: int, lr: float
    ) -> None:
        """Mean losses since the last report, into the file and for people.

        rate: steps a second. pictures: a step.
        """
        self.write(step=done, losses=means, images_per_s=rate * pictures, lr=lr)
        told = "  ".join(f"{k} {v:.3f}" for k, v in means.items())
        self.say(
            f"step {done}/{steps}  {rate * pictures:.0f} images/s  ETA {(steps - done) / rate / 60:.0f} min "
            f" {told}"
        )

    @staticmethod
    def say(text: str) -> None:
        """Tell a person, on stderr."""
        print(text, file=sys.stderr, flush=True)


def batches_of(
    mixtures: Sequence[Mixture],
    start: int,
    stop: int,
    *,
    accumulate: int = 1,
    ranks: Distributed = SINGLE_PROCESS,
) -> Iterator[tuple[Batch, ...]]:
    """One batch of each mixture a step, micro-batch after micro-batch; their threads end with this, however
    it ends.
    """
    shares, of = [ranks.rank + ranks.world * m for m in range(accumulate)], ranks.world * accumulate
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(contextlib.closing(m.batches(start, stop, shares=shares, of=of)))
            for m in mixtures
        ]
        for _ in range(start, stop):
            yield tuple(next(stream) for _ in shares for stream in streams)


def learning_of(model: nn.Module, criteria: Mapping[str, Any]) -> nn.ModuleList:
    """All that is trained: the model, and criteria with weights of their own."""
    return nn.ModuleList([model, *(c for c in criteria.values() if isinstance(c, nn.Module))])


def train_step(
    recipe: Recipe, criteria: dict[str, Any], batches: Sequence[Batch], ranks: Distributed = SINGLE_PROCESS
) -> dict[str, float]:
    """Forward, losses, weights, backward, clip, step -> the losses of the joined batch as numbers, and the
    gradient's norm.

    There is one forward a mixture, and losses of one name add up. All views are in one backward, not one
    after the
    other with accumulated gradients: a balance weighs the losses of the whole step, which are known after the
        last forward.
    Batch norms normalise each view by itself. Their running statistics follow the views that pass through
    them: all views in the
    encoder, and in heads those of their own tasks where the model has `forward_tasks`.

    Of several micro-batches each has a backward of its own, so a balance whose weights follow from the losses
    of the very
    step is refused. A loss is scaled by the share of the joined mean that a batch speaks for, see
    `ranks.shares_of`.

    Args:
        batches: this rank's, one a mixture, micro-batch after micro-batch.
    """
    model, mixtures, joined = recipe.model, recipe.mixtures, dict[str, Tensor]()
    parts = len(batches) // len(mixtures)
    alone = parts * ranks.world == 1
    shares = (
        [{"": 1.0}] * len(batches)
        if alone
        else batch_shares(model.tasks, criteria, list(batches), len(mixtures), ranks)
    )
    used, weights = list[dict[str, float]](), dict[str, float]()
    recipe.optimizer.zero_grad()
    for first in range(0, len(batches), len(mixtures)):
        losses = dict[str, Tensor]()
        for mixture, batch, share in zip(mixtures, batches[first:], shares[first:], strict=False):
            images, targets, mask = _placed(to_tensors(batch, mixture.view or model.view), ranks.device)
            for name, loss in losses_of(model, criteria, images, targets, mask, bf16=recipe.bf16).items():
                scaled = loss if alone else loss * loss_share(name, share)
                losses[name] = losses[name] + scaled if name in losses else scaled
        if parts == 1:
            joined = ranks.all_reduce_losses(losses)
            weights = recipe.balance(joined)
        else:
            weights = copy.deepcopy(recipe.balance)(losses)
            joined = {n: joined[n] + v.detach() if n in joined else v.detach() for n, v in losses.items()}
        used.append(weights)
        torch.stack([weights[name] * loss for name, loss in losses.items()]).sum().backward()
    if parts > 1:
        joined = ranks.all_reduce_losses(joined)
        weights = recipe.balance(joined)
        if any(u != weights for u in used):
            raise UsageError(
                f"{type(recipe.balance).__name__} weighs by the losses of the step itself; with it,"
                " accumulate must be 1"
            )
    if not torch.isfinite(torch.stack([weights[name] * loss for name, loss in joined.items()]).sum()):
        bad = {n: float(v.detach()) for n, v in joined.items() if not torch.isfinite(v)}
        raise UsageError(
            f"the loss is not finite: {bad or joined}; lower the learning rate or look at these tasks' labels"
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
) -> FaceModel:
    """Train a recipe in a folder; returns the averaged model.

    A run that is stopped and resumed gives the same weights as one that goes on: batches follow from the
    step, and weights,
    averages, optimiser and torch's generator are in the checkpoint. Of several ranks, the first writes.

    Args:
        out: RUN folder; gets `last.safetensors` (everything), `model.safetensors` (averaged weights),
            `log.jsonl`.
        resume: go on from `last.safetensors`. stop_after: end after that many steps (the rest by resuming).
        report, save: steps between progress lines, and between checkpoints.
        ranks: the processes that share the work, see `mien.training.distributed.join`.

    Raises:
        UsageError: the folder holds a run and `resume` is not set, a loss is not finite, or see
            `Recipe.criteria_by_task`.
        RankLost: another rank ended or does not answer.
    """
    last = out / "last.safetensors"
    if last.exists() and not resume:
        raise UsageError(f"{out} holds a run already; go on with --resume, or choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    keep_memory()
    torch.manual_seed(recipe.seed)
    model = as_module(recipe.model)
    model.to(ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # in place
    criteria, pictures = recipe.criteria_by_task(), sum(m.batch_size for m in recipe.mixtures)
    ranks.broadcast_state(learning_of(model, criteria).to(ranks.device))
    average = Average(model, recipe.ema)
    averaged = cast("FaceModel", average.model)  # a copy of recipe.model
    base = [g["lr"] for g in recipe.optimizer.param_groups]
    run = (model, average.model, recipe.optimizer, recipe.balance)
    start = checkpoint.load_run(last, *run, criteria) if resume and last.exists() else 0
    stop = recipe.steps if stop_after is None else min(recipe.steps, start + stop_after)
    ranks.agree(start, "the step to go on from")
    training_mode(model)
    log, sums, seen, since = Log(out / "log.jsonl"), dict[str, float](), 0, time.perf_counter()
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
            ranks.wait()
        if recipe.protocols and (done % recipe.every == 0 or done == recipe.steps):
            _validate(recipe, averaged, done, log) if ranks.first else None
            ranks.wait()
            since = time.perf_counter()
    return averaged


def _validate(recipe: Recipe, model: FaceModel, step: int, log: Log) -> None:
    from mien.evaluation.scoring import PROTOCOLS, evaluate

    if next(model.parameters()).is_cuda:  # answers are numpy
        model = copy.deepcopy(model)
        as_module(model).cpu()
    scores = {
        name: evaluate(TorchModel(model), PROTOCOLS[name], limit=recipe.limit).headline
        for name in recipe.protocols
    }
    log.write(step=step, scores=scores)
    log.say(f"step {step}  validation  " + "  ".join(f"{k} {v:.2f}" for k, v in scores.items()))
