"""Renders the findings of ``verify`` and ``doctor``."""

import os
from dataclasses import asdict

from clipsearch.cli.render.json_lines import json_path
from clipsearch.indexing.diagnosis import Check
from clipsearch.indexing.verify import Problem
from clipsearch.text import printable


def problem_text(problem: Problem) -> str:
    """A problem with an index, in one line."""
    where = f"{printable(os.fsdecode(problem.path))}: " if problem.path is not None else ""
    return f"{problem.kind}: {where}{printable(problem.text)}"


def problem_record(problem: Problem) -> dict[str, object]:
    """A JSON record of a problem with an index. Keys are only ever added."""
    path = None if problem.path is None else json_path(problem.path)
    return {"kind": problem.kind, "path": path, "problem": problem.text}


def check_lines(check: Check) -> list[str]:
    """One check of ``doctor``: its state, then its hint."""
    line = f"{check.state:<8} {check.area:<10} {printable(check.text)}"
    return [line, f"{'':8} {printable(check.hint)}"] if check.hint else [line]


def check_record(check: Check) -> dict[str, object]:
    """A JSON record of one check. Keys are only ever added."""
    return asdict(check)
