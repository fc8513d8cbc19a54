"""Which images a filter lets through."""

import pytest
from fakes import (
    picture,
)
from small_index import QUERY, add

from clipsearch.records import Filter
from clipsearch.storage.catalog import Store

NEIGHBOURS = [
    *(b"a", b"a/1", b"a/b/2", b"a/\xff", b"a/0"),
    *(b"ab", b"ab/3", b"a0", b"a0/4", b"a.png", b"a!/5", b"a-b/6", b"A/7", b"b/a/8"),
]


@pytest.mark.parametrize("under", [b"a", b"a/b", b"ab", b"a0", b"b/a", b"b", b"A", b"none", b"a/1"])
@pytest.mark.parametrize("in_file", [False, True])
def test_under_means_the_folder_and_none_of_its_namesakes(
    writer: Store, under: bytes, in_file: bool
) -> None:
    images = [picture(path, n) for n, path in enumerate(NEIGHBOURS)]
    add(writer, images)
    if in_file:
        writer.update_vector_index()
    expected = {path for path in NEIGHBOURS if path == under or path.startswith(under + b"/")}
    assert set(writer.known(under)) == expected
    assert {hit.path for hit in writer.search(QUERY, 99, Filter(under))} == expected
    assert set(writer.known()) == set(NEIGHBOURS)
