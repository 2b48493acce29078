"""The calls of InsightFace as it documents them, answered by mien.

    from mien.compat.insightface.app import FaceAnalysis
    app = FaceAnalysis(name="buffalo_l")
    app.prepare(ctx_id=0, det_size=(640, 640))
    faces = app.get(cv2_picture)  # BGR

Differences: one network, whatever `name` says; its embedding has 128 numbers of length 1 and cannot be
compared with theirs.
"""

from mien.compat.insightface import app, data, model_zoo
from mien.compat.insightface.app import FaceAnalysis
from mien.compat.insightface.app.common import Face

__version__ = "0.7"  # of the interface that is followed here: scripts compare it

__all__ = ["Face", "FaceAnalysis", "app", "data", "model_zoo"]
