"""``browse`` answers whoever has its address, and nobody else; no client names a file."""

import http.client
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import pytest
from conftest import make_picture, places_beside
from fakes import FakeEncoder, fake_spec, picture, unit
from serving_here import HOSTILE, make_collection, served

from clipsearch.errors import UsageError
from clipsearch.search import saved
from clipsearch.search.query import Query, Text
from clipsearch.storage import collection
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.vectors import l2_normalise
from clipsearch.web.server import ADDRESS, Server


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images. Not to be changed."""
    return make_collection(tmp_path_factory.mktemp("served") / "photos", 20)


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    with served(root) as server:
        yield server


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def ask(
    server: Server, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> Reply:
    """One request; ``path`` is below the token unless it begins with a slash."""
    whole = path if path.startswith("/") else f"/{server.token}/{path}"
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request(method, whole, headers=headers or {})
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    return Reply(reply.status, dict(reply.headers), body)


STRONG = '<span class="strength strong" title="[0-9.]+% of unrelated queries[^"]*">Strong match</'


def ids(html: str) -> list[str]:
    return re.findall(r'<figure class="hit [^"]*" tabindex="0" data-id="(\d+-\d+)"', html)


def test_fifty_who_ask_at_once_wait_and_are_not_turned_away(server: Server) -> None:
    """Until somebody has time for them, as on a busy machine."""
    with ExitStack() as stack:
        busy = stack.enter_context(Server(server.site, 0, print))  # which does not serve yet
        for _ in range(50):
            connection = socket.create_connection((ADDRESS, busy.server_port), timeout=0.2)
            stack.enter_context(connection)


# -- who is answered -----------------------------------------------------------------------------


def test_the_page_is_there_for_who_has_the_address(server: Server) -> None:
    reply = ask(server, "")
    assert reply.status == 200
    assert server.url == f"http://127.0.0.1:{server.server_port}/{server.token}/"
    assert len(server.token) >= 20
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    for name, value in {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }.items():
        assert reply.headers[name] == value
    policy = reply.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy
    localhost = {"Host": f"LOCALHOST:{server.server_port}"}
    assert ask(server, "", headers=localhost).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:{port}"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1:1"},
        {"Host": "127.0.0.1:{port}.evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1:{port}"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["", "hits?q=a+cat", "thumbnail/0-1", "picture/0-1"])
def test_another_host_or_origin_is_refused(
    server: Server, path: str, headers: dict[str, str]
) -> None:
    sent = {name: value.format(port=server.server_port) for name, value in headers.items()}
    reply = ask(server, path, headers=sent)
    assert (reply.status, reply.text) == (
        403,
        "clipsearch: this server only answers to its own address\n",
    )


def test_the_pages_own_origin_is_none_of_these(server: Server) -> None:
    own = {"Origin": f"http://127.0.0.1:{server.server_port}"}
    assert ask(server, "hits?q=a+cat", headers=own).status == 200


@pytest.mark.parametrize(
    "path", ["/", "/favicon.ico", "/wrong/", "/wrong/picture/0-1", "//", "/%00/", "/é/".lower()]
)
def test_without_the_token_there_is_nothing(server: Server, path: str) -> None:
    reply = ask(server, quote(path, safe="/%"))
    assert reply.status == 403
    assert b"complete address" in reply.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
def test_other_methods_are_not_known(server: Server, method: str) -> None:
    reply = ask(server, "", method)
    assert reply.status == 501
    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_a_head_has_no_body(server: Server) -> None:
    reply = ask(server, "picture/0-1", "HEAD")
    assert (reply.status, reply.body) == (200, b"")
    assert int(reply.headers["Content-Length"]) > 0


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n",
        b"GET TOKEN HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n",
        b"GET /TOKEN HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n",
        b"GET /TOKEN/ HTTP/1.1\r\n\r\n",
        b"GET /TOKEN/ HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nHost: 127.0.0.1:PORT\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ],
    ids=[
        "garbage",
        "version",
        "absolute",
        "no address",
        "no path",
        "half a path",
        "no host",
        "two hosts",
        "long",
    ],
)
def test_what_is_no_such_request_is_refused(server: Server, sent: bytes) -> None:
    sent = sent.replace(b"PORT", b"%d" % server.server_port).replace(
        b"TOKEN", server.token.encode()
    )
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
        connection.sendall(sent)
        reply = b""
        while some := connection.recv(65536):
            reply += some
    assert b"clipsearch: " in reply
    assert b"<!doctype" not in reply
    assert b"Traceback" not in reply


def test_it_listens_on_this_machine_alone(server: Server) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"


def test_a_port_in_use_is_an_error(server: Server) -> None:
    with pytest.raises(UsageError, match=rf"port {server.server_port} is in use") as caught:
        Server(server.site, server.server_port, print)
    assert "--port N" in caught.value.hint


# -- images ------------------------------------------------------------------------------------


def test_pictures_are_the_very_files(server: Server, root: Path) -> None:
    for n, name in enumerate(HOSTILE, start=1):
        reply = ask(server, f"picture/0-{n}")
        assert reply.status == 200
        with open(os.path.join(os.fsencode(root), name), "rb") as file:
            assert reply.body == file.read()
        assert reply.headers["Content-Type"] == "image/png"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in reply.headers["Content-Security-Policy"]
        assert reply.headers["Content-Disposition"] == f"inline; filename*=UTF-8''{quote(name)}"
        thumbnail = ask(server, f"thumbnail/0-{n}")
        assert (thumbnail.status, thumbnail.headers["Content-Type"]) == (200, "image/jpeg")
        assert thumbnail.body.startswith(b"\xff\xd8")


@pytest.mark.parametrize(
    "name",
    [
        *("0-0", "0-999", "1-1", "-1-1", "0--1", "0-1/", "0-1x", "0-01x", "", "0", "0-"),
        *("..", "../../../etc/passwd", "%2e%2e%2fetc%2fpasswd", "0-1%00", "0-99999999999999999999"),
        "0-\N{ARABIC-INDIC DIGIT ONE}",
    ],
)
@pytest.mark.parametrize("kind", ["picture", "thumbnail"])
def test_there_is_no_other_picture(server: Server, kind: str, name: str) -> None:
    reply = ask(server, quote(f"{kind}/{name}", safe="/%"))
    assert reply.status == 404
    assert reply.text.startswith("clipsearch: there is no")


def test_links_fifos_and_what_is_gone_are_not_followed(tmp_path: Path) -> None:
    """Whatever was put in an image's place after it was indexed."""
    root = make_collection(tmp_path / "photos", 16)
    names = sorted(path for path in os.listdir(os.fsencode(root)) if path.startswith(b"plain"))
    link, gone, pipe, inner = (os.path.join(os.fsencode(root), name) for name in names[:4])
    for path in (link, gone, pipe, inner):
        os.unlink(path)
    os.symlink("/etc/passwd", link)
    os.symlink(os.path.join(os.fsencode(root), HOSTILE[1]), inner)
    os.mkfifo(pipe)
    with Store.open(root / FOLDER) as store:
        known = store.known()
    with served(root) as server:
        for name in names[:4]:
            for kind in ("picture", "thumbnail"):
                assert ask(server, f"{kind}/0-{known[name].id}").status == 404
        assert ask(server, f"picture/0-{known[HOSTILE[0]].id}").status == 200


