"""Train, score and time the runs of the comparison. Each step leaves a file, and is not done twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.comparison.runs import Run, every_run, protocols_of

BATCH = 20


def settings_of(run: Run, out: Path) -> dict[str, Any]:
    """The recipe's arguments, with the weights that the run starts from."""
    return {**run.settings, **({"start": str(out / run.start / "model.safetensors")} if run.start else {})}


def train(run: Run, out: Path) -> None:
    """Train one run in a process of its own, on one thread; goes on where it stopped.

    Two runs of one thread each use two cores better than one run of two: small networks wait for each other's
    parts.
    """
    folder = out / run.name
    flags = [word for name, value in settings_of(run, out).items() for word in (f"--{name}", str(value))]
    command = [
        sys.executable,
        "-m",
        "mien",
        "train",
        f"recipes/{run.recipe}.py",
        "--out",
        str(folder),
        "--resume",
        "--threads",
        "1",
        *flags,
    ]
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.log").open("a", encoding="utf-8") as log:
        subprocess.run(command, stdout=log, stderr=log, env={**os.environ, **threads}, check=True)
    (folder / "done").touch()


def train_all(names: Sequence[str], out: Path, workers: int) -> None:
    """Train what is not trained yet, `workers` at a time; a run waits for the one that it starts from.

    Raises:
        RuntimeError: runs failed; the rest were trained, and their logs say why.
    """
    runs, failed, lock, busy = every_run(), dict[str, str](), threading.Lock(), set[str]()
    waiting = [n for n in names if not (out / n / "done").exists()]

    def ready(name: str) -> bool:
        start = runs[name].start
        return not start or (out / start / "done").exists()

    def work() -> None:
        while True:
            with lock:
                name = next((n for n in waiting if ready(n)), None)
                if name is None and not (waiting and busy):
                    return
                if name is not None:
                    waiting.remove(name)
                    busy.add(name)
            if name is None:
                time.sleep(1)  # what is left waits for a run that another worker trains
                continue
            print(f"train {name}", flush=True)
            try:
                train(runs[name], out)
            except subprocess.CalledProcessError as e:
                failed[name] = f"exit code {e.returncode}, see {out / name / 'train.log'}"
            finally:
                with lock:
                    busy.discard(name)

    workers_ = [threading.Thread(target=work) for _ in range(workers)]
    for w in workers_:
        w.start()
    for w in workers_:
        w.join()
    failed |= {n: f"it starts from {runs[n].start}, which is not trained" for n in waiting}
    if failed:
        raise RuntimeError("; ".join(f"{n}: {why}" for n, why in failed.items()))


def exported(name: str, out: Path) -> Path:
    """The run's averaged weights as ONNX, in the run's folder; made once."""
    from mien.export.onnx_export import export
    from mien.training import checkpoint

    weights, path = out / name / "model.safetensors", out / name / "model.onnx"
    if not path.exists() or path.stat().st_mtime < weights.stat().st_mtime:
        export(checkpoint.load(weights), path)
    return path


def scores_of(model: Any, names: Sequence[str] = ()) -> dict[str, Any]:
    """Protocols, all that the model answers if none is named -> their numbers, as they are kept."""
    from mien.evaluation.scoring import run

    return {s.protocol: {k: round(v, 5) for k, v in s.values.items()} for s in run(model, names)}


def score(name: str, out: Path, *, threads: int | None = None) -> dict[str, Any]:
    """The protocols that the page shows of the run: protocol -> numbers. Kept in scores.json.

    By the exported network, which answers as torch does.
    """
    from mien.inference.onnx_model import OnnxModel

    cache, weights = out / name / "scores.json", out / name / "model.safetensors"
    if cache.exists() and cache.stat().st_mtime >= weights.stat().st_mtime:
        return json.loads(cache.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    model = OnnxModel(exported(name, out), threads=threads)
    scores = scores_of(model, protocols_of(name))
    cache.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    return scores


def curve(name: str, out: Path) -> list[dict[str, Any]]:
    """Validation numbers along the run: [{"step": 500, "celeba": 84.1, ...}, ...]."""
    rows = [json.loads(line) for line in (out / name / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{"step": r["step"], **r["scores"]} for r in rows if "scores" in r]


def cost(name: str, out: Path) -> dict[str, Any]:
    """Parameters, multiply-adds of one face, training speed and time in ONNX Runtime.

    Kept in cost.json; needs an idle machine.
    """
    cache = out / name / "cost.json"
    if cache.exists():
        return json.loads(cache.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    from mien.training import checkpoint

    model = checkpoint.load(out / name / "model.safetensors")
    record = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "multiply_adds": multiply_adds(model),
        "train_images_per_s": train_speed(every_run()[name], out),
        "onnx_ms": onnx_ms(exported(name, out)),
    }
    cache.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def multiply_adds(model: Any) -> int:
    """Of one face, forward: half of what torch's own counter calls floating-point operations."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    w, h = model.view.size
    model.requires_grad_(False)  # the counter's hooks ask tensors that want gradients for a graph
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, h, w))
    return int(counter.get_total_flops() // 2)


def train_speed(run: Run, out: Path, *, steps: int = 8, threads: int = 2) -> float:
    """Pictures a second of whole training steps on ready batches, after three steps to warm up; the median
    step counts.
    """
    import torch

    from mien.cli import load_recipe
    from mien.training.loop import keep_memory, train_step, training_mode

    keep_memory()
    torch.set_num_threads(threads)
    recipe = load_recipe(Path(f"recipes/{run.recipe}.py"))(**settings_of(run, out))
    model = recipe.model.to(memory_format=torch.channels_last)
    training_mode(model)
    criteria, times = recipe.criteria_by_task(), []
    for step in range(steps + 3):
        batch = recipe.mixture.batch(step)
        begun = time.perf_counter()
        train_step(recipe, criteria, [batch])
        times.append(time.perf_counter() - begun)
    return round(BATCH / float(np.median(times[3:])), 1)


def onnx_ms(path: Path, *, runs: int = 40) -> float:
    """Milliseconds of one face in ONNX Runtime on one thread, median after five calls to warm up."""
    from mien.inference.onnx_model import OnnxModel

    network = OnnxModel(path, threads=1)
    w, h = network.view.size
    images, times = np.zeros((1, 3, h, w), np.float32), list[float]()
    for _ in range(runs + 5):
        start = time.perf_counter()
        network(images)
        times.append(1e3 * (time.perf_counter() - start))
    return round(float(np.median(times[5:])), 2)
