"""All models by name."""

from __future__ import annotations

from collections.abc import Callable

from mien.models.detector import detector
from mien.models.faceptor import faceptor_base, faceptor_tiny
from mien.models.far_amtn import far_amtn, far_amtn_tiny
from mien.models.ifan import ifan, ifan_tiny
from mien.models.mgmtn import mgmtn, mgmtn_tiny
from mien.models.mien import mien_tiny
from mien.models.naive_faceptor import naive_faceptor_base, naive_faceptor_tiny
from mien.models.qface import qface_base, qface_tiny
from mien.tasks.plugins import Catalogue, check_callable
from mien.types import FaceModel

_ALL: dict[str, Callable[..., FaceModel]] = {
    "detector": detector,
    "faceptor_base": faceptor_base,
    "faceptor_tiny": faceptor_tiny,
    "far_amtn": far_amtn,
    "far_amtn_tiny": far_amtn_tiny,
    "ifan": ifan,
    "ifan_tiny": ifan_tiny,
    "mgmtn": mgmtn,
    "mgmtn_tiny": mgmtn_tiny,
    "mien_tiny": mien_tiny,
    "naive_faceptor_base": naive_faceptor_base,
    "naive_faceptor_tiny": naive_faceptor_tiny,
    "qface_base": qface_base,
    "qface_tiny": qface_tiny,
}

MODELS: Catalogue[Callable[..., FaceModel]] = Catalogue("mien.systems", _ALL, check_callable)
