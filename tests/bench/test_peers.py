"""The benchmark beside other tools: maps, line protocol, blanks, scores and the page, without any of the
tools.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.peers import accuracy, page
from bench.peers.__main__ import installed, parser, rounded
from bench.peers.accuracy import SIDE, SITTINGS, compared, framed, half_of_share, limited, the_face
from bench.peers.install import (
    DLIB,
    MEDIAPIPE,
    NODE,
    Environment,
    InstallFailed,
    command,
    install,
    run,
    steps,
)
from bench.peers.maps import EXPRESSIONS, IBUG68_OF_MESH, Descriptor, answer, expression, five, sixty_eight
from bench.peers.roster import ALL, BLANKS, JOBS, MARKS, PEERS, WORKERS, Peer, chosen
from bench.peers.speed import STAGES, photograph, summary
from bench.peers.wire import PeerFailed, Worker
from mien.evaluation.protocols import PROTOCOLS
from mien.tasks.choice import EXPRESSION8
from mien.tasks.landmarks import LANDMARKS
from mien.types import Sample

# MediaPipe's published contours, walked so that position k of one side mirrors position k of the other
RIGHT = (
    (
        109,
        67,
        103,
        54,
        21,
        162,
        127,
        234,
        93,
        132,
        58,
        172,
        136,
        150,
        149,
        176,
        148,
    ),  # outline, from the forehead
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),  # eye
    (70, 63, 105, 66, 107, 46, 53, 52, 65, 55),  # brow
    (61, 146, 91, 181, 84, 185, 40, 39, 37, 78, 95, 88, 178, 87, 191, 80, 81, 82),  # lips
    (98, 97),  # under the nose
)
LEFT = (
    (338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466),
    (300, 293, 334, 296, 336, 276, 283, 282, 295, 285),
    (291, 375, 321, 405, 314, 409, 270, 269, 267, 308, 324, 318, 402, 317, 415, 310, 311, 312),
    (327, 326),
)
MIDDLE = (152, 168, 197, 5, 4, 2, 0, 17, 13, 14)


# --- maps


def test_sixty_eight_of_the_mesh_are_distinct_and_mirror_each_other():
    mirror = {m: m for m in MIDDLE}
    for a, b in zip(RIGHT, LEFT, strict=True):
        mirror |= dict(zip(a, b, strict=True)) | dict(zip(b, a, strict=True))
    assert len(set(IBUG68_OF_MESH)) == 68 and all(0 <= i < 468 for i in IBUG68_OF_MESH)
    assert [mirror[i] for i in IBUG68_OF_MESH] == [IBUG68_OF_MESH[LANDMARKS.mirror[k]] for k in range(68)]


def test_points_from_a_mesh_or_from_sixty_eight():
    mesh = np.arange(956, dtype=float).reshape(478, 2)
    points = sixty_eight({"mesh": mesh.tolist()})
    assert (
        points is not None
        and points[8].tolist() == mesh[152].tolist()
        and points[45].tolist() == mesh[263].tolist()
    )
    eyes = five({"mesh": mesh.tolist()})
    assert (
        eyes is not None
        and np.allclose(eyes[0], mesh[[33, 160, 158, 133, 153, 144]].mean(0))
        and eyes[2].tolist() == mesh[4].tolist()
    )
    assert five({"points5": [[1, 2]] * 5, "ibug68": [[0, 0]] * 68}).tolist() == [[1, 2]] * 5  # type: ignore[union-attr]
    assert sixty_eight({"box": [0, 0, 1, 1]}) is None and answer("landmarks", {}) is None


def test_expressions_are_the_seven_and_never_contempt():
    human = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    face_api = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
    for words in (human, face_api):
        assert {EXPRESSIONS[w] for w in words} == set(EXPRESSION8) - {"contempt"}
    told = expression({"expression": {"fearful": 0.7, "sad": 0.3}})
    assert told is not None and told.label == "fear" and told.probabilities["contempt"] == 0
    assert expression({"expression": {}}) is None
    with pytest.raises(KeyError, match="bored"):
        expression({"expression": {"bored": 1.0}})


def test_an_age_of_nought_is_an_answer():
    assert answer("age", {"age": 0}).years == 0 and answer("age", {}) is None
    assert answer("attributes", {"male": 0.25})["Male"] == 0.25
    assert Descriptor([0, 3]) @ Descriptor([4, 0]) == -5


# --- the line


def worker(tmp_path: Path, body: str, patience: float = 20.0) -> Worker:
    script = tmp_path / "fake.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(WORKERS.absolute())!r})\n{body}", encoding="utf-8"
    )
    return Worker(
        "fake", [sys.executable, str(script)], threads=1, log=tmp_path / "log.txt", patience=patience
    )


FAKE = """
from serve import serve
def load():
    print("a library's chatter")
    def tell(raw, job, pixels):
        print("more of it")
        return [{"box": [0, 0, pixels.shape[1], pixels.shape[0]], "score": 1.0, "age": raw}]
    def answer(pixels, job):
        return int(pixels.sum()) if job == "age_gender" else 1 // 0

    return answer, tell, {"fake": "1"}, [__file__]
