"""face_recognition: dlib's HOG detector, 68 points, and the descriptor of 128 numbers."""

import importlib.metadata

import dlib
import face_recognition
import face_recognition_models as models
import numpy as np
from serve import serve


def load():
    """The calls of its manual; points by the predictor behind `face_landmarks`, which gives them in groups
    without an order.
    """

    def call(pixels, job):
        found = face_recognition.face_locations(pixels)
        points = embeddings = None
        if job in ("points", "all"):
            boxes = [dlib.rectangle(left, top, right, bottom) for top, right, bottom, left in found]
            points = [face_recognition.api.pose_predictor_68_point(pixels, b) for b in boxes]
        if job in ("embedding", "all"):
            embeddings = face_recognition.face_encodings(pixels, found)
        return found, points, embeddings

    def tell(raw, job, pixels):
        faces = []
        for i, (top, right, bottom, left) in enumerate(raw[0]):
            face = {"box": [left, top, right, bottom], "score": 1.0}
            if raw[1] is not None:
                face["ibug68"] = [(p.x, p.y) for p in raw[1][i].parts()]
            if raw[2] is not None:
                face["embedding"] = np.asarray(raw[2][i]).tolist()
            faces.append(face)
        return faces

    versions = {
        n: importlib.metadata.version(n) for n in ("dlib-bin", "face-recognition", "face-recognition-models")
    }
    used = (
        models.pose_predictor_model_location(),
        models.pose_predictor_five_point_model_location(),
        models.face_recognition_model_location(),
    )
    return call, tell, versions, used


if __name__ == "__main__":
    serve(load)
