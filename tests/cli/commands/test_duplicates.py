"""``clipsearch duplicates``, and ``search --diverse``, as a person or a script runs them.

The tiny model takes all images for much the same, so that it is the look at them that decides.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ASK, Ran, Run, places_beside, run_here
from PIL import Image

from clipsearch.cli.render import duplicates as reports
from clipsearch.paths import is_marked
from clipsearch.storage.catalog import Store

GROUPS = [
    ("near-duplicates", ["a.png", "sub/a small.jpg"]),
    ("copies", ["b.png", "sub/b <copy>.png"]),
]


def save(path: Path, seed: int, size: tuple[int, int] = (200, 160)) -> None:
    cells = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An indexed folder, in which the likeness is measured. Not to be changed."""
    root = tmp_path_factory.mktemp("made") / "photos"
    (root / "sub").mkdir(parents=True)
    for seed, name in enumerate(["a.png", "b.png", "c.png", "d.png", "sub/e.png"]):
        save(root / name, seed)
    save(root / "sub/a small.jpg", 0, (150, 120))
    shutil.copy2(root / "b.png", root / "sub/b <copy>.png")
    with places_beside(root):
        assert run_here("index", root, "--model", tiny_model) == 0
        assert run_here("duplicates", root, "-q") == 0
    return root


@pytest.fixture
def photos(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "photos"))


def lines(groups: list[tuple[str, list[str]]]) -> bytes:
    return "\n".join("".join(f"{path}\n" for path in paths) for _, paths in groups).encode()


def test_groups_are_paths_with_an_empty_line_between(run: Run, made: Path) -> None:
    done = run("duplicates", cwd=made)
    assert (done.code, done.out) == (0, lines(GROUPS))
    (summary,) = done.err.splitlines()  # what was measured is for --html alone
    assert summary.startswith("clipsearch: 2 groups among 7 images; 2 images besides the best of ")


