from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from bitlite.bit import network
from bitlite.bit.names import FINAL_NORM, HEAD, ROOT
from bitlite.bit.shapes import Shape
from bitlite.bit.weights import Bit, untrained
from bitlite.litert import runtime
from bitlite.pruning import speed
from bitlite.pruning.budget import evenly, within
from bitlite.pruning.importance import by_norm, by_taylor, loss_with, sampled
from bitlite.pruning.methods import prune
from bitlite.pruning.recovery import recover
from bitlite.pruning.zeros import zeroed
from bitlite.tflite import conversion
from bitlite.training import loop
from bitlite.training.batches import Images
from bitlite.training.checkpoint import Checkpoint
from bitlite.training.loop import Run
from bitlite.training.recipe import Recipe, recovery_recipe, recovery_recipes
from bitlite.workflow.errors import InputError, WrongValue
from bitlite.workflow.params import NM, Channels, Combine, Integers, Magnitude, NormFree, Quantize, Uncalibrated, Units

DENSE = {f"{ROOT}/kernel", f"{HEAD}/kernel"}
UNITS = ("resnet/block1/unit01", "resnet/block1/unit02")


@pytest.fixture(scope="module")
def bit():
    """A folded BiT of random weights, also where a fresh one has ones and zeros."""
    fresh = untrained(
        "bit-test", Shape(filters=16, units=(2,), groups=8, root=3, pool=False, image_size=(16, 12)), seed=0
    )
    fresh = fresh.with_head(("a", "b", "c"), (16, 12))
    random = np.random.default_rng(1)
    return (
        fresh.with_weights(
            {
                name: (value + 0.3 * random.standard_normal(value.shape)).astype(np.float32)
                for name, value in fresh.weights.items()
            }
        )
    ).folded()


@pytest.fixture(scope="module")
def square(bit):
    """`bit` for images as high as wide, as training has them."""
    return bit.with_weights(bit.weights, image_size=(16, 16))


def run_of_noise():
    """A fine-tuning on noise, whose images and augmentation recovery shares."""
    random = np.random.default_rng(2)
    images = Images(random.integers(256, size=(24, 16, 16, 3), dtype=np.uint8), np.arange(24) % 3)
    return Run(Recipe(9, 12, 0.1, resize=16, image_size=16, warmup=0, decays=()), images, images, seed=0)


def batches():
    """Two batches of noise of each class, of the size of `bit`."""
    random = np.random.default_rng(5)
    for _ in range(2):
        targets = np.eye(3, dtype=np.float32)[np.arange(6) % 3]
        yield random.integers(256, size=(6, 16, 12, 3)).astype(np.float32), targets


def no_batches():
    raise AssertionError("this needs no images")


def recovered(bit, entry, **options):
    run = run_of_noise()
    return recover(prune(bit, entry, partial(sampled, run, bit)), bit, entry, run, **options)


def equal(some, other):
    """Whether two BiTs are so, bit for bit."""
    return (
        some.architecture == other.architecture
        and some.weights.keys() == other.weights.keys()
        and all(np.array_equal(value, other.weights[name]) for name, value in some.weights.items())
    )


def shares_of_zeros(bit):
    return {name: float(np.mean(kernel == 0)) for name, kernel in bit.kernels.items()}


def logits(bit, count=3):
    size = bit.architecture.image_size
    pixels = np.random.default_rng(3).integers(256, size=(count, *size, 3)).astype(np.float32)
    return network.build(bit)(pixels).numpy()


# Magnitude


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_magnitude_without_steps_zeros_the_smallest_at_once(bit, sparsity):
    pruned = prune(bit, Magnitude(method="magnitude", sparsity=sparsity, scope="kernel"), no_batches)
    assert pruned.architecture == bit.architecture
    for name, value in bit.weights.items():
        if name in DENSE or not name.endswith("/kernel"):
            assert np.array_equal(pruned.weights[name], value)
            continue
        zero = pruned.weights[name] == 0
        assert np.mean(zero) == pytest.approx(sparsity, abs=0.01)
        assert np.array_equal(pruned.weights[name][~zero], value[~zero])
        assert np.abs(value[zero]).max(initial=0) <= np.abs(value[~zero]).min()


@pytest.mark.parametrize(
    ("sparsity", "steps", "schedule"), [(0.8, 1, "polynomial"), (0.6, 9, "polynomial"), (0.6, 3, "constant")]
)
def test_magnitude_with_steps_ends_at_the_sparsity_asked_for(square, sparsity, steps, schedule):
    entry = Magnitude(method="magnitude", sparsity=sparsity, scope="kernel", steps=steps, schedule=schedule)
    pruned = recovered(square, entry)
    shares = shares_of_zeros(pruned)
    assert shares == pytest.approx({name: 0 if name in DENSE else sparsity for name in shares}, abs=0.01)
    # It has learnt: the dense weights, and those that are left.
    for name, value in pruned.weights.items():
        assert not np.array_equal(value[value != 0], square.weights[name][value != 0])


