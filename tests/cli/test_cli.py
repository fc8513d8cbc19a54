"""The program's manners: its exit codes, what goes to which stream, its options and variables."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ASK, Run, make_picture, places_beside, run_here

import clipsearch
from clipsearch import cli
from clipsearch.models import registry
from clipsearch.storage import known

NAMES = ["a.png", "b.jpg", "sub/c.png"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An indexed folder of three images. Not to be changed: ``collection`` is a copy."""
    root = tmp_path_factory.mktemp("made") / "photos"
    (root / "sub").mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        make_picture(root / name, seed)
    with places_beside(root):
        assert run_here("index", root, "--model", tiny_model) == 0
    return root


@pytest.fixture
def collection(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "photos"))


@pytest.fixture
def no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process the signal handlers belong to pytest."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)


# -- what is there -----------------------------------------------------------------------------


def test_the_version_is_printed(run: Run) -> None:
    done = run("--version")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"clipsearch {clipsearch.__version__}\n".encode()


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_the_commands_and_the_exit_codes(run: Run, option: str) -> None:
    done = run(option)
    assert (done.code, done.err) == (0, "")
    text = " ".join(done.out.decode().split())
    for word in ("index", "search", "status", "models", "130 interrupted", "1 no match"):
        assert word in text


@pytest.mark.parametrize("command", ["index", "search", "status", "models"])
def test_each_command_has_help(run: Run, command: str) -> None:
    done = run(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: clipsearch {command}".encode())


def test_without_a_command_the_help_is_an_error_message_that_can_be_read(run: Run) -> None:
    done = run()
    assert (done.code, done.out) == (2, b"")
    assert done.err.startswith("Usage: clipsearch")
    assert len(done.err.splitlines()) > 10
    assert "\N{REPLACEMENT CHARACTER}" not in done.err


def test_the_program_is_installed_under_its_own_name(run_process: Run) -> None:
    program = shutil.which("clipsearch", path=os.path.dirname(sys.executable))
    if program is None:
        pytest.skip("not installed")
    assert run_process("--version", command=[program]).out.startswith(b"clipsearch ")


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search"], "search needs something to look for"),
        (["search", "a cat", "-k", "0"], "-k"),
        (["search", "a cat", "-k", "many"], "-k"),
        (["search", ""], "the query is empty"),
        (["search", " \n"], "the query is empty"),
        (["search", b"\xff"], "the query is not valid text"),
        (["search", "a cat", "--under", "missing"], "missing does not exist"),
        (["search", "--image", "missing.png"], "cannot read missing.png: No such file"),
        (["search", "a cat", "./sub"], "./sub is a folder"),
        (["search", "a.png"], "a.png is a file"),
        (["search", "a cat", "--html", "a.png"], "a.png is an image of the collection"),
        (["search", "a cat", "--format", "{score:99999999999999}"], "is not a valid template"),
        (["search", "a cat", "--from0", ""], "--from0 is empty"),
        (["search", "--image", "sub"], "cannot read sub: Is a directory"),
        (["search", "--image", "text.jpg"], "cannot search by text.jpg: not an image"),
        (["search", "a cat", "--index", "sub"], "there is no index at sub"),
        (["index"], "PATH"),
        (["index", "missing"], "missing does not exist"),
        (["index", "a.png"], "a.png is not a folder"),
        (["index", ".", "--batch-size", "0"], "--batch-size"),
        (["index", ".", "sub", "--index", "there"], "--index takes one folder"),
        (["index", "sub", "--index", ".clipsearch"], "belongs to"),
        (["index", ".", "--model", "ViT-B16"], "did you mean ViT-B-16"),
        (["index", ".", "--model", "./nowhere"], "named './nowhere'"),
        (["status", "--index", "sub"], "there is no index at sub"),
        (["--no-such-option"], "--no-such-option"),
        (["search", "--no-such-option"], "--no-such-option"),
        (["find", "a cat"], "find"),
    ],
)
def test_what_cannot_be_done_is_said_on_stderr_and_exits_with_2(
    run: Run, collection: Path, arguments: list[str | bytes], message: str
) -> None:
    (collection / "text.jpg").write_text("no image")
    done = run(*arguments, cwd=collection)
    assert (done.code, done.out) == (2, b"")
    first, *rest = done.err.splitlines()
    assert first.startswith("clipsearch: error: ")
    assert message in first
    assert len(rest) <= 1  # the next step
    assert "Traceback" not in done.err


