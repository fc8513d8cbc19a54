"""A progress line on a terminal: the activity, the count, the time left and the speed."""

import sys

from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TaskID
from rich.text import Text

from clipsearch.cli.render.table import console, cut, fit

_DONE, _TO_DO = "━", "─"

_SPINNER = 2
"""Cells of the spinner, with the gap after it."""

_SHORT = 16
"""Cells left for the activity on a narrow terminal."""


class Line(ProgressColumn):
    """``embedding  ━━━━━━──────  200/1,200  50s left  20.0/s``, fitted to the terminal.

    rich computes the speed and the time left over the last half minute.
    """

    def __init__(self, screen: Console) -> None:
        super().__init__()
        self._screen = screen

    def render(self, task: Task) -> Text:
        """The line; for a task of one step, or an unknown number, only the activity."""
        cells = self._screen.width - _SPINNER  # the width may change meanwhile
        doing = (task.description, cut(task.description, _SHORT))
        if task.total is None or task.total <= 1:
            return Text(fit([doing], cells))
        width = max(8, min(24, cells // 5))
        done = int(width * min(1, task.completed / task.total))
        line = fit(
            [
                doing,
                (_DONE * done + _TO_DO * (width - done), ""),
                (f"{task.completed:,.0f}/{task.total:,.0f}",),
                (_left(task.time_remaining), ""),
                (_rate(task.speed), ""),
            ],
            cells,
            separator="  ",
        )
        text = Text(line, no_wrap=True, overflow="crop")
        text.highlight_regex(f"{_DONE}+", "green")
        text.highlight_regex(f"{_TO_DO}+", "dim")
        text.highlight_regex(r" (\d[\w ]* left)?( +[\d,.]+/\w+)?$", "dim")
        return text


class ProgressBar:
    """A line on stderr for one activity at a time."""

    def __init__(self) -> None:
        screen = console(sys.stderr)
        self._bar = Progress(
            SpinnerColumn(style="green"),
            Line(screen),
            console=screen,
            transient=True,
        )
        self._task: TaskID | None = None
        self._doing = ""

    def __call__(self, doing: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done; a ``total`` of 0 means unknown."""
        if doing != self._doing:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._doing = doing
            self._task = self._bar.add_task(doing, total=total or None)
            self._bar.start()
        assert self._task is not None
        self._bar.update(self._task, completed=done)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02}s left" if minutes else f"{rest}s left"
    return f"{minutes // 60}h {minutes % 60:02}m left"


def _rate(speed: float | None) -> str:
    """The speed per second, or per minute if it is slow."""
    if not speed:
        return ""
    return f"{speed:,.1f}/s" if speed >= 0.1 else f"{60 * speed:.1f}/min"
