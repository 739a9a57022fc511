"""The Keras network against BiT's definition, written anew in NumPy, and against SavedModels of plain tf.nn."""

from dataclasses import asdict

import numpy as np
import pytest
import tensorflow as tf
from numpy.lib.stride_tricks import sliding_window_view

from benchmarks.hub import HubModule
from bitlite.backbones.backbone import fetch
from bitlite.bit import network
from bitlite.bit.names import HEAD
from bitlite.bit.shapes import BIT_TINY, Shape
from bitlite.bit.weights import standardize, untrained
from bitlite.workflow.params import Backbone

PUBLISHED = {"filters": 32, "units": (1, 2), "groups": 32, "root": 7, "pool": True}
TINY = {**asdict(BIT_TINY), "units": (1, 2)}
SMALL = {"filters": 8, "units": (1, 2), "groups": 4, "root": 3, "pool": False, "image_size": (16, 16)}


def bit_of(shape, seed=0, **changes):
    """A BiT with random weights also where a fresh one has ones and zeros, and with kernels of other than mean 0."""
    bit = untrained("bit-test", Shape(**{**shape, **changes}), seed=seed)
    bit = bit.with_head(("a", "b", "c", "d", "e"), bit.architecture.image_size)
    random = np.random.default_rng(seed + 1)

    def lively(value):
        return (value + 0.3 * random.standard_normal(value.shape) + 0.1).astype(np.float32)

    return bit.with_weights({name: lively(value) for name, value in bit.weights.items()})


def pixels_of(bit, count=2):
    return np.random.default_rng(9).integers(256, size=(count, *bit.architecture.image_size, 3)).astype(np.float32)


def assert_close(actual, expected, tolerance=1e-4):
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


# BiT in NumPy, float64: arXiv:1912.11370 and the constants of google-research/big_transfer.


