"""The doctor says what is there, and finds what is broken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from mien import settings
from mien.cli import app
from mien.diagnostics import doctor
from mien.diagnostics.doctor import WEIGHTS, drawn_face
from mien.inference import onnx_model
from mien.inference.reader import load
from mien.settings import cpu_quota


def test_a_well_installation(monkeypatch) -> None:
    done = CliRunner().invoke(app, ["doctor", "--json", "--threads", "1", "--runs", "1"])
    assert done.exit_code == 0, done.output
    by = {c["name"]: c for c in json.loads(done.stdout)}
    assert list(by) == [
        "machine",
        "cores",
        "packages",
        "extras",
        "detector.onnx",
        "mien.onnx",
        "identity_fmr.json",
        "runtime",
        "self-test",
        "time",
    ]
    assert by["packages"]["facts"]["numpy"] == np.__version__
    assert by["mien.onnx"]["facts"]["sha256"] == by["mien.onnx"]["facts"]["expected"]
    assert by["self-test"]["facts"]["found"] == 1
    assert by["self-test"]["facts"]["point_error"] < 0.15
    assert list(by["time"]["facts"]) == ["load", "detect", "align", "read 1 face", "read 8 faces"]
    assert all(v > 0 for v in by["time"]["facts"].values())


def test_altered_and_missing_weights_are_found(tmp_path) -> None:
    for name in ("mien.json", "detector.onnx", "detector.json"):
        shutil.copy(WEIGHTS / name, tmp_path / name)
    with (tmp_path / "detector.onnx").open("ab") as file:
        file.write(b"x")
    altered, missing, rates = doctor.weights(tmp_path)
    assert (rates.verdict, rates.text.split(";")[0]) == ("note", "missing")
    assert (altered.verdict, missing.verdict) == ("bad", "bad")
    assert altered.facts["sha256"] in altered.text
    assert altered.facts["expected"] in altered.text
    assert "mien.onnx is missing" in missing.text


@pytest.mark.parametrize("same", [True, False])
def test_rates_of_other_weights_are_pointed_out(same, tmp_path) -> None:
    for name in ("detector.onnx", "detector.json", "mien.onnx", "mien.json"):
        os.symlink(WEIGHTS / name, tmp_path / name)
    sha256 = json.loads((WEIGHTS / "mien.json").read_text())["sha256"]
    (tmp_path / "identity_fmr.json").write_text(json.dumps({"model": sha256 if same else "0" * 64}))
    rates = doctor.weights(tmp_path)[-1]
    assert rates.verdict == ("ok" if same else "note")
    assert ("other weights" in rates.text) == (not same)


def test_with_broken_weights_nothing_is_loaded(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "weights", lambda: [doctor.Check("mien.onnx", "bad", "gone")])
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "BAD   mien.onnx: gone" in done.output
    assert "self-test" not in done.output


def test_a_check_that_fails_is_reported_and_not_raised() -> None:
    def broken():
        raise OSError("no space left")

    (check,) = doctor._guarded("self-test", broken)
    assert (check.verdict, check.text) == ("bad", "OSError: no space left")


def test_a_processor_without_avx_is_reported(monkeypatch) -> None:
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(doctor, "cpu_features", lambda: ["sse4_2"])
    assert doctor.machine().verdict == "bad"
    assert "without AVX" in doctor.machine().text
    monkeypatch.setattr(doctor, "cpu_features", lambda: ["avx", "avx2"])
    assert doctor.machine().verdict == "ok"


def test_a_missing_package_is_reported_and_any_opencv_counts(monkeypatch) -> None:
    have = {"mien": "1", "numpy": "2", "onnxruntime": "1", "pillow": "12", "typer": "1"}
    monkeypatch.setattr(doctor, "_version", have.get)
    needed, extras = doctor.packages()
    assert needed.verdict == "bad"
    assert "pip install opencv-python-headless" in needed.text
    assert "mien[train,parquet,heif,video,gallery,serve]" in extras.text
    have["opencv-contrib-python"] = "4"
    assert doctor.packages()[0].verdict == "ok"


@pytest.mark.parametrize(("files", "quota"), [
    ({"cpu.max": "150000 100000\n"}, 1.5), ({"cpu.max": "max 100000\n"}, None), ({}, None),
    ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2.0),
    ({"cpu/cpu.cfs_quota_us": "-1"}, None),
])  # fmt: skip
def test_a_container_s_quota(files, quota, tmp_path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == quota


def test_a_quota_below_what_is_seen_is_pointed_out(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "cpu_quota", lambda: 0.5)
    monkeypatch.setattr(settings, "cpu_quota", lambda: 0.5)
    assert doctor.cores().verdict == "note"
    assert "inference threads: 1" in doctor.cores().text


@pytest.mark.parametrize(
    ("quota", "usable", "threads"), [(None, 8, 8), (1.5, 8, 1), (0.5, 8, 1), (3.0, 8, 3), (16.0, 8, 8)]
)
def test_a_network_takes_no_more_threads_than_a_quota_has_cores(quota, usable, threads, monkeypatch) -> None:
    monkeypatch.setattr(settings, "cpu_quota", lambda: quota)
    monkeypatch.setattr(onnx_model, "cpu_quota", lambda: quota)
    monkeypatch.setattr(settings.os, "sched_getaffinity", lambda _: set(range(usable)), raising=False)
    assert settings.inference_threads() == threads
    taken = []
    start = onnx_model.ort.InferenceSession

    def session(data, options, **more):
        taken.append(options.intra_op_num_threads)
        options.intra_op_num_threads = 1
        return start(data, options, **more)

    monkeypatch.setattr(onnx_model.ort, "InferenceSession", session)
    load(tasks=["age"])
    assert taken == [threads if quota else 0] * 2  # reader and detector; 0: the runtime counts the cores
    load(tasks=["age"], threads=2)
    assert taken[2:] == [2, 2]


def test_machine_and_versions_are_known_before_anything_heavy_is_imported() -> None:
    code = (
        "import sys; import mien.cli; from mien.diagnostics import doctor\n"
        "doctor.machine(), doctor.cores(), doctor.packages(), doctor.weights()\n"
        "print(sorted({'cv2', 'onnxruntime', 'torch', 'PIL'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_drawn_face_is_the_same_each_time() -> None:
    a, points = drawn_face()
    b, _ = drawn_face()
    assert np.array_equal(a, b)
    assert a.shape == (320, 320, 3)
    assert points.shape == (5, 2)
