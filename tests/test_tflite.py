import hashlib
import subprocess
import sys
from collections import Counter

import flatbuffers
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils
from PIL import Image

from bitlite.bit import network
from bitlite.bit.names import HEAD, ROOT
from bitlite.bit.shapes import Shape
from bitlite.bit.weights import untrained
from bitlite.litert import runtime, timing
from bitlite.litert.operators import convolutions
from bitlite.litert.signature import signature
from bitlite.pruning.freezing import frozen
from bitlite.tflite import calibration, conversion, flatbuffer, mixed, quantizer, schemes
from bitlite.tflite.convolutions import find, signal_to_noise
from bitlite.tflite.graph import to_file
from bitlite.tflite.lowering import lower
from bitlite.workflow.params import Int4, Int8Mixed, Integers, Mixed, Uncalibrated

SCHEMES = {
    **{name: Uncalibrated(scheme=name) for name in ("float32", "float16", "dynamic")},
    "int4": Int4(scheme="int4"),
    **{name: Integers(scheme=name) for name in ("int8", "int16x8")},
    "int8_mixed": Int8Mixed(scheme="int8_mixed"),
    "mixed": Mixed(scheme="mixed"),
}
SIZE = (24, 16)


def bit_of(filters=32, units=(1, 1), groups=8, root=3, pool=False, size=SIZE, labels=10, zeros=0.1):
    """A BiT of random weights, as unlike a fresh one's as training leaves them, a share of its kernels `zeros`."""
    bit = untrained(
        "bit-test", Shape(filters=filters, units=units, groups=groups, root=root, pool=pool, image_size=size), seed=0
    )
    bit = bit.with_head(tuple(f"class {i}" for i in range(labels)), size).folded()
    random = np.random.default_rng(1)

    def lively(name, value):
        value = value + 0.2 * random.standard_normal(value.shape)
        if name.endswith("/kernel"):
            value *= random.random(value.shape) >= zeros
        return value.astype(np.float32)

    return bit.with_weights({name: lively(name, value) for name, value in bit.weights.items()})


def confident(bit):
    """`bit` with the logits of a trained model, which differ from image to image more than from class to class."""
    logits = network.build(bit)(photos(48, bit.architecture.image_size).astype(np.float32)).numpy()
    scale = 3 / logits.std(axis=0)
    kernel, bias = bit.weights[f"{HEAD}/kernel"] * scale, (bit.weights[f"{HEAD}/bias"] - logits.mean(axis=0)) * scale
    return bit.with_weights({**bit.weights, f"{HEAD}/kernel": kernel, f"{HEAD}/bias": bias})


def photos(count, size=SIZE, seed=0):
    """Images that differ as photos do: a few random colours, blown up smoothly."""
    random = np.random.default_rng(seed)
    seeds = random.integers(256, size=(count, 5, 5, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(each).resize(size[::-1], Image.Resampling.BICUBIC)) for each in seeds])


def norm_free(bit):
    """`bit` with all norms frozen."""
    images = photos(16, bit.architecture.image_size, seed=2).astype(np.float32)
    return frozen(bit, bit.norms, [(images, images)])


def types_of(bit):
    """For the scheme mixed: int4 where it can be, but float32 in the first of these and int8 in the last."""
    int4 = [path for path in bit.paths if path in mixed.dense_layers(bit)]
    return dict.fromkeys(bit.paths, "int8") | dict.fromkeys(int4[1:-1], "int4") | dict.fromkeys(int4[:1], "float32")


def made(entry, bit):
    """The file of an entry, of the types above if it chooses types."""
    return conversion.convert(bit, entry, photos(16, bit.architecture.image_size, seed=1), types=types_of(bit))


def converted(scheme, bit, **keys):
    return made(SCHEMES[scheme].model_copy(update=keys), bit)


@pytest.fixture(scope="module")
def bit():
    return bit_of()


@pytest.fixture(scope="module")
def files(bit, tmp_path_factory):
    """The path of one model in each scheme."""
    directory = tmp_path_factory.mktemp("tflite")
    for scheme in SCHEMES:
        (directory / scheme).write_bytes(converted(scheme, bit))
    return {scheme: directory / scheme for scheme in SCHEMES}


