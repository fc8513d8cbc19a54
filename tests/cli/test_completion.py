"""Completion in real shells, and what they are offered."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import Run, make_picture, places_beside, run_here

pty = pytest.importorskip("pty")
termios = pytest.importorskip("termios")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX shells")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An indexed folder with a probe and a saved query. Not to be changed."""
    root = tmp_path_factory.mktemp("made") / "photos"
    for seed, name in enumerate(["cat", "cat", "cat", "dog", "dog", "dog"]):
        (root / name).mkdir(parents=True, exist_ok=True)
        # Each class is of one image, and so can be learned in any arithmetic.
        make_picture(root / name / f"{seed}.png", seed // 3, (48 + seed, 40))
    with places_beside(root):
        assert run_here("index", root, "--model", tiny_model) == 0
        assert run_here("probe", "train", root, "--name", "pets", "--under", root) == 0
        assert run_here("query", "save", "pool", "a dog in a pool") == 0
    return root


@pytest.fixture
def beside(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPSEARCH_DATA_DIR", str(made.parent / "data"))
    return made


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``clipsearch`` on the path, and a home of its own."""
    path = tmp_path / "bin" / "clipsearch"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m clipsearch "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    return path


def offered(run: Run, line: str, cwd: Path, shell: str = "fish") -> list[str]:
    """What a shell is offered at the end of a line, one a line without its help."""
    variables = {
        "_CLIPSEARCH_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COMP_WORDS": line.replace(" ", "\n"),
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    done = run(cwd=cwd, env=variables)
    assert (done.code, done.err) == (0, "")
    return [name.split("\t")[0] for name in done.lines if name]


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("clipsearch se", {"search"}),
        ("clipsearch probe tr", {"train"}),
        ("clipsearch search --cou", {"--count"}),
        ("clipsearch index --model p", {"pocket"}),
        ("clipsearch index --model ViT-B-16-Sig", {"ViT-B-16-SigLIP"}),
        ("clipsearch search x --device c", {"cpu", "cuda"}),
        ("clipsearch search x --type j", {"jpeg", "jpg"}),
        ("clipsearch search --class bird", {"bird of prey"}),
        ("clipsearch index --domain e", {"everyday"}),
        ("clipsearch domain show e", {"everyday"}),
        ("clipsearch classify --probe p", {"pets"}),
        ("clipsearch probe show p", {"pets"}),
        ("clipsearch query remove p", {"pool"}),
        ("clipsearch search @p", {"@pets", "@pool"}),
    ],
)
def test_commands_options_and_values_are_offered(
    run: Run, beside: Path, line: str, some: set[str]
) -> None:
    found = offered(run, line, beside)
    assert some <= set(found)
    assert all(name.startswith(line.rsplit(" ", 1)[1]) for name in found)


def test_bash_gets_words_that_it_can_put_into_a_line(run: Run, beside: Path) -> None:
    assert offered(run, "clipsearch search --class bird", beside, "bash") == ["bird\\ of\\ prey"]
    # It takes @p for two words, and puts what it gets in the place of both.
    assert offered(run, "clipsearch search @ p", beside, "bash") == ["@pets", "@pool"]
    assert offered(run, "clipsearch search @", beside, "bash") == ["@pets", "@pool"]


def test_nothing_is_offered_and_nothing_said_where_things_are_wrong(
    run: Run, beside: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    (broken / ".clipsearch").mkdir(parents=True)
    (broken / ".clipsearch" / "catalog.sqlite3").write_bytes(b"no database" * 500)
    assert offered(run, "clipsearch probe show ", broken) == []
    assert "bicycle" in offered(run, "clipsearch search --class ", broken)
    assert offered(run, "clipsearch search a", broken) == []


@pytest.mark.parametrize(
    "line",
    ["clipsearch ", "clipsearch search --", "clipsearch index --model ", "clipsearch search @"],
)
def test_completion_loads_no_heavy_library(run_process: Run, beside: Path, line: str) -> None:
    done = run_process(
        cwd=beside,
        env={
            "_CLIPSEARCH_COMPLETE": "complete_bash",
            "COMP_WORDS": line.replace(" ", "\n"),
            "COMP_CWORD": str(len(line.split(" ")) - 1),
        },
        command=(sys.executable, "-X", "importtime", "-m", "clipsearch"),
    )
    assert done.code == 0
    assert done.lines
    packages = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.err.splitlines()}
    assert "typer" in packages
    assert not packages & {"torch", "open_clip", "huggingface_hub", "faiss", "PIL", "rich"}


# -- in real shells ----------------------------------------------------------------------------


def installed(shell: str) -> str:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed")
    return found


@pytest.mark.process
@pytest.mark.parametrize(
    ("shell", "place"),
    [
        ("bash", ".bashrc"),
        ("zsh", ".zshrc"),
        ("fish", ".config/fish/completions/clipsearch.fish"),
    ],
)
def test_completion_installs_itself_for_the_shell_that_asks(
    program: Path, tmp_path: Path, shell: str, place: str
) -> None:
    path = installed(shell)
    done = subprocess.run(
        [path, "-c", "clipsearch --install-completion; true"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{shell} completion installed in" in done.stdout
    assert (tmp_path / "home" / place).is_file()


@pytest.mark.process
def test_fish_completes(program: Path, beside: Path) -> None:
    fish = installed("fish")
    script = "env _CLIPSEARCH_COMPLETE=source_fish clipsearch | source; "
    for line, expected in [
        ("clipsearch sea", "search"),
        ("clipsearch search @po", "@pool"),
        ("clipsearch index --model pock", "pocket"),
    ]:
        done = subprocess.run(
            [fish, "-c", f"{script} complete -C '{line}'"],
            capture_output=True,
            text=True,
            cwd=beside,
            check=True,
        )
        assert [found.split("\t")[0] for found in done.stdout.splitlines()] == [expected]


def typed(command: Sequence[str], setup: str, line: str, until: str, cwd: Path) -> str:
    """What a terminal shows when a person types ``line`` at a shell's prompt."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 200))
    env = {**os.environ, "TERM": "dumb", "PS1": "> "}
    with subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=cwd,
        env=env,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        os.set_blocking(ours, False)
        shown = ""
        waiting = [(f"{setup}; echo rea''dy\n", "ready"), (line, until)]
        deadline = time.monotonic() + 30
        for keys, text in waiting:
            os.write(ours, keys.encode())
            shown = ""
            while text not in shown and time.monotonic() < deadline:
                try:
                    shown += os.read(ours, 10_000).decode(errors="replace")
                except BlockingIOError:
                    time.sleep(0.05)
        process.kill()
    os.close(ours)
    return shown


@pytest.mark.process
@pytest.mark.parametrize(
    ("line", "until"),
    [
        ("clipsearch sea\t", "clipsearch search "),
        ("clipsearch search @po\t", "ol "),
        ("clipsearch search --class bird\t", "--class bird\\ of\\ prey "),
    ],
)
def test_bash_completes_what_is_typed(program: Path, beside: Path, line: str, until: str) -> None:
    bash = installed("bash")
    setup = 'eval "$(_CLIPSEARCH_COMPLETE=source_bash clipsearch)"'
    command = [bash, "--norc", "--noprofile", "-i"]
    assert until in typed(command, setup, line, until, beside)


@pytest.mark.process
@pytest.mark.parametrize(
    ("line", "until"),
    [
        ("clipsearch sea\t", "search "),
        ("clipsearch search @po\t", "@pool "),
    ],
)
def test_zsh_completes_what_is_typed(program: Path, beside: Path, line: str, until: str) -> None:
    zsh = installed("zsh")
    setup = (
        'autoload -U compinit; compinit -u -D; eval "$(_CLIPSEARCH_COMPLETE=source_zsh clipsearch)"'
    )
    assert until in typed([zsh, "-f", "-i"], setup, line, until, beside)
