"""What is told of the images that a probe is trained on; more in ``test_evaluate``."""

from clipsearch.evaluation.train import without_copies


def test_copies_count_once() -> None:
    rows, notes = without_copies([0, 0, 1, 1, 1], [b"a", b"a", b"a", b"b", b"c"])
    assert rows == [0, 2, 3, 4]
    assert notes == (
        "1 image is left out: the same file is already in the same class",
        "1 image is labeled twice: the same file is also in another class",
    )
    assert without_copies([0, 1], [b"a", b"b"]) == ([0, 1], ())