def graph(path):
    """Tensors of the only subgraph as (type, shape), and how often each operator occurs."""
    model = flatbuffer_utils.read_model(str(path))
    (subgraph,) = model.subgraphs
    tensors = [
        (flatbuffer_utils.type_to_name(tensor.type), tuple(() if tensor.shape is None else tensor.shape))
        for tensor in subgraph.tensors
    ]
    return tensors, Counter(flatbuffer_utils.opcode_to_name(model, o.opcodeIndex) for o in subgraph.operators)


# Logits


@pytest.mark.parametrize(
    "shape",
    [
        {"filters": 16, "groups": 4, "size": (24, 16)},
        {"filters": 16, "units": (1, 2), "groups": 16, "root": 7, "pool": True, "size": (45, 38)},
    ],
    ids=["small", "published"],
)
def test_float32_file_is_the_keras_model(shape, tmp_path):
    bit = bit_of(**shape)
    bit = bit.with_weights(bit.weights, standardized=True)
    pixels = np.random.default_rng(2).integers(256, size=(4, *shape["size"], 3), dtype=np.uint8)
    expected = network.build(bit)(pixels.astype(np.float32)).numpy()
    (tmp_path / "model").write_bytes(converted("float32", bit))
    classifier = runtime.Classifier(tmp_path / "model")
    assert classifier.image_size == shape["size"]
    logits = classifier.logits(pixels)
    assert (logits.shape, logits.dtype) == (expected.shape, np.float32)
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()  # or the images would not matter


@pytest.mark.parametrize(
    ("scheme", "bound"),
    # float16 keeps 11 bits of every weight, int8 8 bits: errors of 2^-12 and 2^-9 of the largest weight of a channel,
    # which the layers add up. Full integers round every activation as well, to 1/255 of its range over all images, and
    # cut off what goes beyond that range.
    [
        ("float32", 1e-4), ("float16", 0.01), ("dynamic", 0.1), ("int8", 0.5), ("int8_mixed", 0.25),
        ("int16x8", 0.25),
    ],
)  # fmt: skip
@pytest.mark.parametrize("norms", ["exact", "frozen"])
def test_logits_follow_the_keras_model(scheme, bound, norms, bit, files, tmp_path):
    images, path = photos(48), files[scheme]
    if norms == "frozen":
        bit, path = norm_free(bit), tmp_path / scheme
        path.write_bytes(converted(scheme, bit))
    expected = network.build(bit)(images.astype(np.float32)).numpy()
    error = runtime.Classifier(path).logits(images) - expected
    # Against what the images change, not against what all logits have in common.
    assert np.sqrt(np.mean(error**2)) < bound * expected.std(axis=0).mean()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_softmax_gives_the_probabilities_of_the_logits(scheme, bit, tmp_path):
    sure, images = confident(bit), photos(48)
    entry = SCHEMES[scheme].model_copy(update={"softmax": True})
    (tmp_path / "logits").write_bytes(converted(scheme, sure))
    (tmp_path / "softmax").write_bytes(made(entry, sure))
    logits, found = (runtime.logits(tmp_path / name, images) for name in ("logits", "softmax"))
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    assert expected.min() < 1 / 512 and expected.max() > 0.9 and np.ptp(expected, axis=0).max() > 0.3
    # uint8 has steps of 1/256, and the softmax of int8 is rounded before its sum is.
    assert found == pytest.approx(expected, abs={"int8": 1.5 / 256, "int16x8": 1e-3}.get(scheme, 1e-5))
    pixels, output = signature(tmp_path / "softmax")
    assert (output.name, output.dtype) == ("probabilities", pixels.dtype)
    assert (output.scale, output.zero_point) == ((1 / 256, 0) if scheme == "int8" else (0, 0))
    assert signature(tmp_path / "logits")[1].name == "logits"


@pytest.mark.parametrize(
    ("scheme", "size", "packed"),
    [
        *((scheme, (24, 16), True) for scheme in ("dynamic", "int8", "int8_mixed")),
        *((scheme, (24, 16), False) for scheme in ("float32", "float16", "int16x8")),
        ("int8", (24, 15), False),
    ],
)
def test_large_roots_of_integers_take_packed_pixels(scheme, size, packed, tmp_path):
    bit, images = bit_of(root=7, pool=True, size=size), photos(48, size)
    (tmp_path / "model").write_bytes(converted(scheme, bit))
    assert ("CONCATENATION" in graph(tmp_path / "model")[1]) == packed
    expected = network.build(bit)(images.astype(np.float32)).numpy()
    error = runtime.Classifier(tmp_path / "model").logits(images) - expected
    # A kernel off by a pixel, or channels in another order, give an error as large as the signal.
    assert np.sqrt(np.mean(error**2)) < 0.6 * expected.std(axis=0).mean()


