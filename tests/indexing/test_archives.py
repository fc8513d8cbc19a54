"""Archives become shards, whatever is in them and whoever is killed; and shards an index."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from archives import interleaved, picture_bytes, samples, write_tar
from conftest import make_picture
from fakes import DecodeHere, FakeEncoder, fake_spec, unit, unsynchronised

from clipsearch.errors import ExchangeError, UsageError
from clipsearch.images import scan
from clipsearch.indexing import embed as embedding
from clipsearch.indexing import verify
from clipsearch.indexing.reconcile import reconcile
from clipsearch.indexing.transfer import check, finished, layout, sources
from clipsearch.indexing.transfer import embed as embedding_shards
from clipsearch.indexing.transfer.embed import EmbedOptions, EmbedSummary, embed
from clipsearch.indexing.transfer.export import export
from clipsearch.indexing.transfer.layout import Kind, read
from clipsearch.indexing.transfer.members import Members
from clipsearch.indexing.transfer.sources import plan
from clipsearch.models.choice import ModelChoice
from clipsearch.models.load import Encoders
from clipsearch.records import EVERYTHING, ModelFiles, ModelSpec
from clipsearch.storage.catalog import CATALOG, FOLDER, Store


@pytest.fixture(autouse=True)
def decode_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (embedding, check):
        monkeypatch.setattr(room, "DecodePool", DecodeHere)
    monkeypatch.setattr(os, "fsync", lambda _: None)


_SPEC = fake_spec()


@dataclass(frozen=True)
class Chosen(ModelChoice):
    """The fake model, for whoever asks for any."""

    encoder: Any = None
    spec: ModelSpec = _SPEC

    def files(self, notify: Callable[[str], None]) -> ModelFiles:
        return ModelFiles(self.spec, Path())

    def encoders(self, files: ModelFiles) -> Encoders:
        return Encoders(lambda: self.encoder, lambda: self.encoder)


def made(
    source: Path | list[str], out: Path, encoder: FakeEncoder | None = None, **options: Any
) -> EmbedSummary:
    model = Chosen(encoder=encoder or FakeEncoder(), spec=options.pop("spec", fake_spec()))
    named = source if isinstance(source, list) else [str(source)]
    return embed(named, out, EmbedOptions(model, **options))


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three archives of four samples each; the members of the second are interleaved."""
    folder = tmp_path_factory.mktemp("archives") / "tars"
    folder.mkdir()
    for shard in range(3):
        members = samples(folder, range(10 * shard, 10 * shard + 4))
        write_tar(folder / f"{shard:05d}.tar", interleaved(members) if shard == 1 else members)
    return folder


def rows_of(out: Path, number: int) -> list[dict[str, Any]]:
    return list(pq.read_table(out / f"metadata/metadata_{number:05d}.parquet").to_pylist())


def contents(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()
    }


# -- which shards there are ----------------------------------------------------------------------


def test_archives_are_named_in_every_usual_way(tars: Path) -> None:
    names = [f"{n:05d}.tar" for n in range(3)]
    for named in (
        [f"{tars}"],
        [f"{tars}/*.tar"],
        [f"{tars}/{{00000..00002}}.tar"],
        [f"{tars}/0000{{0,1,2}}.tar"],
        [f"{tars}/{name}" for name in reversed(names)],
        [f"{tars}", f"{tars}/00001.tar"],
    ):
        planned = plan(named)
        assert [work.name for work in planned.works] == names
        assert [work.number for work in planned.works] == ["00000", "00001", "00002"]
        assert planned.root == tars
    assert [work.number for work in plan([f"{tars}/00002.tar"]).works] == ["00002"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("{00000..00003}.tar", "there is no archive .*00003.tar"),
        ("{5..1}.tar", "names no archives"),
        ("*.zip", "there is no archive"),
        ("empty", "no images and no archives"),
    ],
)
def test_what_names_nothing_is_an_error(tars: Path, tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    place = tmp_path if name == "empty" else tars
    with pytest.raises(UsageError, match=said):
        plan([f"{place}/{name}"])


def test_archives_without_numbers_have_their_places(tmp_path: Path) -> None:
    for name in ("b/x.tar", "a/x.tar", "a/00007.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_tar(tmp_path / name, [])
    planned = plan([f"{tmp_path}/a", f"{tmp_path}/b"])
    found = [(work.number, work.name) for work in planned.works]
    assert found == [("00000", "a/00007.tar"), ("00001", "a/x.tar"), ("00002", "b/x.tar")]
    assert planned.root == tmp_path


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 8])
def test_each_shard_is_in_exactly_one_part(tars: Path, parts: int) -> None:
    planned = plan([str(tars)])
    taken = [work for part in range(1, parts + 1) for work in planned.part(part, parts)]
    assert sorted(taken, key=lambda work: work.number) == list(planned.works)


