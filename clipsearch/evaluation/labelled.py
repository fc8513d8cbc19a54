"""Labeled images to test a model with: where they are, and their labels or captions.

Three forms are read: a folder whose subfolders are named after classes; a table (CSV or TSV, with
a header line) of ``path,label``; and a table of ``path,caption``. In a table an image may have
several labels or captions, one per line, and other columns are ignored. Paths are relative to the
table's own folder.

Nothing is guessed: a label that the domain does not have, a missing file or an image with
the same label twice is an error that names the line. A set for training, not testing, may
have its own labels: ``own_taxonomy`` turns them into a domain.
"""

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clipsearch.domain import policy
from clipsearch.domain.taxonomy import Domain, DomainClass, folded
from clipsearch.errors import BadLabels, TooFewExamples
from clipsearch.images.scan import SUFFIXES, find
from clipsearch.text import did_you_mean

LABEL_COLUMNS = ("label", "class")
CAPTION_COLUMNS = ("caption", "text")
PATH_COLUMNS = ("path", "file", "filename", "image")


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Images with one class each."""

    source: str
    root: bytes
    """The folder that the paths are relative to."""
    paths: tuple[bytes, ...]
    """In the file system's own bytes, separated by ``/``; sorted, without duplicates."""
    classes: tuple[int, ...]
    """The index of each image's class in the domain."""

    @property
    def labels(self) -> tuple[tuple[int, ...], ...]:
        """``classes`` in the same form as for images with several."""
        return tuple((index,) for index in self.classes)

    def per_class(self) -> Counter[int]:
        """How many images each class has; classes without images are left out."""
        return Counter(self.classes)

    def only(self, rows: Sequence[int]) -> "LabelledImages":
        """The subset with the images at these positions."""
        return replace(
            self,
            paths=tuple(self.paths[n] for n in rows),
            classes=tuple(self.classes[n] for n in rows),
        )


@dataclass(frozen=True, slots=True)
class MultiLabelImages:
    """Images, each with the classes of everything that it shows; at least one has several."""

    source: str
    root: bytes
    paths: tuple[bytes, ...]
    """Sorted, without duplicates."""
    labels: tuple[tuple[int, ...], ...]
    """The indices of each image's classes in the domain, ascending."""

    def only(self, rows: Sequence[int]) -> "MultiLabelImages":
        """The subset with the images at these positions."""
        return replace(
            self,
            paths=tuple(self.paths[n] for n in rows),
            labels=tuple(self.labels[n] for n in rows),
        )


@dataclass(frozen=True, slots=True)
class CaptionedImages:
    """Images, each with one or more captions."""

    source: str
    root: bytes
    paths: tuple[bytes, ...]
    """In the order of first occurrence in the table, without duplicates."""
    captions: tuple[str, ...]
    images: tuple[int, ...]
    """The position of each caption's image in ``paths``."""

    def only(self, rows: Sequence[int]) -> "CaptionedImages":
        """The subset with the images at these positions."""
        position = {row: n for n, row in enumerate(rows)}
        kept = [n for n, image in enumerate(self.images) if image in position]
        return replace(
            self,
            paths=tuple(self.paths[n] for n in rows),
            captions=tuple(self.captions[n] for n in kept),
            images=tuple(position[self.images[n]] for n in kept),
        )


TestSet = LabelledImages | MultiLabelImages | CaptionedImages


def read(source: Path, domain: Domain) -> TestSet:
    """Read a labeled set: a folder of class-named folders, or a table.

    Raises BadLabels if something in it is wrong, and TooFewExamples if it contains no images.
    """
    _require_exists(source)
    return read_folders(source, domain) if source.is_dir() else read_table(source, domain)


def read_single(source: Path, domain: Domain) -> LabelledImages:
    """Read a set in which every image has one label, as training requires.

    Raises BadLabels and TooFewExamples like ``read``, and BadLabels for any other set.
    """
    found = read(source, domain)
    if isinstance(found, LabelledImages):
        return found
    if isinstance(found, CaptionedImages):
        raise _has_captions(source)
    path = next(p for p, own in zip(found.paths, found.labels, strict=True) if len(own) > 1)
    raise BadLabels(
        f"{source}: {os.fsdecode(path)} has several labels, but training requires one label per "
        "image",
        hint="Keep only the label that distinguishes it, or leave the image out.",
    )


def own_taxonomy(source: Path, domain: Domain) -> Domain:
    """A domain whose classes are the labels of a set, in alphabetical order.

    Templates, and the prompts of shared classes, come from ``domain``. It has no examples or pass
    marks, because those test a set.
    Raises BadLabels if the set cannot be read or has captions instead of labels, TooFewExamples
    if it contains no images, and RefusedByPolicy if the usage policy forbids a label.
    """
    _require_exists(source)
    names: dict[str, str] = {}
    for label in _labels_of(source):
        if not label.isprintable():
            raise BadLabels(f"{source}: {label!r} is not text", hint="Give the class another name.")
        policy.check(label.replace("_", " "))
        names.setdefault(folded(label), " ".join(label.replace("_", " ").split()))
    if not names:
        raise _empty(str(source))
    known = {name: domain.find_class(name) for name in sorted(names.values())}
    prompts = {n: () if at is None else domain.classes[at].prompts for n, at in known.items()}
    return replace(
        domain,
        name=source.name,
        description="",
        classes=tuple(DomainClass(name, prompts=prompts[name]) for name in known),
        in_domain=(),
        out_of_domain=(),
        pass_marks={},
    )


