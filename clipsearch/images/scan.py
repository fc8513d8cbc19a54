"""Find the image files below a folder in one ``scandir`` pass, and hash file contents."""

import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import translate
from types import MappingProxyType
from typing import BinaryIO, cast

from clipsearch.errors import CollectionGone
from clipsearch.paths import native
from clipsearch.records import Found, ImageFile

SUFFIXES = frozenset(
    {
        b".jpg",
        b".jpeg",
        b".jpe",
        b".jfif",
        b".mpo",
        b".png",
        b".apng",
        b".webp",
        b".gif",
        b".bmp",
        b".dib",
        b".tif",
        b".tiff",
        b".heic",
        b".heif",
        b".hif",
        b".avif",
    }
)
"""Extensions of images, in lower case. The content decides later whether a file is one."""

EXCLUDED = (".*", "node_modules", "@eaDir")
"""Never part of "my photos": hidden files and folders, package trees, NAS thumbnails."""

HASH_BYTES = 20
"""BLAKE2b-160: more than enough to tell images apart, and fast to compute."""


def find(
    root: bytes,
    *,
    exclude: Sequence[str] = (),
    under: bytes = b"",
    listed: Mapping[bytes, bytes] = MappingProxyType({}),
) -> Found:
    """List the image files below ``root``, or below its folder ``under``, in a stable order.

    root: an absolute path. under: relative to root, with ``/`` separators.
    exclude: globs, in addition to the built-in ``EXCLUDED``; a glob with a slash is matched against
    the path relative to root, one without against each file's or folder's own name.
    listed: the ``listing`` of folders when they were last compared: a folder with the same listing
    is returned in ``same``, without its files.

    Symbolic links are counted but not followed, so a loop cannot trap the walk and nothing
    outside the root is read. Devices, sockets and FIFOs are not images, whatever their names.
    Other files are counted by extension.
    Raises CollectionGone if ``root`` itself cannot be listed.
    """
    names, paths = _globs((*EXCLUDED, *exclude))
    is_left_out, is_path_left_out = _matcher(names), _matcher(paths) if paths else None
    files: list[ImageFile] = []
    same: dict[bytes, int] = {}
    unreadable: list[tuple[bytes, str]] = []
    links = 0
    ignored: Counter[bytes] = Counter()
    folders = [under]
    while folders:
        folder = folders.pop()
        prefix = folder + b"/" if folder else b""
        try:
            entries = list(os.scandir(os.path.join(root, native(folder))))
        except OSError as error:
            if folder == under:
                raise CollectionGone(
                    f"cannot read the folder {os.fsdecode(os.path.join(root, folder))}: "
                    f"{error.strerror}",
                    hint="Check that its disk is mounted and you may read it. Nothing was changed.",
                ) from error
            unreadable.append((folder, error.strerror or str(error)))
            continue
        pictures: list[Entry] = []
        for entry in entries:
            name = entry.name
            if is_left_out(name) or (is_path_left_out and is_path_left_out(prefix + name)):
                continue
            try:
                if entry.is_file(follow_symlinks=False):  # scandir already knows: no system call
                    suffix = _suffix(name)
                    if suffix in SUFFIXES:
                        status = entry.stat(follow_symlinks=False)
                        pictures.append((name, status.st_size, status.st_mtime_ns))
                    else:
                        ignored[suffix] += 1
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(prefix + name)
                elif entry.is_symlink():
                    links += _suffix(name) in SUFFIXES or _leads_to_folder(entry)
            except FileNotFoundError:
                continue  # deleted during the walk
            except OSError as error:
                unreadable.append((prefix + name, error.strerror or str(error)))
        if folder in listed and pictures and listing(pictures) == listed[folder]:
            same[folder] = len(pictures)
        else:
            files += [ImageFile(prefix + name, size, time) for name, size, time in pictures]
    files.sort()
    return Found(files, sorted(unreadable), links, ignored, same)


Entry = tuple[bytes, int, int]
"""A file's name, size in bytes, and modification time in nanoseconds."""


def listing(entries: Collection[Entry]) -> bytes:
    """A digest (BLAKE2b-160) of one or more images that are in one folder, in any order."""
    names, *facts = zip(*sorted(entries), strict=True)
    told = b"\0".join([*names, repr(facts).encode()])  # no name contains a zero byte
    return hashlib.blake2b(told, digest_size=HASH_BYTES).digest()


def is_excluded(path: bytes, exclude: Sequence[str]) -> bool:
    """Whether these globs exclude the file at ``path``, or a folder above it, from ``find``.

    path: relative to the root, like globs with a slash.
    """
    names, paths = _globs(exclude)
    is_left_out, is_path_left_out = _matcher(names), _matcher(paths)
    parts = path.split(b"/")
    return any(
        is_left_out(name) or is_path_left_out(b"/".join(parts[: n + 1]))
        for n, name in enumerate(parts)
    )


def _globs(exclude: Sequence[str]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Globs for names, and globs for paths."""
    names = tuple(os.fsencode(glob) for glob in exclude if "/" not in glob)
    return names, tuple(os.fsencode(glob.strip("/")) for glob in exclude if "/" in glob)


def _matcher(globs: tuple[bytes, ...]) -> Callable[[bytes], object]:
    """A function that says whether a name or path matches any of the globs (``fnmatchcase``)."""
    if not globs:
        return lambda name: False
    # Like fnmatch for bytes: each byte is a character.
    patterns = (translate(glob.decode("latin-1")).encode("latin-1") for glob in globs)
    return re.compile(b"|".join(patterns)).match


def _suffix(name: bytes) -> bytes:
    """A name's extension with its dot, in lower case; empty for names like ``.hidden``."""
    dot = name.rfind(b".")
    return name[dot:].lower() if dot > 0 else b""


def _leads_to_folder(link: "os.DirEntry[bytes]") -> bool:
    try:
        return link.is_dir()
    except OSError:  # such as a link to itself, which cannot hide an image
        return False


def folder_of(path: bytes) -> bytes:
    """The folder that contains a file; both relative to the root."""
    return path.rpartition(b"/")[0]


def content_hash(file: BinaryIO) -> bytes:
    """BLAKE2b-160 of an open file's bytes, from its start."""
    file.seek(0)
    return hashlib.file_digest(
        cast(io.BufferedReader, file), lambda: hashlib.blake2b(digest_size=HASH_BYTES)
    ).digest()