def test_the_pictures_of_a_folder_are_cut_into_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PICTURES_PER_SHARD", 3)
    photos = tmp_path / "photos"
    photos.mkdir()
    for n in range(7):
        make_picture(photos / f"{n}.png", n)
    (photos / "bad.png").write_bytes(b"no picture")
    done = made(photos, tmp_path / "out")
    assert (done.shards, done.embedded, done.is_whole) == (3, 7, True)
    assert [path for path, _ in done.failed] == [b"bad.png"]
    found = read(tmp_path / "out")
    assert [shard.rows for shard in found.shards] == [3, 3, 1]
    rows = [row for n in range(3) for row in rows_of(tmp_path / "out", n)]
    assert [row["image_path"] for row in rows] == [str(photos / f"{n}.png") for n in range(7)]
    assert {row["archive"] for row in rows} == {None}
    (photos / "6.png").unlink()
    (photos / "bad.png").unlink()
    with pytest.raises(ExchangeError, match=r"shard 00002 .* is no longer in the source"):
        made(photos, tmp_path / "out")


# -- what is in them -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_each_row_has_its_picture_caption_and_url(tars: Path, tmp_path: Path, kind: Kind) -> None:
    done = made(tars, tmp_path / "out", kind=kind)
    assert (done.shards, done.embedded, done.left_out, done.is_whole) == (3, 12, [], True)
    exported = read(tmp_path / "out")
    for number, shard in enumerate(exported.shards):
        vectors = np.load(shard.embeddings)
        assert vectors.dtype == np.float16
        for n, (told, vector) in enumerate(
            zip(layout.rows_of(shard.metadata), vectors, strict=True)
        ):
            seed = 10 * number + n
            assert told.path == b"%05d.tar/%09d.jpg" % (number, seed)
            archive, offset, caption, url = told.archived
            assert archive == b"%05d.tar" % number
            assert (caption, url) == (f"number {seed}", f"https://example.com/{seed}")
            data = (tars / os.fsdecode(archive)).read_bytes()[offset : offset + told.size]
            (tmp_path / "one.jpg").write_bytes(data)
            (alone,) = embedding.embed_files(
                os.fsencode(tmp_path),
                [sources.ImageFile(b"one.jpg", 0, 0)],
                fake_spec().preprocessing,
                FakeEncoder,
            )
            np.testing.assert_array_equal(vector, alone[0][1].vector.astype(np.float16))
            assert told.content_hash == alone[0][1].content_hash