@pytest.mark.parametrize("steps", [0, 3])
def test_of_the_whole_model_those_kernels_lose_most_that_have_most_to_spare(square, steps):
    """By each weight's square as a share of those that are not smaller, as LAMP has it: scales do not count."""
    kernels = {name: value for name, value in square.weights.items() if name.endswith("/kernel") and name not in DENSE}
    scores = {
        name: [weight**2 / np.sum(value[np.abs(value) >= abs(weight)] ** 2) for weight in value.ravel()]
        for name, value in kernels.items()
    }
    threshold = np.quantile(np.concatenate(list(scores.values())), 0.8)
    expected = {name: np.mean(np.array(scores.get(name, [1])) < threshold) for name in shares_of_zeros(square)}
    first = next(iter(kernels))
    scaled = square.with_weights(square.weights | {first: 100 * square.weights[first]})
    pruned = recovered(scaled, Magnitude(method="magnitude", sparsity=0.8, steps=steps))
    shares = shares_of_zeros(pruned)
    assert shares == pytest.approx(expected, abs=0.01)
    assert np.mean(np.concatenate([pruned.weights[name].ravel() for name in kernels]) == 0) == pytest.approx(
        0.8, abs=0.01
    )
    assert max(shares.values()) - min(shares[name] for name in kernels) > 0.02


def test_zeros_stay_whatever_training_does_last(bit):
    def fit(model):
        model(np.zeros((1, 16, 12, 3), np.float32), training=True)
        for variable in model.trainable_variables:
            variable.assign_add(np.ones(variable.shape))

    shares = shares_of_zeros(zeroed(bit, Magnitude(method="magnitude", sparsity=0.5, scope="kernel"), 1, fit))
    assert shares == pytest.approx({name: 0 if name in DENSE else 0.5 for name in shares}, abs=0.01)


# Channels


def cut(bit, keep, importance="norm", **targets):
    return prune(bit, Channels(method="channels", keep=keep, importance=importance, **targets), batches)


def test_norm_importance_by_hand(bit):
    unit = UNITS[0]
    reader = np.zeros((3, 3, 16, 16), np.float32)
    reader[0, 1, 0, 2], reader[2, 2, 0, 3], reader[1, 1, 1, 0] = 3, 4, 1  # norms 5 and 1
    reader[0, 0, 2, 0], reader[1, 1, 3, 1] = 2, -2
    reader[0, 0, 4, 0], reader[0, 0, 5, 0] = 100, 1
    gamma = np.ones(16, np.float32)
    gamma[2:6] = -4, 2, 0, 3
    changes = {f"{unit}/b/standardized_conv2d/kernel": reader, f"{unit}/b/group_norm/gamma": gamma}
    score = by_norm(bit.with_weights(bit.weights | changes), "inner")[f"{unit}/b/group_norm"]
    # Of three groups of two: 5^2 + 1^2, 8^2 + 4^2, 0 + 3^2.
    assert score == pytest.approx(np.array([26, 80, 9, 0, 0, 0, 0, 0]) / 115)


def losses_of(bit, pixels, targets):
    """Cross-entropy of each image."""
    exponentials = np.exp(network.build(bit)(pixels).numpy().astype(np.float64))
    return -np.sum(targets * np.log(exponentials / exponentials.sum(1, keepdims=True)), axis=1)


def test_taylor_importance_foretells_the_loss_of_a_weaker_group(bit):
    found = by_taylor(bit, batches(), "inner")
    assert set(found) == {f"{unit}/{norm}/group_norm" for unit in UNITS for norm in "bc"}
    pixels, targets = (np.concatenate(parts) for parts in zip(*batches(), strict=True))
    for norm, group in ((f"{UNITS[0]}/b/group_norm", 3), (f"{UNITS[1]}/c/group_norm", 0)):
        losses = []
        for step in (-0.002, 0.002):
            weights = dict(bit.weights)
            for name in ("gamma", "beta"):
                weights[f"{norm}/{name}"] = weights[f"{norm}/{name}"].copy()
                weights[f"{norm}/{name}"][2 * group : 2 * group + 2] *= 1 + step
            losses.append(losses_of(bit.with_weights(weights), pixels, targets))
        slopes = (losses[1] - losses[0]) / 0.004
        assert found[norm][group] == pytest.approx(np.mean(slopes**2), rel=0.1)


def test_loss_without_groups_is_that_of_the_model_without_them(bit):
    importance = by_norm(bit, "inner")
    loss = loss_with(bit, list(batches()))
    pixels, targets = (np.concatenate(parts) for parts in zip(*batches(), strict=True))
    for keep in (0.25, 1.0, 0.5):
        expected = np.mean(losses_of(cut(bit, keep), pixels, targets))
        assert loss(evenly(importance, keep)) == pytest.approx(expected, rel=1e-4)


def macs_share(some, other):
    """Of convolutions, as the targets count."""
    return some.macs / other.macs


