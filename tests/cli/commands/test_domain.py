"""In-domain, tested, and honest about "no match": the program with a model that means something."""

import json
import re
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import SAMPLES, Ran, Run, places_beside, run_here
from fakes import fake_spec

from clipsearch.domain import taxonomy
from clipsearch.storage import collection as assurance
from clipsearch.storage import known
from clipsearch.storage.catalog import FOLDER, Store

pytestmark = pytest.mark.process  # the built-in model embeds thousands of texts

PICTURES = (
    *("bicycle/red_bicycle.png", "cat/chelsea.jpg", "lighthouse/red_and_white_lighthouse.png"),
    *("cup_of_coffee/espresso.jpg", "goldfish/goldfish.jpg", "giant_panda/panda_walking.jpg"),
    *("windmill/aalbeke_windmill.jpg", "hammer/hammer.jpg", "spider/garden_spider.jpg"),
)

TOYS = """\
name = "toys"
description = "Things to play with"
language = "en"
templates = ["a photo of a {}."]
in_domain = ["something to play with"]
out_of_domain = ["a tax return"]

[[classes]]
name = "kite"

[[classes]]
name = "spinning top"
synonyms = ["whirligig"]

[pass_marks]
top1 = 0.5
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine of the sample images, indexed with the built-in model. Not to be changed."""
    root = tmp_path_factory.mktemp("made") / "photos"
    for name in PICTURES:
        (root / name).parent.mkdir(parents=True)
        shutil.copy(SAMPLES / name, root / name)
    with places_beside(root):
        assert run_here("index", root, "--model", "pocket") == 0
    return root


@pytest.fixture
def collection(made: Path, tmp_path: Path, shared_cache: None) -> Path:
    return Path(shutil.copytree(made, tmp_path / "photos"))


def hits(done: Ran) -> list[dict[str, Any]]:
    assert (done.code, done.err) == (0, "")
    return [json.loads(line) for line in done.lines]


# -- no match ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("a red bicycle", PICTURES[0]),
        ("a lighthouse by the sea", PICTURES[2]),
        ("a panda", PICTURES[5]),
    ],
)
def test_what_is_there_is_found_and_little_else(
    run: Run, made: Path, query: str, first: str
) -> None:
    found = hits(run("search", query, "--json", cwd=made))
    assert found[0]["path"] == first
    assert len(found) <= 3
    for hit in found:
        assert 0 < hit["false_alarm"] <= 0.05
        assert hit["precision"] is None
        assert (hit["domain"], hit["tested"]) == ("everyday", "untested")


@pytest.mark.parametrize("query", ["a giraffe", "a bowl of soup", "a submarine"])
def test_what_is_not_there_is_no_match(run: Run, made: Path, query: str) -> None:
    done = run("search", query, "--strict", cwd=made)
    assert (done.code, done.out) == (1, b"")
    said = done.err
    assert re.match(r"clipsearch: no (strong )?match: \d+\.\d% of unrelated queries score", said)
    assert "(--all prints it)" in said
    ranked = hits(run("search", query, "--all", "--json", cwd=made))
    assert len(ranked) == len(PICTURES)
    assert ranked[0]["false_alarm"] > 0.05
    rates = [hit["false_alarm"] for hit in ranked]
    assert rates == sorted(rates)
    assert ranked[0]["path"] in said


def test_the_rate_is_the_users_to_choose(run: Run, made: Path) -> None:
    ranked = hits(run("search", "a lighthouse", "--all", "--json", cwd=made))
    listed = hits(run("search", "a lighthouse", "--json", cwd=made))
    assert 1 <= len(listed) < len(ranked)
    assert listed == ranked[: len(listed)]
    below = listed[0]["false_alarm"] / 2
    none = run("search", "a lighthouse", "--max-false-alarm", str(below), "--json", cwd=made)
    assert (none.code, none.out) == (1, b"")
    assert "no match: no hit has a false-alarm rate this low" in none.err
    assert hits(run("search", "a lighthouse", "--max-false-alarm", "1", "--json", cwd=made)) == (
        listed
    )


