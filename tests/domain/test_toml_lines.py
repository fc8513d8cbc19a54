"""Every value's line, whatever way TOML was written."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.domain import toml_lines

TEXT = '''\
# a comment = "not a key"
name = "x # y = [1]"
numbers = [1.5, -2, 1e3]
"quoted key" = 'literal \\ "text"'
dotted.key.path = true
when = 1979-05-27 07:32:00
long = """
two = "lines"
"""
list = [
    "first",   # with a comment ]
    "second, with a comma",
    [ "nested" ],
]
inline = { a = "1", b = { c = [2, 3] } }

[table]
key = "]"

[[classes]]
name = "dog"
synonyms = ["puppy",
            "hound"]

[[classes]]
name = "cat"
[classes.more]
deep = 1
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("name",), 2),
        (("numbers",), 3),
        (("numbers", 2), 3),
        (("quoted key",), 4),
        (("dotted", "key", "path"), 5),
        (("when",), 6),
        (("long",), 7),
        (("list",), 10),
        (("list", 0), 11),
        (("list", 1), 12),
        (("list", 2, 0), 13),
        (("inline", "b", "c", 1), 15),
        (("table", "key"), 18),
        (("classes", 0), 20),
        (("classes", 0, "synonyms", 1), 23),
        (("classes", 1, "name"), 26),
        (("classes", 1, "more", "deep"), 28),
    ],
)
def test_line_of_each_value(path: toml_lines.Path, line: int) -> None:
    tomllib.loads(TEXT)
    assert toml_lines.lines(TEXT)[path] == line


texts = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=8)


@given(st.lists(texts, max_size=4), st.lists(st.lists(texts, max_size=3), max_size=4))
def test_finds_every_value_of_a_generated_file(heads: list[str], groups: list[list[str]]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    text = "heads = [\n" + "".join(f"  {quoted(head)}, # [{{\n" for head in heads) + "]\n"
    for group in groups:
        text += f"[[groups]]\nitems = [{', '.join(map(quoted, group))}]\n"
    assert tomllib.loads(text).get("groups", []) == [{"items": group} for group in groups]
    found = toml_lines.lines(text)
    for n in range(len(heads)):
        assert found["heads", n] == n + 2
    for g, group in enumerate(groups):
        for n in range(len(group)):
            assert found["groups", g, "items", n] == len(heads) + 2 * g + 4
