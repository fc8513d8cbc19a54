"""An empty index folder, open for writing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import (
    fake_spec,
    unsynchronised,
)

from clipsearch.storage.catalog import FOLDER, Store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


@pytest.fixture
def directory(root: Path) -> Path:
    return root / FOLDER


@pytest.fixture
def writer(root: Path, directory: Path) -> Iterator[Store]:
    with unsynchronised(Store.create(directory, root, fake_spec())) as store:
        yield store
