"""int8_mixed: the convolutions that stay float32; and what each layer loses, whatever the scheme."""

import re

import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils
from test_tflite import bit_of, photos

from bitlite.bit import network
from bitlite.bit.names import HEAD, POOL, ROOT, unit
from bitlite.tflite import calibration, conversion, convolutions, scaling
from bitlite.workflow.errors import InputError
from bitlite.workflow.params import Int4, Int8Mixed, Integers, Uncalibrated


@pytest.fixture(scope="module")
def bit():
    return bit_of(filters=16, units=(2, 1), pool=True)


@pytest.fixture(scope="module")
def float32(bit):
    return conversion.convert(bit, conversion.FLOAT32)


@pytest.fixture(scope="module")
def paths(bit):
    return [convolution.path for convolution in bit.convolutions]


def made(bit, **keys):
    return conversion.convert(bit, Int8Mixed(scheme="int8_mixed", **keys), photos(16, seed=1))


def powers(bit):
    """By what the outputs of each convolution have grown, the head's among them."""
    grown = scaling.powers(bit)
    return {path: grown.get(path, 1.0) for path in bit.paths}


def float_kernels(content, bit):
    """Paths of the convolutions whose kernels stand in a file as float32, found by the kernels' own values."""
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    held = {bytes(buffer.data) for buffer in model.buffers if buffer.data is not None}
    kernels = {path: np.moveaxis(bit.weights[f"{path}/kernel"] * power, 3, 0) for path, power in powers(bit).items()}
    return {path for path, kernel in kernels.items() if np.ascontiguousarray(kernel).tobytes() in held}


# keep_float


def test_without_keep_float_every_convolution_but_a_small_root_is_int8(bit, float32, paths):
    assert float_kernels(float32, bit) == set(paths)
    content = made(bit)
    assert float_kernels(content, bit) == {ROOT}  # of 432 weights
    types = {path: layer.type for path, layer in convolutions.find(content, paths).items()}
    assert types == {path: "float32" if path == ROOT else "int8" for path in paths}


def test_a_large_root_is_int8_whose_output_has_no_steps():
    bit = bit_of(filters=16, units=(1, 1), root=7, pool=True)
    content = made(bit)
    root = convolutions.find(content, [ROOT])[ROOT]
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    output = flatbuffer_utils.type_to_name(model.subgraphs[0].tensors[root.output.number].type)
    assert (root.type, output) == ("int8", "FLOAT32")


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        ([ROOT, HEAD], lambda path: path in (ROOT, HEAD)),
        # Not the projection, whose path differs by proj alone, and not a.
        (["*/unit01/a/standardized_conv2d"], lambda path: path.endswith("unit01/a/standardized_conv2d")),
        (["resnet/block1/*", "*/proj/*"], lambda path: path.startswith("resnet/block1/") or "/proj/" in path),
        (["*"], lambda path: True),
    ],
)
def test_just_what_keep_float_names_stays_float(patterns, kept, bit, float32, paths):
    content = made(bit, keep_float=patterns)
    expected = {*filter(kept, paths), ROOT}
    assert float_kernels(content, bit) == expected
    types = {path: layer.type for path, layer in convolutions.find(content, paths).items()}
    assert types == {path: "float32" if path in expected else "int8" for path in paths}


def movers(content):
    """The types of the operators that only move values, by the name of what they give."""
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    (subgraph,) = model.subgraphs
    kinds = {"PAD", "SLICE", "CONCATENATION", "MAX_POOL_2D"}
    outputs = [
        subgraph.tensors[each.outputs[0]]
        for each in subgraph.operators
        if flatbuffer_utils.opcode_to_name(model, each.opcodeIndex) in kinds
    ]
    return {each.name.decode(): flatbuffer_utils.type_to_name(each.type).lower() for each in outputs}


@pytest.mark.parametrize("patterns", [(), (ROOT, "*/proj/*")])
def test_values_are_moved_in_the_type_of_the_convolution(patterns):
    bit = bit_of(filters=16, units=(1, 1), root=7, pool=True)
    found = movers(conversion.convert(bit, Int8Mixed(scheme="int8_mixed", keep_float=patterns), photos(16, seed=1)))
    kept = [ROOT, POOL, *([unit(2, 1).projection] if patterns else [])]
    # The root's two slices, packing and padding, the pool and its padding, and a slice and a padding of block 2.
    assert len(found) == 8
    assert found == {name: "float32" if name.startswith(tuple(f"bit/{p}/" for p in kept)) else "int8" for name in found}


def test_keep_float_that_matches_nothing(bit, float32):
    with pytest.raises(InputError, match=re.escape("keep_float has 'resnet/block9/*', which matches none")):
        made(bit, keep_float=["resnet/block1/*", "resnet/block9/*"])


# What goes through the layers


def test_values_are_those_of_the_keras_layers(bit, float32, paths):
    images = photos(3)
    keras = network.build(bit)
    outputs = network.tf.keras.Model(keras.input, [keras.get_layer(path).output for path in paths])
    expected = [
        output.numpy() * power
        for output, power in zip(outputs(images.astype(np.float32)), powers(bit).values(), strict=True)
    ]
    found = convolutions.find(float32, paths)
    for index, value in enumerate(convolutions.values(float32, images)):
        for path, right in zip(paths, expected, strict=True):
            given = value(found[path].output.number)
            assert np.abs(given[0] - right[index]).max() <= 1e-4 * np.abs(right).max()


