"""Options that contradict each other are an error: none of the two is silently ignored."""

from pathlib import Path

import pytest
from conftest import Run
from fakes import fake_spec

from clipsearch.domain import policy
from clipsearch.errors import RefusedByPolicy
from clipsearch.storage.catalog import FOLDER, Store


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("classify --json --csv", "--json cannot be combined with --csv"),
        ("classify --confusion -k 3", "--confusion uses only the top class of each image"),
        ("classify --confusion --csv", "cannot be combined with --texts or --csv"),
        ("classify --domain everyday --probe x", "cannot be combined"),
        ("search --batch --explain", "--batch cannot be combined with --explain"),
        ("domain show everyday --under .", "a domain and --under cannot be combined"),
        ("index . --model pocket --pretrained openai", "'pocket' has its own weights"),
        ("domain check everyday --model pocket --pretrained x", "'pocket' has its own weights"),
    ],
)
def test_what_contradicts_itself_is_an_error(run: Run, arguments: str, said: str) -> None:
    done = run(*arguments.split())
    assert (done.code, done.out) == (2, b"")
    assert said in done.err


@pytest.mark.parametrize(
    "arguments", ["status {}", "verify {}", "probe list --under {}", "search x --under {}"]
)
def test_a_folder_beside_the_index_of_another_is_an_error(
    run: Run, tmp_path: Path, arguments: str
) -> None:
    for name in ("photos", "other"):
        (tmp_path / name).mkdir()
    Store.create(tmp_path / "photos" / FOLDER, tmp_path / "photos", fake_spec()).close()
    done = run(*arguments.format("other").split(), "--index", "photos")
    assert (done.code, done.out) == (2, b"")
    assert f"other is not in {tmp_path}/photos, the folder of the index" in done.err
    assert "other is not in" not in run(*arguments.format(".").split(), "--index", "photos").err


def test_a_long_query_is_not_repeated_whole(run: Run) -> None:
    with pytest.raises(RefusedByPolicy) as refused:
        policy.check("identify this man " * 600)
    assert len(str(refused.value)) < 400
    for arguments in (["help", "x" * 10_000], ["search", "^0:" + "x" * 10_000]):
        assert len(run(*arguments).err) < 400
