"""Training: a recipe, and one visible loop that can be stopped and go on."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mien import checkpoint
from mien.balance import Balance, Fixed
from mien.data.mix import Mixture
from mien.errors import UsageError
from mien.ranks import ALONE, Ranks, share_of, shares_of
from mien.tasks.contract import silent
from mien.types import Batch, View


def cosine(warmup: int) -> Callable[[int, int], float]:
    """Linear warm-up over `warmup` steps, then a cosine to zero: (step, steps) -> factor on the learning rate."""

    def factor(step: int, steps: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor


def adamw(
    model: nn.Module, lr: float, *, heads: float = 2.0, weight_decay: float = 0.02, rates: Mapping[str, float] | None = None
) -> torch.optim.AdamW:  # fmt: skip
    """AdamW over the weights that learn; those outside `model.encoder` learn `heads` times as fast, for they start from nothing.

    Args:
        lr: of the encoder; of everything where the model has none.
        rates: how the names of weights begin -> a factor on their learning rate, in place of `heads`.
    """
    groups, rates = dict[float, list[nn.Parameter]]({1.0: []}), rates or {}  # the encoder's come first
    others = heads if any(n.startswith("encoder.") and p.requires_grad for n, p in model.named_parameters()) else 1.0
    for name, p in model.named_parameters():
        if p.requires_grad:
            factor = next((f for begin, f in rates.items() if name.startswith(begin)), 1.0 if name.startswith("encoder.") else others)
            groups.setdefault(factor, []).append(p)
    return torch.optim.AdamW([{"params": p, "lr": lr * factor} for factor, p in groups.items() if p], weight_decay=weight_decay)


@dataclass
class Recipe:
    """How a model is raised.

    Attributes:
        name: of the run. model: built, with `tasks`, `view` and `builder`.
        mixture: where batches come from; several, of one view each, share every step (Faceptor: 112 and 512 pixels).
        optimizer: over the model's parameters, and over those of `criteria`.
        schedule: (step, steps) -> factor on each group's learning rate.
        steps: optimiser steps in all. balance: dict of losses -> dict of weights. seed: of everything random.
        ema: decay of the averaged weights, which are the ones evaluated and exported. clip: largest gradient norm.
        bf16: autocast of the forward, where it is measured to be faster.
        accumulate: micro-batches a step, for less memory: gradients are those of the whole batch, but for batch norms.
        protocols: names in `evaluate.PROTOCOLS`, run on the averaged weights every `every` steps, on the first `limit` pictures of each.
        data: sets and licences, for the provenance of the weights.
        criteria: by task, in place of the task's own; one that is an nn.Module is trained and saved with the run, and
            is no part of the model's weights.
    """

    name: str
    model: Any
    mixture: Mixture | Sequence[Mixture]
    optimizer: torch.optim.Optimizer
    schedule: Callable[[int, int], float]
    steps: int
    balance: Balance = field(default_factory=Fixed)
    seed: int = 1
    ema: float = 0.999
    clip: float = 5.0
    bf16: bool = False
    accumulate: int = 1
    protocols: Sequence[str] = ()
    every: int = 1000
    limit: int | None = None
    data: Sequence[str] = ()
    criteria: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mixtures(self) -> tuple[Mixture, ...]:
        """All of them, one or several."""
        return (self.mixture,) if isinstance(self.mixture, Mixture) else tuple(self.mixture)

    def provenance(self, step: int) -> dict[str, Any]:
        """What the header of weights says of how they were raised."""
        return {"recipe": self.name, "step": step, "seed": self.seed, "data": list(self.data)}

    def criteria_by_task(self) -> dict[str, Any]:
        """A criterion for each task of the model.

        Raises:
            UsageError: a criterion for no task of the model, parameters in one that the optimiser does not train, a
                task that is in no mixture, or `accumulate` below 1.
        """
        tasks = {t.name: t for t in self.model.tasks}
        if self.accumulate < 1:
            raise UsageError(f"accumulate is the number of micro-batches a step, 1 or more; got {self.accumulate}")
        if unknown := [n for n in self.criteria if n not in tasks]:
            raise UsageError(f"criteria for {', '.join(unknown)}, but the model answers: {', '.join(tasks)}")
        criteria = {n: self.criteria[n] if n in self.criteria else t.criterion() for n, t in tasks.items()}
        trained = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        for name, criterion in criteria.items():
            if isinstance(criterion, nn.Module) and any(p.requires_grad and id(p) not in trained for p in criterion.parameters()):
                raise UsageError(f"the optimizer does not train the criterion of {name}; make it once, for both criteria= and optimizer=")
        if absent := [n for n in tasks if not any(n == t.name for m in self.mixtures for t in m.tasks)]:
            raise UsageError(f"no mixture has the task {', '.join(absent)}; name it in Mixture(tasks=...)")
        return criteria


class Average:
    """Exponential moving average of weights and batch-norm statistics, with a warm start."""

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = copy.deepcopy(model).eval().requires_grad_(False), decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model; early on faster, so that the random start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        theirs = model.state_dict()
        for name, mine in self.model.state_dict().items():
            if mine.dtype.is_floating_point:
                mine.lerp_(theirs[name], 1 - decay)
            else:
                mine.copy_(theirs[name])


def learn_mode(model: nn.Module) -> None:
    """Training mode, except for batch norms that do not learn: frozen ones keep their statistics too."""
    model.train()
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.weight is not None and not m.weight.requires_grad:
            m.eval()


def to_tensors(batch: Batch, view: View) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """A numpy batch -> images (B, 3, H, W) float32 normalised channels-last, targets, known."""
    images = torch.from_numpy(batch.images).permute(0, 3, 1, 2).float().div_(255)  # a permuted view is channels-last
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (view.mean, view.std))
    tensors = [{k: torch.from_numpy(v) for k, v in part.items()} for part in (batch.targets, batch.known)]
    return images.sub_(mean).div_(std), tensors[0], tensors[1]


def losses_of(
    model: Any, criteria: dict[str, Any], images: Tensor, targets: dict[str, Tensor], known: dict[str, Tensor], *, bf16: bool = False
) -> dict[str, Tensor]:
    """Losses by name: one a task of the model, whether or not the batch labels it: an absent task has zero gradients, not none.

    A model with a method `learn(images, targets, known, criteria) -> losses by name` is asked for its losses through it.
    A batch of one view of several may leave out targets that another view has: their losses are zero here.
    """
    learn = getattr(model, "learn", None)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        answer = learn(images, targets, known, criteria) if learn else model(images)
    if learn:
        return answer  # type: ignore[no-any-return]
    raw = {t.name: answer[t.name].float() for t in model.tasks}
    return {n: criteria[n](r, targets[n], known[n]) if n in targets else silent(r) for n, r in raw.items()}


def keep_memory() -> None:
    """Ask glibc to keep freed memory: a training step frees and asks again for the same hundreds of megabytes, and
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

    def progress(self, done: int, steps: int, means: Mapping[str, float], rate: float, pictures: int, lr: float) -> None:
        """Mean losses since the last report, into the file and for people. rate: steps a second. pictures: a step."""
        self.write(step=done, losses=means, images_per_s=rate * pictures, lr=lr)
        told = "  ".join(f"{k} {v:.3f}" for k, v in means.items())
        self.say(f"step {done}/{steps}  {rate * pictures:.0f} images/s  ETA {(steps - done) / rate / 60:.0f} min  {told}")

    @staticmethod
    def say(text: str) -> None:
        """Tell a person, on stderr."""
        print(text, file=sys.stderr, flush=True)