def test_a_sample_that_is_not_whole_is_right_or_named(tmp_path: Path) -> None:
    picture = picture_bytes(tmp_path, 1)
    write_tar(
        tmp_path / "00000.tar",
        [
            ("without-text.jpg", picture),
            ("from-json.jpg", picture),
            ("from-json.json", b'{"caption": "told \\ud800", "url": 3}'),
            ("bad-json.jpg", picture),
            ("bad-json.json", b"{" * 100_000),
            ("bad-text.jpg", picture),
            ("bad-text.txt", b"caf\xe9"),
            ("long-text.jpg", picture),
            ("long-text.txt", b"x" * (1 << 20) + b"x"),
            ("without-picture.txt", b"nothing to see"),
            ("twice.jpg", picture),
            ("twice.png", picture_bytes(tmp_path, 2, ".png")),
            ("again.jpg", picture),
            ("again.jpg", picture_bytes(tmp_path, 3)),
            ("broken.jpg", picture[:90]),
            ("sub/folder/one.jpg", picture),
            (b"caf\xe9.jpg", picture),
            ("../up.jpg", picture),
            ("link.jpg", None),
        ],
    )
    done = made(tmp_path / "00000.tar", tmp_path / "out")
    assert {path.removeprefix(b"00000.tar/"): why for path, why in done.left_out} == {
        b"without-picture": "there is no image with that key",
        b"twice.png": "a second image with the same key",
        b"again.jpg": "a second member of that name",
        b"../up.jpg": "its path leads outside the archive",
        b"link.jpg": "a link",
    }
    assert [path for path, _ in done.failed] == [b"00000.tar/broken.jpg"]
    rows = layout.rows_of(tmp_path / "out/metadata/metadata_00000.parquet")
    told = {row.path.removeprefix(b"00000.tar/"): row.archived[2:] for row in rows}
    assert told == {
        b"without-text.jpg": (None, None),
        b"from-json.jpg": ("told ?", None),
        b"bad-json.jpg": (None, None),
        b"bad-text.jpg": ("caf\N{REPLACEMENT CHARACTER}", None),
        b"long-text.jpg": (None, None),
        b"twice.jpg": (None, None),
        b"again.jpg": (None, None),
        b"sub/folder/one.jpg": (None, None),
        b"caf\xe9.jpg": (None, None),
    }


def test_of_a_truncated_archive_what_is_whole_is_embedded(tars: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tars, tmp_path / "tars"))
    whole = (copy / "00001.tar").read_bytes()
    (copy / "00001.tar").write_bytes(whole[:2100])  # in the second image
    out = tmp_path / "out"
    done = made(copy, out)
    ((name, why),) = done.damaged
    assert name == b"00001.tar"
    assert why == "it is cut short within 000000011.jpg"
    assert (done.shards, done.is_whole) == (2, False)
    assert read(out).damaged == (f"00001.tar: {why}",)
    known = len(rows_of(out, 1))
    assert known == 1
    encoder = FakeEncoder()
    again = made(copy, out, encoder)
    assert (again.shards, again.before, again.damaged) == (0, 2, done.damaged)
    assert encoder.pictures == 0
    (copy / "00001.tar").write_bytes(whole)
    done = made(copy, out, encoder)
    assert (done.shards, done.before, encoder.pictures, done.is_whole) == (1, 2, 4, True)
    assert len(rows_of(out, 1)) == 4
    assert read(out).damaged == ()


def test_what_is_no_archive_is_named_and_makes_no_shard(tars: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tars, tmp_path / "tars"))
    (copy / "00001.tar").write_text("<html>gone</html>")
    done = made(copy, tmp_path / "out")
    assert [name for name, _ in done.damaged] == [b"00001.tar"]
    assert [shard.rows for shard in read(tmp_path / "out").shards] == [4, 4]


def test_a_picture_that_cannot_be_read_leaves_its_shard_unfinished(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    make_picture(tmp_path / "photos/a.png", 1)
    make_picture(tmp_path / "photos/b.png", 2)
    planned = plan([str(tmp_path / "photos")])
    assert len(planned.works[0].files) == 2

    def vanish(*arguments: Any, **named: Any) -> Iterator[Any]:
        (tmp_path / "photos/b.png").unlink(missing_ok=True)
        yield from embedding.embed_files(*arguments, **named)

    done = embed(
        [str(tmp_path / "photos")],
        tmp_path / "out",
        EmbedOptions(Chosen(encoder=FakeEncoder())),
        embed_with=lambda files: vanish,
    )
    assert [path for path, _ in done.unreadable] == [b"b.png"]
    assert (done.shards, done.is_whole) == (0, False)
    assert not list((tmp_path / "out/shards").iterdir())


# -- killed at any moment ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tars: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that nobody killed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "DecodePool", DecodeHere)
        made(tars, out)
    return contents(out)


class Killed(BaseException):
    """What no handler of errors sees."""


@pytest.mark.parametrize("batches", range(3))
def test_killed_inside_a_shard_the_next_run_ends_the_same(
    tars: Path, tmp_path: Path, whole: dict[str, bytes], batches: int
) -> None:
    encoder, out = FakeEncoder(batch_size=4), tmp_path / "out"

    def kill() -> None:
        if len(encoder.batches) == batches:
            raise Killed

    encoder.before_batch = kill
    with pytest.raises(Killed):
        made(tars, out, encoder)
    assert len(list((out / "shards").iterdir())) == batches
    done = made(tars, out)
    assert (done.before, done.shards) == (batches, 3 - batches)
    assert contents(out) == whole


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("renames", range(10))
def test_killed_at_any_rename_the_next_run_ends_the_same(
    tars: Path,
    tmp_path: Path,
    whole: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    renames: int,
    moment: str,
) -> None:
    out, real, count = tmp_path / "out", os.replace, iter(range(100))

    def replace_or_die(source: Path, target: Path) -> None:
        dying = next(count) == renames
        if not dying or moment == "after":
            real(source, target)
        if dying:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_or_die)
        with pytest.raises(Killed):
            made(tars, out)
    for number, _ in finished.markers(out):
        assert finished.marker_of(out, number) is not None
    made(tars, out)
    assert contents(out) == whole


