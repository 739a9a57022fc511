"""A BiT as the graph that TFLite runs best: the function of the network for training, from operators that XNNPACK has.

`steps` says what BiT computes; REWRITES make TFLite's operators of the steps, one rewrite after the other.
`python -m benchmarks.conversion` measures what each is worth. Where operators are not the obvious ones, LiteRT's GPU
delegate computes something else from those, without a word: docs/gpu-delegate.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from bitlite.bit.names import FEATURES, FINAL_NORM, HEAD, PIXELS, POOL, ROOT
from bitlite.bit.weights import GROUP_NORM_EPSILON, ROOT_STRIDE, Bit
from bitlite.tflite import scaling
from bitlite.tflite.graph import RELU, SAME, VALID, Graph, Operator, Rewrite, Tensor, constant, rewritten

# Begins the names of all tensors but the input and the output. A layer's tensors follow its path in BiT's names.
MODEL = "bit"
LOGITS, PROBABILITIES = "logits", "probabilities"
WEIGHTS = ("/kernel", "/gamma", "/beta")
# The convolution in a norm, whose kernel is no weight.
VARIANCES = "variances"
# Share of the deviation that white noise has behind the root, for `even_contrast`.
EVEN_DOWN_TO = 1 / 64
# Of a norm: x * gamma / deviation, and what is added to that before the ReLU.
SCALED, SHIFT = "scaled", "shift"


def lower(bit: Bit, rewrites: Sequence[Rewrite] = ()) -> Graph:
    """The graph of `bit` for one image: RGB pixels [1, height, width, 3] in 0..255 to logits [1, classes].

    rewrites: those that a scheme chooses, which come between `folded_norm`, `sliced` and REWRITES.
    """
    graph = steps(bit.folded())
    for rewrite in (folded_norm, sliced, *rewrites, *REWRITES):
        graph = rewritten(graph, rewrite)
    return graph


def steps(bit: Bit) -> Graph:
    """A folded BiT in steps of its own, `conv`, `group_norm`, `frozen_norm`, `relu` and `pool`; the rest is TFLite's.

    Kernels whose output only norms read are multiplied by the powers of two of `scaling`.
    """
    architecture, weights, powers = bit.architecture, bit.weights, scaling.powers(bit)
    graph = Graph(Tensor("pixels", (1, *architecture.image_size, 3)))

    def ranged(x: Tensor, layer: str, power: float = 1) -> Tensor:
        """x, the output of a layer multiplied by a power of two, with the range that the layer was trained for."""
        if ends := bit.range(layer):
            least, largest = ends
            x.range = least * power, largest * power
        return x

    def conv(x: Tensor, path: str, stride: int = 1) -> Tensor:
        constants = [
            constant(f"{MODEL}/{path}/{part}", weights[f"{path}/{part}"] * powers.get(path, 1))
            for part in ("kernel", "bias")
            if f"{path}/{part}" in weights
        ]
        _, height, width, _ = x.shape
        shape = [1, -(-height // stride), -(-width // stride), constants[0].shape[3]]
        y = graph.operator("conv", f"{MODEL}/{path}", [x, *constants], shape, stride=stride)
        return ranged(y, path, powers.get(path, 1))

    def norm_relu(x: Tensor, path: str) -> Tensor:
        gamma, beta = weights[f"{path}/gamma"], weights[f"{path}/beta"]
        if path in architecture.frozen_norms:
            type, settings = "frozen_norm", {}
            gamma = gamma / (architecture.frozen_norms[path] * powers[path])
        else:
            type, settings = "group_norm", {"groups": bit.groups(path), "power": powers[path]}
        constants = [constant(f"{MODEL}/{path}/gamma", gamma), constant(f"{MODEL}/{path}/beta", beta)]
        y = graph.operator(type, f"{MODEL}/{path}", [x, *constants], x.shape, **settings)
        return ranged(graph.operator("relu", f"{MODEL}/{path}/relu", [y], x.shape), f"{path}/relu")

    x = graph.multiply(f"{MODEL}/normalize/mul", graph.input, constant(f"{MODEL}/normalize/scale", 1 / 127.5))
    x = ranged(graph.add(f"{MODEL}/normalize/add", x, constant(f"{MODEL}/normalize/offset", -1)), PIXELS)
    x = conv(x, ROOT, ROOT_STRIDE)
    if architecture.pool:
        _, height, width, channels = x.shape
        x = graph.operator("pool", f"{MODEL}/{POOL}", [x], [1, -(-height // 2), -(-width // 2), channels])
    for unit in bit.units:
        preactivated = norm_relu(x, unit.norm("a"))
        if bit.projects(unit):
            x = conv(preactivated, unit.projection, unit.stride)
        y = conv(preactivated, unit.conv("a"))
        y = conv(norm_relu(y, unit.norm("b")), unit.conv("b"), unit.stride)
        y = conv(norm_relu(y, unit.norm("c")), unit.conv("c"))
        x = graph.add(f"{MODEL}/{unit.path}/add/sum", x, y)
    x = ranged(graph.mean(f"{MODEL}/{FEATURES}/mean", norm_relu(x, FINAL_NORM), [1, 2]), FEATURES)
    graph.reshape(LOGITS, conv(x, HEAD), (1, len(architecture.labels)))
    return graph


# Rewrites that are chosen


def packed_root(graph: Graph, operator: Operator) -> Tensor | None:
    """The root on 2x2 pixels at a time, where its kernel is large and the image's sides are even.

    XNNPACK's integer kernels take channels by the vector, of which RGB fills little. Those of float32 gain nothing.
    """
    if operator.type != "conv" or operator.output.name != f"{MODEL}/{ROOT}":
        return None
    x, kernel, *bias = operator.inputs
    if kernel.shape[0] <= 3 or any(side % 2 for side in x.shape[1:3]):
        return None
    path, packed = operator.output.name, pack(kernel.values)
    side = len(packed)
    _, height, width, channels = x.shape
    # SPACE_TO_DEPTH does the same, but Ethos-U leaves it to the CPU.
    pairs = graph.reshape(f"{path}/pairs", x, (1, height // 2, width, 2 * channels))
    rows = [
        graph.slice(f"{path}/row{row}", pairs, (0, 0, row * width // 2, 0), (1, height // 2, width // 2, 2 * channels))
        for row in (0, 1)
    ]
    blocks = graph.concatenate(f"{path}/pack", rows, axis=3)  # [1, H / 2, W / 2, 12]
    padded = graph.pad_image(f"{path}/pad", blocks, side // 2, side - 1 - side // 2)
    return graph.convolve(f"{path}/conv", padded, packed, *(each.values for each in bias), padding=VALID)


def pack(kernel: np.ndarray) -> np.ndarray:
    """A kernel [side, side, inputs, outputs] of stride 2 and odd side, for 2x2 pixels packed into channels.

    [blocks, blocks, 4 * inputs, outputs], of stride 1, the pixels of a block in the order of their rows; its middle is
    block `blocks // 2`.
    """
    side, _, inputs, outputs = kernel.shape
    # The middle of the kernel comes to stand on the first of a block's pixels.
    before = side // 2 % 2
    blocks = (before + side + 1) // 2
    even = np.pad(kernel, ((before, 2 * blocks - side - before),) * 2 + ((0, 0), (0, 0)))  # [2 blocks, 2 blocks, I, O]
    split = even.reshape(blocks, 2, blocks, 2, inputs, outputs)
    return split.transpose(0, 2, 1, 3, 4, 5).reshape(blocks, blocks, 4 * inputs, outputs)


def probabilities(graph: Graph, operator: Operator) -> Tensor | None:
    """Probabilities [1, classes] in the place of the logits."""
    if operator.output.name != LOGITS:
        return None
    graph.operators.append(operator)
    return graph.softmax(PROBABILITIES, operator.output)


def even_contrast(graph: Graph, operator: Operator) -> Tensor | None:
    """What the first norm reads, each group divided by about its own mean of |x|: the norm undoes any such factor.

    So the factor may be as rough as integers make it. Images differ much in contrast, which no norm has taken out of
    the root's output yet: variances in one scale for all of them would have few steps for most.

    The divisor is no less than EVEN_DOWN_TO of the deviation that white noise would have there. The norm's epsilon
    becomes what it would be with this least divisor, and weighs less with others, where it is nothing beside variances.
    """
    root, pool = f"{MODEL}/{ROOT}", f"{MODEL}/{POOL}"
    if operator.type != "group_norm" or operator.inputs[0].name not in (root, pool):
        return None
    kernel = next(each.inputs[1].values for each in graph.operators if each.output.name == root)
    least = EVEN_DOWN_TO * np.sqrt(np.square(kernel).sum() / kernel.shape[3])
    if not least:
        return None
    x, *constants = operator.inputs
    path, groups = f"{operator.output.name}/contrast", operator.options["groups"]
    # XNNPACK has no absolute values of integers, |x| = 2 relu(x) - x, and their ReLU with another operator alone.
    one = constant(f"{path}/one", 1)
    relu = graph.operator("MUL", f"{path}/relu", [x, one], x.shape, fusedActivationFunction=RELU)
    positive = _group_mean(graph, f"{path}/positive", relu, groups)
    mean = _group_mean(graph, f"{path}/value", x, groups)
    absolute = graph.subtract(f"{path}/absolute", graph.add(f"{path}/twice", positive, positive), mean)
    divisor = graph.add(f"{path}/divisor", absolute, constant(f"{path}/least", least))
    half = graph.reciprocal_root(f"{path}/rsqrt", divisor)
    ones = constant(f"{path}/ones", np.ones((1, 1, groups, x.shape[3] // groups)))
    factor = graph.multiply(f"{path}/factor", graph.multiply(f"{path}/spread", ones, half), half)
    even = graph.multiply(f"{path}/even", x, _channels(graph, f"{path}/channels", factor))
    options = {**operator.options, "power": operator.options["power"] / least}
    graph.operators.append(replace(operator, inputs=(even, *constants), options=options))
    return operator.output


def integer_norm(graph: Graph, operator: Operator) -> Tensor | None:
    """`group_norm` with a root for each group instead of each channel: LiteRT takes long for those of integers.

    XNNPACK has no root of integers, so each norm interrupts it. Arithmetic of groups in float32, between DEQUANTIZE and
    QUANTIZE, would be XNNPACK's, but Ethos-U would leave most operators to the CPU; for CPUs there is int8_mixed.
    """
    return _group_norm(graph, operator, _by_group) if operator.type == "group_norm" else None


def half_weights(graph: Graph, operator: Operator) -> Tensor | None:
    """Kernels, gammas and betas in float16, which an operator makes float32 as the file is loaded. The last rewrite."""
    if not any(_is_weight(each) for each in operator.inputs):
        return None
    inputs = []
    for each in operator.inputs:
        if _is_weight(each):
            half = Tensor(f"{each.name}/half", each.shape, each.values.astype(np.float16))
            each = graph.operator("DEQUANTIZE", each.name, [half], each.shape)
        inputs.append(each)
    graph.operators.append(replace(operator, inputs=tuple(inputs)))
    return operator.output


def _is_weight(tensor: Tensor) -> bool:
    named = tensor.name.endswith(WEIGHTS) and not tensor.name.endswith(f"/{VARIANCES}/kernel")
    return tensor.data is not None and tensor.data.dtype == np.float32 and named


# Rewrites that every BiT needs


def folded_norm(graph: Graph, operator: Operator) -> Tensor | None:
    """A frozen norm in the kernel and the bias of the convolution before it, which nothing else reads.

    That is so inside the bottlenecks, and behind a root without a pool.
    """
    if operator.type != "frozen_norm":
        return None
    x, gamma, beta = operator.inputs
    before = graph.operators[-1]
    if before.type != "conv" or before.output is not x:
        return None
    image, kernel = before.inputs
    graph.operators[-1] = replace(before, inputs=(image, replace(kernel, data=kernel.values * gamma.values), beta))
    return before.output


def frozen_norm(graph: Graph, operator: Operator) -> Tensor | None:
    """A frozen norm as a depthwise convolution of 1x1, of which XNNPACK makes one pass with its bias and the ReLU.

    Multiply, add and ReLU would be three.
    """
    if operator.type != "frozen_norm":
        return None
    x, gamma, beta = operator.inputs
    return graph.scale_channels(operator.output.name, x, gamma, beta)


def sliced(graph: Graph, operator: Operator) -> Tensor | None:
    """A convolution of 1x1 and a stride of 2 as one of stride 1 on every second pixel.

    With integer weights the GPU delegate would forget the stride.
    """
    if operator.type != "conv" or operator.options["stride"] != 2 or operator.inputs[1].shape[0] != 1:
        return None
    x, *constants = operator.inputs
    path = operator.output.name
    _, height, width, channels = x.shape
    if height % 2 or width % 2:
        x = graph.pad(f"{path}/even", x, [(0, 0), (0, height % 2), (0, width % 2), (0, 0)])
        _, height, width, channels = x.shape
    # Two rows behind one another, two pixels to a row's place: the first quarter is every second pixel.
    pairs = graph.reshape(f"{path}/pairs", x, (1, height // 2, width, 2 * channels))
    second = graph.slice(f"{path}/second", pairs, (0, 0, 0, 0), (1, height // 2, width // 2, channels))
    return graph.operator("conv", path, [second, *constants], operator.output.shape, stride=1)


def convolution(graph: Graph, operator: Operator) -> Tensor | None:
    """A convolution with BiT's padding: k // 2 zeros on each side of the image."""
    if operator.type != "conv":
        return None
    x, kernel, *bias = operator.inputs
    path, stride, padding = operator.output.name, operator.options["stride"], SAME
    side, _, _, _ = kernel.shape
    # With a stride, SAME pads an even image at the bottom and right first.
    if stride > 1 and side > 1 and any(length % 2 == 0 for length in x.shape[1:3]):
        x, padding = graph.pad_image(f"{path}/pad", x, side // 2, side // 2), VALID
    constants = (each.values for each in (kernel, *bias))
    return graph.convolve(f"{path}/conv", x, *constants, stride=stride, padding=padding)


def pool(graph: Graph, operator: Operator) -> Tensor | None:
    """The largest of 3x3 pixels, every second one: outside the image are zeros, as in BiT, where TFLite has nothing.

    They are put around rows of pixels laid flat: the GPU delegate would take zeros around an image for the pool's own
    padding, which is smaller than every pixel.
    """
    if operator.type != "pool":
        return None
    (x,), path = operator.inputs, operator.output.name
    _, height, width, channels = x.shape
    rows = graph.reshape(f"{path}/rows", x, (1, height, width * channels))
    padded = graph.pad(f"{path}/pad", rows, [(0, 0), (1, 1), (channels, channels)])
    image = graph.reshape(f"{path}/image", padded, (1, height + 2, width + 2, channels))
    return graph.max_pool(f"{path}/max", image, 3, 2)


def group_norm(graph: Graph, operator: Operator) -> Tensor | None:
    """GroupNorm of one image: moments over a 5-D reshape, the usual form, fall out of XNNPACK.

    Means of x and of x * x for each channel, averaged within the groups as small [1, 1, groups, channels of a group]
    arrays, then one multiply and one add for each channel of the image. Without the leading 1 GPUs take groups for a
    batch.

    The variance is E[x^2] - E[x]^2, which loses what float32 can't hold of E[x^2] when the mean is large: with a mean
    of 10 standard deviations the output is within 1e-4 of the right one. Standardised kernels have a mean of zero,
    which keeps the mean of a group below one deviation (0.7 at most in bit-tiny's 22 norms on digits). The output
    is finite for every input: rounding can't take the variance below zero.
    """
    return _group_norm(graph, operator, _by_channel) if operator.type == "group_norm" else None


def _group_norm(graph: Graph, operator: Operator, scaled_gamma: Callable) -> Tensor:
    """scaled_gamma: makes gamma / deviation of x, [1, 1, groups, channels of a group], from each group's variance."""
    x, gamma, beta = operator.inputs
    path, channels = operator.output.name, x.shape[3]
    groups = operator.options["groups"]
    grouped = (1, 1, groups, channels // groups)
    mean = _group_mean(graph, f"{path}/value", x, groups)
    square = _group_mean(graph, f"{path}/square", graph.multiply(f"{path}/square", x, x), groups)
    mean_square = graph.multiply(f"{path}/mean_square", mean, mean)
    variance = graph.operator(
        "SUB", f"{path}/variance", [square, mean_square], mean.shape, fusedActivationFunction=RELU
    )
    scale = scaled_gamma(graph, path, variance, gamma.values.reshape(grouped), operator.options["power"])
    y = graph.multiply(f"{path}/{SCALED}", x, _channels(graph, f"{path}/scale/channels", scale))
    offset = constant(beta.name, beta.values.reshape(grouped))
    shift = graph.subtract(f"{path}/{SHIFT}", offset, graph.multiply(f"{path}/mean_scale", scale, mean))
    return graph.add(f"{path}/shifted", y, _channels(graph, f"{path}/shift/channels", shift))


def _group_mean(graph: Graph, path: str, image: Tensor, groups: int) -> Tensor:
    """Means of the groups [1, 1, groups, 1] over their pixels and channels."""
    by_channel = graph.mean(f"{path}/by_channel", image, [1, 2])  # [1, 1, 1, C]
    grouped = graph.reshape(f"{path}/groups", by_channel, (1, 1, groups, image.shape[3] // groups))
    return graph.mean(f"{path}/mean", grouped, [3])


def _channels(graph: Graph, name: str, grouped: Tensor) -> Tensor:
    """[1, 1, groups, channels of a group] as [1, 1, 1, channels]."""
    return graph.reshape(name, grouped, (1, 1, 1, grouped.shape[2] * grouped.shape[3]))


def _by_channel(graph: Graph, path: str, variance: Tensor, gamma: np.ndarray, power: float) -> Tensor:
    """A convolution hands the variance of a group to its channels, takes out the power of two, and adds epsilon.

    MediaPipe's WebGL multiplies a constant, as gamma is, by an array of another shape wrongly. In float16 an epsilon
    that is multiplied by the power's square would be nothing.
    """
    size = gamma.shape[3]
    kernel, epsilon = np.full((1, 1, 1, size), power**-2), np.full(size, GROUP_NORM_EPSILON)
    variances = graph.convolve(f"{path}/{VARIANCES}", variance, kernel, epsilon)
    roots = graph.reciprocal_root(f"{path}/rsqrt", variances)
    return graph.multiply(f"{path}/scale", roots, constant(f"{path}/gamma", gamma / power))


def _by_group(graph: Graph, path: str, variance: Tensor, gamma: np.ndarray, power: float) -> Tensor:
    epsilon = constant(f"{path}/epsilon", GROUP_NORM_EPSILON * power**2)
    root = graph.reciprocal_root(f"{path}/rsqrt", graph.add(f"{path}/variance_epsilon", variance, epsilon))
    return graph.multiply(f"{path}/scale", constant(f"{path}/gamma", gamma), root)


def relu(graph: Graph, operator: Operator) -> Tensor | None:
    """A ReLU as the activation of the operator before it, if that has one."""
    if operator.type != "relu":
        return None
    before = graph.operators[-1]
    assert before.output is operator.inputs[0], "the operator before a ReLU makes its input"
    if not before.activates:
        return graph.operator("RELU", operator.output.name, operator.inputs, operator.output.shape)
    graph.operators[-1] = replace(before, options={**before.options, "fusedActivationFunction": RELU})
    return before.output


# In this order, after those that are chosen.
REWRITES = (convolution, pool, group_norm, frozen_norm, relu)
