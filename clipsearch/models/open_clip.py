"""open_clip's dual encoder: the only file that imports torch and open_clip.

Pixels go in and float32 unit vectors come out. open_clip's own loader loads the weights strictly: a
checkpoint with missing or extra tensors is an error and never gives a partly random model.
"""

import logging
import os
import pickletools
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.factory import load_checkpoint
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode

from clipsearch.errors import BadCheckpoint, DeviceError, ModelError, WeightsNotFound
from clipsearch.models import fidelity
from clipsearch.models.text_encoder import Floats, supports
from clipsearch.models.text_encoder import TextEncoder as NumpyTextEncoder
from clipsearch.models.weights import mappable, text_tower_copy
from clipsearch.paths import put_in_place
from clipsearch.records import ModelFiles, Pixels, Preprocessing, TextEncoder, Vectors
from clipsearch.text import did_you_mean
from clipsearch.vectors import l2_normalise


class OpenClipEncoder:
    """A loaded model on one device."""

    def __init__(
        self,
        files: ModelFiles,
        device: str = "auto",
        batch_size: int | None = None,
    ) -> None:
        """Load ``files`` on ``device`` ("auto", "cpu", "cuda" or one of torch's own names).

        Raises DeviceError, BadCheckpoint.
        """
        self._spec = files.spec
        self._weights = files.weights
        self.device = _device(device)
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(files.spec.preprocessing.mean, device=self.device).view(shape)
        self._std = torch.tensor(files.spec.preprocessing.std, device=self.device).view(shape)
        self._load(files)
        self._use_fast_arithmetic(files)
        self.batch_size = batch_size or _batch_size(self.device, files.spec.preprocessing)
        self._tokenizer: Any = None
        if files.weights.suffix != ".safetensors" and supports(files.spec):
            self._keep_mappable_text_tower()

    @torch.inference_mode()
    def encode_images(self, pixels: Pixels) -> Vectors:
        """Embed ``(n, height, width, 3)`` pixels as ``(n, dim)`` unit vectors.

        A batch that is too large for the device's memory is halved. Raises DeviceError.
        """
        try:
            x = torch.from_numpy(pixels)
            if self.device.type == "cuda":
                x = x.pin_memory().to(self.device, non_blocking=True)
            x = x.to(self.device).permute(0, 3, 1, 2)  # (n, 3, height, width), channels last
            x = (x.float().div_(255) - self._mean) / self._std
            return self._unit(self._model.encode_image(x.to(self.dtype)))
        except torch.OutOfMemoryError as error:
            if len(pixels) == 1:
                raise DeviceError(
                    f"{self.device} does not have enough memory for one image",
                    hint="Free some memory, or use --device cpu.",
                ) from error
        torch.cuda.empty_cache()
        self.batch_size = half = len(pixels) // 2
        return np.concatenate(
            [self.encode_images(pixels[:half]), self.encode_images(pixels[half:])]
        )

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Embed ``n`` texts as ``(n, dim)`` unit vectors."""
        if self._tokenizer is None:
            self._tokenizer = _tokenizer(self._spec.name, self._spec.pretrained, self._weights)
        tokens = self._tokenizer(list(texts))
        batches = [self._model.encode_text(t.to(self.device)) for t in tokens.split(_TEXTS_AT_ONCE)]
        return self._unit(torch.cat(batches))

    def for_many_texts(self) -> TextEncoder | None:
        """An encoder that is faster for many texts than the text tower in numpy, or None.

        On a device other than a CPU, this encoder itself, in float32. On a CPU, the numpy tower
        with linear layers in the image tower's fast dtype, if a sample's embeddings stay the same.
        """
        if self.device.type != "cpu":
            return self
        path = mappable(self._weights)
        if self.dtype == torch.float32 or path is None or not supports(self._spec):
            return None
        files = ModelFiles(self._spec, path)
        fast = _FastTexts(files, self._model.state_dict(), self.dtype)
        exact = NumpyTextEncoder(files).encode_texts(fidelity.PROBE_TEXTS)
        rounded = fast.encode_texts(fidelity.PROBE_TEXTS)
        return fast if fidelity.worst(exact, rounded) >= fidelity.TEXTS else None

    def _unit(self, features: torch.Tensor) -> Vectors:
        try:
            return l2_normalise(features.float().cpu().numpy())
        except ValueError as error:
            raise ModelError(
                f"{self._spec.label} gave {error} in {self.dtype}",
                hint="Its weights may be damaged. Nothing from this batch was stored.",
            ) from error

    def _load(self, files: ModelFiles) -> None:
        """Load in fp32."""
        self.dtype = torch.float32
        self._model = _load(files).to(self.device)
        # Pixels arrive with channels last, and convolutions are faster in that layout.
        self._model.visual.to(memory_format=torch.channels_last)

    def _use_fast_arithmetic(self, files: ModelFiles) -> None:
        """Convert the image tower to the device's fastest dtype, if its results stay the same."""
        dtype = _choose_dtype(self.device)
        if dtype == self.dtype:
            return
        probe = fidelity.probe_images(files.spec.preprocessing)
        exact = self.encode_images(probe)
        self._model.visual.to(dtype=dtype)
        self.dtype = dtype
        if fidelity.worst(exact, self.encode_images(probe)) < fidelity.IMAGES:
            self._load(files)

    def _keep_mappable_text_tower(self) -> None:
        """Write the text tower once as safetensors, so that no later query needs torch."""
        path = text_tower_copy(self._spec.weights_sha256)
        if path.exists():
            return
        tower = {
            name: tensor.contiguous()
            for name, tensor in self._model.state_dict().items()
            if not name.startswith("visual.")
        }
        temporary = path.with_suffix(f".{os.getpid()}")
        with suppress(OSError, SafetensorError):  # only a cache: queries are slower without it
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            save_file(tower, temporary)
            put_in_place(temporary, path)