@pytest.mark.parametrize(("scheme", "bound"), [("float32", 1e-4), ("float16", 0.01), ("dynamic", 0.1)])
def test_files_by_winograd_follow_the_keras_model(scheme, bound, tmp_path):
    bit, images = bit_of(filters=64, zeros=0), photos(48)
    (tmp_path / "model").write_bytes(conversion.convert(bit, Uncalibrated(scheme=scheme, winograd=True)))
    found = convolutions(flatbuffer_utils.read_model(str(tmp_path / "model")))
    # That of block1 becomes 16; block2 has but one of stride 2.
    assert len(found) == len(bit.convolutions) + 15
    expected = network.build(bit)(images.astype(np.float32)).numpy()
    error = runtime.Classifier(tmp_path / "model").logits(images) - expected
    assert np.sqrt(np.mean(error**2)) < bound * expected.std(axis=0).mean()


@pytest.mark.parametrize("scheme", ["float32", "dynamic"])
def test_winograd_does_not_touch_pruned_kernels(scheme):
    # Transformed, their zeros would be none.
    bit = bit_of(filters=64)
    assert conversion.convert(bit, Uncalibrated(scheme=scheme, winograd=True)) == converted(scheme, bit)


def in_int4(name):
    """The largest number that a weight of a convolution of `bit` becomes in int4 files; None if it stays float32."""
    # The root has fewer than 1,024 weights. The 3x3 of block1 gives 32 channels of 12 x 8 pixels, block2's 64 of 6 x 4.
    if "root" in name:
        return None
    return 127 if "block1/unit01/b/" in name else 7


def rounded(kernel, largest):
    """A kernel whose largest weight of each output channel is `largest` steps; as it is for None."""
    if not largest:
        return kernel
    scale = np.abs(kernel).max(axis=(0, 1, 2)) / largest
    return np.round(kernel / scale) * scale


@pytest.mark.parametrize(
    ("scheme", "largest", "bound"),
    # Activations are int8, as in the schemes dynamic and int8_mixed.
    [
        ("int4", lambda bit, name: in_int4(name), 0.1),
        ("mixed", lambda bit, name: {"float32": None, "int8": 127, "int4": 7}[types_of(bit)[name[:-7]]], 0.25),
    ],
)
def test_files_with_int4_are_the_keras_model_with_kernels_of_fifteen_values(scheme, largest, bound, bit, tmp_path):
    images = photos(48)
    kernels = {name: rounded(kernel, largest(bit, name)) for name, kernel in bit.kernels.items()}
    expected = network.build(bit.with_weights(bit.weights | kernels))(images.astype(np.float32)).numpy()
    (tmp_path / "model").write_bytes(converted(scheme, bit, rounding="nearest"))
    error = runtime.Classifier(tmp_path / "model").logits(images) - expected
    assert np.sqrt(np.mean(error**2)) < bound * expected.std(axis=0).mean()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_fresh_model_gives_logits_too(scheme, tmp_path):
    # Its betas and biases are all zeros, and so are its head and with it the right logits.
    size = (16, 16)
    bit = untrained("bit-test", Shape(filters=8, units=(1,), groups=4, root=3, pool=False, image_size=size), seed=0)
    bit = bit.with_head(("a", "b", "c"), size)
    (tmp_path / "model").write_bytes(converted(scheme, bit))
    logits = runtime.Classifier(tmp_path / "model").logits(photos(3, size))
    assert np.isfinite(logits).all() and np.abs(logits).max() < 0.05


def test_classifier_runs_on_threads(files, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "bitlite.litert.signature.Interpreter", lambda path, num_threads: asked.append(num_threads) or Interpreter(path)
    )
    images = photos(3)
    one, two = (runtime.Classifier(files["float32"], threads).logits(images) for threads in (1, 2))
    assert asked == [1, 2]
    assert np.abs(one - two).max() <= 1e-4 * np.abs(one).max()


