"""``browse``: a page for one person on this machine, who has its address.

The server listens on 127.0.0.1 only. All pages are under a path that nobody can guess, so other
users of the machine see nothing. It rejects requests with a foreign host name, so a page from
elsewhere cannot point its own host name here (DNS rebinding) and read the answers. Images are
requested by catalog id, never by path. The server writes nothing.
"""

import errno
import hmac
import os
import secrets
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qs, quote

from clipsearch.errors import ClipsearchError, UsageError
from clipsearch.images.thumbnails import Thumbnailer
from clipsearch.records import Filter, Source, Span
from clipsearch.search import saved
from clipsearch.search.query import Class, Query, SearchOptions, Stored, Text
from clipsearch.web.pages import browse, hits
from clipsearch.web.session import OpenCollections, PictureId

ADDRESS = "127.0.0.1"

Fields = Mapping[str, str]
"""The fields of a form, each with its last value."""

HITS = 60
"""Hits on the first page."""
MOST_HITS = 1000

_MARKS: tuple[tuple[str, hits.Mark], ...] = (("like", "good"), ("unlike", "bad"))
_MOST_MARKS = 200
_MOST_FIELDS = 2 * _MOST_MARKS + 50
_SECONDS_IDLE = 60
_CHUNK = 1 << 18

_TYPES = {
    **dict.fromkeys((b".jpg", b".jpeg", b".jpe", b".jfif", b".mpo"), "image/jpeg"),
    **dict.fromkeys((b".png", b".apng"), "image/png"),
    **dict.fromkeys((b".bmp", b".dib"), "image/bmp"),
    **dict.fromkeys((b".tif", b".tiff"), "image/tiff"),
    **dict.fromkeys((b".heic", b".heif", b".hif"), "image/heic"),
    b".webp": "image/webp",
    b".gif": "image/gif",
    b".avif": "image/avif",
}

_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_NOTHING = "default-src 'none'; sandbox; frame-ancestors 'none'"
"""The Content-Security-Policy of everything except the page itself."""


class Site:
    """Provides pages, hits, thumbnails and images."""

    def __init__(
        self,
        collections: OpenCollections,
        thumbnailer: Thumbnailer,
        read_filter: Callable[[Fields], Filter],
        max_false_alarm: float,
        *,
        strict: bool = False,
    ) -> None:
        """``read_filter`` parses the filters of the form and may raise UsageError.

        strict: accept only strong matches.
        """
        self._collections = collections
        self._thumbnailer = thumbnailer
        self._read_filter = read_filter
        self._max_false_alarm = max_false_alarm
        self._strict = strict

    def page(self, query: str) -> str:
        """The whole page for a query string."""
        fields, _ = _read(query)
        return browse.page(self._collections.about(), fields, self.hits(query))

    def hits(self, query: str) -> str:
        """The part of the page that changes: hits, or why there are none."""
        fields, marked = _read(query)
        marks: list[tuple[PictureId, hits.Mark]] = []
        try:
            for name, mark in _MARKS:
                marks += [(PictureId.read(text), mark) for text in marked[name]]
            parts = saved.read(text) if (text := fields.get("q", "").strip()) else ()
            seen = (Stored(id, place, role=mark) for (place, id), mark in marks if mark)
            class_name = fields.get("class", "").strip()
            asked = Query((*parts, *seen))
            if class_name and not asked.has_aim:
                asked = Query((Class(class_name), *seen))
            options = SearchOptions(
                k=_number(fields.get("k"), HITS, MOST_HITS),
                only=self._read_filter(fields),
                class_name=class_name,
                max_false_alarm=self._max_false_alarm,
                strict=self._strict and not fields.get("all"),
                all=bool(fields.get("all")),
                allow_out_of_domain=bool(fields.get("outside")),
                classes=True,
                explain=True,
            )
            about = self._collections.about()
            if not asked.has_aim:
                # A suggestion opens a page without filters, except for the folder being browsed.
                whole = self._read_filter({})
                filtered = class_name or options.only != whole
                suggested = [] if filtered else self._suggested(options)
                return browse.start(suggested, options, self._collections.newest(options), marks)
            shown = self._collections.answer(asked, options)
            return browse.answered(about, options, shown, marks)
        except ClipsearchError as error:
            return browse.failed(error, marks)

    def _suggested(self, options: SearchOptions) -> list[str]:
        """Texts that find something with the options of the page."""
        found = self._collections.suggestions(options.only)
        if options.max_false_alarm == 1:  # a strong match has hits
            return found
        one = replace(options, k=1, classes=False, explain=False)
        return [
            text
            for text in found
            if self._collections.answer(Query((Text(text),)), one).answer.hits
        ]

    def thumbnail(self, name: str) -> bytes | None:
        """A small JPEG. Raises KeyError and OSError if there is no such image."""
        return self._thumbnailer.get(self._source(name)[1])

    def picture(self, name: str) -> tuple[int, int, bytes]:
        """A file descriptor at the start of the image, the image's size in bytes, and its name.

        Raises KeyError and OSError.
        """
        own_name, source = self._source(name)
        path, offset, size = source if isinstance(source, Span) else (source, 0, None)
        # Opening a FIFO would block, and a file that has just become a link is not an image of the
        # collection.
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        file = os.open(path, flags)
        status = os.fstat(file)
        size = status.st_size if size is None else size
        if not stat.S_ISREG(status.st_mode) or offset + size > status.st_size:
            os.close(file)
            raise KeyError(name)
        os.lseek(file, offset, os.SEEK_SET)
        return file, size, own_name

    def _source(self, name: str) -> tuple[bytes, Source]:
        try:
            return self._collections.picture(PictureId.read(name))
        except UsageError as error:
            raise KeyError(name) from error


