"""What is indexed and what was done, for people and for programs."""

import base64
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fakes import ESCAPES, fake_spec

from clipsearch.cli.render.domain import domain_text
from clipsearch.cli.render.hits import answer_lines
from clipsearch.cli.render.json_lines import json_line
from clipsearch.cli.render.status import models_text, status_record, status_text, summary_lines
from clipsearch.domain.pass_marks import Shortfall
from clipsearch.domain.taxonomy import Domain, DomainClass
from clipsearch.errors import FailureKind
from clipsearch.images.limits import Limits
from clipsearch.indexing.changes import IndexSummary
from clipsearch.records import ClusterSearch, CollectionStatus, Failure, Hit, Scope, Tested
from clipsearch.search.answer import Answer
from clipsearch.search.judge import Judgment
from clipsearch.storage.collection import tested_line as line_on_tests
from clipsearch.storage.evaluations import Evaluation
from clipsearch.text import printable


def hit(path: bytes, root: Path, *, score: float = 0.25, **known: Any) -> Hit:
    return Hit(7, path, root, score, 640, 480, known.pop("taken_at", None), **known)


@dataclass
class Known:
    """What an index knows of its answers, as `Collection` tells it."""

    domain: Domain
    evaluation: Evaluation | None = None
    tested: Tested = "untested"

    is_calibrated: bool = True


def known(name: str = "toys", *shortfalls: Shortfall, evaluated: bool = True) -> Any:
    """An index whose domain has one class, and whose evaluation missed these pass marks."""
    ball = DomainClass("ball", (), ())
    domain = Domain(name, "", "en", ("{}",), (ball,), (), (), {"top1": 0.6})
    if not evaluated:
        return Known(domain)
    found = Evaluation(
        model="f" * 64,
        domain=domain.fingerprint,
        test_set="t" * 64,
        source="labelled",
        made_at="2024-05-03T12:30:00+00:00",
        report={"kind": "retrieval", "images": 80},
        measures={"top1": 0.5},
        shortfalls=shortfalls,
        precision=None,
    )
    return Known(domain, found, "failed" if shortfalls else "tested")


def test_a_summary_tells_failures_first_and_then_the_counts() -> None:
    summary = IndexSummary(
        added=3,
        changed=2,
        moved=1,
        removed=4,
        unchanged=50,
        failed=[(b"caf\xe9.png", "the file is empty")],
        still_failed=6,
        waiting=2,
        unreadable=[(b"private", "Permission denied")],
        links=7,
        embedded=5,
        seconds=1.26,
    )
    assert summary_lines("photos", summary) == [
        "skipping caf�.png: the file is empty",
        "cannot read private: Permission denied",
        "photos: 3 added, 2 changed, 1 moved, 4 removed, 50 unchanged, 1 failed, "
        "6 failed earlier and unchanged since, 2 to be retried by the next run, "
        "7 links not followed; 5 embedded in 1.3 s",
    ]


def test_a_summary_is_short_when_there_is_little_to_tell() -> None:
    assert summary_lines("photos", IndexSummary(unchanged=9, looked_at=7)) == [
        "photos: 9 unchanged; camera and place read from 7"
    ]
    assert summary_lines("photos", IndexSummary(unchanged=9, links=1)) == [
        "photos: 9 unchanged, 1 link not followed"
    ]
    assert summary_lines("photos", IndexSummary()) == ["photos: no images"]


def test_the_summary_of_a_new_index_says_whether_answers_are_tested() -> None:
    summary = IndexSummary(added=1, tested="untested on the domain toys")
    assert summary_lines("photos", summary) == [
        "photos: 1 added",
        "photos: untested on the domain toys",
    ]


_WHOLE = Scope(())


def status(
    root: Path,
    *,
    reason: str = "the file is empty",
    name: str = "fake",
    clusters: ClusterSearch | None = None,
    scope: Scope = _WHOLE,
    kind: FailureKind = "content",
    archived: int = 0,
) -> CollectionStatus:
    return CollectionStatus(
        root=root,
        directory=root / ".clipsearch",
        spec=fake_spec(name=name),
        images=1234,
        archived=archived,
        failed=[(b"caf\xe9.png", reason)],
        failures=[Failure(kind, Limits.here().decoders)],
        scope=scope,
        catalog_bytes=5_000_000,
        vector_bytes=1500,
        created_at="2024-05-01T12:30:00+00:00",
        updated_at="2024-05-02T12:30:00+00:00",
        pending=3,
        clusters=clusters,
    )


def test_status_for_people() -> None:
    text = status_text(status(Path("/photos")), known(), "on this machine")
    assert text.splitlines() == [
        "/photos",
        "  images   1,234",
        "  failed   1",
        "           caf�.png: the file is empty",
        "  model    fake (16 dimensions, on this machine)",
        "  domain   toys (1 class)",
        "  answers  tested on the domain toys with 80 images on 2024-05-03",
        "  index    /photos/.clipsearch",
        "  sizes    catalog 5.0 MB, vectors 1.5 kB",
        "  search   exact",
        "  created  2024-05-01T12:30:00+00:00",
        "  updated  2024-05-02T12:30:00+00:00",
    ]


