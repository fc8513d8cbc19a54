"""Queries of several parts, saved ones and batches, on the command line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ASK, Run, make_picture, places_beside, run_here

from clipsearch.storage.catalog import FOLDER, Store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An indexed folder. Not to be changed."""
    root = tmp_path_factory.mktemp("made") / "photos"
    root.mkdir()
    for seed in range(12):
        make_picture(root / f"{seed:02}.png", seed)
    with places_beside(root):
        assert run_here("index", root, "--model", tiny_model) == 0
    return root


def test_texts_and_pictures_go_together(run: Run, made: Path) -> None:
    done = run(*ASK, "a cat", "^2:snow", "--image", "03.png", "--not", "fruit", cwd=made)
    assert (done.code, done.err) == (0, "")
    assert len(done.lines) == 10
    assert "03.png" not in done.lines
    itself = run(*ASK, "--image", "03.png", "--name", "03.png", cwd=made)
    assert (itself.code, itself.err) == (1, "clipsearch: no match\n")
    alone = run(*ASK, "a cat", cwd=made)
    assert done.lines != alone.lines


def test_a_picture_that_was_found_is_good_or_bad(run: Run, made: Path) -> None:
    found = run(*ASK, "a cat", "--json", "-k", "20", cwd=made)
    records = [json.loads(line) for line in found.lines]
    last, first = records[-1], records[0]
    done = run(
        *ASK,
        "a cat",
        "--json",
        "-k",
        "20",
        "--like",
        str(last["id"]),
        "--unlike",
        first["path"],
        cwd=made,
    )
    again = [json.loads(line) for line in done.lines]
    assert first["id"] not in [record["id"] for record in again]
    ranks = [[record["id"] for record in hits].index(last["id"]) for hits in (records, again)]
    assert ranks[1] < ranks[0]


