"""Work at scale: the same rows here and by Ray, going on, whole parts, blocks of an album, a table against a
gallery.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import mien
from mien.cli import app
from mien.errors import NotFound, UsageError
from mien.io.writers import columns, rows
from mien.recognition import clustering
from mien.scale import album, engine, people, photos, places

pytest.importorskip("pyarrow", reason="pip install 'mien[scale]'")
# Ray Data sets settings of its own that it calls deprecated, whenever its context is made or copied
pytestmark = pytest.mark.filterwarnings("ignore:.use_[a-z_]+. is deprecated:DeprecationWarning")
TASKS = ["age", "gender", "identity"]
load = functools.partial(mien.load, tasks=TASKS, threads=1)


@pytest.fixture(scope="module")
def six(tmp_path_factory) -> Path:
    """Two people, both, nobody, one of them in a folder below, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("six")
    one = Image.open("examples/astronaut.jpg").convert("RGB").crop((130, 10, 320, 200)).resize((120, 120))
    two = Image.open("examples/grace_hopper.jpg").convert("RGB").crop((80, 0, 440, 360)).resize((120, 120))
    both = Image.new("RGB", (240, 120))
    both.paste(one, (0, 0))
    both.paste(two, (120, 0))
    one.save(folder / "a.jpg")
    both.save(folder / "b.png")
    (folder / "c.jpg").write_bytes((folder / "a.jpg").read_bytes()[:200])
    Image.new("RGB", (120, 120), (90, 110, 130)).save(folder / "d.jpg")
    (folder / "below").mkdir()
    two.save(folder / "below" / "e.jpg")
    one.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "f.webp")
    return folder


@pytest.fixture(scope="session")
def ray():
    """One Ray for the session, two workers of one core each."""
    found = pytest.importorskip("ray", reason="pip install 'mien[scale]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_worker_niceness", "0")  # as `engine.start` has it
    if found.is_initialized():  # by the other file of tests, whose fixture this is too
        yield found
        return
    quiet = {"include_dashboard": False, "logging_level": "error", "log_to_driver": False}
    found.init(address="local", num_cpus=2, object_store_memory=2**27, **quiet)
    yield found
    found.shutdown()


def written(out: str | Path) -> list[dict]:
    parts = places.Parts(str(out))
    lines = [row for name in parts.names() for row in parts.read(name).to_pylist()]
    return sorted(lines, key=lambda r: (r["path"], r["face"] or 0))


# --- Photos


def test_rows_are_those_of_analyze_and_a_broken_photo_is_one(six, tmp_path) -> None:
    done = photos.analyze([str(six)], str(tmp_path / "out"), load, photos=4)
    assert (done.photos, done.faces, done.failed, done.skipped) == (6, 5, 1, 0)
    lines = written(tmp_path / "out")
    assert [(os.path.basename(r["path"]), r["faces"], r["face"], r["error"]) for r in lines] == [
        ("a.jpg", 1, 1, None), ("b.png", 2, 1, None), ("b.png", 2, 2, None), ("e.jpg", 1, 1, None), ("c.jpg",
        0, None, "truncated"),
        ("d.jpg", 0, None, None), ("f.webp", 1, 1, None),
    ]  # fmt: skip
    reader = load()
    [expected] = rows(reader(str(six / "a.jpg")).to_dict(), columns(reader.requested))
    assert list(lines[0]) == list(expected)
    assert lines[0]["age"] == np.float32(expected["age"])
    assert lines[0]["identity"] == pytest.approx(expected["identity"], abs=1e-4)
    assert (
        sorted(os.listdir(tmp_path / "out")) == places.Parts(str(tmp_path / "out")).names()
    )  # nothing half-written stays
    assert len(places.Parts(str(tmp_path / "out")).names()) == 2


