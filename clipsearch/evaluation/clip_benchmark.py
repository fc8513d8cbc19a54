"""Read test sets as LAION's CLIP_benchmark publishes them: folders of webdataset archives.

classnames.txt                          a class on each line, in the order of the labels
zeroshot_classification_templates.txt   a prompt on each line, with {c} for the class
dataset_type.txt                        classification, multilabel or retrieval
test/nshards.txt                        how many archives there are: 0.tar, 1.tar, ...
test/0.tar, train/0.tar, ...            samples: an image and its annotation

A sample's annotation is its ``cls``, the number of its class; its ``npy``, 0 or 1 for each class
(multilabel); or its ``txt``, a caption on each line (retrieval, which needs no class names). Sets
are read as CLIP_benchmark reads them (``datasets/builder.py``, ``build_wds_dataset``): class names
in any language are kept as they are, an empty line is also a class, as in
clevr_closest_object_distance, and a name may occur twice, as in ImageNet. Without dataset_type.txt
the first sample decides, and without nshards.txt all archives are read.

This raises BadLabels where CLIP_benchmark stops with a traceback or miscounts: an archive that is
missing or truncated, a sample without an image or a label, a label of no class.
Only headers and annotations are read here; images are not.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import numpy as np

from clipsearch.errors import BadLabels, TooFewExamples
from clipsearch.evaluation.labelled import (
    CaptionedImages,
    LabelledImages,
    MultiLabelImages,
    TestSet,
)
from clipsearch.images import shards
from clipsearch.images.shards import Member, Sample
from clipsearch.records import ImageFile

CLASS_NAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
KIND = "dataset_type.txt"
SHARDS = "nshards.txt"

PLACE = "{c}"
"""Placeholder for the class name in a template."""

Kind = Literal["classification", "multilabel", "retrieval"]
SplitName = Literal["train", "test"]

_SAID_IN: dict[Kind, tuple[str, ...]] = {
    "classification": ("cls", "txt"),
    "multilabel": ("npy",),
    "retrieval": ("txt",),
}
"""Extensions of annotations; the first one that a sample has is used."""

_MOST_BYTES = 1 << 20
"""Maximum size of an annotation in bytes."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The folder's own files, which apply to all its images."""

    folder: Path
    kind: Kind
    classes: tuple[str, ...]
    """In the order of the labels; none for retrieval."""
    templates: tuple[str, ...]
    """Each holds ``{c}``; none for retrieval."""

    def prompts(self, index: int) -> tuple[str, ...]:
        """The texts that are averaged into the embedding of class ``index``."""
        return tuple(t.replace(PLACE, self.classes[index]) for t in self.templates)


@dataclass(frozen=True, slots=True)
class Split:
    """The images of one split."""

    labelled: TestSet
    """Each is the path of the archive and of the member in it, relative to the folder."""
    files: tuple[ImageFile, ...]
    """In the order of ``labelled.paths``, each with its span in the archive."""


def is_benchmark(folder: Path) -> bool:
    """Whether the folder is such a set: it has templates, or archives in ``test`` or ``train``."""
    return (folder / TEMPLATES).is_file() or any(
        (folder / name / SHARDS).is_file() or any((folder / name).glob("*.tar"))
        for name in get_args(SplitName)
    )


def read(folder: Path) -> Benchmark:
    """Read the folder's own files. Raises BadLabels."""
    kind = _kind(folder)
    if kind == "retrieval":
        return Benchmark(folder, kind, (), ())
    classes, templates = _lines(folder / CLASS_NAMES), _lines(folder / TEMPLATES)
    for line, template in enumerate(templates, start=1):
        if PLACE not in template:
            raise BadLabels(
                f"{folder / TEMPLATES}, line {line}: the template '{template}' has no {PLACE}",
                hint=f"{PLACE} stands for the class name: a photo of a {PLACE}.",
            )
    return Benchmark(folder, kind, classes, templates)


