"""Thresholds with their error rates, and faces in groups."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mien.cli import app
from mien.errors import UsageError
from mien.inference.weights_file import WEIGHTS
from mien.recognition import clustering, error_rates
from mien.recognition.clustering import (
    CLUSTER_FMR,
    STRICTER,
    Album,
    _linked,
    album_threshold,
    group,
    suggestion_threshold,
)
from mien.recognition.verification import MatchThreshold, embedding_of, match_threshold
from mien.tasks.age import Age
from mien.tasks.identity import Identity
from mien.types import Face


def directions(*degrees: float) -> np.ndarray:
    turn = np.radians(degrees)
    return np.stack([np.cos(turn), np.sin(turn)], 1)


def test_two_people_and_a_stranger() -> None:
    assert group(directions(0, 90, 5, 95, 10, 200), 0.9) == [0, 1, 0, 1, 0, 2]


def test_a_chain_of_lookalikes_does_not_join_its_ends() -> None:
    chain = directions(
        0, 15, 30, 45, 60, 75, 90
    )  # each is like the next: nearest neighbours would take all for one
    labels = group(chain, np.cos(np.radians(20)))
    assert labels[0] != labels[-1]
    assert labels == sorted(labels)
    assert len(set(labels)) >= 3


def test_by_hand() -> None:
    """a-b .9, c with both .6 and .8: c joins a+b at a mean of .7, and not at .71."""
    s = np.array([[-np.inf, 0.9, 0.6], [0.9, -np.inf, 0.8], [0.6, 0.8, -np.inf]])
    assert _linked(s.copy(), 0.7) == [[0, 1, 2]]
    assert _linked(s.copy(), 0.71) == [[0, 1], [2]]
    assert _linked(s.copy(), 0.91) == [[0], [1], [2]]


def naive(e: np.ndarray, cut: float, apart: list[int]) -> list[list[int]]:
    """Average linkage from its definition: all pairs of all groups, again and again."""
    parts = [[i] for i in range(len(e))]
    while True:
        best, pair = -2.0, None
        for a in range(len(parts)):
            for b in range(a):
                pairs = [(i, j) for i in parts[a] for j in parts[b]]
                if not any(apart[i] == apart[j] for i, j in pairs):
                    mean = float(np.mean([e[i] @ e[j] for i, j in pairs]))
                    if mean > best:
                        best, pair = mean, (a, b)
        if pair is None or best < cut:
            return sorted(sorted(p) for p in parts)
        parts[pair[1]] += parts.pop(pair[0])


@pytest.mark.parametrize("seed", range(4))
def test_as_the_definition_says(seed, rng) -> None:
    rng = np.random.default_rng(seed)
    e = np.repeat(rng.normal(size=(6, 8)), 5, axis=0) + 0.5 * rng.normal(size=(30, 8))
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    apart = rng.integers(0, 12, 30).tolist()
    labels = np.array(group(e, 0.7, photos=apart))
    found = sorted(np.flatnonzero(labels == k).tolist() for k in set(labels.tolist()))
    assert found == naive(e.astype(np.float32), 0.7, apart)
    sizes = np.bincount(labels)
    assert (np.diff(sizes) <= 0).all()


def test_faces_of_one_photo_are_two_people() -> None:
    twins = directions(0, 1, 2)
    assert group(twins, 0.9) == [0, 0, 0]
    assert group(twins, 0.9, photos=[0, 0, 1]) == [1, 0, 0]


def test_margins_ask_for_more() -> None:
    pair = directions(0, 20)
    cut = np.cos(np.radians(20)) - 0.02
    assert group(pair, cut) == [0, 0]
    assert group(pair, cut, margins=[0, 0.05]) == [0, 1]


def test_nothing_and_one() -> None:
    assert group(np.zeros((0, 4)), 0.5) == []
    assert group(directions(3), 0.5) == [0]


def a_face(turn: float, width: float = 50, years: float = 30) -> Face:
    box = np.array([0, 0, width, width], np.float32)
    answers = {
        "identity": Identity(directions(turn)[0].astype(np.float32)),
        "age": Age(years, years - 1, years + 1),
    }
    return Face(box, 0.9, np.zeros((5, 2), np.float32), answers)


def test_an_album() -> None:
    album = Album(MatchThreshold(0.9, 0.001, "given"))
    assert album.add("a.jpg", [a_face(0), a_face(90), a_face(0, width=20)]) == [0, 1, None]
    album.add("b.jpg", [a_face(10)])
    album.add("c.jpg", [a_face(200)])
    album.solve()
    assert album.persons == [1, 0, 1, 0]
    d = json.loads(json.dumps(album.to_dict()))
    assert [f["path"] for f in d["people"][0]["faces"]] == ["a.jpg", "b.jpg"]
    assert d["people"][0]["faces"][0]["similarity"] == round(float(np.cos(np.radians(5))), 4)
    assert d["people"][0]["faces"][0]["next"] is None
    assert d["single_faces"][0]["next"] == round(float(np.cos(np.radians(85))), 4)
    assert (d["photos"], d["too_small"]) == (3, 1)


def test_pairs_with_children_need_more_similarity() -> None:
    turn = np.degrees(np.arccos(0.92))
    for years, persons in ((30, [1, 1]), (8, [0, 0])):
        album = Album(MatchThreshold(0.9, None, "given"))
        album.add("a.jpg", [a_face(0, years=years)])
        album.add("b.jpg", [a_face(turn)])
        album.solve()
        assert album.persons == persons


def test_merges_are_suggested_most_similar_first() -> None:
    album = Album(MatchThreshold(0.98, None, "given"), suggest=0.8)
    for name, turn in (("a", 0), ("b", 4), ("c", 24), ("d", 28), ("e", 56), ("f", 200)):
        album.add(f"{name}.jpg", [a_face(turn)])
    album.solve()
    assert album.persons == [1, 1, 2, 2, 0, 0]
    merges = album.suggest_merges()
    assert [(m.first, m.second) for m in merges] == [((0, 1), (2, 3)), ((2, 3), (4,))]
    assert merges[0].similarity == pytest.approx(
        np.mean([np.cos(np.radians(d)) for d in (24, 28, 20, 24)]), abs=1e-4
    )
    assert [len(album.suggest_merges(limit=n)) for n in (1, 5)] == [1, 2]
    assert album.suggest_merges(minimum=0.95) == []
    shown = json.loads(json.dumps(album.to_dict()))["merges"]
    assert [(m["first"]["person"], m["second"]["person"]) for m in shown] == [(1, 2), (2, None)]
    assert (shown[1]["second"]["path"], shown[1]["second"]["faces"]) == ("e.jpg", 1)
    for wrong in ({"minimum": 80}, {"limit": 0}):
        with pytest.raises(UsageError, match="|".join(wrong)):
            album.suggest_merges(**wrong)


def test_people_of_one_photo_are_no_merge() -> None:
    for same_photo, count in ((False, 0), (True, 1)):
        album = Album(MatchThreshold(0.98, None, "given"), same_photo=same_photo, suggest=0.8)
        album.add("a.jpg", [a_face(0), a_face(20)])
        album.solve()
        assert album.persons == [0, 0]
        assert len(album.suggest_merges()) == count


def test_an_empty_album_has_nobody() -> None:
    album = Album(MatchThreshold(0.9, None, "given"))
    album.solve()
    assert album.to_dict()["people"] == album.to_dict()["merges"] == []


def test_a_face_without_identity_says_how_to_ask() -> None:
    with pytest.raises(UsageError, match="tasks="):
        embedding_of(Face(np.zeros(4, np.float32), 0.9, np.zeros((5, 2), np.float32)))


# Thresholds


class Net:
    sha256 = "s" * 64
    path = WEIGHTS / "mien.onnx"


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A table of false matches for `Net`."""
    rows = [
        {"fmr": f, "threshold": t, "fnmr": m}
        for f, t, m in ((1e-3, 0.9, 0.5), (1e-2, 0.8, 0.3), (1e-1, 0.6, 0.1))
    ]
    facts = {
        "model": Net.sha256,
        "task": "identity",
        "impostor_pairs": 1000,
        "genuine_pairs": 10,
        "note": "",
        "rows": rows,
    }
    path = tmp_path / "identity_fmr.json"
    path.write_text(json.dumps(facts))
    monkeypatch.setattr(error_rates, "TABLE", path)
    monkeypatch.setattr(error_rates.Rates.of, "__defaults__", (path,))
    return path


