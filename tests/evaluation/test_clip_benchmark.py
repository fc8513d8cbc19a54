"""CLIP_benchmark's folders: what is read, and what is wrong with one."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archives import picture_bytes, write_benchmark, write_tar

from clipsearch.errors import BadLabels, TooFewExamples
from clipsearch.evaluation.clip_benchmark import (
    TEMPLATES,
    Benchmark,
    is_benchmark,
    read,
    read_split,
)
from clipsearch.evaluation.labelled import CaptionedImages, LabelledImages, MultiLabelImages
from clipsearch.images import shards

NAMES = "very near\n\nsunglasses\nsunglasses\nКошка\n"
PROMPTS = "a photo of a {c}.\n{c}, or {c} {}\n"


def npy(*values: float, kind: type = np.uint8) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(values, kind))
    return file.getvalue()


def classified(folder: Path, labels: str = "04123") -> Path:
    said = [("cls", label.encode()) for label in labels]
    return write_benchmark(
        folder, said, classnames=NAMES, zeroshot_classification_templates=PROMPTS
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of five images, one of each class. Not to be changed."""
    return classified(tmp_path_factory.mktemp("made") / "wds")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "wds"))


def test_classes_and_templates_are_taken_as_they_are(made: Path) -> None:
    found = read(made)
    assert is_benchmark(made)
    assert found.kind == "classification"
    assert found.classes == ("very near", "", "sunglasses", "sunglasses", "Кошка")
    assert found.prompts(2) == ("a photo of a sunglasses.", "sunglasses, or sunglasses {}")
    assert found.prompts(1) == ("a photo of a .", ", or  {}")


def test_each_picture_lies_where_its_label_says(made: Path, tmp_path: Path) -> None:
    split = read_split(read(made), "test")
    assert isinstance(split.labelled, LabelledImages)
    assert split.labelled.classes == (0, 4, 1, 2, 3)
    names = [b"test/0.tar/s0000000.webp", b"test/0.tar/s0000001.webp", b"test/0.tar/s0000002.webp"]
    names += [b"test/1.tar/s0000003.webp", b"test/1.tar/s0000004.webp"]
    assert split.labelled.paths == tuple(file.path for file in split.files) == tuple(names)
    for seed, file in enumerate(split.files):
        assert file.span is not None
        assert os.path.isabs(file.span.path)
        with shards.opened(file.span) as member:
            assert member.read() == picture_bytes(tmp_path, seed, ".webp")


def test_as_many_archives_are_read_as_are_counted(folder: Path) -> None:
    (folder / "test/nshards.txt").write_text("1\n")
    assert len(read_split(read(folder), "test").files) == 3
    (folder / "test/nshards.txt").unlink()
    assert len(read_split(read(folder), "test").files) == 5


def test_archives_that_are_not_counted_go_by_their_numbers(tmp_path: Path) -> None:
    said = [("cls", b"%d" % n) for n in range(11)]
    write_benchmark(
        tmp_path / "wds",
        said,
        archives=11,
        classnames="\n".join("abcdefghijk"),
        zeroshot_classification_templates="{c}",
    )
    (tmp_path / "wds/test/nshards.txt").unlink()
    split = read_split(read(tmp_path / "wds"), "test")
    assert isinstance(split.labelled, LabelledImages)
    assert split.labelled.classes == tuple(range(11))


def test_several_labels(tmp_path: Path) -> None:
    said = [("npy", npy(1, 0, 1)), ("npy", npy(0, 0, 0)), ("npy", npy(0, 1, 0, kind=float))]
    texts = {"classnames": "a\nb\nc\n", "zeroshot_classification_templates": "{c}\n"}
    folder = write_benchmark(tmp_path / "wds", said, dataset_type="multilabel\n", **texts)
    found = read(folder)
    split = read_split(found, "test")
    assert found.kind == "multilabel"
    assert isinstance(split.labelled, MultiLabelImages)
    assert split.labelled.labels == ((0, 2), (), (1,))


def test_captions(tmp_path: Path) -> None:
    said = [("txt", b"a dog\n two dogs "), ("txt", "ein Café\n".encode())]
    folder = write_benchmark(tmp_path / "wds", said, dataset_type="retrieval")
    found = read(folder)
    split = read_split(found, "test")
    assert (found.kind, found.classes) == ("retrieval", ())
    assert isinstance(split.labelled, CaptionedImages)
    assert split.labelled.captions == ("a dog", " two dogs ", "ein Café")
    assert split.labelled.images == (0, 0, 1)


@pytest.mark.parametrize(
    ("extension", "content", "names", "kind"),
    [
        ("cls", b"0", True, "classification"),
        ("txt", b"1", True, "classification"),
        ("txt", b"a dog", False, "retrieval"),
        ("npy", npy(1, 0), True, "multilabel"),
    ],
)
def test_the_kind_is_told_by_the_first_sample(
    tmp_path: Path, extension: str, content: bytes, names: bool, kind: str
) -> None:
    texts = {"classnames": "a\nb\n", "zeroshot_classification_templates": "{c}"} if names else {}
    folder = write_benchmark(tmp_path / "wds", [(extension, content)] * 2, **texts)
    assert read(folder).kind == kind
    assert len(read_split(read(folder), "test").files) == 2