def test_a_damaged_picture_has_no_thumbnail(tmp_path: Path) -> None:
    root = make_collection(tmp_path / "photos", 1)
    (path,) = root.glob("*.png")
    path.write_bytes(b"no picture at all")
    with served(root) as server:
        assert ask(server, "thumbnail/0-1").status == 404
        assert ask(server, "picture/0-1").body == b"no picture at all"


# -- answers -------------------------------------------------------------------------------------


def test_a_text_finds_pictures_and_says_what_is_known(server: Server) -> None:
    reply = ask(server, "hits?q=a+cat&all=on")
    assert len(ids(reply.text)) == 20
    for said in (
        "The 20 images that match best",
        "ranked by fake",
        "untested on the domain everyday",
        "Score",
    ):
        assert said in reply.text
    assert "<dt>Nearest class</dt>" in reply.text


@pytest.fixture(scope="module")
def finding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Three images as near to "a dog" as can be, among hostile ones that mean nothing."""
    root = tmp_path_factory.mktemp("finding") / "photos"
    root.mkdir()
    names = [*HOSTILE, *(b"%d.png" % n for n in range(3))]
    vectors = [picture(name, n).vector for n, name in enumerate(HOSTILE)]
    dog = unit(b"a dog")
    for n, name in enumerate(names):
        make_picture(os.path.join(os.fsencode(root), name), n)
    vectors += [l2_normalise(dog + 0.1 * (n + 1) * unit(n)) for n in range(3)]
    taken = [f"2024-05-{n + 1:02}T12:00:00" for n in range(len(names))]
    with places_beside(root), Store.create(root / FOLDER, root, fake_spec()) as store:
        with store.batch():
            store.add(
                replace(picture(name, n), vector=vector, taken_at=when)
                for n, (name, vector, when) in enumerate(zip(names, vectors, taken, strict=True))
            )
        collection.calibrate(store, FakeEncoder)
    with served(root, max_false_alarm=1.0) as server:
        yield server


def test_a_strong_match_is_said_quietly(finding: Server) -> None:
    text = ask(finding, "hits?q=a+dog").text
    assert [f"0-{len(HOSTILE) + n}" for n in (1, 2, 3)] == ids(text)
    assert "<h2>3 images match</h2>" in text
    assert re.search(STRONG, text)
    assert 'class="notice' not in text
    assert re.search('class="strength strong" title="Score: 0[^"]+%">strong</span>', text)
    fewer = ask(finding, "hits?q=a+dog&k=2").text
    assert "3 images match; showing 2" in fewer
    assert 'name="k" value="62"' in fewer


def test_why_is_folded_away(finding: Server) -> None:
    text = ask(finding, "hits?q=a+dog").text
    fold = re.search('<details class="why"><summary>Why.</summary>(.*?)</details>', text, re.S)
    assert fold is not None
    assert "verdict: strong" in fold[1]
    assert "nearest classes: " in fold[1]


def verdicts(server: Server) -> dict[str, str]:
    """A text for each verdict, among some that mean nothing."""
    found = {}
    for n in range(60):
        text = ask(server, f"hits?q=text+{n}&outside=on").text
        verdict = re.search("verdict: ([a-z]+)", text)
        assert verdict is not None
        found[verdict[1]] = text
    return found


def test_a_weak_match_is_one_line_and_none_shows_the_nearest(finding: Server) -> None:
    found = verdicts(finding)
    said = (
        '<span class="strength weak" title="[0-9.]+% of unrelated queries[^"]*">Weak match</span>'
    )
    assert re.search(said, found["weak"])
    assert "<p>These may not show what you are looking for.</p>" in found["weak"]
    assert 0 < len(ids(found["weak"])) < 15
    assert "notice" not in found["weak"]
    none = found["none"]
    assert '<div class="notice"><h2>No match</h2>' in none
    assert re.search("verdict: none; [0-9.]+% of unrelated queries score as high here<", none)
    assert '<div class="pictures dimmed">' in none
    assert len(ids(none)) == 6
    assert "Show the closest images anyway" in none
    assert not re.search("<(h1|script|b)>", none)  # of the hostile names


def test_strict_takes_no_weak_match_unless_asked_for_all(root: Path) -> None:
    with served(root, max_false_alarm=1.0, strict=True) as server:
        texts = [f"text+{n}&outside=on" for n in range(60)]
        weak = next(q for q in texts if "verdict: weak" in ask(server, f"hits?q={q}").text)
        assert "No strong match" in ask(server, f"hits?q={weak}").text
        assert len(ids(ask(server, f"hits?q={weak}&all=on").text)) == 20


def test_pictures_are_there_before_anything_is_asked(finding: Server) -> None:
    text = ask(finding, "").text
    assert "15 images, newest first" in text
    assert ids(text) == [f"0-{n}" for n in range(15, 0, -1)]
    assert 'class="score"' not in text
    assert not re.search("<(h1|script)>out", text)
    four = ask(finding, "hits?k=4").text
    assert ids(four) == ["0-15", "0-14", "0-13", "0-12"]
    assert 'name="k" value="64"' in four


def test_a_filter_alone_lists_what_passes(finding: Server) -> None:
    assert ids(ask(finding, "hits?after=2024-05-13").text) == ["0-15", "0-14", "0-13"]
    assert "No indexed image passes the filters." in ask(finding, "hits?type=webp").text
    listed = ask(finding, "hits?after=2024-05-13&unlike=0-1").text
    assert ids(listed) == ["0-15", "0-14", "0-13"]
    shown = re.findall(r"Nearest class</dt><dd>([^<]*)</dd>", ask(finding, "hits").text)
    of_class = ask(finding, f"hits?class={quote(shown[0])}").text
    assert len(ids(of_class)) == shown.count(shown[0])


def test_what_is_suggested_is_answered_strongly(finding: Server) -> None:
    row = re.search('<nav class="suggested"[^>]*>(.*?)</nav>', ask(finding, "hits").text)
    assert row is not None
    suggested = re.findall(r'<a href="(.q=[^"]*)">', row[1])
    assert 0 < len(suggested) <= 12
    for query in suggested:
        assert re.search(STRONG, ask(finding, f"hits{query}").text)
    assert "suggested" not in ask(finding, "hits?name=1").text


def test_nothing_is_suggested_that_the_allowed_false_alarms_leave_out(
    finding: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "suggested" in ask(finding, "hits").text
    monkeypatch.setattr(finding.site, "_max_false_alarm", 0.0001)
    assert "suggested" not in ask(finding, "hits").text


def test_the_page_holds_the_same_answer_as_its_part(server: Server) -> None:
    part = ask(server, "hits?q=a+cat&all=on&k=7").text
    assert len(ids(part)) == 7
    page = ask(server, "?q=a+cat&all=on&k=7").text
    assert part in page
    assert 'value="a cat"' in page


def test_filters_hold(server: Server) -> None:
    plain = ask(server, "hits?q=a+cat&all=on&name=plain").text
    assert len(ids(plain)) == 20 - len(HOSTILE)
    assert len(ids(ask(server, "hits?q=a+cat&all=on&width=44").text)) < 20
    shown = re.findall(r"Nearest class</dt><dd>([^<]*)</dd>", plain)
    of_class = ask(server, f"hits?q=a+cat&all=on&class={quote(shown[0])}&name=plain").text
    assert len(ids(of_class)) == shown.count(shown[0])
    nothing = ask(server, "hits?q=a+cat&all=on&type=webp").text
    assert "No match" in nothing
    assert "No indexed image passes the filters." in nothing


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ("width=wide", "&#x27;wide&#x27; is not a width in pixels"),
        ("after=someday", "&#x27;someday&#x27; is not a date"),
        ("type=doc", "&#x27;doc&#x27; is not an image type"),
        ("like=/etc/passwd", "&#x27;/etc/passwd&#x27; is not an image id"),
        ("class=nothing", "has no class &#x27;nothing&#x27;"),
        ("q=^0:cat", "has a weight of 0"),
        ("q=@nothing", "has no probe &#x27;nothing&#x27;"),
        ("like=0-999", "no longer in the index"),
        ("like=7-1", "no longer in the index"),
        ("q=" + "&q=" * 500, "20 images, newest first"),
    ],
)
def test_bad_input_is_answered_in_words(server: Server, fields: str, says: str) -> None:
    query = fields if "q=" in fields else f"q=a+cat&{fields}"
    reply = ask(server, f"hits?{query}")
    assert reply.status == 200
    assert says in reply.text


def test_a_box_takes_what_the_command_line_takes(server: Server) -> None:
    assert ids(ask(server, "hits?q=^2:a+cat&all=on").text) == ids(
        ask(server, "hits?q=a+cat&all=on").text
    )
    saved.save("cats", Query((Text("a cat"), Text("a dog", weight=2.0))))
    assert len(ids(ask(server, "hits?q=@cats&all=on").text)) == 20
    japanese = ask(server, "hits?q=%E3%81%84%E3%81%AC&all=on&outside=on")
    assert "seems to be in Japanese" in japanese.text


def test_refusals_are_shown_in_words(server: Server) -> None:
    refused = ask(server, "hits?q=" + quote("track my neighbour <b>")).text
    assert "Refused" in refused
    assert "asks to follow or watch people" in refused
    assert "<b>" not in refused
    assert ids(refused) == []


def test_marks_stay_and_are_part_of_the_form(server: Server) -> None:
    first, second, *_ = ids(ask(server, "hits?q=a+cat&all=on").text)
    marked = ask(server, f"hits?q=a+cat&all=on&like={second}&unlike={first}").text
    assert f'form="ask" name="like" value="{second}"' in marked
    assert f'form="ask" name="unlike" value="{first}"' in marked
    assert ids(marked)[0] == second
    assert first not in ids(marked)  # what is bad is no hit
    alone = ask(server, f"hits?all=on&like={first}").text
    assert ids(alone)[0] == first
    assert "<dt>Score</dt><dd>1.000</dd>" in alone
    refused = ask(server, f"hits?q=track+my+neighbour&like={first}").text
    assert f'name="like" value="{first}"' in refused  # not lost for a word too many


def test_several_collections_are_one_page(tmp_path: Path, root: Path) -> None:
    other = make_collection(tmp_path / "other", 3)
    with served(root, other) as server:
        assert "23 images" in ask(server, "").text
        found = ids(ask(server, "hits?q=a+cat&all=on").text)
        assert sorted(found) == sorted([*(f"0-{n}" for n in range(1, 21)), "1-1", "1-2", "1-3"])
        assert ask(server, "picture/1-3").body == ask(server, "picture/0-3").body
        assert ask(server, "picture/1-4").status == 404
        liked = ids(ask(server, "hits?all=on&like=1-2&unlike=0-5").text)
        assert set(liked[:2]) == {"0-2", "1-2"}  # the same image twice
        assert "0-5" not in liked


def test_a_change_of_the_collection_shows_at_once(tmp_path: Path, root: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "photos"))
    with served(copy) as server:
        assert "20 images" in ask(server, "").text
        make_picture(copy / "new.png", 99)
        with Store.open_for_writing(copy / FOLDER) as store, store.batch():
            store.add([picture(b"new.png", 99)])
            store.remove([HOSTILE[0]])
        assert "20 images" in ask(server, "").text
        found = ask(server, "hits?q=a+cat&all=on").text
        assert "new.png" in found
        assert "document.title" in found  # others have it in their names
        assert "&lt;script&gt;" not in found
        shutil.rmtree(copy / FOLDER)
        reply = ask(server, "hits?q=a+cat")
        assert reply.status == 200
        assert "is gone" in reply.text
        assert ask(server, "picture/0-2").status == 500
        assert ask(server, "").status == 500


def test_nothing_is_written(tmp_path: Path, root: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "photos"))

    def state() -> dict[str, tuple[int, bytes]]:
        return {
            name: ((at := copy / FOLDER / name).stat().st_mtime_ns, at.read_bytes())
            for name in os.listdir(copy / FOLDER)
        }

    before = state()
    with served(copy) as server:
        ask(server, "?q=a+cat&all=on&like=0-2")
        ask(server, "thumbnail/0-3")
    assert state() == before
