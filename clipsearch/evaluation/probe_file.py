"""A probe as a file, to be used with another index of the same model.

It is a safetensors file. The tensors are ``weights``, float32 ``(classes, dim)``, and
``intercepts``, float32 ``(classes,)``: the score of an image for a class is the product of its
unit embedding and the class's weights, plus the intercept. The metadata has ``format`` and
``about``: JSON with the class names, the fingerprint of the model, what the probe was trained on,
and what it was worth there.
"""

import json
import struct
from pathlib import Path

import numpy as np

from clipsearch.domain import policy
from clipsearch.errors import ExchangeError, ModelMismatch
from clipsearch.evaluation.probes import KeptProbe, Probe, check_name, described
from clipsearch.storage.catalog import Store

FORMAT = "clipsearch probe 1"


def to_bytes(kept: KeptProbe) -> bytes:
    """The content of the file; ``read`` is the inverse."""
    from safetensors.numpy import save  # here, since few commands need it

    about = described(kept) | {"classes": kept.probe.classes, "l2": kept.probe.l2}
    tensors = {
        "weights": np.ascontiguousarray(kept.probe.weights, np.float32),
        "intercepts": np.ascontiguousarray(kept.probe.intercepts, np.float32),
    }
    return save(tensors, {"format": FORMAT, "about": json.dumps(about, ensure_ascii=False)})


def read(path: Path, store: Store, name: str | None = None) -> KeptProbe:
    """The probe of a file, to be kept with this index; ``name`` replaces its own.

    Raises ExchangeError for a file that cannot be read or is something else, ModelMismatch if the
    index has another model, and UsageError or RefusedByPolicy for names.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ExchangeError(f"cannot read {path}: {error.strerror}") from error
    try:
        kept = _kept(data, name)
        if kept.model == store.spec.fingerprint and kept.probe.weights.shape[1] != store.spec.dim:
            raise ValueError("its weights are of another length than the model's embeddings")
    except Exception as error:  # safetensors and numpy raise whatever they stumble over
        raise ExchangeError(
            f"{path} is no whole probe", hint="`clipsearch probe export` writes one."
        ) from error
    check_name(kept.name)
    for of_class in kept.probe.classes:
        policy.check(of_class)
    if kept.model != store.spec.fingerprint:
        raise ModelMismatch(
            f"the probe in {path} was trained on embeddings of another model",
            hint=f"Train one for this index's model, {store.spec.label}: "
            f"clipsearch probe train LABELLED --name {kept.name}",
        )
    return kept


def _kept(data: bytes, name: str | None) -> KeptProbe:
    from safetensors.numpy import load

    tensors = load(data)
    (length,) = struct.unpack_from("<Q", data)
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    if metadata["format"] != FORMAT:
        raise ValueError(f"the format is {metadata['format']}")
    about = json.loads(metadata["about"])
    classes, l2 = about.pop("classes"), about.pop("l2")
    probe = Probe.of(classes, tensors["weights"], tensors["intercepts"], l2)
    return KeptProbe.of(probe, about | ({"name": name} if name else {}))
