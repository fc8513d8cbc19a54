"""Progress on a terminal: what is being done, how many, how fast, how much longer."""

import sys

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from clipsearch.cli.render.table import console


class CountColumn(ProgressColumn):
    """``200/1,200, 20.0/s``: the rate is rich's own, of the last half minute."""

    def render(self, task: Task) -> Text:
        """Nothing for a task of one step, or of nobody knows how many."""
        if task.total is None or task.total <= 1:
            return Text("")
        speed = task.speed or 0
        rate = f", {speed:,.1f}/s" if speed >= 0.1 else f", {60 * speed:.1f}/min" if speed else ""
        return Text(f"{task.completed:,.0f}/{task.total:,.0f}{rate}")


class ProgressBar:
    """A bar on stderr for one activity at a time."""

    def __init__(self) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            CountColumn(),
            TimeRemainingColumn(compact=True),
            console=console(sys.stderr),
            transient=True,
        )
        self._task: TaskID | None = None
        self._doing = ""

    def __call__(self, doing: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done; a ``total`` of 0 means that nobody knows."""
        if doing != self._doing:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._doing = doing
            self._task = self._bar.add_task(doing, total=total or None)
            self._bar.start()
        assert self._task is not None
        self._bar.update(self._task, completed=done)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()