@pytest.mark.parametrize("rate", ["0", "-0.1", "1.5", "nan", "inf"])
def test_a_rate_is_a_share(run: Run, made: Path, rate: str) -> None:
    done = run("search", "a cat", f"--max-false-alarm={rate}", cwd=made)
    assert (done.code, done.out) == (2, b"")
    assert "is not a valid rate" in done.err


def test_a_picture_is_judged_among_pictures(run: Run, collection: Path) -> None:
    shutil.copy(SAMPLES / "windmill" / "moulbaix_windmill.jpg", collection / "other.jpg")
    done = run("search", "--image", "other.jpg", "--all", "--json", cwd=collection)
    ranked = hits(done)
    assert ranked[0]["path"] == "windmill/aalbeke_windmill.jpg"
    rates = [hit["false_alarm"] for hit in ranked]
    assert rates == sorted(rates)


# -- in-domain -----------------------------------------------------------------------------------


def test_what_has_nothing_to_do_with_the_domain_is_refused(run: Run, made: Path) -> None:
    query = "quarterly tax report spreadsheet"
    done = run("search", query, cwd=made)
    assert (done.code, done.out) == (3, b"")
    first, second = done.err.splitlines()
    assert first.startswith(
        f"clipsearch: refused: '{query}' seems to have nothing to do with the domain everyday; "
        "its nearest classes are "
    )
    assert "--allow-out-of-domain" in second
    allowed = run("search", query, "--allow-out-of-domain", cwd=made)
    assert allowed.code in (0, 1)
    assert "refused" not in allowed.err


@pytest.mark.parametrize("options", [[], ["--allow-out-of-domain"], ["--all"]])
def test_the_policy_refuses_always_and_says_why(run: Run, made: Path, options: list[str]) -> None:
    done = run("search", "who is this woman", *options, cwd=made)
    assert (done.code, done.out) == (3, b"")
    assert done.err.startswith("clipsearch: refused: 'who is this woman' asks ")
    assert "model card" in done.err


def test_another_script_is_answered_with_a_word_of_warning(run: Run, made: Path) -> None:
    done = run("search", "いぬ", "--all", "--allow-out-of-domain", cwd=made)
    assert done.code == 0
    assert "seems to be in Japanese; the model was trained and evaluated in English" in done.err


def test_a_class_is_found_by_its_name_or_a_synonym(run: Run, made: Path) -> None:
    by_name = hits(run("search", "--class", "Lighthouse", "--json", cwd=made))
    assert by_name[0]["path"] == PICTURES[2]


def test_an_unknown_class_is_an_error_with_a_suggestion(run: Run, made: Path) -> None:
    done = run("search", "--class", "lighthuose", cwd=made)
    assert (done.code, done.out) == (2, b"")
    assert "the domain everyday has no class 'lighthuose'" in done.err
    assert "did you mean lighthouse?" in done.err
    done = run("search", "--class", "qqqqqq", cwd=made)
    assert "clipsearch domain show lists its classes" in done.err


# -- tested --------------------------------------------------------------------------------------


def test_only_a_tested_index_will_do_if_that_is_asked_for(run: Run, made: Path) -> None:
    done = run("search", "a cat", "--require-tested", cwd=made)
    assert (done.code, done.out) == (3, b"")
    assert f"the index of {made} is untested on the domain everyday" in done.err
    assert "clipsearch evaluate LABELED" in done.err


def test_status_tells_the_domain_and_what_was_tested(run: Run, made: Path) -> None:
    lines = run("status", cwd=made).lines
    assert "  domain   everyday (341 classes)" in lines
    assert any(line.startswith("  answers  untested on the domain everyday") for line in lines)
    (record,) = map(json.loads, run("status", "--json", cwd=made).lines)
    assert (record["domain"], record["tested"], record["calibrated"]) == (
        *("everyday", "untested", True),
    )


