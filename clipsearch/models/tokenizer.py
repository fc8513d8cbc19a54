"""CLIP's byte-pair tokenizer without torch; gives the same ids as open_clip's.

The vocabulary file is the one that open_clip ships. The ids follow Radford et al. (CLIP, 2021): the
256 bytes, the same 256 at the end of a word, one id for each merge in order of rank, then
start-of-text and end-of-text.
"""

import gzip
import html
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

START, END = 49406, 49407
_MERGES = 49152 - 256 - 2
_BYTES = 600_000
"""Bytes to read: the merges that are used are in the first 530 kB of 3.2 MB."""
_END_OF_WORD = "</w>"

# Equivalent to open_clip's pattern for pure ASCII text.
_ASCII_WORDS = re.compile(
    r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+"
)
_WORDS = r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_SPECIAL = {"<start_of_text>": START, "<end_of_text>": END}


def tokenize(text: str, context_length: int) -> list[int]:
    """Ids of one text with its start and end tokens, cut to ``context_length`` but keeping the end.

    The list is not padded: a causal text tower cannot see anything after the end of the text.
    """
    ids = [START]
    for word in _words(text):
        ids += _word_ids(word)
    ids = [*ids[: context_length - 1], END]
    return ids[: ids.index(END) + 1]


def _words(text: str) -> Sequence[str]:
    plain = text.isascii() and text.isprintable() and "&" not in text
    if not plain:
        # Repairs mis-decoded text. Plain ASCII has none, except in HTML entities.
        import ftfy

        text = ftfy.fix_text(text)
    text = " ".join(html.unescape(html.unescape(text)).split()).lower()
    if text.isascii():
        return _ASCII_WORDS.findall(text)
    import regex

    words: list[str] = regex.findall(_WORDS, text, flags=regex.IGNORECASE)
    return words


@lru_cache(maxsize=65_536)
def _word_ids(word: str) -> tuple[int, ...]:
    """Merge the word's bytes by rank until no adjacent pair is in the table."""
    if word in _SPECIAL:
        return (_SPECIAL[word],)
    ranks, byte_symbols = _vocabulary()
    symbols = [byte_symbols[byte] for byte in word.encode()]
    symbols[-1] += _END_OF_WORD
    merged: dict[str, int] = {}  # symbol -> the rank of the merge that made it
    while len(symbols) > 1:
        best = min(pairwise(symbols), key=lambda pair: ranks.get(" ".join(pair).encode(), _MERGES))
        rank = ranks.get(" ".join(best).encode())
        if rank is None:
            break
        joined, out = "".join(best), []
        at = 0
        while at < len(symbols):
            if tuple(symbols[at : at + 2]) == best:
                out.append(joined)
                at += 2
            else:
                out.append(symbols[at])
                at += 1
        merged[joined] = rank
        symbols = out
    ids = _byte_ids()
    return tuple(512 + merged[s] if s in merged else ids[s] for s in symbols)


@cache
def _vocabulary() -> tuple[dict[bytes, int], list[str]]:
    """Rank of each merge, keyed by its line in the file ("a b"), and the symbol of each byte."""
    package = find_spec("open_clip")  # finds it without importing it (and torch)
    assert package is not None
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    with gzip.open(path) as file:
        lines = file.read(_BYTES).split(b"\n", _MERGES + 1)[1 : _MERGES + 1]
    return dict(zip(lines, range(_MERGES), strict=True)), _byte_symbols()


@cache
def _byte_symbols() -> list[str]:
    """A printable character for each byte: its own if it has one, else one from 256 up."""
    symbols = [chr(byte) for byte in range(256)]
    for n, byte in enumerate(byte for byte in range(256) if not _is_printable(byte)):
        symbols[byte] = chr(256 + n)
    return symbols


def _is_printable(byte: int) -> bool:
    return 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or 0xAE <= byte <= 0xFF


@cache
def _byte_ids() -> dict[str, int]:
    """Ids of single-byte symbols: the printable bytes in order, then the others."""
    symbols = _byte_symbols()
    order = [symbols[b] for b in range(256) if _is_printable(b)]
    order += [symbols[b] for b in range(256) if not _is_printable(b)]
    single = {symbol: n for n, symbol in enumerate(order)}
    return single | {symbol + _END_OF_WORD: 256 + n for symbol, n in single.items()}
