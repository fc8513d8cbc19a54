"""Which line of a TOML text each of its values stands on.

``tomllib`` tells the line of a syntax error, and forgets it where the syntax is right but the
content is not. This walks over a text that ``tomllib`` has accepted, and so may take its syntax
on trust.
"""

import re
from collections.abc import Iterator

Path = tuple[str | int, ...]
"""Keys and positions that lead to a value: ``("classes", 3, "synonyms", 0)``."""

_TOKEN = re.compile(
    r'''(?P<skip>[ \t\r\n]+|\#[^\n]*)
      | (?P<text>"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*')
      | (?P<mark>[\[\]{}=,.])
      | (?P<bare>[^\s\[\]{}=,.\#"']+)''',
    re.VERBOSE | re.DOTALL,
)


def lines(text: str) -> dict[Path, int]:
    """The line, counted from 1, of every table, key and array element in valid TOML."""
    found: dict[Path, int] = {}
    _Walk(text, found).document()
    return found


class _Walk:
    """One pass over the tokens, each of which is ``(line, its text)``."""

    def __init__(self, text: str, found: dict[Path, int]) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self._found = found

    def document(self) -> None:
        """Headers and ``key = value`` until the end."""
        table: Path = ()
        while self._at < len(self._tokens):
            line, token = self._tokens[self._at]
            if token == "[":
                is_array = self._tokens[self._at + 1][1] == "["
                self._at += 2 if is_array else 1
                table = self._inside(self._key(), line, is_array)
                self._at += 2 if is_array else 1
            else:
                self._pair(table)

    def _inside(self, keys: list[str], line: int, is_array: bool) -> Path:
        """The path that a header opens; one in double brackets opens the next of its array."""
        path: Path = ()
        for key in keys[:-1]:
            path = self._last_of((*path, key))
        path = (*path, keys[-1])
        self._found.setdefault(path, line)
        if is_array:
            path = (*path, self._count(path))
            self._found[path] = line
        return path

    def _last_of(self, path: Path) -> Path:
        count = self._count(path)
        return (*path, count - 1) if count else path

    def _count(self, path: Path) -> int:
        count = 0
        while (*path, count) in self._found:
            count += 1
        return count

    def _pair(self, table: Path) -> None:
        line = self._tokens[self._at][0]
        path = (*table, *self._key())
        self._found[path] = line
        self._at += 1  # the equals sign
        self._value(path)

    def _value(self, path: Path) -> None:
        line, token = self._tokens[self._at]
        self._found.setdefault(path, line)
        if token == "[":
            self._at += 1
            position = 0
            while self._tokens[self._at][1] != "]":
                self._value((*path, position))
                position += 1
                self._skip_comma()
            self._at += 1
        elif token == "{":
            self._at += 1
            while self._tokens[self._at][1] != "}":
                self._pair(path)
                self._skip_comma()
            self._at += 1
        else:
            self._at += 1
            # 1.5 is three tokens, and a date with a time is several.
            while self._peek() not in ("", ",", "]", "}") and self._tokens[self._at][0] == line:
                self._at += 1

    def _key(self) -> list[str]:
        keys = [_unquoted(self._tokens[self._at][1])]
        self._at += 1
        while self._peek() == ".":
            keys.append(_unquoted(self._tokens[self._at + 1][1]))
            self._at += 2
        return keys

    def _skip_comma(self) -> None:
        if self._peek() == ",":
            self._at += 1

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""


def _tokens(text: str) -> Iterator[tuple[int, str]]:
    line = 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "skip":
            yield line, match.group()
        line += match.group().count("\n")


def _unquoted(key: str) -> str:
    return key[1:-1] if key[:1] in "\"'" else key
