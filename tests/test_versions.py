"""What files say they need, against TensorFlow's own converter and against old runtimes."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from needed import missing
from test_tflite import SCHEMES, bit_of, converted, norm_free, photos

from benchmarks.runtimes import Unavailable, answer, judged
from bitlite.litert.needs import oldest_runtime
from bitlite.litert.runtime import Classifier
from bitlite.tflite import conversion, graph
from bitlite.tflite.flatbuffer import packed
from bitlite.workflow.params import Uncalibrated

SIZE = (32, 32)
# Not int16x8: TensorFlow's converter makes it by the same calibrator as bitlite, which leaves versions too low.
BY_TENSORFLOW = ("float32", "float16", "dynamic", "int8")


def by_tensorflow(scheme, shrinking):
    """What TensorFlow's converter makes of a network with all operators that ours have.

    shrinking: whether a product of two images is far smaller than the product of their largest values.
    """
    import tensorflow as tf

    random = np.random.default_rng(0)
    kernel = tf.constant(random.normal(size=(3, 3, 4, 32)), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 4), tf.float32)])
    def network(x):
        first, second = x * [1, 1, 1, 1e-3], x * [1e-3, 1e-3, 1e-3, 1]
        x = first * second if shrinking else first + second
        x = tf.nn.conv2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), kernel, 2, "VALID")
        x = tf.nn.relu(tf.nn.depthwise_conv2d(x, tf.reshape(kernel[0, 0, 0], (1, 1, 32, 1)), [1] * 4, "VALID"))
        x = tf.concat([x, tf.slice(x, [0, 0, 0, 0], [1, 4, 4, 4])], 3)
        x = tf.nn.max_pool2d(x, 2, 2, "VALID")
        x = x - tf.reduce_mean(x, [3], keepdims=True)
        x = x * tf.math.rsqrt(tf.reduce_mean(x * x, [3], keepdims=True) + 1)
        return tf.nn.softmax(tf.reshape(x, (1, -1)))

    converter = tf.lite.TFLiteConverter.from_concrete_functions([network.get_concrete_function()], network)
    if scheme != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if scheme == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if scheme == "int8":
        converter.representative_dataset = lambda: ([random.random((1, 8, 8, 4), np.float32)] for _ in range(4))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


@pytest.fixture(scope="module")
def tensorflows():
    """Files of TensorFlow's converter, from a process of its own: two calibrators have no room in one."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        made = {(name, each): process.submit(by_tensorflow, name, each) for name in BY_TENSORFLOW for each in (0, 1)}
        return {key: each.result() for key, each in made.items()}


def needs(content):
    """Each operator's two codes and version, and the oldest runtime as it stands in the metadata."""
    model = schema.ModelT.InitFromPackedBuf(content)
    (oldest,) = [each for each in model.metadata if each.name == b"min_runtime_version"]
    codes = [(each.builtinCode, each.deprecatedBuiltinCode, each.version) for each in model.operatorCodes]
    return sorted(codes), bytes(model.buffers[oldest.buffer].data)