# -- another domain ------------------------------------------------------------------------------


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    (tmp_path / "toys.toml").write_text(TOYS)
    return tmp_path / "toys.toml"


def embeddings(collection: Path) -> list[tuple[int, bytes]]:
    with sqlite3.connect(collection / ".clipsearch" / "catalog.sqlite3") as catalog:
        return catalog.execute("SELECT id, vector FROM vectors").fetchall()


def test_a_domain_is_pinned_and_changing_it_embeds_nothing(
    run: Run, collection: Path, toys: Path
) -> None:
    before = embeddings(collection)
    done = run("index", ".", "--domain", toys, cwd=collection)
    assert (done.code, done.out) == (0, b"")
    assert "9 unchanged" in done.err
    assert embeddings(collection) == before
    toys.unlink()
    assert "  domain   toys (2 classes)" in run("status", cwd=collection).lines
    assert run("index", ".", cwd=collection).code == 0
    assert "  domain   toys (2 classes)" in run("status", cwd=collection).lines
    assert run("search", "--class", "whirligig", "--all", cwd=collection).code == 0
    assert run("search", "--class", "lighthouse", cwd=collection).code == 2
    assert run("index", ".", "--domain", "everyday", cwd=collection).code == 0
    assert run("search", "--class", "lighthouse", cwd=collection).code == 0


def test_a_rebuild_keeps_the_domain(
    run: Run, collection: Path, toys: Path, tiny_model: Path
) -> None:
    assert run("index", ".", "--domain", toys, cwd=collection).code == 0
    done = run("index", ".", "--rebuild", "--model", tiny_model, cwd=collection)
    assert done.code == 0
    assert "  domain   toys (2 classes)" in run("status", cwd=collection).lines


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "kite"', 'name = "spinning top"', "toys.toml, classes 2, name: "),
        ('name = "kite"', "name = kite", "toys.toml, line 9: "),
        ('name = "kite"', 'name = ""', "toys.toml, classes 1, name: "),
        ('name = "kite"', 'nmae = "kite"', "toys.toml, classes 1: unknown key 'nmae'"),
        ('name = "kite"', 'name = "recognise this face"', "toys.toml, classes 1, name: 'recognise"),
        ("top1 = 0.5", "top1 = 50", "toys.toml, pass_marks, top1: "),
    ],
)
def test_a_wrong_domain_file_is_named_with_its_place_and_costs_nothing(
    run: Run, collection: Path, toys: Path, old: str, new: str, said: str
) -> None:
    toys.write_text(TOYS.replace(old, new))
    catalog = (collection / ".clipsearch" / "catalog.sqlite3").read_bytes()
    for command in (["index", ".", "--domain", toys], ["domain", "check", toys]):
        done = run(*command, cwd=collection)
        assert done.code in (2, 3)
        assert done.out == b""
        assert said in done.err
        assert "Traceback" not in done.err
    assert (collection / ".clipsearch" / "catalog.sqlite3").read_bytes() == catalog


def test_a_domain_that_is_not_there(run: Run, collection: Path) -> None:
    done = run("index", ".", "--domain", "nowhere.toml", cwd=collection)
    assert (done.code, done.out) == (2, b"")
    assert "there is no domain file nowhere.toml" in done.err
    assert "everyday" in done.err


# -- the domain command --------------------------------------------------------------------------


def test_init_writes_a_file_that_is_right_and_overwrites_none(run: Run, tmp_path: Path) -> None:
    done = run("domain", "init", "mine.toml", cwd=tmp_path)
    assert (done.code, done.out) == (0, b"")
    assert "clipsearch domain check mine.toml" in done.err
    written = (tmp_path / "mine.toml").read_bytes()
    done = run("domain", "init", "mine.toml", cwd=tmp_path)
    assert done.code == 2
    assert "mine.toml already exists" in done.err
    assert (tmp_path / "mine.toml").read_bytes() == written
    checked = run("domain", "check", "mine.toml", "--model", "pocket", cwd=tmp_path)
    assert (checked.code, checked.err) == (0, "")
    assert b"the file is valid" in checked.out