class _FastTexts:
    """The text tower in numpy, with its linear layers in one of torch's fast dtypes."""

    def __init__(
        self, files: ModelFiles, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype
    ) -> None:
        """tensors: the model's, by their names in the file."""
        self._dtype = dtype
        self._tensors = {
            name: tensor.to(dtype)
            for name, tensor in tensors.items()
            if ".resblocks." in name and not name.startswith("visual.")
        }
        self._tower = NumpyTextEncoder(files, self)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        with _one_thread():  # per product: the tower has its own threads
            return self._tower.encode_texts(texts)

    @torch.inference_mode()
    def linear(self, x: Floats, weight: str, bias: str) -> Floats:
        rounded = torch.from_numpy(x).to(self._dtype)
        product = torch.nn.functional.linear(rounded, self._tensors[weight], self._tensors[bias])
        floats: Floats = product.float().numpy()
        return floats

    @torch.inference_mode()
    def gelu(self, x: Floats) -> Floats:
        floats: Floats = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
        return floats


def published_weights(architecture: str) -> Mapping[str, Mapping[str, Any]]:
    """Tag -> open_clip's entry (hub repository, preprocessing, QuickGELU) for an architecture."""
    return {
        tag: open_clip.get_pretrained_cfg(architecture, tag)
        for tag in open_clip.list_pretrained_tags_by_model(architecture)
    }


def download_published(entry: Mapping[str, Any], *, offline: bool) -> Path:
    """Weights that are published at their own URL, through open_clip's downloader.

    Raises WeightsNotFound.
    """
    target = Path("~/.cache/clip").expanduser() / os.path.basename(entry.get("url", ""))
    if offline and not target.is_file():
        raise WeightsNotFound(
            f"{target.name} is not on this machine, and offline mode is on",
            hint=f"Put the file at {target}.",
        )
    try:
        return Path(open_clip.download_pretrained(dict(entry)))
    except Exception as error:  # urllib, the hub client and open_clip each have their own errors
        raise WeightsNotFound(f"the download failed: {error}") from error


def device_facts(name: str) -> str:
    """The device that the model would run on, its memory, and its dtype. Raises DeviceError."""
    device = _device(name)
    dtype = str(_choose_dtype(device)).removeprefix("torch.")
    if device.type == "cuda":
        free, total = (size / (1 << 30) for size in torch.cuda.mem_get_info(device))
        return (
            f"{device}: {torch.cuda.get_device_name(device)}, {free:.1f} of {total:.1f} GB free, "
            f"{dtype}"
        )
    if device.type == "cpu":
        vectors = torch.backends.cpu.get_cpu_capability()
        threads = torch.get_num_threads()
        return f"cpu: {vectors}, {threads} threads, {dtype}"
    return f"{device}: {dtype}"


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:120]
        meant = did_you_mean(name, ("auto", "cpu", "cuda", "mps", "xpu"))
        raise DeviceError(
            f"the device '{name}' cannot be used{meant}: {reason}", hint="Use --device auto or cpu."
        ) from error
    return device


_TEXTS_AT_ONCE = 256
"""Each text is padded to the full context, so even a few are many tokens."""


_CUDA_BYTES_PER_PIXEL = 500
"""GPU memory for one image while it is embedded: 25 MB for ViT-B/16 at 224 x 224.

A cautious estimate, and only a starting point: a batch that does not fit is halved.
"""


