"""The official Keras layout of iFAN, on generated arrays: names and shapes listed by hand, and what the
layers then compute.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mien.errors import BadWeights, UsageError
from mien.models.ifan_official import ifan_from_keras

TASKS = ("helen9", "points5", "emotion7")
SKIPS, BLOCKS = (132, 140, 212, 284, 356), (48, 52, 88, 124, 160)  # widths of the published ladder


class File:
    """One task's layers, numbered as Keras does; convolutions are the same in every file of a net."""

    def __init__(self, task: str, emotion: bool):
        self.task, self.rng, self.own = (
            task,
            np.random.default_rng(0),
            np.random.default_rng(1 + TASKS.index(task)),
        )
        self.layers: dict[str, list[np.ndarray]] = {}
        self.paths, self.conv_number, self.norm_number = (3 if emotion else 2), 0, 0
        raw, coded = (21, (55, 103, 135)) if emotion else (14, (48, 96, 128))
        for n in (9, 5):
            for kernel, c, out in ((5, n, 24), (3, 24, 48), (3, 48, 64)):
                self.conv(kernel, c, out)
                if not emotion:
                    self.norm(out, shared=True)
        for _ in range(3 if emotion else 0):
            self.conv(1, 7, 7)
        self.layers["initial_conv2D"] = [self.kernel(7, 3 + raw, 48)]
        extra = (raw, 0, *coded)
        for level, (c, skip) in enumerate(zip(BLOCKS, SKIPS, strict=True)):
            self.dense(c)
            if task != "points5" or level < 4:
                self.norm(skip + extra[level])
                self.conv(1, skip + extra[level], 16 + 36 * (level + 1))
        last = SKIPS[-1] + extra[-1]
        if task != "points5":
            self.dense(196)
        if task == "helen9":
            c = 232
            for level in (4, 3, 2, 1, 0):
                self.conv(3, c, 128)
                self.conv(3, 32, 128)
                self.dense(128 + SKIPS[level])
                c = 128 + SKIPS[level] + 36 + extra[level]
            self.conv(1, c, 9)
        elif task == "points5":
            self.layers["pred_pts"] = [
                self.own.normal(size=(8 * 8 * last, 10)) * 0.01,
                self.own.normal(size=10),
            ]
        else:
            self.layers["dense_1"] = [self.own.normal(size=(4 * 4 * 232, 7)) * 0.01, self.own.normal(size=7)]
        names = sorted(self.layers)  # as text: convolution2d_10 comes before convolution2d_2
        self.layers = {n: self.layers[n].copy() for n in names}

    def kernel(self, k: int, c: int, out: int) -> np.ndarray:
        return (self.rng.normal(size=(k, k, c, out)) * (2 / (k * k * c)) ** 0.5).astype(np.float32)

    def conv(self, k: int, c: int, out: int) -> None:
        self.conv_number += 1
        self.layers[f"convolution2d_{self.conv_number}"] = [self.kernel(k, c, out)]

    def norm(self, n: int, shared: bool = False) -> None:
        number = self.norm_number + (1 if shared else 1 + TASKS.index(self.task))
        self.norm_number += 1 if shared else self.paths
        rng = np.random.default_rng(number)
        self.layers[f"batchnormalization_{number}"] = [
            rng.normal(size=n),
            rng.normal(size=n),
            rng.normal(size=n),
            rng.random(n) + 0.5,
        ]

    def dense(self, c: int) -> None:
        for i in range(3):
            self.norm(c + 12 * i)
            self.conv(3, c + 12 * i, 12)


def files(emotion: bool) -> dict[str, dict[str, list[np.ndarray]]]:
    return {t: File(t, emotion).layers for t in TASKS[: 3 if emotion else 2]}


