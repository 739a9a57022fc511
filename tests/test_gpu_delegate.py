"""Small graphs that LiteRT's GPU delegate gets wrong (docs/gpu-delegate.md), and the forms that it gets right.

A test of a wrong one fails when the delegate is mended: the workaround in bitlite/tflite/lowering.py can go then.
"""

import numpy as np
import pytest
from test_where import tried

from bitlite.litert import runtime
from bitlite.tflite import dense, lowering, quantizer
from bitlite.tflite.graph import Graph, Tensor, constant, rewritten, to_file
from bitlite.where import gpu


def weights(*shape):
    return np.random.default_rng(0).normal(size=shape)


def grouped(*leading):
    """Groups of channels, each with constants of its own."""
    graph = Graph(Tensor("pixels", (1, 1, 2, 3)))
    groups = graph.reshape("groups", graph.input, (*leading, 2, 3))
    scaled = graph.multiply("scaled", groups, constant("gamma", weights(*leading, 2, 3)))
    graph.reshape("outputs", scaled, (1, 6))
    return to_file(graph)


def strided(*rewrites):
    """A projection of a first unit, with integer weights."""
    graph = Graph(Tensor("pixels", (1, 4, 4, 3)))
    pairs = graph.concatenate("pairs", [graph.input, graph.input], axis=3)
    kernel = weights(1, 1, 6, 200)  # enough of them that they become integers
    graph.operator("conv", "conv", [pairs, constant("kernel", kernel)], (1, 2, 2, 200), stride=2)
    graph.reshape("outputs", graph.output, (1, 800))
    for rewrite in (*rewrites, lowering.convolution):
        graph = rewritten(graph, rewrite)
    return quantizer.dynamic(to_file(graph))


def pooled(lowered):
    """The root's pool on negative values."""
    graph = Graph(Tensor("pixels", (1, 4, 4, 3)))
    negative = graph.subtract("negative", graph.input, constant("offset", 300))
    if lowered:
        graph.operator("pool", "pool", [negative], (1, 2, 2, 3))
    else:
        graph.max_pool("pool", graph.pad_image("pad", negative, 1, 1), 3, 2)
    graph.reshape("outputs", graph.output, (1, 12))
    return to_file(rewritten(graph, lowering.pool))


def checked(content, tmp_path):
    """What the delegate makes of a file for some images, against the CPU."""
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    classifier = runtime.Classifier(path)
    images = np.random.default_rng(1).integers(256, size=(3, *classifier.image_size, 3), dtype=np.uint8)
    return tried(gpu.check, path, images, classifier.logits(images))


RIGHT = {
    "leading ones": grouped(1, 1),
    "strided int8": strided(lowering.sliced),
    "strided int4": strided(lowering.sliced, dense.dense),
    "padded pool": pooled(lowered=True),
}
WRONG = {
    "first dimension": grouped(),
    "strided int8": strided(),
    "padded pool": pooled(lowered=False),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_the_lowering_makes_is_right(name, tmp_path):
    found = checked(RIGHT[name], tmp_path)
    assert found["gpu_whole"] and found["gpu_difference"] < 0.01


@pytest.mark.parametrize("name", WRONG)
def test_the_delegate_is_wrong_without_a_word(name, tmp_path):
    found = checked(WRONG[name], tmp_path)
    assert found["gpu_whole"] and found["gpu_difference"] > 0.1, "mended: the workaround and its line in docs/ can go"
