"""Saved queries are kept whole, whoever else saves one, and a damaged file is not written over."""

import threading
import time
from pathlib import Path

import pytest

from clipsearch import paths
from clipsearch.errors import StoreError
from clipsearch.search import saved
from clipsearch.search.query import Part, Query

DOG = Query((Part("text", "a dog", 2.0), Part("image", "/a/ball.png", role="unwanted")))


def test_what_is_saved_is_there_until_it_is_removed() -> None:
    saved.save("dog", DOG)
    saved.save("class", Query((Part("class", "dog"),)))
    assert saved.everything() == {"class": Query((Part("class", "dog"),)), "dog": DOG}
    saved.remove("class")
    assert saved.everything() == {"dog": DOG}


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "5", '{"dog": 5}', '{"dog": [5]}', '{"dog": [{"kind": "text"}]}'),
        '{"dog": [{"kind": "smell", "what": "x"}]}',
        '{"dog": [{"kind": "text", "what": 5}]}',
        '{"dog": [{"kind": "text", "what": "x", "weight": "2"}]}',
    ],
)
def test_a_damaged_file_is_named_and_not_written_over(content: str) -> None:
    file = paths.data_dir() / "queries.json"
    file.parent.mkdir()
    file.write_text(content)
    for action in (saved.everything, lambda: saved.save("cat", DOG)):
        with pytest.raises(StoreError, match=r"queries\.json") as caught:
            action()
        assert "Mend or delete" in caught.value.hint
    assert file.read_text() == content


def test_two_that_are_saved_at_once_are_both_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    writing = threading.Event()
    write_whole = saved.write_whole

    def slowly(path: Path, data: bytes) -> None:
        writing.set()
        time.sleep(0.3)  # long enough for the other to have read what there was
        write_whole(path, data)

    monkeypatch.setattr(saved, "write_whole", slowly)
    first = threading.Thread(target=saved.save, args=("first", DOG))
    first.start()
    assert writing.wait(10)
    saved.save("second", DOG)
    first.join()
    assert saved.everything() == {"first": DOG, "second": DOG}