@pytest.mark.usefixtures("table")
def test_a_threshold_by_false_match_rate() -> None:
    assert match_threshold(Net()) == MatchThreshold(0.8, 0.01, "identity_fmr.json", 0.3)
    assert match_threshold(Net(), fmr=0.001).similarity == 0.9
    given = match_threshold(Net(), threshold=0.7)
    assert given.similarity == 0.7
    assert given.fmr == pytest.approx(10**-1.5)
    assert given.fnmr == pytest.approx(0.2)
    assert given.to_dict() == {
        "threshold": 0.7,
        "false_match_rate": 0.0316,
        "false_non_match_rate": 0.2,
        "source": "given",
    }
    with pytest.raises(UsageError, match="one of them"):
        match_threshold(Net(), fmr=0.01, threshold=0.5)
    with pytest.raises(UsageError, match=r"fmr must be 0\.001 to 0\.1"):
        match_threshold(Net(), fmr=1e-6)
    with pytest.raises(UsageError, match="a cosine"):
        match_threshold(Net(), threshold=80)


def test_without_a_table_the_best_threshold_on_lfw(table) -> None:
    table.unlink()
    lfw = json.loads((WEIGHTS / "mien.json").read_text())["scores"]["lfw"]
    cut = match_threshold(Net())
    assert (cut.similarity, cut.fmr) == (lfw["threshold"], None)
    assert cut.source.startswith("LFW, accuracy")
    with pytest.raises(UsageError, match="no false-match rates were measured"):
        match_threshold(Net(), fmr=0.01)
    with pytest.raises(UsageError, match="no threshold was measured"):
        match_threshold(object())


