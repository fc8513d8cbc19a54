"""Write the two towers as one open_clip model folder: `open_clip_config.json` and the weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from open_clip.transformer import TextTransformer
from safetensors.torch import load_file, save
from torch import Tensor

from . import image_tower, text_tower

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
LOGIT_SCALE = 2.6592  # ln(1 / 0.07), open_clip's initial value; not trained here


def model_config() -> dict[str, object]:
    """The contents of `open_clip_config.json`, in the layout of open_clip's hub models."""
    return {
        "model_cfg": {
            "embed_dim": image_tower.EMBED_DIM,
            "vision_cfg": {
                "timm_model_name": image_tower.TRUNK,
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "mlp",
                "timm_proj_bias": False,
                "image_size": image_tower.IMAGE_SIZE,
            },
            "text_cfg": {
                "context_length": text_tower.CONTEXT_LENGTH,
                "vocab_size": text_tower.VOCABULARY,
                "width": text_tower.WIDTH,
                "heads": text_tower.HEADS,
                "layers": text_tower.LAYERS,
                "mlp_ratio": text_tower.MLP_RATIO,
            },
        },
        "preprocess_cfg": {
            "size": image_tower.IMAGE_SIZE,
            "mean": [image_tower.PIXEL_MEAN] * 3,
            "std": [image_tower.PIXEL_STD] * 3,
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def read_text_tower(folder: Path) -> dict[str, Tensor]:
    """The float32 state dict of the text tower in `folder`."""
    return {
        key: value.float()
        for key, value in load_file(folder / WEIGHTS).items()
        if not key.startswith("visual.") and key != "logit_scale"
    }


def write_model(folder: Path, visual: dict[str, Tensor], tower: TextTransformer) -> None:
    """Write both files into `folder`; floating-point weights as float16."""
    state = visual | tower.state_dict() | {"logit_scale": torch.tensor(LOGIT_SCALE)}
    halved = {
        key: (value.detach().half() if value.is_floating_point() else value).contiguous()
        for key, value in state.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(model_config(), indent=2)
    (folder / CONFIG).write_text(config + "\n", encoding="utf-8")
    (folder / f"{WEIGHTS}.part").write_bytes(save(halved, metadata={"format": "pt"}))
    (folder / f"{WEIGHTS}.part").replace(folder / WEIGHTS)
