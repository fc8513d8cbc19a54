"""Options for how many hits to return, and how good they must be."""

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
        help="Also drop hits whose score is reached by more than this share of unrelated queries "
        "(default: 1, drops none).",
        show_default=False,
    ),
]

StrictOption = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Accept only a strong match: at most 4% of unrelated queries score as high.",
    ),
]


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How many hits, and how good."""

    count: Annotated[
        int, typer.Option("-k", "--count", min=1, metavar="N", help="Maximum number of hits.")
    ] = 10
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Search every embedding, even in a large collection."),
    ] = False
    diverse: Annotated[
        bool,
        typer.Option(
            "--diverse",
            help="Of images that are nearly the same, such as a burst, print only the best match.",
        ),
    ] = False
    strict: StrictOption = False
    max_false_alarm: MaxFalseAlarmOption = 1.0
    all: Annotated[
        bool, typer.Option("--all", help="Print the best hits, regardless of the verdict.")
    ] = False
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Explain the verdict and the cutoff of the hits on stderr."),
    ] = False
    allow_out_of_domain: Annotated[
        bool,
        typer.Option(
            "--allow-out-of-domain",
            help="Answer even if the text is outside the domain.",
        ),
    ] = False
    require_tested: Annotated[
        bool,
        typer.Option(
            "--require-tested",
            help="Refuse (exit code 3) unless the model has met the domain's pass marks; see "
            "clipsearch evaluate.",
        ),
    ] = False

    def check(self) -> None:
        """Raise UsageError for a rate out of range, or for options that contradict each other."""
        if not 0 < self.max_false_alarm <= 1:
            raise UsageError(
                f"--max-false-alarm {self.max_false_alarm:g} is not a valid rate",
                hint="Use a value greater than 0 and at most 1.",
            )
        if self.strict and self.all:
            raise UsageError(
                "--strict accepts only a strong match, but --all prints any image",
                hint="Choose one of them.",
            )

    def options(self, only: Filter, class_name: str | None, *, classes: bool) -> SearchOptions:
        """Everything besides the query that an answer depends on.

        class_name: the class that images must belong to, if any. classes: whether to report the
        class of each hit.
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
