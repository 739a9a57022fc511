"""Metrics of a model before conversion, as a whole and by layer. NumPy only."""

from collections.abc import Iterator

import numpy as np

from bitlite.bit.weights import Bit
from bitlite.workflow.metrics import ModelScores
from bitlite.workflow.scores import accuracy

LAYER_COLUMNS = ("layer", "inputs", "outputs", "parameters", "macs", "sparsity")


def of_model(bit: Bit, test_logits: np.ndarray, test_labels: np.ndarray) -> ModelScores:
    """The metrics of a model that gives `test_logits` [images, classes] for images of `test_labels` [images]."""
    return ModelScores(
        accuracy=accuracy(test_logits, test_labels),
        top5_accuracy=accuracy(test_logits, test_labels, k=5),
        parameters=bit.parameters,
        sparsity=bit.sparsity,
        macs=bit.macs,
    )


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
