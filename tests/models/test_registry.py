"""Which model is meant, where its weights lie, and how it is fed: never a guess, never another."""

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_CONFIG
from huggingface_hub.errors import EntryNotFoundError

from clipsearch.errors import BadCheckpoint, ModelMismatch, UnknownModel, WeightsNotFound
from clipsearch.models import hub, registry, weights
from clipsearch.records import ModelFiles, ModelSpec

DEFAULT = "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"
REVISION = "7288da5a0d6f0b51c4a2b27c624837a9236d0112"


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache. The hub's client reads its variable once, when it is first imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cache(hub_folder: Path, repo: str, files: Mapping[str, bytes]) -> Path:
    """Lay a repository into the hub's cache as its client does; return the snapshot."""
    folder = hub_folder / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(REVISION)
    (folder / "blobs").mkdir()
    for name, content in files.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def snapshot(
    folder: Path, config: object = TINY_CONFIG, content: bytes = b"weights", name: str = ""
) -> Path:
    """A model folder; what its weights hold does not matter until they are loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / hub.CONFIG).write_text(text)
    (folder / (name or hub.WEIGHTS[0])).write_bytes(content)
    return folder


def changed(**changes: Any) -> dict[str, Any]:
    """The tiny configuration with other preprocessing; None takes a key out."""
    config = deepcopy(TINY_CONFIG)
    config["preprocess_cfg"] |= changes
    config["preprocess_cfg"] = {k: v for k, v in config["preprocess_cfg"].items() if v is not None}
    return config


def resolve(name: str, pretrained: str | None = None, said: list[str] | None = None) -> ModelFiles:
    notify = said.append if said is not None else pytest.fail
    return registry.resolve(name, pretrained, offline=True, notify=notify)


@pytest.mark.parametrize("name", ["../x", "a/..b", "a/b/c", "a b", "x" * 5000])
def test_what_is_no_name_on_the_hub_is_an_unknown_model(name: str) -> None:
    with pytest.raises(UnknownModel, match="is not a valid model name on the hub") as caught:
        resolve(f"hf-hub:{name}")
    assert len(str(caught.value)) < 200


def test_a_model_with_weights_of_its_own_takes_no_others(tmp_path: Path) -> None:
    folder = str(snapshot(tmp_path / "mine"))
    for name in ("pocket", "hf-hub:someone/tiny", folder):
        with pytest.raises(UnknownModel, match="has its own weights") as caught:
            resolve(name, "openai")
        assert "Leave out --pretrained" in caught.value.hint


def test_an_architecture_with_weights_is_no_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ViT-B-16").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsNotFound, match="not in the hub's cache"):
        resolve("ViT-B-16", "laion2b_s34b_b88k")


# -- folders -----------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_a_folder_is_used_with_the_preprocessing_that_it_states(
    tmp_path: Path, prefix: str
) -> None:
    folder = snapshot(tmp_path / "mine", changed(interpolation="bilinear", resize_mode="squash"))
    files = resolve(f"{prefix}{folder}")
    assert files.weights == folder / "open_clip_model.safetensors"
    assert files.spec.name == files.spec.label == str(folder)
    assert files.spec.pretrained is None
    assert files.spec.dim == 32
    assert files.spec.model_cfg == TINY_CONFIG["model_cfg"]
    assert files.spec.weights_sha256 == hashlib.sha256(b"weights").hexdigest()
    pre = files.spec.preprocessing
    assert (pre.size, pre.mean, pre.std) == ((32, 32), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert (pre.interpolation, pre.resize_mode) == ("bilinear", "squash")


def test_a_relative_folder_is_remembered_by_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert resolve("./mine").spec.name == str(tmp_path / "mine")


@pytest.mark.parametrize("name", hub.WEIGHTS)
def test_weights_are_found_under_every_name_that_open_clip_gives_them(
    tmp_path: Path, name: str
) -> None:
    assert resolve(str(snapshot(tmp_path / "mine", name=name))).weights.name == name


def test_of_several_weights_files_the_one_that_open_clip_prefers_is_taken(tmp_path: Path) -> None:
    snapshot(tmp_path / "mine", name="pytorch_model.bin")
    snapshot(tmp_path / "mine", name="open_clip_model.safetensors")
    assert resolve(str(tmp_path / "mine")).weights.name == "open_clip_model.safetensors"


def test_an_image_size_may_be_height_and_width(tmp_path: Path) -> None:
    config = deepcopy(TINY_CONFIG)
    config["model_cfg"]["vision_cfg"]["image_size"] = [32, 64]
    assert resolve(str(snapshot(tmp_path, config))).spec.preprocessing.size == (32, 64)


WITHOUT_DIMENSION = deepcopy(TINY_CONFIG)
del WITHOUT_DIMENSION["model_cfg"]["embed_dim"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "cannot read"),
        ("[]", "is not a JSON object"),
        ({"preprocess_cfg": TINY_CONFIG["preprocess_cfg"]}, "has no 'model_cfg'"),
        ({"model_cfg": TINY_CONFIG["model_cfg"]}, "does not state its preprocessing"),
        (changed(mean=None), "does not state its preprocessing"),
        (changed(std=None), "does not state its preprocessing"),
        (changed(mean=[0.5, 0.4]), "is not valid for open_clip"),
        (changed(mean="grey"), "is not valid for open_clip"),
        (changed(interpolation="nearest"), "does not support: nearest"),
        (changed(resize_mode="stretch"), "does not support: bicubic, stretch"),
        (WITHOUT_DIMENSION, "is not valid for open_clip"),
        ({**TINY_CONFIG, "model_cfg": {"embed_dim": 32}}, "is not valid for open_clip"),
    ],
)
def test_a_configuration_that_leaves_anything_open_is_refused(
    tmp_path: Path, config: object, message: str
) -> None:
    with pytest.raises(BadCheckpoint, match=message):
        resolve(str(snapshot(tmp_path, config)))


def test_a_folder_without_a_configuration_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match=r"it has no open_clip_config\.json"):
        resolve(str(tmp_path))


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    (snapshot(tmp_path) / hub.WEIGHTS[0]).unlink()
    with pytest.raises(WeightsNotFound, match="no weights in") as caught:
        resolve(str(tmp_path))
    assert hub.WEIGHTS[0] in caught.value.hint


# -- the hub's cache ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pretrained"),
    [("ViT-B-16", None), ("ViT-B/16", None), ("ViT-B-16", "laion2b_s34b_b88k")],
)
def test_the_default_loads_from_the_hubs_cache_by_its_own_name(
    hub_cache: Path, name: str, pretrained: str | None
) -> None:
    folder = cache(hub_cache, DEFAULT, {"open_clip_model.safetensors": b"weights"})
    files = resolve(name, pretrained)
    assert files.weights == folder / "open_clip_model.safetensors"
    assert files.weights.read_bytes() == b"weights"
    assert files.spec.label == "ViT-B-16/laion2b_s34b_b88k"
    assert files.spec.dim == 512
    assert files.spec.preprocessing.size == (224, 224)


def test_a_hub_model_loads_from_the_hubs_cache(hub_cache: Path) -> None:
    content = {hub.CONFIG: json.dumps(TINY_CONFIG).encode(), hub.WEIGHTS[0]: b"weights"}
    folder = cache(hub_cache, "someone/tiny", content)
    files = resolve("hf-hub:someone/tiny")
    assert files.weights == folder / hub.WEIGHTS[0]
    assert files.spec.name == "hf-hub:someone/tiny"
    assert files.spec.preprocessing.mean == (0.5, 0.4, 0.3)


def test_a_hub_model_of_which_only_the_configuration_is_cached_has_no_weights(
    hub_cache: Path,
) -> None:
    cache(hub_cache, "someone/tiny", {hub.CONFIG: json.dumps(TINY_CONFIG).encode()})
    with pytest.raises(WeightsNotFound, match="someone/tiny"):
        resolve("hf-hub:someone/tiny")


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", None])
def test_the_network_is_not_asked_when_it_is_forbidden(
    monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    if variable:
        monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(hub, "_first_offered", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(WeightsNotFound, match="offline mode is on") as caught:
        registry.resolve("ViT-B-16", None, offline=variable is None, notify=pytest.fail)
    assert "clipsearch models" in caught.value.hint
    assert DEFAULT in caught.value.hint


# -- the hub -----------------------------------------------------------------------------------


class FakeHub:
    """Stands in for the hub: what it offers, and what has been downloaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        import huggingface_hub

        monkeypatch.delenv("HF_HUB_OFFLINE")
        self.offered: list[str] = []
        self.downloaded: list[str] = []
        self.folder = folder
        self.error: Exception | None = None
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", self.metadata)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self.download)

    def metadata(self, url: str, timeout: float) -> None:
        if url.rpartition("/")[2] not in self.list_repo_files():
            raise EntryNotFoundError("404")

    def list_repo_files(self) -> list[str]:
        return self.offered

    def download(self, repo: str, name: str) -> str:
        if self.error:
            raise self.error
        self.downloaded.append(f"{repo}/{name}")
        return str(self.folder / name)


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    return FakeHub(monkeypatch, snapshot(tmp_path / "downloads"))


