"""Renders groups of duplicates as paths, a table, JSON lines and a summary."""

from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO

from clipsearch.cli.render.json_lines import json_line, json_path
from clipsearch.cli.render.table import Table
from clipsearch.search.duplicates.find import Duplicates, Group, Member
from clipsearch.search.duplicates.likeness import KEPT, Likeness
from clipsearch.text import number_of, printable, size_text, text_path

ShowPath = Callable[[bytes], bytes]
"""Turns an absolute path into the printed one."""

_NAMED = 5
"""Images listed in a message; the rest are counted."""


def write_paths(groups: Iterable[Group], show: ShowPath, end: bytes, stream: BinaryIO) -> None:
    """Paths, the best of a group first, each ended by ``end``; an extra ``end`` between groups."""
    for n, group in enumerate(groups):
        stream.write(end if n else b"")
        stream.writelines(show(member.path) + end for member in group.members)


def write_spare(groups: Iterable[Group], show: ShowPath, end: bytes, stream: BinaryIO) -> None:
    """Paths of all members except the best, each ended by ``end``; nothing between groups."""
    for group in groups:
        stream.writelines(show(member.path) + end for member in group.members[1:])


def write_json_lines(groups: Iterable[Group], show: ShowPath, model: str, stream: BinaryIO) -> None:
    """One JSON object per group. Keys are only ever added."""
    for group in groups:
        members = [_record(n == 0, member, show) for n, member in enumerate(group.members)]
        record = {
            "kind": group.kind,
            "similarity": round(group.similarity, 6),
            "spare_bytes": group.spare_bytes,
            "model": model,
            "members": members,
        }
        stream.write(json_line(record))
        stream.flush()


def _record(keep: bool, member: Member, show: ShowPath) -> dict[str, object]:
    return {
        "path": json_path(show(member.path)),
        "root": json_path(member.root),
        "id": member.image.id,
        "width": member.image.width,
        "height": member.image.height,
        "size": member.image.size,
        "taken_at": member.image.taken_at,
        "similarity": round(member.similarity, 6),
        "keep": keep,
    }


def table(groups: Iterable[Group], show: ShowPath) -> Table:
    """A table with one row per image, the one to keep first in its group."""
    rows = [
        (
            "" if n else str(number),
            "" if n else group.kind,
            f"{member.similarity:.3f}" if n else "best",
            f"{member.image.width} x {member.image.height}",
            size_text(member.image.size),
            text_path(show(member.path)),
        )
        for number, group in enumerate(groups, start=1)
        for n, member in enumerate(group.members)
    ]
    columns = ("#", "kind", "similarity", "pixels", "size", "path")
    return Table("", columns, rows, left=(1, 5), path=5, gives_way=(2, 4, 1))


def summary_line(found: Duplicates) -> str:
    """The number of duplicates, and the space that they use."""
    if not found.groups:
        return f"no duplicates among {number_of(found.images, 'image')}"
    spare = sum(len(group.members) - 1 for group in found.groups)
    size = size_text(sum(group.spare_bytes for group in found.groups))
    return (
        f"{number_of(len(found.groups), 'group')} among {number_of(found.images, 'image')}; "
        f"{number_of(spare, 'image')} besides the best of each, {size}"
    )


def likeness_line(measured: Likeness, *, looked: bool) -> str:
    """The measured threshold for near-duplicates, and whether pixels were compared."""
    copies = f"{KEPT:.0%} of slightly changed copies of {measured.sample} images"
    similar = (
        f"threshold: a similarity of {measured.similarity:.3f}, which {copies} reach; "
        f"{measured.neighbours:.0%} of these images have another image this similar"
    )
    if not looked:
        return f"{similar}, which may be a different one"
    return f"{similar}, so pixels decide (agreement of {measured.agreement:.2f})"


def stale_lines(found: Duplicates, show: ShowPath) -> list[str]:
    """Images left out because they were deleted or changed since they were indexed."""
    lines = [
        f"left out, deleted or changed since indexing: {printable(text_path(show(path)))}"
        for path in found.stale[:_NAMED]
    ]
    more = len(found.stale) - _NAMED
    return (
        [*lines, f"and {more} more; update the index with clipsearch index"] if more > 0 else lines
    )


def notes(found: Duplicates, measured: Sequence[Likeness], *, looked: bool) -> list[str]:
    """Facts about the groups, one per line."""
    return [summary_line(found), *(likeness_line(one, looked=looked) for one in measured)]
