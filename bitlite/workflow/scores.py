"""Scores of a classifier from its logits [images, classes] and the labels [images]. NumPy only."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bitlite.workflow.files import COUNT, SHARE, between, or_nothing, text

# Accuracies are counts over a number of images: far coarser than this, which is far coarser than rounding.
ROUNDING = 1e-9
# Confidences are rounded to so many decimals in files, in which they then hardly depend on the processor.
DECIMALS = 4
# What an 8-bit probability of 0 may be: logarithms need more.
LEAST_PROBABILITY = 1e-4
# Images are put into as many bins by confidence for the calibration error.
BINS = 15
PREDICTION_COLUMNS = {"actual": text, "predicted": text, "confidence": SHARE}
CLASS_COLUMNS = {"class": text, "images": COUNT, "recall": or_nothing(SHARE), "precision": or_nothing(SHARE)}
SCORE_COLUMNS = {"score": text, "value": between(0, 1e9)}


def accuracy(logits: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """Share of images whose label is among the k highest logits; of equal logits the lower class counts as higher."""
    ranked = np.argsort(-logits.astype(np.float64), axis=1, kind="stable")[:, :k]
    return float(np.mean(np.any(ranked == labels[:, None], axis=1)))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities [images, classes] of the classes."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def predictions(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Iterator[dict]:
    """A row of PREDICTION_COLUMNS an image: the class it shows, the most probable one, and how probable that is."""
    for actual, row in zip(labels, probabilities, strict=True):
        predicted = int(np.argmax(row))
        yield {
            "actual": names[actual],
            "predicted": names[predicted],
            "confidence": round(float(row[predicted]), DECIMALS),
        }


def by_class(predictions: Sequence[Mapping], names: Sequence[str]) -> Iterator[dict]:
    """A row of CLASS_COLUMNS a class: the images that show it, the share of these that is put into it, and the share of
    the images put into it that show it; empty where there are none.
    """
    pairs = Counter((row["actual"], row["predicted"]) for row in predictions)
    shown, said = Counter[str](), Counter[str]()
    for (actual, predicted), count in pairs.items():
        shown[actual] += count
        said[predicted] += count
    for name in names:
        right = pairs[name, name]
        yield {
            "class": name,
            "images": shown[name],
            "recall": right / shown[name] if shown[name] else "",
            "precision": right / said[name] if said[name] else "",
        }


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -ln of the probability of the right class, which counts as LEAST_PROBABILITY at least."""
    right = probabilities[np.arange(len(labels)), labels]
    return float(-np.mean(np.log(np.maximum(right, LEAST_PROBABILITY))))


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """How far confidence is off accuracy, 0..1: the mean difference of the two in bins of equal width, by images.

    The expected calibration error of Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599.
    """
    confidences, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidences * BINS).astype(int), BINS - 1)
    surplus = np.bincount(bins, confidences - hits, BINS)  # of each bin, times its images
    return float(np.abs(surplus).sum() / len(labels))


def confidence_change(some: Sequence[Mapping], others: Sequence[Mapping]) -> float:
    """Mean absolute difference of the confidences, 0..1, in two `predictions` of the same images."""
    pairs = zip(some, others, strict=True)
    return float(np.mean([abs(float(one["confidence"]) - float(other["confidence"])) for one, other in pairs]))


def within(accuracy: float, baseline: float, max_drop: float) -> bool:
    """Whether `accuracy` is at most `max_drop` below `baseline`, all of them shares 0..1 of a number of images."""
    return accuracy >= baseline - max_drop - ROUNDING


def agreement(some: Sequence[Mapping[str, str]], others: Sequence[Mapping[str, str]]) -> float:
    """Share of images, 0..1, whose predicted class is the same in both `predictions` of the same images."""
    return float(np.mean([one["predicted"] == other["predicted"] for one, other in zip(some, others, strict=True)]))