def test_status_says_what_is_left_out_and_what_is_tried_again() -> None:
    scope = Scope(("private/", os.fsdecode(b"caf\xe9*")), 4_000_000)
    told = status(Path("/photos"), scope=scope, kind="crash")
    lines = status_text(told, known(), "here").splitlines()
    assert "  failed   1, 1 to be retried" in lines
    at = lines.index("  excluded private/")
    assert lines[at + 1 : at + 3] == ["  excluded caf�*", "  limit    4,000,000 pixels per image"]
    record = json.loads(json_line(status_record(told, known())))
    assert record["to_be_tried_again"] == 1
    assert record["exclude"] == ["private/", {"bytes": base64.b64encode(b"caf\xe9*").decode()}]
    assert record["max_pixels"] == 4_000_000


def test_images_in_archives_are_counted_apart() -> None:
    told = status(Path("/photos"), archived=34)
    lines = status_text(told, known(), "here").splitlines()
    assert "  images   1,234, 34 of them in archives" in lines
    assert status_record(told, known())["in_archives"] == 34


def test_damage_is_told() -> None:
    told = replace(status(Path("/photos")), damage="it is damaged", left_out=2)
    *_, file, rows, _created, _updated = status_text(told, known(), "here").splitlines()
    assert file == (
        "  damage   the vector file cannot be used: it is damaged; searches use the catalog, "
        "and the next search or index rewrites it"
    )
    assert rows == (
        "  damage   2 images left out of searches: damaged embedding; repair with: "
        "clipsearch verify --repair, then clipsearch index"
    )
    record = status_record(told, known())
    missing = replace(told, left_out=0, vector_bytes=0)  # as after an interrupted first run
    assert "damage" not in status_text(missing, known(), "here")
    assert (record["vector_file_damage"], record["damaged_embeddings"]) == ("it is damaged", 2)


CLUSTERS = ClusterSearch(lists=5800, probed=181, queries=170, recall=0.9934, scanned=0.034)


NOT_WORTH_IT = ClusterSearch(lists=0, probed=4000, queries=170, recall=0.9971, scanned=0.613)


@pytest.mark.parametrize(
    ("clusters", "text", "search"),
    [
        (
            CLUSTERS,
            "clusters: 181 of 5,800 read per query, recall@10 0.993 measured with 170 text queries",
            "clusters",
        ),
        (
            NOT_WORTH_IT,
            "exact; clusters would read 61% of the vectors, recall@10 0.997 measured with "
            "170 text queries",
            "exact",
        ),
    ],
)
def test_status_says_how_a_large_collection_is_searched(
    clusters: ClusterSearch, text: str, search: str
) -> None:
    told = status(Path("/photos"), clusters=clusters)
    assert f"  search   {text}" in status_text(told, known(), "here").splitlines()
    record = status_record(told, known())
    assert record["search"] == search
    assert record["clusters"] == clusters._asdict()


def test_status_for_programs() -> None:
    collection = known("toys", Shortfall("top1", 0.5, 0.6))
    record = status_record(status(Path(os.fsdecode(b"/caf\xe9"))), collection)
    assert json.loads(json_line(record)) == {
        "root": {"bytes": base64.b64encode(b"/caf\xe9").decode()},
        "index": {"bytes": base64.b64encode(b"/caf\xe9/.clipsearch").decode()},
        "images": 1234,
        "in_archives": 0,
        "failed": [
            {
                "path": {"bytes": base64.b64encode(b"caf\xe9.png").decode()},
                "reason": "the file is empty",
            }
        ],
        "to_be_tried_again": 0,
        "exclude": [],
        "max_pixels": None,
        "model": "fake",
        "fingerprint": "f" * 64,
        "dimensions": 16,
        "catalog_bytes": 5_000_000,
        "vector_bytes": 1500,
        "not_in_vector_file": 3,
        "search": "exact",
        "clusters": None,
        "vector_file_damage": None,
        "damaged_embeddings": 0,
        "domain": "toys",
        "domain_fingerprint": collection.domain.fingerprint,
        "tested": "failed",
        "evaluated_at": "2024-05-03T12:30:00+00:00",
        "measures": {"top1": 0.5},
        "calibrated": True,
        "created_at": "2024-05-01T12:30:00+00:00",
        "updated_at": "2024-05-02T12:30:00+00:00",
    }


def test_no_text_from_an_index_or_a_file_reaches_a_terminal_as_it_is() -> None:
    """An index travels with a disk, and its maker may not be its reader."""
    evil = ESCAPES.replace("\0", "")
    path = os.fsencode(evil)
    summary = IndexSummary(failed=[(path, evil)], unreadable=[(path, evil)])
    texts = [
        *summary_lines(evil, summary),
        *status_text(
            status(Path(evil), reason=evil, name=evil, scope=Scope((evil,))), known(evil), "here"
        ).split("\n"),
        *domain_text(known(evil).domain).split("\n"),
        line_on_tests(known(evil, evaluated=False)),
        *answer_lines(Answer([], Judgment("none", 0.5), nearest=[hit(path, Path("/"))])),
        models_text([("fake", "what it is", Path(evil))]),
    ]
    for text in texts:
        assert text.replace("\n", "") == printable(text.replace("\n", ""))
    assert len(texts) == 3 + 13 + 7 + 1 + 1 + 1


def test_what_was_tested_is_told_in_a_line() -> None:
    assert line_on_tests(known(evaluated=False)) == (
        "untested on the domain toys; test it with: clipsearch evaluate LABELED"
    )
    failed = known("toys", Shortfall("top1", 0.5, 0.6), Shortfall("images", None, 50))
    assert line_on_tests(failed) == (
        "failed the tests of the domain toys with 80 images on 2024-05-03: "
        "top1 0.5 is below the mark 0.6; images was not measured (the mark is 50)"
    )