def test_latencies_leave_out_the_warm_up(files, monkeypatch):
    classifier = runtime.Classifier(files["int8"])
    # Three runs of a minute each, then five of a second.
    ends = np.cumsum([60.0] * 3 + [1.0] * 5)
    clock = iter(np.column_stack([np.r_[0, ends[:-1]], ends]).ravel())  # begin and end of each
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    assert classifier.latencies(photos(1)[0], warmup_runs=3, runs=5) == pytest.approx([1000] * 5)


# Files


def test_float16_files_say_that_old_runtimes_can_not_make_their_weights_float32(files):
    model = flatbuffer_utils.read_model(str(files["float16"]))
    (code,) = [each for each in model.operatorCodes if each.builtinCode == schema.BuiltinOperator.DEQUANTIZE]
    assert code.version == 3


def test_only_float16_files_allow_sums_in_float16_as_tensorflow_says_it(files):
    pixels = tf.keras.Input((8, 8, 3))
    converter = tf.lite.TFLiteConverter.from_keras_model(tf.keras.Model(pixels, tf.keras.layers.Conv2D(4, 3)(pixels)))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    converter.target_spec._experimental_supported_accumulation_type = tf.float16
    name = "reduced_precision_support"
    expected = metadata_of(schema.ModelT.InitFromPackedBuf(converter.convert()))[name].rstrip(b"\0")
    said = {scheme: metadata_of(flatbuffer_utils.read_model(str(path))).get(name) for scheme, path in files.items()}
    assert said == {scheme: expected if scheme == "float16" else None for scheme in SCHEMES}


def metadata_of(model):
    return {each.name.decode(): bytes(model.buffers[each.buffer].data) for each in model.metadata}