def test_ray_writes_the_same_rows(six, tmp_path, ray) -> None:
    uri = (tmp_path / "ray").as_uri()
    pids = set()
    done = photos.analyze(
        [str(six)], uri, load, engine="ray", workers=2, photos=2, on_part=lambda r: pids.add(r["pid"])
    )
    photos.analyze([str(six)], str(tmp_path / "local"), load, photos=2)
    assert written(uri) == written(tmp_path / "local")
    assert (done.photos, done.failed) == (6, 1)
    assert os.getpid() not in pids
    assert set(os.listdir(tmp_path / "ray")) == set(os.listdir(tmp_path / "local"))
    with pytest.raises(UsageError, match="3 workers of 1 threads need 3 cores, Ray has 2"):
        photos.analyze([str(six)], str(tmp_path / "new"), load, engine="ray", workers=3)


def test_a_worker_s_error_comes_through_ray_as_it_is(tmp_path, ray) -> None:
    with pytest.raises(UsageError) as e:
        list(engine.run([{"x": 1}], Refusing, (), engine="ray", workers=1))
    assert str(e.value) == "no 1 here"
    with pytest.raises(UsageError, match=r"^no 1 here$"):
        list(engine.run([{"x": 1}], Refusing, ()))


def test_pieces_keep_all_workers_busy_and_no_part_is_larger_than_the_limit() -> None:
    for total, workers, largest in [(200, 2, 512), (6, 2, 2), (1, 4, 512), (20_000, 2, 512), (1000, 64, 512)]:
        sizes = engine.piece_sizes(total, workers, largest)
        assert sum(sizes) == total
        assert max(sizes) <= largest and min(sizes) >= 1
        assert len(sizes) >= min(workers, -(-total // 8))  # nobody waits without work
        assert max(sizes[:workers]) <= 8  # the first line comes soon
        assert max(sizes[-2:]) <= 8  # and all end at about the same time
    assert engine.piece_sizes(200, 2, 512)[2:4] == [46, 35]
    assert engine.piece_sizes(20_000, 2, 512).count(512) > 20
    assert engine.piece_sizes(0, 2, 512) == []


def test_the_first_result_is_a_line_and_so_is_waiting(capsys) -> None:
    progress = engine.Progress(1000)
    progress.add(8)
    progress.add(8)  # within five seconds: no line
    assert capsys.readouterr().err.count("of 1,000 photos") == 1
    with engine.waiting_lines(every=0.05):
        time.sleep(0.3)
    assert "no piece is done after" in capsys.readouterr().err


class Niceness:
    def __call__(self, item: dict) -> dict:
        return {"nice": os.nice(0)}


def test_ray_workers_are_not_nicer_than_this_process(ray, capsys) -> None:
    if os.environ.get("RAY_worker_niceness") != "0":  # noqa: SIM112 (the spelling of Ray)
        pytest.skip("this Ray was started by another test, before mien set the niceness")
    [done] = engine.run([{"x": 1}], Niceness, (), engine="ray", workers=1)
    assert done["nice"] == os.nice(0)
    assert "1 piece of work for 1 worker with 1 thread each" in capsys.readouterr().err


class Refusing:
    def __call__(self, item: dict) -> dict:
        raise UsageError(f"no {item['x']} here")


class NoRay:
    """Ray on a machine that is too busy: `init` fails a few times."""

    def __init__(self, failures: int):
        self.failures, self.calls = failures, list[str]()

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: Any) -> None:
        self.calls.append("init")
        if self.calls.count("init") <= self.failures:
            raise Exception("The current node timed out during startup.\nMore lines")

    def shutdown(self) -> None:
        self.calls.append("shutdown")


def test_ray_is_started_again_and_its_failure_is_one_sentence(monkeypatch, capsys) -> None:
    context = SimpleNamespace(DataContext=SimpleNamespace(get_current=SimpleNamespace))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    slow = NoRay(2)
    monkeypatch.setattr(engine, "libraries", lambda: (slow, context))
    assert engine.start() is slow
    assert slow.calls == ["init", "shutdown", "init", "shutdown", "init"]
    assert capsys.readouterr().err.count("did not start (The current node timed out during startup.)") == 2
    never = NoRay(9)
    monkeypatch.setattr(engine, "libraries", lambda: (never, context))
    with pytest.raises(UsageError, match=r"Ray does not start \(The current node.*--workers N") as caught:
        engine.start()
    assert "More lines" not in str(caught.value)
    assert never.calls.count("init") == 3
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    absent = NoRay(9)
    monkeypatch.setattr(engine, "libraries", lambda: (absent, context))
    with pytest.raises(UsageError, match=r"cannot connect to RAY_ADDRESS '10\.0\.0\.1:6379'"):
        engine.start()
    assert absent.calls == ["init", "shutdown"]


def test_what_is_there_is_not_read_again(six, tmp_path) -> None:
    out = str(tmp_path / "out")
    photos.analyze([str(six / "a.jpg"), str(six / "c.jpg")], out, load)
    (tmp_path / "out" / ".part-0.parquet.1.tmp").write_bytes(b"PAR1 half")  # as a killed writer leaves it
    done = photos.analyze([str(six)], out, load)
    assert (done.photos, done.skipped) == (4, 2)
    assert not list((tmp_path / "out").glob(".*"))
    photos.analyze([str(six)], str(tmp_path / "once"), load)
    names = [(r["path"], r["face"], r["error"]) for r in written(out)]
    assert names == [(r["path"], r["face"], r["error"]) for r in written(tmp_path / "once")]
    assert photos.analyze([str(six)], out, load).photos == 0


def test_another_network_or_other_tasks_do_not_go_on(six, tmp_path, monkeypatch) -> None:
    out = str(tmp_path / "out")
    photos.analyze([str(six / "a.jpg")], out, load)
    with pytest.raises(UsageError, match="other columns than this run writes"):
        photos.analyze([str(six)], out, functools.partial(mien.load, tasks=["age"], threads=1))
    monkeypatch.setattr(photos, "model_of", lambda reader: "other:1")
    with pytest.raises(UsageError, match=r"was written by mien_tiny:.*this run has other:1"):
        photos.analyze([str(six)], out, load)
    assert len(os.listdir(out)) == 1


def test_uris_are_listed_globbed_and_read_like_folders(six, tmp_path) -> None:
    base = six.as_uri()
    assert places.find([base]) == [
        f"{base}/{n}" for n in ("a.jpg", "b.png", "below/e.jpg", "c.jpg", "d.jpg", "f.webp")
    ]
    assert places.find([f"{base}/[ac].jpg"]) == [f"{base}/a.jpg", f"{base}/c.jpg"]
    assert places.find([f"{base}/[!ac].jpg", f"{base}/d.jpg"]) == [f"{base}/d.jpg"]
    assert places.find([f"{base}/**/*.jpg"]) == [
        f"{base}/{n}" for n in ("a.jpg", "below/e.jpg", "c.jpg", "d.jpg")
    ]
    with pytest.raises(NotFound, match="holds no pictures"):
        places.find([f"{base}/*.tiff"])
    with pytest.raises(UsageError, match="cannot open 'nobody://here'"):
        places.find(["nobody://here"])
    photos.analyze([base], str(tmp_path / "uri"), load)
    photos.analyze([str(six)], str(tmp_path / "path"), load)
    both = [
        [{k: v for k, v in r.items() if k != "path"} for r in written(tmp_path / n)] for n in ("uri", "path")
    ]
    assert both[0] == both[1]
    assert isinstance(places.fetch(f"{base}/none.jpg"), NotFound)


def test_another_file_system_comes_through_fsspec(six) -> None:
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").put(str(six / "a.jpg"), "/in/a.jpg")
    done = photos.analyze(["memory://in/*.jpg"], "memory://out", load)
    assert (done.photos, done.faces) == (1, 1)
    [row] = written("memory://out")
    assert row["path"] == "memory://in/a.jpg"
    assert photos.analyze(["memory://in"], "memory://out", load).skipped == 1


def test_the_command_line(six, tmp_path) -> None:
    words = ["analyze", str(six), "--tasks", "age", "--engine", "local", "--threads", "1"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert done.exit_code == 1, done.output
    assert "6 of 6 photos (1 not read)" in done.stderr
    assert "decode" in done.stderr and "CPU s per photo" in done.stderr
    assert len(written(tmp_path / "out")) == 7
    for more, message in (
        ([], "give --out a folder"),
        (["--out", "o", "--draw", "d"], "writes a table only"),
    ):
        assert message in str(CliRunner().invoke(app, [*words, *more]).exception)
    with pytest.raises(UsageError, match="local or ray, not 'dask'"):
        engine.check("dask")


def test_without_ray_the_extra_is_named_before_anything_is_done(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'mien\[scale\]'"):
        photos.analyze(["nowhere"], str(tmp_path), load, engine="ray")


def test_nothing_of_mien_needs_this_package() -> None:
    using = [
        p
        for p in Path("src/mien").rglob("*.py")
        if "mien.scale" in p.read_text(encoding="utf-8") and p.parent.name != "scale"
    ]
    assert {str(p) for p in using} <= {"src/mien/cli/analyze.py", "src/mien/cli/gallery.py"}


def test_progress_says_how_long(monkeypatch, capsys) -> None:
    now = 1000.0
    monkeypatch.setattr(engine.time, "monotonic", lambda: now)
    progress = engine.Progress(1000)
    now += 10
    progress.add(100, failed=3)
    assert capsys.readouterr().err == "mien: 100 of 1,000 photos (3 not read), 10.0 photos/s, 0:01:30 left\n"
    now += 1
    progress.add(1)  # a second later is too soon
    assert capsys.readouterr().err == ""
    progress.add(899)
    assert capsys.readouterr().err == "mien: 1,000 of 1,000 photos (3 not read), 90.9 photos/s\n"


# --- Albums


def drawn(people_: int, each: int, spread: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    e = np.repeat(rng.standard_normal((people_, 32)), each, 0) + spread * rng.standard_normal(
        (people_ * each, 32)
    )
    return (e / np.linalg.norm(e, axis=1, keepdims=True)).astype(np.float32)[rng.permutation(people_ * each)]


@pytest.mark.parametrize("spread", [0.3, 0.7])
def test_blocks_of_an_album_give_what_all_pairs_give(spread) -> None:
    e = drawn(20, 8, spread)
    apart, margins = [i // 2 for i in range(160)], np.where(np.arange(160) % 9 == 0, 0.05, 0.0)
    exact = clustering.group(e, 0.6, photos=apart, margins=margins)
    assert 20 <= max(exact) + 1 < 160
    for block in (7, 64, 4096):
        found = album.group(e, 0.6, photos=apart, margins=margins, block=block)
        assert (found.labels, found.approximate) == (exact, 0)
    assert album.group(np.zeros((0, 8)), 0.5).labels == []


def test_a_part_that_is_too_large_is_cut_higher_and_counted() -> None:
    e = drawn(6, 10, 0.25)
    exact = clustering.group(e, 0.0)
    found = album.group(e, 0.0, largest=12)
    assert found.approximate > 0
    assert max(exact) + 1 <= max(found.labels) + 1 <= 60
    same = np.repeat(e[:1], 30, 0)
    assert len(album.group(same, 0.5, largest=12).labels) == 30  # ends, though no cut separates them


def test_blocks_by_ray(ray) -> None:
    e = drawn(10, 5, 0.3)
    assert album.group(e, 0.6, block=20, engine="ray", workers=2).labels == clustering.group(e, 0.6)


# --- A table against a gallery


@pytest.fixture(scope="module")
def table(six, tmp_path_factory) -> str:
    out = str(tmp_path_factory.mktemp("table") / "parts")
    photos.analyze([str(six)], out, load, photos=3)
    return out


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    pytest.importorskip("lancedb", reason="pip install 'mien[scale]'")
    from mien.recognition.gallery import Gallery

    made = Gallery(
        tmp_path_factory.mktemp("gallery") / "g",
        mien.load(tasks=["identity"], threads=1),
        threshold=0.8,
        thumbnails=False,
    )
    made.add("examples/astronaut.jpg", "Eileen Collins")
    made.add("examples/grace_hopper.jpg", "Grace Hopper")
    return made


def test_a_table_is_named_as_by_the_gallery_itself(table, gallery, tmp_path) -> None:
    done = people.identify(gallery, table, str(tmp_path / "who"))
    assert done["faces"] == 5 and done["matched"] >= 3
    answers, faces = written(tmp_path / "who"), [r for r in written(table) if r["face"]]
    for row, face in zip(answers, faces, strict=True):
        expected = gallery.search(np.array(face["identity"], np.float32))
        assert (row["path"], row["face"]) == (face["path"], face["face"])
        assert row["person"] == (expected.match.person if expected.match else None)
        assert row["candidate_name"] == expected.candidates[0].name
        assert row["similarity"] == pytest.approx(expected.candidates[0].similarity, abs=1e-5)
        assert row["margin"] == pytest.approx(expected.margin, abs=1e-5)
    again = people.identify(gallery, table, str(tmp_path / "who"))
    assert again == {"faces": 0, "matched": 0, "skipped": 2}


def test_ray_and_lance_identify_a_table_equally(table, gallery, tmp_path, ray) -> None:
    people.identify(gallery, table, str(tmp_path / "here"))
    people.identify(gallery, table, str(tmp_path / "there"), engine="ray", workers=2)
    assert written(tmp_path / "here") == written(tmp_path / "there")
    assert people.to_lance(table, str(tmp_path / "faces.lance")) == 5
    people.identify(gallery, str(tmp_path / "faces.lance"), str(tmp_path / "lance"))
    for one, two in zip(written(tmp_path / "lance"), written(tmp_path / "here"), strict=True):
        numbers = {"similarity", "margin"}  # a product of more rows may round differently
        assert {k: v for k, v in one.items() if k not in numbers} == {
            k: v for k, v in two.items() if k not in numbers
        }
        assert [one[k] for k in numbers] == pytest.approx([two[k] for k in numbers], abs=1e-5)


def test_a_correction_nearer_than_the_person_leaves_the_person_out() -> None:
    axes = np.eye(4, dtype=np.float32)
    index = people.Index(
        axes[[0, 1, 2]], np.array([0, 2]), np.array([False, True, False]), ("p", "q"), ("P", "Q")
    )
    near_face, near_correction = np.array([[0.9, 0.1, 0.3, 0.0], [0.1, 0.9, 0.0, 0.3]], np.float32)
    best, similar = index.nearest(np.stack([near_face, near_correction]), 2)
    assert best.tolist() == [[0, 1], [1, -1]]
    assert similar[0].tolist() == pytest.approx([0.9, 0.3])
    assert similar[1].tolist() == [0.0, -np.inf]
    assert index.nearest(np.zeros((0, 4), np.float32), 2)[0].shape == (0, 2)


def test_another_network_s_table_is_refused(table, gallery, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(gallery.store.about, "model", "0" * 64)
    with pytest.raises(UsageError, match=r"was read by mien_tiny:.*the gallery by 000000000000"):
        people.identify(gallery, table, str(tmp_path / "who"))


def test_identify_takes_photos_or_a_table(gallery, table, tmp_path) -> None:
    out = str(tmp_path / "who")
    words = ["gallery", "identify", str(gallery.uri), "--threshold", "0.8"]
    done = CliRunner().invoke(app, [*words, "--table", table, "--out", out])
    assert done.exit_code == 0, done.output
    assert '"faces": 5' in done.stdout
    for wrong in ([], ["--table", table], ["x.jpg", "--table", table, "--out", out]):
        assert "takes PHOTOS, or --table" in str(CliRunner().invoke(app, [*words, *wrong]).exception)
