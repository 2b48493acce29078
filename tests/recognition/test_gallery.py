"""The gallery: people in and out of it, what is left on disk, and the table of false matches."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mien.cli import app
from mien.errors import UnknownTask, UsageError
from mien.inference.reader import Reader
from mien.inference.weights_file import WEIGHTS
from mien.tasks import TASKS
from mien.tasks.quality import Quality
from mien.types import Detection, Face, View

pytest.importorskip("lancedb")

from mien.recognition import records, store
from mien.recognition.error_rates import Rates, measure
from mien.recognition.gallery import ErasureFailed, Gallery, LowQuality, NoFace, SeveralFaces, new_key

SHA = json.loads((WEIGHTS / "mien.json").read_text())["sha256"]
VIEW = View((32, 32), "head", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def photo(person: int, shot: int = 0, faces: int = 1) -> np.ndarray:
    """A picture whose middle says in its colour who is on it; the noise around makes thumbnails differ."""
    pixels = np.random.default_rng([person, shot]).integers(0, 255, (96, 96, 3), np.uint8)
    pixels[35:70, 30:60] = person, shot, faces
    pixels[0, 0] = faces
    return pixels


def embedding(person: int, shot: int = 0) -> np.ndarray:
    """Shots of a person are about .96 alike, people about 0."""
    base = np.random.default_rng(person).standard_normal(128)
    aside = np.random.default_rng([person, shot]).standard_normal(128) if shot else np.zeros(128)
    v = base / np.linalg.norm(base) + 0.2 * aside / max(np.linalg.norm(aside), 1e-9)
    return (v / np.linalg.norm(v)).astype(np.float32)


class Eyes:
    """A network that reads the colour."""

    def __init__(self, sha256: str = SHA, view: View = VIEW):
        self.sha256, self.view, self.tasks, self.name = sha256, view, (TASKS["identity"],), "eyes"

    def __call__(self, images):
        middle = np.round((images[:, :, 16, 16] * 0.5 + 0.5) * 255).astype(int)
        return {"identity": np.stack([embedding(p, s) for p, s, _ in middle])}


def detector(pixels):
    points = np.array([(30, 40), (60, 40), (45, 52), (35, 65), (55, 65)], np.float32)
    return [
        Detection(np.array([20, 20, 70 - i, 80], np.float32), 0.9, points)
        for i in range(int(pixels[0, 0, 2]))
    ]


def colors(**kw) -> Reader:
    return Reader(detector, Eyes(**kw), tasks=["identity"])


@pytest.fixture
def place(tmp_path) -> Path:
    return tmp_path / "gallery"


@pytest.fixture
def key(tmp_path) -> Path:
    new_key(tmp_path / "key")
    return tmp_path / "key"


def filled(place: Path, people: int = 4, shots: int = 2, **kw) -> Gallery:
    here = Gallery(place, colors(), **kw)
    for p in range(people):
        here.add([photo(p, s) for s in range(1, shots + 1)], f"Person{p:03d}xyz")
    return here


def in_files(place: Path, needle: bytes) -> list[str]:
    return [p.name for p in place.rglob("*") if p.is_file() and needle in p.read_bytes()]


def name_of(answer):
    return answer.match.name if answer.match else None


# --- The table of false matches


def test_thresholds_are_counted_by_hand():
    strangers, same = np.arange(1000) / 1000, np.array([0.5, 0.95, 0.99, 0.9951])
    rows = measure(strangers, same, (1e-3, 1e-2, 0.1))
    assert [r["false_matches"] for r in rows] == [1, 10, 100]
    assert [r["false_non_matches"] for r in rows] == [4, 2, 1]  # cuts just over .998, .989, .899
    assert [round(r["threshold"], 3) for r in rows] == [0.998, 0.989, 0.899]
    assert rows[1]["fnmr"] == 0.5


def test_ties_are_never_let_through():
    assert measure(np.array([0.3] * 99 + [0.9]), np.array([0.5]), (0.5,))[0]["false_matches"] == 1  # not 100


def test_the_shipped_table_is_of_the_shipped_weights_and_adds_up():
    rates = Rates.of(SHA)
    assert rates is not None
    assert (rates.impostors, rates.genuine) == (1_197_943, 500)
    cuts = [r["threshold"] for r in rates.rows]
    assert cuts == sorted(cuts, reverse=True)
    for r in rates.rows:
        assert 0.99 * r["fmr"] * rates.impostors - 1 <= r["false_matches"] <= r["fmr"] * rates.impostors
        assert r["fnmr"] == r["false_non_matches"] / 500
        assert rates.threshold(r["fmr"]) == pytest.approx(r["threshold"], abs=1e-9)
        assert rates.fmr(r["threshold"]) == pytest.approx(r["fmr"])
    assert rates.threshold(1e-2) > rates.threshold(1.5e-2) > rates.threshold(2e-2)
    assert (rates.fmr(1.0), rates.fmr(-1.0)) == pytest.approx((1e-4, 0.5))
    assert Rates.of("0" * 64) is None
    with pytest.raises(UsageError, match=r"0\.0001 to 0\.5"):
        rates.threshold(1e-6)


# --- Faces that were read already


def test_enroll_and_correct_take_faces_that_were_read(place):
    reader = colors()
    here = Gallery(place, reader)
    [ann], [eve] = reader(photo(1)), reader(photo(2))
    with pytest.raises(UnknownTask, match="identity"):
        here.enroll([ann, Face(ann.box, ann.score, ann.points)], "Ann")
    with pytest.raises(UsageError, match="no face was given"):
        here.enroll([], "Ann")
    assert not place.exists()
    [added] = here.enroll([ann], "Ann", note="signed", until="2999-01-31")
    assert added.new
    assert not here.add(photo(1), "Ann")[0].new  # the same picture, read by the gallery itself
    assert (here.person("Ann").note, here.person("Ann").until) == ("signed", "2999-01-31")
    assert here.correct_face(eve, "Ann") == here.correct(photo(2), "Ann")
    assert here.person("Ann").corrections == 1


# --- Who is this


@pytest.mark.parametrize("sealed", [False, True])
def test_search_is_exact(place, key, sealed):
    here = filled(place, people=20, shots=3, key=key if sealed else None)
    vectors = np.stack([embedding(p, s) for p in range(20) for s in (1, 2, 3)])
    for q in [embedding(5, 9), embedding(17), embedding(200), -embedding(3, 1)]:
        best = (vectors @ q).reshape(20, 3).max(1)
        order = np.argsort(-best)[:7]
        answer = here.search(q, top=7)
        assert [c.name for c in answer.candidates] == [f"Person{p:03d}xyz" for p in order]
        assert [c.similarity for c in answer.candidates] == pytest.approx(best[order], abs=1e-6)
        assert answer.margin == pytest.approx(best[order[0]] - best[order[1]], abs=1e-6)
    assert len(here.search(embedding(5), top=100).candidates) == 20


def test_an_index_is_built_past_a_size_with_equal_results(place, monkeypatch):
    monkeypatch.setattr(store, "INDEX_ROWS", 40)
    here = Gallery(place, colors(), thumbnails=False)
    here.add([photo(p, 1) for p in range(20)], "everybody")
    assert here.stats()["indexed"] is False
    here.add([photo(p, 2) for p in range(20)], "everybody else")
    assert here.stats()["indexed"] is True
    assert here.search(embedding(15, 2)).match.name == "everybody else"
    assert here.search(embedding(15, 1)).candidates[0].similarity == pytest.approx(1, abs=1e-6)


def test_a_photo_gives_an_answer_a_face(place):
    here = filled(place)
    [answer] = here.identify(photo(2, 7))
    assert answer.match.name == "Person002xyz"
    assert answer.match.similarity > here.threshold == Rates.of(SHA).threshold(1e-3)
    assert answer.face is not None
    [stranger] = here.identify(photo(99))
    assert stranger.match is None
    assert len(stranger.candidates) == 3
    assert len(here.identify(photo(2, 7, faces=3))) == 3
    assert here.identify(photo(2, 7, faces=0)) == []
    plain = json.loads(json.dumps(answer.to_dict()))
    assert plain["match"]["fmr"] <= 1e-3
    assert plain["match"]["similarity"] == round(answer.match.similarity, 3)
    assert "embedding" not in json.dumps(plain)


def test_the_rate_sets_the_threshold(place):
    filled(place)
    between = np.mean(
        [Rates.of(SHA).threshold(f) for f in (1e-2, 1e-4)], dtype=np.float32
    )  # the similarity to person 1
    loose, strict = (Gallery(place, colors(), fmr=f).search(embedding(1) * between) for f in (1e-2, 1e-4))
    assert (name_of(loose), name_of(strict)) == ("Person001xyz", None)
    assert Gallery(place, colors(), threshold=-1.0).search(embedding(99)).match is not None


def test_one_person_has_no_margin_and_nobody_no_match(place):
    here = filled(place, people=1)
    assert here.search(embedding(0)).margin is None
    here.forget("Person000xyz")
    assert here.search(embedding(0)).to_dict()["match"] is None
    assert here.people() == []
    assert here.stats()["stranger"] == 0


# --- Enrol


def test_the_same_picture_is_stored_once_and_a_possible_duplicate_is_reported(place):
    here = filled(place, people=1, shots=1)
    [again] = here.add(photo(0, 1), "Person000xyz")
    assert (again.new, again.possible_duplicate) == (False, None)
    [other] = here.add(photo(0, 2), "Somebody Else")
    assert other.new
    assert other.possible_duplicate.name == "Person000xyz"
    assert [len(p.faces) for p in here.people()] == [1, 1]


@pytest.mark.parametrize(
    ("picture", "error", "said"),
    [(photo(1, faces=0), NoFace, "no face"), (photo(1, faces=2), SeveralFaces, "shows 2 faces.*largest")],
)
def test_a_picture_to_enroll_shows_one_face(place, picture, error, said):
    here = Gallery(place, colors())
    with pytest.raises(error, match=said):
        here.add([photo(2), picture], "A")
    assert not place.exists()  # nothing of the call was kept
    if error is SeveralFaces:
        assert here.add(picture, "A", pick="largest")[0].new


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda g: g.add(photo(1), "  "), "a name needs"),
        (lambda g: g.add(photo(1), "a\nb"), "a name needs"),
        (lambda g: g.add(photo(1), "A", until="2020-01-01"), "is over"),
        (lambda g: g.add(photo(1), "A", until="soon"), "such as 2027-01-31"),
        (lambda g: g.add(photo(1), "A", pick="first"), "'first'"),
        (lambda g: g.add([], "A"), "no photo"),
        (lambda g: g.forget("Nobody"), "called 'Nobody'"),
        (lambda g: g.forget("Person000xyz", "Nobody"), "called 'Nobody'"),
        (lambda g: g.forget(), "at least one"),
        (lambda g: g.edit("Person000xyz", name="Person001xyz"), "is already used"),
        (lambda g: g.merge("Person000xyz", "Person000xyz"), "two different people"),
        (lambda g: g.split("Person000xyz", ["f_0"], "B"), "no face 'f_0'"),
        (lambda g: g.split("Person000xyz", g.person("Person000xyz").faces, "B"), "some of the 2"),
        (lambda g: g.split("Person000xyz", g.person("Person000xyz").faces[:1], "Person000xyz"), "already"),
        (lambda g: g.correct(photo(0, 1), "Person000xyz"), "split it off"),
        (lambda g: g.search(embedding(1), top=0), "1 or more"),
        (lambda g: g.search(np.zeros(7)), r"has 128 numbers.*\(7,\)"),
        (lambda g: g.export("."), "not empty"),
    ],
)
def test_wrong_calls_name_the_fix_and_change_nothing(place, call, said):
    here = filled(place, people=2)
    before = here.people()
    with pytest.raises(UsageError, match=said):
        call(here)
    assert here.people() == before


def test_names_are_data_and_not_language(place):
    here = Gallery(place, colors())
    here.add(photo(1, 1), "O'Hara' OR '1'='1")
    here.add(photo(2, 1), "Zoë 王")
    assert here.person("O'Hara' OR '1'='1").name == "O'Hara' OR '1'='1"
    assert here.forget("O'Hara' OR '1'='1").people == 1
    assert [p.name for p in here.people()] == ["Zoë 王"]


# --- The pin, and what is missing


def test_another_network_is_refused(place):
    filled(place, people=1)
    with pytest.raises(UsageError, match=rf"made with model {SHA[:16]}\.\.\..*ffffffffffffffff"):
        Gallery(place, colors(sha256="f" * 64))
    with pytest.raises(UsageError, match="made with view"):
        Gallery(place, colors(view=View((64, 64), "head", VIEW.mean, VIEW.std)))
    with pytest.raises(UsageError, match="pinned to a weights file"):
        Gallery(place, colors(sha256=""))
    with pytest.raises(UsageError, match="does not predict identity"):
        Gallery(place, Reader(detector, Eyes()))
    with pytest.raises(UsageError, match="needs a network"):
        Gallery(place).identify(photo(1))


def test_an_unmeasured_network_needs_a_threshold(place):
    reader = colors(sha256="e" * 64)
    here = Gallery(place, reader)
    here.add(photo(1, 1), "A")
    with pytest.raises(UsageError, match="give threshold="):
        here.identify(photo(1, 2))
    [answer] = Gallery(place, reader, threshold=0.9).identify(photo(1, 2))
    assert name_of(answer) == "A"
    assert answer.match.fmr is None


def test_missing_galleries_and_foreign_tables_are_refused(place):
    with pytest.raises(UsageError, match="there is no gallery"):
        Gallery(place).people()
    assert not place.exists()
    import lancedb

    lancedb.connect(str(place)).create_table("faces", [{"a": 1}])
    with pytest.raises(UsageError, match="not a mien-gallery-1"):
        Gallery(place)


def test_without_the_extra_it_is_named_and_nothing_else_needs_it(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(UsageError, match=re.escape("pip install 'mien[gallery]'")):
        Gallery(place)
    code = (
        "import sys, mien.cli, mien.recognition.gallery; print([m for m in ('lancedb', 'pyarrow',"
        " 'cryptography') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


# --- Mend


def test_not_this_person_is_kept_in_mind(place):
    here = filled(place)
    assert name_of(here.search(embedding(0, 5))) == "Person000xyz"
    first = here.correct(photo(0, 5), "Person000xyz")
    answer = here.search(embedding(0, 5))
    assert answer.match is None
    assert "Person000xyz" not in [c.name for c in answer.candidates]
    assert name_of(here.search(embedding(0, 1))) == "Person000xyz"  # nearer to the person than to the mistake
    assert here.correct(photo(0, 5), "Person000xyz") == first
    assert here.person("Person000xyz").corrections == 1
    here.add(photo(0, 5), "Person000xyz")  # taken back
    assert here.person("Person000xyz").corrections == 0
    assert name_of(here.search(embedding(0, 5))) == "Person000xyz"


def test_merge_and_split_keep_ids(place):
    here = filled(place, people=3)
    a, b, c = (p.id for p in here.people())
    here.edit(a, until="2999-12-31")
    here.edit(b, until=date(2998, 1, 1), note="by letter")
    here.correct(photo(1, 7), a)
    here.correct(photo(9, 7), a)
    assert here.merge("Person000xyz", b) == a
    merged = here.person(a)
    assert (len(merged.faces), merged.name, merged.until, merged.note) == (
        4,
        "Person000xyz",
        "2998-01-01",
        "",
    )
    assert merged.corrections == 1  # "person 1 is not person 0" no longer holds, "person 9 is not" does
    assert here.search(embedding(1, 1)).match.person == a
    mine = [
        r.id for r in here.store.rows("person", [a]) if r.kind == "face" and r.vector @ embedding(1) > 0.9
    ]
    d = here.split(a, mine, "Back Again")
    assert len({a, b, c, d}) == 4
    assert here.search(embedding(1, 1)).match.person == d
    assert here.search(embedding(0, 1)).match.person == a
    assert here.person(d).until == "2998-01-01"
    assert here.split(a, here.person(a).faces[:1], "Person002xyz") == c
    here.edit(c, name="Renamed")
    here.correct(photo(2, 1), d)
    [face] = [r.id for r in here.store.rows("person", [c]) if r.vector @ embedding(2, 1) > 0.9999]
    assert here.split(c, [face], "Back Again") == d  # which takes the correction back
    assert here.person(d).corrections == 0
    assert here.person("Renamed").id == c


# --- Erase


def traces(place: Path, rows) -> dict[str, list[str]]:
    """Whatever of these rows stands in any file, letter by letter."""
    found = {}
    for r in rows:
        parts = {
            "name": r.name.encode(),
            "note": r.note.encode(),
            "vector": r.vector.astype("<f4").tobytes(),
            "picture": r.thumbnail,
        }
        parts |= {"id": r.id.encode(), "person": r.person.encode()}
        found |= {
            f"{r.id} {what}": files
            for what, part in parts.items()
            if part and (files := in_files(place, part))
        }
    return found


@pytest.mark.parametrize("index", [False, True])
def test_forgotten_is_erased_from_every_file(place, monkeypatch, index):
    monkeypatch.setattr(store, "INDEX_ROWS", 55 if index else 10**9)
    here = filled(place, people=30, shots=2)
    here.add(photo(7, 3), "Person007xyz", note="Agreed on a Tuesday qrs", until="2999-01-01")
    here.edit("Person007xyz", note="Agreed on a Wednesday qrs")
    here.correct(photo(8, 5), "Person007xyz")
    here.correct(
        photo(7, 9), "Person008xyz"
    )  # a picture that shows who will be forgotten, kept with somebody else
    here.correct(photo(201, 9), "Person008xyz")
    here.store.table.optimize()  # one file: too few of its rows will go for a compaction to write it anew
    assert here.stats()["indexed"] is index
    gone = here.store.rows("name", ["Person007xyz"]) + [
        r for r in here.store.rows("name", ["Person008xyz"]) if r.vector @ embedding(7) > 0.9
    ]
    assert len(gone) == 5
    present = traces(place, gone)
    assert {k.split()[1] for k in present} == {
        "name",
        "note",
        "vector",
        "picture",
        "id",
        "person",
    }  # the search can find
    done = here.forget("Person007xyz")
    assert (done.people, done.faces, done.corrections) == (1, 3, 2)
    gone = [r if r.name == "Person007xyz" else records_without_owner(r) for r in gone]
    assert traces(place, gone) == {}
    for text in (b"Person007xyz", b"Tuesday qrs", b"Wednesday qrs"):
        assert in_files(place, text) == []
    assert in_files(place, b"Person008xyz")  # the rest is there
    assert len(here.people()) == 29
    assert here.person("Person008xyz").corrections == 1
    assert here.stats()["versions"] <= 2  # what is left, and perhaps its index
    assert here.stats()["indexed"] is index
    assert name_of(here.search(embedding(8, 1))) == "Person008xyz"
    assert name_of(here.search(embedding(7, 1))) is None


def records_without_owner(r):
    """A correction that went: its own id and vector; its owner stays."""
    return store.Row(r.id, "", "", r.kind, "", "", r.added, r.vector)


def test_failed_erasure_is_an_error(place, monkeypatch):
    here = filled(place, people=2)
    here._store.table = Stubborn(here._store.table)
    monkeypatch.setattr(type(here._store.db), "create_table", lambda self, *a, **kw: here._store.table)
    with pytest.raises(ErasureFailed, match="older version"):
        here.forget("Person000xyz")


class Stubborn:
    """A table that deletes, and keeps the files."""

    def __init__(self, table):
        self.table = table

    def optimize(self, **kw):
        pass

    def __getattr__(self, name):
        return getattr(self.table, name)


def test_people_past_their_day_are_not_found_and_pruned(place, monkeypatch):
    here = filled(place, people=3)
    here.edit("Person001xyz", until="2999-05-01")
    monkeypatch.setattr(records, "today", lambda: "2999-05-01")
    assert name_of(here.search(embedding(1, 1))) == "Person001xyz"  # the last day counts
    assert here.prune() == []
    monkeypatch.setattr(records, "today", lambda: "2999-05-02")
    answer = here.search(embedding(1, 1))
    assert "Person001xyz" not in [c.name for c in answer.candidates]
    assert [p.expired for p in here.people()] == [False, True, False]
    assert [p.name for p in here.prune()] == ["Person001xyz"]
    assert in_files(place, b"Person001xyz") == []


# --- Sealed


def test_a_sealed_gallery_shows_nothing(place, key):
    here = filled(place, people=3, key=key)
    here.edit("Person001xyz", note="Agreed on a Tuesday qrs", until="2999-01-01")
    rows = here.store.rows()
    assert len(rows) == 6
    found = traces(place, rows)
    assert {k.split()[1] for k in found} == {"id"}
    assert in_files(place, b"2999-01-01") == in_files(place, b"\xff\xd8\xff") == []
    assert name_of(Gallery(place, colors(), key=key).search(embedding(1, 5))) == "Person001xyz"
    before = here.store.table.search().to_arrow()
    boxes = dict(zip(before["id"].to_pylist(), before["box"].to_pylist(), strict=True))
    mine = here.person("Person001xyz").faces
    here.forget("Person001xyz")
    assert all(not in_files(place, boxes[i]) and not in_files(place, i.encode()) for i in mine)
    assert [p.name for p in Gallery(place, key=key).people()] == ["Person000xyz", "Person002xyz"]


def test_keys_are_checked(place, key, tmp_path):
    here = filled(place, people=2, key=key)
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="is sealed; give the key"):
        Gallery(place)
    new_key(tmp_path / "other")
    with pytest.raises(UsageError, match="does not open"):
        Gallery(place, key=tmp_path / "other")
    with pytest.raises(UsageError, match="never overwritten"):
        new_key(key)
    (tmp_path / "short").write_text("abcd")
    for bad, said in (("short", "holds 2"), ("missing", "cannot read"), ("gallery", "cannot read")):
        with pytest.raises(UsageError, match=said):
            Gallery(place, key=tmp_path / bad)
    filled(tmp_path / "plain", people=1)
    with pytest.raises(UsageError, match="made without a key"):
        Gallery(tmp_path / "plain", key=key)
    data = here.store.table.search().to_arrow()  # boxes that change places are noticed
    ids, boxes = data["id"].to_pylist(), data["box"].to_pylist()
    here.store.table.update(where=f"id = '{ids[0]}'", values={"box": boxes[1]})
    with pytest.raises(UsageError, match=f"row {ids[0]}"):
        Gallery(place, key=key).people()


# --- Many readers


@pytest.mark.parametrize("sealed", [False, True])
def test_readers_follow_the_writer(place, key, sealed):
    key = key if sealed else None
    early = Gallery(place, colors(), key=key)
    writer = filled(place, people=2, key=key)
    late = Gallery(place, colors(), key=key)
    assert [name_of(g.search(embedding(1, 5))) for g in (early, late)] == ["Person001xyz"] * 2
    writer.forget("Person001xyz")
    writer.add(photo(3, 1), "New")
    for g in (early, late):
        assert [p.name for p in g.people()] == ["New", "Person000xyz"]
        assert name_of(g.search(embedding(1, 5))) is None
        assert name_of(g.search(embedding(3, 5))) == "New"


def test_reading_goes_on_while_another_forgets(place):
    writer, reader, errors, done = (
        filled(place, people=12),
        Gallery(place, colors()),
        list[BaseException](),
        threading.Event(),
    )

    def ask():
        while not done.is_set():
            try:
                assert name_of(reader.search(embedding(11, 5))) == "Person011xyz"
            except BaseException as e:  # noqa: BLE001  whatever a thread meets, the test shall see
                errors.append(e)
                return

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for t in threads:
        t.start()
    for p in range(8):
        writer.forget(f"Person{p:03d}xyz")
    done.set()
    for t in threads:
        t.join()
    assert errors == []


# --- Take away


def test_export_is_open_and_may_be_one_person(place, tmp_path):
    here = filled(place, people=2)
    here.correct(photo(9), "Person001xyz")
    assert here.export(tmp_path / "all", embeddings=True) == 2
    assert here.export(tmp_path / "one", person="Person001xyz") == 1
    people = [
        json.loads(line)
        for line in (tmp_path / "all" / "people.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [(p["name"], len(p["faces"]), len(p["corrections"])) for p in people] == [
        ("Person000xyz", 2, 0),
        ("Person001xyz", 2, 1),
    ]
    face = people[0]["faces"][0]
    assert np.allclose(face["embedding"], embedding(0, 1)) or np.allclose(face["embedding"], embedding(0, 2))
    assert (tmp_path / "all" / face["thumbnail"]).read_bytes()[:2] == b"\xff\xd8"
    assert "embedding" not in (tmp_path / "one" / "people.jsonl").read_text()
    assert len(list((tmp_path / "one" / "thumbnails").iterdir())) == 2


# --- The command line, with the embedded network


def gallery(*words: str):
    return CliRunner().invoke(app, ["gallery", *words])


def test_the_commands_from_add_to_forget(place, tmp_path):
    at, photos = str(place), ["examples/astronaut.jpg", "examples/grace_hopper.jpg"]
    done = gallery(
        "add",
        at,
        *photos,
        "examples/collage.jpg",
        "--name-from",
        "file",
        "--note",
        "public domain",
        "--threads",
        "1",
    )
    assert done.exit_code == 1
    assert [json.loads(x)["name"] for x in done.stdout.splitlines()] == ["astronaut", "grace_hopper"]
    assert "collage.jpg shows 11 faces" in done.stderr
    done = gallery("identify", at, "examples/collage.jpg", "--threads", "1", "--fmr", "0.01")
    assert done.exit_code == 0, done.output
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found[0]["faces"]) == 11
    assert {f["match"]["name"] for f in found[0]["faces"] if f["match"]} == {"astronaut", "grace_hopper"}
    drawn = tmp_path / "drawn"
    words = ("identify", at, "examples/astronaut.jpg", "--threads", "1", "--draw", str(drawn))
    assert gallery(*words, "--draw-style", "box").exit_code == 0
    with Image.open(drawn / "astronaut.jpg") as picture, Image.open("examples/astronaut.jpg") as before:
        assert picture.size == before.size
        green = (np.asarray(picture).astype(int)[..., 1] - np.asarray(before)[..., 1]) > 60
        assert green.sum() > 500  # the plate with the name
    assert (
        gallery("correct", at, "examples/grace_hopper.jpg", "--not", "astronaut", "--threads", "1").exit_code
        == 0
    )
    assert (
        gallery("edit", at, "astronaut", "--name", "Eileen Collins", "--until", "2999-01-01").exit_code == 0
    )
    people = [json.loads(line) for line in gallery("list", at).stdout.splitlines()]
    assert [(p["name"], p["until"], p["corrections"]) for p in people] == [
        ("Eileen Collins", "2999-01-01", 1),
        ("grace_hopper", None, 0),
    ]
    assert json.loads(gallery("stats", at).stdout)["faces"] == 2
    assert gallery("export", at, "--out", str(tmp_path / "out")).exit_code == 0
    assert gallery("prune", at).exit_code == 0
    assert (
        json.loads(gallery("merge", at, "grace_hopper", "Eileen Collins").stdout)["person"]
        == people[1]["person"]
    )
    assert gallery("split", at, "grace_hopper", people[0]["faces"][0], "--to", "Eileen").exit_code == 0
    assert json.loads(gallery("forget", at, "Eileen", "grace_hopper").stdout) == {
        "people": 2,
        "faces": 2,
        "corrections": 0,
    }
    with pytest.raises(UsageError, match="no person is called"):
        CliRunner().invoke(app, ["gallery", "forget", at, "Eileen"], catch_exceptions=False)


def test_the_page_shows_the_table_and_commands_that_exist():
    page = Path("docs/gallery.md").read_text(encoding="utf-8")
    rates = Rates.of(SHA)
    for fmr in (1e-2, 1e-3, 1e-4):
        [row] = [r for r in rates.rows if r["fmr"] == fmr]
        assert f"| {fmr:g} | {row['threshold']:.3f} | {row['false_matches']:,} | {row['fnmr']:.1%} |" in page
    commands = re.findall(r"^\$ mien gallery (.*)$", page, re.M)
    assert len(commands) >= 10
    for command in commands:
        verb, *words = shlex.split(command, comments=True)
        text = gallery(verb, "--help").output
        assert "Usage" in text, verb
        assert all(w in text for w in words if w.startswith("--")), command


# --- Quality


def judged(faces, score: float):
    """The same faces with a quality."""
    found = Quality(score, 0.2, 0.9, 0.9, 0.9, 0.9)
    return [replace(f, answers={**f.answers, "quality": found}) for f in faces]


def test_a_poor_face_is_not_enrolled_and_not_identified(place):
    here, reader = Gallery(place, colors(), threshold=0.5, min_quality=0.4), colors()
    good, poor = judged(reader(photo(1, 1)), 0.8), judged(reader(photo(1, 2)), 0.3)
    with pytest.raises(LowQuality, match=r"0\.30, below 0\.4; its weakest part is sharpness"):
        here.enroll(poor, "Ann")
    here.enroll(good, "Ann")
    (found,) = here.answers(judged(reader(photo(1, 3)), 0.9))
    assert name_of(found) == "Ann" and "cannot_tell" not in found.to_dict()
    (found,) = here.answers(poor)
    assert name_of(found) is None and found.cannot_tell and found.to_dict()["cannot_tell"] is True
    assert found.candidates[0].name == "Ann"
    assert len(here.people()[0].faces) == 1
    with pytest.raises(UsageError, match="needs the task quality"):
        here.enroll(reader(photo(2, 1)), "Bob")
    with pytest.raises(UsageError, match="between 0 and 1"):
        Gallery(place, colors(), min_quality=3)
