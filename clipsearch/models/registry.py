"""Which models exist and where their weights are, as far as that is known without torch.

Models are named in open_clip's way:

================================  =============================================================
``ViT-B-16`` ``laion2b_s34b_b88k``  an architecture and the tag of published weights
``ViT-B-16`` ``./mine.pt``          an architecture and a checkpoint file
``./folder``                        a hub snapshot: ``open_clip_config.json`` and weights
``hf-hub:org/repo``                 the same, from the hub or its cache
``pocket``                          the small model inside this package
================================  =============================================================

Preprocessing always comes from the model's own configuration or its tag, and is never guessed.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clipsearch.errors import BadCheckpoint, ModelMismatch, UnknownModel, WeightsNotFound
from clipsearch.models import hub, weights
from clipsearch.records import ModelFiles, ModelSpec, Preprocessing
from clipsearch.text import did_you_mean, shortened

DEFAULT_NAME, DEFAULT_TAG = "ViT-B-16", "laion2b_s34b_b88k"
DEFAULT_REPO = "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"
POCKET = "pocket"

# The default's entry in open_clip's table of published weights. The table itself cannot be read
# without importing torch; a test compares the two.
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_DEFAULT_PUBLISHED: Mapping[str, Any] = {
    "hf_hub": DEFAULT_REPO + "/",
    "mean": _CLIP_MEAN,
    "std": _CLIP_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def resolve_default(*, offline: bool, notify: Callable[[str], None]) -> ModelFiles:
    """The default model, or the built-in one if the default's weights are unavailable."""
    try:
        return resolve(DEFAULT_NAME, DEFAULT_TAG, offline=offline, notify=notify)
    except WeightsNotFound:
        notify(
            f"the weights of {DEFAULT_NAME}/{DEFAULT_TAG} are not on this machine and the hub "
            f"cannot be reached: using the small built-in model '{POCKET}'. `clipsearch models` "
            f"shows how to change that."
        )
        return resolve(POCKET, None, offline=offline, notify=notify)


def resolve(
    name: str, pretrained: str | None, *, offline: bool, notify: Callable[[str], None]
) -> ModelFiles:
    """Find the requested model; never substitute another one.

    Raises UnknownModel, WeightsNotFound, BadCheckpoint.
    """
    folder = Path(name.removeprefix("local-dir:")).expanduser()
    # With weights given, an architecture's name means that, even if a folder has the same name.
    is_folder = os.path.isdir(folder) and (pretrained is None or name not in architectures())
    if pretrained is not None and brings_weights(name):
        raise UnknownModel(
            f"'{shortened(name)}' has its own weights, but --pretrained names others",
            hint="Leave out --pretrained (CLIPSEARCH_PRETRAINED); it goes with an architecture.",
        )
    if name == POCKET:
        return _from_folder(pocket_folder(), POCKET)
    if name.startswith("hf-hub:"):
        repo = name.removeprefix("hf-hub:")
        config = hub.get(repo, (hub.CONFIG,), offline=offline, notify=notify)
        hub.get(repo, hub.WEIGHTS, offline=offline, notify=notify)
        return _from_folder(config.parent, name)
    if is_folder:
        return _from_folder(folder.resolve(), str(folder.resolve()))
    return _from_architecture(name, pretrained, offline, notify)


def brings_weights(name: str) -> bool:
    """Whether a model's name includes its weights, so that no others can be named."""
    if name == POCKET or name.startswith("hf-hub:"):
        return True
    folder = Path(name.removeprefix("local-dir:")).expanduser()
    return name not in architectures() and os.path.isdir(folder)


def locate(spec: ModelSpec) -> ModelFiles:
    """Find an index's own model on this machine, without the network.

    Raises WeightsNotFound if it is missing, ModelMismatch if another model is in its place.
    """
    known = pocket_folder() / hub.WEIGHTS[0]
    in_package = spec.name == POCKET and known.is_file()
    path = known if in_package else weights.find(spec.weights_sha256)
    if path and weights.sha256_of(path) == spec.weights_sha256:
        return ModelFiles(spec, path)
    try:
        files = resolve(spec.name, spec.pretrained, offline=True, notify=lambda _: None)
    except (UnknownModel, WeightsNotFound) as error:
        raise WeightsNotFound(
            f"the index was made with {spec.label}, which is not on this machine: {error}",
            hint="Restore the weights or, if they have moved, say where they are: "
            "clipsearch index FOLDER --model ... --pretrained ...",
        ) from error
    if files.spec.fingerprint != spec.fingerprint:
        raise ModelMismatch(
            f"{spec.label} on this machine is not the model that the index was made with "
            f"({files.spec.fingerprint[:12]}, not {spec.fingerprint[:12]})",
            hint="Restore the old weights, or start over: clipsearch index FOLDER --rebuild",
        )
    return files