def std_conv(x, kernel, stride=1):
    kernel = kernel.astype(np.float64)
    kernel = (kernel - kernel.mean((0, 1, 2))) / np.sqrt(kernel.var((0, 1, 2)) + 1e-10)
    side = len(kernel)
    windows = sliding_window_view(padded(x, side // 2), (side, side), axis=(1, 2))[:, ::stride, ::stride]
    return np.tensordot(windows, kernel, axes=([3, 4, 5], [2, 0, 1]))


def padded(x, by):
    return np.pad(x, ((0, 0), (by, by), (by, by), (0, 0)))


def group_norm(x, gamma, beta, groups):
    batch, height, width, channels = x.shape
    grouped = x.astype(np.float64).reshape(batch, height, width, groups, channels // groups)
    mean, variance = grouped.mean((1, 2, 4), keepdims=True), grouped.var((1, 2, 4), keepdims=True)
    return ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * gamma + beta


def forward(weights, pixels, *, units, groups, pool, **_):
    def kernel(path):
        return weights[f"resnet/{path}/standardized_conv2d/kernel"]

    def norm_relu(x, path):
        return np.maximum(group_norm(x, weights[f"{path}/gamma"], weights[f"{path}/beta"], groups), 0)

    x = std_conv(pixels.astype(np.float64) / 127.5 - 1, kernel("root_block"), stride=2)
    if pool:
        x = sliding_window_view(padded(x, 1), (3, 3), axis=(1, 2))[:, ::2, ::2].max((4, 5))
    for block, count in enumerate(units, start=1):
        for unit in range(1, count + 1):
            path = f"block{block}/unit{unit:02d}"
            stride = 2 if unit == 1 and block > 1 else 1
            y = norm_relu(x, f"resnet/{path}/a/group_norm")
            if unit == 1:
                x = std_conv(y, kernel(f"{path}/a/proj"), stride)
            y = norm_relu(std_conv(y, kernel(f"{path}/a")), f"resnet/{path}/b/group_norm")
            y = norm_relu(std_conv(y, kernel(f"{path}/b"), stride), f"resnet/{path}/c/group_norm")
            x = x + std_conv(y, kernel(f"{path}/c"))
    x = norm_relu(x, "resnet/group_norm").mean((1, 2))
    return x @ weights["resnet/head/conv2d/kernel"][0, 0] + weights["resnet/head/conv2d/bias"]


@pytest.mark.parametrize(
    "shape",
    [
        {**PUBLISHED, "image_size": (48, 20)},
        {**PUBLISHED, "image_size": (33, 29)},
        TINY,
        {**TINY, "image_size": (17, 30)},
    ],
    ids=["published", "published-odd", "tiny", "tiny-odd"],
)
def test_network_is_bit(shape):
    bit = bit_of(shape)
    pixels = pixels_of(bit)
    logits = network.build(bit)(pixels).numpy()
    assert_close(logits, forward(bit.weights, pixels, **shape))
    assert np.ptp(logits, axis=0).max() > 0.01  # or the images would not matter


# What is published: networks of their real size, as .npz and as TF Hub's modules.


NETWORKS = {
    "bit-m-r50x1": {**PUBLISHED, "filters": 64, "units": (3, 4, 6, 3)},
    "as wide as x3": {**PUBLISHED, "filters": 192, "units": (1, 1, 1, 1)},
}


@pytest.fixture(scope="module", params=NETWORKS)
def saved(request, tmp_path_factory):
    """A BiT by name that a SavedModel holds: its directory, and its own function of pixels in 0..255."""
    bit = bit_of(NETWORKS[request.param], image_size=(224, 224))
    module, root = HubModule(bit), tf.train.Checkpoint()
    root.variables = list(module.variables)
    directory = str(tmp_path_factory.mktemp("saved"))
    tf.saved_model.save(root, directory, signatures=module.__call__)
    signature = tf.saved_model.load(directory).signatures["serving_default"]
    return request.param, bit, directory, lambda pixels: signature(tf.constant(pixels / 255))["output_0"].numpy()


@pytest.fixture(scope="module")
def backbone(saved):
    """What is fetched of it, with the head that fetching leaves out."""
    name, bit, directory, _ = saved
    fetched = fetch(Backbone(name=name, source=directory))
    head = {key: value for key, value in bit.weights.items() if key.startswith(HEAD)}
    return fetched.with_weights({**fetched.weights, **head}, labels=bit.architecture.labels)


def test_npz_and_saved_model_give_the_same_weights(saved, backbone, tmp_path):
    name, bit, _, _ = saved
    np.savez(tmp_path / "bit.npz", **bit.weights)
    from_npz = fetch(Backbone(name=name, source=str(tmp_path / "bit.npz")))
    assert from_npz.weights.keys() == {key for key in backbone.weights if not key.startswith(HEAD)}
    assert all(np.array_equal(value, backbone.weights[key]) for key, value in from_npz.weights.items())


@pytest.mark.parametrize("image_size", [(128, 128), (224, 224), (96, 160)])
def test_network_is_the_saved_model_s_signature(saved, backbone, image_size):
    *_, signature = saved
    resized = backbone.with_weights(backbone.weights, image_size=image_size)
    pixels = pixels_of(resized, count=1)
    assert_close(network.build(resized)(pixels).numpy(), signature(pixels))


def test_saved_model_is_bit(saved):
    name, bit, _, signature = saved
    pixels = pixels_of(bit.with_weights(bit.weights, image_size=(96, 160)), count=1)
    assert_close(signature(pixels), forward(bit.weights, pixels, **NETWORKS[name]))


def test_folded_network_is_of_plain_convolutions():
    layers = network.build(bit_of(SMALL).folded()).layers
    assert {type(layer) for layer in layers if layer.name.endswith("conv2d")} == {tf.keras.layers.Conv2D}


@pytest.mark.parametrize("scale", [1, 1e-5])
def test_standardisation_has_bits_epsilon(scale):
    # At the smaller scale epsilon is as large as the variance.
    kernel = (scale * np.random.default_rng(0).normal(0.5, 1, (3, 3, 4, 6))).astype(np.float32)
    image = np.random.default_rng(1).normal(size=(1, 5, 7, 4)).astype(np.float32)
    layer = network.StdConv2D(6, 3, padding="same", use_bias=False)
    layer.build(image.shape)
    layer.set_weights([kernel])
    expected = std_conv(image, kernel)
    assert_close(layer(image).numpy(), expected)
    assert_close(tf.nn.conv2d(image, standardize(kernel), 1, "SAME").numpy(), expected)


@pytest.mark.parametrize("groups", [1, 2, 8, 12, 24])
@pytest.mark.parametrize("scale", [1, 1e-3])
def test_group_norm(groups, scale):
    # At the smaller scale epsilon is larger than the variance.
    random = np.random.default_rng(groups)
    inputs = (scale * random.normal(random.normal(size=24), 1, (3, 5, 4, 24))).astype(np.float32)
    layer = network.GroupNorm(groups)
    layer(inputs)
    gamma, beta = random.normal(1, 0.5, 24), random.normal(size=24)
    layer.set_weights([gamma, beta])
    assert_close(layer(inputs).numpy(), group_norm(inputs, gamma, beta, groups))


@pytest.mark.parametrize("deviation", [1e-2, 1, 1e2])
def test_group_norm_whose_mean_is_ten_deviations(deviation):
    random = np.random.default_rng(0)
    inputs = (deviation * random.normal(10, 1, (3, 9, 7, 24))).astype(np.float32)
    assert_close(network.GroupNorm(8)(inputs).numpy(), group_norm(inputs, np.ones(24), np.zeros(24), 8))


def test_group_norm_of_constants_is_finite():
    # E[x^2] - E[x]^2 rounds to less than -epsilon for some of them.
    constants = np.random.default_rng(0).uniform(500, 1500, (32, 1, 1, 1))
    inputs = (constants * np.ones((1, 7, 7, 6))).astype(np.float32)
    assert np.abs(network.GroupNorm(2)(inputs).numpy()).max() < 1


def test_pixels_are_normalised_to_plus_minus_one():
    model = network.build(bit_of(SMALL))
    normalize = tf.keras.Model(model.input, model.get_layer("normalize").output)
    pixels = np.zeros((3, 16, 16, 3), np.float32)
    pixels[1], pixels[2] = 127.5, 255
    assert [np.unique(image).tolist() for image in normalize(pixels).numpy()] == [[-1], [0], [1]]
    (root,) = model.get_layer("resnet/root_block/standardized_conv2d/pad").inbound_nodes
    assert root.inbound_layers.name == "normalize"


def test_output_sizes_and_groups_are_the_networks():
    bit = bit_of(PUBLISHED, image_size=(45, 38))
    model = network.build(bit)
    kernels = [layer for layer in model.layers if isinstance(layer, tf.keras.layers.Conv2D)]
    assert {conv.path: conv.size for conv in bit.convolutions} == {
        layer.name: layer.output_shape[1:3] for layer in kernels
    }
    assert bit.macs == sum(np.prod(layer.output_shape[1:3]) * layer.kernel.shape.num_elements() for layer in kernels)
    assert {layer.groups for layer in model.layers if isinstance(layer, network.GroupNorm)} == {32}


def test_variables_bear_bits_names():
    expected = {"resnet/root_block/standardized_conv2d/kernel", "resnet/head/conv2d/kernel", "resnet/head/conv2d/bias"}
    for unit in ("block1/unit01", "block2/unit01", "block2/unit02"):
        expected |= {f"resnet/{unit}/{conv}/standardized_conv2d/kernel" for conv in "abc"}
        expected |= {f"resnet/{unit}/{norm}/group_norm/{part}" for norm in "abc" for part in ("gamma", "beta")}
    expected |= {f"resnet/{block}/unit01/a/proj/standardized_conv2d/kernel" for block in ("block1", "block2")}
    expected |= {"resnet/group_norm/gamma", "resnet/group_norm/beta"}
    names = [network.name_of(variable) for variable in network.build(bit_of(SMALL)).weights]
    assert sorted(names) == sorted(expected)


def test_weights_round_trip():
    bit, other = bit_of(SMALL), bit_of(SMALL, seed=5)
    model = network.build(bit)
    pixels = pixels_of(bit)
    before = model(pixels).numpy()
    network.set_weights(model, other.weights)
    read = network.get_weights(model)
    assert read.keys() == other.weights.keys()
    assert all(np.array_equal(read[name], value) for name, value in other.weights.items())
    assert not np.allclose(model(pixels).numpy(), before, rtol=0.01)
    network.set_weights(model, bit.weights)
    assert np.array_equal(model(pixels).numpy(), before)


def test_set_trainable():
    bit = bit_of(SMALL)
    model = network.build(bit)
    head = {f"{HEAD}/kernel", f"{HEAD}/bias"}
    last_block = {name for name in bit.weights if name.startswith("resnet/block2/")}
    last_block |= {"resnet/group_norm/gamma", "resnet/group_norm/beta"} | head
    for part, expected in {"head": head, "last_block": last_block, "all": set(bit.weights)}.items():
        network.set_trainable(model, part)
        assert {network.name_of(variable) for variable in model.trainable_variables} == expected
