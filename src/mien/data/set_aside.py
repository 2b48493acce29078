"""Pictures that are set aside from training parts, so that every training and every protocol agrees on them.

The names were drawn with seed 1: `face_boxes` 100 photos; `fairface` 500 pictures per race of its training
part; `celeba_wild` all photos (317) of 25 people who are not in the first pack's `celeba/train`; `celebamask`
120 pictures of its training part.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("set_aside.json")


@cache
def names(dataset: str) -> frozenset[str]:
    """Names of a data set's pictures that no training may see; empty for a set that keeps none back."""
    listed = json.loads(FILE.read_text(encoding="utf-8"))
    return frozenset(listed.get(dataset, ()))
