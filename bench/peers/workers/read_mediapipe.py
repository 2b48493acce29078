"""MediaPipe's solutions, whose models are in the wheel: face detection, and FaceMesh of the photo or of a
crop a face.
"""

import argparse
import importlib.metadata
import os

import cv2
import mediapipe as mp
import numpy as np
from serve import serve

# of a detected box, added on each side of a crop: the mesh finds the face again in it, and needs its
# surroundings
ROOM = 0.35


def load(threads, crops):
    """With `crops`: the detector for farther faces, and a mesh in each of its boxes.

    Else each solution as it comes.
    """
    cv2.setNumThreads(threads)
    find = mp.solutions.face_detection.FaceDetection(
        model_selection=1 if crops else 0, min_detection_confidence=0.5
    )
    mesh = mp.solutions.face_mesh.FaceMesh(
        static_image_mode=True, max_num_faces=1 if crops else 20, refine_landmarks=True
    )

    def boxes(pixels):
        h, w = pixels.shape[:2]
        found = []
        for d in find.process(pixels).detections or ():
            b = d.location_data.relative_bounding_box
            x, y = b.xmin * w, b.ymin * h
            found.append(([x, y, x + b.width * w, y + b.height * h], float(d.score[0])))
        return found

    def in_crop(pixels, box):
        x1, y1, x2, y2 = box
        dx, dy = ROOM * (x2 - x1), ROOM * (y2 - y1)
        left, top = max(0, int(x1 - dx)), max(0, int(y1 - dy))
        crop = np.ascontiguousarray(
            pixels[top : max(top + 1, int(y2 + dy)), left : max(left + 1, int(x2 + dx))]
        )
        return mesh.process(crop).multi_face_landmarks, (left, top), crop.shape

    def call(pixels, job):
        if job == "detect":
            return boxes(pixels)
        if not crops:
            return [
                (None, 1.0, m, (0, 0), pixels.shape) for m in mesh.process(pixels).multi_face_landmarks or ()
            ]
        out = []
        for box, score in boxes(pixels):
            found, corner, shape = in_crop(pixels, box)
            out.append((box, score, found[0] if found else None, corner, shape))
        return out

    def tell(raw, job, pixels):
        if job == "detect":
            return [{"box": box, "score": score} for box, score in raw]
        faces = []
        for box, score, found, (left, top), (h, w, _) in raw:
            face = {"box": box, "score": score}
            if found is not None:
                # a fraction of the picture's width, 0 at its edge: our pixels have 0 at the first pixel's
                # center
                points = np.array([(p.x * w, p.y * h) for p in found.landmark]) + (left - 0.5, top - 0.5)
                face["mesh"] = points.round(2).tolist()
                face["box"] = box or [*points.min(0).tolist(), *points.max(0).tolist()]
            faces.append(face)
        return faces

    home = os.path.join(os.path.dirname(mp.__file__), "modules")
    detector = "face_detection_full_range_sparse.tflite" if crops else "face_detection_short_range.tflite"
    used = ["face_detection/" + detector, "face_landmark/face_landmark_with_attention.tflite"]
    if crops:
        used.append("face_detection/face_detection_short_range.tflite")
    return (
        call,
        tell,
        {"mediapipe": importlib.metadata.version("mediapipe")},
        [os.path.join(home, *u.split("/")) for u in used],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--crops", action="store_true")
    given = parser.parse_args()
    serve(lambda: load(given.threads, given.crops))
