"""The lowered network, run by LiteRT, against the network for training; each rewrite against NumPy."""

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from test_network import PUBLISHED, SMALL, assert_close, bit_of, group_norm, padded, pixels_of

from benchmarks import emulation
from bitlite.bit import network
from bitlite.bit.names import ROOT
from bitlite.tflite import dense, lowering, scaling, winograd
from bitlite.tflite.graph import Graph, Tensor, constant, rewritten, to_file
from bitlite.tflite.lowering import MODEL, lower


def run(graph, images):
    """Outputs of a graph for images, one by one."""
    interpreter = Interpreter(model_content=to_file(graph))
    interpreter.allocate_tensors()
    outputs = []
    for image in images:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    return np.concatenate(outputs)


def one(type, path, inputs, constants, shape, rewrites=(), **options):
    """A graph of one step of BiT on an image like `inputs`, lowered as `lower` does with `rewrites`."""
    graph = Graph(Tensor("pixels", (1, *inputs.shape[1:])))
    constants = [constant(name, value) for name, value in constants.items()]
    graph.operator(type, path, [graph.input, *constants], shape, **options)
    for rewrite in (lowering.sliced, *rewrites, *lowering.REWRITES):
        graph = rewritten(graph, rewrite)
    return graph


@pytest.mark.parametrize("shape", [{**PUBLISHED, "image_size": (33, 29)}, SMALL], ids=["published", "small"])
def test_lowered_and_folded_networks_are_the_same_function(shape):
    bit = bit_of(shape)
    pixels = pixels_of(bit)
    expected = network.build(bit)(pixels).numpy()
    assert_close(network.build(bit.folded())(pixels).numpy(), expected)
    for one_form in (bit, bit.folded()):
        assert_close(run(lower(one_form), pixels), expected)


def test_half_weights_are_the_network_of_rounded_weights():
    bit = bit_of(SMALL).folded()
    pixels = pixels_of(bit)
    rounded = {
        name: value if name.endswith("/bias") else value.astype(np.float16).astype(np.float32)
        for name, value in bit.weights.items()
    }
    graph = rewritten(lower(bit), lowering.half_weights)
    assert_close(run(graph, pixels), network.build(bit.with_weights(rounded))(pixels).numpy())
    assert not np.array_equal(run(graph, pixels), run(lower(bit), pixels))


# The range of float16


# As deep as R50x1, where what one layer does to another adds up.
DEEP = {**PUBLISHED, "units": (3, 4, 6, 3), "image_size": (64, 64)}


def smooth(contrast, count=2, size=(64, 64)):
    """Images of a few colours blown up, as photos are, around mid-grey."""
    random = np.random.default_rng(3)
    colours = random.random((count, 4, 4, 3)).astype(np.float32) - 0.5
    images = [
        [np.asarray(Image.fromarray(c).resize(size[::-1])) for c in image.transpose(2, 0, 1)] for image in colours
    ]
    return 127.5 + 255 * contrast * np.moveaxis(np.stack(images), 1, 3)


@pytest.mark.parametrize("contrast", [1, 1 / 8, 1 / 32])
def test_scaling_changes_nothing_however_little_an_image_varies(contrast):
    bit = bit_of(DEEP)
    assert_close(run(lower(bit), smooth(contrast)), network.build(bit)(smooth(contrast)).numpy())


def test_in_float16_the_network_stays_itself(monkeypatch):
    bit = bit_of({**DEEP, "filters": 64, "image_size": (96, 96)})
    pixels = pixels_of(bit)
    expected = run(lower(bit), pixels)
    assert_close(emulation.outputs(lower(bit), pixels), expected, 2e-2)
    # Sums of squares of unscaled activations leave the range, and an infinite variance makes every image the same.
    monkeypatch.setattr(scaling, "_inverse", lambda gain: 1.0)
    with pytest.raises(AssertionError):
        assert_close(emulation.outputs(lower(bit), pixels), expected, 0.1)