def test_groups_have_a_threshold_of_their_own_where_it_was_measured(table, tmp_path, monkeypatch) -> None:
    path = tmp_path / "clustering.json"
    path.write_text(json.dumps({"model": Net.sha256, "threshold": 0.85, "suggest": 0.7}))
    monkeypatch.setattr(clustering, "TABLE", path)
    cut = album_threshold(Net())
    assert (cut.similarity, cut.source) == (0.85, "clustering.json")
    assert cut.fmr == pytest.approx(10**-2.5)
    assert suggestion_threshold(Net(), 0.85) == pytest.approx(0.7)
    assert suggestion_threshold(Net(), 0.75) == pytest.approx(0.6)
    assert album_threshold(Net(), fmr=0.01).similarity == 0.8
    assert album_threshold(Net(), threshold=0.5).similarity == 0.5
    path.write_text(json.dumps({"model": "of other weights", "threshold": 0.85, "suggest": 0.7}))
    assert album_threshold(Net()) == match_threshold(Net(), fmr=CLUSTER_FMR)
    assert suggestion_threshold(Net(), 0.8) == pytest.approx(0.75)


def test_the_embedded_network_s_threshold_is_the_page_s() -> None:
    table = json.loads(clustering.TABLE.read_text())
    page = Path("docs/cli.md").read_text()
    assert f"The default threshold is **{table['threshold']:g}**" in page
    [row] = [r for r in table["curve"] if r["threshold"] == table["threshold"]]
    for name in table["sets"]:
        assert f"{row[name]['precision']:.3f} | {row[name]['recall']:.3f} | {row[name]['f1']:.3f}" in page
    assert row["celeba_wild, set-aside people"]["precision"] >= 0.98


# Commands


def run(*words: str):
    return CliRunner().invoke(app, [*words, "--threads", "1"])


def test_verify_says_yes_and_no_by_its_exit_code(tmp_path, astronaut) -> None:
    Image.open(astronaut).convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
        tmp_path / "mirrored.png"
    )
    done = run("verify", astronaut, str(tmp_path / "mirrored.png"))
    record = json.loads(done.stdout)
    assert (done.exit_code, record["same"]) == (0, True)
    assert record["similarity"] >= record["threshold"]
    assert record["faces"][0]["faces"] == 1
    done = run("verify", astronaut, "examples/grace_hopper.jpg")
    assert (done.exit_code, json.loads(done.stdout)["same"]) == (1, False)
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    assert "no face was found" in str(run("verify", astronaut, str(tmp_path / "black.png")).exception)


def test_cluster_sorts_an_album(tmp_path, astronaut) -> None:
    album = tmp_path / "album"
    album.mkdir()
    for name in ("astronaut", "grace_hopper"):
        image = Image.open(f"examples/{name}.jpg").convert("RGB")
        image.save(album / f"{name}.png")
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(album / f"{name}-mirrored.png")
    (album / "bad.png").write_bytes(b"x")
    words = [
        "--out",
        str(tmp_path / "who.json"),
        "--crops",
        str(tmp_path / "people"),
        "--sheet",
        str(tmp_path / "who.html"),
    ]
    done = run("cluster", str(album), *words, "--threshold", "0.7")
    assert done.exit_code == 1  # one photo was not read
    d = json.loads((tmp_path / "who.json").read_text())
    assert [[f["path"].split("/")[-1] for f in p["faces"]] for p in d["people"]] == [
        ["astronaut-mirrored.png", "astronaut.png"], ["grace_hopper-mirrored.png", "grace_hopper.png"],
    ]  # fmt: skip
    assert (d["single_faces"], d["not_read"], d["threshold"]["source"]) == ([], 1, "given")
    assert sorted(p.name for p in (tmp_path / "people").iterdir()) == ["person-001", "person-002"]
    assert len(list((tmp_path / "people" / "person-001").iterdir())) == 2
    assert '"person": 2' in (tmp_path / "who.html").read_text()
    # a second run into the folder would make person-001 two people
    again = run("cluster", "examples/grace_hopper.jpg", "--crops", str(tmp_path / "people"))
    assert isinstance(again.exception, UsageError)
    assert "of an earlier run" in str(again.exception)
    assert len(list((tmp_path / "people").rglob("*.png"))) == 4


def test_cluster_without_rates_is_stricter_than_the_best_threshold(table, monkeypatch, astronaut) -> None:
    table.unlink()
    monkeypatch.setattr(clustering, "TABLE", table.with_name("clustering.json"))
    d = json.loads(run("cluster", astronaut).stdout)
    lfw = json.loads((WEIGHTS / "mien.json").read_text())["scores"]["lfw"]["threshold"]
    assert d["threshold"]["threshold"] == pytest.approx(lfw + STRICTER, abs=1e-4)
    assert len(d["single_faces"]) == 1


def test_a_network_without_identity_is_refused(astronaut) -> None:
    done = run("verify", astronaut, astronaut, "--weights", str(WEIGHTS / "detector.onnx"))
    assert "does not predict identity" in str(done.exception)