def _batch_size(device: torch.device, preprocessing: Preprocessing) -> int:
    """Small enough for the caches on a CPU; as large as the free memory allows on a GPU."""
    if device.type != "cuda":
        return 16
    free, _ = torch.cuda.mem_get_info(device)
    height, width = preprocessing.size
    return max(16, min(512, free // (height * width * _CUDA_BYTES_PER_PIXEL)))


def _choose_dtype(device: torch.device) -> torch.dtype:
    """The dtype in which the image tower is fastest on this device.

    A CPU is timed on a matrix product: with bf16 units it can be five times as fast as in fp32.
    Without them, or if they are weak, it is slower, whatever the processor's name and flags say.
    fp16 is never tried on a CPU, where it is hundreds of times slower.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return torch.float32
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.float32
    fp32, bf16 = _matmul_seconds((torch.float32, torch.bfloat16))
    return torch.bfloat16 if fp32 > _WORTH_ROUNDING * bf16 else torch.float32


_WORTH_ROUNDING = 1.5
"""How many times faster bf16 must be to be worth its rounding."""


@torch.inference_mode()
def _matmul_seconds(dtypes: Sequence[torch.dtype]) -> list[float]:
    """The time of one matrix product in each dtype, 20 to 60 milliseconds in all.

    Measured on one thread, alternating, as the best of several, and in the thread's own time if the
    system's clock is fine enough, so that other load on the machine has little effect.
    """
    clock = time.perf_counter if os.name == "nt" else time.thread_time
    pairs = [(torch.ones(128, 768, dtype=d), torch.ones(768, 768, dtype=d)) for d in dtypes]
    best = [float("inf")] * len(pairs)
    with _one_thread():
        for _ in range(6):  # the first round also loads and compiles the kernels
            for n, (a, b) in enumerate(pairs):
                start = clock()
                a @ b
                best[n] = min(best[n], clock() - start)
    return best


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit torch to one core per call, in this thread and the threads that it starts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _load(files: ModelFiles) -> Any:
    """Build the architecture and fill it from the weights file."""
    cfg = deepcopy(dict(files.spec.model_cfg))
    cfg["vision_cfg"]["timm_model_pretrained"] = False
    cfg["text_cfg"]["hf_model_pretrained"] = False
    custom_text = cfg.pop("custom_text", False) or cfg["text_cfg"].get("hf_model_name")
    kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    if "multimodal_cfg" in cfg:
        kind = open_clip.CoCa
    with _quiet():
        try:
            with _SkipRandomInitialisation():
                model = kind(**cfg)
        except Exception as error:
            raise BadCheckpoint(
                f"open_clip cannot build {files.spec.label}: {error}",
                hint="This version of open_clip does not understand its configuration.",
            ) from error
        try:
            load_checkpoint(model, os.fspath(files.weights), strict=True, weights_only=True)
        except UnpicklingError as error:
            if _holds_code(files.weights, error):
                raise BadCheckpoint(
                    f"{files.weights} is a pickle that contains code, which is not run",
                    hint="If you trust the file, save only its weights, preferably as safetensors.",
                ) from error
            raise BadCheckpoint(
                f"{files.weights} does not contain the weights of {files.spec.label}: it is not a "
                "pickle of tensors",
                hint="The file may be cut short or of another kind. Download it again.",
            ) from error
        except Exception as error:
            # open_clip, torch, pickle and safetensors each raise their own errors.
            raise BadCheckpoint(
                f"{files.weights} does not contain the weights of {files.spec.label}: "
                f"{_first_line(error)}",
                hint="The file may be cut short, or belong to another architecture. "
                "Download it again, or name the right --model.",
            ) from error
    model.eval()
    return model


class _SkipRandomInitialisation(TorchFunctionMode):
    """Skip random initialization, because the (strict) checkpoint fills every tensor."""

    _FILLS = frozenset(
        {
            torch.Tensor.normal_,
            torch.Tensor.uniform_,
            torch.nn.init.normal_,
            torch.nn.init.uniform_,
            torch.nn.init.trunc_normal_,
            torch.nn.init.kaiming_uniform_,
            torch.nn.init.kaiming_normal_,
            torch.nn.init.xavier_uniform_,
            torch.nn.init.xavier_normal_,
        }
    )

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        if function in self._FILLS:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence open_clip's progress on the root logger and timm's warnings about its registry."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(before)


def _tokenizer(name: str, pretrained: str | None, weights: Path) -> Any:
    source = name if pretrained else f"local-dir:{weights.parent}"
    with _quiet():
        try:
            return open_clip.get_tokenizer(source)
        except Exception as error:
            raise ModelError(
                f"the tokenizer of {name} cannot be loaded: {_first_line(error)}",
                hint="Models with a tokenizer of their own may need: pip install transformers",
            ) from error


def _holds_code(weights: Path, error: UnpicklingError) -> bool:
    """Whether a pickle that torch refused contains calls; it is parsed but never run."""
    if "GLOBAL" in str(error):
        return True
    with suppress(Exception), weights.open("rb") as file:
        return any("GLOBAL" in opcode.name for opcode, _, _ in pickletools.genops(file))
    return False


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