def test_a_class_beside_a_query_is_a_filter(run: Run, made: Path) -> None:
    labelled = run("classify", ".", "--json", cwd=made)
    first = [json.loads(line) for line in labelled.lines]
    name = first[0]["classes"][0]["class"]
    expected = {row["path"] for row in first if row["classes"][0]["class"] == name}
    done = run(*ASK, "a cat", "--class", name, "-k", "20", cwd=made)
    assert (done.code, set(done.lines)) == (0, expected)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "search needs something to look for"),
        (["^0:a cat"], "'^0:a cat' has a weight of 0"),
        (["^2:"], "'^2:' has a weight but no text"),
        (["--not", "a cat"], "to search for"),
        (["--unlike", "1"], "to search for"),
        (["a cat", "--like", "4711"], "no image 4711 in the index"),
        (["a cat", "--like", "nowhere.png"], "cannot read nowhere.png"),
        (["a cat", "--image", "^3:nowhere.png"], "cannot read nowhere.png"),
        (["a cat", "--like", "2:a.png"], "'2:a.png' is searched for literally"),
        (["a cat", "-", "-"], "standard input can be read only once"),
        (["a cat", "--class", "no such class"], "has no class 'no such class'"),
        (["a cat", "-q", "--preview"], "cannot be combined with --quiet"),
        (["--batch", "a cat"], "--batch reads its queries from standard input"),
        (["--batch", "-0"], "--batch prints JSON lines"),
        (["--batch", "--from0", "-"], "cannot both be read from standard input"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_looked_for_is_an_error(
    run: Run, made: Path, arguments: list[str], said: str
) -> None:
    done = run(*ASK, *arguments, cwd=made)
    assert (done.code, done.out) == (2, b"")
    assert said in done.err
    assert "bug" not in done.err


def test_a_number_and_a_colon_are_text(run: Run, made: Path) -> None:
    def scores(text: str) -> list[float]:
        done = run(*ASK, text, "--json", "-k", "3", cwd=made)
        assert done.err == ""
        return [json.loads(line)["score"] for line in done.lines]

    for text in ("16:9 screenshot", "10:30 on a clock"):
        assert scores(text) != scores(text.partition(":")[2])


def test_who_writes_a_weight_as_before_is_told(run: Run, made: Path) -> None:
    said = "clipsearch: '2:snow' is searched for literally; a weight starts with a caret: "
    said += "'^2:snow'"
    alone = run(*ASK, "a cat", "2:snow", cwd=made)
    assert (alone.code, alone.err.splitlines()) == (0, [said])
    batch = run(*ASK, "--batch", cwd=made, stdin=b"a cat\n2:snow\n2:sun\n")
    assert (batch.code, batch.err.splitlines()) == (0, [said])


def test_the_policy_reads_every_text(run: Run, made: Path) -> None:
    for arguments in (["a cat", "who is this man"], ["a cat", "--not", "who is this man"]):
        done = run(*ASK, *arguments, cwd=made)
        assert (done.code, done.out) == (3, b"")


# -- saved queries -------------------------------------------------------------------------------


def test_a_query_is_saved_and_looked_for_by_its_name(run: Run, made: Path, tmp_path: Path) -> None:
    shutil.copy(made / "03.png", tmp_path / "pool.png")
    parts = ["a cat", "^2:snow", "--image", "pool.png", "--not", "fruit"]
    saved = run("query", "save", "pool", *parts)
    assert (saved.code, saved.out) == (0, b"")
    assert "search @pool" in saved.err
    expected = run(*ASK, *parts, "--json", "--index", made, cwd=tmp_path)
    assert expected.code == 0
    done = run(*ASK, "@pool", "--json", cwd=made)
    assert done.code == 0
    hits = [[json.loads(line)["id"] for line in one.lines] for one in (done, expected)]
    assert hits[0] == hits[1]
    assert run(*ASK, "^3:@pool", cwd=made).lines == run(*ASK, "@pool", cwd=made).lines
    unwanted = run(*ASK, "a cat", "--not", "@pool", cwd=made)
    assert (unwanted.code, unwanted.out) == (2, b"")
    assert "'@pool' is a saved query; --not takes a text" in unwanted.err
    listed = run("query", "list")
    assert listed.lines == [f"pool\ta cat, ^2:snow, not fruit, {tmp_path}/pool.png"]
    record = json.loads(run("query", "list", "--json").out)
    assert record["name"] == "pool"
    assert (run("query", "remove", "pool").code, run("query", "list").out) == (0, b"")


def test_what_is_no_saved_query_is_an_error(run: Run, made: Path) -> None:
    for arguments, said in (
        (["query", "remove", "pool"], "there is no saved query 'pool'"),
        (["query", "save", "a/b", "a cat"], "'a/b' is not a valid name for a query"),
        (["query", "save", "pool"], "to look for"),
        (["query", "save", "pool", "a cat", "--like", "12"], "'12' is not a file"),
        (["query", "save", "pool", "a cat", "--class", "cat"], "is a filter"),
        ([*ASK, "@pool"], "has no probe 'pool', and there is no saved query with that name"),
    ):
        done = run(*arguments, cwd=made)
        assert (done.code, done.out) == (2, b"")
        assert said in done.err
    assert run("query", "save", "spy", "who is this man").code == 3


def test_a_probe_cannot_have_the_name_of_a_saved_query(run: Run, made: Path) -> None:
    assert run("query", "save", "cats", "a cat").code == 0
    done = run("probe", "train", ".", "--name", "cats", cwd=made)
    assert (done.code, done.out) == (2, b"")
    assert "there is a saved query 'cats', so @cats would be ambiguous" in done.err


def test_a_damaged_file_of_saved_queries_is_not_written_over(run: Run, tmp_path: Path) -> None:
    assert run("query", "save", "cats", "a cat").code == 0
    file = tmp_path / "data" / "queries.json"
    file.write_text('{"cats": 7}')
    for arguments in (["query", "save", "dogs", "a dog"], ["query", "list"]):
        done = run(*arguments)
        assert (done.code, done.out) == (2, b"")
        assert "cannot read the saved queries" in done.err
    assert file.read_text() == '{"cats": 7}'


# -- batches -------------------------------------------------------------------------------------


def test_a_batch_answers_every_line_with_one_object(run: Run, made: Path) -> None:
    lines = ["a cat", "^2:snow", "who is this man", "", "@nothing", "snow"]
    text = "\n".join(lines).encode() + b"\nb\xff\n"
    done = run(*ASK, "--batch", "-k", "3", cwd=made, stdin=text)
    assert (done.code, done.err) == (0, "")
    answers = [json.loads(line) for line in done.lines]
    assert [answer["query"] for answer in answers] == [*lines, "b\ufffd"]
    for answer in (answers[0], answers[5]):
        alone = run(*ASK, answer["query"], "--json", "-k", "3", cwd=made)
        expected = [json.loads(line) for line in alone.lines]
        assert (answer["error"], answer["refused"]) == (None, False)
        assert [hit.keys() for hit in answer["hits"]] == [hit.keys() for hit in expected]
        for hit, other in zip(answer["hits"], expected, strict=True):
            assert (hit["id"], hit["path"]) == (other["id"], other["path"])
            assert hit["score"] == pytest.approx(other["score"], abs=1e-5)
    assert (answers[2]["refused"], answers[2]["hits"]) == (True, [])
    assert "the query is empty" in answers[3]["error"]
    assert "has no probe" in answers[4]["error"]
    assert "not valid text" in answers[6]["error"]


REFUSED, ERROR, HITS = "who is this man", "@nothing", "a cat"


@pytest.mark.parametrize(
    ("lines", "options", "code"),
    [
        ([], [], 1),
        ([HITS, HITS], ["--name", "none"], 1),
        ([REFUSED], [], 3),
        ([REFUSED, HITS], ["--name", "none"], 3),
        ([""], [], 2),
        ([REFUSED, ERROR, HITS], ["--name", "none"], 2),
        ([ERROR, REFUSED], [], 2),
        ([REFUSED, ERROR, HITS], [], 0),
    ],
)
def test_a_batch_exits_as_its_best_line_or_else_as_its_worst(
    run: Run, made: Path, lines: list[str], options: list[str], code: int
) -> None:
    text = "".join(f"{line}\n" for line in lines).encode()
    assert run(*ASK, "--batch", *options, cwd=made, stdin=text).code == code


def test_a_batch_says_which_listed_files_are_not_indexed(run: Run, made: Path) -> None:
    (made.parent / "list").write_bytes(b"03.png\0nowhere.png\0")
    done = run(*ASK, "--batch", "--from0", "../list", cwd=made, stdin=b"a cat\n")
    assert (done.code, len(done.lines)) == (0, 1)
    assert "not in the index: 1 of 2 listed files" in done.err


@pytest.mark.process
def test_a_batch_does_not_wait_for_more_than_a_line(made: Path) -> None:
    """As a coprocess: each answer is there before the next question is asked."""
    process = subprocess.Popen(
        [sys.executable, "-m", "clipsearch", *ASK, "--batch", "-k", "1"],
        cwd=made,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for query in ("a cat", "snow"):
        process.stdin.write(f"{query}\n".encode())
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["query"] == query
    process.stdin.close()
    process.stdout.close()
    assert process.wait(60) == 0


def test_an_old_index_is_measured_by_the_next_run(run: Run, made: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made, tmp_path / "photos"))
    with Store.open_for_writing(copy / FOLDER) as store, store.batch():
        store.detach("scale")
    done = run(*ASK, "a cat", "snow", cwd=copy)
    assert (done.code, done.out) == (2, b"")
    assert "this index lacks the measurements" in done.err
    assert run("index", ".", cwd=copy).code == 0
    assert run(*ASK, "a cat", "snow", cwd=copy).code == 0
