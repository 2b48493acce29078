"""The compared tools: what each predicts, and notes on its numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench.peers.install import DLIB, MEDIAPIPE, NODE, OPENCV, OWN, ROOT, Environment, command

WORKERS = Path("bench/peers/workers")
ALL = "all"

# job -> what is measured: every tool does only this
JOBS = {
    "detect": "detection only",
    "points": "detection and points",
    "embedding": "detection and embedding",
    "age_gender": "detection, age and gender",
    "expression": "detection and expression",
    ALL: "all predictions of the tool in its common use",
}

# footnote mark -> text
MARKS = {
    "†": "The tool was trained, or very likely, on these pictures: the number says little about others.",
    "‡": "The tool was trained on the training part of this set. Tools without the mark were not.",
    "§": (
        "Related embeddings: dlib's network was the teacher of mien's, and face-api's is a port of it. In"
        " mien, only the landmarks were trained on LFW pictures."
    ),
}


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool in one way of using it.

    Attributes:
        name: short, for the command line and the result.
        title: for people.
        environment: where it runs.
        script: in `WORKERS`.
        options: of the script, beyond the threads.
        answers: what its whole job gives, in words.
        jobs: that it can do.
        marks: protocol -> footnotes.
    """

    name: str
    title: str
    environment: Environment
    script: str
    answers: str
    jobs: tuple[str, ...]
    options: tuple[str, ...] = ()
    marks: dict[str, str] = field(default_factory=dict)

    def words(self, threads: int, root: Path = ROOT) -> list[str]:
        """The command that starts it."""
        start = [*command(self.environment, root), str(WORKERS / self.script)]
        if self.environment.kind == "node":
            return [*start, str(root / self.environment.name), str(threads), *self.options]
        return [
            *start,
            *(() if self.script == "read_dlib.py" else ("--threads", str(threads))),
            *self.options,
        ]


_LOCAL = {
    "mtfl": "‡",
    "helen68": "‡",
    "utkface-age": "‡",
    "utkface-gender": "‡",
    "ferplus-test": "‡",
    "lfw": "§",
}
_EXPRESSION = {"ferplus-test": "‡"}

PEERS = (
    Peer(
        "mien",
        "mien",
        OWN,
        "read_mien.py",
        "5 and 68 points, parsing, age, gender, expression, 40 attributes, pose, embedding",
        tuple(JOBS),
        marks=_LOCAL,
    ),
    Peer(
        "mediapipe",
        "MediaPipe",
        MEDIAPIPE,
        "read_mediapipe.py",
        "478 points (FaceMesh, at most 20 faces)",
        ("detect", "points", ALL),
    ),
    Peer(
        "mediapipe-crops",
        "MediaPipe crops",
        MEDIAPIPE,
        "read_mediapipe.py",
        "boxes, 478 points",
        ("detect", "points", ALL),
        ("--crops",),
    ),
    Peer(
        "face_recognition",
        "face_recognition",
        DLIB,
        "read_dlib.py",
        "68 points, embedding",
        ("detect", "points", "embedding", ALL),
        marks={"helen68": "†", "lfw": "§"},
    ),
    Peer(
        "human",
        "human",
        NODE,
        "read_human.mjs",
        "478 points, irises, age, gender, expression, embedding, anti-spoofing, liveness",
        tuple(JOBS),
        marks=_EXPRESSION,
    ),
    Peer(
        "face-api",
        "face-api",
        NODE,
        "read_faceapi.mjs",
        "68 points, age, gender, expression, embedding",
        tuple(JOBS),
        marks={"utkface-age": "†", "utkface-gender": "†", "lfw": "§"} | _EXPRESSION,
    ),
    Peer("haar", "OpenCV Haar", OPENCV, "read_haar.py", "boxes", ("detect", ALL)),
)

NO_WEIGHTS = "the package has no weights and downloads them"
# Other tools, and why they are not measured: only package registries are used.
BLANKS = {
    "insightface 2.1": NO_WEIGHTS,
    "uniface 4.2.1": NO_WEIGHTS,
    "deepface 0.0.103": NO_WEIGHTS,
    "py-feat 2.1.5": NO_WEIGHTS,
    "facer (pyfacer 0.0.5)": NO_WEIGHTS,
    "mediapipe 1.2.2": ("no models and no solutions in the wheel; 0.10.21, the last with both, is measured"),
    "OpenCV YuNet, SFace": ("no models in OpenCV's wheels; YuNet was the teacher of mien's detector"),
    "facenet-pytorch 2.6.0": "requires torch 2.2, whose wheel brings CUDA",
    "mtcnn 1.0.0": "requires TensorFlow",
    "FaceXFormer, Faceptor, SwinFace": "no packages; scripts with weights elsewhere",
}


def chosen(names: list[str] | None) -> tuple[Peer, ...]:
    """Those named, in the table's order; all for None.

    Raises:
        ValueError: an unknown name.
    """
    if unknown := sorted(set(names or ()) - {p.name for p in PEERS}):
        raise ValueError(f"no peer {unknown[0]!r}; there are: {', '.join(p.name for p in PEERS)}")
    return tuple(p for p in PEERS if names is None or p.name in names)
