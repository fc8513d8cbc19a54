"""What a catalog stores about its images: where they are, which ones a filter accepts, hits."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipsearch.paths import absolute
from clipsearch.records import EVERYTHING, Filter, Hit, IndexedImage, Source, Span
from clipsearch.storage import filters, schema
from clipsearch.storage.rows import Rows
from clipsearch.storage.vectors.vector_file import Ids


class Pictures(Rows):
    """How ``Store`` reads images; raises the same errors as ``Rows``."""

    @property
    def root(self) -> Path:
        """The folder of images, even if it has moved together with its index."""
        root: bytes = self._meta["root"]
        return Path(os.fsdecode(root)) if root else self.directory.parent

    def path_of(self, id: int) -> Path:
        """The image's path. Raises KeyError for an unknown id."""
        (path, *_) = self._rows([id])[id]
        return Path(os.fsdecode(absolute(os.fsencode(self.root), path)))

    def source_of(self, id: int) -> Source:
        """Where the image's bytes are. Raises KeyError for an unknown id."""
        *_, size, offset, archive, _, _ = self._rows([id])[id]
        return self._span(archive, offset, size) or os.fsencode(self.path_of(id))

    def images(self, only: Filter = EVERYTHING) -> list[IndexedImage]:
        """The good images that a filter accepts, in order of their ids."""
        columns = "id, path, size, mtime_ns, hash, width, height, taken_at, archive, byte_offset"
        with self._db.snapshot():
            among = set(self._ids_among(only).tolist())
            rows = self._db.rows(
                f"SELECT {columns} FROM images LEFT JOIN {schema.archived(self._db)} USING (id)"
                " WHERE error IS NULL ORDER BY id"
            )
            return [
                IndexedImage._make((*row[:8], self._span(row[8], row[9], row[2])))
                for row in rows
                if row[0] in among
            ]

    def newest(self, most: int, only: Filter = EVERYTHING) -> list[tuple[str, Hit]]:
        """The good images that were taken (or modified) last: their times, and the images as hits.

        Newest first, at most ``most``. They come from no search, so their score is NaN.
        """
        with self._db.snapshot():
            found = filters.newest_among(self._db, os.fsencode(self.root), only, most)
            rows = self._rows([id for _, id in found])
        return [(when, self._hit(id, float("nan"), rows[id])) for when, id in found]

    def count(self, only: Filter = EVERYTHING) -> int:
        """How many good images a filter accepts."""
        return len(self._ids_among(only))

    def _hit(self, id: int, score: float, row: Sequence[Any]) -> Hit:
        path, width, height, taken_at, camera, latitude, longitude, *archived = row
        size, offset, archive, caption, url = archived
        return Hit(
            id,
            path,
            self.root,
            score,
            width,
            height,
            taken_at,
            camera=camera or None,
            latitude=latitude,
            longitude=longitude,
            span=self._span(archive, offset, size),
            caption=caption,
            url=url,
        )

    def _span(self, archive: bytes | None, offset: int | None, size: int) -> Span | None:
        """Where an archived image's bytes are; None for an image that is a file of its own."""
        if offset is None:
            return None
        whole = b"" if archive is None else absolute(os.fsencode(self.root), archive)
        return Span(whole, offset, size)

    def _ids_among(self, only: Filter) -> Ids:
        return filters.ids_among(self._db, os.fsencode(self.root), only)

    def _rows(self, ids: Sequence[int]) -> dict[int, tuple[Any, ...]]:
        """The columns of each image that a hit needs."""
        columns = (
            "path, width, height, taken_at, camera, latitude, longitude,"
            " size, byte_offset, archive, caption, url"
        )
        join = f"LEFT JOIN {schema.archived(self._db)} USING (id)"
        return {id: tuple(row) for id, *row in self._of(ids, columns, join)}
