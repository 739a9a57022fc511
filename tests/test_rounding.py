"""Rounding of weights whose errors make up for each other."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from test_tflite import SCHEMES, bit_of, converted, photos

from bitlite.tflite import convolutions, rounding, schemes
from bitlite.tflite.graph import to_file
from bitlite.tflite.lowering import lower


def squared_error(weights, integers, scales, vectors):
    return np.sum((vectors @ (weights - integers * scales[:, None]).T) ** 2)


def test_errors_make_up_for_each_other():
    """Against rounding to the nearest, and for few weights against the best of all integers near them."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(200, 6)) @ random.normal(size=(6, 6))
    weights = random.normal(size=(3, 6))
    scales = np.abs(weights).max(1) / 7
    found = rounding.rounded(weights, vectors.T @ vectors, scales, 7)
    nearest = np.rint(weights / scales[:, None])
    floors = np.floor(weights / scales[:, None])
    choices = np.stack(np.meshgrid(*[[-1, 0, 1, 2]] * 6), -1).reshape(-1, 6)
    best = sum(
        min(squared_error(row[None], floor + each, scale[None], vectors) for each in choices)
        for row, floor, scale in zip(weights, floors, scales, strict=True)
    )
    assert (
        best <= squared_error(weights, found, scales, vectors) < 0.7 * squared_error(weights, nearest, scales, vectors)
    )
    assert np.abs(found).max() <= 7


def test_independent_inputs_are_rounded_to_the_nearest():
    random = np.random.default_rng(1)
    weights, scales = random.normal(size=(4, 30)), np.full(4, 0.1)
    found = rounding.rounded(weights, np.diag(random.random(30) + 0.5), scales, 127)
    assert np.array_equal(found, np.rint(weights / 0.1))


def test_inputs_that_are_never_there_do_no_harm():
    found = rounding.rounded(np.ones((2, 3)), np.zeros((3, 3)), np.full(2, 0.5), 7)
    assert np.array_equal(found, np.full((2, 3), 2))


@pytest.mark.parametrize("count", [6, 100])
def test_zeros_stay_zeros(count):
    random = np.random.default_rng(2)
    weights = random.normal(size=(5, count)) * (random.random((5, count)) < 0.5)
    weights[3] = 0
    vectors = random.normal(size=(400, count)) @ random.normal(size=(count, count))
    found = rounding.rounded(weights, vectors.T @ vectors, np.abs(weights).max(1) / 7, 7)
    assert not np.any(found[weights == 0]) and np.any(found[weights != 0])


def test_blocks_are_as_good_as_one_weight_after_the_other(monkeypatch):
    random = np.random.default_rng(3)
    weights, vectors = random.normal(size=(4, 50)), random.normal(size=(300, 50)) @ random.normal(size=(50, 50))
    found = []
    for block in (1, 7, 50):
        monkeypatch.setattr(rounding, "BLOCK", block)
        found.append(rounding.rounded(weights, vectors.T @ vectors, np.abs(weights).max(1) / 7, 7))
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


# Files


@pytest.mark.parametrize("scheme", ["float32", "int4"])
def test_what_kernels_read_gives_what_convolutions_give(scheme, monkeypatch):
    """Kernels of 7x7, 3x3 and 1x1, with strides and margins, and dense layers."""
    monkeypatch.setattr(rounding, "PLACES", 10**6)
    bit = bit_of(filters=16, units=(1, 1), root=7, pool=True)
    entry = SCHEMES[scheme]
    content = to_file(lower(bit, schemes.SCHEMES[scheme].rewrites(entry)))
    model = schema.ModelT.InitFromPackedBuf(content)
    graph, layers = model.subgraphs[0], rounding._layers(content)
    assert len(layers) == len(bit.paths)
    (value,) = convolutions.values(content, photos(1))
    for operator in graph.operators:
        name = graph.tensors[operator.outputs[0]].name.decode()
        if name in layers:
            layer = layers[name]
            rows = rounding._rows(value(layer.input), layer, np.random.default_rng(0))
            bias = np.frombuffer(bytes(model.buffers[graph.tensors[operator.inputs[2]].buffer].data), np.float32)
            found = rows @ layer.kernel.reshape(len(layer.kernel), -1).T + bias
            right = value(operator.outputs[0])
            assert np.abs(found - right.reshape(found.shape)).max() < 1e-4 * np.abs(right).max()


def errors(content, bit, images):
    """Mean square errors of each layer that is int4, given what float32 would give it."""
    float32 = to_file(lower(bit, schemes.SCHEMES["int4"].rewrites(SCHEMES["int4"])))
    model, layers = schema.ModelT.InitFromPackedBuf(content), rounding._layers(float32)
    graph = model.subgraphs[0]
    kernels = {}
    for operator in graph.operators:
        name = graph.tensors[operator.outputs[0]].name.decode()
        if name in layers and graph.tensors[operator.inputs[1]].type == schema.TensorType.INT4:
            tensor = graph.tensors[operator.inputs[1]]
            held = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
            nibbles = np.stack([held & 15, held >> 4], axis=1).ravel().astype(int)
            signed = np.where(nibbles > 7, nibbles - 16, nibbles).reshape(tensor.shape)
            kernels[name] = signed * tensor.quantization.scale[:, None]
    found = dict.fromkeys(kernels, 0.0)
    for value in convolutions.values(float32, images):
        for name, kernel in kernels.items():
            rows = rounding._rows(value(layers[name].input), layers[name], np.random.default_rng(0))
            found[name] += np.sum((rows @ (kernel - layers[name].kernel).T) ** 2)
    return found


def test_layers_of_a_file_err_less_on_other_images():
    bit = bit_of()
    nearest, made_up = (
        errors(converted("int4", bit, rounding=each), bit, photos(8, seed=9)) for each in ("nearest", "compensated")
    )
    assert len(nearest) > 5
    assert all(made_up[name] < 0.9 * nearest[name] for name in nearest)


@pytest.mark.parametrize("scheme", ["int8", "int8_mixed"])
def test_files_of_int8_are_rounded_and_else_the_same(scheme):
    bit = bit_of(units=(1,))
    nearest, made_up = (
        schema.ModelT.InitFromPackedBuf(converted(scheme, bit, rounding=each)) for each in ("nearest", "compensated")
    )
    changed = 0
    for one, other in zip(nearest.subgraphs[0].tensors, made_up.subgraphs[0].tensors, strict=True):
        scales = [tensor.quantization.scale if tensor.quantization else None for tensor in (one, other)]
        assert one.name == other.name and np.array_equal(*scales)
        a, b = (model.buffers[tensor.buffer].data for model, tensor in ((nearest, one), (made_up, other)))
        if a is not None and not np.array_equal(a, b):
            changed += 1
            # Few weights, by a step or two.
            steps = np.abs(a.view(np.int8).astype(int) - b.view(np.int8))
            assert one.type == schema.TensorType.INT8 and steps.max() <= 3 and np.mean(steps > 0) < 0.7
    assert changed >= 4


def test_the_number_of_processors_changes_nothing():
    code = (
        "import os, sys; sys.path[:0] = {path!r}; os.sched_setaffinity(0, {cores}); import hashlib, test_tflite as t; "
        "print(hashlib.sha256(t.converted('int4', t.bit_of())).hexdigest())"
    )
    mine = sorted(os.sched_getaffinity(0))
    found = set()
    for cores in (set(mine[:1]), set(mine)):
        command = [sys.executable, "-c", code.format(path=sys.path, cores=cores)]
        found.add(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    assert found == {hashlib.sha256(converted("int4", bit_of())).hexdigest()}