def ask_hub(said: list[str] | None = None) -> ModelFiles:
    notify = [].append if said is None else said.append
    return registry.resolve("ViT-B-16", None, offline=False, notify=notify)


def test_a_download_is_announced_and_takes_what_open_clip_prefers(fake_hub: FakeHub) -> None:
    fake_hub.offered = ["README.md", "pytorch_model.bin", "open_clip_model.safetensors"]
    said: list[str] = []
    assert ask_hub(said).weights == fake_hub.folder / "open_clip_model.safetensors"
    assert fake_hub.downloaded == [f"{DEFAULT}/open_clip_model.safetensors"]
    assert said == [
        f"asking the hub for {DEFAULT}",
        f"downloading open_clip_model.safetensors of {DEFAULT} from the hub",
    ]


def test_a_hub_that_hangs_is_given_up_in_time(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = threading.Event()
    monkeypatch.setattr(hub, "SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setattr(fake_hub, "list_repo_files", lambda: done.wait(60) or [])
    started = time.monotonic()
    try:
        with pytest.raises(WeightsNotFound, match="did not answer within"):
            ask_hub()
    finally:
        done.set()
    assert time.monotonic() - started < 5


def test_a_hub_that_cannot_be_reached_is_named_with_its_reason(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable() -> list[str]:
        raise OSError("no route\nto host")

    monkeypatch.setattr(fake_hub, "list_repo_files", unreachable)
    with pytest.raises(WeightsNotFound, match="downloaded from the hub: no route to host"):
        ask_hub()


def test_a_repository_without_weights_says_so(fake_hub: FakeHub) -> None:
    fake_hub.offered = ["README.md", "model.onnx"]
    with pytest.raises(WeightsNotFound, match="no weights under any of the names"):
        ask_hub()


def test_a_download_that_breaks_off_says_why(fake_hub: FakeHub) -> None:
    fake_hub.offered = ["open_clip_model.safetensors"]
    fake_hub.error = OSError("connection reset")
    with pytest.raises(WeightsNotFound, match="connection reset") as caught:
        ask_hub([])
    assert "same command again" in caught.value.hint


# -- architectures and published weights -------------------------------------------------------


def test_the_default_is_published_as_open_clip_says() -> None:
    import open_clip

    published = open_clip.get_pretrained_cfg("ViT-B-16", "laion2b_s34b_b88k")
    ours = registry._DEFAULT_PUBLISHED
    assert {key: published[key] for key in ours} == dict(ours)
    assert "quick_gelu" not in published
    assert (registry.DEFAULT_NAME, registry.DEFAULT_TAG) == ("ViT-B-16", "laion2b_s34b_b88k")


def test_the_architectures_are_those_of_open_clip() -> None:
    import open_clip

    assert registry.architectures() == sorted(open_clip.list_models())


@pytest.mark.parametrize("name", ["ViT-B16", "vit-b-16", "ViT-B-16-quikgelu"])
def test_a_misspelt_name_is_answered_with_the_nearest_ones(name: str) -> None:
    with pytest.raises(UnknownModel, match=r"did you mean ViT-B-16[ ?-]") as caught:
        resolve(name)
    assert "models --all" in caught.value.hint


def test_a_folder_that_is_not_there_is_named_as_it_was_given() -> None:
    with pytest.raises(UnknownModel, match=r"named '\./no/such/folder'$"):
        resolve("./no/such/folder")


def test_an_architecture_alone_is_refused_and_its_weights_are_listed() -> None:
    with pytest.raises(UnknownModel, match="its answers would be random") as caught:
        resolve("ViT-L-14")
    assert "openai" in caught.value.hint
    assert "laion2b_s32b_b82k" in caught.value.hint


def test_an_architecture_without_published_weights_asks_for_a_file() -> None:
    with pytest.raises(UnknownModel, match="its answers would be random") as caught:
        resolve("ViT-S-16")
    assert "a file" in caught.value.hint


def test_an_unknown_tag_is_answered_with_the_published_ones() -> None:
    with pytest.raises(UnknownModel, match="'laion9b' is neither a file nor") as caught:
        resolve("ViT-B-16", "laion9b")
    assert "laion2b_s34b_b88k" in caught.value.hint


def test_weights_of_the_other_activation_are_refused() -> None:
    """QuickGELU weights load into a GELU model without a complaint, and answer wrongly."""
    with pytest.raises(BadCheckpoint, match="openai was trained with QuickGELU") as caught:
        resolve("ViT-B-16", "openai")
    assert caught.value.hint == "Use --model ViT-B-16-quickgelu."


def test_the_default_tag_is_not_one_of_the_quickgelu_architecture() -> None:
    with pytest.raises(UnknownModel, match="nor published weights of ViT-B-16-quickgelu"):
        resolve("ViT-B-16-quickgelu", "laion2b_s34b_b88k")


def test_the_activations_of_an_architecture_are_compared_the_other_way_round_too(
    publish: Callable[..., None],
) -> None:
    publish(mine={"hf_hub": "someone/mine/"})
    with pytest.raises(BadCheckpoint, match="mine was trained without QuickGELU") as caught:
        resolve("ViT-B-16-quickgelu", "mine")
    assert caught.value.hint == "Use --model ViT-B-16."


def test_every_refused_activation_comes_with_an_architecture_that_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from clipsearch.models.open_clip import published_weights

    class Accepted(Exception):
        """The weights would be fetched."""

    def accept(*_: object, **__: object) -> None:
        raise Accepted

    monkeypatch.setattr(hub, "get", accept)
    refused = 0
    for name in registry.architectures():
        model_cfg = json.loads((registry._config_folder() / f"{name}.json").read_text())
        for tag, entry in published_weights(name).items():
            if bool(entry.get("quick_gelu")) == bool(model_cfg.get("quick_gelu")):
                continue
            with pytest.raises((BadCheckpoint, Accepted)) as caught:
                resolve(name, tag)
            if isinstance(caught.value, BadCheckpoint):
                refused += 1
                fitting = caught.value.hint.removeprefix("Use --model ").removesuffix(".")
                assert tag in published_weights(fitting)
            else:
                assert f"{name}-quickgelu" not in registry.architectures()
                assert not name.endswith("-quickgelu")
    assert refused > 10


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Change open_clip's table: ``publish(tag={...})``, for every architecture."""
    from clipsearch.models import open_clip

    def publish(**entries: dict[str, Any]) -> None:
        table = {tag: {**registry._DEFAULT_PUBLISHED, **entry} for tag, entry in entries.items()}
        monkeypatch.setattr(open_clip, "published_weights", lambda _: table)

    return publish


def test_weights_published_as_one_file_of_a_repository_are_that_file(
    publish: Callable[..., None], hub_cache: Path
) -> None:
    files = {hub.WEIGHTS[0]: b"of another epoch", "epoch_7.pt": b"weights"}
    folder = cache(hub_cache, "someone/mine", files)
    publish(mine={"hf_hub": "someone/mine/epoch_7.pt"})
    assert resolve("ViT-B-16", "mine").weights == folder / "epoch_7.pt"


def test_weights_published_at_an_address_are_used_where_open_clip_keeps_them(
    publish: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    publish(mine={"hf_hub": "", "url": "https://example.invalid/models/mine.pt"})
    kept = tmp_path / ".cache" / "clip" / "mine.pt"
    with pytest.raises(WeightsNotFound, match=r"mine\.pt is not on this machine") as caught:
        resolve("ViT-B-16", "mine")
    assert str(kept) in caught.value.hint
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"weights")
    assert resolve("ViT-B-16", "mine").weights == kept


# -- checkpoint files --------------------------------------------------------------------------


def test_a_checkpoint_is_fed_as_the_configuration_beside_it_states(tmp_path: Path) -> None:
    snapshot(tmp_path, changed(resize_mode="longest"), name="mine.pt")
    files = resolve("ViT-B-16", str(tmp_path / "mine.pt"))
    assert files.weights == tmp_path / "mine.pt"
    assert files.spec.label == f"ViT-B-16/{tmp_path / 'mine.pt'}"
    assert files.spec.dim == 512  # the architecture that was named, not the one beside
    assert files.spec.preprocessing.mean == (0.5, 0.4, 0.3)
    assert files.spec.preprocessing.resize_mode == "longest"
    assert files.spec.preprocessing.size == (224, 224)


@pytest.mark.parametrize("beside", [None, {"model_cfg": {}}, changed(std=None)])
def test_a_checkpoint_that_states_nothing_is_fed_as_all_published_ones_and_that_is_said(
    tmp_path: Path, beside: object
) -> None:
    file = snapshot(tmp_path, beside, name="mine.pt") / "mine.pt"
    if beside is None:
        (tmp_path / hub.CONFIG).unlink()
    said: list[str] = []
    files = resolve("ViT-B-16", str(file), said)
    assert files.spec.preprocessing.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    (line,) = said
    assert line.startswith(f"{file} does not state its preprocessing")
    assert hub.CONFIG in line


@pytest.mark.parametrize("name", ["ViT-L-14", "ViT-S-16"])
def test_a_checkpoint_is_refused_if_published_ones_are_fed_in_several_ways_or_none(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "mine.pt").write_bytes(b"weights")
    with pytest.raises(BadCheckpoint, match="is not stated anywhere") as caught:
        resolve(name, str(tmp_path / "mine.pt"))
    assert hub.CONFIG in caught.value.hint


# -- fingerprints ------------------------------------------------------------------------------


def fingerprint(folder: Path, config: object = TINY_CONFIG, content: bytes = b"weights") -> str:
    return resolve(str(snapshot(folder, config, content))).spec.fingerprint


def test_a_fingerprint_is_the_same_wherever_the_model_lies(tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "here") == fingerprint(tmp_path / "there")


def other_model_cfg(part: str, **changes: object) -> dict[str, Any]:
    config = deepcopy(TINY_CONFIG)
    (config["model_cfg"][part] if part else config["model_cfg"]).update(changes)
    return config


@pytest.mark.parametrize(
    ("config", "content"),
    [
        (TINY_CONFIG, b"Weights"),
        (changed(mean=[0.5, 0.4, 0.31]), b"weights"),
        (changed(std=[0.2, 0.3, 0.41]), b"weights"),
        (changed(interpolation="bilinear"), b"weights"),
        (changed(resize_mode="squash"), b"weights"),
        (changed(fill_color=255), b"weights"),
        (other_model_cfg("vision_cfg", image_size=64), b"weights"),
        (other_model_cfg("", quick_gelu=True), b"weights"),
        (other_model_cfg("text_cfg", heads=4), b"weights"),
        (other_model_cfg("text_cfg", hf_tokenizer_name="t5-base"), b"weights"),
    ],
)
def test_a_fingerprint_changes_with_anything_that_changes_an_embedding(
    tmp_path: Path, config: object, content: bytes
) -> None:
    assert fingerprint(tmp_path / "a", config, content) != fingerprint(tmp_path / "b")


def test_a_model_record_survives_being_stored(tmp_path: Path) -> None:
    spec = resolve(str(snapshot(tmp_path, changed(fill_color=7)))).spec
    assert ModelSpec.from_json(spec.to_json()) == spec


# -- the ledger --------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights.json"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"weights")
    return path


DIGEST = hashlib.sha256(b"weights").hexdigest()


def test_a_hash_is_computed_once(ledger: Path, file: Path) -> None:
    assert weights.sha256_of(file) == DIGEST
    noted = ledger.read_text()
    assert DIGEST in noted
    ledger.write_text(noted.replace(DIGEST, "as noted"))
    assert weights.sha256_of(file) == "as noted"


def test_a_hash_is_computed_anew_when_size_or_time_have_changed(ledger: Path, file: Path) -> None:
    weights.sha256_of(file)
    before = file.stat()
    file.write_bytes(b"heavier weights")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights.sha256_of(file) == hashlib.sha256(b"heavier weights").hexdigest()
    before = file.stat()
    file.write_bytes(b"lighter weights")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert weights.sha256_of(file) == hashlib.sha256(b"lighter weights").hexdigest()


def test_weights_are_found_by_their_content_while_they_are_as_they_were(file: Path) -> None:
    assert weights.find(DIGEST) is None
    weights.sha256_of(file)
    assert weights.find(DIGEST) == file
    os.utime(file, ns=(0, 0))
    assert weights.find(DIGEST) is None
    weights.sha256_of(file)
    assert weights.find(DIGEST) == file
    file.unlink()
    assert weights.find(DIGEST) is None


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"\xff", b'{"a": 1}', b'{"a": []}', b'{"a": [1, 2]}', b'{"a": {"b": 1}}'],
)
def test_a_damaged_ledger_costs_time_only(ledger: Path, file: Path, damage: bytes) -> None:
    ledger.parent.mkdir()
    ledger.write_bytes(damage)
    assert weights.find(DIGEST) is None
    assert weights.sha256_of(file) == DIGEST
    assert weights.find(DIGEST) == file


def test_a_ledger_that_cannot_be_written_costs_time_only(ledger: Path, file: Path) -> None:
    ledger.parent.write_text("a file where a folder should be")
    assert weights.sha256_of(file) == DIGEST


@pytest.mark.skipif(os.name == "nt", reason="there are no permission bits")
def test_the_ledger_is_for_its_owners_eyes_only(ledger: Path, file: Path) -> None:
    weights.sha256_of(file)
    assert ledger.stat().st_mode & 0o077 == 0


# -- an index's own model ----------------------------------------------------------------------


def test_a_model_is_located_where_it_was(tmp_path: Path) -> None:
    files = resolve(str(snapshot(tmp_path / "mine")))
    assert registry.locate(files.spec) == files


def test_a_model_is_located_without_the_ledger(tmp_path: Path, ledger: Path) -> None:
    files = resolve(str(snapshot(tmp_path / "mine")))
    ledger.unlink()
    assert registry.locate(files.spec) == files


def test_a_moved_model_is_located_once_its_new_place_has_been_named(tmp_path: Path) -> None:
    spec = resolve(str(snapshot(tmp_path / "mine"))).spec
    moved = Path(shutil.move(tmp_path / "mine", tmp_path / "moved"))
    with pytest.raises(WeightsNotFound) as caught:
        registry.locate(spec)
    assert spec.label in str(caught.value)
    assert "--model" in caught.value.hint
    resolve(str(moved))
    assert registry.locate(spec) == ModelFiles(spec, moved / hub.WEIGHTS[0])


def test_a_vanished_model_is_named_with_the_way_out(tmp_path: Path, hub_cache: Path) -> None:
    folder = cache(hub_cache, DEFAULT, {hub.WEIGHTS[0]: b"weights"})
    spec = resolve("ViT-B-16").spec
    (folder / hub.WEIGHTS[0]).unlink()
    with pytest.raises(WeightsNotFound, match="made with ViT-B-16/laion2b_s34b_b88k") as caught:
        registry.locate(spec)
    assert "Restore the weights" in caught.value.hint


def test_another_model_in_a_models_place_is_not_taken_for_it(tmp_path: Path) -> None:
    spec = resolve(str(snapshot(tmp_path / "mine"))).spec
    snapshot(tmp_path / "mine", content=b"other weights")
    with pytest.raises(ModelMismatch, match="is not the model that the index was made") as caught:
        registry.locate(spec)
    assert "--rebuild" in caught.value.hint


def test_an_index_keeps_the_preprocessing_that_it_was_made_with(tmp_path: Path) -> None:
    spec = resolve(str(snapshot(tmp_path / "mine"))).spec
    (tmp_path / "mine" / hub.CONFIG).write_text(json.dumps(changed(mean=[0, 0, 0])))
    assert registry.locate(spec).spec.preprocessing.mean == (0.5, 0.4, 0.3)


def test_the_built_in_model_is_located_in_this_very_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index travels between installations, which lie in different places."""
    for place in ("here", "there"):
        snapshot(tmp_path / place)
    monkeypatch.setattr(registry, "pocket_folder", lambda: tmp_path / "here")
    spec = resolve("pocket").spec
    monkeypatch.setattr(registry, "pocket_folder", lambda: tmp_path / "there")
    assert registry.locate(spec) == ModelFiles(spec, tmp_path / "there" / hub.WEIGHTS[0])
    snapshot(tmp_path / "there", content=b"of the next release")
    with pytest.raises(ModelMismatch):
        registry.locate(spec)
    (tmp_path / "there" / hub.WEIGHTS[0]).unlink()
    with pytest.raises(WeightsNotFound, match="made with pocket"):
        registry.locate(replace(spec, weights_sha256="0" * 64))


# -- the fallback ------------------------------------------------------------------------------


@pytest.fixture
def pocket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Some model in the built-in one's place."""
    folder = snapshot(tmp_path / "pocket", content=b"small")
    monkeypatch.setattr(registry, "pocket_folder", lambda: folder)
    return folder


def test_the_built_in_model_stands_in_for_the_default_and_says_so_in_one_line(
    pocket: Path,
) -> None:
    said: list[str] = []
    files = registry.resolve_default(offline=True, notify=said.append)
    assert (files.spec.name, files.weights.parent) == ("pocket", pocket)
    (line,) = said
    assert "\n" not in line
    assert "ViT-B-16/laion2b_s34b_b88k" in line
    assert "'pocket'" in line


def test_the_default_is_used_without_a_word_where_its_weights_are(
    pocket: Path, hub_cache: Path
) -> None:
    cache(hub_cache, DEFAULT, {hub.WEIGHTS[0]: b"weights"})
    files = registry.resolve_default(offline=True, notify=pytest.fail)
    assert files.spec.name == "ViT-B-16"


@pytest.mark.parametrize("tag", [None, "laion2b_s34b_b88k"])
def test_a_model_that_was_asked_for_by_name_is_never_replaced(
    pocket: Path, tag: str | None
) -> None:
    with pytest.raises(WeightsNotFound):
        resolve("ViT-B-16", tag)


def test_the_built_in_model_is_complete() -> None:
    if not (registry.pocket_folder() / hub.WEIGHTS[0]).is_file():
        pytest.skip("the built-in model has not been built")
    spec = resolve("pocket").spec
    assert spec.name == spec.label == "pocket"
    assert spec.pretrained is None
