"""``clipsearch help``: pages that are there, listed, and printed whole."""

import re

import pytest
from conftest import Run

from clipsearch.cli.commands import COMMANDS
from clipsearch.cli.help import pages

TOPICS = {
    "scores",
    "queries",
    "domains",
    "models",
    "exit-codes",
    "recipes",
    "speed",
    "safety",
    "scale",
}


def test_the_topics_are_listed_with_what_they_are_about(run: Run) -> None:
    done = run("help")
    assert (done.code, done.err) == (0, "")
    listed = dict(line.split(maxsplit=1) for line in done.lines)
    assert listed.keys() == pages().keys() >= TOPICS
    assert listed["recipes"].startswith("things to do with")


@pytest.mark.parametrize("topic", pages())
def test_a_page_is_printed_as_it_is_written(run: Run, topic: str) -> None:
    done = run("help", topic)
    assert (done.code, done.err) == (0, "")
    assert done.out.decode() == pages()[topic]
    assert done.lines[0].startswith(f"# {topic}: ")


@pytest.mark.parametrize("topic", pages())
def test_a_page_names_only_commands_that_there_are(topic: str) -> None:
    named = set(re.findall(r"(?:^    |`)clipsearch ([a-z]+)", pages()[topic], re.MULTILINE))
    assert named <= COMMANDS.keys()


def test_what_is_no_topic_is_answered_with_what_was_meant(run: Run) -> None:
    done = run("help", "score")
    assert (done.code, done.out) == (2, b"")
    assert "there is no help topic 'score' (did you mean scores?)" in done.err
    assert "clipsearch help\n" in done.err
    assert "See: clipsearch search --help" in run("help", "search").err


def test_the_recipes_command_that_was_is_pointed_to_its_page(run: Run) -> None:
    done = run("recipes")
    assert done.code == 2
    assert "there is no command 'recipes' (did you mean help?)" in done.err