def test_powers_of_two_by_hand():
    # Standardised kernels of n weights have a gain of sqrt(n). In the first unit a, b and c have 32, 9 * 32 and 32, in
    # the second 128, 9 * 64 and 64, and its projection 128.
    powers = scaling.powers(bit_of(PUBLISHED).folded())
    first, second = bit_of(PUBLISHED).units[:2]
    assert {part: powers[first.conv(part)] for part in "ab"} == {"a": 2**-3, "b": 2**-4}
    assert {part: powers[second.conv(part)] for part in "ab"} == {"a": 2**-3, "b": 2**-5}
    # The stream: 32 + 32 after the first block, 128 + 64, then 64 more after the second's two units.
    stream = {"resnet/group_norm", ROOT, *(unit.norm("a") for unit in bit_of(PUBLISHED).units)}
    stream |= {path for unit in bit_of(PUBLISHED).units for path in (unit.conv("c"), unit.projection)}
    assert {powers[path] for path in stream} == {2**-4} and np.log2(np.sqrt(128 + 64 + 64)) == 4
    assert set(bit_of(PUBLISHED).paths) - powers.keys() == {"resnet/head/conv2d"}
    assert all(
        powers[unit.norm(after)] == powers[unit.conv(part)] for unit in (first, second) for part, after in ("ab", "bc")
    )


def test_no_power_takes_a_norm_of_nothing_out_of_float16():
    wide = bit_of({**SMALL, "filters": 512, "units": (1,)}).folded()
    assert min(scaling.powers(wide).values()) == 2**-5
    # Kernels of zeros, as pruning may leave them, and an image of nothing.
    kernels = {name: kernel * 0 for name, kernel in bit_of(SMALL).folded().kernels.items() if "/a/" in name}
    pruned = bit_of(SMALL).folded().with_weights(bit_of(SMALL).folded().weights | kernels)
    for bit in (bit_of(SMALL), pruned):
        assert np.isfinite(emulation.outputs(lower(bit), np.full((1, 16, 16, 3), 127.5, np.float32))).all()


# What GPUs need


@pytest.mark.parametrize("size", [(8, 6), (7, 6), (8, 5), (7, 7), (1, 1)])
def test_sliced_convolution_takes_every_second_pixel(size):
    random = np.random.default_rng(0)
    kernel = random.normal(size=(1, 1, 5, 4)).astype(np.float32)
    images = random.normal(size=(2, *size, 5)).astype(np.float32)
    expected = images[:, ::2, ::2].astype(np.float64) @ kernel[0, 0]
    graph = one("conv", "conv", images, {"kernel": kernel}, (1, *expected.shape[1:]), stride=2)
    assert [operator.options["strideH"] for operator in graph.operators if operator.type == "CONV_2D"] == [1]
    assert_close(run(graph, images), expected, 1e-6)


@pytest.mark.parametrize("size", [(8, 6), (7, 6), (7, 7)])
def test_pool_sees_zeros_outside_the_image(size):
    images = np.random.default_rng(0).normal(-1, 1, (2, *size, 5)).astype(np.float32)
    expected = sliding_window_view(padded(images, 1), (3, 3), axis=(1, 2))[:, ::2, ::2].max(axis=(4, 5))
    graph = one("pool", "pool", images, {}, (1, *expected.shape[1:]))
    assert np.array_equal(run(graph, images), expected)


# The root


@pytest.mark.parametrize("root", [5, 7])
@pytest.mark.parametrize("image_size", [(32, 32), (22, 40)])
def test_packed_root_is_the_same_function(root, image_size):
    bit = bit_of(PUBLISHED, root=root, image_size=image_size)
    pixels = pixels_of(bit)
    packed = lower(bit, [lowering.packed_root])
    assert "CONCATENATION" in {operator.type for operator in packed.operators}
    assert_close(run(packed, pixels), network.build(bit)(pixels).numpy())


