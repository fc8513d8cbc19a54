"""What people write first: open_clip's own README code, one image after the other, in fp32.

``naive.py index FOLDER PHOTOS OUT`` embeds every JPEG and saves a numpy array;
``naive.py search FOLDER VECTORS TEXT`` loads the model and ranks. Prints the seconds spent in its
loop, without start-up, as its last line.
"""

import sys
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

command, folder, source, last = sys.argv[1:]
model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
model.eval()
tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")

start = time.perf_counter()
with torch.no_grad():
    if command == "index":
        rows = []
        for path in sorted(Path(source).glob("*.jpg")):
            image = preprocess(Image.open(path)).unsqueeze(0)
            features = model.encode_image(image)
            features /= features.norm(dim=-1, keepdim=True)
            rows.append(features[0].numpy())
        np.save(last, np.stack(rows))
    else:
        features = model.encode_text(tokenizer([last]))
        features /= features.norm(dim=-1, keepdim=True)
        scores = np.load(source) @ features[0].numpy()
        print(np.argsort(-scores)[:10])
print(time.perf_counter() - start)
