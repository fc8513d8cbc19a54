"""Renders probes and their accuracy."""

from dataclasses import asdict
from typing import Any

from clipsearch.evaluation.probes import KeptProbe
from clipsearch.evaluation.summary import interval
from clipsearch.text import percent, printable


def probe_lines(kept: KeptProbe) -> list[str]:
    """A probe as text: what it was trained on, and its accuracy."""
    classes = ", ".join(
        f"{name} ({count})" for name, count in zip(kept.probe.classes, kept.images, strict=True)
    )
    figures = [
        (f"  {name:<10}{percent(e.value):>8}   95% interval {interval(e)}, of {e.n} images")
        for name, e in (("held out", kept.held_out), ("zero-shot", kept.zero_shot))
    ]
    return [
        f"@{kept.name}",
        f"  classes   {printable(classes)}",
        *figures,
        f"  always guessing the most frequent class {percent(kept.most_frequent)}",
        *(
            f"  mean per-class recall {percent(e.value)}   95% interval {interval(e)}, "
            f"by guessing {percent(kept.guessing)}"
            for e in [kept.recall]
            if e is not None
        ),
        f"  penalty   {kept.probe.l2:.3g}"
        + ("" if kept.scale is None else f", from {kept.scale:.3g} times the words"),
        f"  trained   {kept.made_at}, on {printable(kept.source)}",
        *(f"  note      {printable(note)}" for note in kept.notes),
    ]


def probe_record(kept: KeptProbe) -> dict[str, Any]:
    """A JSON record of a probe. Keys are only ever added."""
    return {
        "name": kept.name,
        "classes": dict(zip(kept.probe.classes, kept.images, strict=True)),
        "held_out": asdict(kept.held_out),
        "zero_shot": asdict(kept.zero_shot),
        "most_frequent": kept.most_frequent,
        "recall": kept.recall and asdict(kept.recall),
        "l2": kept.probe.l2,
        "scale": kept.scale,
        "notes": list(kept.notes),
        "model": kept.model,
        "source": kept.source,
        "made_at": kept.made_at,
    }