@pytest.mark.process
def test_what_is_measured_is_kept(photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def measures() -> bool:
        capfd.readouterr()
        assert run_here("duplicates", photos) == 0
        return "measuring how similar" in capfd.readouterr().err

    assert not measures()
    assert run_here("index", photos, "--rebuild") == 0
    assert not measures()  # it is of this model
    for seed in range(20, 30):
        save(photos / f"{seed}.png", seed)
    assert run_here("index", photos) == 0
    assert measures()
    assert not measures()


def test_what_cannot_be_kept_is_used_all_the_same(
    photos: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    with Store.open_for_writing(photos / ".clipsearch") as writer:
        with writer.batch():
            writer.detach("likeness")
        assert run_here("duplicates") == 0
    out, err = capfd.readouterr()
    assert out.encode() == lines(GROUPS)
    assert "it will be repeated next time" in err
    assert "another clipsearch is writing" in err


def test_json_says_which_to_keep(run: Run, made: Path) -> None:
    done = run("duplicates", "--json", "--absolute", cwd=made)
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [
        (record["kind"], [member["path"] for member in record["members"]]) for record in records
    ] == [(kind, [os.fspath(made / path) for path in paths]) for kind, paths in GROUPS]
    for record in records:
        best, other = record["members"]
        assert (best["keep"], other["keep"], best["similarity"]) == (True, False, 1)
        assert record["similarity"] == other["similarity"] > 0.9
        assert record["spare_bytes"] == other["size"] == (Path(other["path"])).stat().st_size
    assert records[0]["members"][1].keys() == {
        *("path", "root", "id", "width", "height", "size", "taken_at", "similarity", "keep"),
    }
    assert records[0]["members"][1]["width"] == 150


@pytest.mark.process
def test_all_but_best_is_for_xargs(
    run: Run, made: Path, photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spare = [paths[1] for _, paths in GROUPS]
    done = run("duplicates", "--all-but-best", cwd=made)
    assert done.out == "".join(f"{path}\n" for path in spare).encode()
    done = run("duplicates", "--all-but-best", "-0", cwd=made)
    assert done.out == "".join(f"{path}\0" for path in spare).encode()
    subprocess.run(["xargs", "-0", "rm", "--"], input=done.out, cwd=photos, check=True)
    assert run_here("index", photos) == 0
    assert run_here("duplicates", photos) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "no duplicates among 5 images" in err


def test_null_ends_paths_and_an_empty_one_divides_groups(run: Run, made: Path) -> None:
    done = run("duplicates", "-0", cwd=made)
    assert done.out == lines(GROUPS).replace(b"\n", b"\0")


def test_copies_alone(run: Run, made: Path) -> None:
    done = run("duplicates", "--copies", "--relative", made, cwd=made / "sub")
    assert done.out == b"../b.png\nb <copy>.png\n"
    assert done.err.count("\n") == 1


def test_a_folder_and_filters(run: Run, made: Path) -> None:
    assert run("duplicates", "sub", cwd=made).code == 1
    assert run("duplicates", "--type", "jpg", cwd=made).code == 1
    done = run("duplicates", "--min-width", "160", cwd=made)
    assert done.out == lines(GROUPS[1:])
    done = run("duplicates", "--from0", "-", cwd=made, stdin=b"a.png\0nowhere.png\0")
    assert (done.code, done.out) == (1, b"")
    assert "not in the index: 1 of 2 listed files" in done.err


def test_bursts_takes_the_models_word_for_it(run: Run, made: Path) -> None:
    done = run("duplicates", "--bursts", "--threshold", "0.5", "--json", cwd=made)
    (record,) = [json.loads(line) for line in done.out.splitlines()]
    assert record["kind"] == "alike"
    assert len(record["members"]) == 7
    assert "changed copies" not in done.err
    assert run("duplicates", "--threshold", "0.5", cwd=made).out == lines(GROUPS)


def test_what_changed_is_left_out_and_named(run: Run, photos: Path) -> None:
    save(photos / "b.png", 77)
    (photos / "sub/a small.jpg").unlink()
    done = run("duplicates", cwd=photos)
    assert (done.code, done.out) == (1, b"")
    for path in ("b.png", "sub/a small.jpg"):
        assert f"clipsearch: left out, deleted or changed since indexing: {path}\n" in done.err


def test_a_page(run: Run, made: Path, tmp_path: Path) -> None:
    done = run("duplicates", "--html", tmp_path / "groups.html", "-q", cwd=made)
    assert (done.code, done.out, done.err) == (
        0,
        b"",
        f"clipsearch: wrote {tmp_path}/groups.html\n",
    )
    page = (tmp_path / "groups.html").read_text()
    assert page.count("<figure") == page.count("data:image/jpeg") == 4
    assert page.count("<strong>Best</strong>") == 2
    assert 'title="sub/b &lt;copy&gt;.png"' in page
    assert "<copy>" not in page
    assert "Content-Security-Policy" in page
    assert "<script" not in page


def test_a_page_is_written_first_and_over_no_picture(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "link.html").symlink_to("c.png")
    (photos / "notes.html").write_text("mine")
    for name in ("link.html", "notes.html", ".clipsearch/catalog.sqlite3"):
        before = (photos / name).read_bytes()
        done = run("duplicates", "--html", name, cwd=photos)
        assert (done.code, done.out) == (2, b"")
        assert (photos / name).read_bytes() == before
    copies = ["duplicates", "--copies", "--html"]
    assert run(*copies, "notes.html", "--force", cwd=photos).code == 0

    def gone(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(reports, "write_paths", gone)
    assert run(*copies, "groups.html", cwd=photos).code == 0
    assert is_marked(photos / "groups.html")


@pytest.mark.process
def test_a_folder_that_is_mounted_twice_has_no_copies(
    run: Run, photos: Path, tmp_path: Path, tiny_model: Path
) -> None:
    """``--all-but-best -0 | xargs -0 rm`` would delete the only one there is."""
    twice = tmp_path / "all"
    for name in ("one", "two"):
        (twice / name).mkdir(parents=True)
        mount = ["mount", "--bind", os.fspath(photos), os.fspath(twice / name)]
        if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
            pytest.skip("nothing can be mounted here")
    try:
        assert run("index", twice, "--model", tiny_model).code == 0
        for copies in ([], ["--copies"]):
            done = run("duplicates", twice, *copies, "--all-but-best", "-0", "--relative")
            spare = done.out.split(b"\0")[:-1]
            assert len(spare) == 1 + (not copies)
        subprocess.run(["xargs", "-0", "rm", "--"], input=done.out, cwd=tmp_path, check=True)
        assert len([path for path in photos.rglob("b*.png") if path.is_file()]) == 1
        assert run("duplicates", twice, "--copies").code == 1
    finally:
        for name in ("one", "two"):
            subprocess.run(["umount", os.fspath(twice / name)], check=False)


def test_nothing_is_indexed(run: Run, tmp_path: Path) -> None:
    done = run("duplicates", cwd=tmp_path)
    assert (done.code, done.out) == (2, b"")
    assert "clipsearch index FOLDER" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold", "0"], "is not a valid similarity"),
        (["--threshold", "1.5"], "is not a valid similarity"),
        (["--threshold", "nan"], "is not a valid similarity"),
        (["--copies", "--bursts"], "--copies cannot be combined"),
        (["--copies", "--threshold", "0.9"], "--copies cannot be combined"),
        (["--json", "-0"], "--json cannot be combined"),
        (["--json", "--all-but-best"], "--json cannot be combined"),
        (["--bursts", "--all-but-best"], "different images"),
        (["--html", "no/such/folder.html"], "cannot write"),
        ([".", "--under", "."], "PATH and --under cannot be combined"),
        (["no-such-folder"], "does not exist"),
    ],
)
def test_what_cannot_be_asked(
    made: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(made)
    assert run_here("duplicates", *arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 2  # what is wrong, and the next step


# -- search --diverse --------------------------------------------------------------------------


def hits(done: Ran) -> list[dict[str, Any]]:
    assert done.code == 0
    return [json.loads(line) for line in done.out.splitlines()]


def test_diverse_hits(run: Run, made: Path) -> None:
    plain = hits(run(*ASK, "a cat", "--json", "-k", "20", cwd=made))
    assert {hit["collapsed"] for hit in plain} == {0}
    diverse = hits(run(*ASK, "a cat", "--json", "-k", "20", "--diverse", cwd=made))
    assert sum(hit["collapsed"] + 1 for hit in diverse) == len(plain) == 7
    assert len(diverse) < 7
    assert diverse[0]["path"] == plain[0]["path"]
    order = [hit["path"] for hit in plain]
    assert [hit["path"] for hit in diverse] == sorted(
        (hit["path"] for hit in diverse), key=order.index
    )
    done = run(*ASK, "a cat", "--diverse", "-k", "1", "--format", "{path} +{collapsed}", cwd=made)
    assert done.out.decode() == f"{order[0]} +{diverse[0]['collapsed']}\n"