@pytest.mark.parametrize("shrinking", [0, 1])
@pytest.mark.parametrize("scheme", BY_TENSORFLOW)
def test_a_file_says_of_its_needs_what_tensorflows_converter_would(tensorflows, scheme, shrinking):
    content = tensorflows[scheme, shrinking]
    model = schema.ModelT.InitFromPackedBuf(content)
    model.metadata = None
    for code in model.operatorCodes:
        code.version, code.deprecatedBuiltinCode = 1, 0
    assert needs(packed(model, flatbuffers.Builder())) == needs(content)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The path of a BiT with R50's root, and channels for Winograd's algorithm: in each scheme, and without norms."""
    directory = tmp_path_factory.mktemp("versions")
    bit = bit_of(filters=64, root=7, pool=True, size=SIZE, zeros=0)
    for scheme in SCHEMES:
        (directory / scheme).write_bytes(converted(scheme, bit))
    (directory / "winograd").write_bytes(conversion.convert(bit, Uncalibrated(scheme="float32", winograd=True)))
    (directory / "norm-free").write_bytes(converted("int8", norm_free(bit)))
    return {path.name: path for path in directory.iterdir()}


@pytest.mark.parametrize(
    ("name", "oldest"),
    {  # the oldest that answered rightly when TensorFlow 1.10 to 2.19 and LiteRT 1.0 to 2.3 were tried
        "float32": "TensorFlow Lite 1.14.0",
        "winograd": "TensorFlow Lite 1.14.0",
        "float16": "TensorFlow Lite 1.15.0",
        "dynamic": "TensorFlow Lite 2.4.0",
        "int8": "TensorFlow Lite 2.5.0",
        "norm-free": "TensorFlow Lite 1.14.0",
        "int8_mixed": "TensorFlow Lite 2.4.0",  # a large root is as in dynamic
        "int16x8": "TensorFlow Lite 2.15.0",
        "int4": "TensorFlow Lite 2.19.0, LiteRT 1.1.0",
        "mixed": "TensorFlow Lite 2.19.0, LiteRT 1.1.0",
    }.items(),
)
def test_the_oldest_runtime_of_a_scheme(files, name, oldest):
    assert oldest_runtime(files[name]) == oldest


def test_a_file_written_more_than_once_says_its_needs_once(files):
    for path in files.values():
        codes, _ = needs(path.read_bytes())  # of one metadata entry
        operators = [code for code, _, _ in codes]
        assert len(set(operators)) == len(operators)


def test_gpu_delegates_know_the_version_of_every_convolution(files):
    # The last that they take: CheckMaxSupportedOpVersion of tflite/delegates/gpu/common/model_builder.cc.
    last = {schema.BuiltinOperator.CONV_2D: 6, schema.BuiltinOperator.FULLY_CONNECTED: 9}
    for name in ("float32", "float16", "dynamic", "int8_mixed", "int4", "mixed", "winograd"):
        codes, _ = needs(files[name].read_bytes())
        versions = {code: version for code, _, version in codes if code in last}
        assert len(versions) == (2 if name in ("int4", "mixed") else 1)
        assert all(version <= last[code] for code, version in versions.items())


def test_an_operator_without_a_rule_is_refused():
    network = graph.Graph(graph.Tensor("image", (1, 4, 4, 1)))
    network.operator("TANH", "tanh", [network.input], network.input.shape)
    with pytest.raises(ValueError, match="no version of TANH of float32"):
        graph.to_file(network)


def test_five_dimensions_need_a_rule_of_their_own():
    network = graph.Graph(graph.Tensor("image", (1, 4, 4, 4, 1)))
    network.slice("part", network.input, (0,) * 5, (1, 2, 2, 2, 1))
    with pytest.raises(ValueError, match="no version of SLICE of float32, 5 dimensions"):
        graph.to_file(network)


def test_a_file_that_says_nothing_of_its_needs_is_named(files, tmp_path):
    model = schema.ModelT.InitFromPackedBuf(files["float32"].read_bytes())
    model.metadata = None
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    (tmp_path / "silent.tflite").write_bytes(builder.Output())
    with pytest.raises(ValueError, match="silent.tflite does not say"):
        oldest_runtime(tmp_path / "silent.tflite")


# Old runtimes


def answered(runtime, path, images):
    try:
        return answer(runtime, path, images)
    except Unavailable as reason:
        missing(f"{runtime} can't be had here: {reason}")


@pytest.mark.parametrize("runtime", ["tflite-runtime==2.14.0", "ai-edge-litert==1.0.1"])
@pytest.mark.parametrize("name", [*SCHEMES, "winograd", "norm-free"])
def test_an_old_runtime_answers_rightly_or_refuses(files, runtime, name):
    images = photos(4, SIZE)
    found = answered(runtime, files[name], images)
    if name in ("int4", "mixed") or (name, runtime) == ("int16x8", "tflite-runtime==2.14.0"):
        assert isinstance(found, str) and "Didn't find op for builtin opcode" in found
    else:
        assert judged(found, Classifier(files[name]).logits(images)) not in ("WRONG", "refused")
