"""The default model with its published weights, on machines that have them in the hub's cache.

Everywhere else these tests skip themselves: no package registry carries the weights. What does not
need their values (loading, agreement with open_clip) is tested in test_encoder.py at full size.
"""

import os

import numpy as np
import pytest
from conftest import SAMPLES

from clipsearch.images import scan
from clipsearch.images.decode import decode
from clipsearch.models import hub, registry
from clipsearch.models.open_clip import OpenClipEncoder
from clipsearch.models.text_encoder import TextEncoder
from clipsearch.paths import absolute

QUERIES = {
    "a red bicycle": "bicycle",
    "a cup of coffee": "cup_of_coffee",
    "a cat": "cat",
    "a dog": "dog",
    "snowy mountains": "mountain",
    "boats in a harbour": "harbour",
    "a rocket launch": "rocket",
    "the Eiffel tower": "eiffel_tower",
}


@pytest.mark.hub_weights
def test_the_default_model_finds_the_sample_pictures() -> None:
    if hub.cached(registry.DEFAULT_REPO, hub.WEIGHTS) is None:
        pytest.skip("the published ViT-B-16 weights are not in the hub's cache on this machine")
    files = registry.resolve(registry.DEFAULT_NAME, None, offline=True, notify=print)
    paths = [file.path for file in scan.find(os.fsencode(SAMPLES)).files]
    pixels = [
        decode(absolute(os.fsencode(SAMPLES), path), files.spec.preprocessing).pixels
        for path in paths
    ]
    vectors = OpenClipEncoder(files, "cpu").encode_images(np.stack(pixels))
    texts = TextEncoder(files).encode_texts(list(QUERIES))
    best = [paths[n].split(b"/")[0].decode() for n in (texts @ vectors.T).argmax(axis=1)]
    assert dict(zip(QUERIES, best, strict=True)) == QUERIES
