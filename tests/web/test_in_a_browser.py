"""The pages in a real browser: 500 hits, names that attack, a phone and a desktop."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from findings_here import make_findings
from serving_here import HOSTILE, make_collection, served

from clipsearch.images.decode import jpeg
from clipsearch.paths import absolute_path
from clipsearch.records import Hit
from clipsearch.web.pages import contact_sheet, evaluation
from clipsearch.web.server import Server

COUNT = 500
WIDTHS = {"phone": 390, "desktop": 1280}
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not CHROMIUM, reason="there is no chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page, and everything that should not happen on it."""

    page: Any
    home: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def focused(self) -> int:
        """Which hit has the focus, from 0; -1 for none."""
        return self.page.evaluate(
            "[...document.querySelectorAll('figure.hit')].indexOf(document.activeElement)"
        )

    def count(self) -> int:
        return self.page.locator("figure.hit").count()

    def until(self, expression: str) -> None:
        """Wait for this to hold. The page's policy lets playwright's own waiting do nothing."""
        end = time.monotonic() + 20
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression
            self.page.wait_for_timeout(20)

    def fits(self) -> bool:
        """Whether nothing is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@contextmanager
def watched(browser: Any, url: str, home: str, width: int, **more: Any) -> Iterator[Watched]:
    """Open a page. At the end nothing was complained of, and nothing asked of anyone else."""
    context = browser.new_context(viewport={"width": width, "height": 844}, **more)
    page = context.new_page()
    seen = Watched(page, home)
    page.on("console", lambda message: seen.complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("dialog", lambda dialog: seen.complaints.append(f"dialog: {dialog.message}"))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.goto(url)
    yield seen
    assert seen.complaints == []
    assert [url for url in seen.requests if not url.startswith((home, "data:"))] == []
    assert page.title() not in ("owned", "1")
    assert page.locator("figure.hit h1, figure.hit script, figure.hit style").count() == 0
    context.close()


# -- the contact sheet ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A contact sheet of 500 hits."""
    folder = tmp_path_factory.mktemp("sheet")
    names = [*HOSTILE, *(b"plain/%03d.png" % n for n in range(COUNT - len(HOSTILE)))]
    hits = [
        Hit(n, name, folder, 0.9 - n / 1000, 640, 480, "2024-05-31T12:00:00", n / 1000, 0.5)
        for n, name in enumerate(names)
    ]
    picture = jpeg(np.random.default_rng(0).integers(0, 255, (224, 224, 3), np.uint8))
    classes = ["<b>cat</b>" if n % 2 else "a class with a rather long name" for n in range(COUNT)]
    page = contact_sheet.page(
        hits,
        classes,
        dict.fromkeys(map(absolute_path, hits[1:]), picture),
        "q" * 300,
        ["m"],
        ["<i>"],
    )
    path = folder / "sheet.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.mark.parametrize(("device", "scheme"), [("phone", "dark"), ("desktop", "light")])
def test_the_contact_sheet(browser: Any, sheet: Path, device: str, scheme: str) -> None:
    url = sheet.as_uri()
    with watched(browser, url, url, WIDTHS[device], color_scheme=scheme) as seen:
        page = seen.page
        assert seen.count() == COUNT
        assert seen.fits()
        loaded = "[...document.images].slice(0, 4).every(i => i.complete && i.naturalWidth === 224)"
        seen.until(loaded)
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(251, 250, 248)") == (scheme == "light")
        page.keyboard.press("ArrowRight")
        assert seen.focused() == 0
        page.keyboard.press("l")
        assert seen.focused() == 1
        tops = page.evaluate("[...document.querySelectorAll('figure')].map(f => f.offsetTop)")
        across = tops.count(tops[0])
        assert across == 2 if device == "phone" else across > 4
        page.keyboard.press("ArrowDown")
        assert seen.focused() == 1 + across
        page.keyboard.press("k")
        assert seen.focused() == 1
        for _ in range(30):
            page.keyboard.press("ArrowUp")
        assert seen.focused() == 0


