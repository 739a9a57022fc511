"""Quantization that is learnt: the grid of the weights, the ranges of the activations, and what files make of both."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils
from test_norms import norm_free
from test_pruning import equal, recovered, run_of_noise
from test_tflite import SCHEMES, bit_of, confident, photos

from bitlite.bit import network
from bitlite.bit.names import HEAD
from bitlite.bit.weights import Bit
from bitlite.litert import runtime
from bitlite.litert.operators import convolutions
from bitlite.pruning.methods import prune
from bitlite.pruning.quantizing import held
from bitlite.pruning.recovery import recover
from bitlite.tflite import calibration, conversion, scaling
from bitlite.tflite import convolutions as convolutions_in
from bitlite.tflite.lowering import lower
from bitlite.workflow.params import NM, Combine, Magnitude, Quantize

SIZE = (16, 16)
NORMS = ("exact", "inner", "all")
SPARSE = Magnitude(method="magnitude", sparsity=0.6, steps=1)


def quantize(**keys):
    return Quantize(method="quantize", **{"steps": 3, "distillation": 0.0} | keys)


def sample():
    images = photos(32, SIZE, seed=2).astype(np.float32)
    return [(images, np.eye(3, dtype=np.float32)[np.arange(32) % 3])]


def whole_bit(norms="exact", **shape):
    """A BiT whose convolutions are large enough for int4, with norms frozen as asked for."""
    bit = confident(bit_of(**{"filters": 16, "units": (1, 1), "labels": 3, "size": SIZE} | shape))
    return bit if norms == "exact" else prune(bit, norm_free(norms), sample)


@pytest.fixture(scope="module", params=NORMS)
def bit(request):
    return whole_bit(request.param)


@pytest.fixture(scope="module")
def exact():
    return whole_bit()


def on_grid(kernel, bits):
    """By NumPy: the rounded kernel as integers, and the scale of each output."""
    scale = np.abs(kernel.astype(np.float64)).max(axis=(0, 1, 2)) / {8: 127, 4: 7}[bits]
    return np.rint(kernel / np.where(scale == 0, 1, scale)), scale


# Weights


@pytest.mark.parametrize("bits", [8, 4])
def test_rounded_kernels_are_those_of_numpy(bits):
    kernel = np.random.default_rng(0).standard_normal((3, 3, 5, 7)).astype(np.float32)
    kernel[..., 2] = 0
    kernel[..., 3] *= 1e-3
    integers, scale = on_grid(kernel, bits)
    found = network.rounded(kernel, bits).numpy()
    np.testing.assert_allclose(found, integers * scale, rtol=1e-6, atol=0)
    assert len(np.unique(integers)) > (100 if bits == 8 else 14) and np.any(found != kernel)


def dequantized(content):
    """The kernels of a file's convolutions in running order, [outputs, ...], and how many bits each has."""
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    for operator in convolutions(model):
        tensor = model.subgraphs[0].tensors[operator.inputs[1]]
        type = flatbuffer_utils.type_to_name(tensor.type)
        raw, count = np.asarray(model.buffers[tensor.buffer].data, np.uint8), int(np.prod(tensor.shape))
        match type:
            case "FLOAT32":
                yield raw.view(np.float32).reshape(tensor.shape), 32
                continue
            case "INT8":
                integers = raw.view(np.int8)
            case "INT4":
                halves = np.stack([raw & 15, raw >> 4], axis=1).ravel()[:count].astype(np.int8)
                integers = np.where(halves > 7, halves - 16, halves)
        scale = np.asarray(tensor.quantization.scale).reshape(-1, *[1] * (len(tensor.shape) - 1))
        yield integers.reshape(tensor.shape) * scale, 4 if type == "INT4" else 8


def written(scheme, bit):
    """The kernels in a file of a scheme, beside those in the float32 file of the same graph."""
    entry = SCHEMES[scheme]
    float32 = conversion.to_file(lower(bit, conversion.SCHEMES[scheme].rewrites(entry)))
    content = conversion.convert(bit, entry, photos(8, SIZE))
    return [(*held, given) for held, (given, _) in zip(dequantized(content), dequantized(float32), strict=True)]