def read_split(benchmark: Benchmark, name: SplitName) -> Split:
    """Locate the images of a split and read their annotations.

    Raises BadLabels, which names the archive and the member, and TooFewExamples if it is empty.
    """
    files: list[ImageFile] = []
    said: list[bytes] = []
    for archive in _archives(benchmark.folder, name):
        inside = os.fsencode(archive.relative_to(benchmark.folder).as_posix())
        samples = _samples(archive)
        with open(archive, "rb") as file:
            for sample in samples:
                picture, about = _members(sample, archive, benchmark.kind)
                path = inside + b"/" + picture.name
                files.append(ImageFile(path, picture.span.size, picture.mtime_ns, picture.span))
                said.append(_bytes(file, about, archive))
    if not files:
        raise TooFewExamples(f"the archives in {benchmark.folder / name} contain no images")
    return Split(_labelled(benchmark, files, said), tuple(files))


# -- the folder's own files ----------------------------------------------------------------------


def _kind(folder: Path) -> Kind:
    """The content of dataset_type.txt; without it, the kind of the test split's first sample."""
    if (folder / KIND).is_file():
        said = _text(folder / KIND).strip().lower()
        for kind in _SAID_IN:
            if said == kind:
                return kind
        raise BadLabels(
            f"{folder / KIND}: '{said}' is not a kind of test set",
            hint=f"Use one of: {', '.join(_SAID_IN)}.",
        )
    archive = _archives(folder, "test")[0]
    first = next(iter(_samples(archive)), None)
    if first is not None and "cls" not in first.members:
        if "npy" in first.members:
            return "multilabel"
        if "txt" in first.members and not (folder / CLASS_NAMES).is_file():
            return "retrieval"
    return "classification"


def _lines(file: Path) -> tuple[str, ...]:
    lines = tuple(line.strip() for line in _text(file).splitlines())
    if not lines:
        raise BadLabels(f"{file} is empty", hint="It needs a class or a template on each line.")
    return lines


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except OSError as error:
        raise BadLabels(
            f"cannot read {file}: {error.strerror}",
            hint=f"A set of captions needs no class names, if {KIND} says: retrieval"
            if file.name in (CLASS_NAMES, TEMPLATES)
            else "",
        ) from error
    except UnicodeDecodeError as error:
        raise BadLabels(f"{file} is not UTF-8 text", hint="Save it as UTF-8.") from error


def _archives(folder: Path, name: SplitName) -> list[Path]:
    """The archives of a split, by number. Raises BadLabels if one is missing."""
    split, counted = folder / name, folder / name / SHARDS
    if counted.is_file():
        text = _text(counted).strip()
        if not (text.isascii() and text.isdecimal() and 0 < int(text) <= 1_000_000):
            raise BadLabels(f"{counted}: '{text}' is not a number of archives")
        archives = [split / f"{number}.tar" for number in range(int(text))]
    else:
        archives = sorted(split.glob("*.tar"), key=lambda path: (len(path.name), path.name))
    if not archives:
        raise BadLabels(
            f"there are no archives in {split}",
            hint=f"CLIP_benchmark's sets have {name}/0.tar, {name}/1.tar, and so on.",
        )
    missing = next((path for path in archives if not path.is_file()), None)
    if missing is not None:
        raise BadLabels(
            f"{missing} is missing, but {counted} counts {len(archives)}",
            hint="Download it, or correct the number.",
        )
    return archives


# -- archives ------------------------------------------------------------------------------------


def _samples(archive: Path) -> Sequence[Sample]:
    try:
        found = shards.read(os.fsencode(archive.absolute()))
    except OSError as error:
        raise BadLabels(f"cannot read {archive}: {error.strerror}") from error
    if found.damage is not None:
        raise BadLabels(
            f"{archive}: {found.damage}",
            hint="The figures would cover only part of the set. Download the archive again.",
        )
    if found.odd:
        name, why = found.odd[0]
        raise BadLabels(f"{archive}: {os.fsdecode(name)}: {why}")
    return found.samples


