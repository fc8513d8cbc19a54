"""``clipsearch browse``."""

from contextlib import closing, suppress
from pathlib import Path
from threading import Thread
from typing import Annotated

import typer

from clipsearch.cli.app import DeviceOption, IndexOption, commands, say
from clipsearch.cli.options.answer import AnswerOptions, MaxFalseAlarmOption, StrictOption
from clipsearch.cli.options.filters import FilterOptions
from clipsearch.cli.searching import opened
from clipsearch.errors import ClipsearchError, ExitCode, UsageError
from clipsearch.images.thumbnails import Thumbnailer
from clipsearch.models.load import Encoders
from clipsearch.records import Filter, ModelSpec, TextEncoder
from clipsearch.search.query import Query, SearchOptions, Text
from clipsearch.storage.known import shared_model
from clipsearch.text import shortened
from clipsearch.web.server import Fields, Server, Site
from clipsearch.web.session import OpenCollections

app = commands()


@app.command("browse")
def browse_command(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="Only images in this folder.", show_default=False),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            "--port", min=0, max=65535, metavar="N", help="Port to listen on; 0 picks a free one."
        ),
    ] = 0,
    open_page: Annotated[bool, typer.Option("--open", help="Show the page in a browser.")] = False,
    max_false_alarm: MaxFalseAlarmOption = 1.0,
    strict: StrictOption = False,
    device: DeviceOption = "auto",
    index: IndexOption = None,
) -> int:
    """Search in a browser, on a page that this machine serves to anyone who has its address.

    The page has a search box and filters. You can mark hits as good or bad, and find more images
    like one of them. It is served on 127.0.0.1 until Ctrl-C; nothing is written.

    \b
    Examples:
      clipsearch browse --open
      clipsearch browse holiday --port 8000
    """
    AnswerOptions(max_false_alarm=max_false_alarm).check()
    with opened(FilterOptions(under=folder), index) as (stores, only):
        shared_model(stores)
        directories = [store.directory for store in stores]

    def text_encoder(spec: ModelSpec) -> TextEncoder:
        return Encoders.of(spec, device).text

    def read_filter(fields: Fields) -> Filter:
        return filter_options(fields).filter(only.under)

    try:
        with (
            Thumbnailer() as thumbnailer,
            closing(OpenCollections(directories, text_encoder)) as collections,
        ):
            site = Site(collections, thumbnailer, read_filter, max_false_alarm, strict=strict)
            with Server(site, port, say) as server:
                say(f"serving until Ctrl-C: {server.url}")
                if open_page:
                    typer.launch(server.url)
                Thread(target=_warm, args=(collections, only), daemon=True).start()
                server.serve_forever()
    except KeyboardInterrupt:
        pass  # the normal way to stop; no work is left unfinished
    return ExitCode.INTERRUPTED


def _warm(collections: OpenCollections, only: Filter) -> None:
    """Load what the first answer needs while the user looks at the page."""
    with suppress(ClipsearchError):  # the first query will report it
        options = SearchOptions(k=1, allow_out_of_domain=True, classes=True)
        collections.answer(Query((Text("an image"),)), options)
        collections.suggestions(Filter(under=only.under))


def filter_options(fields: Fields) -> FilterOptions:
    """The filters of the page's form. Raises UsageError."""
    name = fields.get("name")
    if name and not any(character in name for character in "*?["):
        name = f"*{name}*"  # a plain word matches any name that contains it
    return FilterOptions(
        name=name or None,
        after=fields.get("after") or None,
        before=fields.get("before") or None,
        min_width=_number("width", fields),
        min_height=_number("height", fields),
        types=[kind] if (kind := fields.get("type")) else None,
    )


def _number(name: str, fields: Fields) -> int:
    text = fields.get(name) or "0"
    if not text.isdecimal() or len(text) > 9:
        raise UsageError(f"'{shortened(text)}' is not a {name} in pixels", hint="For example 1000.")
    return int(text)