def test_ranges_are_those_of_the_keras_layers(bit, paths, float32):
    images = photos(6)
    images[0, 0, 0], images[0, -1, -1] = 0, 255  # or they would be made so
    keras = network.build(bit)
    tensors = [getattr(keras.get_layer(path), end) for path in paths for end in ("input", "output")]
    expected = [t.numpy() for t in network.tf.keras.Model(keras.input, tensors)(images.astype(np.float32))]
    extremes = calibration.ranges(float32, images)
    for path, layer in convolutions.find(float32, paths).items():
        for end, tensor in enumerate((layer.input, layer.output)):
            right = expected[2 * paths.index(path) + end] * (powers(bit)[path] if end else 1)
            found = [extremes[tensor.name][key].item() for key in ("min", "max")]
            assert found == pytest.approx([right.min(), right.max()], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("entry", "kinds", "least"),
    # int8 has half a step of error to a range of some 8 standard deviations: about 40 dB at best, less what adds up.
    [
        (Uncalibrated(scheme="float16"), {"float16"}, 55), (Uncalibrated(scheme="dynamic"), {"int8"}, 25),
        (Integers(scheme="int8"), {"int8"}, 10), (Int8Mixed(scheme="int8_mixed"), {"int8"}, 20),
        (Integers(scheme="int16x8"), {"int8"}, 15), (Int4(scheme="int4"), {"int4", "int8"}, 0),
    ],
    ids=lambda value: getattr(value, "scheme", ""),
)  # fmt: skip
def test_rows(entry, kinds, least, bit, float32, paths):
    content = conversion.convert(bit, entry, photos(16, seed=1))
    rows = list(convolutions.rows(content, float32, bit, photos(4, seed=1)))
    assert [row["layer"] for row in rows] == paths and all(tuple(row) == convolutions.COLUMNS for row in rows)
    large = [row for row in rows if bit.weights[f"{row['layer']}/kernel"].size >= 1024]
    assert {row["type"] for row in large} == kinds
    assert all(least < row["snr_db"] < 100 for row in large)
    for row in large:
        bits = {"float16": 16, "int8": 8, "int4": 4}[row["type"]]
        kernel = bit.weights[f"{row['layer']}/kernel"]
        # The kernel, and a bias of up to 64 bits for each output.
        assert 0 <= row["size_bytes"] - kernel.size * bits / 8 <= 8 * kernel.shape[3]


@pytest.mark.parametrize(
    ("scheme", "kind", "size", "least"), [("float32", "float32", 4, 100), ("dynamic", "int8", 1, 25)]
)
def test_row_of_a_convolution_by_winograd(scheme, kind, size, least):
    bit = bit_of(filters=64, zeros=0)
    path = "resnet/block1/unit01/b/standardized_conv2d"
    content = conversion.convert(bit, Uncalibrated(scheme=scheme, winograd=True))
    rows = convolutions.rows(content, conversion.convert(bit, conversion.FLOAT32), bit, photos(2, seed=1))
    (row,) = (row for row in rows if row["layer"] == path)
    assert row["type"] == kind and least < row["snr_db"] < 150
    # 16 kernels of 1x1, each with a bias of float32.
    assert row["size_bytes"] == 16 * (64 * 64 * size + 64 * 4)


def test_rows_of_the_float32_file_have_no_error(bit, float32):
    assert {row["snr_db"] for row in convolutions.rows(float32, float32, bit, photos(1))} == {""}


def test_signal_to_noise_by_hand(bit, float32, paths):
    content, images = made(bit), photos(2)
    signal = noise = 0
    for value, right in zip(convolutions.values(content, images), convolutions.values(float32, images), strict=True):
        given = value(convolutions.find(content, [ROOT])[ROOT].output.number)
        true = right(convolutions.find(float32, [ROOT])[ROOT].output.number)
        signal, noise = signal + np.sum(true**2), noise + np.sum((given - true) ** 2)
    ratios = convolutions.signal_to_noise(content, float32, [ROOT], images)
    assert ratios == {ROOT: pytest.approx(10 * np.log10(signal / noise), abs=1e-3)}


def test_a_file_without_a_layer_is_told(float32):
    with pytest.raises(ValueError, match="no convolution resnet/block9"):
        convolutions.find(float32, ["resnet/block9/unit01/a/standardized_conv2d"])


def test_signal_to_noise_where_one_of_them_is_nothing(bit, float32, paths):
    headless = bit.with_weights(
        {**bit.weights, **{f"{HEAD}/{p}": 0 * bit.weights[f"{HEAD}/{p}"] for p in ("kernel", "bias")}}
    )
    silent, images = conversion.convert(headless, conversion.FLOAT32), photos(2)
    assert convolutions.signal_to_noise(silent, silent, [HEAD], images) == {HEAD: np.inf}
    assert convolutions.signal_to_noise(float32, silent, [HEAD], images) == {HEAD: -np.inf}
