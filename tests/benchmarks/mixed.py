"""A text and an image of equal weight on the sample images, beside plain addition.

    python tests/benchmarks/mixed.py

A hit satisfies both parts if it is among the best fifteen for each of them alone. How much a part
has to say is the correlation of its scores with those of the mixture. The second table is of the
same embeddings, with those of all texts shrunk and moved apart from the images as in CLIP, whose
modality gap is 0.82 (Liang et al. 2022): `pocket` has next to none.
"""

import os
import tempfile
from pathlib import Path

import numpy as np

from clipsearch import cli
from clipsearch.domain.scale import Scale
from clipsearch.models.load import Encoders
from clipsearch.search.fusion import Ingredient, mix
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.storage.collection import Collection
from clipsearch.vectors import l2_normalise

SAMPLES = Path(__file__).parent.parent.parent / "sample_data"
QUERIES = [
    ("at night", "eiffel_tower/eiffel_tower.jpg"),
    ("a red car", "car/blue_car.png"),
    ("snow", "mountain/lake_sherburne.jpg"),
    ("a boat", "mountain/lake_sherburne.jpg"),
    ("under water", "goldfish/goldfish.jpg"),
    ("red", "strawberry/round_strawberry.png"),
    ("a dog", "cat/chelsea.jpg"),
    ("a bird", "frog/golden_toad.jpg"),
    ("in a tree", "giant_panda/panda_walking.jpg"),
    ("a building with a dome", "pyramid/great_pyramid.jpg"),
]
HITS, SATISFIED = 5, 15


def best(query: np.ndarray, pictures: np.ndarray, k: int) -> set[int]:
    return set(np.argsort(-(pictures @ query))[:k].tolist())


def told(text: np.ndarray, image: np.ndarray, query: np.ndarray, pictures: np.ndarray) -> str:
    """How many of the best hits satisfy both, and how much either part has to say."""
    hits = best(query, pictures, HITS)
    both = best(text, pictures, SATISFIED) & best(image, pictures, SATISFIED)
    says = [np.corrcoef(pictures @ part, pictures @ query)[0, 1] for part in (text, image)]
    return f"{len(hits & both)} of {HITS} | {says[0]:.2f}, {says[1]:.2f}"


def table(
    texts: dict[str, np.ndarray], background: np.ndarray, names: list[str], pictures: np.ndarray
) -> None:
    scale = Scale.measure([pictures], background, pictures)
    print("| text | image | both | text, image have to say | added: both | text, image |")
    print("|---|---|---|---|---|---|")
    for said, name in QUERIES:
        row = names.index(name)
        text, image = texts[said], pictures[row]
        others = np.delete(pictures, row, axis=0)
        mixture = mix([Ingredient(text, "text", 1.0), Ingredient(image, "image", 1.0)], scale)
        ours = told(text, image, mixture.vector, others)
        plain = told(text, image, text + image, others)
        print(f"| {said} | {name.split('/')[1]} | {ours} | {plain} |")
    print()


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        os.environ |= {"CLIPSEARCH_DATA_DIR": place, "HF_HUB_OFFLINE": "1"}
        index = Path(place) / FOLDER
        assert cli.run(["index", str(SAMPLES), "--model", "pocket", "--index", str(index)]) == 0
        with Store.open(index) as store:
            known = {known.id: os.fsdecode(path) for path, known in store.known().items()}
            ids = store.ids().tolist()
            pictures = store.vectors(ids)
            stored = Collection(store).texts
            assert stored is not None
            encoder = Encoders.of(store.spec).text
    said = [text for text, _ in QUERIES]
    texts = dict(zip(said, encoder.encode_texts(said), strict=True))
    names = [known[id] for id in ids]
    print("pocket:\n")
    table(texts, stored.background, names, pictures)
    gap = 0.82 * l2_normalise(np.linalg.svd(pictures)[2][-1])  # a direction without images

    def moved(vectors: np.ndarray) -> np.ndarray:
        return l2_normalise(0.3 * vectors + gap)

    print("pocket, its texts moved apart from its images by a gap like CLIP's:\n")
    far = {text: moved(vector) for text, vector in texts.items()}
    table(far, moved(stored.background), names, pictures)


if __name__ == "__main__":
    main()
