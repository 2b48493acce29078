"""A recipe of two steps on drawn faces, as text."""

from __future__ import annotations

TOY_RECIPE = '''
"""A drawn face learned in a few steps."""
import torch
from mien.data.dataset import FaceSource; from mien.data import synthetic as toy
from mien.data.augment import Augment
from mien.data.mixture import Mixture
from mien.models.faceptor import faceptor_tiny
from mien.tasks import AGE, LANDMARKS
from mien.training.recipe import Recipe, cosine

def recipe(*, steps: int = 2, seed: int = 1) -> Recipe:
    torch.manual_seed(seed)
    model = faceptor_tiny(tasks=(LANDMARKS, AGE), size=64)
    source = FaceSource(toy.toy(n=4), model.view, Augment())
    mixture = Mixture([(source, 2)], model.tasks, seed=seed, size=model.view.size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return Recipe("toy", model, mixture, optimizer, cosine(1), steps, seed=seed, data=("toy",))
'''
