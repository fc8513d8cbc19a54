"""The embedded texts of a domain: its classes, its examples, and the background prompts."""

import hashlib
import io
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from clipsearch.domain import background
from clipsearch.domain.gate import Gate
from clipsearch.domain.taxonomy import Domain
from clipsearch.domain.zero_shot import encode_all
from clipsearch.paths import cache_dir, write_whole
from clipsearch.records import ModelSpec, TextEncoder, Vectors


@dataclass(frozen=True, slots=True)
class Texts:
    """Embeddings of all texts of a domain, for one model."""

    gate: Gate
    background: Vectors
    """``(n, dim)``: embeddings of prompts that have nothing to do with the domain."""

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self.background.shape[1])

    @staticmethod
    def fingerprint(domain: Domain) -> str:
        """SHA-256, in hex, of the domain's and the bank's texts, in the order of their rows.

        The domain's own fingerprint is not enough: it does not depend on the order.
        """
        texts = [
            [[cls.name, cls.synonyms, cls.prompts] for cls in domain.classes],
            domain.templates,
            domain.in_domain,
            domain.out_of_domain,
            background.prompts(),
        ]
        return hashlib.sha256(json.dumps(texts).encode()).hexdigest()

    @classmethod
    def embed(cls, domain: Domain, encoder: TextEncoder) -> "Texts":
        """Embed them: about 2,000 short texts."""
        return cls(Gate.build(domain, encoder), encode_all(encoder, background.unrelated(domain)))

    def to_bytes(self, domain: Domain) -> bytes:
        """The embeddings as bytes to store; ``from_bytes`` is the inverse."""
        file = io.BytesIO()
        np.savez(
            file,
            fingerprint=np.array(self.fingerprint(domain)),
            gate=np.frombuffer(self.gate.to_bytes(), np.uint8),
            background=self.background.astype(np.float16),
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, domain: Domain, data: bytes) -> "Texts | None":
        """Read what ``to_bytes`` wrote; None if it is damaged or has other texts."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                if str(arrays["fingerprint"]) != cls.fingerprint(domain):
                    return None
                gate = Gate.from_bytes(domain, arrays["gate"].tobytes())
                texts = cls(gate, arrays["background"].astype(np.float32))
            same = texts.background.ndim == 2 and texts.dim == gate.classes.shape[1]
            return texts if same else None
        except Exception:  # zipfile and numpy raise many kinds of errors
            return None


def embedded_texts(
    domain: Domain, spec: ModelSpec, load_encoder: Callable[[], TextEncoder]
) -> Texts:
    """The domain's texts, embedded once per model on this machine."""
    kept = cache_dir() / "texts" / f"{spec.fingerprint[:20]}-{Texts.fingerprint(domain)[:20]}.npz"
    with suppress(OSError):
        texts = Texts.from_bytes(domain, kept.read_bytes())
        if texts is not None:
            return texts
    data = Texts.embed(domain, load_encoder()).to_bytes(domain)
    with suppress(OSError):  # without the cache it only takes longer
        write_whole(kept, data)
    texts = Texts.from_bytes(domain, data)  # rounded, as every later reader gets them
    assert texts is not None
    return texts
