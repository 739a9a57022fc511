"""Scores of a classifier from its logits [images, classes] and the labels [images]. NumPy only."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

# Accuracies are counts over a number of images: far coarser than this, which is far coarser than rounding.
ROUNDING = 1e-9
PREDICTION_COLUMNS = ("actual", "predicted")


def accuracy(logits: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """Share of images whose label is among the k highest logits; of equal logits the lower class counts as higher."""
    ranked = np.argsort(-logits.astype(np.float64), axis=1, kind="stable")[:, :k]
    return float(np.mean(np.any(ranked == labels[:, None], axis=1)))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities [images, classes] of the classes."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def predictions(logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Iterator[dict[str, str]]:
    """A row an image, for DVC's confusion plot: names of the class it shows and of the highest logit."""
    for actual, predicted in zip(labels, np.argmax(logits, axis=1), strict=True):
        yield {"actual": names[actual], "predicted": names[predicted]}


def within(accuracy: float, baseline: float, max_drop: float) -> bool:
    """Whether `accuracy` is at most `max_drop` below `baseline`, all of them shares 0..1 of a number of images."""
    return accuracy >= baseline - max_drop - ROUNDING


def agreement(some: Sequence[Mapping[str, str]], others: Sequence[Mapping[str, str]]) -> float:
    """Share of images, 0..1, whose predicted class is the same in both `predictions` of the same images."""
    return float(np.mean([one["predicted"] == other["predicted"] for one, other in zip(some, others, strict=True)]))
