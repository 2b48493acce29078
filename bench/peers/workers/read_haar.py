"""OpenCV's cascade for faces, which its wheel brings."""

import argparse
import os

import cv2
from serve import serve


def load(threads):
    """scaleFactor 1.1 and minNeighbors 5, as its tutorials have them."""
    cv2.setNumThreads(threads)
    path = os.path.join(cv2.data.haarcascades, "haarcascade_frontalface_default.xml")
    cascade = cv2.CascadeClassifier(path)

    def call(pixels, job):
        return cascade.detectMultiScale(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), 1.1, 5)

    def tell(raw, job, pixels):
        return [{"box": [int(x), int(y), int(x + w), int(y + h)], "score": 1.0} for x, y, w, h in raw]

    return call, tell, {"opencv": cv2.__version__}, [path]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    serve(lambda: load(given.threads))
