"""``clipsearch export`` and ``import``: out of one index, into another, and only what is right."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ASK, Run, make_picture, places_beside, run_here

from clipsearch.storage.catalog import FOLDER
from clipsearch.storage.known import remember

NAMES = ["a.png", "b.jpg", "c.png", "d.webp", "sub/e.png", "sub/f.jpg"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with ``photos``, indexed, and its exports ``parquet`` and ``npy``."""
    root = tmp_path_factory.mktemp("made") / "photos"
    (root / "sub").mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        make_picture(root / name, seed)
    make_picture(os.fsencode(root) + b"/caf\xe9.png", 9)
    with places_beside(root):
        assert run_here("index", root, "--model", tiny_model) == 0
        for kind in ("parquet", "npy"):
            out = root.parent / kind
            assert run_here("export", out, f"--{kind}", "--under", root) == 0
    return root.parent


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """The images elsewhere, without an index."""
    leave_out = shutil.ignore_patterns(FOLDER)
    return Path(shutil.copytree(made / "photos", tmp_path / "copy", ignore=leave_out))


def hits(run: Run, root: Path) -> list[tuple[object, ...]]:
    done = run(*ASK, "snow", "-k", "50", "--json", "--relative", cwd=root)
    assert done.code == 0
    found = map(json.loads, done.out.splitlines())
    return [(hit["path"], hit["score"], hit["false_alarm"]) for hit in found]


