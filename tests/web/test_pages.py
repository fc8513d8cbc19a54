"""The evaluation's page: complete, self-contained, and harmless whatever a file is called."""

import base64
import dataclasses
import hashlib
import os
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from findings_here import PATHS, make_findings

from clipsearch.cli.render.evaluation import evaluation_record
from clipsearch.evaluation.curve import Curve, Point, Spread
from clipsearch.evaluation.evaluate import Findings
from clipsearch.evaluation.labelled import CaptionedImages
from clipsearch.evaluation.metrics import (
    evaluate_retrieval,
    to_data,
)
from clipsearch.evaluation.summary import PUBLISHED
from clipsearch.paths import absolute_path
from clipsearch.records import Hit, IndexedImage
from clipsearch.search.answer import Answer
from clipsearch.search.duplicates.find import Group, Member
from clipsearch.search.query import SearchOptions
from clipsearch.vectors import l2_normalise
from clipsearch.web.pages import browse, contact_sheet, duplicates, evaluation
from clipsearch.web.pages.document import path_parts, source
from clipsearch.web.session import About, PictureId, Shown

SCRIPT = source("hits.js")


class Page(HTMLParser):
    """What a browser would find in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += attrs
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> Findings:
    """Seven images with hostile names, five of them got wrong."""
    monkeypatch.setattr(evaluation, "thumbnails", lambda root, paths, size: {paths[0]: b"jpeg"})
    return make_findings()


def test_names_are_shown_and_do_nothing(findings: Findings) -> None:
    text = evaluation.page(findings)
    page = Page(text)
    assert set(page.tags) <= {
        *("html", "head", "meta", "link", "title", "style", "body", "main", "header", "section"),
        *("footer", "div", "h1", "h2", "h3", "p", "dl", "dt", "dd", "ul", "ol", "li", "b", "i"),
        *("span", "small", "code", "br", "table", "thead", "tbody", "tr", "th", "td", "details"),
        *("summary", "figure", "figcaption", "img"),
    }
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert page.tags["figure"] == 5
    assert page.tags["img"] == 1  # the only one that could be decoded
    for shown in (
        "<img src=x onerror=alert(1)>.png",
        "' onmouseover='alert(1)'.png",
        '"><script>alert(1)</script>.png',
        3 * "\N{REPLACEMENT CHARACTER}" + ".png",
        "\N{REPLACEMENT CHARACTER}gnp.exe.png",
        "</style><b>dog</b>",
        "<i>mine</i>",
        "<u>broken</u>.jpg could not be decoded and does not count: damaged <image>",
    ):
        assert shown in page.words
    assert "\u202e" not in text


def test_nothing_comes_from_elsewhere(findings: Findings) -> None:
    text = evaluation.page(findings)
    assert "Content-Security-Policy" in text
    assert "default-src 'none'" in text
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    for name, value in Page(text).attributes:
        if name in ("src", "href"):
            assert value is not None
            assert value.startswith("data:")
    assert re.findall(r"url\(", text) == []


def test_a_learning_curve_is_drawn(findings: Findings) -> None:
    assert "<svg" not in evaluation.page(findings)
    points = tuple(
        Point(size, images, Spread(mean, 0.05))
        for size, images, mean in ((1, 4, 0.3), (2, 8, 0.5), (None, 20, 0.9))
    )
    drawn = Curve(4, points, Spread(0.4, 0.02), 5, 10, Spread(0.4, 0.05))
    text = evaluation.page(dataclasses.replace(findings, curve=drawn))
    heights = [float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', text)]
    assert heights == sorted(heights, reverse=True)  # more is higher up
    (words,) = re.findall(r'class="words" .* y1="([\d.]+)"', text)
    assert heights[0] > float(words) > heights[1]
    page = Page(text)
    assert page.tags["circle"] == len(points)
    assert "going from 8 to 20 images brought +40.0 points" in page.words.lower()
    assert "40.0%" in page.words


def test_the_matrix_has_every_picture_once(findings: Findings) -> None:
    text = evaluation.page(findings)
    cells = re.findall(r'title="([^"]*) classified as ([^"]*): (\d+)"', text)
    wrong = [cell for cell in cells if cell[0] != cell[1]]
    assert {(a, b, n) for a, b, n in wrong} == {
        ("cat", "&lt;/style&gt;&lt;b&gt;dog&lt;/b&gt;", "1"),
        ("&lt;/style&gt;&lt;b&gt;dog&lt;/b&gt;", "cat", "2"),
        ("quoted &quot;name&quot;", "a &amp; b", "1"),
        ("quoted &quot;name&quot;", "never seen", "1"),
    }
    assert sum(int(n) for *_, n in cells) == 7
    for row in re.findall(r"<tr><th>[^<]*</th>((?:<td (?:class|colspan).*?)+)</tr>", text):
        spans = [int(span) for span in re.findall(r"colspan=(\d+)", row)]
        if spans or "title=" in row:
            assert sum(spans) + row.count("title=") == 4  # nothing was given to the fourth class


def test_it_says_whether_the_marks_were_met(findings: Findings) -> None:
    words = Page(evaluation.page(findings)).words
    assert "Failed" in words
    assert "top1 0.2857 is below the mark 0.6" in words
    assert "28.6%" in words
    assert "at least 60.0%" in words
    met = dataclasses.replace(findings.evaluation, shortfalls=())
    words = Page(evaluation.page(dataclasses.replace(findings, evaluation=met))).words
    assert "Tested" in words
    assert "All pass marks of the domain were met." in words


def test_published_figures_stand_beside_those_of_the_default_model(findings: Findings) -> None:
    assert "ImageNet" not in evaluation.page(findings)
    model = dataclasses.replace(findings.model, name="ViT-B-16", pretrained="laion2b_s34b_b88k")
    theirs = dataclasses.replace(findings, model=model)
    assert "ImageNet-1k 70.2%" in Page(evaluation.page(theirs)).words
    assert evaluation_record(theirs)["published"] == PUBLISHED["ViT-B-16/laion2b_s34b_b88k"]


def test_captions_have_a_page_too(findings: Findings) -> None:
    rng = np.random.default_rng(0)
    images = l2_normalise(rng.normal(size=(20, 8)))
    captions = tuple(f"caption <{n}>" for n in range(20))
    report = evaluate_retrieval(images, np.roll(-images, 1, axis=0), range(20))
    test_set = CaptionedImages(
        "captions.csv", b"/set", tuple(b"%d.png" % n for n in range(20)), captions, tuple(range(20))
    )
    met = dataclasses.replace(findings.evaluation, report=to_data(report), shortfalls=())
    theirs = dataclasses.replace(findings, evaluation=met, report=report, test_set=test_set)
    page = Page(evaluation.page(theirs))
    missed = sum(rank >= 10 for rank in report.image_ranks)
    assert missed > 0
    assert page.tags["figure"] == missed
    assert f"{missed} captions whose image was missed" in page.words
    assert "image recall@10" in page.words
    shown = next(n for n, rank in enumerate(report.image_ranks) if rank >= 10)
    assert f"place {report.image_ranks[shown] + 1} of 20" in page.words
    assert f"caption <{shown}>" in page.words


def test_the_evaluation_draws_a_key_and_names_its_tables(findings: Findings) -> None:
    text = evaluation.page(findings)
    words = Page(text).words
    for label in ("measured", "95% confidence interval", "pass mark"):
        assert label in words
    assert text.count('class="key"') == 2
    regions = re.findall(
        r'<div class="scroll[^"]*" tabindex="0" role="region" aria-label="(.*?)"', text
    )
    assert set(regions) >= {"Classes with misclassified images", "Confusion matrix"}
    assert text.count('<p class="hint">') == len(regions)


def test_colors_can_be_told_apart() -> None:
    """WCAG AA: 4.5 to 1 for text, 3 to 1 for the edges of fields, in both schemes."""
    found = re.findall(r"--(\w+): light-dark\((#\w+), (#\w+)\);", source("style.css"))
    schemes = [{name: each[at] for name, *each in found} for at in (0, 1)]
    for colors in schemes:
        for ground in ("paper", "card"):
            for name in ("ink", "soft", "right", "wrong", "bar"):
                assert _contrast(colors[name], colors[ground]) >= 4.5, (name, ground, colors)
            assert _contrast(colors["edge"], colors[ground]) >= 3


def _contrast(one: str, other: str) -> float:
    """As WCAG 2.2 defines it."""

    def luminance(color: str) -> float:
        digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
        channels = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


# -- duplicates ----------------------------------------------------------------------------------


def test_what_is_different_about_a_copy_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "thumbnails", lambda root, paths, size: {})

    def member(name: bytes, content: bytes, width: int, size: int, **more: str) -> Member:
        image = IndexedImage(
            1, name, size, 1_700_000_000_000_000_000, content, width, 300, more.get("taken")
        )
        return Member(image, b"/photos", 0.97)

    taken = "2024-05-01T12:00:00"
    best = member(b"a.JPG", b"a", 400, 9000, taken=taken)
    copy = member(b"b.jpeg", b"a", 400, 9000, taken=taken)
    small = member(b"c.webp", b"c", 200, 2000)
    groups = [Group("near-duplicates", (best, copy, small)), Group("copies", (small, small))]
    figures = re.findall("<figure.*?</figure>", duplicates.page(groups, ["sum", "how"]), re.S)
    marked = [re.findall('class="differs">(.*?)</b>', figure) for figure in figures]
    assert marked == [[], [], ["200 × 300", "2.0 kB", "WEBP", "-"], [], []]
    labels = [re.findall("<strong>(.*?)</strong>", figure)[0] for figure in figures]
    assert labels == ["Best", "Identical file", "Similarity 0.970", "Best", "Best"]
    assert "<dt>Taken</dt>" in figures[0]
    assert "<dt>Taken</dt>" not in figures[3]  # known of none in its group


# -- the contact sheet ---------------------------------------------------------------------------


@pytest.fixture
def sheet(tmp_path: Path) -> tuple[list[Hit], str]:
    """Hits of every kind of name, the last of which has no image."""
    hits = [
        Hit(n, name.replace(b"/", b"_"), tmp_path, 0.3 - n / 100, 48, 40, None, n / 50, 0.9)
        for n, name in enumerate(PATHS)
    ]
    classes = ["<i>cat</i>", *[None] * (len(hits) - 1)]
    pictures = {absolute_path(hit): b"jpeg" for hit in hits[:-1]}
    said, notes = ["strong <match>", "48 images match"], ["tested & <well>"]
    return hits, contact_sheet.page(hits, classes, pictures, 'a "<b>cat</b>"', said, notes)


def test_a_card_for_each_hit_whatever_its_name(sheet: tuple[list[Hit], str]) -> None:
    hits, text = sheet
    page = Page(text)
    assert page.tags["figure"] == len(hits)
    assert page.tags["img"] == len(hits) - 1
    assert page.words.count("cannot be shown") == 1 + SCRIPT.count("cannot be shown")
    assert (page.tags["script"], page.tags["b"], page.tags["i"]) == (1, 0, 0)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    for shown in (
        'a "<b>cat</b>"',
        "tested & <well>",
        "<i>cat</i>",
        "0.300",
        "48 \N{MULTIPLICATION SIGN} 40",
    ):
        assert shown in page.words
    assert "Strong <match>48 images match" in page.words
    strengths = re.findall(r'class="strength ([a-z]+)" title="([^"]*)">\1</span>', text)
    assert [strength for strength, _ in strengths] == [*["strong"] * 3, *["fair"] * 4]
    assert strengths[1][1] == (
        "Score: 0.290; Unrelated queries that score as high: 2.0%; "
        "Probability of a right match: 90.0%"
    )
    copied = [value for name, value in page.attributes if name == "data-path"]
    assert copied[1] == os.path.join(hits[1].root, os.fsdecode(hits[1].path))
    links = [value for name, value in page.attributes if name == "href"]
    assert all(link.startswith(("file:///", "data:,", "#")) for link in links if link)


def test_the_nearest_are_dimmed_where_nothing_matches(sheet: tuple[list[Hit], str]) -> None:
    hits, text = sheet
    assert "Closest images" not in text
    text = contact_sheet.page(hits, [None] * len(hits), {}, "", ["no match"], [], nearest=True)
    assert '<h2 class="plain">Closest images</h2><div class="pictures dimmed">' in text
    assert Page(text).tags["figure"] == len(hits)
    text = contact_sheet.page([], [], {}, "", ["no match"], [], nearest=True)
    assert "Closest images" not in text


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("a.png", ("", "", "a.png")),
        (
            "holiday/2024/a_long_name_of_a_file.JPEG",
            ("holiday/2024/", "a_long_name_of_a", "_file.JPEG"),
        ),
        ("notes.of a long story", ("", "notes.of a long ", "story")),
        ("no ending at all", ("", "no ending a", "t all")),
    ],
)
def test_a_name_is_cut_before_its_end(path: str, parts: tuple[str, str, str]) -> None:
    assert path_parts(path) == parts
    assert "".join(parts) == path


def test_the_sheet_runs_its_own_script_and_fetches_nothing(sheet: tuple[list[Hit], str]) -> None:
    _, text = sheet
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text, re.S)
    script = re.search(r"<script>(.*?)</script>", text, re.S)
    assert policy is not None
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"; script-src 'sha256-{digest}';" in policy[1]
    assert policy[1].startswith("default-src 'none'; img-src data:; ")
    assert not re.search(r"""(src|href)=["'](?!data:|file:|#)""", text)


def test_a_path_is_copied_as_it_is(tmp_path: Path) -> None:
    hit = Hit(1, b"two\nlines\rand 'quotes'.png", tmp_path, 0.3, 48, 40, None)
    page = Page(contact_sheet.page([hit], [None], {}, "", [], []))
    (copied,) = [value for name, value in page.attributes if name == "data-path"]
    assert copied == f"{tmp_path}/two\nlines\rand 'quotes'.png"


@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_browse_says_that_nothing_is_calibrated(rate: float) -> None:
    hit = Hit(1, b"a.png", Path("/photos"), 0.25, 48, 40, None, calibrated=False)
    shown = Shown(
        Answer([hit], matching=1, classes=(None,), calibrated=False), [PictureId(0, 1)], []
    )
    about = About([Path("/photos")], 1, "fake", [], ["untested"])
    text = browse.answered(about, SearchOptions(max_false_alarm=rate), shown, [])
    assert "Not calibrated yet: there is no verdict" in text
    assert ("--max-false-alarm is ignored" in text) is (rate < 1)
    calibrated = Shown(dataclasses.replace(shown.answer, calibrated=True), shown.ids, [])
    assert "calibrated" not in browse.answered(about, SearchOptions(), calibrated, [])