def test_init_writes_into_no_index_and_through_no_link(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".clipsearch").mkdir()
    (tmp_path / "link.toml").symlink_to("planted.toml")
    for name in (".clipsearch/mine.toml", "link.toml"):
        assert run("domain", "init", name, cwd=tmp_path).code == 2
    assert not (tmp_path / "planted.toml").exists()
    assert not (tmp_path / ".clipsearch" / "mine.toml").exists()


def test_init_copies_a_shipped_domain(run: Run, tmp_path: Path) -> None:
    assert run("domain", "init", "mine.toml", "--copy", "everyday", cwd=tmp_path).code == 0
    mine = run("domain", "show", "mine.toml", cwd=tmp_path)
    assert mine.lines == run("domain", "show", "everyday", cwd=tmp_path).lines
    done = run("domain", "init", "other.toml", "--copy", "toys", cwd=tmp_path)
    assert done.code == 2
    assert "there is no built-in domain 'toys'" in done.err
    done = run("domain", "init", "no/such/folder/other.toml", cwd=tmp_path)
    assert done.code == 2
    assert "cannot write" in done.err


def test_show_lists_the_classes_of_the_index_here(
    run: Run, collection: Path, toys: Path, tmp_path: Path
) -> None:
    assert "  spinning top (whirligig)" not in run("domain", "show", cwd=collection).lines
    assert run("domain", "show", cwd=tmp_path).lines[0].startswith("everyday: ")
    assert run("index", ".", "--domain", toys, cwd=collection).code == 0
    shown = run("domain", "show", cwd=collection)
    assert "  spinning top (whirligig)" in shown.lines
    as_json = json.loads(run("domain", "show", "--json", cwd=collection).out)
    assert [cls["name"] for cls in as_json["classes"]] == ["kite", "spinning top"]


def test_show_asks_which_of_several_collections_is_meant(run: Run, tmp_path: Path) -> None:
    for name in ("toys", "tools"):
        root = tmp_path / "all" / name
        root.mkdir(parents=True)
        with Store.create(root / FOLDER, root, fake_spec()) as store:
            domain = replace(taxonomy.parse(TOYS, "toys.toml"), name=name)
            assurance.pin(store, domain)
        known.remember(root / FOLDER, root)
    done = run("domain", "show", cwd=tmp_path / "all")
    assert (done.code, done.out) == (2, b"")
    assert "there are 2 indexed folders" in done.err
    assert "--under FOLDER" in done.err
    done = run("domain", "show", "--under", "tools", cwd=tmp_path / "all")
    assert (done.code, done.err) == (0, "")
    assert done.lines[0].startswith("tools: ")
    done = run("domain", "show", "--under", tmp_path / "nowhere")
    assert (done.code, done.out) == (2, b"")
    assert "does not exist" in done.err


def test_check_measures_the_gate(run: Run, collection: Path) -> None:
    done = run("domain", "check", "everyday", "--model", "pocket", "--json", cwd=collection)
    assert (done.code, done.err) == (0, "")
    record = json.loads(done.out)
    assert record["model"] == "pocket"
    assert record["refused"]["value"] <= 0.02
    assert 0 < record["admitted"]["value"] < 0.5


def test_check_fails_a_domain_whose_gate_refuses_too_much(run: Run, tmp_path: Path) -> None:
    alike = [f"a quarterly report, page {n}" for n in range(30)]
    text = TOYS.replace('["something to play with"]', json.dumps([*alike, "a wooden train"]))
    text = text.replace("top1 = 0.5", "top1 = 0.5\nrefused_in_domain = 0.0")
    (tmp_path / "odd.toml").write_text(text)
    done = run("domain", "check", "odd.toml", "--model", "pocket", "--json", cwd=tmp_path)
    assert json.loads(done.out)["refused"]["value"] > 0
    assert done.code == 1
