"""``clipsearch embed``, and what every command makes of an index of archives."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from archives import interleaved, samples, write_tar
from conftest import ASK, Run, places_beside, run_here, wait_and_watch

from clipsearch.storage.catalog import FOLDER


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with ``tars``, indexed, their shards ``out``, and the same images in ``files``."""
    root = tmp_path_factory.mktemp("embedded") / "tars"
    root.mkdir()
    for shard in range(2):
        members = samples(root, range(10 * shard, 10 * shard + 3))
        write_tar(root / f"{shard:05d}.tar", interleaved(members) if shard else members)
        (root.parent / "files" / f"{shard:05d}.tar").mkdir(parents=True)
        for name, data in members[::3]:
            (root.parent / "files" / f"{shard:05d}.tar" / str(name)).write_bytes(data)
    out = root.parent / "out"
    with places_beside(root):
        assert run_here("embed", root, out, "--model", tiny_model) == 0
        assert run_here("import", out, "--root", root) == 0
        assert run_here("index", root.parent / "files", "--model", tiny_model) == 0
    return root.parent


def hits(run: Run, root: Path) -> list[dict[str, object]]:
    done = run(*ASK, "snow", "--json", "--relative", cwd=root)
    assert done.code == 0
    return [json.loads(line) for line in done.lines]


def test_hits_are_those_of_the_same_pictures_in_files(run: Run, made: Path) -> None:
    found, alone = hits(run, made / "tars"), hits(run, made / "files")
    assert len(found) == 6
    for hit, file in zip(found, alone, strict=True):
        for key in hit.keys() - {"id", "root", "caption", "url"}:
            assert hit[key] == file[key], key
        number = int(Path(str(hit["path"])).stem)
        assert hit["caption"] == f"number {number}"
        assert hit["url"] == f"https://example.com/{number}"
        assert (file["caption"], file["url"]) == (None, None)
    done = run(*ASK, "snow", "-k", "1", "--format", "{caption}|{url}", cwd=made / "tars")
    assert done.lines == [f"{found[0]['caption']}|{found[0]['url']}"]


@pytest.mark.process
def test_pages_show_pictures_out_of_archives(run: Run, made: Path, tmp_path: Path) -> None:
    page, sheet = tmp_path / "page.html", tmp_path / "sheet.png"
    asked = (*ASK, "snow", "--html", page, "--montage", sheet)
    assert run(*asked, cwd=made / "tars").code == 0
    text = page.read_text()
    assert text.count("data:image/jpeg;base64") == 6
    assert text.count('href="https://example.com/') == 6
    assert ">cannot be shown<" not in text
    assert sheet.stat().st_size > 0


@pytest.mark.process
def test_without_files_there_is_a_placeholder(
    run: Run, made: Path, tmp_path: Path, tiny_model: Path
) -> None:
    out = Path(shutil.copytree(made / "out", tmp_path / "out"))
    done = run("import", out)
    assert done.code == 0
    assert done.err == (
        "clipsearch: there are no images here to compare the embeddings with; they are assumed "
        f"to be from {tiny_model}\n"
        f"clipsearch: {out}: 6 imported, 0 already indexed, 0 missing, 0 duplicates, "
        "0 left to index, 0 failed; 0 embedded again and compared\n"
    )
    for hit, other in zip(hits(run, out), hits(run, made / "tars"), strict=True):
        assert [hit[key] for key in ("path", "score", "caption", "url")] == [
            other[key] for key in ("path", "score", "caption", "url")
        ]
    page, sheet = tmp_path / "page.html", tmp_path / "sheet.png"
    done = run(*ASK, "snow", "--html", page, "--montage", sheet, cwd=out)
    assert done.code == 0
    assert page.read_text().count(">cannot be shown<") == 6
    done = run("duplicates", cwd=out)
    assert done.code == 2
    assert "imported without files" in done.err
    assert run("verify", cwd=out).code == 0
    assert len(run("classify", cwd=out).lines) == 6


def test_index_and_verify_leave_pictures_of_archives_alone(
    run: Run, made: Path, tmp_path: Path, tiny_model: Path
) -> None:
    tars = Path(shutil.copytree(made / "tars", tmp_path / "tars"))
    done = run("index", tars)
    assert (done.code, "removed" in done.err) == (0, False)
    assert len(hits(run, tars)) == 6
    done = run("verify", "--sample", "0", cwd=tars)
    assert (done.code, done.out) == (0, b"")
    done = run("index", tars, "--rebuild")
    assert done.code == 2
    assert "images from archives, which only import adds" in done.err
    done = run("import", made / "out", "--root", tars)
    assert (done.code, "0 imported, 6 already indexed" in done.err) == (0, True)
    done = run("classify", cwd=tars)
    assert sorted(line.split("\t")[0] for line in done.lines)[0] == "00000.tar/000000000.jpg"