def test_an_empty_query_from_standard_input_is_refused(run: Run, collection: Path) -> None:
    done = run(*ASK, "-", cwd=collection, stdin=b"\n")
    assert (done.code, done.out) == (2, b"")
    assert "the query is empty" in done.err


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_query_from_standard_input_that_is_no_text_is_refused(
    run: Run, collection: Path, errors: str
) -> None:
    """Which of the two ways Python reads standard input depends on the locale."""
    env = {"PYTHONIOENCODING": f"utf-8:{errors}"}
    done = run(*ASK, "-", cwd=collection, stdin=b"a c\xff\xfet", env=env)
    assert (done.code, done.out) == (2, b"")
    assert done.err.startswith("clipsearch: error: the query is not valid text\n")


def test_where_nothing_is_indexed_the_way_to_an_index_is_shown(run: Run, photos: Path) -> None:
    for command in ([*ASK, "a cat"], ["status"]):
        done = run(*command, cwd=photos)
        assert (done.code, done.out) == (2, b"")
        assert f"no indexed folder contains {photos} or is below it" in done.err
        assert "clipsearch index FOLDER" in done.err


def test_where_nothing_is_indexed_what_is_known_is_listed(
    run: Run, collection: Path, tmp_path: Path
) -> None:
    assert run("index", collection).code == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run(*ASK, "a cat", cwd=elsewhere)
    assert (done.code, done.out) == (2, b"")
    assert str(collection) in done.err
    shutil.rmtree(collection)
    assert str(collection) not in run(*ASK, "a cat", cwd=elsewhere).err


# -- what goes wrong ---------------------------------------------------------------------------


def test_a_traceback_is_shown_only_to_those_who_ask(run: Run, photos: Path) -> None:
    for arguments in (["--debug", "status"], ["status", "--debug"]):
        done = run(*arguments, cwd=photos)
        assert (done.code, done.out) == (2, b"")
        assert done.err.startswith("Traceback")
        assert "\nclipsearch: error: no indexed folder" in done.err
    done = run("status", cwd=photos)
    assert done.code == 2
    assert "Traceback" not in done.err


def raising(error: BaseException) -> object:
    def find(*_: object, **__: object) -> None:
        raise error

    return find