@pytest.mark.parametrize("changes", [{"root": 3, "image_size": (32, 32)}, {"image_size": (32, 31)}])
def test_small_roots_and_odd_images_are_not_packed(changes):
    types = {operator.type for operator in lower(bit_of(PUBLISHED, **changes), [lowering.packed_root]).operators}
    assert "CONCATENATION" not in types


# Winograd


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (14, 8)])
@pytest.mark.parametrize("channels", [(64, 64), (128, 96)])
def test_winograd_is_the_convolution(size, channels):
    random = np.random.default_rng(0)
    kernel = random.normal(size=(3, 3, *channels)).astype(np.float32)
    images = random.normal(1, 2, (2, *size, channels[0])).astype(np.float32)
    windows = sliding_window_view(padded(images.astype(np.float64), 1), (3, 3), axis=(1, 2))
    expected = np.tensordot(windows, kernel, axes=([3, 4, 5], [2, 0, 1]))
    graph = Graph(Tensor("pixels", (1, *images.shape[1:])))
    graph.operator("conv", "conv", [graph.input, constant("kernel", kernel)], (1, *size, channels[1]), stride=1)
    graph = rewritten(graph, winograd.winograd)
    assert sum(operator.type == "CONV_2D" for operator in graph.operators) == 16
    assert_close(run(graph, images), expected, 2e-6)


WIDE = {"filters": 64, "units": (1, 2), "groups": 32, "root": 3, "pool": False}


@pytest.mark.parametrize("image_size", [(24, 16), (20, 24)])
def test_network_by_winograd_is_the_same_function(image_size):
    bit = bit_of(WIDE, image_size=image_size)
    pixels = pixels_of(bit)
    graph = lower(bit, [winograd.winograd])
    # block1 sees 12 x 8 or 10 x 12 pixels, block2 6 x 4 or 5 x 6, and its first unit has stride 2.
    found = {operator.output.name for operator in graph.operators if operator.output.name.endswith("/product15")}
    units = {"block1/unit01", "block2/unit02"} if image_size == (24, 16) else {"block1/unit01"}
    assert found == {f"{MODEL}/resnet/{unit}/b/standardized_conv2d/product15" for unit in units}
    assert_close(run(graph, pixels), network.build(bit)(pixels).numpy())


@pytest.mark.parametrize(
    ("shape", "size", "taken"),
    [
        ((3, 3, 64, 64), (8, 6), True),
        ((3, 3, 64, 64), (8, 7), False),
        ((1, 1, 64, 64), (8, 6), False),
        ((3, 3, 32, 128), (8, 6), False),
        ((3, 3, 128, 32), (8, 6), False),
    ],
)
def test_winograd_computes_what_it_can_and_gains_from(shape, size, taken):
    assert winograd.gains(np.ones(shape, np.float32), size) == taken


def test_winograd_leaves_kernels_with_zeros():
    kernel = np.ones((3, 3, 64, 64), np.float32)
    kernel[1, 2, 3, 4] = 0
    assert not winograd.gains(kernel, (8, 6))


# Dense layers


def types(graph):
    return {operator.type for operator in graph.operators}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [(4, 6), (3, 6), (5, 3), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [1, 3])