@pytest.mark.parametrize("importance", ["norm", "taylor"])
@pytest.mark.parametrize("target", [0.8, 0.45])
def test_target_is_met_with_no_group_too_many(bit, importance, target):
    smaller = cut(bit, keep=None, target_macs=target, importance=importance)
    assert 0.9 * target < macs_share(smaller, bit) <= target
    fewer = cut(bit, keep=None, target_parameters=target, importance=importance)
    assert (
        0.9 * target < sum(k.size for k in fewer.kernels.values()) / sum(k.size for k in bit.kernels.values()) <= target
    )


def test_shares_follow_from_importance_where_that_lowers_the_loss(bit):
    """A norm that gives nothing is cut more than the others, and one share for all is taken where nothing is better."""
    idle = f"{UNITS[1]}/c/group_norm"
    weights = bit.weights | {f"{idle}/{name}": np.zeros(16, np.float32) for name in ("gamma", "beta")}
    uneven = bit.with_weights(weights)
    importance = by_norm(bit, "inner") | {idle: np.zeros(8)}
    images = [(pixels, answers(uneven, pixels)) for pixels, _ in batches()]
    loss = loss_with(uneven, images)
    kept = within(uneven, importance, "target_macs", 0.6, loss)
    counts = {norm: len(groups) for norm, groups in kept.items()}
    assert counts[idle] == min(counts.values()) < max(counts.values())
    assert loss(kept) < loss(within(uneven, importance, "target_macs", 0.6, lambda each: abs(spread(each))))
    assert spread(within(uneven, importance, "target_macs", 0.6, spread)) <= 1


def answers(bit, pixels):
    """What the whole model says of the images, so that every change raises the loss."""
    exponentials = np.exp(network.build(bit)(pixels).numpy())
    return exponentials / exponentials.sum(1, keepdims=True)


def spread(kept):
    return max(map(len, kept.values())) - min(map(len, kept.values()))


def test_target_out_of_reach_names_what_is_in_reach(bit):
    with pytest.raises(InputError, match=r"target_macs is 0.01, but channels can't bring it below 0\.\d+") as error:
        cut(bit, keep=None, target_macs=0.01)
    reachable = float(str(error.value).rsplit(" ", 1)[1])
    assert macs_share(cut(bit, keep=1 / 8), bit) == pytest.approx(reachable, abs=1e-3)


def test_keep_that_leaves_a_layer_nothing_is_refused(bit):
    with pytest.raises(InputError, match=rf"keep is 0.06, which leaves none of the 8 groups of {UNITS[0]}/b/group_nor"):
        cut(bit, 0.06)


def test_target_latency_with_channels_that_can_not_go_is_told(bit):
    with pytest.raises(
        InputError, match="target_latency is 0.5, but channels can't bring even the multiply-adds below 0.97"
    ):
        speed.fast_enough(bit, lambda share: bit, least=0.97, target=0.5)


@pytest.mark.parametrize(("target", "expected"), [(0.45, 0.4), (0.2, 0.2), (0.9, 0.8), (0.799, 0.6)])
def test_largest_that_is_fast_enough(target, expected):
    tried = []

    def latency_of(share):
        tried.append(share)
        return share

    found = speed.largest(lambda share: share, [0.2, 0.4, 0.6, 0.8], target, latency_of)
    assert found == expected and len(tried) <= 3


def test_latency_is_a_target(bit, monkeypatch):
    monkeypatch.setattr(speed, "latency_share", lambda smaller, other, scratch: macs_share(smaller, other) ** 0.5)
    assert 0.6**2 - 0.1 < macs_share(cut(bit, keep=None, target_latency=0.6), bit) <= 0.6**2


def test_latency_out_of_reach_names_what_is_in_reach(bit):
    with pytest.raises(InputError, match=r"target_latency is 0.01, .* below \d\.\d\d on this machine"):
        cut(bit, keep=None, target_latency=0.01)


@pytest.mark.parametrize(("keep", "groups"), [(0.5, 4), (0.25, 2), (0.8, 6), (0.13, 1)])
def test_channels_leave_whole_groups(bit, keep, groups):
    smaller = cut(bit, keep)
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