@pytest.mark.process
def test_verify_and_duplicates_look_into_archives(run: Run, made: Path, tmp_path: Path) -> None:
    tars = Path(shutil.copytree(made / "tars", tmp_path / "tars"))
    assert run("verify", cwd=tars).code == 0
    assert run("duplicates", cwd=tars).code == 1
    # Another archive under the name: its images are not those that were embedded.
    shutil.copy(tars / "00000.tar", tars / "00001.tar")
    done = run("verify", cwd=tars)
    assert (done.code, done.out) == (0, b"")


@pytest.mark.process
def test_what_is_damaged_is_named_and_ends_with_2(
    run: Run, made: Path, tmp_path: Path, tiny_model: Path
) -> None:
    tars = tmp_path / "tars"
    tars.mkdir()
    shutil.copy(made / "tars/00000.tar", tars)
    os.truncate(tars / "00000.tar", 2100)
    for finished in ("0 shards finished", "0 shards finished, 0 finished before; 0 images"):
        done = run("embed", tars, tmp_path / "out", "--model", tiny_model, "--npy")
        assert (done.code, done.out) == (2, b"")
        assert "damaged, embedded only in part: 00000.tar: it is damaged" in done.err
        assert finished in done.err
    done = run("import", tmp_path / "out")
    assert done.code == 0
    assert "embedded from a damaged archive: 00000.tar: it is damaged" in done.err


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3", ""])
def test_a_part_is_one_of_so_many(run: Run, made: Path, part: str) -> None:
    done = run("embed", made / "tars", "elsewhere", f"--part={part}")
    assert done.code == 2
    assert "--part takes I/N" in done.err


@pytest.mark.process
def test_files_are_done_without_only_where_that_is_asked_for(
    run: Run, made: Path, tmp_path: Path, tiny_model: Path
) -> None:
    out = tmp_path / "out"
    files = made / "files" / "00000.tar"
    assert run("embed", files, out, "--model", tiny_model, "--npy").code == 0
    done = run("import", out)
    assert done.code == 2
    assert "3 of the 3 rows" in done.err
    assert "--no-files" in done.err
    assert not (out / FOLDER).exists()
    done = run("import", out, "--no-files", "--root", files)
    assert (done.code, "Choose one of them" in done.err) == (2, True)
    assert run("import", out, "--no-files").code == 0
    assert len(hits(run, out)) == 3


def start(source: Path, out: Path, model: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "clipsearch", "embed", source, out, "--model", model, "--npy"]
    return subprocess.Popen([*map(os.fspath, command)], stderr=subprocess.PIPE)


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_every_picture_once(
    tmp_path: Path, tiny_model: Path, shared_cache: None
) -> None:
    tars = tmp_path / "tars"
    tars.mkdir()
    for shard in range(12):
        members = samples(tars, range(100 * shard, 100 * shard + 40))
        write_tar(tars / f"{shard:05d}.tar", members)
    whole, out = tmp_path / "whole", tmp_path / "out"
    with start(tars, whole, tiny_model) as process:
        assert process.wait() == 0
    kills = 0
    for seconds in (0.02, 0.1, 0.3, 0.5, 0.0):
        with start(tars, out, tiny_model) as process:
            before = len(list(out.glob("shards/shard_*")))
            while process.poll() is None and len(list(out.glob("shards/shard_*"))) <= before:
                time.sleep(0.01)
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
    assert kills
    with start(tars, out, tiny_model) as process:
        assert process.wait() == 0
    assert not list(out.rglob(".partial*"))
    names = sorted(path.relative_to(whole) for path in whole.rglob("*.*"))
    assert sorted(path.relative_to(out) for path in out.rglob("*.*")) == names
    for name in names:
        if name.suffix == ".jsonl":
            assert (out / name).read_bytes() == (whole / name).read_bytes()
        elif name.suffix == ".npy":  # in other batches, so up to rounding
            ours, theirs = np.load(out / name), np.load(whole / name)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-3)


@pytest.mark.slow
def test_an_import_of_any_size_takes_the_memory_of_a_batch(
    tmp_path: Path, tiny_model: Path, shared_cache: None
) -> None:
    peaks = []
    for rows in (10_000, 200_000):
        out = tmp_path / str(rows)
        (out / "img_emb").mkdir(parents=True)
        (out / "metadata").mkdir()
        random = np.random.default_rng(0)
        for shard in range(rows // 10_000):
            vectors = random.standard_normal((10_000, 32)).astype(np.float16)
            np.save(out / f"img_emb/img_emb_{shard}.npy", vectors)
            with (out / f"metadata/metadata_{shard}.jsonl").open("w") as file:
                for n in range(10_000):
                    key = f"{shard:05d}{n:04d}"
                    row = {"image_path": key, "caption": "a caption " * 60, "url": key}
                    file.write(json.dumps(row) + "\n")
        command = [sys.executable, "-m", "clipsearch", "import", out, "--model", tiny_model]
        with subprocess.Popen([*map(os.fspath, command)]) as process:
            peaks.append(wait_and_watch(process))
            assert process.returncode == 0
    assert peaks[0] > 0
    # 190,000 rows more are 135 MB of metadata and 12 MB of embeddings, which the measurement of
    # what scores mean reads.
    assert peaks[1] - peaks[0] < 60_000_000
