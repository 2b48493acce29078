"""Face recognition: verification, clustering and galleries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien._lazy import attach

if TYPE_CHECKING:
    from mien.recognition.clustering import cluster_faces
    from mien.recognition.gallery import Gallery
    from mien.recognition.verification import verify

__all__ = ["Gallery", "cluster_faces", "verify"]

__getattr__ = attach(
    __name__, {"cluster_faces": "clustering", "Gallery": "gallery", "verify": "verification"}
)