def _read(query: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The fields of a query string, and the marked images."""
    try:
        found = parse_qs(query, max_num_fields=_MOST_FIELDS)
    except ValueError:
        found = {}
    marks = {name: found.pop(name, [])[:_MOST_MARKS] for name in ("like", "unlike")}
    return {name: values[-1] for name, values in found.items()}, marks


def _number(text: str | None, otherwise: int, most: int) -> int:
    if text is None or not text.isdecimal() or len(text) > 9:
        return otherwise
    return max(1, min(most, int(text)))


class Server(ThreadingHTTPServer):
    """Serves a site to anyone who knows its address."""

    daemon_threads = True
    request_queue_size = 128  # the default is 5, and the system resets connections beyond it
    allow_reuse_address = os.name == "posix"  # elsewhere, others could then share the port

    def __init__(self, site: Site, port: int, notify: Callable[[str], None]) -> None:
        """Listen on ``port``, or on a free port if it is 0. Raises UsageError if that fails."""
        self.site = site
        self.notify = notify
        self.token = secrets.token_urlsafe(16)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            busy = error.errno == errno.EADDRINUSE
            raise UsageError(
                f"port {port} is in use" if busy else f"cannot use port {port}: {error.strerror}",
                hint="Use another port with --port N, or omit the option to use a free one.",
            ) from error
        port = self.server_address[1]
        self.hosts = {f"{name}:{port}" for name in (ADDRESS, "localhost")}
        if port == 80:
            self.hosts |= {ADDRESS, "localhost"}

    def server_bind(self) -> None:
        """Bind without looking up the name of 127.0.0.1."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, self.server_address[1]

    @property
    def url(self) -> str:
        """The address to open."""
        return f"http://{ADDRESS}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report errors, except for a page that was closed while loading."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            self.notify(f"a request failed: {type(error).__name__}: {error}")


class _Handler(BaseHTTPRequestHandler):
    """One connection from a browser."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "clipsearch", ""
    timeout = _SECONDS_IDLE

    def do_GET(self) -> None:
        """Answer, unless the request comes from another site."""
        if self._is_foreign():
            self._refuse(HTTPStatus.FORBIDDEN, "this server only answers to its own address")
            return
        path, _, query = self.path.partition("?")
        before, token, *rest = [*path.split("/"), ""]
        known = hmac.compare_digest(token.encode(), self.server.token.encode())
        if before or not known or len(rest) < 2:
            self._refuse(
                HTTPStatus.FORBIDDEN, "open the complete address that clipsearch browse printed"
            )
            return
        try:
            self._serve(rest[:-1], query)
        except (KeyError, OSError) as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such image")
        except ClipsearchError as error:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"{error}\n{error.hint}")

    do_HEAD = do_GET  # noqa: N815

    def _is_foreign(self) -> bool:
        hosts = self.headers.get_all("Host", [])
        origins = self.headers.get_all("Origin", [])
        ours = self.server.hosts
        return (
            len(hosts) != 1
            or hosts[0].lower() not in ours
            or any(origin.lower().removeprefix("http://") not in ours for origin in origins)
        )

    def _serve(self, path: list[str], query: str) -> None:
        match path:
            case [""]:
                self._send(
                    self.server.site.page(query).encode("utf-8", "replace"),
                    "text/html; charset=utf-8",
                    browse.POLICY,
                )
            case ["hits"]:
                self._send(
                    self.server.site.hits(query).encode("utf-8", "replace"),
                    "text/html; charset=utf-8",
                )
            case ["thumbnail", name]:
                picture = self.server.site.thumbnail(name)
                if picture is None:
                    raise KeyError(name)
                self._send(picture, "image/jpeg", keep=True)
            case ["picture", name]:
                self._send_file(*self.server.site.picture(name))
            case _:
                self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here")

    def _send(self, body: bytes, kind: str, policy: str = _NOTHING, *, keep: bool = False) -> None:
        self._head(HTTPStatus.OK, len(body), kind, policy, keep=keep)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_file(self, file: int, size: int, name: bytes) -> None:
        kind = _TYPES.get(os.path.splitext(name)[1].lower(), "application/octet-stream")
        with open(file, "rb") as source:
            more = {"Content-Disposition": f"inline; filename*=UTF-8''{quote(name)}"}
            self._head(HTTPStatus.OK, size, kind, _NOTHING, more, keep=True)
            if self.command != "HEAD":
                left = size  # as announced, even if the file grows meanwhile
                while left and (chunk := source.read(min(left, _CHUNK))):
                    self.wfile.write(chunk)
                    left -= len(chunk)
                self.close_connection |= left > 0

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that the library cannot parse."""
        status = HTTPStatus(code)
        self._refuse(status, (message or status.phrase).lower())

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        body = f"clipsearch: {why}\n".encode("utf-8", "replace")
        self.close_connection = True
        self._head(status, len(body), "text/plain; charset=utf-8", _NOTHING)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(
        self,
        status: HTTPStatus,
        size: int,
        kind: str,
        policy: str,
        more: Mapping[str, str] | None = None,
        *,
        keep: bool = False,
    ) -> None:
        self.send_response(status)
        headers = {
            **_ALWAYS,
            "Content-Type": kind,
            "Content-Length": str(size),
            "Content-Security-Policy": policy,
            # An id always means the same image, but its file may be edited.
            "Cache-Control": "private, max-age=600" if keep else "no-store",
            **(more or {}),
        }
        if self.close_connection or "Content-Length" in self.headers:
            self.close_connection = True  # an unread body must not be parsed as a request
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Do not log every thumbnail."""
