"""JSON becomes records of the right types, or a ValueError that says what is wrong where."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from clipsearch import typed


@dataclass(frozen=True, slots=True)
class Leaf:
    name: str
    share: float | None = None


@dataclass(frozen=True)
class Tree:
    kind: Literal["oak", "elm"]
    count: int
    size: tuple[float, float]
    leaves: tuple[Leaf, ...]
    names: tuple[str, ...]
    marks: Mapping[str, float]
    ranks: Mapping[int, Leaf]
    anything: Any = None
    either: Leaf | int = 0


WHOLE: dict[str, Any] = {
    "kind": "oak",
    "count": 3,
    "size": [1, 2.5],
    "leaves": [{"name": "a", "share": None}, {"name": "b", "share": 1}, {"name": "c"}],
    "names": ["x", "y"],
    "marks": {"top": 1, "low": -0.5},
    "ranks": {"1": {"name": "first"}},
    "anything": [{"of": ["any", 5]}],
    "either": {"name": "d"},
}


def test_every_kind_of_value_is_read() -> None:
    assert typed.from_json(Tree, json.dumps(WHOLE)) == Tree(
        "oak",
        3,
        (1.0, 2.5),
        leaves=(Leaf("a"), Leaf("b", 1.0), Leaf("c")),
        names=("x", "y"),
        marks={"top": 1.0, "low": -0.5},
        ranks={1: Leaf("first")},
        anything=[{"of": ["any", 5]}],
        either=Leaf("d"),
    )
    assert typed.from_json(Leaf | Tree, b'{"name": "a"}') == Leaf("a")
    assert typed.from_json(tuple[str, ...], "[]") == ()


def test_parts_may_be_ready() -> None:
    assert typed.record(Leaf, {"name": "a"}, share=0.5) == Leaf("a", 0.5)
    with pytest.raises(ValueError, match="'share'"):
        typed.record(Leaf, {"name": "a", "share": 0.5}, share=0.5)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"kind": "ash"}, "it.kind"),
        ({"kind": []}, "it.kind"),
        ({"count": True}, "it.count"),
        ({"count": 1.0}, "it.count"),
        ({"count": 2**63}, "it.count"),
        ({"size": [1.0]}, "it.size has 1 values"),
        ({"size": [1.0, 10**400]}, r"it.size\[1\]"),
        ({"size": [1.0, float("nan")]}, r"it.size\[1\]"),
        ({"size": {"0": 1, "1": 2}}, "it.size"),
        ({"leaves": ["a"]}, r"it.leaves\[0\] is not a Leaf"),
        ({"leaves": [{"name": "a"}, {"share": 1}]}, r"it.leaves\[1\] lacks"),
        ({"names": ["a", 5]}, r"it.names\[1\]"),
        ({"names": "text"}, "it.names"),
        ({"marks": {"top": "1"}}, "it.marks.top"),
        ({"marks": []}, "it.marks"),
        ({"ranks": {"first": {"name": "a"}}}, "first"),
        ({"either": {"name": 5}}, "it.either.name"),
        ({"either": "x"}, "it.either"),
        ({"unheard": 1}, "unknown field 'unheard'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(change: dict[str, Any], where: str) -> None:
    with pytest.raises(ValueError, match=where):
        typed.from_json(Tree, json.dumps(WHOLE | change))


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", "[" * 100_000, b"\xff", 5, None])
def test_what_is_no_json_object_is_a_value_error(text: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (json's own error is one of its kind)
        typed.from_json(Leaf, text)
