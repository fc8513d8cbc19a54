"""Decoding in other processes: nothing is lost, whatever happens to a file or to a worker."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import make_picture

from clipsearch.errors import ImageError
from clipsearch.images import pool as decode_pool
from clipsearch.images.decode import decode, decode_whole, see
from clipsearch.images.pool import DecodePool, Outcome, Whole, decoded
from clipsearch.records import DecodedImage, ImageFile, Origin, Preprocessing

SMALL = Preprocessing((16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LIMIT = 10**8

needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


def listed(*names: str) -> list[ImageFile]:
    return [ImageFile(os.fsencode(name), 0, 0) for name in names]


def pool_of(root: Path, *names: str, **options: object) -> DecodePool:
    settings: dict = {"max_pixels": LIMIT, "ahead": 4, "workers": 1, **options}
    return DecodePool(os.fsencode(root), listed(*names), SMALL, **settings)


def outcomes(pool: DecodePool) -> dict[str, Outcome]:
    answers = list(pool)
    by_name = {os.fsdecode(file.path): outcome for file, outcome in answers}
    assert len(by_name) == len(answers), "a file came back twice"
    return by_name


def workers() -> list:
    return multiprocessing.active_children()


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Iterator[None]:
    assert workers() == []
    yield
    assert workers() == []


def test_without_preprocessing_files_are_seen_and_not_decoded(tmp_path: Path) -> None:
    make_picture(tmp_path / "a.png")
    (tmp_path / "bad.jpg").write_text("this is no image")
    files = listed("a.png", "bad.jpg", "gone.jpg")
    with DecodePool(os.fsencode(tmp_path), files, None, max_pixels=None, ahead=4) as pool:
        found = outcomes(pool)
    assert found["a.png"] == see(tmp_path / "a.png")
    assert isinstance(found["bad.jpg"], ImageError)
    assert isinstance(found["gone.jpg"], FileNotFoundError)


def test_a_whole_picture_is_made_smaller_and_not_cropped(tmp_path: Path) -> None:
    make_picture(tmp_path / "a.png", size=(90, 30))
    files = listed("a.png")
    with DecodePool(os.fsencode(tmp_path), files, Whole(60), max_pixels=None, ahead=4) as pool:
        found = outcomes(pool)["a.png"]
    assert isinstance(found, DecodedImage)
    assert found.pixels.shape == (20, 60, 3)
    assert (found.width, found.height) == (90, 30)
    np.testing.assert_array_equal(found.pixels, decode_whole(tmp_path / "a.png", 60).pixels)


def test_a_header_alone_tells_the_origin(tmp_path: Path) -> None:
    make_picture(tmp_path / "a.png")
    with DecodePool(
        os.fsencode(tmp_path), listed("a.png", "gone.png"), "origin", max_pixels=None, ahead=4
    ) as pool:
        found = outcomes(pool)
    assert found["a.png"] == Origin()
    assert isinstance(found["gone.png"], FileNotFoundError)


@needs_fifo
def test_one_file_alone_is_decoded_or_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_picture(tmp_path / "a.png")
    alone = decode(tmp_path / "a.png", SMALL)
    found = decoded(os.fsencode(tmp_path / "a.png"), SMALL)
    np.testing.assert_array_equal(found.pixels, alone.pixels)
    (tmp_path / "bad.png").write_text("this is no image")
    with pytest.raises(ImageError, match="not an image") as caught:
        decoded(os.fsencode(tmp_path / "bad.png"), SMALL)
    assert caught.value.kind == "content"
    with pytest.raises(FileNotFoundError):
        decoded(os.fsencode(tmp_path / "gone.png"), SMALL)
    os.mkfifo(tmp_path / "hangs.png")
    monkeypatch.setattr(decode_pool, "SECONDS_PER_FILE", 0.2)
    with pytest.raises(ImageError, match="did not finish") as caught:
        decoded(os.fsencode(tmp_path / "hangs.png"), SMALL)
    assert caught.value.kind == "time"


def test_every_file_comes_back_once_with_its_own_picture(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(25)]
    for n, name in enumerate(names):
        make_picture(tmp_path / name, seed=n)
    (tmp_path / "bad.jpg").write_text("this is no image")
    (tmp_path / "folder.jpg").mkdir()
    odd = ["bad.jpg", "gone.jpg", "folder.jpg"]
    order = [*names[:10], *odd, *names[10:]]
    with pool_of(tmp_path, *order, ahead=2, workers=2) as pool:  # far fewer than there are files
        found = outcomes(pool)
    assert sorted(found) == sorted(order)
    for name in names:
        outcome, alone = found[name], decode(str(tmp_path / name), SMALL, LIMIT)
        assert isinstance(outcome, DecodedImage)
        assert np.array_equal(outcome.pixels, alone.pixels)
        assert outcome.content_hash == alone.content_hash
        assert (outcome.width, outcome.height) == (48, 40)
    assert isinstance(found["bad.jpg"], ImageError)
    assert "not an image" in str(found["bad.jpg"])
    assert isinstance(found["gone.jpg"], FileNotFoundError)
    assert isinstance(found["folder.jpg"], OSError)


def test_the_workers_obey_the_size_limit(tmp_path: Path) -> None:
    make_picture(tmp_path / "a.png", size=(50, 40))
    with pool_of(tmp_path, "a.png", max_pixels=1999) as pool:
        (outcome,) = outcomes(pool).values()
    assert isinstance(outcome, ImageError)
    assert "the limit is" in str(outcome)
    assert (outcome.kind, outcome.pixels) == ("pixels", 2000)


def test_no_files_need_no_worker(tmp_path: Path) -> None:
    with pool_of(tmp_path, workers=3) as pool:
        assert workers() == []
        assert list(pool) == []


def test_no_more_workers_are_started_than_there_are_files(tmp_path: Path) -> None:
    make_picture(tmp_path / "a.png")
    with pool_of(tmp_path, "a.png", workers=8) as pool:
        next(iter(pool))
        assert len(workers()) <= 1


def wait_for(condition: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


def test_decoding_runs_ahead_of_the_caller_and_no_further(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(12)]
    for name in names:
        make_picture(tmp_path / name)
    with pool_of(tmp_path, *names, ahead=3) as pool:
        waiting = pool._done
        wait_for(waiting.full)
        time.sleep(0.2)
        assert waiting.qsize() == 3
        # One more may be in the hands of whoever waits for room; the rest was not begun.
        assert len(list(pool._todo)) >= len(names) - 4


@needs_fifo
def test_a_worker_that_dies_costs_one_file(tmp_path: Path) -> None:
    for n, name in enumerate(["a.png", "c.png", "d.png"]):
        make_picture(tmp_path / name, seed=n)
    os.mkfifo(tmp_path / "b.png")  # keeps the worker waiting until it is shot
    with pool_of(tmp_path, "a.png", "b.png", "c.png", "d.png", ahead=1) as pool:
        answers = iter(pool)
        file, outcome = next(answers)
        assert file.path == b"a.png"
        assert isinstance(outcome, DecodedImage)
        (victim,) = workers()
        os.kill(victim.pid, signal.SIGKILL)
        rest = {file.path: outcome for file, outcome in answers}
    assert sorted(rest) == [b"b.png", b"c.png", b"d.png"]
    crashed = rest.pop(b"b.png")
    assert isinstance(crashed, ImageError)
    assert "crashed" in str(crashed)
    assert crashed.kind == "crash"
    assert str(-signal.SIGKILL) in str(crashed)
    assert all(isinstance(outcome, DecodedImage) for outcome in rest.values())


@needs_fifo
@pytest.mark.process
def test_a_file_that_takes_for_ever_is_given_up(tmp_path: Path) -> None:
    make_picture(tmp_path / "after.png")
    os.mkfifo(tmp_path / "hangs.png")
    with pool_of(tmp_path, "hangs.png", timeout=1) as pool:
        (outcome,) = outcomes(pool).values()
    assert isinstance(outcome, ImageError)
    assert "did not finish within 1 seconds" in str(outcome)
    assert outcome.kind == "time"


@needs_fifo
@pytest.mark.process
def test_the_run_goes_on_after_a_file_that_takes_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_patiently = decode_pool.Decoder.decode

    def decode_impatiently(self: object, path: bytes, timeout: float, *rest: object) -> Outcome:
        # Only for the one file: a healthy one must have the time that its worker needs to start.
        timeout = 0.5 if path.endswith(b"hangs.png") else timeout
        return decode_patiently(self, path, timeout, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(decode_pool.Decoder, "decode", decode_impatiently)
    make_picture(tmp_path / "before.png")
    make_picture(tmp_path / "after.png")
    os.mkfifo(tmp_path / "hangs.png")
    with pool_of(tmp_path, "before.png", "hangs.png", "after.png") as pool:
        found = outcomes(pool)
    assert isinstance(found["before.png"], DecodedImage)
    assert isinstance(found["hangs.png"], ImageError)
    assert isinstance(found["after.png"], DecodedImage)


@pytest.mark.skipif(os.name == "nt", reason="os.kill ends a process there, whatever the signal")
def test_ctrl_c_is_for_the_parent_and_does_not_stop_the_workers(tmp_path: Path) -> None:
    for n in range(4):
        make_picture(tmp_path / f"{n}.png", seed=n)
    with pool_of(tmp_path, *(f"{n}.png" for n in range(4)), ahead=1) as pool:
        answers = iter(pool)
        next(answers)
        for worker in workers():
            os.kill(worker.pid, signal.SIGINT)
        assert all(isinstance(outcome, DecodedImage) for _, outcome in answers)


@needs_fifo
def test_leaving_stops_workers_that_hang(tmp_path: Path) -> None:
    make_picture(tmp_path / "a.png")
    names = [f"{n}.png" for n in range(5)]
    for name in names:
        os.mkfifo(tmp_path / name)
    with pool_of(tmp_path, "a.png", *names, workers=2) as pool:
        next(iter(pool))
        started = time.monotonic()
    assert time.monotonic() - started < 10  # and not the minute that a file may take
    assert workers() == []


def test_leaving_early_stops_workers_that_wait_for_room(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(30)]
    for name in names:
        make_picture(tmp_path / name)
    with pool_of(tmp_path, *names, ahead=1, workers=2) as pool:
        next(iter(pool))
    assert workers() == []


def test_an_error_of_the_caller_stops_the_workers_and_is_raised(tmp_path: Path) -> None:
    make_picture(tmp_path / "a.png")

    def stumble() -> None:
        with pool_of(tmp_path, *["a.png"] * 9, ahead=1) as pool:
            next(iter(pool))
            raise RuntimeError("no space left")

    with pytest.raises(RuntimeError, match="no space left"):
        stumble()
    assert workers() == []


def test_leaving_at_once_is_as_good(tmp_path: Path) -> None:
    make_picture(tmp_path / "a.png")
    with pool_of(tmp_path, "a.png"):
        pass
    assert workers() == []


def test_a_worker_that_cannot_be_started_is_an_error_and_no_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("clipsearch.images.pool.Decoder", refuse)
    make_picture(tmp_path / "a.png")
    with (
        pytest.raises(OSError, match="temporarily unavailable"),
        pool_of(tmp_path, "a.png", "a.png") as pool,
    ):
        list(pool)


def test_a_worker_whose_parent_is_gone_before_it_is_ready_ends_without_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # it would ignore interrupts here
    ours, theirs = multiprocessing.Pipe()
    ours.close()
    decode_pool._work(theirs, SMALL, None)
    theirs.close()


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="asks /proc")
def test_the_workers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    make_picture(tmp_path / "a.png")
    program = textwrap.dedent(
        """
        import multiprocessing, os, signal, sys
        from clipsearch.images.pool import DecodePool
        from clipsearch.records import ImageFile, Preprocessing

        if __name__ == "__main__":
            files = [ImageFile(b"a.png", 0, 0)] * 1000
            prepared = Preprocessing((16, 16), (0.5,) * 3, (0.5,) * 3)
            with DecodePool(
                os.fsencode(sys.argv[1]), files, prepared, max_pixels=10**8, ahead=1, workers=1
            ) as pool:
                next(iter(pool))
                print(multiprocessing.active_children()[0].pid, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    script = tmp_path / "parent.py"
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    worker = int(done.stdout)

    def is_gone() -> bool:
        # An orphan that nobody collects stays behind as a zombie; its command line does not.
        try:
            return not Path(f"/proc/{worker}/cmdline").read_bytes()
        except OSError:
            return True

    wait_for(is_gone)