def on_this_machine() -> list[tuple[str, str, Path | None]]:
    """The argument for ``--model``, a description, and the path of the weights (None: not here).

    First the default and the built-in model; then all others in the hub's cache.
    """
    default = hub.cached(DEFAULT_REPO, hub.WEIGHTS)
    listed: list[tuple[str, str, Path | None]] = [
        (f"{DEFAULT_NAME} --pretrained {DEFAULT_TAG}", "the default", default),
        (POCKET, "built in: small, offline, knows common things", pocket_folder()),
    ]
    listed += [
        (f"hf-hub:{repo}", "in the hub's cache", folder)
        for repo, folder in hub.cached_models()
        if repo != DEFAULT_REPO
    ]
    return listed


def pocket_folder() -> Path:
    """The built-in model's folder, in open_clip's own layout."""
    return Path(__file__).parent / "pocket"


def architectures() -> list[str]:
    """The names of open_clip's architectures, sorted."""
    return sorted(path.stem for path in _config_folder().glob("*.json"))


def _config_folder() -> Path:
    package = find_spec("open_clip")  # finds it without importing it
    assert package is not None
    assert package.submodule_search_locations
    return Path(package.submodule_search_locations[0]) / "model_configs"


def _from_folder(folder: Path, name: str) -> ModelFiles:
    config_path = folder / hub.CONFIG
    config = _read_config(config_path)
    if not isinstance(config.get("model_cfg"), dict):
        raise BadCheckpoint(f"{config_path} has no 'model_cfg'", hint=_SNAPSHOT_HINT)
    stated = config.get("preprocess_cfg")
    if not isinstance(stated, dict) or not {"mean", "std"} <= stated.keys():
        raise BadCheckpoint(
            f"{config_path} does not state its preprocessing ('preprocess_cfg' with mean and std)",
            hint="A model needs the preprocessing of its training; add what its authors state.",
        )
    found = next((folder / name for name in hub.WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise WeightsNotFound(f"there are no weights in {folder}", hint=_SNAPSHOT_HINT)
    return _files(name, None, config["model_cfg"], stated, found)


def _from_architecture(
    name: str, pretrained: str | None, offline: bool, notify: Callable[[str], None]
) -> ModelFiles:
    asked, name = name, name.replace("/", "-")  # people write ViT-B/16 too
    config_path = _config_folder() / f"{name}.json"
    if not os.path.isfile(config_path):  # also False for a name that is too long
        raise UnknownModel(
            f"there is no model or folder named '{shortened(asked)}'"
            f"{did_you_mean(name, [POCKET, *architectures()])}",
            hint=_LIST,
        )
    model_cfg = _read_config(config_path)
    if pretrained is None:
        if name != DEFAULT_NAME:
            raise UnknownModel(
                f"'{name}' is an architecture; without weights its answers would be random",
                hint=f"Add --pretrained with one of: {', '.join(_tags(name)) or 'a file'}.",
            )
        pretrained = DEFAULT_TAG
    file = Path(pretrained).expanduser()
    if os.path.isfile(file):
        stated = _preprocessing_beside(file, name, notify)
        return _files(name, str(file.resolve()), model_cfg, stated, file.resolve())
    if (name, pretrained) == (DEFAULT_NAME, DEFAULT_TAG):
        published = _DEFAULT_PUBLISHED
    else:
        from clipsearch.models.open_clip import published_weights

        published = published_weights(name).get(pretrained, {})
        if not published:
            raise UnknownModel(
                f"'{shortened(pretrained)}' is neither a file nor published weights of {name}"
                f"{did_you_mean(pretrained, _tags(name))}",
                hint=f"Published: {', '.join(_tags(name)) or 'none'}.",
            )
    quick = bool(published.get("quick_gelu"))
    fitting = f"{name}-quickgelu" if quick else name.removesuffix("-quickgelu")
    # If the two disagree and there is no other architecture, the weights have only ever been used
    # with this one (roberta-ViT-B-32).
    if quick != bool(model_cfg.get("quick_gelu")) and fitting != name:
        raise BadCheckpoint(
            f"{pretrained} was trained {'with' if quick else 'without'} QuickGELU, "
            f"unlike the architecture {name}: its answers would be wrong",
            hint=f"Use --model {fitting}.",
        )
    repo, _, file_name = str(published.get("hf_hub", "")).rpartition("/")
    if repo:
        names = (file_name,) if file_name else hub.WEIGHTS
        found = hub.get(repo, names, offline=offline, notify=notify)
    else:
        from clipsearch.models.open_clip import download_published

        found = download_published(published, offline=offline or hub.is_offline())
    return _files(name, pretrained, model_cfg, published, found)


def _preprocessing_beside(
    file: Path, name: str, notify: Callable[[str], None]
) -> Mapping[str, Any]:
    """The preprocessing that a checkpoint's folder states; else the one that all published weights
    of its architecture share, with a message; else an error.
    """
    config = file.parent / hub.CONFIG
    if config.is_file():
        stated = _read_config(config).get("preprocess_cfg")
        if isinstance(stated, dict) and {"mean", "std"} <= stated.keys():
            return stated
    from clipsearch.models.open_clip import published_weights

    keys = ("mean", "std", "interpolation", "resize_mode")
    shared = {tuple(entry[key] for key in keys) for entry in published_weights(name).values()}
    if len(shared) != 1:
        raise BadCheckpoint(
            f"the preprocessing for {file} is not stated anywhere",
            hint=f"Put {hub.CONFIG} with a 'preprocess_cfg' (mean, std, interpolation, "
            "resize_mode) next to it.",
        )
    stated = dict(zip(keys, shared.pop(), strict=True))
    notify(
        f"{file} does not state its preprocessing; using that of all published {name} weights "
        f"(put {hub.CONFIG} next to it to change that)"
    )
    return stated


def _files(
    name: str,
    pretrained: str | None,
    model_cfg: Mapping[str, Any],
    stated: Mapping[str, Any],
    path: Path,
) -> ModelFiles:
    """Build a model's record; ``stated`` is its preprocessing in open_clip's terms."""
    try:
        size = model_cfg["vision_cfg"].get("image_size", 224)
        height, width = (size, size) if isinstance(size, int) else size
        mean, std = ([float(x) for x in stated[key]] for key in ("mean", "std"))
        preprocessing = Preprocessing(
            size=(int(height), int(width)),
            mean=(mean[0], mean[1], mean[2]),
            std=(std[0], std[1], std[2]),
            interpolation=stated.get("interpolation") or "bicubic",
            resize_mode=stated.get("resize_mode") or "shortest",
            fill_color=int(stated.get("fill_color") or 0),
        )
        int(model_cfg["embed_dim"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise BadCheckpoint(
            f"the configuration of {name} is not valid for open_clip ({error!r})",
            hint=_SNAPSHOT_HINT,
        ) from error
    if preprocessing.interpolation not in ("bicubic", "bilinear") or (
        preprocessing.resize_mode not in ("shortest", "longest", "squash")
    ):
        raise BadCheckpoint(
            f"{name} has a preprocessing that clipsearch does not support: "
            f"{preprocessing.interpolation}, {preprocessing.resize_mode}"
        )
    try:
        digest = weights.sha256_of(path)
    except OSError as error:
        raise WeightsNotFound(f"cannot read {path}: {error.strerror}") from error
    identity = {
        "weights": digest,
        "model": {key: value for key, value in model_cfg.items() if value is not None},
        "preprocessing": [
            [*preprocessing.size],
            [*preprocessing.mean],
            [*preprocessing.std],
            preprocessing.interpolation,
            preprocessing.resize_mode,
            preprocessing.fill_color,
        ],
        "tokenizer": model_cfg.get("text_cfg", {}).get("hf_tokenizer_name") or "clip-bpe-16e6",
    }
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    spec = ModelSpec(name, pretrained, digest, model_cfg, preprocessing, fingerprint)
    return ModelFiles(spec, path)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnknownModel(
            f"{path.parent} is not a model folder: it has no {path.name}", hint=_SNAPSHOT_HINT
        ) from error
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"cannot read {path}: {error}", hint=_SNAPSHOT_HINT) from error
    if not isinstance(config, dict):
        raise BadCheckpoint(f"{path} is not a JSON object", hint=_SNAPSHOT_HINT)
    return config


def _tags(name: str) -> list[str]:
    from clipsearch.models.open_clip import published_weights

    return list(published_weights(name))


_LIST = "`clipsearch models --all` lists the models that can be used."
_SNAPSHOT_HINT = (
    f"A model folder holds {hub.CONFIG} (with model_cfg and preprocess_cfg) and "
    f"{hub.WEIGHTS[0]}, as open_clip's push_to_hf_hub writes them."
)
