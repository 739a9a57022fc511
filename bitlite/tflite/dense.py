"""Convolutions as dense layers of every pixel: these XNNPACK runs by int4 weights, where it leaves CONV_2D to LiteRT.

XNNPACK's fully connected operator takes int4 weights, a scale for each output (qd8-f32-qc4w), for even numbers of
inputs. It quantizes activations as they come, with a scale for each pixel. So it does for a CONV_2D of 1x1 by int8, of
which it makes a dense layer by itself: `dynamic` would gain nothing by dense layers.
"""

from collections.abc import Collection

from bitlite.tflite.graph import Graph, Operator, Tensor
from bitlite.tflite.lowering import MODEL


def dense(graph: Graph, operator: Operator, paths: Collection[str] | None = None) -> Tensor | None:
    """The rewrite: a convolution whose dense layer takes about as long as itself, and an even number of channels.

    Those are the ones of 1x1 and stride 1, and of 3x3 where the patches hold fewer numbers than the kernel: little to
    copy, many weights to save. Alone, a 3x3 of 256 channels over 14 x 14 pixels takes 1.5 times as long as by int8, of
    512 over 7 x 7 as long, but of 128 over 28 x 28 2.1 times (`python -m benchmarks.conversion dense`).

    paths: of the convolutions that are looked at; None for all.
    """
    if operator.type != "conv" or (paths is not None and operator.output.name.removeprefix(f"{MODEL}/") not in paths):
        return None
    side, _, channels, outputs = operator.inputs[1].shape
    _, height, width, _ = operator.output.shape
    # Patches hold 9 * channels numbers for each pixel of the output, the kernel 9 * channels for each channel of it.
    fast = operator.options["stride"] == 1 if side == 1 else side == 3 and height * width < outputs
    return by_dense(graph, operator) if fast and channels % 2 == 0 else None


def by_dense(graph: Graph, operator: Operator) -> Tensor:
    """A convolution of 1x1 and stride 1, or of 3x3, as a dense layer."""
    x, kernel, *bias = operator.inputs
    path, outputs = operator.output.name, kernel.shape[3]
    if kernel.shape[0] == 3:
        x = patches(graph, path, x, operator.options["stride"])
    weights = kernel.values.reshape(-1, outputs)  # [side * side * channels, outputs]
    return graph.dense(f"{path}/conv", x, weights, *(each.values for each in bias))


def patches(graph: Graph, path: str, x: Tensor, stride: int) -> Tensor:
    """The 3x3 pixels that each output is made of, as channels in the order of a kernel's weights.

    [1, ceil(height / stride), ceil(width / stride), 9 * channels], with zeros outside the image x [1, height, width,
    channels]: im2col (Chellapilla et al., "High Performance Convolutional Neural Networks for Document Processing",
    2006). Three dense layers, one of each row of a patch, and their sum take as long.
    """
    margins = [(1, 1 + length % stride) for length in x.shape[1:3]]
    padded = graph.pad(f"{path}/pad", x, [(0, 0), *margins, (0, 0)])
    columns = graph.windows(f"{path}/columns", padded, axis=2, side=3, stride=stride)
    beside = graph.concatenate(f"{path}/beside", columns, axis=3)
    rows = graph.windows(f"{path}/rows", beside, axis=1, side=3, stride=stride)
    return graph.concatenate(f"{path}/patches", rows, axis=3)
