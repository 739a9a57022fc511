from functools import partial

import numpy as np
import pytest

from stages.bit import network, pruning, training
from stages.bit.hyperrule import Recipe
from stages.bit.model import HEAD, ROOT, fold, untrained, with_head
from stages.params import Channels, Int8, Magnitude, Scheme
from stages.tflite import conversion, runtime

DENSE = {f"{ROOT}/kernel", f"{HEAD}/kernel"}
UNITS = ("resnet/block1/unit01", "resnet/block1/unit02")


@pytest.fixture(scope="module")
def bit():
    """A folded BiT of random weights, also where a fresh one has ones and zeros."""
    fresh = untrained("bit-test", filters=16, units=(2,), groups=8, root=3, pool=False, image_size=(16, 12), seed=0)
    fresh = with_head(fresh, ("a", "b", "c"), (16, 12))
    random = np.random.default_rng(1)
    return fold(
        fresh.with_weights(
            {
                name: (value + 0.3 * random.standard_normal(value.shape)).astype(np.float32)
                for name, value in fresh.weights.items()
            }
        )
    )


def fit_of(steps):
    """Training on noise, as a stage's recovery is."""
    random = np.random.default_rng(2)
    images = training.Images(random.integers(256, size=(24, 16, 16, 3), dtype=np.uint8), np.arange(24) % 3)
    recipe = Recipe(steps, 6, learning_rate=0.01, resize=16, image_size=16, warmup=0, decays=())
    return partial(training.fit, train=images, validation=images, recipe=recipe, seed=0)


def unexpected_fit(model, **_):
    raise AssertionError("no steps were asked for")


def shares_of_zeros(bit):
    return {name: float(np.mean(kernel == 0)) for name, kernel in bit.kernels.items()}


def logits(bit, count=3):
    size = bit.architecture.image_size
    pixels = np.random.default_rng(3).integers(256, size=(count, *size, 3)).astype(np.float32)
    return network.build(bit)(pixels).numpy()


# Magnitude


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_magnitude_without_steps_zeros_the_smallest_at_once(bit, sparsity):
    pruned = pruning.magnitude(bit, sparsity, steps=0, fit=unexpected_fit)
    assert pruned.architecture == bit.architecture
    for name, value in bit.weights.items():
        if name in DENSE or not name.endswith("/kernel"):
            assert np.array_equal(pruned.weights[name], value)
            continue
        zero = pruned.weights[name] == 0
        assert np.mean(zero) == pytest.approx(sparsity, abs=0.01)
        assert np.array_equal(pruned.weights[name][~zero], value[~zero])
        assert np.abs(value[zero]).max(initial=0) <= np.abs(value[~zero]).min()


@pytest.mark.parametrize(("sparsity", "steps"), [(0.8, 1), (0.6, 9)])
def test_magnitude_with_steps_ends_at_the_sparsity_asked_for(bit, sparsity, steps):
    square = bit.with_weights(bit.weights, image_size=(16, 16))
    pruned = pruning.prune(square, Magnitude(method="magnitude", sparsity=sparsity, steps=steps), fit_of(steps))
    shares = shares_of_zeros(pruned)
    assert shares == pytest.approx({name: 0 if name in DENSE else sparsity for name in shares}, abs=0.01)
    # It has learnt: the dense weights, and those that are left.
    for name, value in pruned.weights.items():
        assert not np.array_equal(value[value != 0], bit.weights[name][value != 0])


def test_zeros_stay_whatever_training_does_last(bit):
    def fit(model, **_):
        model(np.zeros((1, 16, 12, 3), np.float32), training=True)
        for variable in model.trainable_variables:
            variable.assign_add(np.ones(variable.shape))

    shares = shares_of_zeros(pruning.magnitude(bit, 0.5, steps=1, fit=fit))
    assert shares == pytest.approx({name: 0 if name in DENSE else 0.5 for name in shares}, abs=0.01)


# Channels


def by_hand():
    """Three groups of two channels, read by a 3x3 convolution to four outputs."""
    reader = np.zeros((3, 3, 6, 4))
    reader[0, 1, 0, 2], reader[2, 2, 0, 3], reader[1, 1, 1, 0] = 3, 4, 1  # norms 5 and 1
    reader[0, 0, 2, 0], reader[1, 1, 3, 1] = 2, -2
    reader[0, 0, 4, 0], reader[0, 0, 5, 0] = 100, 1
    return {"gamma": np.array([1, 1, -4, 2, 0, 3]), "reader": reader, "groups": 3}


@pytest.mark.parametrize(
    ("keep", "expected"),
    # 5^2 + 1^2 = 26, 8^2 + 4^2 = 80, 0 + 3^2 = 9.
    [(1.0, [0, 1, 2, 3, 4, 5]), (0.67, [0, 1, 2, 3]), (0.33, [2, 3]), (0.01, [2, 3])],
)
def test_important_channels(keep, expected):
    assert pruning.important_channels(**by_hand(), keep=keep).tolist() == expected


