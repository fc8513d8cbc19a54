"""Model files from the hub's cache on this machine, or from the hub if it answers quickly."""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from clipsearch.errors import UnknownModel, WeightsNotFound
from clipsearch.text import shortened

SECONDS_TO_ANSWER = 4.0
"""How long the hub may take to answer."""

CONFIG = "open_clip_config.json"

WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""Names of weights files in a model folder, in open_clip's order of preference."""


def cached(repo: str, names: Sequence[str]) -> Path | None:
    """The path, in the hub's cache, of the first of ``names`` that is there."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        path = try_to_load_from_cache(repo, name)
        if isinstance(path, str):
            return Path(path)
    return None


def cached_models() -> list[tuple[str, Path]]:
    """Repository and snapshot folder of every open_clip model in the hub's cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return []
    return sorted(
        (repo.repo_id, revision.snapshot_path)
        for repo in repos
        for revision in repo.revisions
        if CONFIG in {file.file_name for file in revision.files}
    )


def get(repo: str, names: Sequence[str], *, offline: bool, notify: Callable[[str], None]) -> Path:
    """The first of ``names`` in ``repo``, from the cache or else from the hub.

    Raises UnknownModel if ``repo`` is not a valid name on the hub, and WeightsNotFound if the file
    is not cached and ``offline`` is set, the hub does not answer within seconds, or the repository
    has none of the files.
    """
    from huggingface_hub.errors import HFValidationError

    try:
        found = cached(repo, names)
    except HFValidationError as error:
        raise UnknownModel(
            f"'{shortened(repo)}' is not a valid model name on the hub",
            hint="Use hf-hub:ORG/REPO, for example hf-hub:laion/CLIP-ViT-B-16-laion2B-s34B-b88K.",
        ) from error
    if found is not None:
        return found
    if offline or is_offline():
        raise WeightsNotFound(
            f"{repo} is not in the hub's cache on this machine, and offline mode is on",
            hint=_BRING.format(repo=repo),
        )
    notify(f"asking the hub for {repo}")
    name = _first_offered(repo, names)
    notify(f"downloading {name} of {repo} from the hub")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, name))
    except Exception as error:
        raise WeightsNotFound(
            f"the download of {name} from {repo} failed: {_one_line(error)}",
            hint="Run the same command again; " + _BRING.format(repo=repo),
        ) from error


def is_offline() -> bool:
    """Whether the hub's own environment variables forbid the network."""
    return any(
        os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def _first_offered(repo: str, names: Sequence[str]) -> str:
    """The first of ``names`` that the hub has. It must answer within SECONDS_TO_ANSWER."""
    answer: list[str | Exception] = []

    def ask() -> None:
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError

        for name in names:
            url = huggingface_hub.hf_hub_url(repo, name)
            try:  # without the client's own retries, which take half a minute to fail
                huggingface_hub.get_hf_file_metadata(url, timeout=SECONDS_TO_ANSWER)
            except EntryNotFoundError:
                continue
            except Exception as error:  # the client has many errors; all mean "no"
                answer.append(error)
            else:
                answer.append(name)
            return
        answer.append(StopIteration())

    # A daemon thread, because a hanging resolver cannot be stopped.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SECONDS_TO_ANSWER)
    if not answer:
        why = f"it did not answer within {SECONDS_TO_ANSWER:.0f} seconds"
    elif isinstance(answer[0], StopIteration):
        why = "it has no weights under any of the names that open_clip uses"
    elif isinstance(answer[0], Exception):
        why = _one_line(answer[0])
    else:
        return answer[0]
    raise WeightsNotFound(
        f"{repo} is not on this machine and cannot be downloaded from the hub: {why}",
        hint=_BRING.format(repo=repo),
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


_BRING = "`clipsearch models` shows how to bring {repo} to a machine without a network."
