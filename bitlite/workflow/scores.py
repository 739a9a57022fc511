"""Scores of a classifier from its logits [images, classes] and the labels [images]. NumPy only."""

from collections.abc import Iterator, Sequence

import numpy as np

from bitlite.bit.weights import Bit

LAYER_COLUMNS = ("layer", "inputs", "outputs", "parameters", "macs", "sparsity")
PREDICTION_COLUMNS = ("actual", "predicted")


def accuracy(logits: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """Share of images whose label is among the k highest logits; of equal logits the lower class counts as higher."""
    ranked = np.argsort(-logits.astype(np.float64), axis=1, kind="stable")[:, :k]
    return float(np.mean(np.any(ranked == labels[:, None], axis=1)))


def of_model(bit: Bit, test_logits: np.ndarray, test_labels: np.ndarray) -> dict[str, float]:
    """The metrics of a model before conversion; `macs` are multiply-adds an image."""
    return {
        "accuracy": accuracy(test_logits, test_labels),
        "top5_accuracy": accuracy(test_logits, test_labels, k=5),
        "parameters": bit.parameters,
        "sparsity": bit.sparsity,
        "macs": bit.macs,
    }


def layers(bit: Bit) -> Iterator[dict[str, str | int | float]]:
    """A row for each convolution and the head, in running order; `sparsity` is its kernel's share of zeros."""
    for convolution in bit.convolutions:
        _, _, inputs, outputs = convolution.kernel.shape
        yield {
            "layer": convolution.path,
            "inputs": inputs,
            "outputs": outputs,
            "parameters": convolution.kernel.size,
            "macs": convolution.macs,
            "sparsity": float(np.mean(convolution.kernel == 0)),
        }


def predictions(logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Iterator[dict[str, str]]:
    """A row an image, for DVC's confusion plot: names of the class it shows and of the highest logit."""
    for actual, predicted in zip(labels, np.argmax(logits, axis=1), strict=True):
        yield {"actual": names[actual], "predicted": names[predicted]}