def test_dense_layer_of_every_pixel_is_the_convolution(side, stride, size, bias):
    random = np.random.default_rng(0)
    constants = {"kernel": random.normal(size=(side, side, 6, 40)).astype(np.float32)}
    constants |= {"bias": random.normal(size=40).astype(np.float32)} if bias else {}
    images = random.normal(1, 2, (2, *size, 6)).astype(np.float32)
    windows = sliding_window_view(padded(images.astype(np.float64), side // 2), (side, side), axis=(1, 2))
    expected = np.tensordot(windows[:, ::stride, ::stride], constants["kernel"], axes=([3, 4, 5], [2, 0, 1]))
    expected += constants.get("bias", 0)
    graph = one("conv", "conv", images, constants, (1, *expected.shape[1:]), [dense.dense], stride=stride)
    assert "FULLY_CONNECTED" in types(graph) and "CONV_2D" not in types(graph)
    assert_close(run(graph, images), expected, 2e-6)


@pytest.mark.parametrize(
    ("shape", "size", "taken"),
    [
        ((1, 1, 64, 2), (56, 56), True),
        ((1, 1, 63, 64), (4, 4), False),  # int4 in pairs
        ((3, 3, 63, 64), (4, 4), False),
        ((3, 3, 256, 256), (14, 14), True),
        ((3, 3, 64, 64), (8, 8), False),  # of more to copy
        ((7, 7, 64, 64), (4, 4), False),
    ],
)
def test_dense_layers_are_made_where_they_are_fast(shape, size, taken):
    graph = Graph(Tensor("pixels", (1, *size, shape[2])))
    graph.operator("conv", "conv", [graph.input, constant("kernel", np.ones(shape))], (1, *size, shape[3]), stride=1)
    assert ("FULLY_CONNECTED" in types(rewritten(graph, dense.dense))) == taken


@pytest.mark.parametrize(
    "shape", [PUBLISHED, {**PUBLISHED, "image_size": (33, 29)}, SMALL], ids=["even", "odd", "small"]
)
def test_network_of_dense_layers_is_the_same_function(shape):
    for bit in (bit_of(shape), frozen(bit_of(shape))):
        pixels, graph = pixels_of(bit), lower(bit, [lowering.packed_root, dense.dense])
        assert_close(run(graph, pixels), network.build(bit)(pixels).numpy())
        # Frozen norms have gone into dense layers, with their ReLUs.
        fused = any(each.options.get("fusedActivationFunction") for each in graph.operators if "FULLY" in each.type)
        assert fused == bool(bit.architecture.frozen_norms)


# Norms


def normed(inputs, gamma, beta, groups):
    constants = {"norm/gamma": gamma, "norm/beta": beta}
    return run(one("group_norm", "norm", inputs, constants, (1, *inputs.shape[1:]), groups=groups, power=1), inputs)


@pytest.mark.parametrize("groups", [1, 2, 8, 12, 24])
@pytest.mark.parametrize("scale", [1, 1e-3])
def test_group_norm(groups, scale):
    # At the smaller scale epsilon is larger than the variance.
    random = np.random.default_rng(groups)
    inputs = (scale * random.normal(random.normal(size=24), 1, (3, 5, 4, 24))).astype(np.float32)
    gamma, beta = random.normal(1, 0.5, 24), random.normal(size=24)
    assert_close(normed(inputs, gamma, beta, groups), group_norm(inputs, gamma, beta, groups))


@pytest.mark.parametrize("deviation", [1e-2, 1, 1e2])
def test_group_norm_whose_mean_is_ten_deviations(deviation):
    random = np.random.default_rng(0)
    inputs = (deviation * random.normal(10, 1, (3, 9, 7, 24))).astype(np.float32)
    ones, zeros = np.ones(24), np.zeros(24)
    assert_close(normed(inputs, ones, zeros, 8), group_norm(inputs, ones, zeros, 8))


def test_group_norm_of_constants_is_finite():
    # E[x^2] - E[x]^2 rounds to less than -epsilon for some of them.
    constants = np.random.default_rng(0).uniform(500, 1500, (32, 1, 1, 1))
    inputs = (constants * np.ones((1, 7, 7, 6))).astype(np.float32)
    assert np.abs(normed(inputs, np.ones(6), np.zeros(6), 2)).max() < 1


@pytest.mark.parametrize("contrast", [1, 1 / 8, 1 / 32])
@pytest.mark.parametrize("shape", [DEEP, SMALL], ids=["pool", "no pool"])
def test_even_contrast_is_the_same_function(shape, contrast):
    bit = bit_of(shape)
    images = smooth(contrast, size=bit.architecture.image_size)
    graph = lower(bit, [lowering.even_contrast, lowering.integer_norm])
    assert_close(run(graph, images), network.build(bit)(images).numpy(), 2e-3)
    assert sum(operator.output.name.endswith("/contrast/even") for operator in graph.operators) == 1


def test_even_contrast_keeps_epsilon_where_it_counts():
    # The first norm reads variances of about epsilon.
    bit, images = bit_of(SMALL), smooth(1 / 512, size=(16, 16))
    assert_close(run(lower(bit, [lowering.even_contrast]), images), network.build(bit)(images).numpy(), 0.03)


def test_even_contrast_is_finite_where_nothing_varies():
    bit, grey = bit_of(SMALL), np.full((1, 16, 16, 3), 127.5, np.float32)
    assert_close(run(lower(bit, [lowering.even_contrast]), grey), network.build(bit)(grey).numpy())


def test_no_contrast_is_evened_where_there_is_no_norm_or_no_root():
    bit = bit_of(SMALL).folded()
    nothing = bit.with_weights({**bit.weights, f"{ROOT}/kernel": 0 * bit.weights[f"{ROOT}/kernel"]})
    for each in (frozen(bit, bit.norms[:1]), nothing):
        assert len(lower(each, [lowering.even_contrast]).operators) == len(lower(each).operators)


@pytest.mark.parametrize("shape", [PUBLISHED, SMALL], ids=["published", "small"])
def test_frozen_norms_are_the_network_and_leave_no_statistics(shape):
    bit = frozen(bit_of(shape))
    pixels, graph = pixels_of(bit), lower(bit)
    assert_close(run(graph, pixels), network.build(bit)(pixels).numpy())
    # The features' mean alone. Norms that are alone behind a convolution have gone into it.
    assert sum(operator.type == "MEAN" for operator in graph.operators) == 1
    scaled = {operator.output.name for operator in graph.operators if operator.type == "DEPTHWISE_CONV_2D"}
    shortcut = {unit.norm("a") for unit in bit.units} | {"resnet/group_norm"}
    if not bit.architecture.pool:
        shortcut.remove("resnet/block1/unit01/a/group_norm")  # which reads the root
    assert scaled == {f"{MODEL}/{path}" for path in shortcut}


def test_frozen_norms_beside_exact_ones_are_the_network():
    bit = bit_of(SMALL)
    for norms in (bit.inner_norms, bit.norms[:4], bit.norms[-3:]):
        some = frozen(bit, norms)
        pixels = pixels_of(some)
        assert_close(run(lower(some), pixels), network.build(some)(pixels).numpy())


def test_frozen_norms_go_into_packed_roots_and_winograds_tiles(monkeypatch):
    monkeypatch.setattr(winograd, "CHANNELS", 1)
    for shape, size in ((PUBLISHED, (64, 64)), ({**PUBLISHED, "pool": False}, (32, 32))):
        bit = frozen(bit_of({**shape, "image_size": size}))
        pixels = pixels_of(bit)
        graph = lower(bit, [lowering.packed_root, winograd.winograd])
        assert_close(run(graph, pixels), network.build(bit)(pixels).numpy())
        assert any(operator.type == "RELU" for operator in graph.operators)  # behind tiles


def frozen(bit, norms=None):
    """The folded `bit` with these norms, or all, divided by a constant that keeps activations in range."""
    return bit.folded().with_weights(bit.folded().weights, frozen_norms=dict.fromkeys(norms or bit.norms, 16.0))


# Names


def test_tensors_bear_bits_names():
    bit = bit_of(SMALL)
    names = {operator.output.name for operator in lower(bit).operators}
    for path in (convolution.path for convolution in bit.convolutions):
        assert f"{MODEL}/{path}/conv" in names
    for norm in ("resnet/block1/unit01/a/group_norm", "resnet/group_norm"):
        assert f"{MODEL}/{norm}/shifted" in names
    assert f"{MODEL}/{ROOT}/conv" in names and "logits" in names
    assert len(names) == len(lower(bit).operators)
