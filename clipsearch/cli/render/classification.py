"""Renders classified images as lines, CSV, JSON lines and tables."""

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from clipsearch.cli.render.json_lines import json_line, json_path
from clipsearch.cli.render.table import Table
from clipsearch.domain.intervals import proportion
from clipsearch.evaluation.classify import Classified
from clipsearch.evaluation.summary import interval
from clipsearch.paths import shown
from clipsearch.text import percent, printable, text_path


def classified_lines(found: Iterable[Classified], stream: BinaryIO) -> None:
    """``path TAB class TAB probability`` lines."""
    for one in found:
        for ranked in one.ranking:
            said = f"\t{printable(ranked.name)}\t{ranked.probability:.4f}\n"
            stream.write(shown(one.picture.path) + said.encode())


def classified_csv(found: Iterable[Classified], stream: BinaryIO) -> None:
    """A CSV file with a header; paths keep the file system's bytes."""
    text = io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="", write_through=True)
    rows = csv.writer(text)
    rows.writerow(["path", "rank", "class", "probability"])
    for one in found:
        for n, ranked in enumerate(one.ranking, start=1):
            path = os.fsdecode(shown(one.picture.path))
            rows.writerow([path, n, ranked.name, f"{ranked.probability:.6f}"])
    text.detach()


def classified_json(found: Iterable[Classified], model: str, by: str, stream: BinaryIO) -> None:
    """One JSON object per image, each on its own line. Keys are only ever added."""
    for one in found:
        classes = [
            {
                "class": ranked.name,
                "probability": round(ranked.probability, 6),
                "similarity": round(ranked.similarity, 6),
            }
            for ranked in one.ranking
        ]
        path = json_path(shown(one.picture.path))
        stream.write(json_line({"path": path, "classes": classes, "by": by, "model": model}))
        stream.flush()


def classified_table(found: Iterable[Classified]) -> Table:
    """A table with one row per image and class."""
    rows = [
        (
            "" if n else text_path(shown(one.picture.path)),
            ranked.name,
            percent(ranked.probability),
        )
        for one in found
        for n, ranked in enumerate(one.ranking)
    ]
    return Table("", ("path", "class", "probability"), rows, left=(0, 1), path=0)


@dataclass(frozen=True, slots=True)
class FolderResult:
    """The classes that the images of one folder were assigned to."""

    folder: str
    name: str | None
    """The class that the folder is named after; None if there is none."""
    given: Counter[str]

    @property
    def right(self) -> int:
        """How many images were assigned to the class that the folder is named after."""
        return self.given[self.name] if self.name else 0


def by_folder(
    found: Iterable[Classified], class_of: Callable[[str], str | None]
) -> list[FolderResult]:
    """Compare the top class of each image with the name of its folder.

    class_of: the class that a folder is named after, if any.
    """
    given: dict[str, Counter[str]] = {}
    for one in found:
        given.setdefault(one.picture.folder, Counter())[one.ranking[0].name] += 1
    return [FolderResult(name, class_of(name), given[name]) for name in sorted(given)]


def folder_table(results: Sequence[FolderResult]) -> Table:
    """A row per folder: its accuracy, and the classes of its images."""
    rows = [
        (
            result.folder,
            str(result.given.total()),
            str(result.right) if result.name else "no such class",
            percent(result.right / result.given.total()) if result.name else "-",
            ", ".join(f"{name} {count}" for name, count in result.given.most_common()),
        )
        for result in results
    ]
    columns = ("folder", "images", "correct", "accuracy", "classified as")
    return Table("", columns, rows, left=(0, 4), gives_way=(2, 1))


def folder_line(results: Sequence[FolderResult]) -> str:
    """The accuracy over all folders that are named after a class."""
    named = [result for result in results if result.name]
    n = sum(result.given.total() for result in named)
    if not n:
        return "no folder is named after a class"
    total = proportion(sum(result.right for result in named), n)
    return (
        f"accuracy {percent(total.value)} of {n} images in {len(named)} folders named after a "
        f"class (95% interval {interval(total)})"
    )


def folder_record(result: FolderResult) -> dict[str, object]:
    """A JSON record of one folder. Keys are only ever added."""
    return {
        "folder": printable(result.folder),
        "class": result.name,
        "pictures": result.given.total(),
        "right": result.right,
        "given": dict(result.given.most_common()),
    }