serve(load)
"""


def test_a_worker_answers_over_its_chatter_and_its_failure_has_a_reason(tmp_path):
    photo = tmp_path / "photo.npy"
    np.save(photo, np.full((2, 3, 3), 2, np.uint8))
    with worker(tmp_path, FAKE) as w:
        assert w.ready["versions"] == {"fake": "1"} and w.ready["weights"]["fake.py"] > 0 and w.start_ms > 0
        told = w.ask(photo, "age_gender", times=3)
        assert (
            told["faces"] == [{"box": [0, 0, 3, 2], "score": 1.0, "age": 36}]
            and len(told["ms"]) == len(told["cpu_ms"]) == 3
        )
        assert (
            w.ask(photo, "age_gender", tell=False)["faces"] == []
            and w.ask(photo, "age_gender", tell=False)["found"] == 1
        )
        assert not w.memory_mb() or w.memory_mb()["peak"] > 1
        with pytest.raises(PeerFailed, match="ended with code 1: ZeroDivisionError"):
            w.ask(photo, "detect")
        with pytest.raises(PeerFailed, match="ended"):
            w.ask(photo, "detect")
    assert w.process.returncode == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("print('hello')", "invalid reply: 'hello'"),
        ("import nowhere_to_be_found", "ModuleNotFoundError"),
        ("input()", "no answer in 1 s"),
    ],
)
def test_a_worker_that_does_not_get_ready(tmp_path, body, reason):
    with pytest.raises(PeerFailed, match=reason):
        worker(tmp_path, body, patience=1.0 if "input" in body else 20.0)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_node_reads_the_same_pixels(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    np.save(tmp_path / "b.npy", np.zeros((2, 2), np.float32))
    script = f"import {{ readNpy }} from {json.dumps((WORKERS / 'serve.mjs').absolute().as_uri())};\n"
    script += (
        "const { data, shape } = readNpy('a.npy'); process.stdout.write(JSON.stringify([shape,"
        " Array.from(data)])); readNpy('b.npy');"
    )
    (tmp_path / "t.mjs").write_text(script)
    done = subprocess.run(["node", "t.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout) == [[2, 4, 3], list(range(24))]
    assert done.returncode != 0 and "not uint8" in done.stderr


# --- who, and from where


def test_a_failed_installation_is_a_blank_with_its_reason():
    def fails(e: Environment) -> None:
        if e.name == "node":
            raise InstallFailed("npm is not on this machine")

    found: dict[str, Any] = {"not_installed": {"haar": "of an earlier run"}}
    done = installed(PEERS, found, fails)
    assert {p.name for p in PEERS} - {p.name for p in done} == {"human", "face-api"}
    assert found["not_installed"] == dict.fromkeys(
        ("human", "face-api"), "not installed: npm is not on this machine"
    )
    assert "- human, face-api: not installed: npm is not on this machine." in "\n".join(page.blanks(found))


def test_an_environment_is_made_once_a_set_of_pins(tmp_path):
    said = []
    for _ in range(2):
        install(MEDIAPIPE, tmp_path, run=lambda words, log, timeout: said.append(words))
    assert len(said) == 3 and said[1][-1] == MEDIAPIPE.packages[-1] and "--no-deps" in said[2]
    install(
        Environment("mediapipe", "venv", ("mediapipe==0.10.14",)),
        tmp_path,
        run=lambda words, log, timeout: said.append(words),
    )
    assert len(said) == 5


def test_a_step_that_fails_says_why(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(InstallFailed, match="no-such-program is not on this machine"):
        run(["no-such-program"], log, 5)
    with pytest.raises(InstallFailed, match="ERROR: no wheel"):
        run([sys.executable, "-c", "print('ERROR: no wheel'); print('bye'); raise SystemExit(1)"], log, 20)


def test_installs_are_pinned_and_run_no_scripts():
    for p in PEERS:
        e = p.environment
        assert all("==" in x for x in (*e.packages, *e.bare)) or e.kind == "node"
        assert (WORKERS / p.script).is_file() and set(p.jobs) <= set(JOBS) and ALL in p.jobs
        assert set(p.marks) <= set(PROTOCOLS) and set("".join(p.marks.values())) <= set(MARKS)
    assert all(x.rpartition("@")[2][0].isdigit() for x in NODE.packages)
    assert "--ignore-scripts" in steps(NODE, Path("x"))[0]
    assert command(DLIB, Path("/r")) == ["/r/dlib/bin/python"] and PEERS[0].words(2)[0] == sys.executable
    assert [p.name for p in chosen(["haar", "mien"])] == ["mien", "haar"]
    with pytest.raises(ValueError, match="no peer 'hal'"):
        chosen(["hal"])


# --- scores


def test_the_labeled_face_is_the_one_around_it():
    points = np.array([[10, 10]] * 5)
    far, near, off = {"box": [0, 0, 40, 40]}, {"box": [5, 5, 16, 16]}, {"box": [20, 20, 30, 30]}
    assert (
        the_face([far, off, near], points) is near
        and the_face([off], points) is None
        and the_face([], points) is None
    )


def test_a_frame_moves_the_points_along():
    image = np.zeros((48, 48, 3), np.uint8)
    image[10, 30] = 255
    sample = framed(
        Sample(
            image,
            {"landmarks": np.full((68, 2), [30.0, 10.0]), "expression": 3},
            np.full((5, 2), [30.0, 10.0]),
            "x",
        )
    )
    assert sample.image.shape == (2 * SIDE, 2 * SIDE, 3) and sample.labels["expression"] == 3
    y, x = np.unravel_index(
        (sample.image[:, :, 0] * (sample.image[:, :, 0] != 128)).argmax(), sample.image.shape[:2]
    )
    assert np.abs(sample.points[0] - (x, y)).max() <= 0.6 and np.allclose(
        sample.labels["landmarks"], sample.points[0]
    )
    assert framed(Sample(np.zeros((300, 400, 3), np.uint8), {}, np.zeros((5, 2)), "")).image.shape == (
        600,
        800,
        3,
    )


def test_some_pairs_are_half_the_same_person():
    blank = np.zeros((2, 2, 3), np.uint8)
    pairs = [[(k, k < 50)] for k in range(100)] * 2
    samples = [Sample(blank, {"identity": p}, np.zeros((5, 2)), str(i)) for i, p in enumerate(pairs)]
    picked = limited(samples, PROTOCOLS["lfw"], 20)
    numbers = {p for s in picked for p, _ in s.labels["identity"]}
    assert len(picked) == 40 and len(numbers) == 20 and sum(n < 50 for n in numbers) == 10
    assert [s.name for s in limited(samples, PROTOCOLS["lfw"], 20)] == [s.name for s in picked]
    assert len(limited(samples, PROTOCOLS["mtfl"], 7)) == 7
    assert len(limited(samples, PROTOCOLS["lfw"], None)) == 200


def test_scores_on_what_was_answered_and_on_what_all_answered():
    def ages(errors: dict[int, float]) -> dict[int, Any]:
        return {i: (answer("age", {"age": 30 + e}), 30.0) for i, e in errors.items()}

    easy, whole = dict.fromkeys(range(20), 2.0), {i: 2.0 if i < 20 else 8.0 for i in range(30)}
    out = compared(
        "utkface-age", {"a": ages(easy), "b": ages(whole), "c": ages(dict(list(whole.items())[:25]))}
    )
    assert out["a"] == {
        "answered": 20,
        "value": 2,
        "half": 0,
        "common_answered": 20,
        "common_value": 2,
        "common_half": 0,
    }
    assert (
        out["b"]["value"] == pytest.approx(4) and out["b"]["common_value"] == 2 and out["b"]["answered"] == 30
    )
    assert out["b"]["half"] == pytest.approx(
        1.96 * np.sqrt(8) / np.sqrt(30)
    )  # errors 2 (20 times) and 8 (10 times): variance 8
    assert compared("utkface-age", {"a": ages({0: 1.0})})["a"] == {"answered": 1, "common_answered": 1}
    assert half_of_share(100, 100) == pytest.approx(1.96 * np.sqrt(102 / 104 * 2 / 104 / 104))


def test_a_tool_that_fails_on_the_way_leaves_its_reason(tmp_path):
    class Fails:
        def __init__(self, at: int):
            self.left = at

        def send(self, photo: Path, job: str) -> None:
            self.left -= 1

        def receive(self) -> dict[str, Any]:
            if self.left == 0:
                raise PeerFailed("ended with code 1: out of memory")
            return {"faces": [{"box": [0, 0, 1e4, 1e4], "age": 40, "male": 0.1}]}

    samples = [
        Sample(
            np.zeros((8, 8, 3), np.uint8), {"age": 41.0, "attributes": {"Male": 0}}, np.ones((5, 2)), str(i)
        )
        for i in range(20)
    ]
    failed: dict[str, str] = {}
    peers = chosen(["mien", "human", "haar"])
    workers: Any = {"mien": Fails(10**6), "human": Fails(3), "haar": Fails(10**6)}
    out = accuracy.sit(SITTINGS[2], peers, workers, failed, None, tmp_path, lambda: samples)
    assert failed == {"human": "at picture 3 of utkface: ended with code 1: out of memory"}
    rows = out["shown"]["framed"]
    assert rows["human"] == {"reason": failed["human"]} and rows["haar"] == {"found": 20, "scores": {}}
    assert (
        rows["mien"]["scores"]["utkface-age"]["value"] == 1
        and rows["mien"]["scores"]["utkface-gender"]["value"] == 100
    )
    assert out["asked"] == {"utkface-age": 20, "utkface-gender": 20}


def test_times_and_pictures_by_hand():
    assert summary([(1.0, 2.0, 5), (3.0, 2.0, 5), (2.0, 8.0, 4)]) == {
        "p50": 2.0, "p95": pytest.approx(2.9), "cpu": 2.0, "found": 5.0, "n": 3,
    }  # fmt: skip
    for faces, (w, h, columns, rows) in STAGES.items():
        assert faces <= columns * rows and photograph(faces).shape == (h, w, 3)


# --- the page


def made_up() -> dict[str, Any]:
    cell = {"p50": 12.0, "p95": 15.6, "cpu": 20.0, "found": 1.0, "n": 3}
    facts = {
        "date": "2026-11-24",
        "machine": {"cpu": "Made up", "cores": 2, "load": [0.1, 0.1, 0.1]},
        "threads": 2,
        "command": "x",
    }

    def row(p: Peer) -> dict[str, Any]:
        jobs = {job: dict.fromkeys(map(str, STAGES), cell) for job in p.jobs}
        return {
            "start_ms": 600.0,
            "versions": {p.name: "9.9"},
            "weights": {"w": 2_500_000},
            "memory_mb": {"now": 99.0, "peak": 111.0},
            "jobs": jobs,
        }

    speed = facts | {
        "rounds": 3,
        "peers": (
            {p.name: row(p) for p in PEERS if p.name != "haar"} | {"haar": {"reason": "ended with code 3"}}
        ),
    }
    score = {"answered": 30, "value": 5.25, "half": 0.5, "common_answered": 12}
    rows = {
        "mien": {"found": 40, "scores": {"helen68": score}},
        "face_recognition": {
            "found": 30,
            "scores": {"helen68": score | {"value": 3.0, "common_value": 2.0, "common_half": 0.1}},
        },
        "haar": {"found": 10, "scores": {}},
    }
    sets = {"helen68": {"pictures": 40, "asked": {"helen68": 40}, "shown": {"stored": rows, "framed": rows}}}
    return {"speed": speed, "accuracy": facts | {"limit": 40, "sets": sets}}


def test_the_page_says_what_was_measured():
    text = page.section(made_up())
    assert "| mien | 12 / 16 (1) | 12 / 16 (1) | 12 / 16 (1) | 20 |" in text
    assert "| mien | 12 (1) | 12 (1) | 12 (1) | 12 (1) | 12 (1) |" in text
    assert "| MediaPipe | 12 (1) | 12 (1) |  |  |  |" in text
    assert (
        "99 (111) | 600 | 2.5 |" in text
        and "Made up" in text
        and "at most 40 pictures" in text
        and "busy" not in text
    )
    assert "| mien | 5.25 ± 0.50 ‡ (75.0) |" in text and "| mien | too few |" in text
    assert "| face_recognition | 3.00 ± 0.50 † (75.0) |" in text
    assert "| face_recognition | 2.00 ± 0.10 † |" in text and "(68 points 12)" in text
    assert (
        MARKS["†"] in text and MARKS["‡"] in text and MARKS["§"] not in text
    )  # a mark is explained where it is used
    assert "| OpenCV Haar | 25.0 / 25.0 |" in text and "- OpenCV Haar: ended with code 3." in text
    assert all(why in text for why in BLANKS.values())
    lines = [line for line in text.splitlines() if line.startswith("|")]
    blocks = text.split("\n\n")
    assert lines and all(
        len({row.count("|") for row in b.splitlines() if row.startswith("|")}) <= 1 for b in blocks
    )


def test_a_busy_machine_and_an_empty_result_are_reported():
    found = made_up()
    found["speed"]["machine"]["load"] = [5.0, 4.0, 3.0]
    assert "busy with other work" in page.section(found)
    assert "- Speed: not measured yet." in page.section({}) and "Single tasks" not in page.section({})


def test_numbers_stand_between_the_marks():
    assert page.fill(f"a\n{page.BEGIN}\nold\n{page.END}\nz", "new") == f"a\n{page.BEGIN}\nnew\n{page.END}\nz"
    with pytest.raises(ValueError, match="put them back"):
        page.fill("no marks", "new")
    assert page.BEGIN in page.PAGE.read_text(encoding="utf-8")


def test_the_committed_page_is_made_of_the_committed_result():
    found = json.loads(Path("bench/results/peers.json").read_text(encoding="utf-8"))
    assert page.fill(page.PAGE.read_text(encoding="utf-8"), page.section(found)) == page.PAGE.read_text(
        encoding="utf-8"
    )


def test_the_command_line():
    given = parser().parse_args(["--only", "page", "--limit", "30", "--date", "2026-01-02"])
    assert given.only == ["page"] and given.limit == 30 and given.date == "2026-01-02" and given.rounds == 30
    assert rounded({"a": [0.123456, 1], "b": "x"}) == {"a": [0.1235, 1], "b": "x"}