@pytest.mark.parametrize(
    "cuts", [{"keep": 0.5}, {"keep": 0.13}, {"keep": 0.5, "importance": "taylor"}, {"keep": None, "target_macs": 0.6}]
)
def test_smaller_model_is_the_full_one_without_what_the_removed_groups_give(bit, cuts):
    smaller = cut(bit, **cuts)
    silenced = dict(bit.weights)
    for unit in UNITS:
        for name in "bc":
            # Random gammas are all different, so they tell which channels stayed.
            gamma, left = (b.weights[f"{unit}/{name}/group_norm/gamma"] for b in (bit, smaller))
            removed = ~np.isin(gamma, left)
            kernel = silenced[f"{unit}/{name}/standardized_conv2d/kernel"].copy()
            kernel[:, :, removed] = 0
            silenced[f"{unit}/{name}/standardized_conv2d/kernel"] = kernel
    assert any(np.any(silenced[name] != bit.weights[name]) for name in silenced)
    expected = logits(bit.with_weights(silenced))
    assert np.abs(logits(smaller) - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(logits(bit) - expected).max() > 0.01 * np.abs(expected).max()


def test_keeping_all_channels_changes_nothing(bit):
    same = cut(bit, 1.0)
    assert same.architecture == bit.architecture
    assert same.weights.keys() == bit.weights.keys()
    assert all(np.array_equal(value, bit.weights[name]) for name, value in same.weights.items())


# Of all sites: what a block's shortcuts carry, by the norms and the convolutions that read it, written out by hand.
B1, B2, B3 = (f"resnet/block{block}" for block in (1, 2, 3))
TRUNK = {
    f"{B2}/unit01/a/group_norm": {f"{B2}/unit01/a/group_norm": ("a", "a/proj")},
    f"{B3}/unit01/a/group_norm": {f"{B2}/unit02/a/group_norm": ("a",), f"{B3}/unit01/a/group_norm": ("a", "a/proj")},
    FINAL_NORM: {FINAL_NORM: ()},
}


def reader(norm, part):
    return f"{norm.removesuffix('/a/group_norm')}/{part}/standardized_conv2d/kernel"


@pytest.fixture(scope="module")
def deep():
    """A folded BiT of three blocks, of random weights."""
    fresh = untrained(
        "bit-test", Shape(filters=16, units=(1, 2, 1), groups=8, root=3, pool=False, image_size=(16, 12)), seed=0
    ).with_head(("a", "b", "c"), (16, 12))
    random = np.random.default_rng(1)
    weights = {name: value + 0.3 * random.standard_normal(value.shape) for name, value in fresh.weights.items()}
    return fresh.with_weights({name: value.astype(np.float32) for name, value in weights.items()}).folded()


@pytest.mark.parametrize(
    "cuts", [{"keep": 0.5}, {"keep": 0.13}, {"keep": 0.5, "importance": "taylor"}, {"keep": None, "target_macs": 0.3}]
)
def test_model_without_groups_of_the_trunk_is_the_full_one_without_what_they_give(deep, cuts, tmp_path):
    smaller = cut(deep, scope="all", **cuts)
    silenced = dict(deep.weights)
    for norm in deep.norms:
        # Random gammas are all different, so they tell which channels stayed.
        gamma, left = (each.weights[f"{norm}/gamma"] for each in (deep, smaller))
        for name in ("gamma", "beta"):
            silenced[f"{norm}/{name}"] = np.where(np.isin(gamma, left), deep.weights[f"{norm}/{name}"], 0)
        stays = np.isin(gamma, left).reshape(8, -1)
        assert np.all(stays.all(axis=1) == stays.any(axis=1))  # whole groups
        assert smaller.groups(norm) == stays.any(axis=1).sum()
    for last, norms in TRUNK.items():
        assert {smaller.groups(norm) for norm in norms} == {smaller.groups(last)} != {8}
    assert smaller.groups(f"{B1}/unit01/a/group_norm") == 8  # the root stays
    expected = logits(deep.with_weights(silenced))
    assert np.abs(logits(smaller) - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(logits(deep) - expected).max() > 0.01 * np.abs(expected).max()
    smaller.save(tmp_path / "smaller")
    assert equal(Bit.load(tmp_path / "smaller"), smaller)


def test_trunk_reaches_what_inner_channels_can_not(deep):
    with pytest.raises(InputError, match="target_macs is 0.1, but channels can't bring it below"):
        cut(deep, keep=None, target_macs=0.1)
    assert 0.05 < macs_share(cut(deep, keep=None, target_macs=0.1, scope="all"), deep) <= 0.1


def test_norm_importance_of_the_trunk_by_hand(deep):
    found = by_norm(deep, "all")
    assert found.keys() - by_norm(deep, "inner").keys() == TRUNK.keys()
    for last, norms in TRUNK.items():
        energy = 0
        for norm, parts in norms.items():
            for name in [reader(norm, part) for part in parts] or [f"{HEAD}/kernel"]:
                energy += deep.weights[f"{norm}/gamma"] ** 2 * (deep.weights[name] ** 2).sum(axis=(0, 1, 3))
        by_group = energy.reshape(8, -1).sum(axis=1)
        assert found[last] == pytest.approx(by_group / by_group.sum(), rel=1e-4)


def test_taylor_importance_of_the_trunk_foretells_the_loss_of_a_weaker_group(deep):
    found = by_taylor(deep, batches(), "all")
    pixels, targets = (np.concatenate(parts) for parts in zip(*batches(), strict=True))
    for (last, norms), group in zip(TRUNK.items(), (3, 0, 7), strict=True):
        losses = []
        for step in (-0.002, 0.002):
            weights = dict(deep.weights)
            for name in (f"{norm}/{each}" for norm in norms for each in ("gamma", "beta")):
                weights[name] = weights[name].copy()
                weights[name].reshape(8, -1)[group] *= 1 + step
            losses.append(losses_of(deep.with_weights(weights), pixels, targets))
        slopes = (losses[1] - losses[0]) / 0.004
        assert found[last][group] == pytest.approx(np.mean(slopes**2), rel=0.1)


def test_loss_without_groups_of_the_trunk_is_that_of_the_model_without_them(deep):
    loss = loss_with(deep, list(batches()))
    pixels, targets = (np.concatenate(parts) for parts in zip(*batches(), strict=True))
    for keep in (0.25, 1.0, 0.5):
        expected = np.mean(losses_of(cut(deep, keep, scope="all"), pixels, targets))
        assert loss(evenly(by_norm(deep, "all"), keep)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "entry",
    [
        Channels(method="channels", keep=0.5, scope="all"),
        Units(method="units", remove=1),
        NormFree(method="norm_free", norms="all"),
        Magnitude(method="magnitude", sparsity=0.5),
    ],
    ids=lambda entry: entry.method,
)
def test_every_method_takes_a_model_with_a_narrower_trunk(deep, entry):
    smaller = cut(deep, 0.5, scope="all")
    found = prune(smaller, entry, batches)
    assert not equal(found, smaller)
    assert np.isfinite(logits(found)).all()


def test_channels_of_a_pruned_model(bit):
    twice = cut(cut(bit, 0.5), 0.5)
    assert {twice.groups(f"{unit}/{norm}/group_norm") for unit in UNITS for norm in "bc"} == {2}
    assert logits(twice).shape == (3, 3)


def test_rounds_leave_in_the_end_what_one_cut_leaves(bit):
    for cuts in ({"keep": 0.5}, {"keep": 0.37}, {"keep": None, "target_macs": 0.55}):
        one, three = cut(bit, **cuts), cut(bit, **cuts, rounds=3)
        groups = [{norm: smaller.groups(norm) for norm in bit.inner_norms} for smaller in (one, three)]
        if cuts["keep"]:
            assert groups[0] == groups[1]
        else:
            assert 0.9 * 0.55 < macs_share(three, bit) <= 0.55


def test_each_round_ranks_anew_what_the_round_before_left(square):
    """By hand: the first half of the way down to 4 of 8 groups leaves 6, which are trained, then ranked, then 4."""
    entry = Channels(method="channels", keep=0.5, importance="norm", rounds=2, steps=5)
    steps = []
    found = recovered(square, entry, log=lambda step, values: steps.append(step))
    assert steps == [1, 2, 3, 4, 5]
    first = recovered(square, Channels(method="channels", keep=0.75, importance="norm", steps=2))
    kept = evenly(by_norm(first, "inner"), 4 / 6)
    assert {norm: len(groups) for norm, groups in kept.items()} == dict.fromkeys(square.inner_norms, 4)
    smaller = prune(first, Channels(method="channels", keep=4 / 6, importance="norm"), no_batches)
    expected = recover(smaller, first, Channels(method="channels", keep=4 / 6, steps=3), run_of_noise())
    assert equal(found, expected)


def test_rounds_need_images_only_where_importance_does(square):
    entry = Channels(method="channels", keep=0.5, rounds=4, steps=0)
    run = run_of_noise()
    assert equal(recover(square, square, entry, run), prune(square, entry, partial(sampled, run, square)))
    assert prune(square, entry.model_copy(update={"importance": "norm"}), no_batches).macs < square.macs


def test_channels_recover(square):
    smaller = cut(square, 0.5)
    untouched = recovered(square, Channels(method="channels", keep=0.5, importance="norm", steps=0))
    assert all(np.array_equal(untouched.weights[name], value) for name, value in smaller.weights.items())
    trained = recovered(square, Channels(method="channels", keep=0.5, importance="norm", steps=2))
    assert {n: w.shape for n, w in trained.weights.items()} == {n: w.shape for n, w in smaller.weights.items()}
    assert not any(np.array_equal(trained.weights[name], value) for name, value in smaller.weights.items())


@pytest.mark.parametrize(
    ("entry", "standardised"),
    [
        (Channels(method="channels", keep=0.5, importance="norm", steps=2), True),
        (Units(method="units", steps=2), True),
        # Frozen norms take no scale out of what they read.
        (NormFree(method="norm_free", norms="inner", steps=2), False),
    ],
    ids=lambda value: getattr(value, "method", ""),
)
def test_kernels_are_standardised_as_they_recover_where_all_norms_are_exact(square, entry, standardised):
    trained = recovered(square, entry)
    assert not trained.architecture.standardized
    kernels = [value for name, value in trained.kernels.items() if not name.startswith(HEAD)]
    deviations = np.concatenate([kernel.std(axis=(0, 1, 2)) for kernel in kernels])
    means = np.concatenate([kernel.mean(axis=(0, 1, 2)) for kernel in kernels])
    assert (np.abs(deviations - 1).max() < 1e-4 and np.abs(means).max() < 1e-4) == standardised


# Patterns of zeros


def blocks(kernel, of):
    """Runs of `of` consecutive inputs, as a .tflite file stores them."""
    return np.moveaxis(kernel, 2, 3).reshape(-1, of)


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize(("zeros", "of"), [(2, 4), (6, 8)])
def test_n_m_leaves_so_many_of_every_run(square, zeros, of, steps):
    pruned = recovered(square, NM(method="n_m", zeros=zeros, of=of, steps=steps))
    for name, kernel in pruned.kernels.items():
        found = np.sum(blocks(kernel, of) == 0, axis=1) if name not in DENSE else np.array([])
        assert np.all(found == zeros)
        if not steps and name not in DENSE:
            before, after = (np.abs(blocks(k, of)) for k in (square.weights[name], kernel))
            assert np.array_equal(np.sort(after)[:, zeros:], np.sort(before)[:, zeros:])


def test_n_m_that_does_not_divide_is_refused(bit):
    with pytest.raises(InputError, match=r"5 of 7 weights can't be zero in resnet/\S+, which has \d+ inputs"):
        prune(bit, NM(method="n_m", zeros=5, of=7), no_batches)


def test_layers_choose_what_is_pruned(bit):
    entry = Magnitude(method="magnitude", sparsity=0.5, scope="kernel", layers=["resnet/block1/unit01/b/*", "*/head/*"])
    shares = shares_of_zeros(prune(bit, entry, no_batches))
    chosen = {f"{UNITS[0]}/b/standardized_conv2d/kernel", f"{HEAD}/kernel"}
    assert shares == pytest.approx({name: 0.5 if name in chosen else 0 for name in shares}, abs=0.02)


def test_layer_that_matches_nothing_is_named(bit):
    entry = Magnitude(method="magnitude", sparsity=0.5, layers=["*/unit01/*", "resnet/block9/*"])
    with pytest.raises(InputError, match=r"layers has 'resnet/block9/\*', which matches none"):
        prune(bit, entry, no_batches)


# Units


def test_unit_without_effect_goes_first():
    fresh = untrained(
        "bit-test", Shape(filters=16, units=(3, 2), groups=8, root=3, pool=False, image_size=(16, 12)), seed=0
    )
    random = np.random.default_rng(1)
    fresh = fresh.with_head(("a", "b", "c"), (16, 12))
    weights = {name: value + 0.3 * random.standard_normal(value.shape) for name, value in fresh.weights.items()}
    idle = "resnet/block1/unit02"
    weights |= {f"{idle}/c/group_norm/{name}": np.zeros(16) for name in ("gamma", "beta")}
    bit = fresh.with_weights({name: value.astype(np.float32) for name, value in weights.items()}).folded()

    def own_answers():
        return ((pixels, answers(bit, pixels)) for pixels, _ in batches())

    smaller = prune(bit, Units(method="units", remove=1), own_answers)
    assert {unit.path for unit in bit.units} - {unit.path for unit in smaller.units} == {idle}
    assert logits(smaller) == pytest.approx(logits(bit), rel=1e-4, abs=1e-4)
    assert smaller.macs < bit.macs
    fewest = prune(bit, Units(method="units", remove=3), batches)
    assert [unit.path[-13:] for unit in fewest.units] == ["block1/unit01", "block2/unit01"]
    with pytest.raises(InputError, match="remove is 4, but only 3 units have an identity shortcut"):
        prune(bit, Units(method="units", remove=4), batches)


# Recovery

FINETUNING = Recipe(
    400, 64, learning_rate=0.1, resize=36, image_size=32, warmup=80, decays=(160, 240, 320), padding=2, mixup=0.1,
    flip=True, weight_decay=0.01, batch_split=4,
)  # fmt: skip


@pytest.mark.parametrize(("examples", "shown"), [(3500, 25_600), (45_000, 512_000), (1_000_000, 1_024_000)])
@pytest.mark.parametrize("batch_size", [32, 128])
def test_recovery_shows_a_tenth_of_the_images_that_the_hyperrule_shows(examples, shown, batch_size):
    entry = Channels(method="channels", keep=0.5, batch_size=batch_size)
    assert recovery_recipe(entry, FINETUNING, examples=examples).steps == shown / batch_size
    assert recovery_recipe(Magnitude(method="magnitude", steps=7), FINETUNING, examples=examples).steps == 7


def test_recovery_is_as_the_entry_says_and_else_as_fine_tuning():
    entry = Channels(
        method="channels", keep=0.5, steps=100, batch_size=16, learning_rate=0.02, learning_rate_schedule="hyperrule",
        padding=1, mixup=1.0, distillation=0.5, temperature=3.0,
    )  # fmt: skip
    assert recovery_recipe(entry, FINETUNING, examples=3500) == Recipe(
        100, 16, learning_rate=0.02, resize=36, image_size=32, warmup=20, decays=(40, 60, 80), padding=1, mixup=1.0,
        flip=True, weight_decay=0.01, batch_split=4, optimizer="adam", distillation=0.5, temperature=3.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [("mixup", "auto", 0.1), ("mixup", 0.0, 0.0), ("mixup", 0.4, 0.4), ("padding", "auto", 2), ("padding", 0, 0)],
)
def test_augmentation_of_recovery_is_that_of_fine_tuning_or_its_own(key, value, expected):
    entry = Magnitude(method="magnitude", **{key: value})
    assert getattr(recovery_recipe(entry, FINETUNING, examples=3500), key) == expected


def test_rounds_share_the_steps_of_a_recovery():
    entry = Channels(method="channels", keep=0.5, steps=100, rounds=3)
    recipes = recovery_recipes(entry, FINETUNING, examples=3500)
    assert [each.steps for each in recipes] == [33, 33, 34]
    assert [each.warmup for each in recipes] == [6, 6, 6]
    (one,) = recovery_recipes(entry.model_copy(update={"rounds": 1}), FINETUNING, examples=3500)
    assert one == recovery_recipe(entry, FINETUNING, examples=3500)


@pytest.mark.parametrize("finetuning", ["hyperrule", "cosine", "constant"])
@pytest.mark.parametrize("schedule", ["hyperrule", "cosine", "constant"])
def test_learning_rate_schedule_is_the_entrys(schedule, finetuning):
    entry = Magnitude(method="magnitude", learning_rate_schedule=schedule)
    found = recovery_recipe(entry, replace(FINETUNING, learning_rate_schedule=finetuning), examples=3500)
    assert found == recovery_recipe(entry, FINETUNING, examples=3500)
    assert found.learning_rate_schedule == schedule


def test_parts_follow_each_other(square):
    parts = [
        Channels(method="channels", keep=0.5, importance="norm", steps=2),
        Magnitude(method="magnitude", sparsity=0.6, scope="kernel", steps=3),
    ]
    entry, steps = Combine(method="combine", parts=parts), []
    both = recovered(square, entry, log=lambda step, values: steps.append(step))
    assert steps == [1, 2, 3, 4, 5]
    assert both.macs == cut(square, 0.5).macs
    shares = shares_of_zeros(both)
    assert shares == pytest.approx({name: 0 if name in DENSE else 0.6 for name in shares}, abs=0.01)
    # The second part starts from the first one's recovered model.
    first = recovered(square, parts[0])
    then = recover(first, first, parts[1], run_of_noise())
    assert all(np.array_equal(both.weights[name], value) for name, value in then.weights.items())


class Interruption(Exception):
    pass


TAUGHT = {"distillation": 1.0, "mixup": 0.5}
CUT = Channels(method="channels", keep=0.5, importance="norm", rounds=2, steps=6, **TAUGHT)
SPARSE = Magnitude(method="magnitude", sparsity=0.6, steps=6, **TAUGHT)


@pytest.mark.parametrize(
    ("entry", "stops"),
    [
        (CUT, (2, 5)),
        (SPARSE, (4,)),  # zeros grow until step 2, and the masks stay from there on
        (SPARSE.model_copy(update={"schedule": "constant"}), (2, 3)),
        (NM(method="n_m", steps=4), (3,)),
        (Combine(method="combine", parts=[CUT, NormFree(method="norm_free", steps=2), SPARSE]), (5, 8, 12)),
        (Quantize(method="quantize", steps=4, **TAUGHT), (3,)),
        (Combine(method="combine", parts=[SPARSE, Quantize(method="quantize", weights=4, steps=3)]), (4, 8)),
    ],
    ids=["rounds", "magnitude", "constant", "n_m", "combine", "quantize", "sparse"],
)
def test_interrupted_recovery_ends_as_an_unbroken_one(square, tmp_path, entry, stops):
    curve, again = [], []
    unbroken = recovered(square, entry, log=lambda *point: curve.append(point))
    checkpoint = Checkpoint(tmp_path / "states", "data", seconds=0)

    def interrupted(at, step, values):
        if step == at:
            raise Interruption

    for at in stops:
        with pytest.raises(Interruption):
            recovered(square, entry, log=partial(interrupted, at), checkpoint=checkpoint)
        assert len(list(checkpoint.directory.iterdir())) == 1
    assert equal(recovered(square, entry, log=lambda *point: again.append(point), checkpoint=checkpoint), unbroken)
    assert again == curve


def test_finished_parts_are_not_trained_again(square, tmp_path, monkeypatch):
    entry = Combine(method="combine", parts=[CUT, SPARSE])
    checkpoint = Checkpoint(tmp_path / "states", "data", seconds=0)

    def log(step, values):
        if step == 9:
            raise Interruption

    with pytest.raises(Interruption):
        recovered(square, entry, log=log, checkpoint=checkpoint)
    firsts, whole = [], loop.batches
    monkeypatch.setattr(loop, "batches", lambda *args: firsts.append((args[1].steps, args[-1])) or whole(*args))
    recovered(square, entry, checkpoint=checkpoint)
    assert firsts == [(3, 3), (3, 3), (6, 2)]  # steps of each training, and the first that is done


def test_checkpoint_of_another_entry_is_ignored(square, tmp_path):
    def checkpoint(entry):
        return Checkpoint(tmp_path / "states", repr(entry), seconds=0)

    def log(step, values):
        if step == 3:
            raise Interruption

    some, other = (NM(method="n_m", zeros=zeros, of=of, steps=4) for zeros, of in ((2, 4), (4, 8)))
    with pytest.raises(Interruption):  # as many zeros, and so equal weights and masks at first
        recovered(square, some, log=log, checkpoint=checkpoint(some))
    assert equal(recovered(square, other, checkpoint=checkpoint(other)), recovered(square, other))


def test_a_rate_too_high_names_the_part_and_leaves_no_checkpoint(square, tmp_path):
    parts = [Channels(method="channels", keep=0.5, importance="norm", steps=2), SPARSE]
    for index in (0, 1):
        wrong = [part.model_copy(update={"learning_rate": 1e30}) if part is parts[index] else part for part in parts]
        told = rf"^parts\[{index}\]\.learning_rate is 1e\+30: at step \d (the loss is not|a weight has grown)"
        with pytest.raises(WrongValue, match=told):
            recovered(
                square, Combine(method="combine", parts=wrong), checkpoint=Checkpoint(tmp_path / "states", "data")
            )
        assert not any(tmp_path.iterdir())


def test_importance_is_measured_on_as_many_images_as_the_model_is_small(square):
    run = run_of_noise()
    run = replace(run, recipe=replace(run.recipe, mixup=0.5))
    shown = list(sampled(run, square))
    assert sum(len(pixels) for pixels, _ in shown) == 512
    assert all(set(np.unique(targets)) == {0, 1} for _, targets in shown)  # not mixed
    large = square.with_weights(square.weights, image_size=(2**14, 2**14))
    assert large.macs > 2e11 / 32
    assert sum(len(pixels) for pixels, _ in sampled(run, large)) == 32


def test_automatic_steps_are_one_for_each_round_however_large_the_batches():
    entry = Channels(method="channels", keep=0.5, batch_size=10**6, rounds=3)
    assert [recipe.steps for recipe in recovery_recipes(entry, FINETUNING, examples=50_000)] == [1, 1, 1]


# Conversion


@pytest.mark.parametrize(
    "scheme",
    [*(Uncalibrated(scheme=scheme) for scheme in ("float32", "float16", "dynamic")), Integers(scheme="int8")],
    ids=lambda scheme: scheme.scheme,
)
def test_sparsity_survives_conversion(bit, scheme, tmp_path):
    pruned = prune(bit, Magnitude(method="magnitude", sparsity=0.8), no_batches)
    calibration = np.random.default_rng(4).integers(256, size=(4, 16, 12, 3), dtype=np.uint8)
    (tmp_path / "model.tflite").write_bytes(conversion.convert(pruned, scheme, calibration))
    found = runtime.sparsity(tmp_path / "model.tflite")
    if scheme.scheme in ("float32", "float16"):
        assert found == pytest.approx(pruned.sparsity, abs=1e-12)
    else:
        # Of the dense fifth, integers round what is below half a step of about 1/127 of the largest to zero.
        assert pruned.sparsity <= found < pruned.sparsity + 0.02
    assert found > 0.7


@pytest.fixture(scope="module")
def narrow():
    """BiT-R50x1 as narrow and shallow as it can be: four blocks, the root with its pool. Pruned by half."""
    bare = untrained(
        "narrow", Shape(filters=8, units=(2, 1, 1, 2), groups=4, root=7, pool=True, image_size=(64, 64)), seed=0
    )
    fresh = bare.with_head(("a", "b", "c"), (64, 64))
    random = np.random.default_rng(6)
    head = random.standard_normal(fresh.weights[f"{HEAD}/kernel"].shape).astype(np.float32)
    whole = (fresh.with_weights(fresh.weights | {f"{HEAD}/kernel": head})).folded()
    images = random.integers(256, size=(8, 64, 64, 3)).astype(np.float32), np.eye(3, dtype=np.float32)[np.arange(8) % 3]
    return whole, {
        scope: prune(whole, Channels(method="channels", keep=0.5, scope=scope), lambda: [images])
        for scope in ("inner", "all")
    }


@pytest.mark.parametrize("scope", ["inner", "all"])
@pytest.mark.parametrize("scheme", ["float32", "float16", "dynamic", "int8"])
def test_pruned_bit_of_many_blocks_converts(narrow, scheme, scope, tmp_path):
    whole, smaller = narrow[0], narrow[1][scope]
    assert [unit.path for unit in smaller.units] == [unit.path for unit in whole.units]
    assert smaller.macs < 0.7 * whole.macs
    pixels = np.random.default_rng(7).integers(256, size=(8, 64, 64, 3), dtype=np.uint8)
    entry = Integers(scheme=scheme) if scheme == "int8" else Uncalibrated(scheme=scheme)
    (tmp_path / "model.tflite").write_bytes(conversion.convert(smaller, entry, pixels))
    found = runtime.Classifier(tmp_path / "model.tflite").logits(pixels)
    expected = network.build(smaller)(pixels.astype(np.float32)).numpy()
    # A random network with two channels a group magnifies what integers round off.
    tolerance = 1e-3 if scheme == "float32" else 0.01 if scheme == "float16" else 0.2
    assert np.abs(found - expected).mean() < tolerance * np.abs(expected).mean()
    unpruned = network.build(whole)(pixels.astype(np.float32)).numpy()
    assert np.abs(unpruned - expected).mean() > 0.2 * np.abs(expected).mean()
