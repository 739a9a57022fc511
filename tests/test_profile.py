"""Where the time of a .tflite file goes: in tiny real files, their times compared only where they differ much."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from test_tflite import types_of

from bitlite.bit.shapes import Shape
from bitlite.bit.weights import untrained
from bitlite.profiling import operators, profile
from bitlite.profiling.litert_c import Event
from bitlite.profiling.operators import Operator
from bitlite.profiling.profile import Recording
from bitlite.pruning.freezing import frozen
from bitlite.tflite import conversion, convolutions
from bitlite.workflow.params import Int4, Int8Mixed, Integers, Mixed, Uncalibrated

SIZE = (24, 16)


@pytest.fixture(scope="module")
def bit():
    bit = untrained("bit-test", Shape(filters=64, units=(1, 1), groups=8, root=3, pool=True, image_size=SIZE), seed=0)
    return bit.with_head(("daisy", "rose"), SIZE).folded()


@pytest.fixture(scope="module")
def files(bit, tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    photos = np.random.default_rng(0).integers(256, size=(4, *SIZE, 3), dtype=np.uint8)
    schemes = {name: Uncalibrated(scheme=name) for name in ("float32", "float16", "dynamic")}
    schemes["int4"] = Int4(scheme="int4")
    schemes["winograd"] = Uncalibrated(scheme="float32", winograd=True)
    schemes["int8"] = Integers(scheme="int8", calibration_images=4)
    schemes["int8_mixed"] = Int8Mixed(scheme="int8_mixed", calibration_images=4)
    schemes["mixed"] = Mixed(scheme="mixed", calibration_images=4)
    for name, entry in schemes.items():
        content = conversion.convert(bit, entry, photos, types=types_of(bit))
        (directory / f"{name}.tflite").write_bytes(content)
    return {path.stem: path for path in directory.iterdir()}


def saved(path, function, *shape):
    """The file of a function of one float32 tensor."""
    spec = tf.TensorSpec(shape, tf.float32)
    concrete = tf.function(function, input_signature=[spec]).get_concrete_function()
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module()).convert())
    return path


def rows_of(path, image_size=SIZE, threads=1):
    image = np.random.default_rng(1).integers(256, size=(*image_size, 3), dtype=np.uint8)
    return list(profile.layers(operators.read(path), profile.record(path, image, threads=threads, rounds=3)))


# Layers


@pytest.mark.parametrize("scheme", ["float32", "float16", "dynamic", "int8", "winograd"])
def test_layers_are_those_of_the_network_in_running_order(bit, files, scheme):
    rows = rows_of(files[scheme])
    assert all(list(row) == list(profile.COLUMNS) for row in rows)
    convs = [convolution.path for convolution in bit.convolutions]
    found = [row["layer"] for row in rows if row["type"] == "conv"]
    assert sorted(found) == sorted(convs)
    # A projection may run before or after the unit's first convolution.
    assert [layer for layer in found if "proj" not in layer] == [layer for layer in convs if "proj" not in layer]
    norms = {name.removesuffix("/gamma") for name in bit.weights if name.endswith("/gamma")}
    assert sorted(row["layer"] for row in rows if row["type"] == "norm") == sorted(norms)
    # By Winograd's algorithm a convolution is several dozen operators.
    assert (max(row["operators"] for row in rows if row["type"] == "conv") > 40) == (scheme == "winograd")
    others = ["normalize", "resnet/root_block/pool", "resnet/block1/unit01/add", "resnet/features"]
    assert set(others) <= {row["layer"] for row in rows if row["type"] == "other"}
    order = [row["layer"] for row in rows]
    between = ["resnet/block1/unit01/b/group_norm", "resnet/block1/unit01/b/standardized_conv2d", others[2]]
    assert sorted(between, key=order.index) == between


@pytest.mark.parametrize("scheme", ["float32", "int8", "winograd"])
def test_shares_and_operators_add_up(files, scheme):
    rows = rows_of(files[scheme], threads=2)
    assert sum(row["time_share"] for row in rows) == pytest.approx(1)
    interpreter = Interpreter(str(files[scheme]), experimental_disable_delegate_node_fusion=True)
    assert sum(row["operators"] for row in rows) == len(
        [one for one in interpreter._get_ops_details() if one["op_name"] != "DELEGATE"]
    )


@pytest.mark.parametrize("large", [0, 1, 2])
def test_time_goes_to_the_layer_that_works_most(tmp_path, large):
    # 1,600 times the multiply-adds of the others.
    kernels = [np.ones((5, 5, 64, 64) if i == large else (1, 1, 64, 1), np.float32) * (i + 1) for i in range(3)]

    def parallel(pixels):
        with tf.name_scope("bit"):
            x = tf.tile(pixels, [1, 1, 1, 64])
            sums = [
                tf.reduce_sum(tf.nn.conv2d(x, k, 1, "SAME", name=f"{i}/conv2d/Conv2D"), [1, 2, 3])
                for i, k in enumerate(kernels)
            ]
            return tf.add_n(sums)

    path = saved(tmp_path / "model.tflite", parallel, 1, 48, 48, 1)
    image = np.ones((48, 48, 1), np.uint8)
    recording = profile.record(path, image, threads=1)
    # By the events alone: on a busy machine the time of the whole, which comes from other runs, is quite another.
    rows = profile.layers(operators.read(path), Recording(recording.events, 0.0))
    shares = {row["layer"]: row["time_share"] for row in rows if row["type"] == "conv"}
    assert sorted(shares) == ["0/conv2d", "1/conv2d", "2/conv2d"]
    assert max(shares, key=shares.get) == f"{large}/conv2d" and max(shares.values()) > 0.7


def served(*types_and_layers):
    return [Operator(node, kind, layer, (), None) for node, (kind, layer) in enumerate(types_and_layers)]


def ran(*names, microseconds=1.0):
    return [Event(name, None, microseconds) for name in names]


def test_events_of_operators_that_xnnpack_joins_splits_and_adds():
    file = served(
        ("MEAN", "norm"), ("MUL", "norm"), ("MEAN", "norm"), ("SUB", "norm"), ("MUL", "norm"), ("ADD", "norm"),
        ("PAD", "b/conv"), ("CONV_2D", "b/conv"), ("ADD", "add"), ("MEAN", "next"), ("CONV_2D", "c/conv"),
    )  # fmt: skip
    events = {
        "Mean (ND) Reduce2": "norm",
        "Mean Squared (ND) Reduce2": "norm",  # of the product before it
        "Subtract (ND)": "norm",
        "Clamp (NC)": "norm",  # of the ReLU in the difference
        "Multiply (ND)": "norm",
        "Add (ND)": "norm",
        "Convert (NC, F32, QDU8)": "b/conv",  # before a convolution that has taken the padding in
        "Convolution (NHWC, QDU8, F32, QC8W) IGEMM": "b/conv",
        "Add (ND) ": "add",
        "Mean (ND)": "next",
        "Fully Connected (NC, QDU8, F32, QC8W) GEMM": "c/conv",  # which is 1 x 1
    }
    assert profile.layers_of(file, ran(*events)) == list(events.values())


def test_an_event_is_not_sought_past_the_next_convolution():
    file = served(("MUL", "a"), ("CONV_2D", "a/conv"), ("MUL", "b"), ("CONV_2D", "b/conv"))
    events = ran("Multiply (ND)", "Multiply (ND)", "Convolution", "Multiply (ND)", "Convolution")
    assert profile.layers_of(file, events) == ["a", "a", "a/conv", "b", "b/conv"]


def test_what_xnnpack_rounds_away_is_spread_evenly():
    file = served(("MUL", "a"), ("CONV_2D", "b/conv2d"))
    events = [Event("Multiply (ND)", None, 1.0), Event("Convolution", None, 3.0)]
    shares = [row["time_share"] for row in profile.layers(file, Recording(events, 10.0))]
    assert shares == pytest.approx([0.4, 0.6])
    # A run that seems shorter than its parts says nothing.
    shares = [row["time_share"] for row in profile.layers(file, Recording(events, 2.0))]
    assert shares == pytest.approx([0.25, 0.75])


# Delegate


def test_what_xnnpack_does_not_take_is_named(tmp_path):
    def cumulative(pixels):
        with tf.name_scope("bit"):
            x = tf.abs(pixels, name="before/abs")
            x = tf.cumsum(x, axis=1, name="sums/cumsum")
            x = tf.multiply(x, 0.5, name="after/mul")
            return tf.exp(x, name="output/exp")

    path = saved(tmp_path / "model.tflite", cumulative, 1, *SIZE, 3)
    file = operators.read(path)
    recording = profile.record(path, np.ones((*SIZE, 3), np.uint8), threads=1, rounds=1)
    assert {row["layer"]: row["delegate"] for row in profile.layers(file, recording)} == {
        "before": "xnnpack", "sums": "CUMSUM of float32", "after": "xnnpack",
    }  # fmt: skip
    # The output's name is the signature's: its operator counts to the layer before.
    assert [operator.layer for operator in file] == ["before", "sums", "after", "after"]
    assert profile.delegated(file, recording) == pytest.approx(3 / 4)


@pytest.mark.parametrize("scheme", ["float32", "float16", "dynamic", "int4", "int8", "int8_mixed", "mixed", "winograd"])
def test_delegated_operators_are_those_of_the_interpreter(files, scheme):
    path = files[scheme]
    file = operators.read(path)
    recording = profile.record(path, np.zeros((*SIZE, 3), np.uint8), threads=1, rounds=1)
    # Not fused, each operator that the interpreter delegates becomes a delegate of the same outputs.
    interpreter = Interpreter(str(path), experimental_disable_delegate_node_fusion=True)
    interpreter.allocate_tensors()
    details = interpreter._get_ops_details()
    taken = {output for one in details if one["op_name"] == "DELEGATE" for output in one["outputs"]}
    left = {one["index"] for one in details if one["op_name"] != "DELEGATE" and not taken & set(one["outputs"])}
    assert {event.node for event in recording.events} - {None} == left
    assert profile.delegated(file, recording) == pytest.approx(1 - len(left) / len(file))
    assert (scheme == "int8") == bool(left)  # pixels come as uint8


@pytest.mark.parametrize("scheme", ["int4", "mixed"])
def test_xnnpack_computes_every_int4_layer_with_int4(scheme, bit, files):
    path = files[scheme]
    layers = [path for path, layer in convolutions.find(path.read_bytes(), bit.paths).items() if layer.type == "int4"]
    events = profile.record(path, np.zeros((*SIZE, 3), np.uint8), threads=1, rounds=1).events
    found = [layer for event, layer in zip(events, profile.layers_of(operators.read(path), events), strict=True)
             if "QC4W" in event.name]  # fmt: skip
    assert sorted(found) == sorted(layers) and len(layers) > 5


def test_xnnpack_takes_all_of_an_int8_file_without_norms_but_the_ends(bit, tmp_path):
    path = tmp_path / "norm-free.tflite"
    photos = np.random.default_rng(0).integers(256, size=(4, *SIZE, 3), dtype=np.uint8)
    images = photos.astype(np.float32)
    path.write_bytes(conversion.convert(frozen(bit, bit.norms, [(images, images)]), Integers(scheme="int8"), photos))
    left = {event.node for event in profile.record(path, photos[0], threads=1, rounds=1).events} - {None}
    # uint8 pixels to int8, and int8 logits to uint8.
    file = operators.read(path)
    assert [(operator.node, operator.type) for operator in file if operator.node in left] == [
        (file[0].node, "QUANTIZE"), (file[-1].node, "QUANTIZE"),
    ]  # fmt: skip


def test_profiling_needs_no_tensorflow():
    code = "import sys, bitlite.profiling.profile; print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