@pytest.mark.usefixtures("no_signals")
def test_an_unexpected_error_is_2_and_not_the_1_of_no_match(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(known, "find", raising(ZeroDivisionError("a\x1b[2Jbug")))
    assert cli.run(["status"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("clipsearch: error: unexpected ZeroDivisionError: a")
    assert "--debug" in err
    assert "Traceback" not in err
    assert "\x1b" not in err
    assert cli.run(["--debug", "status"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.usefixtures("no_signals")
def test_what_the_system_refuses_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(known, "find", raising(PermissionError(13, "Not allowed", "a/b")))
    assert cli.run(["status"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("clipsearch: error: a/b: Not allowed")
    assert "This is a bug" not in error


@pytest.mark.parametrize("command", ["status", "verify", "index", "classify", "evaluate"])
def test_a_name_that_is_too_long_is_an_error_that_says_so(
    run: Run, collection: Path, command: str
) -> None:
    done = run(command, "a" * 300, cwd=collection)
    assert (done.code, done.out) == (2, b"")
    assert "This is a bug" not in done.err


@pytest.mark.usefixtures("no_signals")
def test_an_interrupted_search_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(known, "find", raising(KeyboardInterrupt()))
    assert cli.run(["search", "a cat"]) == 130
    assert capsys.readouterr().err == "clipsearch: interrupted\n"  # there is nothing to go on with


@pytest.mark.process
@pytest.mark.parametrize("options", [[], ["-0"], ["--json"]])
def test_a_reader_that_has_seen_enough_ends_the_program_quietly(
    collection: Path, options: list[str]
) -> None:
    command = [sys.executable, "-m", "clipsearch", *ASK, "a cat", *options]
    with subprocess.Popen(
        command, cwd=collection, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before there is anything to read, which head cannot promise
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.process
@pytest.mark.parametrize("options", [["--help"], ["--version"], ["search", "--help"]])
def test_help_that_nobody_reads_to_its_end_is_no_error(options: list[str]) -> None:
    command = [sys.executable, "-u", "-m", "clipsearch", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_a_pipe_to_head_succeeds(run_process: Run, collection: Path) -> None:
    program = f"{sys.executable} -m clipsearch {' '.join(ASK)} 'a cat' | head -n 1"
    done = run_process(command=["bash", "-o", "pipefail", "-c", program], cwd=collection)
    assert (done.code, done.err) == (0, "")
    assert len(done.lines) == 1


# -- status and models -------------------------------------------------------------------------


def test_status_tells_what_is_indexed_and_with_which_model(
    run: Run, collection: Path, tiny_model: Path
) -> None:
    done = run("status", cwd=collection)
    assert (done.code, done.err) == (0, "")
    first, *facts = done.lines
    assert first == str(collection)
    assert "  images   3" in facts
    assert "  failed   0" in facts
    assert f"  model    {tiny_model} (32 dimensions, on this machine)" in facts
    assert f"  index    {collection / '.clipsearch'}" in facts


def test_status_for_programs_is_one_object_a_line(
    run: Run, collection: Path, tiny_model: Path
) -> None:
    done = run("status", collection / "sub", "--json")
    assert (done.code, done.err) == (0, "")
    (line,) = done.lines
    record = json.loads(line)
    assert record.keys() >= {
        *("root", "index", "images", "failed", "model", "fingerprint", "dimensions"),
        *("catalog_bytes", "vector_bytes", "not_in_vector_file", "created_at", "updated_at"),
    }
    assert (record["root"], record["images"], record["failed"]) == (str(collection), 3, [])
    assert (record["model"], record["dimensions"]) == (str(tiny_model), 32)
    assert record["catalog_bytes"] == (collection / ".clipsearch/catalog.sqlite3").stat().st_size
    assert record["not_in_vector_file"] == 0


def test_status_says_when_the_model_is_not_here(
    run: Run, own_cache: Path, collection: Path
) -> None:
    import sqlite3

    with sqlite3.connect(collection / ".clipsearch" / "catalog.sqlite3") as catalog:
        ((text,),) = catalog.execute("SELECT value FROM meta WHERE key = 'model'").fetchall()
        spec = {**json.loads(text), "name": "/no/such/model"}
        catalog.execute("UPDATE meta SET value = ? WHERE key = 'model'", (json.dumps(spec),))
    catalog.close()
    done = run("status", cwd=collection)
    assert (done.code, done.err) == (0, "")
    assert "cannot be used here" in done.out.decode()
    assert "/no/such/model" in done.out.decode()


def test_the_models_are_listed_with_where_they_are_and_how_to_bring_one(
    run_process: Run, tmp_path: Path
) -> None:
    done = run_process("models")
    assert (done.code, done.err) == (0, "")
    text = done.out.decode()
    assert "--model ViT-B-16 --pretrained laion2b_s34b_b88k\n  the default\n  not on this" in text
    assert "--model pocket\n" in text
    assert "hf download laion/CLIP-ViT-B-16-laion2B-s34B-b88K" in text
    for repo in ("laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "someone/tiny", "someone/no-clip"):
        snapshot = tmp_path / "hub" / f"models--{repo.replace('/', '--')}" / "snapshots" / "0abc"
        snapshot.mkdir(parents=True)
        (snapshot.parent.parent / "refs").mkdir()
        (snapshot.parent.parent / "refs" / "main").write_text("0abc")
        (snapshot / "open_clip_model.safetensors").write_bytes(b"weights")
        if repo != "someone/no-clip":
            (snapshot / "open_clip_config.json").write_text("{}")
    text = run_process("models").out.decode()
    assert "not on this machine" not in text
    assert str(tmp_path / "hub" / "models--laion--CLIP-ViT-B-16-laion2B-s34B-b88K") in text
    assert "--model hf-hub:someone/tiny\n" in text
    assert "someone/no-clip" not in text


@pytest.mark.usefixtures("no_signals")
def test_all_models_are_listed_with_the_weights_published_for_each(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(registry, "on_this_machine", list)  # of whoever runs the tests
    assert cli.run(["models", "--all"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    (line,) = (line for line in out.splitlines() if line.startswith("  ViT-B-16: "))
    assert {"openai", "laion2b_s34b_b88k"} <= set(line.removeprefix("  ViT-B-16: ").split(", "))
    assert "  ViT-S-16: none; --pretrained FILE" in out.splitlines()


# -- variables ---------------------------------------------------------------------------------


def test_the_index_may_be_named_by_a_variable_and_an_option_goes_over_it(
    run: Run, collection: Path
) -> None:
    env = {"CLIPSEARCH_INDEX": str(collection / ".clipsearch")}
    assert len(run(*ASK, "a cat", env=env).lines) == 3
    env = {"CLIPSEARCH_INDEX": "no/such/place"}
    done = run(*ASK, "a cat", env=env, cwd=collection)
    assert (done.code, done.out) == (2, b"")
    assert "there is no index at no/such/place" in done.err
    done = run(*ASK, "a cat", "--index", collection, env=env)
    assert done.code == 0
    assert len(done.lines) == 3


def test_the_model_may_be_named_by_a_variable_and_an_option_goes_over_it(
    run: Run, collection: Path, tiny_model: Path
) -> None:
    env = {"CLIPSEARCH_MODEL": "ViT-B-16", "CLIPSEARCH_PRETRAINED": "laion2b_s34b_b88k"}
    done = run("index", collection, env=env)
    assert done.code == 2
    assert "laion/CLIP-ViT-B-16-laion2B-s34B-b88K is not in the hub's cache" in done.err
    done = run("index", collection, "--model", tiny_model, env=env)
    assert done.code == 0
    assert "3 unchanged" in done.err


def test_weights_may_be_named_by_a_variable_and_an_option_goes_over_it(
    run: Run, collection: Path, tmp_path: Path, tiny_model: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    weights = tmp_path / "model" / "open_clip_model.safetensors"
    env = {"CLIPSEARCH_PRETRAINED": str(weights)}
    done = run("index", collection, env=env)
    assert done.code == 2
    assert f"not with ViT-B-16/{weights}" in done.err
    done = run("index", collection, "--pretrained", "laion2b_s34b_b88k", env=env)
    assert done.code == 2
    assert "is not in the hub's cache" in done.err


@pytest.mark.usefixtures("no_signals")
def test_the_device_may_be_named_by_a_variable_and_an_option_goes_over_it(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    make_picture(tmp_path / "foreign.png", seed=9)
    monkeypatch.chdir(made)
    monkeypatch.setenv("CLIPSEARCH_DEVICE", "toaster")
    search = [*ASK, "--image", str(tmp_path / "foreign.png")]
    assert cli.run(search) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "the device 'toaster' cannot be used" in err
    assert cli.run([*search, "--device", "cpu"]) == 0
    out, err = capfd.readouterr()
    assert (sorted(out.splitlines()), err) == (sorted(NAMES), "")


# -- names that are no ordinary text -----------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_status_does_not_depend_on_what_the_terminal_can_show(
    run: Run, made: Path, tmp_path: Path, encoding: str
) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "Фото ☃"))
    env = {"PYTHONIOENCODING": encoding}
    done = run("status", cwd=folder, env=env)
    assert (done.code, done.err) == (0, "")
    assert b"  images   3" in done.out
    done = run("status", "--json", cwd=folder, env=env)
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["root"] == str(folder)


@pytest.mark.process
@pytest.mark.skipif(os.name == "nt", reason="there are no pseudo-terminals")
def test_a_terminal_gets_a_table_in_which_no_name_can_move_the_cursor(
    run: Run, collection: Path
) -> None:
    import pty

    hostile = "x\x1b[2Jy\u202ez.png"
    (collection / "a.png").rename(collection / hostile)
    assert run("index", collection).code == 0
    assert hostile.encode() in run(*ASK, "a cat", "-0", cwd=collection).out.split(b"\0")

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "clipsearch", *ASK, "a cat"]
    env = {**os.environ, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"}
    with subprocess.Popen(command, cwd=collection, stdout=theirs, env=env) as process:
        pass
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert process.returncode == 0
    assert "score" in shown.splitlines()[0]
    assert "class" in shown.splitlines()[0]
    assert "x\N{REPLACEMENT CHARACTER}[2Jy\N{REPLACEMENT CHARACTER}z.png" in shown
    assert "\x1b[2J" not in shown
    assert "\u202e" not in shown
    assert "untested on everyday" in shown.splitlines()[-1]


def test_python_looks_for_no_garbage_at_the_programs_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """That took 40 ms of a query's 320."""
    monkeypatch.setattr(sys, "argv", ["clipsearch", "--version"])
    try:
        with pytest.raises(SystemExit):
            cli.main()
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()