def test_the_three_task_net_computes_what_the_arrays_say():
    given = files(True)
    means = {
        "points5": np.arange(10) / 20 - 0.25,
        "emotion7": np.full(7, 1 / 7),
        "helen9": np.random.default_rng(9).random((128, 128, 9)),
    }
    model = ifan_from_keras(given, means)
    assert not model.training
    trunk, rng = model.trunk, np.random.default_rng(5)
    with torch.no_grad():
        # the picture is BGR there
        x = rng.normal(size=(1, 24, 9, 9)).astype(np.float32)
        theirs = np.einsum(
            "bcyx,yxco->bo",
            np.concatenate([x[:, 2::-1], x[:, 3:]], 1)[:, :, 1:8, 1:8],
            given["helen9"]["initial_conv2D"][0],
        )
        np.testing.assert_allclose(trunk.first(torch.from_numpy(x))[0, :, 4, 4], theirs[0], atol=1e-4)
        # a dense layer reads rows, columns, channels
        maps = rng.normal(size=(1, 491, 8, 8)).astype(np.float32)
        weight, bias = given["points5"]["pred_pts"]
        theirs = maps.transpose(0, 2, 3, 1).reshape(1, -1) @ weight + bias
        np.testing.assert_allclose(
            model.heads["points5"].out(torch.from_numpy(maps).flatten(1)), theirs, rtol=1e-3, atol=1e-3
        )
        # sub-pixels: channel 4 c + 2 i + j of theirs is row j, column i of a 2 x 2
        number = (
            9 + 5 * 4 + 3 + 1
        )  # re-encoders, five levels of three and a transition, the bottleneck, then the first transition-up
        kernel = torch.from_numpy(given["helen9"][f"convolution2d_{number}"][0]).permute(3, 2, 0, 1)
        y = torch.randn(1, 232, 4, 4)
        theirs_map = F.conv2d(y, kernel, padding=1)
        expected = torch.zeros(1, 32, 8, 8)
        for i in range(2):
            for j in range(2):
                expected[:, :, j::2, i::2] = theirs_map[:, 2 * i + j :: 4]
        torch.testing.assert_close(F.pixel_shuffle(trunk.ups[0].conv(y), 2), expected, atol=1e-4, rtol=1e-4)
    for t in TASKS:  # the second layer's norm of the first block: the fourth to sixth that Keras made
        mine = trunk.blocks[0].norms[1].norms[t]
        gamma, beta, mean, var = given[t][f"batchnormalization_{4 + TASKS.index(t)}"]
        for ours, array in (
            (mine.weight, gamma),
            (mine.bias, beta),
            (mine.running_mean, mean),
            (mine.running_var, var),
        ):
            np.testing.assert_allclose(ours.detach(), array, rtol=1e-6)
    np.testing.assert_allclose(model.mean_points5[:, 0], np.arange(5) / 20 + 0.25, atol=1e-6)
    np.testing.assert_allclose(model.mean_helen9[4], means["helen9"][..., 4], atol=1e-6)
    out = model(torch.randn(1, 3, 128, 128))
    assert {k: tuple(v.shape) for k, v in out.items()} == {
        "helen9": (1, 9, 128, 128),
        "points5": (1, 5, 2),
        "emotion7": (1, 7),
    }


def test_the_two_task_nets_re_encoders_share_their_norms():
    given = files(False)
    model = ifan_from_keras(given)
    norm = model.encoders["points5"].norms[2].norms
    assert list(norm) == ["shared"]
    np.testing.assert_allclose(
        norm["shared"].weight.detach(), given["helen9"]["batchnormalization_6"][0], rtol=1e-6
    )
    first = model.trunk.blocks[0].norms[0].norms
    np.testing.assert_allclose(
        first["points5"].weight.detach(), given["points5"]["batchnormalization_8"][0], rtol=1e-6
    )


def test_what_does_not_fit_is_named():
    given = files(True)
    with pytest.raises(UsageError, match="files are of helen9; give those of"):
        ifan_from_keras({"helen9": given["helen9"]})
    gone = {k: v for k, v in given["points5"].items() if k != "batchnormalization_5"}
    with pytest.raises(BadWeights, match="points5 has 18 batch norms; the official one has 19"):
        ifan_from_keras(given | {"points5": gone})
    wrong = given["helen9"] | {"convolution2d_1": [np.zeros((5, 5, 9, 23), np.float32)]}
    with pytest.raises(BadWeights, match=r"convolution2d_1 is \(5, 5, 9, 23\)"):
        ifan_from_keras(given | {"helen9": wrong})
