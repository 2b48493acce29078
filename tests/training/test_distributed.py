"""Several ranks are one training: the same losses and weights as on the joined batch, exact resuming, no
hanging.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mien.data.augment import Augment
from mien.data.dataset import FaceSource
from mien.data.mixture import Mixture
from mien.errors import UsageError
from mien.models.mien import mien_tiny
from mien.tasks import AGE, ATTRIBUTES, EXPRESSION, LANDMARKS, PARSING
from mien.training import checkpoint
from mien.training.distributed import Distributed, batch_shares, join, loss_share, loss_weight
from mien.training.loop import batches_of, fit, train_step, training_mode
from mien.training.loss_weighting import Fixed, Uncertainty
from mien.training.recipe import Recipe
from mien.types import Batch, Example
from tests.support.ranks_work import Uneven, dies, differs, pair, several_runs, sleeps, small

ROOT = Path(__file__).parents[2]


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint._read(run / "last.safetensors")[0]


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert set(a) == set(b)
    for name in a:
        if name != "rng":
            assert torch.allclose(a[name], b[name], rtol=1e-4, atol=1e-6), (
                name,
                (a[name] - b[name]).abs().max(),
            )


def losses(run: Path) -> list[dict[str, float]]:
    return [json.loads(line)["losses"] for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    os.chdir(ROOT)
    codes = pair(several_runs, folder)
    assert codes == [0, 0], [p.read_text() for p in folder.glob("error*")]
    return folder


def test_two_ranks_are_one_with_the_joined_batch(runs, tmp_path):
    fit(small(), tmp_path / "one", report=1)
    assert_close(tensors(runs / "two"), tensors(tmp_path / "one"))
    for theirs, mine in zip(losses(runs / "two"), losses(tmp_path / "one"), strict=True):
        assert theirs == pytest.approx(mine, rel=1e-4) and mine["age"] > 0
    assert torch.equal(tensors(runs / "two")["model.unused"], torch.ones(3))  # no gradient: no decay either


def test_two_ranks_of_two_micro_batches_are_one(runs, tmp_path):
    fit(small(loss_weighting=Uncertainty(0.1)), tmp_path / "one", report=1)
    assert_close(tensors(runs / "four"), tensors(tmp_path / "one"))
    for theirs, mine in zip(losses(runs / "four"), losses(tmp_path / "one"), strict=True):
        assert theirs == pytest.approx(mine, rel=1e-4)


def test_two_ranks_resume_to_the_bit(runs):
    whole, parts = tensors(runs / "whole"), tensors(runs / "parts")
    assert set(whole) == set(parts)
    assert [n for n in whole if not torch.equal(whole[n], parts[n])] == []


def test_a_run_goes_on_with_another_number_of_ranks(runs, tmp_path):
    fit(small(), tmp_path / "one", report=1)
    fit(small(), runs / "fewer", report=1, resume=True)
    for run in ("fewer", "more"):
        assert_close(tensors(runs / run), tensors(tmp_path / "one"))


def test_the_log_and_the_checkpoint_are_written_once(runs):
    assert len(losses(runs / "two")) == 4
    assert not list(runs.glob("*/*.part"))


def test_statistics_and_gradients_are_one_on_all_ranks(runs):
    states = [np.frombuffer((runs / f"weights{r}").read_bytes(), np.float32).reshape(4, 4) for r in range(2)]
    assert np.array_equal(*states)
    torch.manual_seed(0)
    x = torch.randn(5, 4)
    weight, bias, mean, var = states[0]
    assert np.allclose(mean, 0.1 * (x.mean(0) + 0.5), atol=1e-6)  # of x and of x + 1
    assert np.allclose(var, 0.9 + 0.1 * x.var(0), atol=1e-6)
    assert np.allclose(bias, 10)
    assert np.allclose(weight, 0, atol=1e-5)  # rank 0 had none, rank 1's sums normalized numbers


def test_a_killed_rank_ends_the_run_and_it_resumes(tmp_path):
    start = time.perf_counter()
    assert pair(dies, tmp_path, timeout=300) == [2, -signal.SIGKILL]
    assert time.perf_counter() - start < 60  # it does not wait for the timeout
    said = (tmp_path / "error0").read_text()
    assert (
        said.startswith("RankLost: rank 0 of 2 lost the others")
        and "not arrived: rank 1 at" in said
        and "--resume" in said
    )
    fit(small(), tmp_path / "run", report=1, resume=True)
    fit(small(), tmp_path / "one", report=1)
    assert_close(tensors(tmp_path / "run"), tensors(tmp_path / "one"))


def test_a_rank_that_does_not_answer_is_named_after_the_timeout(tmp_path):
    codes = pair(sleeps, tmp_path, timeout=10, wait=(0,))
    said = (tmp_path / "error0").read_text()
    assert codes == [2, None]
    assert "not arrived: rank 1 at 1" in said and "timeout of 10 s" in said


def test_ranks_that_differ_say_so(tmp_path):
    assert pair(differs, tmp_path) == [2, 2]
    assert "do not agree on the step to resume from: [7, 8]" in (tmp_path / "error1").read_text()


# -- in this process


class Numbers:
    """Pictures that are their own number."""

    name = "numbers"

    def __init__(self, n: int, first: int):
        self.n, self.first = n, first

    def __len__(self) -> int:
        return self.n

    def example(self, index: int, rng: np.random.Generator, tasks=None) -> Example:
        pixels = np.full((2, 2, 3), self.first + index, np.uint8)
        pixels[0] = rng.integers(256)
        return Example(pixels, {})


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=4), of=st.integers(1, 8), step=st.integers(0, 50)
)
def test_shares_are_the_joined_batch(counts, of, step):
    mixture = Mixture(
        [(Numbers(3 + 2 * i, 40 * i), n) for i, n in enumerate(counts)], (), seed=1, size=(2, 2)
    )
    if of > sum(counts):
        with pytest.raises(UsageError, match=r"each share .* needs a picture"):
            mixture.batch(step, of - 1, of)
        return
    whole, parts = mixture.batch(step).images, [mixture.batch(step, s, of).images for s in range(of)]
    assert sorted(p.tobytes() for p in whole) == sorted(p.tobytes() for part in parts for p in part)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for source in range(len(counts)):
        own = [int((part[:, 1, 0, 0] // 40 == source).sum()) for part in parts]
        assert max(own) - min(own) <= 1


def test_streams_of_ranks_and_micro_batches_are_the_shares():
    mixture = small().mixture
    for rank in range(2):
        stream = list(batches_of([mixture, mixture], 1, 3, accumulate=2, ranks=Distributed(rank, 2)))
        assert len(stream) == 2
        for step, batches in enumerate(stream, 1):
            expected = [mixture.batch(step, share, 4) for share in (rank, rank, rank + 2, rank + 2)]
            assert [b.images.tobytes() for b in batches] == [e.images.tobytes() for e in expected]


def test_weights_by_hand():
    mask = torch.zeros(3, 40, dtype=torch.bool)
    mask[0, :4], mask[1, 0] = True, True
    target = torch.zeros(3, 40)
    assert loss_weight(ATTRIBUTES, ATTRIBUTES.criterion(), target, mask) == pytest.approx(4 / 2 + 1 / 1)
    masks = torch.full((2, 4, 4), 255, dtype=torch.uint8)
    masks[:, :2] = 1
    assert loss_weight(PARSING, PARSING.criterion(), masks, torch.tensor([True, False])) == 8
    assert loss_weight(LANDMARKS, LANDMARKS.criterion(), torch.zeros(2, 68, 2), torch.ones(2, 68) > 0) == 136

    def own(raw: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return raw.sum()

    own.weigh = lambda target, mask: target.sum()  # type: ignore[attr-defined]
    assert loss_weight(AGE, own, torch.tensor([20.0, 30.0]), torch.tensor([True, True])) == 50


def test_a_share_without_labels_does_not_skew():
    """Ages of 3 pictures in one micro-batch and none in the other: the mean of the means would be half of the
    mean.
    """
    images = np.zeros((3, 32, 32, 3), np.uint8)

    def batch(mask: list[bool]) -> Batch:
        return Batch(images, {"age": np.array([20, 30, 60], np.float32)}, {"age": np.array(mask)})

    parts = [batch([True, True, True]), batch([False, False, False]), batch([True, False, False])]
    shares = batch_shares((AGE,), {"age": AGE.criterion()}, parts, 1, Distributed())
    assert [s["age"] for s in shares] == [0.75, 0, 0.25]
    assert [loss_share("masks", s) for s in shares] == pytest.approx([1 / 3] * 3)
    assert [loss_share("age:old", s) for s in shares] == [0.75, 0, 0.25]


def tiny(accumulate: int) -> Recipe:
    """The embedded network, which learns through `learn`, with frozen norms and no dropout."""
    torch.manual_seed(1)
    model = mien_tiny(tasks=(LANDMARKS, AGE, EXPRESSION, ATTRIBUTES), size=64)
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.requires_grad_(False)
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    parts = [
        (Uneven(9, ("landmarks",)), 3),
        (Uneven(8, ("attributes", "age")), 3),
        (Uneven(5, ("expression",)), 1),
    ]
    mixture = Mixture(
        [(FaceSource(d, model.view, Augment()), n) for d, n in parts], model.tasks, seed=2, size=(64, 64)
    )
    learned = [p for p in model.parameters() if p.requires_grad]
    return Recipe(
        "tiny",
        model,
        mixture,
        torch.optim.SGD(learned, lr=0.0),
        lambda *_: 1.0,
        1,
        accumulate=accumulate,
        clip=1e9,
    )


def test_micro_batches_of_a_network_with_own_losses_equal_the_batch():
    told, grads = [], []
    for accumulate in (1, 3):
        recipe = tiny(accumulate)
        training_mode(recipe.model)
        (batches,) = batches_of(recipe.mixtures, 0, 1, accumulate=accumulate)
        told.append(train_step(recipe, recipe.criteria_by_task(), batches))
        grads.append({n: p.grad for n, p in recipe.model.named_parameters() if p.grad is not None})
    assert told[1] == pytest.approx(told[0], rel=1e-3)
    assert set(grads[0]) == set(grads[1])
    for name, grad in grads[0].items():
        assert torch.allclose(grads[1][name], grad, rtol=1e-2, atol=1e-3 * float(grad.abs().max()) + 1e-5), (
            name
        )


def test_micro_batches_stop_and_resume_exactly(tmp_path):
    fit(small(accumulate=3, dropout=0.5), tmp_path / "whole")
    fit(small(accumulate=3, dropout=0.5), tmp_path / "parts", stop_after=1)
    fit(small(accumulate=3, dropout=0.5), tmp_path / "parts", resume=True)
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert [n for n in whole if not torch.equal(whole[n], parts[n])] == []


def test_what_micro_batches_cannot_do_is_refused(tmp_path):
    class Follows(Fixed):
        def __call__(self, losses: Any) -> dict[str, float]:
            return {n: 1 / (1 + float(v.detach())) for n, v in losses.items()}

    with pytest.raises(UsageError, match="Follows depends on the losses of the same step"):
        fit(small(accumulate=2, loss_weighting=Follows()), tmp_path / "a")
    with pytest.raises(UsageError, match="1 or more; got 0"):
        fit(small(accumulate=0), tmp_path / "b")
    with pytest.raises(UsageError, match="share 0 of 8 of a batch of 7"):
        fit(small(accumulate=8), tmp_path / "c")


def test_without_torchrun_a_process_is_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with join() as ranks:
        before = torch.get_rng_state()
        ranks.seed(1, 1)
        assert (ranks.rank, ranks.world, ranks.first) == (0, 1, True)
        assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="not MASTER_ADDR, MASTER_PORT"), join():
        pass


# -- the command, under torchrun

RECIPE = """from tests.support.ranks_work import small
def recipe(*, steps: int = 3):
    return small(steps)
"""


def torchrun(folder: Path, *words: str) -> subprocess.Popen[str]:
    (folder / "small.py").write_text(RECIPE)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "mien",
        "train",
    ]
    command += [str(folder / "small.py"), "--out", str(folder / "run"), *words]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_torchrun_trains(tmp_path):
    process = torchrun(tmp_path)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    fit(small(3), tmp_path / "one")
    assert_close(tensors(tmp_path / "run"), tensors(tmp_path / "one"))
    assert said.count("step 3/3") == 1


@pytest.mark.slow
def test_torchrun_reports_a_killed_rank_and_resumes(tmp_path):
    process = torchrun(tmp_path, "--steps", "100000")
    last = tmp_path / "run" / "last.safetensors"
    while not last.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = [int(c) for c in children if b"RANK=1\0" in Path(f"/proc/{c}/environ").read_bytes()]
    os.kill(ranks[0], signal.SIGKILL)
    said = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert "SIGKILL" in said or "Signal 9" in said, said
    step = checkpoint._read(last)[1]["step"]
    process = torchrun(tmp_path, "--resume", "--steps", str(step + 20))
    assert process.wait(300) == 0, process.communicate()[1]
    assert checkpoint._read(last)[1]["step"] == step + 20
    process.communicate()