def test_the_path_is_copied(browser: Any, sheet: Path) -> None:
    url = sheet.as_uri()
    with watched(
        browser, url, url, 1280, permissions=["clipboard-read", "clipboard-write"]
    ) as seen:
        for name in HOSTILE[:4]:
            seen.page.keyboard.press("ArrowRight")
            seen.page.keyboard.press("c")
            seen.page.wait_for_selector("output.shown")
            copied = seen.page.evaluate("navigator.clipboard.readText()")
            assert copied == os.path.join(sheet.parent, name.decode())
            seen.page.evaluate("document.querySelector('output').classList.remove('shown')")


# -- the evaluation ------------------------------------------------------------------------------


@pytest.mark.parametrize("device", WIDTHS)
def test_the_evaluation_fits_and_says_what_can_be_scrolled(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(evaluation, "thumbnails", lambda root, paths, size: {})
    path = tmp_path / "page.html"
    path.write_text(evaluation.page(make_findings()), encoding="utf-8")
    with watched(browser, path.as_uri(), path.as_uri(), WIDTHS[device]) as seen:
        page = seen.page
        assert seen.fits()
        table = page.locator(".scroll").first
        wider = table.evaluate("box => box.scrollWidth > box.clientWidth")
        assert wider is (device == "phone")
        assert page.locator(".hint").first.is_visible() is wider
        table.focus()
        page.keyboard.press("ArrowRight")
        seen.until(f"(document.querySelector('.scroll').scrollLeft > 0) === {str(wider).lower()}")
        used = page.evaluate(
            """() => Math.max(...[...document.querySelectorAll(".measures")]
                .map(each => each.getBoundingClientRect().right))"""
        )
        assert used > 0.85 * WIDTHS[device]


# -- browse --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(make_collection(tmp_path_factory.mktemp("served") / "photos", COUNT)) as server:
        yield server


@pytest.mark.parametrize("device", WIDTHS)
def test_browse_with_many_hits(browser: Any, server: Server, device: str) -> None:
    url = f"{server.url}?q=a+cat&all=on&k={COUNT}"
    with watched(browser, url, server.url, WIDTHS[device]) as seen:
        page = seen.page
        assert seen.count() == COUNT
        assert seen.fits()
        seen.until("document.querySelector('figure.hit img').naturalWidth === 224")
        page.keyboard.press("End")
        page.locator("figure.hit").last.scroll_into_view_if_needed()
        seen.until("document.querySelector('figure.hit:last-child img').naturalWidth === 224")
        assert seen.fits()


@pytest.mark.parametrize("device", WIDTHS)
def test_browse_by_keyboard(browser: Any, server: Server, device: str) -> None:
    with watched(browser, server.url, server.url, WIDTHS[device]) as seen:
        page = seen.page
        assert page.evaluate("document.activeElement.name") == "q"
        assert seen.count() == 60  # before anything is typed
        page.locator(".filters summary").click()
        page.get_by_label("Include poor matches").check()
        page.keyboard.press("/")
        page.keyboard.type("a cat")  # live: nothing else is pressed
        seen.until("location.search.includes('q=a+cat')")
        assert seen.count() == 60
        page.keyboard.press("ArrowDown")
        assert seen.focused() == 0
        first = page.locator("figure.hit").first.get_attribute("data-id")
        page.keyboard.press("ArrowRight")
        second = page.locator("figure.hit").nth(1).get_attribute("data-id")

        page.keyboard.press("g")
        page.wait_for_selector(f"figure.good[data-id='{second}']")
        assert page.locator("figure.hit").first.get_attribute("data-id") == second
        assert seen.focused() == 0  # the focus went along with the image
        page.locator(f"figure[data-id='{first}']").focus()
        page.keyboard.press("b")
        page.wait_for_selector(f".mark.bad[data-unmark='{first}']")
        assert page.locator(f"figure[data-id='{first}']").count() == 0
        assert f"like={second}" in page.url
        assert f"unlike={first}" in page.url
        page.locator(f".mark.bad[data-unmark='{first}']").click()
        page.wait_for_selector(f"figure[data-id='{first}']")
        assert "unlike" not in page.url

        page.locator("figure.hit").nth(2).focus()
        third = page.locator("figure.hit").nth(2).get_attribute("data-id")
        page.keyboard.press("m")
        seen.until(f"document.querySelector('figure.hit').dataset.id === '{third}'")
        assert page.locator("[name=q]").input_value() == ""
        page.go_back()
        page.wait_for_selector("[name=q][value='a cat']")
        assert seen.fits()


def test_the_tab_key_reaches_the_buttons_of_the_image_that_has_the_focus(
    browser: Any, server: Server
) -> None:
    with watched(browser, f"{server.url}?q=a+cat&all=on", server.url, 1280) as seen:
        page = seen.page
        assert page.get_by_role("heading", level=1).count() == 1
        page.locator("figure.hit").first.focus()
        reached = []
        for _ in range(6):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.textContent"))
        assert reached[:5] == ["Details", "Good", "Bad", "Similar", "Copy"]
        assert seen.focused() == 1
        page.keyboard.press("Shift+Tab")
        assert seen.focused() == 0
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # opens the details, and not the image
        assert page.evaluate("document.querySelector('figure.hit details').open")
        assert not page.evaluate("document.querySelector('dialog').open")
        spoken = page.get_by_role("status").first
        page.locator("[name=q]").fill("a dog")
        seen.until("document.getElementById('status').textContent !== ''")
        assert spoken.text_content() == page.locator("#answer h2").first.text_content()


def test_on_a_phone_nothing_is_cut_off_and_no_keys_are_told_of(
    browser: Any, server: Server
) -> None:
    with watched(browser, server.url, server.url, 390, has_touch=True, is_mobile=True) as seen:
        page = seen.page
        assert not page.locator(".keys").is_visible()
        assert page.evaluate(
            """() => {
                const box = document.querySelector("[name=q]"), style = getComputedStyle(box);
                const pen = document.createElement("canvas").getContext("2d");
                pen.font = style.font;
                const inside = box.clientWidth - 2 * parseFloat(style.paddingLeft);
                return pen.measureText(box.placeholder).width < inside;
            }"""
        )
        ends = page.evaluate(  # of names, however long
            """() => [...document.querySelectorAll("figure.hit")].every(hit =>
                hit.querySelector(".name span:last-child").getBoundingClientRect().right
                <= hit.getBoundingClientRect().right)"""
        )
        assert ends
    with watched(browser, server.url, server.url, 1280) as seen:
        assert seen.page.locator(".keys").is_visible()


def test_a_picture_large(browser: Any, server: Server) -> None:
    url = f"{server.url}?q=a+cat&all=on"
    with watched(browser, url, server.url, 390) as seen:
        page = seen.page
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        seen.until("document.querySelector('dialog img').naturalWidth === 48")
        page.keyboard.press("ArrowRight")
        second = page.locator("figure.hit a").nth(1).get_attribute("href")
        seen.until(f"document.querySelector('dialog img').src.endsWith('{second}')")
        page.keyboard.press("Escape")
        seen.until("!document.querySelector('dialog').open")
        assert seen.focused() == 1


def test_the_page_follows_the_form_and_says_refusals(browser: Any, server: Server) -> None:
    with watched(browser, f"{server.url}?q=a+cat&all=on", server.url, 1280) as seen:
        page = seen.page
        assert seen.count() == 60
        page.get_by_text("Show more").click()
        seen.until("document.querySelectorAll('figure.hit').length === 120")
        page.locator("[name=q]").fill("a dog")
        seen.until("document.querySelectorAll('figure.hit').length === 60")
        page.get_by_label("File name").fill("plain 01")
        seen.until("document.querySelectorAll('figure.hit').length === 10")
        page.get_by_label("File type").select_option("webp")
        page.wait_for_selector("text=No indexed image passes the filters.")
        page.locator("[name=q]").fill("track my neighbour")
        page.wait_for_selector("text=asks to follow or watch people")
        page.get_by_label("File type").select_option("")
        page.get_by_label("File name").fill("")
        page.get_by_label("Include poor matches").uncheck()
        page.locator("[name=q]").fill("a cat and a dog")
        page.keyboard.press("Enter")
        seen.until("!document.querySelector('[aria-busy]')")
        if page.get_by_text("Show the closest images anyway").count():
            page.get_by_text("Show the closest images anyway").click()
            seen.until("location.search.includes('all=on')")
            assert seen.count() == 60


def test_it_works_without_its_script(browser: Any, server: Server) -> None:
    url = f"{server.url}?all=on"
    with watched(browser, url, server.url, 390, java_script_enabled=False) as seen:
        seen.page.locator("[name=q]").fill("a cat")
        seen.page.get_by_role("button", name="Search").click()
        assert seen.count() == 60
