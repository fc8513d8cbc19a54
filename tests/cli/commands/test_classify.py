"""``clipsearch classify`` and ``clipsearch probe``, run as programs."""

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SAMPLES, Ran, Run, make_picture, places_beside, run_here
from PIL import Image

from clipsearch.domain import taxonomy
from clipsearch.domain.zero_shot import probabilities
from clipsearch.storage import collection as assurance
from clipsearch.storage.catalog import Store
from clipsearch.storage.collection import Collection

DOMAIN = """
name = "blocks"
templates = ["a photo of a {}."]
classes = [
    {name = "red block"}, {name = "blue block", synonyms = ["azure"]}, {name = "green block"},
    {name = "grey block"}, {name = "wall"},
]
pass_marks = {images = 3, top1 = 0.0}
"""

FOLDERS = ["azure", "red_block", "wall"]
NAMES = [f"{folder}/{n}.png" for folder in FOLDERS for n in range(4)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An indexed and calibrated folder. Not to be changed."""
    root = tmp_path_factory.mktemp("made") / "set"
    for seed, name in enumerate(NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        # Walls are dark: a probe can learn that.
        make_picture(root / name, seed)
        if name.startswith("wall"):
            Image.eval(Image.open(root / name), lambda value: value // 8).save(root / name)
    with places_beside(root):
        assert run_here("index", root, "--model", tiny_model) == 0
        with Store.open_for_writing(root / ".clipsearch") as store:
            assurance.pin(store, taxonomy.parse(DOMAIN, "blocks.toml"))
        assert run_here("evaluate", root, "--json") == 0
    return root


@pytest.fixture
def collection(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "set"))


@pytest.fixture(scope="module")
def expected(made: Path) -> dict[str, list[tuple[str, float]]]:
    """Path -> classes and probabilities, best first, from the stored vectors."""
    with Store.open(made / ".clipsearch") as store:
        known = Collection(store)
        assert known.texts is not None
        ids = {os.fsdecode(path): image.id for path, image in store.known().items()}
        images = store.vectors([ids[name] for name in NAMES])
        shares = probabilities(images, known.texts.gate.classes, known.logit_scale)
        names = known.domain.class_names
    return {
        name: [(names[c], float(row[c])) for c in np.argsort(-row)]
        for name, row in zip(NAMES, shares, strict=True)
    }


def rows(done: Ran) -> list[tuple[str, str, float]]:
    assert (done.code, done.err) == (0, "")
    fields = [line.split("\t") for line in done.lines]
    return [(path, name, float(probability)) for path, name, probability in fields]


def same(got: list[tuple[str, str, float]], expected: dict[str, Any], k: int) -> None:
    wanted = [(path, *pair) for path, ranking in expected.items() for pair in ranking[:k]]
    assert [row[:2] for row in got] == [row[:2] for row in wanted]
    assert [row[2] for row in got] == pytest.approx([row[2] for row in wanted], abs=2e-4)


# -- classes of the domain -----------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 5, 50])
def test_what_is_indexed_here_is_labelled(
    run: Run, made: Path, expected: dict[str, Any], k: int
) -> None:
    same(rows(run("classify", "-k", str(k), cwd=made)), expected, k)


def test_the_current_folder_or_another_restricts_it(
    run: Run, made: Path, expected: dict[str, Any]
) -> None:
    below = {name.removeprefix("wall/"): expected[name] for name in NAMES if "wall" in name}
    same(rows(run("classify", cwd=made / "wall")), below, 1)
    absolute = {str(made / "wall" / name): ranking for name, ranking in below.items()}
    same(rows(run("classify", "--under", made / "wall")), absolute, 1)
    same(rows(run("classify", "--index", made, cwd=made / "wall")), below, 1)


def test_paths_and_folders_may_be_given(run: Run, made: Path, expected: dict[str, Any]) -> None:
    names = ["wall/2.png", *(f"azure/{n}.png" for n in range(4)), "red_block/0.png"]
    done = run("classify", "wall/2.png", "azure", "red_block/0.png", "wall/2.png", cwd=made)
    same(rows(done), {name: expected[name] for name in names}, 1)


def test_a_picture_that_is_not_indexed_is_embedded(
    run: Run, made: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copy(made / "wall/2.png", tmp_path / "copy.png")
    done = run("classify", tmp_path / "copy.png", "-k5", cwd=made)
    same(rows(done), {str(tmp_path / "copy.png"): expected["wall/2.png"]}, 5)
    Image.open(made / "wall/2.png").save(tmp_path / "same.bmp")  # the same pixels, another file
    done = run("classify", tmp_path / "same.bmp", "-k5", cwd=made)
    (name, probability) = expected["wall/2.png"][0]
    assert rows(done)[0][:2] == (str(tmp_path / "same.bmp"), name)
    assert rows(done)[0][2] == pytest.approx(probability, abs=0.02)


def test_json(run: Run, made: Path, expected: dict[str, Any], tiny_model: Path) -> None:
    done = run("classify", "--json", "-k2", cwd=made)
    assert (done.code, done.err) == (0, "")
    found = [json.loads(line) for line in done.lines]
    assert [record["path"] for record in found] == NAMES
    for record in found:
        assert (record["by"], record["model"]) == ("blocks", str(tiny_model))
        for got, (name, probability) in zip(
            record["classes"], expected[record["path"]][:2], strict=True
        ):
            assert got["class"] == name
            assert got["probability"] == pytest.approx(probability, abs=1e-4)
            assert -1 <= got["similarity"] <= 1


def test_csv(run: Run, collection: Path, expected: dict[str, Any]) -> None:
    (collection / "wall/0.png").rename(collection / 'wall/a "b",\nc.png')
    done = run("classify", "wall", "--csv", cwd=collection)
    assert (done.code, done.err) == (0, "")
    found = list(csv.DictReader(io.StringIO(done.out.decode(), newline="")))
    assert [row["path"] for row in found][-1] == 'wall/a "b",\nc.png'
    assert {row["rank"] for row in found} == {"1"}
    assert found[-1]["class"] == expected["wall/0.png"][0][0]
    assert float(found[-1]["probability"]) == pytest.approx(expected["wall/0.png"][0][1], abs=1e-4)


@pytest.mark.skipif(sys.platform != "linux", reason="names need not be UTF-8 on Linux alone")
def test_names_that_are_not_utf_8(run: Run, collection: Path) -> None:
    name = os.fsencode(collection / "wall") + b"/\xff.png"
    os.rename(collection / "wall/0.png", name)
    for options in ([], ["--csv"]):
        assert b"\nwall/\xff.png" in run("classify", "wall", *options, cwd=collection).out
    last = run("classify", "wall", "--json", cwd=collection).lines[-1]
    assert json.loads(last)["path"] == {"bytes": "d2FsbC//LnBuZw=="}


def test_another_domain(run: Run, made: Path, tmp_path: Path) -> None:
    text = DOMAIN.replace('"red block"', '"sunset"').replace('"blocks"', '"others"')
    (tmp_path / "others.toml").write_text(text)
    done = run("classify", "--domain", tmp_path / "others.toml", "--json", "-k5", cwd=made)
    assert done.code == 0
    record = json.loads(done.lines[0])
    assert record["by"] == "others"
    assert {one["class"] for one in record["classes"]} == {
        *("sunset", "blue block", "green block", "grey block", "wall")
    }


def test_confusion_with_the_folders(run: Run, collection: Path, expected: dict[str, Any]) -> None:
    (collection / "azure").rename(collection / "unknown")
    assert run_here("index", collection) == 0
    done = run("classify", "--confusion", "--json", cwd=collection)
    assert (done.code, done.err) == (0, "")
    found = {record["folder"]: record for record in map(json.loads, done.lines)}
    assert list(found) == ["red_block", "unknown", "wall"]
    assert (found["unknown"]["class"], found["unknown"]["right"]) == (None, 0)
    right = 0
    for folder, name in (("red_block", "red block"), ("wall", "wall")):
        firsts = [expected[path][0][0] for path in NAMES if path.startswith(folder)]
        assert found[folder]["class"] == name
        assert found[folder]["right"] == firsts.count(name)
        assert found[folder]["given"] == {first: firsts.count(first) for first in set(firsts)}
        right += firsts.count(name)
    table = run("classify", ".", "--confusion", cwd=collection).lines
    assert table[0].split() == ["folder", "images", "correct", "accuracy", "classified", "as"]
    assert "no such class" in table[2]
    assert table[-1].startswith(f"accuracy {100 * right / 8:.1f}% of 8 images in 2 folders")


@pytest.fixture
def chelsea(tmp_path: Path) -> Path:
    """A folder with an image of a cat, and no index."""
    picture = SAMPLES / "cat/chelsea.jpg"
    if not picture.is_file():
        pytest.skip("no sample_data here")
    (tmp_path / "cat").mkdir()
    return Path(shutil.copy(picture, tmp_path / "cat"))


@pytest.mark.process
def test_without_any_index_the_default_model_is_used(run: Run, chelsea: Path) -> None:
    text = DOMAIN.replace('"red block"', '"cat"').replace('"wall"', '"dog"')
    (chelsea.parent.parent / "pets.toml").write_text(text)
    done = run("classify", "cat", "--domain", "pets.toml", "--offline")
    assert done.code == 0
    ((path, name, _),) = [line.split("\t") for line in done.lines]
    assert (path, name) == ("cat/chelsea.jpg", "cat")
    assert "built-in model 'pocket'" in done.err
    done = run("classify")
    assert (done.code, done.out) == (2, b"")
    assert "no indexed folder" in done.err
    assert run("classify", "cat", "--probe", "x", "--offline").code == 2


@pytest.mark.slow
def test_without_any_index_the_default_domain_is_used(run: Run, chelsea: Path) -> None:
    record = json.loads(run("classify", chelsea, "--offline", "--json").out)
    assert (record["by"], record["classes"][0]["class"]) == ("everyday", "cat")


# -- any texts -----------------------------------------------------------------------------------


def test_texts_are_ranked_for_a_picture(run: Run, made: Path, tmp_path: Path) -> None:
    texts = ["a photo of a wall.", "a photo of a red block.", "something else"]
    (tmp_path / "texts.txt").write_text("\n\n".join([*texts, texts[0]]) + "\n")
    done = run("classify", "wall/0.png", "--texts", tmp_path / "texts.txt", cwd=made)
    found = rows(done)
    assert sorted(name for _, name, _ in found) == sorted(texts)
    shares = [probability for *_, probability in found]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    stdin = "\n".join(texts).encode()
    again = run("classify", "wall/0.png", "--texts", "-", cwd=made, stdin=stdin)
    assert again.out == done.out
    one = run("classify", "wall/0.png", "--texts", "-", "-k1", cwd=made, stdin=stdin)
    assert one.out.splitlines() == done.out.splitlines()[:1]


def test_texts_are_checked_before_anything_else(run: Run, made: Path) -> None:
    stdin = b"a wall\nwho is this woman\n"
    done = run("classify", "wall/0.png", "--texts", "-", cwd=made, stdin=stdin)
    assert (done.code, done.out) == (3, b"")
    assert done.err.startswith("clipsearch: refused: 'who is this woman'")
    done = run("classify", "wall", "--texts", "-", cwd=made, stdin="собака на снегу".encode())
    assert done.code == 0
    assert "English only" in done.err


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["wall", "--texts", "-"], b"\n \n", "- is empty"),
        (["wall", "--texts", "-"], b"\xff\n", "not UTF-8"),
        (["wall", "--texts", "absent"], b"", "cannot read absent"),
        (["wall", "--texts", "-", "--probe", "x"], b"a", "cannot be combined"),
        (["--confusion", "--csv"], b"", "--confusion cannot be combined"),
        (["absent.png"], b"", "cannot read absent.png"),
        (["--probe", "absent"], b"", "has no probe 'absent'"),
        (["--domain", "absent.toml"], b"", "there is no domain file absent.toml"),
    ],
)
def test_what_is_wrong_is_said(
    run: Run, made: Path, arguments: list[str], stdin: bytes, said: str
) -> None:
    done = run("classify", *arguments, cwd=made, stdin=stdin)
    assert (done.code, done.out) == (2, b"")
    assert done.err.startswith("clipsearch: error: ")
    assert said in done.err


def test_a_picture_that_cannot_be_decoded_is_named(run: Run, collection: Path) -> None:
    (collection / "wall/broken.png").write_bytes(b"no picture")
    done = run("classify", "wall", cwd=collection)
    assert done.code == 2
    assert len(done.lines) == 4
    assert "skipping" in done.err
    assert "broken.png: not an image" in done.err


def test_no_pictures(run: Run, collection: Path) -> None:
    (collection / "empty").mkdir()
    done = run("classify", "empty", cwd=collection)
    assert (done.code, done.out, done.err) == (1, b"", "clipsearch: no images found\n")


# -- probes --------------------------------------------------------------------------------------


def test_a_probe_is_trained_used_shown_and_removed(run: Run, collection: Path) -> None:
    done = run("probe", "train", ".", "--name", "dark", "--json", cwd=collection)
    assert (done.code, done.err) == (0, "")
    record = json.loads(done.out)
    assert record["name"] == "dark"
    assert record["classes"] == {"azure": 4, "red block": 4, "wall": 4}
    assert record["held_out"]["n"] == record["zero_shot"]["n"] == 12
    assert json.loads(run("probe", "show", "dark", "--json", cwd=collection).out) == record
    assert json.loads(run("probe", "list", "--json", cwd=collection).out) == record
    done = run("probe", "train", ".", "--name", "dark", "--curve", cwd=collection)
    assert any(line.startswith("Learning curve") for line in done.lines)
    assert "more labels" in done.lines[-1]
    lines = run("probe", "list", cwd=collection).lines
    assert lines[0] == "@dark"
    assert lines[1].split(maxsplit=1) == ["classes", "azure (4), red block (4), wall (4)"]

    found = rows(run("classify", "wall", "red_block", "--probe", "dark", "-k3", cwd=collection))
    assert len(found) == 24
    for n in range(8):
        shares = [probability for *_, probability in found[3 * n : 3 * n + 3]]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-3)
    (first, *_) = json.loads(
        run("classify", "wall/0.png", "--probe", "dark", "--json", cwd=collection).out
    )["classes"]
    assert first["class"] == "wall"
    confusion = run("classify", "--probe", "dark", "--confusion", cwd=collection).lines
    assert [line.split()[0] for line in confusion[1:4]] == FOLDERS

    done = run("search", "@dark/Red Block", "--json", "-k4", cwd=collection)
    hits = [json.loads(line) for line in done.lines]
    assert [hit["path"].split("/")[0] for hit in hits] == ["red_block"] * 4
    assert {(hit["false_alarm"], hit["precision"]) for hit in hits} == {(None, None)}
    done = run("search", "@dark", cwd=collection)
    assert (done.code, done.out) == (2, b"")
    assert "Choose one: @dark/azure, @dark/red block, @dark/wall" in done.err
    done = run("search", "@light", cwd=collection)
    assert (done.code, done.out) == (2, b"")
    assert "has no probe 'light'" in done.err

    assert run("probe", "export", "dark", "dark.safetensors", cwd=collection).code == 0
    done = run("probe", "remove", "dark", cwd=collection)
    assert (done.code, done.out) == (0, b"")
    imported = run("probe", "import", "dark.safetensors", "--json", cwd=collection)
    again = json.loads(imported.out)
    assert again | {"made_at": record["made_at"]} == record
    assert run("probe", "remove", "dark", cwd=collection).code == 0
    done = run("probe", "list", cwd=collection)
    assert (done.code, done.out) == (1, b"")
    assert run("probe", "show", "dark", cwd=collection).code == 2


@pytest.mark.parametrize(
    ("text", "name", "code", "said"),
    [
        ("", "x", 2, "contains no labeled images"),
        ("wall/0.png,a\nwall/1.png,a\n", "x", 2, "there are images of only one, a"),
        ("wall/0.png,a\n", "x", 2, "there are images of only one, a"),
        ("wall/0.png,a\nwall/9.png,b\n", "x", 2, "line 3: there is no file"),
        ("wall/0.png,a\n", "a/b", 2, "'a/b' is not a valid name for a probe"),
        ("wall/0.png,identify this man\n", "x", 3, "'identify this man' asks"),
        ("wall/0.png,a\n", "face-recognition", 3, "'face recognition' asks"),
    ],
)
def test_a_probe_that_cannot_be_trained(
    run: Run, collection: Path, text: str, name: str, code: int, said: str
) -> None:
    (collection / "set.csv").write_text("path,label\n" + text)
    done = run("probe", "train", "set.csv", "--name", name, cwd=collection)
    assert (done.code, done.out) == (code, b"")
    assert said in done.err
    assert run("probe", "list", cwd=collection).code == 1


@pytest.mark.process
def test_the_probe_beats_zero_shot_where_zero_shot_is_bad(run: Run, tmp_path: Path) -> None:
    """Images of anything, every other one of them pixelated: what they show is no help."""
    samples = SAMPLES
    if not samples.is_dir():
        pytest.skip("no sample_data here")
    paths = sorted(path for path in samples.rglob("*") if path.suffix in (".jpg", ".png"))
    for n, path in enumerate(paths[::2]):
        image = Image.open(path).convert("RGB")
        image.thumbnail((256, 256))
        if n % 2:
            small = image.resize((image.width // 10, image.height // 10), Image.Resampling.BOX)
            image = small.resize(image.size, Image.Resampling.NEAREST)
        folder = tmp_path / "set" / ("pixelated" if n % 2 else "clean")
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{n}.png")
    assert run("index", "set", "--model", "pocket").code == 0
    done = run("probe", "train", "set", "--name", "quality", "--json")
    assert done.code == 0
    record = json.loads(done.out)
    assert record["held_out"]["n"] == len(paths[::2]) > 40
    assert record["held_out"]["low"] > record["zero_shot"]["high"]
    assert record["held_out"]["value"] > 0.8
