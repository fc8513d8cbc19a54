"""The tokenizer gives the ids that open_clip's own gives, for any text at all."""

import subprocess
import sys
import textwrap

import open_clip
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

from clipsearch.models.tokenizer import END, START, tokenize

OPEN_CLIP = open_clip.get_tokenizer("ViT-B-16")
CONTEXTS = [77, 32, 5]
TIMELESS: dict = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}


def check(text: str, context_length: int) -> None:
    """The same ids up to the end of the text, and nothing but what no tower sees behind it."""
    theirs = OPEN_CLIP([text], context_length=context_length)[0].tolist()
    ours = tokenize(text, context_length)
    assert ours == theirs[: theirs.index(END) + 1]
    assert max(theirs) == END, "the pooled position is that of the first end-of-text token"


@pytest.mark.parametrize("context_length", CONTEXTS)
def test_class_names_in_templates_have_open_clips_ids(context_length: int) -> None:
    templates = OPENAI_IMAGENET_TEMPLATES
    step = 1 if context_length == 77 else 7
    for n, name in enumerate(IMAGENET_CLASSNAMES[::step]):
        check(templates[n % len(templates)](name), context_length)
        check(name, context_length)


def test_every_template_has_open_clips_ids() -> None:
    for template in OPENAI_IMAGENET_TEMPLATES:
        check(template("Saint-Bernard's puppy (2)"), 77)


ODD = [
    *("", " ", "\n\t ", ".", "a", "A", "1", "1234567890", "3.14", "_", "''", "'", "-"),
    *("<start_of_text>", "a <end_of_text> b", "<END_OF_TEXT>", "x<start_of_text>y<end_of_text>"),
    *("a < b &amp;lt; c", "a<b &amp;amp;lt;", "&lt;end_of_text&gt;"),
    *("<|endoftext|>", "end_of_text", "<end_of_text", "<<end_of_text>>"),
    *("don't", "I'LL", "we've you're he'd I'm 'tis", "'S", "rock'n'roll", "'\u017f", "it\u2019s"),
    *("&amp;", "&lt;b&gt;", "AT&T", "a & b", "&notit;", "&lt", "&#65;&#x42;", "&#xD800;", "&#0;"),
    *("&amp;lt;", "&amp;amp;lt;", "&amp;amp;amp;lt;", "&amp;amp;amp;amp;lt;"),
    *("&Atilde;&copy;", "&ldquo;quoted&rdquo;", "&EACUTE;", "&fflig;", "&nbsp;x&nbsp;", "&hellip;"),
    *("caf\u00e9", "cafe\u0301", "caf\u00c3\u00a9", "\u00e2\u20ac\u0153hi\u00e2\u20ac\u009d"),
    *("\u201cquoted\u201d", "na\u00efve \u2014 r\u00e9sum\u00e9", "stra\u00dfe", "\u0130stanbul"),
    *("\u212aelvin", "\u017fort", "\ufb01sh", "\uff26\uff55\uff4c\uff4c"),
    *("\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2", "\u0642\u0637\u0629", "\u2167", "x\u00b2"),
    *("\u65e5\u672c\u8a9e\u306e\u5199\u771f", "\u043a\u043e\u0448\u043a\u0430", "\u00bd"),
    *("\U0001f44d\U0001f3fd", "\U0001f468\u200d\U0001f469\u200d\U0001f467"),
    *("\x00", "a\x00b", "\x1f\x7f", "\x1b[31mred\x1b[0m", "a\x85b", "a\u2028b", "zero\u200bwidth"),
    *("\ufeffbom", "soft\u00adhyphen", "\ufffd", "\ud800", "a\udcffb", "a\xa0b\u3000c"),
    *("line\nbreak\r\nand\ttab", "  many   spaces  ", "UPPER lower MiXeD", "a/b\\c|d", "!?!?...;;"),
    *("x" * 300, "supercalifragilisticexpialidocious " * 3, "word " * 200),
    *("1 " * 100, "\u00e9" * 90),
]  # fmt: skip


@pytest.mark.parametrize("context_length", CONTEXTS)
@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_odd_texts_have_open_clips_ids(text: str, context_length: int) -> None:
    check(text, context_length)


AWKWARD = st.sampled_from(
    [
        *("&", "amp;", "lt;", "#x", ";", "'s", "'LL", "<end_of_text>", "<start_of_text>", " "),
        *("\u00c3", "\u00a9", "\u00e2\u20ac\u2122", "\u212a", "\u0130", "\u0301", "\u200d"),
        *("9", "Z", "\n"),
    ]
)


@settings(max_examples=300, **TIMELESS)
@given(st.text(max_size=60), st.sampled_from(CONTEXTS))
def test_any_text_has_open_clips_ids(text: str, context_length: int) -> None:
    check(text, context_length)


@settings(max_examples=300, **TIMELESS)
@given(st.lists(AWKWARD | st.text(st.characters(max_codepoint=0x17F), max_size=3), max_size=20))
def test_any_mixture_of_what_is_awkward_has_open_clips_ids(parts: list[str]) -> None:
    check("".join(parts), 77)


@settings(max_examples=100, **TIMELESS)
@given(st.text(st.sampled_from("abcdefghij klmnop.,'-&;#<>_0123456789"), max_size=80))
def test_any_plain_text_has_open_clips_ids(text: str) -> None:
    check(text, 77)


@settings(max_examples=100, **TIMELESS)
@given(st.text(), st.integers(2, 90))
def test_ids_start_end_and_fit_whatever_the_text(text: str, context_length: int) -> None:
    ids = tokenize(text, context_length)
    assert ids[0] == START
    assert ids.index(END) == len(ids) - 1
    assert len(ids) <= context_length
    assert all(0 <= n <= END for n in ids)


def test_a_long_text_is_cut_and_keeps_its_end() -> None:
    ids = tokenize("cat " * 100, 77)
    assert len(ids) == 77
    assert ids == [START, *tokenize("cat", 77)[1:2] * 75, END]


def test_a_text_ends_where_it_says_so_itself() -> None:
    assert tokenize("a cat <end_of_text> on a mat", 77) == tokenize("a cat", 77)


@pytest.mark.process
def test_a_plain_query_needs_neither_torch_nor_the_repairs_that_odd_text_needs() -> None:
    program = textwrap.dedent(
        """
        import sys
        from clipsearch.models.tokenizer import tokenize
        tokenize("a dog's ball, on the beach (2)", 77)
        assert not {"torch", "open_clip", "ftfy", "regex"} & set(sys.modules)
        tokenize("un caf\u00e9", 77)
        assert "ftfy" in sys.modules
        assert not {"torch", "open_clip"} & set(sys.modules)
        """
    )
    subprocess.run([sys.executable, "-c", program], check=True)
