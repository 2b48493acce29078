"""`insightface.app`: `FaceAnalysis`, and `Face` in `common`."""

from mien.compat.insightface.app.face_analysis import FaceAnalysis

__all__ = ["FaceAnalysis"]