def _labels_of(source: Path) -> list[str]:
    if source.is_dir():
        paths = [file.path for file in find(os.fsencode(source)).files]
        return [os.fsdecode(path.split(b"/")[0]) for path in paths if b"/" in path]
    columns, entries = _read_entries(source)
    if columns != LABEL_COLUMNS:
        raise _has_captions(source)
    return [label for _, _, label in entries]


def _has_captions(source: Path) -> BadLabels:
    return BadLabels(
        f"{source} has captions, but training requires labels",
        hint="Name the columns in the first line: path,label.",
    )


def _require_exists(source: Path) -> None:
    if not source.exists():
        raise BadLabels(
            f"{source} does not exist",
            hint="A labeled set is a folder of class-named folders, or a CSV or TSV file with "
            "the columns path,label or path,caption.",
        )


def fingerprint(images: TestSet, domain: Domain, hashes: Sequence[bytes]) -> str:
    """SHA-256, in hex, of the test set: the content of its images and their labels or captions.

    hashes: the content hash of each image, in the order of ``paths``. File names and places
    are not included, so a copy of a test set has the same fingerprint.
    """
    if isinstance(images, CaptionedImages):
        pairs = zip(images.images, images.captions, strict=True)
        rows = [hashes[n] + b" shows " + caption.encode() for n, caption in pairs]
    else:
        rows = [
            content + b" is " + domain.classes[index].name.encode()
            for content, own in zip(hashes, images.labels, strict=True)
            for index in own
        ]
    digest = hashlib.sha256()
    for row in sorted(rows):
        digest.update(len(row).to_bytes(8, "big") + row)
    return digest.hexdigest()


# -- folders -----------------------------------------------------------------------------------


def read_folders(folder: Path, domain: Domain) -> LabelledImages:
    """Read a folder of class-named folders; images in nested folders belong to the class too.

    Raises BadLabels, TooFewExamples, and CollectionGone if the folder cannot be listed.
    """
    root = os.fsencode(folder)
    found = find(root)
    if found.unreadable:
        path, reason = found.unreadable[0]
        raise BadLabels(f"cannot read {os.fsdecode(os.path.join(root, path))}: {reason}")
    stray = [file.path for file in found.files if b"/" not in file.path]
    if stray:
        raise BadLabels(
            f"{folder}: {os.fsdecode(stray[0])} is not in a class folder"
            + (f", and {len(stray) - 1} more" if len(stray) > 1 else ""),
            hint="Put each image into a folder that is named after its class.",
        )
    names = {file.path.split(b"/")[0] for file in found.files}
    classes = {name: domain.find_class(os.fsdecode(name)) for name in names}
    unknown = sorted(os.fsdecode(name) for name, index in classes.items() if index is None)
    if unknown:
        raise _unknown_label(f"{folder}: the folder '{unknown[0]}'", unknown, domain)
    if not found.files:
        raise _empty(str(folder))
    labels = [classes[file.path.split(b"/")[0]] for file in found.files]
    return LabelledImages(
        source=str(folder),
        root=root,
        paths=tuple(file.path for file in found.files),
        classes=tuple(index for index in labels if index is not None),
    )


# -- tables ------------------------------------------------------------------------------------


def read_table(table: Path, domain: Domain) -> TestSet:
    """Read a CSV or TSV file with a header that names the columns path and label, or caption.

    Raises BadLabels, TooFewExamples.
    """
    columns, entries = _read_entries(table)
    root = os.fsencode(table.parent)
    if columns == LABEL_COLUMNS:
        return _labelled(table, root, entries, domain)
    return _captioned(table, root, entries)


_Entry = tuple[int, bytes, str]
"""Line, path, and label or caption."""


def _read_entries(table: Path) -> tuple[tuple[str, ...], list[_Entry]]:
    """The columns with labels or captions, and their entries."""
    rows = _rows(table)
    line, header = next(rows, (1, []))
    columns = [name.strip().lower() for name in header]
    path_at = _column(columns, PATH_COLUMNS)
    label_at = _column(columns, LABEL_COLUMNS)
    caption_at = _column(columns, CAPTION_COLUMNS)
    if path_at is None or (label_at is None) == (caption_at is None):
        raise BadLabels(
            f"{table}, line {line}: the header is '{','.join(header)}'",
            hint="Name the columns in the first line: path,label or path,caption.",
        )
    said_at = label_at if label_at is not None else caption_at
    assert said_at is not None
    entries = _entries(table, rows, path_at, said_at, len(columns))
    if not entries:
        raise _empty(str(table))
    return LABEL_COLUMNS if label_at is not None else CAPTION_COLUMNS, entries


