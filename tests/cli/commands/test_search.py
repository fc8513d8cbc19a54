"""``clipsearch search``: the right images in the right order, from wherever one asks."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from conftest import (
    ASK,
    TINY_CONFIG,
    Ran,
    Run,
    make_picture,
    places_beside,
    run_here,
    save_snapshot,
)
from PIL import Image

from clipsearch.cli.options.hits import HitOptions
from clipsearch.paths import is_marked
from clipsearch.records import Hit
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.vectors import l2_normalise

NAMES = ["a.png", "b.jpg", "c.png", "d.webp", "sub/e.png", "sub/f.jpg"]
QUERIES = ["boats in a harbour", "snow"]
"""Their scores lie so far apart that no rounding changes the order."""


class Oracle:
    """open_clip itself, with every file embedded again for every question."""

    def __init__(self, folder: Path) -> None:
        name = f"local-dir:{folder}"
        self._model, self._preprocess = open_clip.create_model_from_pretrained(name)
        self._model.eval()
        self._tokenizer = open_clip.get_tokenizer(name)

    @torch.inference_mode()
    def images(self, *paths: Path) -> Any:
        pixels = torch.stack([self._preprocess(Image.open(path)) for path in paths])
        return l2_normalise(self._model.encode_image(pixels).numpy())

    @torch.inference_mode()
    def text(self, text: str) -> Any:
        return l2_normalise(self._model.encode_text(self._tokenizer([text])).numpy())[0]

    def rank(self, query: Any, root: Path, names: list[str] = NAMES) -> dict[str, float]:
        """Names and scores, best first; a text, or a vector, over files below ``root``."""
        query = self.text(query) if isinstance(query, str) else query
        scores = self.images(*(root / name for name in names)) @ query
        return {names[n]: float(scores[n]) for n in np.argsort(-scores)}


@pytest.fixture(scope="session")
def oracle(tiny_model: Path) -> Oracle:
    return Oracle(tiny_model)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An indexed folder. Not to be changed: ``collection`` is a copy."""
    root = tmp_path_factory.mktemp("made") / "photos"
    (root / "sub").mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        make_picture(root / name, seed)
    with places_beside(root):
        assert run_here("index", root, "--model", tiny_model) == 0
    return root


@pytest.fixture
def collection(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "photos"))


def records(done: Ran) -> list[dict[str, Any]]:
    """Hits from ``--json``."""
    assert done.code == 0
    assert done.err == ""
    return [json.loads(line) for line in done.out.decode("utf-8").splitlines()]


def scores(done: Ran) -> dict[str, float]:
    """Path and score from ``--json``, in the order of the output."""
    return {record["path"]: record["score"] for record in records(done)}


def same_ranking(ours: dict[str, float], theirs: dict[str, float]) -> None:
    """The same paths with the same scores, but for the rounding of fp16 and bf16, in order."""
    assert ours == pytest.approx(theirs, abs=0.004)
    assert list(ours.values()) == sorted(ours.values(), reverse=True)


# -- what is printed ---------------------------------------------------------------------------


@pytest.mark.parametrize("query", QUERIES)
def test_a_text_is_answered_in_open_clips_order(
    run: Run, made: Path, oracle: Oracle, query: str
) -> None:
    expected = oracle.rank(query, made)
    done = run(*ASK, query, cwd=made)
    assert (done.code, done.err) == (0, "")
    assert done.out == "".join(f"{name}\n" for name in expected).encode()
    same_ranking(scores(run(*ASK, query, "--json", cwd=made)), expected)


def test_a_query_may_come_from_standard_input(run: Run, made: Path) -> None:
    expected = run(*ASK, "un café ☃", "--json", cwd=made)
    done = run(*ASK, "-", "--json", cwd=made, stdin="un café ☃\n".encode())
    assert records(done) == records(expected)


