"""What many tests share: small images, a small model in the real format, and the program.

The tiny model is a real open_clip CLIP with random weights, saved as a hub snapshot and loaded by
the same code as any other. It is fast and it means nothing; tests of meaning use `pocket`.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipsearch.records import ModelFiles

# A shell ignores interrupts on behalf of what it starts in the background, and what that starts in
# turn would too: no test of an interrupt could pass there.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The hub's client reads this once, when it is first imported, which can be before any fixture.
os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "sample_data"

ASK = ("search", "--all", "--allow-out-of-domain")
"""How to ask a model that means nothing, whose every answer is as good as a false alarm."""

TINY_CONFIG = {
    "model_cfg": {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 64,
            "head_width": 32,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


def save_snapshot(folder: Path, config: dict, seed: int = 0) -> Path:
    """A model with random weights as a hub snapshot folder."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    model = open_clip.CLIP(**config["model_cfg"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's snapshot folder."""
    return save_snapshot(tmp_path_factory.mktemp("models") / "tiny", TINY_CONFIG)


@pytest.fixture(scope="session")
def tiny_files(tiny_model: Path) -> ModelFiles:
    """The tiny model, resolved."""
    from clipsearch.models import registry

    return registry.resolve(str(tiny_model), None, offline=True, notify=lambda _: None)


_TALLY = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TALLY] = Counter()


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> "Counter[str]":
    """How often something was tried, by name; told when all tests have run."""
    return request.config.stash[_TALLY]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for what, count in config.stash[_TALLY].items():
        terminalreporter.write_line(f"{count:>9,}  {what}")


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes what belongs to the person who runs it, or uses the network."""
    monkeypatch.setenv("CLIPSEARCH_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("CLIPSEARCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("MODEL", "PRETRAINED", "DEVICE", "INDEX"):
        monkeypatch.delenv(f"CLIPSEARCH_{name}", raising=False)


@pytest.fixture
def shared_cache(
    tmp_path_factory: pytest.TempPathFactory, own_places: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cache for all tests of the whole program: embedding a domain's texts takes seconds."""
    monkeypatch.setenv("CLIPSEARCH_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def own_cache(tmp_path: Path, shared_cache: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache after all, for tests of what is remembered there."""
    monkeypatch.setenv("CLIPSEARCH_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run_here(*arguments: str | Path) -> int:
    """Run the program in this process, where torch is loaded already."""
    from clipsearch import cli

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "signal", lambda *_: None)
        return cli.run([os.fspath(argument) for argument in arguments])


@contextmanager
def places_beside(root: Path) -> Iterator[None]:
    """What belongs to a person lies beside ``root``: for fixtures that outlive a test.

    ``root`` lies in a folder made by ``tmp_path_factory``, beside the shared cache.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPSEARCH_DATA_DIR", str(root.parent / "data"))
        patch.setenv("CLIPSEARCH_CACHE_DIR", str(root.parent.parent / "cache"))
        yield


def make_picture(path: Path | bytes, seed: int = 0, size: tuple[int, int] = (48, 40)) -> None:
    """An image of random blocks, different for every seed; the name's suffix says the format."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)
    suffix = os.path.splitext(os.fsdecode(path))[1].lower()
    kind = {
        ".jpg": "JPEG",
        ".jpeg": "JPEG",
        ".png": "PNG",
        ".webp": "WEBP",
        ".gif": "GIF",
        ".bmp": "BMP",
        ".tif": "TIFF",
        ".tiff": "TIFF",
    }[suffix]
    with open(path, "wb") as file:
        image.save(file, kind)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of six images, two of them in a subfolder."""
    root = tmp_path / "photos"
    (root / "sub").mkdir(parents=True)
    for n, name in enumerate(["a.png", "b.jpg", "c.png", "d.webp", "sub/e.png", "sub/f.jpg"]):
        make_picture(root / name, seed=n)
    return root


@dataclass(frozen=True)
class Ran:
    """What a run of the program did."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        """Standard output as lines of text."""
        return self.out.decode().splitlines()


Run = Callable[..., Ran]


@contextmanager
def _streams(stdin: bytes) -> Iterator[Callable[[], tuple[bytes, str]]]:
    """Files in place of the standard streams, down to their descriptors; gives what was written."""
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        files[0].write(stdin)
        files[0].seek(0)
        for number, file in enumerate(files):
            stack.callback(os.close, before := os.dup(number))
            stack.callback(os.dup2, before, number)
            os.dup2(file.fileno(), number)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            stream = open(  # noqa: SIM115 (the stack closes it)
                number,
                "w" if number else "r",
                encoding="utf-8",
                errors="backslashreplace" if number else "surrogateescape",
                closefd=False,
            )
            stack.enter_context(stream)
            patch.setattr(sys, name, stream)

        def written() -> tuple[bytes, str]:
            sys.stdout.flush()
            sys.stderr.flush()
            for file in files:
                file.seek(0)
            return files[1].read(), files[2].read().decode("utf-8", "backslashreplace")

        yield written


@pytest.fixture
def run(tmp_path: Path, shared_cache: None) -> Run:
    """Run the program in this process: `run("search", "a cat", cwd=photos)`.

    What it prints is caught at the descriptors, so that no test can tell it from a process.
    """

    def run_program(
        *arguments: str | bytes | Path,
        cwd: Path | None = None,
        stdin: bytes = b"",
        env: dict[str, str] | None = None,
    ) -> Ran:
        with pytest.MonkeyPatch.context() as patch, _streams(stdin) as written:
            patch.chdir(cwd or tmp_path)
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            try:
                code = run_here(*(os.fsdecode(argument) for argument in arguments))
            except SystemExit as left:  # completion leaves in typer's own way
                code = int(left.code or 0)
            return Ran(code, *written())

    return run_program


@pytest.fixture
def run_process(tmp_path: Path, shared_cache: None) -> Run:
    """Run the program, or another ``command``, in a process of its own.

    For what only a process shows: what is imported, what a signal or a closed pipe does. A test
    that asks for this is marked ``process``.
    """

    def run_program(
        *arguments: str | bytes | Path,
        cwd: Path | None = None,
        stdin: bytes = b"",
        env: dict[str, str] | None = None,
        timeout: float = 120,
        command: Sequence[str] = (sys.executable, "-m", "clipsearch"),
    ) -> Ran:
        done = subprocess.run(
            [*command, *arguments],
            cwd=cwd or tmp_path,
            input=stdin,
            capture_output=True,
            timeout=timeout,
            env={**os.environ, **(env or {})},
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr.decode("utf-8", "backslashreplace"))

    return run_program


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "run_process" in getattr(item, "fixturenames", ()):
            item.add_marker("process")


@pytest.fixture(autouse=True)
def quick_tests_start_no_process(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hold what the markers say: a test that is to be quick starts no other program."""
    if any(request.node.get_closest_marker(name) for name in ("process", "slow")):
        return

    def refuse(*arguments: object, **_: object) -> None:
        pytest.fail("a test that starts a process is to be marked: pytest.mark.process")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)


def wait_and_watch(process: "subprocess.Popen[bytes]") -> int:
    """Wait for a process; the most memory that it had resident, in bytes.

    From Linux's own account of the process: what ``wait4`` tells begins with what its parent had.
    Zero where there is no such account.
    """
    peak = 0
    while process.poll() is None:
        with suppress(OSError):
            told = Path(f"/proc/{process.pid}/status").read_text()
            found = [line.split()[1] for line in told.splitlines() if line.startswith("VmHWM")]
            peak = max(peak, *(1024 * int(kilobytes) for kilobytes in found), 0)
        time.sleep(0.02)
    return peak