@pytest.mark.parametrize("name", ["img_emb/img_emb_00001.npy", "metadata/metadata_00001.parquet"])
def test_a_half_written_shard_is_not_taken_for_whole(
    tars: Path, tmp_path: Path, whole: dict[str, bytes], name: str
) -> None:
    out = tmp_path / "out"
    made(tars, out)
    os.truncate(out / name, len(whole[name]) - 8)
    assert finished.marker_of(out, "00001") is None
    done = made(tars, out)
    assert (done.shards, done.before) == (1, 2)
    assert contents(out) == whole
    changed = bytearray(whole[name])
    changed[-20] ^= 1
    (out / name).write_bytes(changed)
    with pytest.raises(
        ExchangeError, match=r"shard 00001 .* is not finished, or was changed|cannot read"
    ):
        read(out)
    (out / name).write_bytes(whole[name])
    (out / "shards/shard_00001.json").unlink()
    with pytest.raises(ExchangeError, match=r"img_emb_00001.npy .* is not finished"):
        read(out)


def test_parts_together_make_what_one_process_makes(
    tars: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    for part in (2, 1, 3, 4):
        done = made(tars, out, part=(part, 4))
        assert done.shards == (part <= 3)
    assert contents(out) == whole


@pytest.mark.parametrize(("at_once", "batches"), [(1, [4, 4, 4]), (5, [4, 4, 4]), (9, [4, 8])])
def test_batches_run_on_from_shard_to_shard(
    tars: Path,
    tmp_path: Path,
    whole: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
    batches: list[int],
) -> None:
    monkeypatch.setattr(embedding_shards, "_PICTURES_AT_ONCE", at_once)
    encoder, out = FakeEncoder(), tmp_path / "out"
    done = made(tars, out, encoder)
    assert (done.shards, encoder.batches) == (3, batches)
    assert contents(out) == whole


def test_a_shard_is_written_as_soon_as_its_pictures_are_known(
    tars: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"

    def backwards(root: bytes, files: Any, *arguments: Any, **named: Any) -> Iterator[Any]:
        """As a cluster may: images come in another order, and a batch is of several shards."""
        for n, batch in enumerate(embedding.embed_files(root, files[::-1], *arguments, **named)):
            yield batch
            assert len(list((out / "shards").glob("shard_*"))) == (1, 3)[n]

    model = Chosen(encoder=FakeEncoder())
    done = embed([str(tars)], out, EmbedOptions(model), embed_with=lambda files: backwards)
    assert (done.shards, done.embedded) == (3, 12)
    assert contents(out) == whole


def test_metadata_of_another_kind_takes_the_place_of_the_first(tars: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made(tars, out)
    for marker in (out / "shards").iterdir():
        marker.unlink()
    made(tars, out, kind="jsonl")
    assert {path.suffix for path in (out / "metadata").iterdir()} == {".jsonl"}
    assert read(out).rows == 12


def test_an_output_is_of_one_source_and_one_model(tars: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made([f"{tars}/00000.tar"], out)
    assert made([f"{tars}/00001.tar"], out).shards == 1  # archives may come bit by bit
    other = tmp_path / "other"
    other.mkdir()
    write_tar(other / "00000.tar", [])
    with pytest.raises(ExchangeError, match="is for the images in"):
        made(other, out)
    with pytest.raises(ExchangeError, match="was started with fake"):
        made(tars, out, spec=fake_spec(fingerprint="e" * 64))
    (other / "mine").write_text("x")
    with pytest.raises(ExchangeError, match="is not empty"):
        made(tars, other)
    with pytest.raises(ExchangeError, match="does not exist"):
        made(tars, tmp_path / "no" / "out")


# -- into an index -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(tars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives' shards."""
    out = tmp_path_factory.mktemp("shards") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "DecodePool", DecodeHere)
        made(tars, out)
    return out


@pytest.fixture
def store(tars: Path, tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / FOLDER, tars, fake_spec()) as opened:
        yield unsynchronised(opened)


def quiet(doing: str, done: int, total: int) -> None: ...


def imported(store: Store, shards: Path, *, alone: bool = False) -> Members:
    members = Members(read(shards), os.fsencode(store.root), b"", alone=alone)
    assert members.add(store, quiet).added == 12
    return members


def test_hits_are_those_of_the_same_pictures_in_files(
    store: Store, shards: Path, tars: Path, tmp_path: Path
) -> None:
    imported(store, shards)
    files = tmp_path / "files"
    for archive in sorted(tars.iterdir()):
        (files / archive.name).mkdir(parents=True)
        shutil.unpack_archive(archive, files / archive.name, filter="data")
    with Store.create(files / FOLDER, files, fake_spec()) as other:
        reconcile(unsynchronised(other), scan.find(os.fsencode(files)), FakeEncoder)
        for seed in range(5):
            inside, alone = store.search(unit(seed), 12), other.search(unit(seed), 12)
            assert [(hit.path, hit.score) for hit in inside] == [
                (hit.path, hit.score) for hit in alone
            ]
            for hit, file in zip(inside, alone, strict=True):
                assert (hit.width, hit.height) == (file.width, file.height)
                assert hit.span is not None
                assert hit.caption == f"number {int(Path(os.fsdecode(hit.path)).stem)}"
                assert (file.span, file.caption, file.url) == (None, None, None)


def test_what_is_known_or_twice_is_not_added_again(store: Store, shards: Path) -> None:
    members = imported(store, shards)
    again = members.add(store, quiet)
    assert (again.added, again.duplicates) == (0, [])
    assert members.survey(store, 5).known == 12
    double = Path(shutil.copytree(shards, shards.parent / "double", dirs_exist_ok=True))
    for part, name, end in (("img_emb", "img_emb", "npy"), ("metadata", "metadata", "parquet")):
        shutil.copy(double / f"{part}/{name}_00001.{end}", double / f"{part}/{name}_00009.{end}")
    shutil.rmtree(double / "shards")
    (double / "clipsearch.json").unlink()
    with store.batch():
        store.remove(list(store.ids_of([b"00001.tar/%09d.jpg" % n for n in range(10, 14)])))
    added = Members(read(double), os.fsencode(store.root), b"", alone=False).add(store, quiet)
    assert (added.added, len(added.duplicates)) == (4, 4)


def test_a_survey_names_archives_that_are_not_there(
    store: Store, shards: Path, tars: Path, tmp_path: Path
) -> None:
    found = Members(read(shards), os.fsencode(tars), b"", alone=False).survey(None, 5)
    assert (found.wanted, len(found.sample), dict(found.archives)) == (12, 5, {})
    assert len({row.file.path for row in found.sample}) == 5
    some = tmp_path / "some"
    some.mkdir()
    shutil.copy(tars / "00000.tar", some)
    shutil.copy(tars / "00001.tar", some)
    os.truncate(some / "00001.tar", 1000)
    (some / "00002.tar").symlink_to(tars / "00002.tar")
    found = Members(read(shards), os.fsencode(some), b"", alone=False).survey(None, 50)
    assert (found.wanted, len(found.sample)) == (4, 4)
    assert dict(found.archives) == {b"00001.tar": 4, b"00002.tar": 4}


def test_a_sample_of_members_is_compared_with_their_archives(
    shards: Path, tars: Path, tmp_path: Path
) -> None:
    def compared(exported: Path) -> int:
        found = read(exported)
        rows = Members(found, os.fsencode(tars), b"", alone=False).survey(None, 12).sample
        root = os.fsencode(tars)
        return check.check(found, root, rows, fake_spec(), FakeEncoder, 12, quiet)

    assert compared(shards) == 12
    wrong = Path(shutil.copytree(shards, tmp_path / "wrong"))
    path = wrong / "img_emb/img_emb_00001.npy"
    np.save(path, np.load(path)[::-1])
    (wrong / "clipsearch.json").unlink()
    with pytest.raises(ExchangeError, match=r"are not from .* or belong to other images"):
        compared(wrong)


def test_rows_lead_nowhere_else(store: Store, tmp_path: Path) -> None:
    (tmp_path / "theirs/img_emb").mkdir(parents=True)
    (tmp_path / "theirs/metadata").mkdir()
    odd = ["../../etc/passwd.jpg", "a//b.jpg", "nul\0.jpg", ""]
    rows: list[dict[str, Any]] = [{"image_path": path} for path in odd]
    rows += [
        {"image_path": "/home/me/x.jpg", "caption": "a file of someone's"},
        {"image_path": "x.tar/y.jpg", "archive": "../x.tar", "byte_offset": 0},
        {"image_path": "z.jpg", "archive": "x.tar", "byte_offset": 7},
        {"image_path": "k", "caption": 3, "url": "https://example.com/k", "width": 2.0},
    ]
    np.save(tmp_path / "theirs/img_emb/img_emb_0.npy", np.stack([unit(n) for n in range(8)]))
    (tmp_path / "theirs/metadata/metadata_0.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    members = Members(read(tmp_path / "theirs"), os.fsencode(store.root), b"", alone=True)
    found = members.survey(store, 3)
    assert ([path for path, _ in found.odd], found.wanted, found.files) == (
        list(map(os.fsencode, odd)),
        4,
        3,
    )
    assert members.add(store, quiet).added == 4
    hits = {hit.path: hit for hit in store.search(unit(1), 9)}
    assert hits.keys() == {b"home/me/x.jpg", b"x.tar/y.jpg", b"z.jpg", b"k"}
    assert {hit.span.path for hit in hits.values() if hit.span} == {b""}
    assert all(hit.span for hit in hits.values())
    assert (hits[b"k"].caption, hits[b"k"].url, hits[b"k"].width) == (
        None,
        "https://example.com/k",
        2,
    )


def test_index_leaves_pictures_of_archives_alone(store: Store, shards: Path, tars: Path) -> None:
    imported(store, shards)
    done = reconcile(store, scan.find(os.fsencode(tars)), FakeEncoder)
    assert (done.removed, done.added, done.unchanged) == (0, 0, 0)
    assert store.count() == 12
    assert store.known() == {}
    assert store.status().archived == 12


def test_repair_says_how_pictures_of_archives_come_back(store: Store, shards: Path) -> None:
    imported(store, shards)
    (id,) = store.ids()[:1].tolist()
    done = verify.repair(store, [verify.Problem("embedding", "it is damaged", b"", id)])
    assert done[0] == "removed 1 image with a wrong embedding from the index"
    assert "for those in archives, clipsearch embed, then clipsearch import" in done[-1]
    assert store.status().archived == 11


def facts(store: Store) -> list[tuple[object, ...]]:
    return [
        (image.file, image.archived, image.content_hash, image.width, image.vector.tolist())
        for image in store.whole(store.ids())
    ]


def test_what_is_stored_of_them_is_exported_and_saved(
    store: Store, shards: Path, tmp_path: Path
) -> None:
    imported(store, shards)
    stored = facts(store)
    assert export(store, tmp_path / "exported", "parquet", EVERYTHING, quiet) == 12
    with Store.create(tmp_path / "second", store.root, fake_spec()) as second:
        members = Members(read(tmp_path / "exported"), os.fsencode(store.root), b"", alone=False)
        assert members.add(unsynchronised(second), quiet).added == 12
        assert facts(second) == stored
    with Store.create(tmp_path / "third", store.root, fake_spec()) as third:
        catalog = store.directory / CATALOG
        assert unsynchronised(third).salvage(catalog, pictures=True) == 12
        assert facts(third) == stored