def _rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """``(line, fields)`` of every row that is not blank; quoted fields may span lines."""
    try:
        data = table.read_bytes()
    except OSError as error:
        raise BadLabels(f"cannot read {table}: {error.strerror}") from error
    # Paths are bytes: parts that are not UTF-8 survive as surrogates, as in os.fsdecode.
    text = data.decode("utf-8-sig", "surrogateescape")
    first = text.split("\n", 1)[0]
    delimiter = "\t" if "\t" in first else ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise BadLabels(
                f"{table}, line {line}: {error}",
                hint="Quote fields that contain the separator or a quotation mark.",
            ) from error
        if any(field.strip() for field in fields):
            yield line, fields
        line = reader.line_num + 1


def _entries(
    table: Path, rows: Iterator[tuple[int, list[str]]], path_at: int, said_at: int, columns: int
) -> list[_Entry]:
    entries = []
    for line, fields in rows:
        if len(fields) != columns:
            raise BadLabels(
                f"{table}, line {line}: {len(fields)} fields, but the header has {columns}",
                hint="Quote fields that contain the separator.",
            )
        path, said = fields[path_at].strip(), fields[said_at].strip()
        if not path or not said:
            raise BadLabels(f"{table}, line {line}: empty {'path' if not path else 'text'}")
        try:
            said.encode()
        except UnicodeEncodeError as error:
            raise BadLabels(
                f"{table}, line {line}: not UTF-8 text", hint="Save it as UTF-8."
            ) from error
        where = os.path.join(os.fsencode(table.parent), os.fsencode(path))
        if not os.path.isfile(where):
            raise BadLabels(
                f"{table}, line {line}: there is no file {os.fsdecode(where)}",
                hint="Paths are relative to the folder of the table.",
            )
        entries.append((line, _stored(path), said))
    return entries


def _stored(path: str) -> bytes:
    """A path as the catalog stores it, so that ``./a.jpg`` and ``a.jpg`` are the same."""
    stored = os.fsencode(os.path.normpath(path))
    return stored if os.sep == "/" else stored.replace(os.fsencode(os.sep), b"/")


def _labelled(
    table: Path, root: bytes, entries: Sequence[_Entry], domain: Domain
) -> LabelledImages | MultiLabelImages:
    seen: dict[tuple[bytes, str], int] = {}
    shown: dict[bytes, set[int]] = {}
    for line, path, label in entries:
        index = domain.find_class(label)
        if index is None:
            unknown = [label for _, _, label in entries if domain.find_class(label) is None]
            raise _unknown_label(f"{table}, line {line}: the label '{label}'", unknown, domain)
        same = (path, folded(label))
        if same in seen:
            raise BadLabels(
                f"{table}, line {line}: {os.fsdecode(path)} already has the label '{label}', "
                f"on line {seen[same]}",
                hint="Remove one of the lines.",
            )
        seen[same] = line
        shown.setdefault(path, set()).add(index)  # two synonyms are the same class
    paths = tuple(sorted(shown))
    classes = tuple(tuple(sorted(shown[path])) for path in paths)
    if any(len(own) > 1 for own in classes):
        return MultiLabelImages(str(table), root, paths, classes)
    return LabelledImages(str(table), root, paths, tuple(index for (index,) in classes))


def _captioned(table: Path, root: bytes, entries: Sequence[_Entry]) -> CaptionedImages:
    positions: dict[bytes, int] = {}
    seen: dict[tuple[bytes, str], int] = {}
    for line, path, caption in entries:
        positions.setdefault(path, len(positions))
        if (path, caption) in seen:
            raise BadLabels(
                f"{table}, line {line}: {os.fsdecode(path)} already has this caption, "
                f"on line {seen[path, caption]}"
            )
        seen[path, caption] = line
    return CaptionedImages(
        source=str(table),
        root=root,
        paths=tuple(positions),
        captions=tuple(caption for _, _, caption in entries),
        images=tuple(positions[path] for _, path, _ in entries),
    )


def _column(columns: Sequence[str], names: Sequence[str]) -> int | None:
    return next((n for n, column in enumerate(columns) if column in names), None)


def _unknown_label(what: str, unknown: Sequence[str], domain: Domain) -> BadLabels:
    known = [name for cls in domain.classes for name in (cls.name, *cls.synonyms)]
    others = len(set(unknown)) - 1
    return BadLabels(
        f"{what} is not a class of the domain {domain.name}"
        + did_you_mean(unknown[0].replace("_", " "), known, 2)
        + (f"; {others} more are unknown too" if others else ""),
        hint="Use a class name or a synonym of the domain, or test with a domain that has the "
        "label. To list the classes: clipsearch domain show",
    )


def _empty(source: str) -> TooFewExamples:
    suffixes = " ".join(sorted(os.fsdecode(suffix) for suffix in SUFFIXES))
    return TooFewExamples(
        f"{source} contains no labeled images",
        hint=f"Images are files with one of these extensions: {suffixes}.",
    )