def batches_of(
    mixtures: Sequence[Mixture], start: int, stop: int, *, accumulate: int = 1, ranks: Ranks = ALONE
) -> Iterator[tuple[Batch, ...]]:
    """One batch of each mixture a step, micro-batch after micro-batch; their threads end with this, however it ends."""
    shares, of = [ranks.rank + ranks.world * m for m in range(accumulate)], ranks.world * accumulate
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(contextlib.closing(m.batches(start, stop, shares=shares, of=of))) for m in mixtures]
        for _ in range(start, stop):
            yield tuple(next(stream) for _ in shares for stream in streams)


def learning_of(model: nn.Module, criteria: Mapping[str, Any]) -> nn.ModuleList:
    """All that is trained: the model, and criteria with weights of their own."""
    return nn.ModuleList([model, *(c for c in criteria.values() if isinstance(c, nn.Module))])


def train_step(recipe: Recipe, criteria: dict[str, Any], batches: Sequence[Batch], ranks: Ranks = ALONE) -> dict[str, float]:
    """Forward, losses, weights, backward, clip, step -> the losses of the joined batch as numbers, and the gradient's norm.

    There is one forward a mixture, and losses of one name add up. All views are in one backward, not one after the
    other with accumulated gradients: a balance weighs the losses of the whole step, which are known after the last forward.
    Batch norms normalise each view by itself, and their running statistics follow all views in turn.

    Of several micro-batches each has a backward of its own, so a balance whose weights follow from the losses of the very
    step is refused. A loss is scaled by the share of the joined mean that a batch speaks for, see `ranks.shares_of`.

    Args:
        batches: this rank's, one a mixture, micro-batch after micro-batch.
    """
    model, mixtures, joined = recipe.model, recipe.mixtures, dict[str, Tensor]()
    parts = len(batches) // len(mixtures)
    alone = parts * ranks.world == 1
    shares = [{"": 1.0}] * len(batches) if alone else shares_of(model.tasks, criteria, list(batches), len(mixtures), ranks)
    used, weights = list[dict[str, float]](), dict[str, float]()
    recipe.optimizer.zero_grad()
    for first in range(0, len(batches), len(mixtures)):
        losses = dict[str, Tensor]()
        for mixture, batch, share in zip(mixtures, batches[first:], shares[first:], strict=False):
            images, targets, known = _placed(to_tensors(batch, mixture.view or model.view), ranks.device)
            for name, loss in losses_of(model, criteria, images, targets, known, bf16=recipe.bf16).items():
                scaled = loss if alone else loss * share_of(name, share)
                losses[name] = losses[name] + scaled if name in losses else scaled
        if parts == 1:
            joined = ranks.add_losses(losses)
            weights = recipe.balance(joined)
        else:
            weights = copy.deepcopy(recipe.balance)(losses)
            joined = {n: joined[n] + v.detach() if n in joined else v.detach() for n, v in losses.items()}
        used.append(weights)
        torch.stack([weights[name] * loss for name, loss in losses.items()]).sum().backward()
    if parts > 1:
        joined = ranks.add_losses(joined)
        weights = recipe.balance(joined)
        if any(u != weights for u in used):
            raise UsageError(f"{type(recipe.balance).__name__} weighs by the losses of the step itself; with it, accumulate must be 1")
    if not torch.isfinite(torch.stack([weights[name] * loss for name, loss in joined.items()]).sum()):
        bad = {n: float(v.detach()) for n, v in joined.items() if not torch.isfinite(v)}
        raise UsageError(f"the loss is not finite: {bad or joined}; lower the learning rate or look at these tasks' labels")
    learning = learning_of(model, criteria)
    ranks.add_gradients(learning)
    norm = nn.utils.clip_grad_norm_(learning.parameters(), recipe.clip)
    recipe.optimizer.step()
    return {**{n: float(v.detach()) for n, v in joined.items()}, "norm": float(norm)}


