"""Three networks as one has them, each made smaller in one call: a ResNet, a ViT and a BERT classifier.

The ResNet is that of `isac_toolbox.nn.models`, ViT and BERT are those of `transformers`, small and from
random weights (`pip install transformers`; without it they are left out). Images are scikit-learn's digits
of 16 x 16 pixels; the text are summaries of docstrings of installed packages, of which BERT tells the
package: numpy, scipy or sklearn. Each network is trained, and compressed with the default settings but the
epochs. All figures are of the test sets.

python benchmarks/nn/your_own_model.py [--seed 51] [--epochs 20] > benchmarks/nn/your_own_model.txt
"""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import time
import warnings
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from any_network import images
from torch import Tensor, nn
from torch.utils.data import DataLoader

from isac_toolbox.nn import compress, models
from isac_toolbox.nn.training import accuracy, train

PACKAGES = ("numpy", "scipy", "sklearn")
N_TOKENS, N_WORDS, N_TEXTS = 16, 800, 700


def summaries(package: str) -> list[str]:
    """First paragraphs of docstrings of a package, each once, in the order of its files."""
    found: dict[str, None] = {}
    root = Path(importlib.import_module(package).__file__ or "").parent
    for path in sorted(root.rglob("*.py")):
        if "tests" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                text = (ast.get_docstring(node) or "").split("\n\n")[0].replace(package, "")
                if len(text.split()) > 3:
                    found[text] = None
        if len(found) >= N_TEXTS:
            break
    return list(found)


def texts(seed: int) -> list[list[dict[str, Tensor]]]:
    """Examples of words by number, with their mask and package, for training, validation and test."""
    pairs = [(text, i) for i, package in enumerate(PACKAGES) for text in summaries(package)[:N_TEXTS]]
    words = [re.findall(r"[a-z]+", text.lower())[:N_TOKENS] for text, _ in pairs]
    counts = Counter(word for text in words for word in text)
    known = {word: i for i, (word, _) in enumerate(counts.most_common(N_WORDS - 2), start=2)}
    examples = []
    for text, (_, label) in zip(words, pairs, strict=True):
        ids = torch.zeros(N_TOKENS, dtype=torch.int64)
        ids[: len(text)] = torch.tensor([known.get(word, 1) for word in text], dtype=torch.int64)
        ids[0] = 1 if not text else ids[0]
        mask = (torch.arange(N_TOKENS) < max(len(text), 1)).long()
        examples.append({"input_ids": ids, "attention_mask": mask, "labels": torch.tensor(label)})
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    mixed = [examples[i] for i in order]
    n = len(mixed) // 5
    return [mixed[2 * n :], mixed[n : 2 * n], mixed[:n]]


def pictures(name: str) -> list[list[Any]]:
    """Examples of images with their digit: pairs, or dicts as ViT takes them."""
    return [
        [(x, y) if name == "resnet" else {"pixel_values": x, "labels": y} for x, y in zip(*part, strict=True)]
        for part in images()
    ]


def network(name: str) -> nn.Module:
    """A network with random weights."""
    if name == "resnet":
        return models.resnet18(width=5)
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if name == "vit":
        config = transformers.ViTConfig(
            image_size=16, patch_size=4, num_channels=1, num_labels=10, **sizes, **quiet
        )
        return transformers.ViTForImageClassification(config)
    config = transformers.BertConfig(
        vocab_size=N_WORDS, max_position_embeddings=N_TOKENS, num_labels=len(PACKAGES), **sizes, **quiet
    )
    return transformers.BertForSequenceClassification(config)


def run(name: str, seed: int, epochs: int) -> str:
    """Return the line of a network."""
    parts = texts(seed) if name == "bert" else pictures(name)
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(parts[0], batch_size=64, shuffle=True, generator=generator)
    validation, test = (DataLoader(part, batch_size=256) for part in parts[1:])
    torch.manual_seed(seed)
    dense = train(network(name), loader, epochs=epochs, seed=seed)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = compress(dense, loader, val_loader=validation, epochs=epochs, seed=seed, progress=False)
    seconds = time.perf_counter() - start
    said = {str(w.message).split(":")[0][:60] for w in caught if issubclass(w.category, UserWarning)}
    report = result.report
    line = (
        f"{name:8}{accuracy(dense, test):8.3f}{accuracy(result.model, test):8.3f}"
        f"{'1/' + format(report.compression, '.1f'):>9}"
        f"{sum(p.numel() for p in dense.parameters()):>10,}"
        f"{sum(p.numel() for p in result.model.parameters()):>10,}"
        f"{report.macs / report.macs_dense:7.2f}{seconds:7.0f}"
    )
    return "\n".join([line, *(f"         said: {text}" for text in sorted(said))])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=51)
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"seed {given.seed}, {given.epochs} epochs")
    print(
        f"{'network':8}{'dense':>8}{'small':>8}{'weights':>9}{'numbers':>10}{'small':>10}{'MACs':>7}{'s':>7}"
    )
    for name in ("resnet", "vit", "bert"):
        if name == "resnet" or find_spec("transformers") is not None:
            print(run(name, given.seed, given.epochs), flush=True)


if __name__ == "__main__":
    main()
