"""Options that say which hits are good enough, and how many there are to be."""

from dataclasses import dataclass
from typing import Annotated

import typer

from clipsearch.errors import UsageError
from clipsearch.records import Filter
from clipsearch.search.query import SearchOptions

MaxFalseAlarmOption = Annotated[
    float,
    typer.Option(
        "--max-false-alarm",
        metavar="RATE",
        help="Also leave out hits whose own score more than this share of unrelated queries "
        "reach here (default: 1, none).",
        show_default=False,
    ),
]

StrictOption = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Accept a strong match alone: at most 4% of unrelated queries score as high.",
    ),
]


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How many hits, and how good."""

    count: Annotated[
        int, typer.Option("-k", "--count", min=1, metavar="N", help="At most so many hits.")
    ] = 10
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Read every embedding, where a large collection is read in part."
        ),
    ] = False
    diverse: Annotated[
        bool,
        typer.Option(
            "--diverse",
            help="Of images that are nearly the same, a burst say, only the one that matches best.",
        ),
    ] = False
    strict: StrictOption = False
    max_false_alarm: MaxFalseAlarmOption = 1.0
    all: Annotated[
        bool, typer.Option("--all", help="Print the best hits, whatever the verdict.")
    ] = False
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Say on stderr why the answer is what it is: the verdict and the cut."
        ),
    ] = False
    allow_out_of_domain: Annotated[
        bool,
        typer.Option(
            "--allow-out-of-domain",
            help="Answer even if the text has nothing to do with the domain.",
        ),
    ] = False
    require_tested: Annotated[
        bool,
        typer.Option(
            "--require-tested",
            help="Refuse (exit code 3) unless the model met the domain's pass marks: see "
            "clipsearch evaluate.",
        ),
    ] = False

    def check(self) -> None:
        """Raise UsageError for a rate that is none."""
        if not 0 < self.max_false_alarm <= 1:
            raise UsageError(
                f"--max-false-alarm {self.max_false_alarm:g} is no share of queries",
                hint="It is greater than 0 and at most 1.",
            )
        if self.strict and self.all:
            raise UsageError(
                "--strict accepts a strong match alone, and --all any image",
                hint="Choose one of them.",
            )

    def options(self, only: Filter, class_name: str | None, *, classes: bool) -> SearchOptions:
        """All that an answer depends on beside the query.

        class_name: the class that images must be of, if any. classes: whether the class of each
        hit is to be told.
        """
        return SearchOptions(
            k=self.count,
            only=only,
            class_name=class_name or "",
            max_false_alarm=self.max_false_alarm,
            strict=self.strict,
            all=self.all,
            exact=self.exact,
            diverse=self.diverse,
            allow_out_of_domain=self.allow_out_of_domain,
            require_tested=self.require_tested,
            classes=classes,
            explain=self.explain,
        )