Tensors = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]


def _placed(tensors: Tensors, device: torch.device) -> Tensors:
    images, targets, known = tensors
    return images.to(device), {k: v.to(device) for k, v in targets.items()}, {k: v.to(device) for k, v in known.items()}


def fit(
    recipe: Recipe, out: Path, *, resume: bool = False, stop_after: int | None = None, report: int = 50, save: int = 500,
    ranks: Ranks = ALONE,
) -> Any:  # fmt: skip
    """Train a recipe in a folder; returns the averaged model.

    A run that is stopped and resumed gives the same weights as one that goes on: batches follow from the step, and weights,
    averages, optimiser and torch's generator are in the checkpoint. Of several ranks, the first writes.

    Args:
        out: RUN folder; gets `last.safetensors` (everything), `model.safetensors` (averaged weights), `log.jsonl`.
        resume: go on from `last.safetensors`. stop_after: end after that many steps (the rest by resuming).
        report, save: steps between progress lines, and between checkpoints.
        ranks: the processes that share the work, see `mien.ranks.join`.

    Raises:
        UsageError: the folder holds a run and `resume` is not set, a loss is not finite, or see `Recipe.criteria_by_task`.
        RankLost: another rank ended or does not answer.
    """
    last = out / "last.safetensors"
    if last.exists() and not resume:
        raise UsageError(f"{out} holds a run already; go on with --resume, or choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    keep_memory()
    torch.manual_seed(recipe.seed)
    model = recipe.model.to(ranks.device, memory_format=torch.channels_last)
    criteria, pictures = recipe.criteria_by_task(), sum(m.batch_size for m in recipe.mixtures)
    ranks.copy_first(learning_of(model, criteria).to(ranks.device))
    average = Average(model, recipe.ema)
    base = [g["lr"] for g in recipe.optimizer.param_groups]
    run = (model, average.model, recipe.optimizer, recipe.balance)
    start = checkpoint.load_run(last, *run, criteria) if resume and last.exists() else 0
    stop = recipe.steps if stop_after is None else min(recipe.steps, start + stop_after)
    ranks.agree(start, "the step to go on from")
    learn_mode(model)
    log, sums, seen, since = Log(out / "log.jsonl"), dict[str, float](), 0, time.perf_counter()
    for step, batches in enumerate(batches_of(recipe.mixtures, start, stop, accumulate=recipe.accumulate, ranks=ranks), start):
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
                checkpoint.save(out / "model.safetensors", average.model, **recipe.provenance(done))
            ranks.wait()
        if recipe.protocols and (done % recipe.every == 0 or done == recipe.steps):
            _validate(recipe, average.model, done, log) if ranks.first else None
            ranks.wait()
            since = time.perf_counter()
    return average.model


def _validate(recipe: Recipe, model: Any, step: int, log: Log) -> None:
    from mien.evaluate import PROTOCOLS, TorchAnswerer, evaluate  # evaluating is a step above training

    model = copy.deepcopy(model).cpu() if next(model.parameters()).is_cuda else model  # answers are numpy
    scores = {name: evaluate(TorchAnswerer(model), PROTOCOLS[name], limit=recipe.limit).headline for name in recipe.protocols}
    log.write(step=step, scores=scores)
    log.say(f"step {step}  validation  " + "  ".join(f"{k} {v:.2f}" for k, v in scores.items()))