def _members(sample: Sample, archive: Path, kind: Kind) -> tuple[Member, Member]:
    """The image and its annotation."""
    about = next((sample.members[x] for x in _SAID_IN[kind] if x in sample.members), None)
    where = f"{archive}: {os.fsdecode(sample.key)}"
    if sample.picture is None:
        raise BadLabels(f"{where} has no image", hint="Each sample needs a .webp, .jpg or .png.")
    if about is None:
        raise BadLabels(
            f"{where} has no label: there is no .{_SAID_IN[kind][0]} next to the image",
            hint=f"The set is read as {kind}. If it is another kind, say so in {KIND}: "
            "classification has .cls, multilabel .npy, retrieval .txt.",
        )
    return sample.picture, about


def _bytes(file: BinaryIO, member: Member, archive: Path) -> bytes:
    if member.span.size > _MOST_BYTES:
        raise BadLabels(f"{_place(archive, member.name)}: too long for a label or captions")
    file.seek(member.span.offset)
    return file.read(member.span.size)


def _place(archive: Path, member: bytes) -> str:
    return f"{archive}: {os.fsdecode(member)}"


# -- annotations of an image -------------------------------------------------------------------


def _labelled(benchmark: Benchmark, files: Sequence[ImageFile], said: Sequence[bytes]) -> TestSet:
    source, root = str(benchmark.folder), os.fsencode(benchmark.folder)
    paths = tuple(file.path for file in files)
    count = len(benchmark.classes)
    where = [os.path.join(source, os.fsdecode(path)) for path in paths]
    pairs = list(zip(where, said, strict=True))
    if benchmark.kind == "classification":
        return LabelledImages(source, root, paths, tuple(_class(*pair, count) for pair in pairs))
    if benchmark.kind == "multilabel":
        return MultiLabelImages(source, root, paths, tuple(_shown(*pair, count) for pair in pairs))
    captions = [_captions(*pair) for pair in pairs]
    return CaptionedImages(
        source,
        root,
        paths,
        captions=tuple(caption for own in captions for caption in own),
        images=tuple(n for n, own in enumerate(captions) for _ in own),
    )


def _class(where: str, said: bytes, classes: int) -> int:
    try:
        label = int(said.decode("ascii"))
    except ValueError as error:
        raise BadLabels(
            f"{where}: its label {_shortly(said)} is not a number",
            hint=f"A label is the number of a line of {CLASS_NAMES}, from 0.",
        ) from error
    if not 0 <= label < classes:
        raise BadLabels(
            f"{where}: its label {label} is not one of the {classes} classes",
            hint=f"{CLASS_NAMES} has {classes} lines, for the labels 0 to {classes - 1}.",
        )
    return label


def _shown(where: str, said: bytes, classes: int) -> tuple[int, ...]:
    """The classes marked by a vector of 0 and 1 in numpy's format (NEP 1)."""
    file = io.BytesIO(said)
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError("unsupported version")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.kind not in "biuf":
            raise ValueError("its values are not numbers")
        values = np.frombuffer(file.read(), dtype)
    except ValueError as error:
        raise BadLabels(f"{where}: its .npy is not a vector of numbers ({error})") from error
    if shape != (classes,) or len(values) != classes:
        raise BadLabels(
            f"{where}: its labels have the shape {shape}, but there are {classes} classes",
            hint=f"It needs one 0 or 1 for each line of {CLASS_NAMES}.",
        )
    if not np.isin(values, (0, 1)).all():
        raise BadLabels(f"{where}: its labels are not all 0 or 1")
    return tuple(int(c) for c in np.flatnonzero(values))


def _captions(where: str, said: bytes) -> list[str]:
    try:
        captions = said.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BadLabels(f"{where}: its captions are not UTF-8 text") from error
    if not captions:
        raise BadLabels(f"{where}: it has no caption", hint="Each line of its .txt is a caption.")
    return captions


def _shortly(said: bytes) -> str:
    return repr(said[:40].decode("utf-8", "replace").strip())
