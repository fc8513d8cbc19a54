"""Measure, for one collection, how similar near-duplicates are.

A fixed threshold fits neither the model nor the images. So a sample of the collection is decoded,
and each image is changed slightly, as typical copies are: saved again as a JPEG of quality 70,
reduced by 30%, cropped by 5%. These copies are near-duplicates by construction. The threshold is
the similarity to their originals that a share of ``KEPT`` reaches.

A threshold also accepts wrong pairs, and no value prevents that: to some models, two pandas are
more similar than a panda and its JPEG. So similar images are also compared by pixels (see
``structure``), and the required agreement is measured too. The changed copies agree with their
originals, while pairs below the threshold do not; the required agreement is halfway between the
two.

With ``pocket`` on the 98 sample images and 49 copies that were changed in five other ways (saved
again, half the size, cropped by 4% and by 8%, brightened), 33 of the 49 were found, without a wrong
pair. By similarity alone it was 41, with 11 wrong pairs. The comparison by pixels loses crops of
drawings, of which there are many (see ``structure``).
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from clipsearch import typed
from clipsearch.errors import CollectionGone, StoreError
from clipsearch.images import decode
from clipsearch.images.pool import DecodePool, Whole
from clipsearch.indexing.embed import LoadEncoder, Progress, encode
from clipsearch.models.choice import Notify
from clipsearch.paths import absolute, is_as_indexed
from clipsearch.records import DecodedImage, ImageFile, IndexedImage, Pixels, Preprocessing, Vectors
from clipsearch.search.duplicates import structure
from clipsearch.storage.catalog import Store
from clipsearch.text import printable

KEPT = 0.95
"""The share of the changed copies that the threshold accepts."""

_SAMPLE = 64
"""Images. With three changed copies each, a ViT-B/16 takes about ten seconds on two cores."""
_UNRELATED = 0.99
"""The share of pairs below the threshold that agree less than ``others_agree``.

It is below 1 because one changed copy in twenty is not similar enough. If every image of the sample
had its copy in the sample, one pair in a thousand would be such a copy.
"""
_ATTACHMENT = "likeness"
_DECODED_AHEAD = 4
_LARGER = 4
"""Images are decoded at up to this multiple of the model's input size."""
_MUCH = 4
"""Measure again after one image in this many has been added or removed."""