def test_other_folders_are_none(tmp_path: Path) -> None:
    for name in ("test", "train", "cat"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(b"x")
    (tmp_path / "classnames.txt").write_text("mine")
    assert not is_benchmark(tmp_path)
    assert not is_benchmark(tmp_path / "classnames.txt")
    (tmp_path / "train/0.tar").write_bytes(b"x")
    assert is_benchmark(tmp_path)


# -- what is wrong -------------------------------------------------------------------------------


def refused(folder: Path) -> str:
    with pytest.raises(BadLabels) as caught:
        read_split(read(folder), "test")
    return str(caught.value).replace(f"{folder}{os.sep}", "")


def test_a_truncated_archive(folder: Path) -> None:
    archive = folder / "test/1.tar"
    data = archive.read_bytes()
    archive.write_bytes(data[:700])
    assert refused(folder) == "test/1.tar: it is cut short within s0000003.webp"
    archive.write_bytes(data[: data.rindex(b"3") + 1])  # after the last label
    assert refused(folder) == "test/1.tar: it is damaged (unexpected end of data)"
    archive.write_bytes(b"")
    assert refused(folder).startswith("test/1.tar: it is not a tar archive")


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def say(name: str, text: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("classnames.txt"), "cannot read classnames.txt: No such file or directory"),
        (remove(TEMPLATES), f"cannot read {TEMPLATES}: No such file or directory"),
        (remove("test/1.tar"), "test/1.tar is missing, but test/nshards.txt counts 2"),
        (say("classnames.txt", b""), "classnames.txt is empty"),
        (say("classnames.txt", b"caf\xe9"), "classnames.txt is not UTF-8 text"),
        (say("test/nshards.txt", b"two"), "test/nshards.txt: 'two' is not a number of archives"),
        (say("test/nshards.txt", b"0"), "test/nshards.txt: '0' is not a number of archives"),
        (
            say("dataset_type.txt", b"video\n"),
            "dataset_type.txt: 'video' is not a kind of test set",
        ),
        (
            say(TEMPLATES, b"{c}\n a {}.\n"),
            f"{TEMPLATES}, line 2: the template 'a {{}}.' has no {{c}}",
        ),
        (
            say("classnames.txt", b"a\nb\nc\nd"),
            "test/0.tar/s0000001.webp: its label 4 is not one of the 4 classes",
        ),
        (
            say("dataset_type.txt", b"multilabel"),
            "test/0.tar: s0000000 has no label: there is no .npy next to the image",
        ),
        (
            say("dataset_type.txt", b"retrieval"),
            "test/0.tar: s0000000 has no label: there is no .txt next to the image",
        ),
    ],
)
def test_what_is_wrong_with_the_folder_is_named(
    folder: Path, change: Callable[[Path], object], message: str
) -> None:
    change(folder)
    assert refused(folder) == message


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.webp", b"x")], "test/0.tar: a has no label: there is no .cls next to the image"),
        ([("a.cls", b"1")], "test/0.tar: a has no image"),
        ([("a.jpg", b"x"), ("a.cls", b"one")], "test/0.tar/a.jpg: its label 'one' is not a number"),
        ([("a.jpg", b"x"), ("a.cls", b"")], "test/0.tar/a.jpg: its label '' is not a number"),
        (
            [("a.jpg", b"x"), ("a.cls", b"-1")],
            "test/0.tar/a.jpg: its label -1 is not one of the 5 classes",
        ),
        ([("a.jpg", b"x"), ("a.jpg", b"y")], "test/0.tar: a.jpg: a second member of that name"),
        ([("a.jpg", b"x"), ("a.cls", None)], "test/0.tar: a.cls: a link"),
        (
            [("a.jpg", b"x"), ("a.cls", b"1" * (1 << 20) + b"1")],
            "test/0.tar: a.cls: too long for a label or captions",
        ),
    ],
)
def test_what_is_wrong_with_a_sample_is_named(
    folder: Path, members: list[tuple[str | bytes, bytes | None]], message: str
) -> None:
    write_tar(folder / "test/0.tar", members)
    assert refused(folder) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1, 0, 1]", "its .npy is not a vector of numbers (the magic string is not correct"),
        (npy(1, 0), "its labels have the shape (2,), but there are 3 classes"),
        (npy(1, 0, 1)[:-1], "its labels have the shape (3,), but there are 3 classes"),
        (npy(1, 0, 2), "its labels are not all 0 or 1"),
        (npy(1, 0, float("nan"), kind=float), "its labels are not all 0 or 1"),
        (
            npy(1, 0, 1, kind=object),
            "its .npy is not a vector of numbers (its values are not numbers)",
        ),
    ],
)
def test_what_is_wrong_with_several_labels_is_named(
    tmp_path: Path, content: bytes, message: str
) -> None:
    texts = {"classnames": "a\nb\nc\n", "zeroshot_classification_templates": "{c}\n"}
    folder = write_benchmark(tmp_path / "wds", [("npy", content)], archives=1, **texts)
    assert refused(folder).startswith(f"test/0.tar/s0000000.webp: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "it has no caption"), (b"\xff", "its captions are not UTF-8 text")],
)
def test_what_is_wrong_with_captions_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    folder = write_benchmark(tmp_path / "wds", [("txt", content)], archives=1)
    assert refused(folder) == f"test/0.tar/s0000000.webp: {message}"


def test_a_split_that_is_not_there(folder: Path) -> None:
    found = read(folder)
    with pytest.raises(BadLabels, match=r"there are no archives in .*train"):
        read_split(found, "train")
    for archive in (folder / "test").glob("*.tar"):
        write_tar(archive, [])
    with pytest.raises(TooFewExamples, match="contain no images"):
        read_split(Benchmark(folder, "classification", ("a",), ("{c}",)), "test")