def test_sizes(files):
    sizes = {scheme: path.stat().st_size for scheme, path in files.items()}
    assert sizes["float16"] < 0.6 * sizes["float32"]
    assert sizes["int4"] < sizes["mixed"] < sizes["dynamic"]
    for scheme in ("dynamic", "int8", "int8_mixed", "int16x8"):
        assert sizes["int4"] < 0.7 * sizes[scheme] and sizes[scheme] < 0.4 * sizes["float32"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_files_take_and_give_what_the_table_of_schemes_says(scheme, files):
    classifier = runtime.Classifier(files[scheme])
    assert classifier.input["dtype"] == classifier.output["dtype"] == np.dtype(schemes.SCHEMES[scheme].pixels)
    assert tuple(classifier.input["shape"]) == (1, *SIZE, 3) and tuple(classifier.output["shape"]) == (1, 10)


def test_int8_file_takes_plain_pixels(files):
    classifier = runtime.Classifier(files["int8"])
    assert (classifier.input["dtype"], classifier.output["dtype"]) == (np.uint8, np.uint8)
    assert classifier.input["quantization"] == (1.0, 0)


def test_int8_file_takes_plain_pixels_whatever_it_is_calibrated_with(tmp_path):
    dim = photos(4) // 4 + 9
    bit = bit_of(filters=8, units=(1,), groups=4)
    (tmp_path / "model").write_bytes(conversion.convert(bit, SCHEMES["int8"], dim))
    assert runtime.Classifier(tmp_path / "model").input["quantization"] == (1.0, 0)


def test_a_large_file_becomes_integers_too(tmp_path):
    # Its 38 MB are memory that goes back to the system as soon as nobody holds them.
    bit = bit_of(filters=8, units=(1,), groups=4, labels=300_000, zeros=0)
    (tmp_path / "model").write_bytes(converted("int8", bit))
    assert runtime.Classifier(tmp_path / "model").logits(photos(1)).shape == (1, 300_000)


def test_int8_file_is_of_integers_throughout(files):
    tensors, operators = graph(files["int8"])
    assert {kind for kind, _ in tensors} == {"INT8", "INT32", "UINT8"}
    # From and to uint8, and none between.
    assert operators["QUANTIZE"] == 2 and operators["DEQUANTIZE"] == 0


@pytest.mark.parametrize(("root", "pool"), [(3, False), (7, True)])
def test_int8_file_sees_faint_images(root, pool):
    size = (32, 32)
    bit = bit_of(root=root, pool=pool, zeros=0, size=size)
    calibrating = np.concatenate([faint(photos(8, size), contrast) for contrast in (1, 1 / 2, 1 / 4, 1 / 8)])
    int8, float32 = conversion.convert(bit, SCHEMES["int8"], calibrating), conversion.convert(bit, SCHEMES["float32"])
    first = bit.units[0].conv("a")
    pixels = faint(photos(8, size, seed=1), 1 / 8)
    assert signal_to_noise(int8, float32, [first], pixels)[first] > 15  # dB


def faint(pixels, contrast):
    """`pixels` with so little contrast, around mid-grey."""
    return np.rint(127.5 + contrast * (pixels - 127.5)).astype(np.uint8)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_files_have_only_what_xnnpack_runs_fast(scheme, files):
    tensors, operators = graph(files[scheme])
    assert max(len(shape) for _, shape in tensors) <= 4
    # Root, projections and three convolutions a unit, and the head; one in each norm that is not of integers.
    in_norms = 0 if scheme in ("int8", "int16x8") else 2 * 3 + 1
    assert operators["CONV_2D"] + operators["FULLY_CONNECTED"] == 1 + 2 * 4 + 1 + in_norms
    assert not {"SQUARED_DIFFERENCE", "TRANSPOSE", "CUSTOM"} & set(operators)


@pytest.mark.parametrize(("scheme", "dropped"), [("int8", 2 * 7), ("int8_mixed", 6), ("int16x8", 0), ("float32", 0)])
def test_sums_have_no_relu_where_integers_end_at_zero(scheme, dropped, files, tmp_path):
    # Each of 7 norms has one for its variance and one for its output. int8_mixed makes integers of 6 of the outputs.
    relu = schema.ActivationFunctionType.RELU
    model = flatbuffer_utils.read_model(str(files[scheme]))
    (subgraph,) = model.subgraphs
    ends = (b"/variance", b"/shifted")
    sums = [each.builtinOptions for each in subgraph.operators if subgraph.tensors[each.outputs[0]].name.endswith(ends)]
    assert len(sums) == 2 * 7 and sum(each.fusedActivationFunction != relu for each in sums) == dropped
    for each in sums:
        each.fusedActivationFunction = relu
    flatbuffer_utils.write_model(model, str(tmp_path / "model"))
    assert np.array_equal(runtime.logits(tmp_path / "model", photos(20)), runtime.logits(files[scheme], photos(20)))


def test_sums_that_go_below_zero_keep_their_relu(files):
    model = flatbuffer_utils.read_model(str(files["int8"]))
    (subgraph,) = model.subgraphs
    sums = [each for each in subgraph.operators if subgraph.tensors[each.outputs[0]].name.endswith(b"/shifted")]
    for each in sums:
        each.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU
        subgraph.tensors[each.outputs[0]].quantization.zeroPoint[:] = -100
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    kept = schema.ModelT.InitFromPackedBuf(flatbuffer.compact(bytes(builder.Output()))).subgraphs[0]
    relus = [
        each.builtinOptions.fusedActivationFunction == schema.ActivationFunctionType.RELU
        for each in kept.operators
        if kept.tensors[each.outputs[0]].name.endswith(b"/shifted")
    ]
    assert relus == [True] * 7


def test_kernels_are_of_the_schemes_type(bit, files):
    # As TFLite holds them, [outputs, height, width, inputs]; below 1024 values the dynamic scheme leaves them alone.
    kernels = {(value.shape[3], *value.shape[:3]) for value in bit.kernels.values() if value.size >= 1024}
    for scheme in set(SCHEMES) - {"float16", "int4", "mixed"}:
        expected = schemes.SCHEMES[scheme].weights.upper()
        assert {kind for kind, shape in graph(files[scheme])[0] if shape in kernels} == {expected}
    found = find(files["int4"].read_bytes(), bit.paths)
    of = {7: "int4", 127: "int8", None: "float32"}
    assert {path: layer.type for path, layer in found.items()} == {path: of[in_int4(path + "/")] for path in bit.paths}
    types = {path: layer.type for path, layer in find(files["mixed"].read_bytes(), bit.paths).items()}
    # The root is as in dynamic, which leaves one of so few weights alone.
    assert types == types_of(bit) | {ROOT: "float32"} and set(types.values()) == {"float32", "int8", "int4"}
    # Dense layers only for int4.
    assert graph(files["mixed"])[1]["FULLY_CONNECTED"] == [*types.values()].count("int4")
    assert {shape for kind, shape in graph(files["float16"])[0] if kind == "FLOAT16"} >= kernels


# Sparsity


def test_sparsity_is_the_share_of_zeros_in_the_kernels(bit, files, tmp_path):
    expected = np.mean(np.concatenate([kernel.ravel() == 0 for kernel in bit.kernels.values()]))
    assert expected == pytest.approx(0.1, abs=0.01)
    assert runtime.sparsity(files["float32"]) == pytest.approx(expected, abs=1e-12)
    assert runtime.sparsity(files["float16"]) == pytest.approx(expected, abs=1e-4)
    # What is smaller than half a step of int8 becomes zero as well.
    for scheme in ("dynamic", "int8", "int8_mixed", "int16x8"):
        assert expected < runtime.sparsity(files[scheme]) < expected + 0.03
    # Zeros of int4, and what is smaller than half a step, of which its channel's largest has seven.
    steps = {name: np.abs(kernel) / np.abs(kernel).max(axis=(0, 1, 2)) for name, kernel in bit.kernels.items()}
    small = [step < 1 / (2 * in_int4(name)) if in_int4(name) else step == 0 for name, step in steps.items()]
    rounded = np.mean(np.concatenate([each.ravel() for each in small]))
    (tmp_path / "int4").write_bytes(converted("int4", bit, rounding="nearest"))
    assert runtime.sparsity(tmp_path / "int4") == pytest.approx(rounded, abs=1e-4)


@pytest.mark.parametrize("shape", [(3, 3), (2, 2)])
def test_sparsity_of_int4_counts_no_padding(shape, tmp_path):
    # Two values a byte, low half first: 1 0 2 0 ...
    values = np.resize(np.array([1, 0, 2, 0, 3], np.uint8), np.prod(shape))
    halves = np.append(values, np.zeros(len(values) % 2, np.uint8))
    packed = halves[::2] | halves[1::2] << 4
    tensor = schema.TensorT(shape=np.array(shape, np.int32), type=schema.TensorType.INT4, buffer=1, name=b"kernel")
    dense = schema.BuiltinOperator.FULLY_CONNECTED
    code = schema.OperatorCodeT(deprecatedBuiltinCode=dense, builtinCode=dense, version=1)
    operator = schema.OperatorT(inputs=[1, 0], outputs=[2])
    graph = schema.SubGraphT(tensors=[tensor, schema.TensorT(), schema.TensorT()], operators=[operator])
    buffers = [schema.BufferT(), schema.BufferT(data=packed)]
    file = schema.ModelT(version=3, operatorCodes=[code], subgraphs=[graph], buffers=buffers)
    builder = flatbuffers.Builder()
    builder.Finish(file.Pack(builder), b"TFL3")
    (tmp_path / "model").write_bytes(builder.Output())
    assert runtime.sparsity(tmp_path / "model") == np.mean(values == 0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_zeros_stay_zeros(scheme, bit, files):
    """Every zero of a kernel, at its own place in the file."""
    model = flatbuffer_utils.read_model(str(files[scheme]))
    checked = 0
    for tensor in model.subgraphs[0].tensors:
        (name,) = [
            n
            for n in bit.kernels
            if tensor.name.decode() in (f"bit/{n[:-7]}/conv/kernel", f"bit/{n[:-7]}/conv/kernel/half")
        ] or [None]
        data = model.buffers[tensor.buffer].data
        if name is None or data is None:
            continue
        kind, held = flatbuffer_utils.type_to_name(tensor.type).lower(), np.asarray(data)
        values = np.stack([held & 15, held >> 4], axis=1).ravel() if kind == "int4" else held.view(kind)
        kernel = np.moveaxis(bit.kernels[name], 3, 0)
        assert not np.any(values.reshape(kernel.shape)[kernel == 0])
        checked += 1
    assert checked == len(bit.kernels)


# Equal bytes


def digests(schemes):
    """Of the files of a model made anew."""
    bit = bit_of()
    return [hashlib.sha256(converted(scheme, bit)).hexdigest() for scheme in schemes]


def test_equal_models_give_equal_bytes(files):
    expected = {scheme: hashlib.sha256(path.read_bytes()).hexdigest() for scheme, path in files.items()}
    few = ["float32", "int8", "int4", "mixed"]
    assert digests(few) == [expected[name] for name in few]
    # Another process, another order.
    code = f"import sys; sys.path[:0] = {sys.path!r}; import test_tflite as t; print(*t.digests({[*expected][::-1]}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-len(expected) :] == [*expected.values()][::-1]


# Calibration


CLASSES = ("ant", "bee", "cat", "dog")


def calibrating(count, **keys):
    return Integers(scheme="int8", calibration_images=count, **keys)


@pytest.mark.parametrize("count", [4, 7, 20, 59, 60])
def test_calibration_is_as_even_as_the_classes_allow(count):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [3, 9, 18, 30]))
    chosen = calibration.drawn(labels, calibrating(count))
    assert len(chosen) == count
    assert np.array_equal(chosen, np.unique(chosen))
    taken = np.bincount(labels[chosen], minlength=4)
    unexhausted = taken[taken < [3, 9, 18, 30]]
    assert np.ptp(unexhausted) <= 1 if unexhausted.size else count >= 60
    assert taken.max() - unexhausted.min(initial=taken.max()) <= 1