SMALL = Preprocessing(
    size=(structure.SIDE, structure.SIDE),
    mean=(0, 0, 0),
    std=(1, 1, 1),
    interpolation="bilinear",
    resize_mode="squash",
)
"""Makes the small images whose structure is compared."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """How similar near-duplicates are in one collection, to one model."""

    model: str
    """The model's fingerprint."""
    images: int
    """The number of images in the collection."""
    newest: int
    """The greatest id in the collection."""
    sample: int
    """The number of images that were changed slightly."""
    similarity: float
    """The least cosine similarity of near-duplicates."""
    agreement: float
    """The least agreement in structure of near-duplicates."""
    copies_agree: float
    """The agreement with their originals that 95% of the changed copies reach."""
    others_agree: float
    """The agreement that 1% of the pairs below ``similarity`` reach."""
    neighbours: float
    """The share of the sample with another image in the collection at that similarity."""

    def to_json(self) -> str:
        """The record as JSON text; the inverse of ``from_json``."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Likeness":
        """Rebuild a record from the text of ``to_json``. Raises ValueError for any other text."""
        found: Likeness = typed.from_json(cls, text)
        return found


def kept(store: Store) -> Likeness | None:
    """The last measurement with the model of the index; None if there is none."""
    text = store.attachment(_ATTACHMENT)
    with suppress(ValueError):  # damaged
        found = Likeness.from_json(text) if text else None
        return found if found and found.model == store.spec.fingerprint else None
    return None


def is_outdated(found: Likeness, store: Store) -> bool:
    """Whether much of the collection has been added or removed since the measurement."""
    ids = store.ids()
    added = int((ids > found.newest).sum())
    removed = found.images - (len(ids) - added)
    return (added + removed) * _MUCH > len(ids)


def keep(store: Store, found: Likeness) -> None:
    """Store a measurement with the index, which is open for writing."""
    with store.batch():
        store.attach(_ATTACHMENT, found.to_json())


def known(
    store: Store,
    load_encoder: LoadEncoder,
    *,
    progress: Progress = lambda doing, done, total: None,
    notify: Notify = lambda message: None,
) -> Likeness:
    """The stored measurement of the collection, or a new one, which is stored for the next time.

    Raises CollectionGone if none of its images can be read, and ModelError.
    """
    before = kept(store)
    if before is not None and not is_outdated(before, store):
        return before
    root = printable(os.fspath(store.root))
    notify(f"measuring how similar near-duplicates are in {root} (once)")
    found = measure(store, load_encoder, progress)
    try:
        with Store.open_for_writing(store.directory) as writer:
            keep(writer, found)
    except StoreError as error:
        why = printable(str(error))
        notify(f"cannot store the measurement, so it will be repeated next time: {why}")
    return found


def measure(store: Store, load_encoder: LoadEncoder, progress: Progress) -> Likeness:
    """Measure a sample of the collection. The same images always give the same sample.

    Raises CollectionGone if none of them can be read, and ModelError.
    """
    ids, images = store.ids(), store.images()
    chosen = [images[n] for n in np.random.default_rng(0).permutation(len(images))[:_SAMPLE]]
    seen = {}
    for image, picture in _read(store, chosen, progress):
        with suppress(KeyError):  # removed just now
            vector = store.vector(image.id)
            changed = list(_changed(picture, np.random.default_rng(image.id)))
            small = np.stack([decode.fit(one, SMALL) for one in (picture, *changed)])
            copies = [decode.fit(one, store.spec.preprocessing) for one in changed]
            seen[image.id] = vector, small, copies
    if not seen:
        raise CollectionGone(
            f"none of the images in {store.root} can be read",
            hint="Is its disk mounted? Finding near-duplicates needs the images themselves, so it "
            "does not work for embeddings imported without files or archives.",
        )
    # A fixed order, whichever was decoded first, makes the measurement reproducible.
    ordered = [seen[image.id] for image in chosen if image.id in seen]
    vectors = np.stack([vector for vector, _, _ in ordered])
    changed_copies = [copy for _, _, copies in ordered for copy in copies]
    made = encode(load_encoder(), changed_copies, progress)
    made = made.reshape(len(vectors), -1, store.spec.dim)
    similarity = float(np.quantile(np.einsum("ncd,nd->nc", made, vectors), 1 - KEPT))
    smalls = np.stack([small for _, small, _ in ordered])
    copies_agree, others_agree = _agreements(vectors, smalls, similarity)
    return Likeness(
        model=store.spec.fingerprint,
        images=len(ids),
        newest=int(ids[-1]),
        sample=len(vectors),
        similarity=round(similarity, 6),
        agreement=round((copies_agree + others_agree) / 2, 6),
        copies_agree=round(copies_agree, 6),
        others_agree=round(others_agree, 6),
        neighbours=round(_share_with_neighbour(store, vectors, similarity), 6),
    )


def _agreements(vectors: Vectors, small: Pixels, similarity: float) -> tuple[float, float]:
    """Agreements of changed copies with originals, and of pairs that are not similar.

    vectors: ``(n, dim)``. small: ``(n, 1 + copies, SIDE, SIDE, 3)``.
    """
    windows = structure.windows(small[:, 0])
    of_copies = [
        np.diagonal(structure.best_agreement(windows, structure.windows(small[:, copy])))
        for copy in range(1, small.shape[1])
    ]
    apart = np.triu(vectors @ vectors.T < similarity, 1)
    of_others = structure.best_agreement(windows, windows)[apart]
    others = float(np.quantile(of_others, _UNRELATED)) if len(of_others) else 0.0
    return float(np.quantile(np.concatenate(of_copies), 1 - KEPT)), others


def _share_with_neighbour(store: Store, vectors: Vectors, similarity: float) -> float:
    """The share of the sample with a second image at that similarity; the first is itself."""
    found = np.zeros(len(vectors), np.int64)
    for chunk in store.all_vectors():
        found += (vectors @ chunk.astype(np.float32).T >= similarity).sum(axis=1)
    return float(np.mean(found > 1))


def _read(
    store: Store, images: Sequence[IndexedImage], progress: Progress
) -> Iterator[tuple[IndexedImage, Image.Image]]:
    """Each unchanged image, at up to a few times the model's input size."""
    root, longest = os.fsencode(store.root), _LARGER * max(store.spec.preprocessing.size)
    there = {
        image.path: image
        for image in images
        if is_as_indexed(image.span or absolute(root, image.path), image.size, image.mtime_ns)
    }
    files = [ImageFile(path, 0, 0, image.span) for path, image in there.items()]
    limit = store.scope.max_pixels
    with DecodePool(root, files, Whole(longest), max_pixels=limit, ahead=_DECODED_AHEAD) as pool:
        for done, (file, outcome) in enumerate(pool):
            progress("measuring near-duplicates", done, len(files))
            if isinstance(outcome, DecodedImage):
                yield there[file.path], Image.fromarray(outcome.pixels)


def _changed(picture: Image.Image, random: np.random.Generator) -> Iterator[Image.Image]:
    """Typical copies, each saved again."""
    width, height = picture.size
    yield _saved(picture, 70)
    yield _saved(picture.resize((max(1, width * 7 // 10), max(1, height * 7 // 10))), 90)
    kept_w, kept_h = max(1, width * 95 // 100), max(1, height * 95 // 100)
    left, top = random.integers(0, [width - kept_w + 1, height - kept_h + 1]).tolist()
    yield _saved(picture.crop((left, top, left + kept_w, top + kept_h)), 90)


def _saved(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")
