"""The Python API: its documented examples, what it promises of shapes, and what it refuses."""

import doctest
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import SAMPLES, make_picture, places_beside
from fakes import FakeEncoder, OtherEncoder, fake_spec, picture, rebuild

import clipsearch
from clipsearch import api
from clipsearch.cli.help import pages
from clipsearch.errors import IndexNotFound, NotTested, OutOfDomain, RefusedByPolicy, UsageError
from clipsearch.models.load import Encoders
from clipsearch.records import Scope
from clipsearch.storage import collection as storage
from clipsearch.storage.catalog import FOLDER, Store

pytestmark = pytest.mark.process

NAMES = ["a.png", "b.png", "c & <b>d.png", "e.jpg", "sub/f.png", "sub/g.png"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images, indexed with pocket. Not to be changed."""
    root = tmp_path_factory.mktemp("made") / "photos"
    (root / "sub").mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        make_picture(root / name, seed)
    with places_beside(root):
        summary = clipsearch.index(root, model="pocket")
    assert (summary.added, summary.failed, summary.unchanged) == (6, [], 0)
    return root


@pytest.fixture
def collection(photos: Path) -> Iterator[clipsearch.Collection]:
    with clipsearch.open(photos) as opened:
        yield opened


def test_the_documented_examples_do_what_they_show(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The texts of the domain are embedded once.
    monkeypatch.setenv("CLIPSEARCH_CACHE_DIR", str(photos.parent / "cache"))
    (tmp_path / "photos").mkdir()
    for n, name in enumerate(["a.png", "b.png", "c.png", "d.jpg", "e.png", "f.png"]):
        make_picture(tmp_path / "photos" / name, n)
    monkeypatch.chdir(tmp_path)
    (documented,) = [
        test for test in doctest.DocTestFinder(recurse=False).find(api, globs={}) if test.examples
    ]
    assert len(documented.examples) >= 10
    failed, tried = doctest.DocTestRunner().run(documented)
    assert (failed, tried) == (0, len(documented.examples))


def test_the_program_of_the_help_page_runs(photos: Path, tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```$", pages()["python"], re.DOTALL | re.MULTILINE)
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "photos").mkdir()
    for sample, name in [
        ("bicycle/red_bicycle.png", "red_bicycle.png"),
        ("cat/chelsea.jpg", "new.jpg"),
        ("hammer/hammer.jpg", "hammer.jpg"),
        ("windmill/aalbeke_windmill.jpg", "windmill.jpg"),
    ]:
        shutil.copy(SAMPLES / sample, tmp_path / "photos" / name)
    # The texts of the domain are embedded once.
    environment = {**os.environ, "CLIPSEARCH_CACHE_DIR": str(photos.parent / "cache")}
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    counts, verdict, first, *_ = done.stdout.splitlines()
    assert counts == "4 []"
    assert verdict in ("strong", "weak")
    assert first.endswith(f" {tmp_path / 'photos' / 'red_bicycle.png'}")


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = (
        "import sys, clipsearch\n"
        "assert clipsearch.__all__ == ['Collection', 'Hits', 'index', 'open']\n"
        "heavy = {'numpy', 'torch', 'open_clip', 'faiss', 'PIL', 'sqlite3', 'rich', 'typer'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert callable(clipsearch.open)\n"
        "assert 'torch' not in sys.modules and 'typer' not in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_what_there_is_not_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'find'"):
        clipsearch.find  # noqa: B018


def test_nothing_new_is_nothing_to_do(photos: Path) -> None:
    summary = clipsearch.index(photos)
    assert (summary.added, summary.unchanged, summary.embedded) == (0, 6, 0)


def test_what_is_excluded_stays_excluded(photos: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(photos, tmp_path / "photos")
    with Store.open_for_writing(copy / FOLDER) as store, store.batch():
        store.set_scope(Scope(("sub/",)))
    assert clipsearch.index(copy).removed == 2
    summary = clipsearch.index(copy)
    assert (summary.added, summary.unchanged) == (0, 4)


def test_before_the_first_calibration_that_is_noted(photos: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(photos, tmp_path / "photos")
    with Store.open_for_writing(copy / FOLDER) as store, store.batch():
        store.detach("calibration")
    with clipsearch.open(copy) as opened:
        hits = opened.search("a dog", allow_out_of_domain=True)
        assert (len(hits), hits.verdict) == (6, None)
        assert hits.notes[1].startswith("not calibrated yet: there is no verdict")
        for refusing in ({"strict": True}, {"require_tested": True}):
            with pytest.raises(NotTested):
                opened.search("a dog", **refusing)


def test_an_open_collection_follows_a_rebuild_with_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    with Store.create(root / FOLDER, root, fake_spec()) as store:
        with store.batch():
            store.add(picture(b"%d.png" % seed, seed) for seed in range(5))
        storage.calibrate(store, FakeEncoder)
    towers = {"fake": Encoders(FakeEncoder, FakeEncoder)}
    towers["other"] = Encoders(OtherEncoder, OtherEncoder)
    monkeypatch.setattr(Encoders, "of", lambda spec, *_: towers[spec.name])
    with clipsearch.open(root) as opened:
        before = opened.search("a cat", all=True, allow_out_of_domain=True)
        rebuild(root / FOLDER, fake_spec(fingerprint="e" * 64, name="other"), OtherEncoder())
        after = opened.search("a cat", all=True, allow_out_of_domain=True)
        assert opened.model == "other"
        assert after.paths == before.paths
        assert [h.score for h in after] == pytest.approx([h.score for h in before], abs=1e-5)
        assert len(opened.embeddings()[0]) == len(opened) == 5


def test_hits_are_a_sequence_best_first(collection: clipsearch.Collection) -> None:
    hits = collection.search("a dog", k=4, all=True)
    assert len(hits) == len(list(hits)) == len(hits.paths) == 4
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert isinstance(hits[:2], clipsearch.Hits)
    assert list(hits[:2]) == [hits[0], hits[1]]
    assert all(path.is_absolute() and path.is_file() for path in hits.paths)
    assert "untested on the domain everyday" in hits.notes[0]
    assert repr(hits).splitlines()[0] == "<4 hits for 'a dog'>"
    assert hits.verdict in ("strong", "weak", "none")
    # None of six random images is a dog.
    strict = collection.search("a dog", strict=True)
    assert (len(strict), strict.verdict) == (0, hits.verdict)


def test_a_folder_of_a_collection_is_searched_alone(photos: Path) -> None:
    with clipsearch.open(photos / "sub") as below:
        assert len(below) == 2
        assert below.root == photos
        found = below.search("a dog", all=True)
        assert {path.parent for path in found.paths} == {photos / "sub"}
        assert len(below.classify()) == len(below.embeddings()[0]) == 2


def test_hits_show_their_thumbnails_escaped(collection: clipsearch.Collection) -> None:
    hits = collection.search("a dog", all=True)
    hits = clipsearch.Hits("<script>alert(1)</script>", list(hits), ["<i>note</i>"])
    shown = hits._repr_html_()
    assert shown.count('src="data:image/jpeg;base64,') == 6
    assert "c &amp; &lt;b&gt;d.png" in shown
    assert not any(tag in shown for tag in ("<script>", "<b>", "<i>"))


def test_embeddings_are_the_catalogs(collection: clipsearch.Collection, photos: Path) -> None:
    paths, vectors = collection.embeddings()
    assert sorted(paths) == sorted(photos / name for name in NAMES)
    assert (vectors.dtype, vectors.shape) == (np.float16, (6, collection.dim))
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1, atol=2e-3)
    best = collection.search("a dog", k=1, all=True)
    row = paths.index(best.paths[0])
    text = collection._encoders.text.encode_texts(["a dog"])[0]
    assert float(vectors[row].astype(np.float32) @ text) == pytest.approx(best[0].score, abs=1e-3)


def test_pictures_are_classified_by_domain_and_by_texts(
    collection: clipsearch.Collection, photos: Path
) -> None:
    labels = collection.classify(k=2)
    assert [len(one.ranking) for one in labels] == [2] * 6
    assert sorted(os.fsdecode(one.picture.path) for one in labels) == sorted(
        os.fspath(photos / name) for name in NAMES
    )
    [label] = collection.classify([photos / "a.png"], texts=["a dog", "a cat"], k=2)
    assert {ranked.name for ranked in label.ranking} == {"a dog", "a cat"}
    assert sum(ranked.probability for ranked in label.ranking) == pytest.approx(1)


def test_policy_and_domain_hold_here_too(collection: clipsearch.Collection) -> None:
    with pytest.raises(RefusedByPolicy):
        collection.search("who is this person")
    with pytest.raises(RefusedByPolicy):
        collection.classify(texts=["who is this person"])
    with pytest.raises(OutOfDomain):
        collection.search("quarterly revenue statement")
    assert len(collection.search("quarterly revenue statement", allow_out_of_domain=True)) <= 10
    with pytest.raises(NotTested):
        collection.search("a dog", require_tested=True)


def test_what_cannot_be_asked_is_an_error(
    collection: clipsearch.Collection, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="the query is empty"):
        collection.search(" ")
    with pytest.raises(UsageError, match="k is 0"):
        collection.search("a dog", k=0)
    with pytest.raises(UsageError, match="each name the classes"):
        collection.classify(texts=["a"], probe="b")
    with pytest.raises(UsageError, match="does not exist"):
        clipsearch.index(tmp_path / "missing")
    with pytest.raises(UsageError, match="is not a folder"):
        clipsearch.open(tmp_path / "missing")
    with pytest.raises(IndexNotFound, match="is not indexed"):
        clipsearch.open(tmp_path)
