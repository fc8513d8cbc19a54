"""Find the image files below a folder in one ``scandir`` pass, and know a file by its content."""

import hashlib
import io
import os
import stat
from collections.abc import Sequence
from fnmatch import fnmatchcase
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
"""Names that say "picture", in lower case. Content decides later whether it is one."""

EXCLUDED = (".*", "node_modules", "@eaDir")
"""What no one means by "my photos": hidden files and folders, package trees, NAS thumbnails."""

HASH_BYTES = 20
"""BLAKE2b-160: far more than enough to tell pictures apart, and quick to compute."""


def find(root: bytes, *, exclude: Sequence[str] = (), under: bytes = b"") -> Found:
    """List the image files below ``root``, or below its part ``under``, in a stable order.

    root: an absolute path. under: relative to root, separated by ``/``.
    exclude: globs, beside the built-in ``EXCLUDED``; one with a slash is matched against the path
    relative to root, one without against each file's or folder's own name.

    Symbolic links are counted and not followed, so a loop cannot trap the walk and nothing
    outside the root is read. Devices, sockets and FIFOs are no pictures, whatever their names.
    Raises CollectionGone if ``root`` itself cannot be listed.
    """
    names, paths = _globs((*EXCLUDED, *exclude))
    files: list[ImageFile] = []
    unreadable: list[tuple[bytes, str]] = []
    links = 0
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
                    hint="Is its disk mounted, and may you read it? Nothing was changed.",
                ) from error
            unreadable.append((folder, error.strerror or str(error)))
            continue
        for entry in entries:
            name = entry.name
            if _matches(name, names):
                continue
            is_picture = os.path.splitext(name)[1].lower() in SUFFIXES
            path = prefix + name
            if paths and _matches(path, paths):
                continue
            try:
                if entry.is_symlink():
                    links += is_picture or _leads_to_folder(entry)
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif is_picture:
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        files.append(ImageFile(path, status.st_size, status.st_mtime_ns))
            except FileNotFoundError:
                continue  # deleted while we looked
            except OSError as error:
                unreadable.append((path, error.strerror or str(error)))
    files.sort()
    return Found(files, sorted(unreadable), links)


def is_excluded(path: bytes, exclude: Sequence[str]) -> bool:
    """Whether ``find`` leaves out the file at ``path`` for these globs, or a folder above it.

    path: relative to the root, as are globs with a slash.
    """
    names, paths = _globs(exclude)
    parts = path.split(b"/")
    return any(
        _matches(name, names) or _matches(b"/".join(parts[: n + 1]), paths)
        for n, name in enumerate(parts)
    )


def _globs(exclude: Sequence[str]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Globs for names, and globs for paths."""
    names = tuple(os.fsencode(glob) for glob in exclude if "/" not in glob)
    return names, tuple(os.fsencode(glob.strip("/")) for glob in exclude if "/" in glob)


def _leads_to_folder(link: "os.DirEntry[bytes]") -> bool:
    try:
        return link.is_dir()
    except OSError:  # a link to itself, say; it hides no picture
        return False


def _matches(name: bytes, globs: tuple[bytes, ...]) -> bool:
    return any(
        name.startswith(b".") if glob == b".*" else fnmatchcase(name, glob) for glob in globs
    )


def content_hash(file: BinaryIO) -> bytes:
    """BLAKE2b-160 of an open file's bytes, from its start."""
    file.seek(0)
    return hashlib.file_digest(
        cast(io.BufferedReader, file), lambda: hashlib.blake2b(digest_size=HASH_BYTES)
    ).digest()