@pytest.mark.parametrize(("keep", "groups"), [(0.5, 4), (0.25, 2), (0.8, 6), (0.01, 1)])
def test_channels_leave_whole_groups(bit, keep, groups):
    smaller = pruning.channels(bit, keep)
    inner = 2 * groups
    for unit in UNITS:
        shapes = {c: smaller.weights[f"{unit}/{c}/standardized_conv2d/kernel"].shape for c in "abc"}
        inputs = 16 if unit == UNITS[0] else 64
        assert shapes == {"a": (1, 1, inputs, inner), "b": (3, 3, inner, inner), "c": (1, 1, inner, 64)}
        for norm in "bc":
            assert smaller.weights[f"{unit}/{norm}/group_norm/gamma"].shape == (inner,)
            assert smaller.weights[f"{unit}/{norm}/group_norm/beta"].shape == (inner,)
            assert smaller.groups(f"{unit}/{norm}/group_norm") == groups
        assert smaller.groups(f"{unit}/a/group_norm") == 8
    outside = [name for name in bit.weights if "proj" in name or "/a/group_norm" in name or "unit" not in name]
    assert all(np.array_equal(smaller.weights[name], bit.weights[name]) for name in outside)
    assert smaller.macs < bit.macs and smaller.parameters < bit.parameters


@pytest.mark.parametrize("keep", [0.5, 0.01])
def test_smaller_model_is_the_full_one_without_what_the_removed_groups_give(bit, keep):
    smaller = pruning.channels(bit, keep)
    silenced = dict(bit.weights)
    for unit in UNITS:
        for name in "bc":
            # Random gammas are all different, so they tell which channels stayed.
            gamma, left = (b.weights[f"{unit}/{name}/group_norm/gamma"] for b in (bit, smaller))
            removed = ~np.isin(gamma, left)
            assert removed.any()
            kernel = silenced[f"{unit}/{name}/standardized_conv2d/kernel"].copy()
            kernel[:, :, removed] = 0
            silenced[f"{unit}/{name}/standardized_conv2d/kernel"] = kernel
    expected = logits(bit.with_weights(silenced))
    assert np.abs(logits(smaller) - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(logits(bit) - expected).max() > 0.01 * np.abs(expected).max()


def test_keeping_all_channels_changes_nothing(bit):
    same = pruning.channels(bit, 1.0)
    assert same.architecture == bit.architecture
    assert same.weights.keys() == bit.weights.keys()
    assert all(np.array_equal(value, bit.weights[name]) for name, value in same.weights.items())


def test_channels_of_a_pruned_model(bit):
    twice = pruning.channels(pruning.channels(bit, 0.5), 0.5)
    assert {twice.groups(f"{unit}/{norm}/group_norm") for unit in UNITS for norm in "bc"} == {2}
    assert logits(twice).shape == (3, 3)


def test_channels_recover(bit):
    square = bit.with_weights(bit.weights, image_size=(16, 16))
    smaller = pruning.channels(square, 0.5)
    untouched = pruning.prune(square, Channels(method="channels", keep=0.5, steps=0), fit_of(0))
    assert all(np.array_equal(untouched.weights[name], value) for name, value in smaller.weights.items())
    recovered = pruning.prune(square, Channels(method="channels", keep=0.5, steps=2), fit_of(2))
    assert {n: w.shape for n, w in recovered.weights.items()} == {n: w.shape for n, w in smaller.weights.items()}
    assert not any(np.array_equal(recovered.weights[name], value) for name, value in smaller.weights.items())


# Conversion


@pytest.mark.parametrize(
    "scheme",
    [*(Scheme(scheme=scheme) for scheme in ("float32", "float16", "dynamic")), Int8(scheme="int8")],
    ids=lambda how: how.scheme,
)
def test_sparsity_survives_conversion(bit, scheme, tmp_path):
    pruned = pruning.magnitude(bit, 0.8, steps=0, fit=unexpected_fit)
    calibration = np.random.default_rng(4).integers(256, size=(4, 16, 12, 3), dtype=np.uint8)
    (tmp_path / "model.tflite").write_bytes(conversion.convert(pruned, scheme, calibration))
    found = runtime.sparsity(tmp_path / "model.tflite")
    if scheme.scheme in ("float32", "float16"):
        assert found == pytest.approx(pruned.sparsity, abs=1e-12)
    else:
        # Of the dense fifth, integers round what is below half a step of about 1/127 of the largest to zero.
        assert pruned.sparsity <= found < pruned.sparsity + 0.02
    assert found > 0.7
