"""A domain and the errors of its gate."""

import json

from clipsearch.cli.render.domain import gate_record, gate_text
from clipsearch.cli.render.json_lines import json_line
from clipsearch.domain.gate import GateErrors
from clipsearch.domain.intervals import proportion
from clipsearch.domain.taxonomy import Domain, DomainClass

TOYS = Domain("toys", "", "en", ("{}",), (DomainClass("ball", (), ()),), (), (), {"top1": 0.6})


def test_the_errors_of_a_gate_for_people_and_for_programs() -> None:
    errors = GateErrors(200, 100, 80, proportion(3, 200), proportion(3, 120), None)
    text = gate_text(TOYS, "pocket", errors)
    assert "refused   1.5% (0.5 to 4.3) of the in-domain examples (80 of 200 name a class)" in text
    assert "accepted  nothing of the out-of-domain examples" in text
    record = json.loads(json_line(gate_record(TOYS, "pocket", errors)))
    assert record["refused"]["value"] == 0.015
    assert record["admitted"] is None
    assert (record["domain"], record["model"], record["classes"]) == ("toys", "pocket", 1)
