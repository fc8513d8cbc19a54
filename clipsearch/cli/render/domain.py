"""Renders a domain and the error rates of its gate."""

from dataclasses import asdict

from clipsearch.domain.gate import GateErrors
from clipsearch.domain.intervals import Estimate
from clipsearch.domain.taxonomy import Domain
from clipsearch.text import printable


def domain_text(domain: Domain) -> str:
    """A domain as text: one class per line, with its synonyms."""
    lines = [f"{domain.name}: {domain.description}", ""]
    for cls in domain.classes:
        synonyms = f" ({', '.join(cls.synonyms)})" if cls.synonyms else ""
        lines.append(f"  {cls.name}{synonyms}")
    marks = ", ".join(f"{name} {mark:g}" for name, mark in domain.pass_marks.items())
    lines += [
        "",
        f"{len(domain.classes)} classes, {len(domain.templates)} templates, "
        f"{len(domain.in_domain)} in-domain and {len(domain.out_of_domain)} out-of-domain examples",
        f"pass marks: {marks}",
        f"fingerprint: {domain.fingerprint}",
    ]
    return "\n".join(printable(line) for line in lines)


def gate_text(domain: Domain, model: str, errors: GateErrors) -> str:
    """The error rates of a domain's gate as text."""
    return "\n".join(
        [
            f"{printable(domain.name)}: {len(domain.classes)} classes; the file is valid",
            f"  model     {printable(model)}",
            f"  refused   {estimate_text(errors.refused)} of the in-domain examples "
            f"({errors.settled_by_words} of {errors.in_domain} name a class)",
            f"  accepted  {estimate_text(errors.admitted)} of the out-of-domain examples",
            "  (cross-validated: the gate that judged an example was fitted without it)",
        ]
    )


def gate_record(domain: Domain, model: str, errors: GateErrors) -> dict[str, object]:
    """A JSON record of a domain's gate. Keys are only ever added."""
    return {
        "domain": domain.name,
        "fingerprint": domain.fingerprint,
        "classes": len(domain.classes),
        "model": model,
        **asdict(errors),
    }


def estimate_text(estimate: Estimate | None) -> str:
    """A measured share with its 95% interval: 1.5% (0.6 to 3.7)."""
    if estimate is None:
        return "nothing"
    return f"{100 * estimate.value:.1f}% ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"