def test_calibration_takes_all_images_where_there_are_fewer_than_asked_for():
    assert np.array_equal(calibration.drawn(np.repeat(np.arange(4), 5), calibrating(21)), np.arange(20))


def test_calibration_of_fewer_images_than_classes_takes_one_each_of_some_classes():
    labels = np.repeat(np.arange(9), 5)
    draws = [labels[calibration.drawn(labels, calibrating(4, calibration_seed=seed))] for seed in range(20)]
    assert {len(np.unique(each)) for each in draws} == {4}
    assert set(np.concatenate(draws)) == set(range(9)), "some classes are never drawn"


def test_calibration_does_without_a_class_that_has_no_image():
    labels = np.repeat(np.arange(4), [5, 5, 0, 5])
    assert np.bincount(labels[calibration.drawn(labels, calibrating(9))], minlength=4).tolist() == [3, 3, 0, 3]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (calibrating(20), None),
        (calibrating(4), None),
        (calibrating(21), "calibration_images is 21: all 20 training images calibrate, there are no more"),
        (calibrating(3), "calibration_images is 3: one image each of 3 of the 4 classes calibrates"),
        (calibrating(3, calibration_balanced=False), None),
    ],
)
def test_calibration_says_what_it_does_without(entry, told):
    assert calibration.shortfall(entry, images=20, classes=4) == told


