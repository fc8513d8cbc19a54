"""A probe as a file, for use with another index of the same model.

The file is in safetensors format. Its tensors are ``weights``, float32 ``(classes, dim)``, and
``intercepts``, float32 ``(classes,)``. The score of an image for a class is the dot product of its
unit embedding and the class's weights, plus the intercept. The metadata has ``format`` and
``about``: JSON with the class names, the fingerprint of the model, the training set and the
accuracy measured on it.
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
    """The content of the file; the inverse of ``read``."""
    from safetensors.numpy import save  # here, because few commands need it

    about = described(kept) | {"classes": kept.probe.classes, "l2": kept.probe.l2}
    tensors = {
        "weights": np.ascontiguousarray(kept.probe.weights, np.float32),
        "intercepts": np.ascontiguousarray(kept.probe.intercepts, np.float32),
    }
    return save(tensors, {"format": FORMAT, "about": json.dumps(about, ensure_ascii=False)})


def read(path: Path, store: Store, name: str | None = None) -> KeptProbe:
    """Read a probe from a file, for this index; ``name`` replaces its own name.

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
            raise ValueError("its weights and the model's embeddings differ in length")
    except Exception as error:  # safetensors and numpy raise whatever they run into
        raise ExchangeError(
            f"{path} is not a complete probe", hint="`clipsearch probe export` writes one."
        ) from error
    check_name(kept.name)
    for of_class in kept.probe.classes:
        policy.check(of_class)
    if kept.model != store.spec.fingerprint:
        raise ModelMismatch(
            f"the probe in {path} was trained on embeddings from another model",
            hint=f"Train one for this index's model, {store.spec.label}: "
            f"clipsearch probe train LABELED --name {kept.name}",
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