@pytest.mark.parametrize("kind", ["parquet", "npy"])
@pytest.mark.process
def test_there_and_back_the_hits_are_the_same(
    run: Run, made: Path, copy: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here("import", made / kind, "--root", copy) == 0
    assert capsys.readouterr() == (
        "",
        f"clipsearch: {copy}: 7 imported, 0 already indexed, 0 missing, 0 duplicates, "
        "0 left to index, 0 failed; 7 embedded again and compared\n",
    )
    found = hits(run, copy)
    assert len(found) == 7
    assert found == hits(run, made / "photos")
    assert run_here("index", copy) == 0
    assert "7 unchanged\n" in capsys.readouterr().err
    assert run_here("import", made / kind, "--root", copy) == 0
    assert "0 imported, 7 already indexed" in capsys.readouterr().err


def test_an_export_says_what_it_wrote_and_overwrites_nothing(run: Run, made: Path) -> None:
    photos = made / "photos"
    done = run("export", "../some", "--npy", "--name", "*.jpg", cwd=photos)
    assert (done.code, done.out) == (0, b"")
    assert done.err == "clipsearch: wrote 2 embeddings to ../some\n"
    assert np.load(made / "some" / "img_emb" / "img_emb_0.npy").shape[0] == 2
    done = run("export", "../some", "--npy", cwd=photos)
    assert (done.code, done.out) == (2, b"")
    assert done.err.startswith("clipsearch: error: ../some is not empty\n")
    done = run("export", "../none", "--name", "nothing", cwd=photos)
    assert (done.code, done.out) == (1, b"")
    assert "passes the filters; nothing was written" in done.err
    assert not (made / "none").exists()


def test_an_export_into_an_index_is_refused(run: Run, made: Path) -> None:
    done = run("export", ".clipsearch/embeddings", "--npy", cwd=made / "photos")
    assert (done.code, done.out) == (2, b"")
    assert "is in an index folder" in done.err
    assert not (made / "photos" / FOLDER / "embeddings").exists()


def test_an_export_is_of_one_collection(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        shutil.copytree(made / "photos", tmp_path / "all" / name)
        remember(tmp_path / "all" / name / FOLDER, tmp_path / "all" / name)
    assert run_here("export", tmp_path / "out", "--under", tmp_path / "all") == 2
    assert "there are 2 indexed folders here" in capsys.readouterr().err
    assert run_here("export", tmp_path / "out", "--npy", "--under", tmp_path / "all" / "two") == 0
    assert "wrote 7 embeddings" in capsys.readouterr().err


def test_a_model_that_only_the_export_names_is_not_fetched(
    made: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(shutil.copytree(made / "npy", tmp_path / "from elsewhere"))
    told = json.loads((source / "clipsearch.json").read_text())
    (source / "clipsearch.json").write_text(json.dumps({**told, "name": "hf-hub:some/model"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_HUB_OFFLINE")
        assert run_here("import", source, "--root", copy) == 2
    assert "some/model is not in the hub's cache" in capsys.readouterr().err
    assert not (copy / FOLDER).exists()


def test_without_pyarrow_parquet_is_an_error_that_names_the_extra(
    run: Run, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    done = run("export", tmp_path / "out", "--parquet", cwd=made / "photos")
    assert (done.code, done.out) == (2, b"")
    assert "parquet files need pyarrow, which is not installed" in done.err
    assert "pip install 'clipsearch[parquet]'" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.process
def test_without_pyarrow_an_export_is_in_json_lines_and_can_be_imported(
    run: Run, made: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    done = run("export", "../json lines", cwd=made / "photos")
    assert (done.code, done.out) == (0, b"")
    assert "pyarrow is not installed, so the metadata is in JSON lines" in done.err
    assert [path.name for path in (made / "json lines" / "metadata").iterdir()] == [
        "metadata_0.jsonl"
    ]
    done = run("import", made / "json lines", "--root", copy)
    assert done.code == 0
    assert "7 imported" in done.err


def foreign(made: Path, folder: Path, paths: list[str]) -> Path:
    """What was exported, as clip-retrieval would have written it, with these paths."""
    shutil.copytree(made / "npy" / "img_emb", folder / "img_emb")
    (folder / "metadata").mkdir()
    table = pa.table({"image_path": paths})
    pq.write_table(table, folder / "metadata" / "metadata_0.parquet")
    return folder


def own_paths(made: Path) -> list[str]:
    """The paths of the rows of an export."""
    rows = (made / "npy" / "metadata" / "metadata_0.jsonl").read_text().splitlines()
    return [os.path.relpath(json.loads(row)["image_path"], made / "photos") for row in rows]


@pytest.mark.process
def test_what_clip_retrieval_wrote_is_imported(
    run: Run,
    made: Path,
    copy: Path,
    tmp_path: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = foreign(made, tmp_path / "laion", own_paths(made))
    assert run_here("import", source, "--root", copy) == 2
    assert "does not say which model made it" in capsys.readouterr().err
    assert run_here("import", source, "--root", copy, "--model", tiny_model) == 0
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("clipsearch: no image found for ")  # its name is not text
    assert "6 imported, 0 already indexed, 1 missing" in last
    expected = [hit[:2] for hit in hits(run, made / "photos") if isinstance(hit[0], str)]
    assert [hit[:2] for hit in hits(run, copy)] == expected


@pytest.mark.process
def test_embeddings_of_other_pictures_are_not_imported(
    made: Path,
    copy: Path,
    tmp_path: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = own_paths(made)
    source = foreign(made, tmp_path / "laion", [*paths[1:], paths[0]])
    assert run_here("import", source, "--root", copy, "--model", tiny_model) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "or belong to other images" in printed.err
    assert "Nothing was imported" in printed.err
    assert not (copy / FOLDER).exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "--root", "."], "nowhere is not a folder"),
        (["{made}/npy", "--root", "nowhere"], "nowhere is not a folder"),
        (["{made}/npy", "--root", "."], "none of the 7 rows of"),
        (["{made}/npy", "--root", ".", "--model", "pocket"], "are from {model}, not from pocket"),
        (["{made}/npy", "--root", ".", "--sample", "0"], "--sample"),
        (["{made}/npy"], "--root"),
    ],
)
def test_what_cannot_be_imported_is_an_error(
    run: Run, made: Path, tiny_model: Path, arguments: list[str], said: str
) -> None:
    done = run("import", *(argument.format(made=made) for argument in arguments))
    assert (done.code, done.out) == (2, b"")
    assert said.format(model=tiny_model) in done.err
