"""Ranges that are narrower than what values reach to."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from test_tflite import bit_of, converted, photos

from bitlite.tflite import calibration, clipping, convolutions
from bitlite.tflite.graph import to_file
from bitlite.tflite.lowering import even_contrast, integer_norm, lower

# Tensors of thousands of values.
CROWDED = ("/conv", "/sum", "/scaled", "/shifted", "/square")


def squared_error(values, low, high):
    """Of int8, by its definition: real = scale * (integer - zero point)."""
    scale = (high - low) / 255
    zero_point = round(-128 - low / scale)
    integers = np.clip(np.round(values / scale) + zero_point, -128, 127)
    return np.mean((scale * (integers - zero_point) - values) ** 2)


def counted(values, least, largest):
    return np.histogram(values, clipping.STEPS * clipping.PARTS + 1, (least, largest))[0]


@pytest.fixture(scope="module")
def float32():
    return to_file(lower(bit_of(), [even_contrast, integer_norm]))


@pytest.fixture(scope="module")
def ranges(float32):
    return calibration.ranges(float32, photos(16, seed=1))


@pytest.fixture(scope="module")
def held(float32):
    """Values of all tensors by name, over 16 images."""
    graph = schema.Model.GetRootAs(float32).Subgraphs(0)
    names = {graph.Tensors(number).Name().decode(): number for number in range(graph.TensorsLength())}
    gathered = {name: [] for name in names}
    for value in convolutions.values(float32, photos(16, seed=1)):
        for name, number in names.items():
            gathered[name].append(np.array(value(number)))
    return {name: np.stack(each) for name, each in gathered.items()}


def test_the_best_range_is_that_of_a_search_through_all():
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(size=200_000), random.normal(3, 0.2, 50_000), [-9, 12]])
    least, largest = values.min(), values.max()
    shares = np.linspace(0.3, 1, 36)
    best = min(squared_error(values, low * least, high * largest) for low in shares for high in shares)
    found = squared_error(values, *clipping.narrowest(counted(values, least, largest), least, largest))
    assert found < 1.01 * best < 0.8 * squared_error(values, least, largest)


@pytest.mark.parametrize("values", [np.linspace(-10, 7.85, 256), np.linspace(0, 5, 30000), np.linspace(-3, 0, 30000)])
def test_evenly_spread_values_keep_their_range(values):
    least, largest = values[0], values[-1]
    found = clipping.narrowest(counted(values, least, largest), least, largest)
    assert found == pytest.approx((least, largest), rel=0.03)


@pytest.mark.parametrize("shape", [(1, 40, 30, 12), (1, 64, 64, 48), (1, 5, 5, 7), (1, 1, 1, 9000), (16,)])
def test_samples_are_of_every_channel(shape):
    channels = np.broadcast_to(np.arange(shape[-1]), shape)
    count = np.bincount(clipping._sample(channels), minlength=shape[-1])
    size = np.prod(shape)
    assert count.sum() == size if size <= clipping.SAMPLE else clipping.SAMPLE / 4 < count.sum() <= clipping.SAMPLE
    assert np.ptp(count) <= 1


def test_every_tensor_errs_less_and_pixels_keep_their_range(float32, ranges, held):
    narrowed = clipping.narrowed(ranges, float32, photos(16, seed=1))
    assert narrowed.keys() == ranges.keys()
    for name in ("pixels", "bit/normalize/mul", "bit/normalize/add"):
        assert narrowed[name] == ranges[name]
    gains = []
    for name, extremes in ranges.items():
        before, after = ([float(each[end].item()) for end in ("min", "max")] for each in (extremes, narrowed[name]))
        assert min(before[0], 0) <= after[0] <= 0 <= after[1] <= max(before[1], 0) or before == after
        if before != after:
            was, now = (squared_error(held[name], min(ends[0], 0), max(ends[1], 0)) for ends in (before, after))
            if name.endswith(CROWDED):  # few values could lie well by chance
                assert now < 1.01 * was, name
                gains.append(now / was)
    assert len(gains) > 10 and np.median(gains) < 0.95


def test_what_a_relu_makes_zero_anyway_takes_no_steps(ranges, held):
    found = clipping.without_idle(ranges)
    changed = [name for name in ranges if found[name] != ranges[name]]
    assert len(changed) > 5 and all(name.endswith("/scaled") for name in changed)
    for name in changed:
        norm = name.removesuffix("/scaled")
        low = found[name]["min"].item()
        assert ranges[name]["min"].item() < low <= 0
        shift = held[f"{norm}/shift"].reshape(16, 1, 1, 1, -1)
        # By hand: what stands below is as good as `low`, to the bit.
        clipped = np.maximum(np.maximum(held[name], np.float32(low)) + shift, 0)
        assert np.array_equal(clipped, np.maximum(held[name] + shift, 0))
        assert np.any(held[name] < low)


def scales(content):
    """Of activations, by name."""
    tensors = schema.ModelT.InitFromPackedBuf(content).subgraphs[0].tensors
    return {each.name.decode(): each.quantization.scale[0] for each in tensors if each.quantization}


def test_files_have_the_ranges_that_are_asked_for(ranges):
    bit = bit_of()
    plain, narrow = (scales(converted("int8", bit, ranges=each)) for each in ("min_max", "mse"))
    name = "bit/resnet/block2/unit01/add/sum"
    low, high = (ranges[name][end].item() for end in ("min", "max"))
    assert plain[name] == pytest.approx((high - low) / 255)
    assert narrow[name] < 0.97 * plain[name]


def test_int16_has_the_extremes_for_ends():
    bit = bit_of(units=(1,))
    assert converted("int16x8", bit, ranges="mse") == converted("int16x8", bit, ranges="min_max")


def test_models_without_norms_have_ranges_too():
    bit = bit_of(units=(1,))
    frozen = bit.with_weights(bit.weights, frozen_norms=dict.fromkeys(bit.norms, 1.0))
    assert converted("int8", frozen, ranges="mse") != converted("int8", frozen, ranges="min_max")