def test_json_says_what_there_is_to_say_about_each_hit(
    run: Run, made: Path, tiny_model: Path
) -> None:
    hits = records(run(*ASK, "snow", "--json", cwd=made))
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5, 6]
    assert len({hit["id"] for hit in hits}) == 6
    for hit in hits:
        assert hit.keys() >= {
            *("rank", "score", "path", "root", "id"),
            *("width", "height", "taken_at", "model"),
        }
        assert (hit["root"], hit["model"]) == (str(made), str(tiny_model))
        assert (hit["width"], hit["height"], hit["taken_at"]) == (48, 40, None)


def test_as_many_hits_are_printed_as_are_asked_for(run: Run, made: Path) -> None:
    ranked = run(*ASK, "snow", cwd=made).lines
    for option in (["-k", "2"], ["--count", "2"], ["-k2"]):
        assert run(*ASK, "snow", *option, cwd=made).lines == ranked[:2]
    assert run(*ASK, "snow", "-k", "1000", cwd=made).lines == ranked


def test_a_terminal_gets_a_table_and_nothing_beside_it(
    run: Run, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranked = run(*ASK, "snow", cwd=made).lines
    monkeypatch.setattr(HitOptions, "is_table", property(lambda _: True))
    done = run(*ASK, "snow", "-k", "4", cwd=made, env={"COLUMNS": "120"})
    assert (done.code, done.err) == (0, "")
    heading, *rows, last = done.lines
    assert heading.split() == ["#", "score", "path", "class"]
    assert [row.split()[2] for row in rows] == ranked[:4]
    assert all(len(row.split()) > 3 for row in rows)  # and a class
    assert last.startswith(
        "best 4, regardless of the verdict · untested on everyday (clipsearch eval"
    )


def test_paths_ended_by_nul_are_for_xargs(run: Run, made: Path) -> None:
    expected = run(*ASK, "snow", cwd=made)
    done = run(*ASK, "snow", "-0", cwd=made)
    assert (done.code, done.err) == (0, "")
    assert done.out == expected.out.replace(b"\n", b"\0")


def test_a_template_and_whole_paths(run: Run, made: Path) -> None:
    ranked = run(*ASK, "snow", cwd=made).lines
    done = run(*ASK, "snow", "--format", r"{rank}\t{path}", "--absolute", cwd=made)
    assert (done.code, done.err) == (0, "")
    assert done.lines == [f"{n}\t{made / name}" for n, name in enumerate(ranked, start=1)]
    done = run(*ASK, "snow", "--relative", "-0", cwd=made / "sub", env={"CLIPSEARCH_INDEX": ""})
    assert set(done.out.split(b"\0")[:-1]) == {b"e.png", b"f.jpg"}
    for options in (["--json", "-0"], ["--json", "--format", "{path}"], ["--format", "{nothing}"]):
        done = run(*ASK, "snow", *options, cwd=made)
        assert (done.code, done.out) == (2, b"")


def test_a_page_of_thumbnails(run: Run, made: Path, tmp_path: Path) -> None:
    files = [tmp_path / "hits.html", tmp_path / "hits.png"]
    done = run(*ASK, "snow", "--html", files[0], "--montage", files[1], cwd=made)
    assert done.code == 0
    assert len(done.lines) == len(NAMES)
    assert done.err.endswith("".join(f"clipsearch: wrote {file}\n" for file in files))
    page = files[0].read_text()
    assert page.count("<figure") == page.count("data:image/jpeg") == len(NAMES)
    assert page.count("<dt>Nearest class</dt>") == len(NAMES)
    with Image.open(files[1]) as montage:
        assert montage.format == "PNG"
        assert len(montage.convert("RGB").getcolors(10**6)) > 5 * len(NAMES)
    for option, said in (
        (["--html", "no/such/folder/hits.html"], "cannot write no/such/folder/hits.html"),
        (["--html", tmp_path], "cannot write"),
        (["--open"], "Add --html FILE"),
    ):
        done = run(*ASK, "snow", *option, cwd=made)
        assert (done.code, done.out) == (2, b"")
        assert said in done.err


def test_no_page_or_montage_takes_the_place_of_a_photograph(
    run: Run, made: Path, collection: Path
) -> None:
    make_picture(collection / "since the last run.png", 60)
    (collection / "link.png").symlink_to("a.png")
    (collection / "link.html").symlink_to("a.png")
    before = {path: path.read_bytes() for path in collection.rglob("*") if path.is_file()}
    for option, name, said in (
        ("--html", "link.html", "is an image of the collection"),
        ("--montage", "link.png", "is an image of the collection"),
        ("--montage", made / "a.png", "is an image of the collection"),
        ("--montage", "since the last run.png", "already exists"),
        ("--html", ".clipsearch/catalog.sqlite3", "is in an index folder"),
        ("--html", ".clipsearch/page.html", "is in an index folder"),
    ):
        done = run(*ASK, "snow", option, name, cwd=collection)
        assert (done.code, done.out) == (2, b"")
        assert said in done.err
        assert len(done.err.splitlines()) == 2
    for name in ("link.html", "a.png", ".clipsearch/catalog.sqlite3"):
        done = run(*ASK, "snow", "--html", name, "--force", cwd=collection)
        assert (done.code, done.out) == (2, b"")
    after = {path: path.read_bytes() for path in collection.rglob("*") if path.is_file()}
    assert after == before
    done = run(*ASK, "snow", "--montage", "since the last run.png", "--force", cwd=collection)
    assert done.code == 0
    assert is_marked(collection / "since the last run.png")


def test_the_page_is_there_though_nobody_reads_the_hits(
    run: Run, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / "hits.html", tmp_path / "hits.png"]

    def gone(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(HitOptions, "writer", lambda *_: gone)
    done = run(*ASK, "snow", "--html", files[0], "--montage", files[1], cwd=made)
    assert (done.code, done.out) == (0, b"")
    assert all(map(is_marked, files))


@pytest.mark.process
def test_the_page_is_written_before_a_pipe_is_closed(made: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as head does, once it has seen enough
    command = [sys.executable, "-m", "clipsearch", *ASK, "snow", "--html", tmp_path / "hits.html"]
    try:
        done = subprocess.run(command, cwd=made, stdout=writing, check=False)
    finally:
        os.close(writing)
    assert done.returncode == 0
    assert is_marked(tmp_path / "hits.html")


def test_without_a_match_the_page_says_so_and_yesterdays_montage_stays(
    run: Run, collection: Path
) -> None:
    (collection / "no-pictures").mkdir()
    pages = ["--html", "hits.html", "--montage", "hits.png"]
    assert run(*ASK, "snow", *pages, cwd=collection).code == 0
    montage = (collection / "hits.png").read_bytes()
    done = run(*ASK, "snow", "--under", "no-pictures", *pages, cwd=collection)
    assert (done.code, done.out) == (1, b"")
    assert done.err.endswith(
        "clipsearch: no match: no indexed image passes the filters\n"
        "clipsearch: wrote hits.html\nclipsearch: no montage written: no match\n"
    )
    page = (collection / "hits.html").read_text()
    assert "No match: no indexed image passes the filters" in page
    assert "<figure" not in page
    assert (collection / "hits.png").read_bytes() == montage


def test_without_a_match_the_page_shows_the_nearest(run: Run, made: Path, tmp_path: Path) -> None:
    page = tmp_path / "hits.html"
    asked = ("search", "--allow-out-of-domain", "snow", "--max-false-alarm", "0.0001")
    done = run(*asked, "--html", page, cwd=made)
    assert (done.code, done.out) == (1, b"")
    text = page.read_text()
    assert '<div class="pictures dimmed">' in text
    assert text.count("<figure") == text.count("data:image/jpeg") > 0


def test_quiet_leaves_the_answer_to_the_exit_code(run: Run, collection: Path) -> None:
    done = run(*ASK, "-q", "snow", cwd=collection)
    assert (done.code, done.out, done.err) == (0, b"", "")
    (collection / "no-pictures").mkdir()
    done = run(*ASK, "-q", "snow", "--under", "no-pictures", cwd=collection)
    assert (done.code, done.out, done.err) == (1, b"", "")
    (collection.parent / "elsewhere").mkdir()
    done = run(*ASK, "-q", "snow", cwd=collection.parent / "elsewhere")
    assert (done.code, done.out) == (2, b"")
    assert done.err.startswith("clipsearch: error: ")


def test_no_match_is_said_on_stderr_and_exits_with_1(run: Run, collection: Path) -> None:
    (collection / "no-pictures").mkdir()
    for options in ([], ["--json"], ["-0"]):
        done = run(*ASK, "snow", "--under", "no-pictures", *options, cwd=collection)
        assert (done.code, done.out, done.err) == (
            *(1, b""),
            "clipsearch: no match: no indexed image passes the filters\n",
        )


# -- by an image ------------------------------------------------------------------------------


def test_a_picture_of_the_collection_finds_the_others_and_not_itself(
    run: Run, made: Path, oracle: Oracle
) -> None:
    others = [name for name in NAMES if name != "c.png"]
    expected = oracle.rank(oracle.images(made / "c.png")[0], made, others)
    same_ranking(scores(run(*ASK, "--image", "c.png", "--json", cwd=made)), expected)
    everything = run(*ASK, "--image", "c.png", cwd=made).lines
    assert sorted(everything) == others
    assert run(*ASK, "--image", "c.png", "-k", "2", cwd=made).lines == everything[:2]


def test_a_foreign_picture_is_embedded(
    run: Run, made: Path, oracle: Oracle, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign.png"
    make_picture(foreign, seed=7, size=(300, 200))
    expected = oracle.rank(oracle.images(foreign)[0], made)
    done = run(*ASK, "--image", foreign, "--json", cwd=made)
    same_ranking(scores(done), expected)


def test_a_copy_of_a_picture_of_the_collection_finds_it(
    run: Run, made: Path, tmp_path: Path
) -> None:
    shutil.copy(made / "c.png", tmp_path / "copy.png")
    (hit,) = records(run(*ASK, "--image", tmp_path / "copy.png", "--json", "-k1", cwd=made))
    assert hit["path"] == "c.png"
    assert hit["score"] == pytest.approx(1, abs=0.001)


# -- where to look -----------------------------------------------------------------------------


@pytest.mark.parametrize("query", [["snow"], ["--image", "a.png"]])
def test_exact_reads_every_embedding(
    made: Path, monkeypatch: pytest.MonkeyPatch, query: list[str]
) -> None:
    seen: list[bool] = []
    search = Store.search_each

    def watched(store: Store, *arguments: Any, exact: bool) -> list[list[Hit]]:
        seen.append(exact)
        return search(store, *arguments, exact=exact)

    monkeypatch.setattr(Store, "search_each", watched)
    monkeypatch.chdir(made)
    assert run_here(*ASK, *query) == run_here(*ASK, *query, "--exact") == 0
    assert seen == [False, True]


def test_under_restricts_a_search_to_a_folder(run: Run, made: Path, oracle: Oracle) -> None:
    expected = list(oracle.rank("snow", made, ["sub/e.png", "sub/f.jpg"]))
    assert run(*ASK, "snow", "--under", "sub", cwd=made).lines == expected
    absolute = [str(made / name) for name in expected]
    assert run(*ASK, "snow", "--under", made / "sub").lines == absolute


def test_inside_a_collection_the_current_folder_is_what_is_searched(
    run: Run, made: Path, oracle: Oracle
) -> None:
    expected = list(oracle.rank("snow", made, ["sub/e.png", "sub/f.jpg"]))
    done = run(*ASK, "snow", cwd=made / "sub")
    assert done.lines == [name.removeprefix("sub/") for name in expected]


def test_above_a_collection_it_is_found(
    run: Run, collection: Path, oracle: Oracle, tmp_path: Path
) -> None:
    assert run("index", collection).code == 0
    expected = [f"photos/{name}" for name in oracle.rank("snow", collection)]
    assert run(*ASK, "snow", cwd=tmp_path).lines == expected
    assert run(*ASK, "snow", "--under", ".", cwd=tmp_path).lines == expected


def test_an_index_may_be_named(run: Run, made: Path, oracle: Oracle, tmp_path: Path) -> None:
    expected = [str(made / name) for name in oracle.rank("snow", made)]
    for place in (made, made / ".clipsearch"):
        assert run(*ASK, "snow", "--index", place, cwd=tmp_path).lines == expected
    done = run(*ASK, "snow", "--index", made, "--under", made / "sub", cwd=tmp_path)
    assert done.lines == [path for path in expected if "/sub/" in path]


def test_a_folder_that_is_not_in_the_named_index_is_not_ignored(
    run: Run, made: Path, tmp_path: Path
) -> None:
    done = run(*ASK, "snow", "--index", made, "--under", tmp_path, cwd=tmp_path)
    assert (done.code, done.out) == (2, b"")
    assert f"{tmp_path} is not in {made}" in done.err
    done = run(*ASK, "snow", "--index", made, "--under", made.parent, cwd=tmp_path)
    assert len(done.lines) == 6


def test_an_index_elsewhere_finds_its_pictures(
    run: Run, tmp_path: Path, tiny_model: Path, oracle: Oracle
) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    for seed, name in enumerate(NAMES[:4]):
        make_picture(root / name, seed)
    assert run_here("index", root, "--index", tmp_path / "index", "--model", tiny_model) == 0
    expected = list(oracle.rank("snow", root, NAMES[:4]))
    assert run(*ASK, "snow", cwd=root).lines == expected
    absolute = [str(root / name) for name in expected]
    shutil.move(tmp_path / "index", tmp_path / "moved")
    (tmp_path / "unrelated").mkdir()
    done = run(*ASK, "snow", "--index", tmp_path / "moved", cwd=tmp_path / "unrelated")
    assert done.lines == absolute


def test_an_index_travels_with_its_pictures(run: Run, made: Path, tmp_path: Path) -> None:
    expected = run(*ASK, "snow", cwd=made)
    (tmp_path / "other disk").mkdir()
    travelled = Path(shutil.copytree(made, tmp_path / "other disk" / "pictures"))
    assert run(*ASK, "snow", cwd=travelled) == expected


# -- several collections -----------------------------------------------------------------------


@pytest.fixture
def two(made: Path, tmp_path: Path, run: Run) -> Path:
    """A folder of two collections, which the program knows of."""
    for name, gone in (("one", NAMES[:3]), ("two", NAMES[3:])):
        shutil.copytree(made, tmp_path / "disk" / name)
        for path in gone:
            (tmp_path / "disk" / name / path).unlink()
        assert run("index", tmp_path / "disk" / name).code == 0
    return tmp_path / "disk"


def test_collections_of_one_model_are_ranked_together(
    run: Run, two: Path, made: Path, oracle: Oracle
) -> None:
    expected = {
        f"{'one' if name in NAMES[3:] else 'two'}/{name}": score
        for name, score in oracle.rank("snow", made).items()
    }
    same_ranking(scores(run(*ASK, "snow", "--json", cwd=two)), expected)
    assert run(*ASK, "snow", "-k", "3", cwd=two).lines == list(expected)[:3]
    assert len(run(*ASK, "snow", "--under", "one", cwd=two).lines) == 3


def test_a_picture_of_one_collection_is_compared_with_those_of_both(
    run: Run, two: Path, made: Path
) -> None:
    expected = run(*ASK, "--image", "c.png", cwd=made).lines
    done = run(*ASK, "--image", "two/c.png", cwd=two)
    assert [line.split("/", 1)[1] for line in done.lines] == expected


@pytest.mark.process
def test_collections_of_different_models_are_not_ranked_together(
    run: Run, two: Path, tmp_path: Path, tiny_model: Path
) -> None:
    other = save_snapshot(tmp_path / "other", TINY_CONFIG, seed=1)
    assert run_here("index", two / "two", "--model", other, "--rebuild") == 0
    done = run(*ASK, "snow", cwd=two)
    assert (done.code, done.out) == (2, b"")
    for said in ("different models", "--under", str(two / "one"), str(tiny_model), str(other)):
        assert said in done.err
    assert len(run(*ASK, "snow", "--under", "one", cwd=two).lines) == 3
    assert len(run(*ASK, "snow", cwd=two / "two").lines) == 3
    status = [json.loads(line) for line in run("status", "--json", cwd=two).lines]
    assert [record["model"] for record in status] == [str(tiny_model), str(other)]


# -- changes -----------------------------------------------------------------------------------


@pytest.mark.process
def test_every_change_of_the_folder_is_in_the_next_answer(
    run: Run, collection: Path, oracle: Oracle
) -> None:
    def check(*names: str) -> None:
        assert run_here("index", collection) == 0
        for query in QUERIES:
            done = run(*ASK, query, "--json", cwd=collection)
            same_ranking(scores(done), oracle.rank(query, collection, list(names)))

    kept = (collection / "a.png").read_bytes()
    (collection / "a.png").unlink()
    check("b.jpg", "c.png", "d.webp", "sub/e.png", "sub/f.jpg")

    make_picture(collection / "new.png", seed=6)  # added
    make_picture(collection / "b.jpg", seed=11, size=(90, 50))  # replaced
    (collection / "sub" / "e.png").rename(collection / "moved.png")
    (collection / "c.png").touch()
    check("b.jpg", "c.png", "d.webp", "new.png", "moved.png", "sub/f.jpg")

    (collection / "a.png").write_bytes(kept)  # back again
    (collection / "new.png").unlink()
    check("a.png", "b.jpg", "c.png", "d.webp", "moved.png", "sub/f.jpg")


def test_two_files_with_the_same_picture_are_two_hits(run: Run, collection: Path) -> None:
    shutil.copy(collection / "c.png", collection / "sub" / "same.png")
    assert run("index", collection).code == 0
    hits = scores(run(*ASK, "snow", "--json", cwd=collection))
    assert len(hits) == 7
    assert hits["c.png"] == hits["sub/same.png"]


# -- damage ------------------------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "cut short":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "empty":
        path.write_bytes(b"")
    else:
        content = bytearray(path.read_bytes())
        if how == "zeroes":
            content[1500:2500] = bytes(1000)
        else:
            content[:64] = os.urandom(64)
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "cut short", "empty", "overwritten", "zeroes"])
def test_a_damaged_vector_file_changes_no_answer_and_is_healed(
    run: Run, collection: Path, how: str
) -> None:
    expected = run(*ASK, "snow", "--json", cwd=collection)
    assert expected.err == ""
    vectors = collection / ".clipsearch" / "vectors.faiss"
    damage(vectors, how)
    done = run(*ASK, "snow", "--json", cwd=collection)
    assert (done.code, done.out) == (0, expected.out)
    if how == "missing":  # as after an interrupted first run: there is nothing to do about it
        assert done.err == ""
    else:
        (line,) = done.err.splitlines()
        assert line.startswith(f"clipsearch: the vector file of {collection} cannot be used")
        assert line.endswith("rewritten from the catalog")
    assert (collection / ".clipsearch" / "vectors.faiss").stat().st_size > 100
    assert run(*ASK, "snow", "--json", cwd=collection) == expected


def test_a_damaged_embedding_in_the_catalog_is_told_of(run: Run, collection: Path) -> None:
    """A vector of zeroes scored 0 for any query, and its image was never seen again."""
    with sqlite3.connect(collection / ".clipsearch" / "catalog.sqlite3") as catalog:
        size = "length(vector)"
        catalog.execute(f"UPDATE vectors SET vector = zeroblob({size}) WHERE id = 1")
    catalog.close()
    assert run("index", collection).code == 0
    whole = run(*ASK, "snow", cwd=collection)
    assert whole.out.count(b"\n") == 6  # the vector file has it as it was
    (collection / ".clipsearch" / "vectors.faiss").unlink()
    told = f"cannot find 1 image of {collection}: damaged embedding"
    assert told in run("index", collection).err
    done = run(*ASK, "snow", cwd=collection)
    assert told in done.err
    assert done.out.count(b"\n") == 5
    run("verify", collection, "--repair")
    assert told not in run("index", collection).err
    assert run(*ASK, "snow", cwd=collection).out == whole.out


def test_a_damaged_catalog_is_an_error_and_no_empty_answer(run: Run, collection: Path) -> None:
    catalog = collection / ".clipsearch" / "catalog.sqlite3"
    catalog.write_bytes(b"not a catalog" * 1000)
    done = run(*ASK, "snow", cwd=collection)
    assert (done.code, done.out) == (2, b"")
    assert f"cannot read {catalog}" in done.err
    assert "clipsearch index FOLDER --rebuild" in done.err


def test_an_index_of_a_newer_program_is_not_touched(run: Run, collection: Path) -> None:
    catalog = collection / ".clipsearch" / "catalog.sqlite3"
    with sqlite3.connect(catalog) as db:
        db.execute("PRAGMA user_version = 1000")
    db.close()
    before = catalog.read_bytes()
    for command in ([*ASK, "snow"], ["index", "."], ["status"]):
        done = run(*command, cwd=collection)
        assert (done.code, done.out) == (2, b"")
        assert "newer clipsearch" in done.err
    assert catalog.read_bytes() == before


# -- before the first calibration ----------------------------------------------------------------


@pytest.fixture
def uncalibrated(collection: Path) -> Path:
    """What an interrupted first run leaves."""
    with Store.open_for_writing(collection / FOLDER) as store, store.batch():
        for name in ("domain", "texts", "calibration", "scale"):
            store.detach(name)
    return collection


def test_before_the_first_calibration_that_is_said(run: Run, uncalibrated: Path) -> None:
    done = run("search", "quarterly tax report", "--json", cwd=uncalibrated)
    assert done.code == 0
    assert "not calibrated yet: there is no verdict, and queries are not checked" in done.err
    assert "--max-false-alarm" not in done.err
    found = [json.loads(line) for line in done.lines]
    assert {hit["calibrated"] for hit in found} == {False}
    assert {hit["verdict"] for hit in found} == {hit["false_alarm"] for hit in found} == {None}
    done = run("search", "a cat", "--max-false-alarm", "0.01", cwd=uncalibrated)
    assert (done.code, "--max-false-alarm is ignored" in done.err) == (0, True)
    status = run("status", cwd=uncalibrated)
    assert b"not calibrated yet" in status.out


def test_before_the_first_calibration_a_batch_says_so(run: Run, uncalibrated: Path) -> None:
    done = run("search", "--batch", "-k", "1", cwd=uncalibrated, stdin=b"a cat\n")
    assert (done.code, json.loads(done.out)["calibrated"]) == (0, False)
    assert done.err.count("not calibrated yet") == 1


@pytest.mark.parametrize("option", ["--strict", "--require-tested"])
def test_before_the_first_calibration_nothing_is_strong(
    run: Run, uncalibrated: Path, option: str
) -> None:
    done = run("search", "a cat", option, cwd=uncalibrated)
    assert (done.code, done.out) == (3, b"")


def test_before_the_first_calibration_the_policy_holds(run: Run, uncalibrated: Path) -> None:
    done = run("search", "who is this person", cwd=uncalibrated)
    assert (done.code, done.out) == (3, b"")