@pytest.mark.parametrize("balanced", [True, False])
def test_calibration_is_drawn_by_its_seed(balanced):
    labels = np.resize(np.arange(4), 4000)

    def drawn(seed):
        entry = calibrating(400, calibration_seed=seed, calibration_balanced=balanced)
        return calibration.drawn(labels, entry)

    assert np.array_equal(drawn(1), drawn(1))
    # Of two draws of a tenth, a tenth is in both.
    assert 10 < len(np.intersect1d(drawn(1), drawn(2))) < 80
    assert abs(drawn(1).mean() - 2000) < 200


def test_calibration_that_is_not_balanced_follows_the_images():
    labels = np.repeat(np.arange(4), [1000, 1000, 0, 8000])
    chosen = calibration.drawn(labels, calibrating(1000, calibration_balanced=False))
    assert np.bincount(labels[chosen], minlength=4) == pytest.approx([100, 100, 0, 800], abs=40)


def test_a_compacted_file_says_the_same_in_fewer_bytes_and_keeps_its_weights_aligned():
    # Its kernels have a zero point for each channel, as those of every int8 file do.
    float32 = to_file(lower(bit_of(filters=8, units=(1,), groups=4)))
    ranges = calibration.ranges(float32, photos(4))
    original = quantizer.integers(float32, ranges, activations="int8", pixels="uint8")
    compacted = flatbuffer.compact(original)
    assert len(compacted) < len(original)

    image = photos(1)
    outputs = []
    for content in (original, compacted):
        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    np.testing.assert_array_equal(*outputs)

    model = schema.Model.GetRootAs(compacted)
    for number in range(model.BuffersLength()):
        data = model.Buffers(number)
        if data.DataLength():
            assert data._tab.Vector(data._tab.Offset(4)) % 16 == 0
