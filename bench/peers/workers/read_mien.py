"""mien itself, behind the same line as the others."""

import argparse
import importlib.metadata

from serve import serve

from mien.inference.onnx_model import OnnxModel
from mien.inference.reader import Reader
from mien.inference.reader import load as load_reader
from mien.inference.weights_file import WEIGHTS
from mien.tasks import supported_tasks

JOBS = {
    "points": ("points5", "landmarks"),
    "embedding": ("identity",),
    "age_gender": ("age", "gender"),
    "expression": ("expression",),
}


def load(threads, weights):
    """A reader for each job; they share the network and the detector."""
    model = OnnxModel(weights, threads=threads)
    can = supported_tasks(t.name for t in model.tasks)
    whole = load_reader(model, tasks=can, threads=threads)
    readers = {
        job: Reader(whole.detector, model, tasks=[t for t in tasks if t in can])
        for job, tasks in JOBS.items()
    }
    readers["all"] = whole

    def call(pixels, job):
        return whole.detector(pixels) if job == "detect" else readers[job](pixels)

    def tell(raw, job, pixels):
        faces = []
        for f in raw:
            face = {"box": [float(v) for v in f.box], "score": float(f.score), "points5": f.points.tolist()}
            for name, answer in getattr(f, "answers", {}).items():
                if name == "points5":
                    face["points5"] = answer.points.tolist()
                elif name == "landmarks":
                    face["ibug68"] = answer.points.tolist()
                elif name == "age":
                    face["age"] = answer.years
                elif name == "gender":
                    face["male"] = answer.probability if answer.label == "male" else 1 - answer.probability
                elif name == "expression":
                    face["expression"] = dict(answer.probabilities)
                elif name == "identity":
                    face["embedding"] = answer.embedding.tolist()
            faces.append(face)
        return faces

    versions = {
        "mien": importlib.metadata.version("mien"),
        "onnxruntime": importlib.metadata.version("onnxruntime"),
    }
    versions["network"] = f"{getattr(model, 'name', '')} {getattr(model, 'sha256', '')[:12]}".strip()
    return call, tell, versions, [str(weights), str(WEIGHTS / "detector.onnx")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", default=str(WEIGHTS / "mien.onnx"))
    given = parser.parse_args()
    serve(lambda: load(given.threads, given.weights))