@pytest.mark.parametrize(
    ("scheme", "keys"),
    [
        ("int8", {}),
        ("int8_mixed", {}),
        ("dynamic", {}),
        ("int16x8", {}),
        ("int4", {"weights": 4, "activations": "float"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_trained_kernels_are_written_without_error(scheme, keys, bit):
    """Frozen norms and powers of two, which go into kernels, leave them on their grid."""
    found = written(scheme, recovered(bit, quantize(**keys)))
    for kernel, _, given in found:
        np.testing.assert_allclose(kernel, given, rtol=1e-6, atol=0)
    assert {bits for _, bits, _ in found} - {32} == ({4, 8} if scheme == "int4" else {8})
    assert any(np.abs(kernel - given).max() > 1e-3 * np.abs(given).max() for kernel, _, given in written(scheme, bit))


def test_four_bits_go_where_the_scheme_int4_has_them(exact):
    rounded = prune(exact, quantize(weights=4, activations="float"), sample)
    assert rounded.architecture == exact.architecture and rounded.weights.keys() == exact.weights.keys()
    # By tflite/dense.py those of 1x1, and of 3x3 over few pixels, if they have 1024 weights or more.
    few = {"block1/unit01/a/proj", "block1/unit01/c", "block2/unit01/b", "block2/unit01/c"}
    few |= {"block2/unit01/a", "block2/unit01/a/proj"}
    for name, kernel in exact.kernels.items():
        path = name.removeprefix("resnet/").removesuffix("/standardized_conv2d/kernel")
        integers, scale = on_grid(kernel, 4 if path in few else 8)
        np.testing.assert_allclose(rounded.weights[name], integers * scale, rtol=1e-6, atol=0)


@pytest.mark.parametrize("weights", [8, 4])
@pytest.mark.parametrize("part", [SPARSE, NM(method="n_m", steps=1)], ids=["magnitude", "n_m"])
def test_zeros_stay(part, weights, exact):
    last = quantize(weights=weights, learning_rate=0.01, steps=4)
    found = recovered(exact, Combine(method="combine", parts=[part, last]))
    before = recovered(exact, part)
    for name, kernel in before.kernels.items():
        assert np.all(found.weights[name][kernel == 0] == 0)
        assert not np.array_equal(found.weights[name], kernel)
    assert before.sparsity <= found.sparsity < before.sparsity + (0.02 if weights == 8 else 0.2)


def test_training_moves_weights_by_less_than_a_step(exact):
    """From where they were before they were rounded: of small steps most are lost to the grid, but not to the weights
    beneath it."""
    entry = quantize(weights=4, learning_rate=0.01, steps=4)
    at_once, found = prune(exact, entry, sample), recovered(exact, entry)
    moved = [np.mean(found.weights[name] != at_once.weights[name]) for name in exact.kernels]
    assert all(each > 0 for each in moved)
    name = "resnet/block2/unit01/b/standardized_conv2d/kernel"
    integers, scale = on_grid(exact.weights[name], 4)
    again = np.rint(found.weights[name] / np.abs(found.weights[name]).max(axis=(0, 1, 2)) * 7)
    assert 0 < np.mean(again != integers) < 0.5 and np.abs(again - integers).max() <= 2


# Ranges


def test_values_are_rounded_as_numpy_would():
    layer = network.Int8(name="x/range")
    values = np.random.default_rng(0).normal(0, 2, (2, 9, 9, 3)).astype(np.float32)
    layer(values)
    layer.set_weights([np.float32(-1.5), np.float32(3.1)])
    scale = 4.6 / 255
    zero = np.rint(-128 + 1.5 / scale)
    expected = (np.clip(np.rint(values / scale) + zero, -128, 127) - zero) * scale
    np.testing.assert_allclose(layer(values).numpy(), expected, atol=1e-5)
    with tf.GradientTape() as tape:
        tape.watch(inputs := tf.constant(values))
        outputs = layer(inputs)
    within = (values > (-128 - zero) * scale) & (values < (127 - zero) * scale)
    assert np.array_equal(tape.gradient(outputs, inputs).numpy(), within)


def test_ranges_are_those_of_the_least_error_on_training_images(exact):
    found, ((pixels, _),) = prune(exact, quantize(), sample), sample()
    rounded = found.with_weights({name: found.weights[name] for name in exact.weights})
    model = network.build(rounded)
    relu = "resnet/block2/unit01/a/group_norm/relu"
    for name in ("resnet/block2/unit01/b/standardized_conv2d", relu, "resnet/features", HEAD):
        values = tf.keras.Model(model.input, model.get_layer(name).output)(pixels).numpy()
        ends = np.array([min(0, values.min()), max(0, values.max())])
        share = np.divide(found.range(name), ends, where=ends != 0, out=np.ones(2)).min()

        def error(share, ends=ends, values=values):
            scale = share * np.ptp(ends) / 255
            zero = np.rint(-128 - share * ends[0] / scale)
            return np.mean((values - (np.clip(np.rint(values / scale) + zero, -128, 127) - zero) * scale) ** 2)

        assert found.range(name) == pytest.approx(share * ends, rel=1e-4)
        assert error(share) <= 1.001 * min(error(each) for each in np.linspace(0.4, 1, 13))
    assert found.range(relu)[0] == 0 and found.range("normalize") == pytest.approx((-1.002, 1.002))


def test_without_int8_activations_there_are_no_ranges(exact):
    found = recovered(exact, quantize(activations="float"))
    assert found.weights.keys() == exact.weights.keys()


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("norms", NORMS)
def test_every_range_is_that_of_a_tensor_in_the_file(norms, pool):
    """A convolution that takes a frozen norm in has just one output: the norm's."""
    bit = prune(whole_bit(norms, pool=pool, units=(1, 2)), quantize(), sample)
    ranges = calibration.trained(lower(bit))
    assert len(ranges) == len(held(bit)) == len({name for name in bit.weights if name.endswith("/least")})
    # Three convolutions a unit and three norms with their ReLUs, a projection a block, the root, the head, and what
    # these two read.
    folded = {"exact": 0, "inner": 2 * 3, "all": 2 * 3 + (not pool)}[norms]
    assert len(ranges) == 3 * 6 + 2 + 4 - folded


@pytest.fixture(scope="module")
def trained(bit):
    return recovered(bit, quantize(steps=8, learning_rate=0.001))


def scales(content):
    """Scale and zero point of each integer activation of a file, by its name in the float32 file."""
    interpreter = Interpreter(model_content=content)
    return {
        each["name"].removesuffix("_quantized"): each["quantization"]
        for each in interpreter.get_tensor_details()
        if each["dtype"] == np.int8 and each["quantization"][0]
    }


@pytest.mark.parametrize("scheme", ["int8", "int8_mixed"])
def test_the_file_holds_the_ranges_of_training(scheme, trained):
    found = scales(conversion.convert(trained, SCHEMES[scheme], photos(8, SIZE)))
    powers = scaling.powers(trained)
    paths = {name.partition("/range/")[0] for name in trained.weights if "/range/" in name}
    convolutions = [path for path in paths if path.endswith("conv2d")]
    assert len(convolutions) > 3
    for path in convolutions:
        least, largest = (end * powers.get(path, 1) for end in trained.range(path))
        scale, zero_point = found[f"bit/{path}/conv"]
        assert scale == pytest.approx((largest - least) / 255, rel=1e-5)
        assert zero_point == pytest.approx(-128 - least / scale, abs=0.51)
    # What convolutions read.
    for name, tensor in (("resnet/features", "bit/resnet/features/mean"), ("normalize", "bit/normalize/add")):
        least, largest = trained.range(name)
        assert found[tensor][0] == pytest.approx((largest - least) / 255, rel=1e-5)


def test_what_convolutions_give_in_the_file_is_what_they_gave_in_training(exact):
    """To the very integer, but where float32 sums that end half way between two of them go the other way."""
    bit, images = recovered(exact, quantize()), photos(4, SIZE, seed=4)
    content = conversion.convert(bit, SCHEMES["int8_mixed"], photos(8, SIZE))
    layers, powers = convolutions_in.find(content, bit.paths), scaling.powers(bit)
    model = network.build(bit)
    for path in bit.paths:
        given = [value(layers[path].output.number)[0] for value in convolutions_in.values(content, images)]
        expected = tf.keras.Model(model.input, model.get_layer(f"{path}/range").output)(images.astype(np.float32))
        least, largest = bit.range(path)
        steps = (np.stack(given) / powers.get(path, 1) - expected) / ((largest - least) / 255)
        assert np.mean(np.abs(steps) < 0.01) > 0.95 or path == HEAD


def error(one, other):
    return np.sqrt(np.mean((one - other) ** 2) / np.var(other, axis=0).mean())


@pytest.mark.parametrize(("scheme", "least"), [("int8_mixed", 2), ("int8", 1)])
def test_the_file_is_the_network_that_was_trained(scheme, least, bit, trained, tmp_path):
    """More so than a file whose rounding nothing foresaw is the network in float32."""
    images = photos(64, SIZE, seed=4)
    errors = []
    for name, each in (("foreseen", trained), ("not", bit)):
        path = tmp_path / name
        path.write_bytes(conversion.convert(each, SCHEMES[scheme], photos(32, SIZE, seed=2)))
        errors.append(error(runtime.logits(path, images), network.build(each)(images.astype(np.float32)).numpy()))
    assert least * errors[0] < errors[1]


# A model like any other


def test_comes_back_as_saved(exact, tmp_path):
    found = prune(exact, quantize(), sample)
    found.save(tmp_path / "bit")
    assert equal(Bit.load(tmp_path / "bit"), found)


def test_metrics_are_those_of_the_weights(exact):
    found = prune(exact, quantize(), sample)
    assert (found.parameters, found.macs) == (exact.parameters, exact.macs)
    assert found.paths == exact.paths and [unit.path for unit in found.units] == [unit.path for unit in exact.units]


def test_the_networks_own_outputs_are_rounded(exact):
    """So metrics tell what ships."""
    found, images = prune(exact, quantize(), sample), photos(8, SIZE).astype(np.float32)
    integers = network.build(found)(images).numpy() / ((found.range(HEAD)[1] - found.range(HEAD)[0]) / 255)
    np.testing.assert_allclose(integers, np.rint(integers), atol=1e-3)


def test_precision_of_training_does_not_touch_what_is_rounded(exact):
    with network.precision("mixed"):
        found = recovered(exact, quantize())
    for name, kernel in found.kernels.items():
        integers, scale = on_grid(kernel, 8)
        np.testing.assert_allclose(kernel, integers * scale, rtol=1e-6, atol=0, err_msg=name)
    assert np.all(np.isfinite(network.build(found)(photos(4, SIZE).astype(np.float32)).numpy()))


def test_recovery_learns_what_rounding_takes(exact):
    """The teacher's outputs come nearer by training than by rounding alone, on the images that were trained on."""
    run = run_of_noise()
    entry = quantize(weights=4, steps=60, learning_rate=0.002, distillation=1.0, batch_size=12)
    at_once = prune(exact, entry, sample)
    found = recover(at_once, exact, entry, run)
    pixels = run.train.pixels.astype(np.float32)
    teacher, before, after = (tf.nn.softmax(network.build(each)(pixels)).numpy() for each in (exact, at_once, found))
    assert np.abs(after - teacher).mean() < 0.5 * np.abs(before - teacher).mean()
