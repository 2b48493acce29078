"""Who is compared, what each can answer, and what must be known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench.peers.install import DLIB, MEDIAPIPE, NODE, OPENCV, OWN, ROOT, Environment, command

WORKERS = Path("bench/peers/workers")
ALL = "all"

# job -> what is asked; like for like: everybody does just this, with the network that it uses for it
JOBS = {
    "detect": "detection: boxes only",
    "points": "detection and points of each face",
    "embedding": "detection and an embedding of each face",
    "age_gender": "detection, age and gender of each face",
    "expression": "detection and expression of each face",
    ALL: "all tasks of the tool in common use",
}

# footnote mark -> text
MARKS = {
    "†": (
        "The tool was trained on pictures of this set, or very likely was: this number says little about"
        " other pictures."
    ),
    "‡": (
        "The tool was trained on the training part of this set, which is an advantage over tools without this"
        " mark."
    ),
    "§": (
        "These embeddings are related: dlib's network was the teacher of mien's, and face-api's is a port of"
        " it. mien's points were trained on LFW, its embeddings were not."
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


_AT_HOME = {
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
        marks=_AT_HOME,
    ),
    Peer(
        "mediapipe",
        "MediaPipe, each solution as it comes",
        MEDIAPIPE,
        "read_mediapipe.py",
        "478 points (FaceMesh, at most 20 faces)",
        ("detect", "points", ALL),
    ),
    Peer(
        "mediapipe-crops",
        "MediaPipe, full-range detector and FaceMesh in each box",
        MEDIAPIPE,
        "read_mediapipe.py",
        "boxes, 478 points",
        ("detect", "points", ALL),
        ("--crops",),
    ),
    Peer(
        "face_recognition",
        "face_recognition (dlib)",
        DLIB,
        "read_dlib.py",
        "68 points, embedding",
        ("detect", "points", "embedding", ALL),
        marks={"helen68": "†", "lfw": "§"},
    ),
    Peer(
        "human",
        "human (WASM in Node)",
        NODE,
        "read_human.mjs",
        "478 points, irises, age, gender, expression, embedding, anti-spoofing, liveness",
        tuple(JOBS),
        marks=_EXPRESSION,
    ),
    Peer(
        "face-api",
        "face-api (WASM in Node)",
        NODE,
        "read_faceapi.mjs",
        "68 points, age, gender, expression, embedding",
        tuple(JOBS),
        marks={"utkface-age": "†", "utkface-gender": "†", "lfw": "§"} | _EXPRESSION,
    ),
    Peer("haar", "OpenCV, Haar cascade", OPENCV, "read_haar.py", "boxes", ("detect", ALL)),
)

# Other tools, and why they are not measured: only package registries are used.
BLANKS = {
    "insightface 2.1": "its weights are fetched from their host at first use; the package has none",
    "uniface 4.2.1": "its weights are fetched from their host at first use; the package has none",
    "deepface 0.0.103": "its weights are fetched from their host at first use; the package has none",
    "py-feat 2.1.5": "its weights are fetched from their host at first use; the package has none",
    "facer (pyfacer 0.0.5)": "its weights are fetched from their host at first use; the package has none",
    "mediapipe 1.2.2": (
        "its wheel has no models, and the solutions were removed; 0.10.21, the last version with both, is"
        " measured"
    ),
    "OpenCV YuNet, SFace": (
        "OpenCV's wheels contain the code, not the models; besides, YuNet was the teacher of mien's detector"
    ),
    "facenet-pytorch 2.6.0": "not tried: it requires torch 2.2, whose wheel in the registry includes CUDA",
    "mtcnn 1.0.0": "not tried: it needs TensorFlow",
    "FaceXFormer, Faceptor, SwinFace": "no packages; only scripts of papers, with weights elsewhere",
}


def chosen(names: list[str] | None) -> tuple[Peer, ...]:
    """Those named, in the table's order; all for None.

    Raises:
        ValueError: an unknown name.
    """
    if unknown := sorted(set(names or ()) - {p.name for p in PEERS}):
        raise ValueError(f"no peer {unknown[0]!r}; there are: {', '.join(p.name for p in PEERS)}")
    return tuple(p for p in PEERS if names is None or p.name in names)
