"""Frozen norms: which, at what constants, and what stays of them through recovery, further pruning and conversion."""

import numpy as np
import pytest
import test_network
from test_network import SMALL, assert_close, bit_of, forward, pixels_of
from test_pruning import run_of_noise

from bitlite.bit import network
from bitlite.bit.names import FINAL_NORM
from bitlite.bit.weights import Bit
from bitlite.pruning.freezing import frozen, rises_frozen
from bitlite.pruning.methods import prune
from bitlite.pruning.norms import multiplications, to_freeze
from bitlite.pruning.recovery import recover
from bitlite.pruning.rehearsal import rehearsed
from bitlite.workflow.errors import InputError
from bitlite.workflow.params import Channels, Combine, Magnitude, NormFree, Units

INNER = [
    f"resnet/block{block}/unit{unit:02}/{part}/group_norm" for block, unit in ((1, 1), (2, 1), (2, 2)) for part in "bc"
]
ALL = {*INNER, *(path.replace("/b/", "/a/") for path in INNER), FINAL_NORM}


@pytest.fixture(scope="module")
def bit():
    return bit_of({**SMALL, "image_size": (16, 16)}).folded()


def batches():
    random = np.random.default_rng(5)
    for _ in range(2):
        targets = np.eye(5, dtype=np.float32)[np.arange(5)]
        yield random.integers(256, size=(5, 16, 16, 3)).astype(np.float32), targets


def norm_free(norms="all", **keys):
    return NormFree(method="norm_free", norms=norms, **keys)


def logits(bit):
    return network.build(bit)(pixels_of(bit)).numpy()


@pytest.mark.parametrize("norms", ["all", "inner"])
def test_constants_are_regressions_front_to_back(bit, norms, monkeypatch):
    """Against BiT in NumPy, whose every norm is replaced by its regression before the next layer sees it."""
    pixels = np.concatenate([pixels for pixels, _ in batches()])
    chosen = [bit.weights[f"{path}/gamma"] for path in (ALL if norms == "all" else INNER)]
    exact = test_network.group_norm

    def regressed(x, gamma, beta, groups):
        outputs = exact(x, gamma, beta, groups)
        if not any(np.array_equal(gamma, each) for each in chosen):
            return outputs
        lines = [np.polyfit(x[..., c].ravel(), outputs[..., c].ravel(), 1) for c in range(x.shape[3])]
        return np.stack([np.polyval(line, x[..., c]) for c, line in enumerate(lines)], axis=3)

    monkeypatch.setattr(test_network, "group_norm", regressed)
    expected = forward(bit.weights, pixels, **SMALL)
    found = prune(bit, norm_free(norms), batches)
    assert_close(network.build(found)(pixels).numpy(), expected, 1e-3)
    assert found.architecture.frozen_norms.keys() == (ALL if norms == "all" else set(INNER))


def test_only_gammas_and_betas_change_and_stay_about_as_large(bit):
    found = prune(bit, norm_free(), batches)
    assert found.weights.keys() == bit.weights.keys()
    changed = {name for name, value in found.weights.items() if not np.array_equal(value, bit.weights[name])}
    assert changed == {f"{path}/{part}" for path in ALL for part in ("gamma", "beta")}
    for path in ALL:
        before, after = (np.median(np.abs(each.weights[f"{path}/gamma"])) for each in (bit, found))
        assert 0.5 < after / before < 2


def test_norms_with_most_gammas_zero_are_frozen_too(bit):
    gamma = "resnet/block1/unit01/b/group_norm/gamma"
    mostly = np.where(np.arange(8) < 6, 0, bit.weights[gamma]).astype(np.float32)
    found = prune(bit.with_weights(bit.weights | {gamma: mostly}), norm_free(), batches)
    assert np.array_equal(np.abs(found.weights[gamma]) > 1e-6, mostly > 0)


def test_channels_that_never_change_are_constants(bit):
    dead = "resnet/block1/unit01/a/standardized_conv2d/kernel"
    kernel = bit.weights[dead].copy()
    kernel[..., 0] = 0
    found = prune(bit.with_weights(bit.weights | {dead: kernel}), norm_free(), batches)
    assert found.weights["resnet/block1/unit01/b/group_norm/gamma"][0] == 0
    assert all(np.all(np.isfinite(value)) for value in found.weights.values())


def test_a_frozen_norm_is_a_scale_and_a_shift(bit):
    layer = network.FrozenNorm(4.0, name="norm")
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 5)).astype(np.float32)
    layer(x)  # builds it
    gamma, beta = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    layer.set_weights([gamma, beta])
    assert layer(x).numpy() == pytest.approx(x * gamma / 4 + beta, rel=1e-6, abs=1e-6)


def test_what_is_frozen_is_saved(bit, tmp_path):
    found = prune(bit, norm_free("inner"), batches)
    found.save(tmp_path / "bit")
    again = Bit.load(tmp_path / "bit")
    assert again.architecture == found.architecture
    assert np.array_equal(logits(again), logits(found))


# Which


def test_multiplications_of_norms_by_hand(bit):
    # Of 16 x 16 pixels the root leaves 8 x 8, and block2 has 4 x 4; widths are 8, 32 and 16, 64.
    found = multiplications(bit)
    assert found.keys() == ALL
    assert found["resnet/block1/unit01/a/group_norm"] == (2 * 64 * 8, 64 * 8)
    assert found["resnet/block1/unit01/c/group_norm"] == (2 * 64 * 8, 0)
    assert found["resnet/block2/unit01/a/group_norm"] == (2 * 64 * 32, 64 * 32)
    assert found["resnet/block2/unit01/b/group_norm"] == (2 * 64 * 16, 0)
    assert found["resnet/block2/unit01/c/group_norm"] == (2 * 16 * 16, 0)
    assert found["resnet/block2/unit02/a/group_norm"] == (2 * 16 * 64, 16 * 64)
    assert found[FINAL_NORM] == (2 * 16 * 64, 16 * 64)


def left(bit):
    taken = multiplications(bit)
    return sum(taken[path][path in bit.architecture.frozen_norms] for path in taken) / sum(
        each for each, _ in taken.values()
    )


@pytest.mark.parametrize("target", [0.9, 0.7, 0.5])
def test_auto_freezes_the_cheapest_until_the_target_is_met(bit, target):
    found = prune(bit, norm_free("auto", target_norms=target), batches)
    frozen_norms = found.architecture.frozen_norms
    assert left(bit) == 1 and target - 0.3 < left(found) <= target
    rises = rises_frozen(bit, batches(), ALL)
    taken = multiplications(bit)
    prices = {path: max(rises[path], 0) / (taken[path][0] - taken[path][1]) for path in ALL}
    assert any(prices.values())
    assert max(prices[path] for path in frozen_norms) <= min(prices[path] for path in ALL - frozen_norms.keys())
    # The last to be frozen was needed.
    dearest = max(frozen_norms, key=prices.get)
    rest = {path: value for path, value in frozen_norms.items() if path != dearest}
    assert left(bit.with_weights(bit.weights, frozen_norms=rest)) > target


def test_price_of_a_norm_is_the_rise_of_the_loss_with_it_alone_frozen(bit):
    norm = "resnet/block2/unit01/a/group_norm"
    pixels, targets = (np.concatenate(parts) for parts in zip(*batches(), strict=True))

    def loss(bit):
        outputs = network.build(bit)(pixels).numpy().astype(np.float64)
        exponentials = np.exp(outputs - outputs.max(1, keepdims=True))
        return np.mean(-np.sum(targets * np.log(exponentials / exponentials.sum(1, keepdims=True)), axis=1))

    expected = loss(frozen(bit, [norm], batches())) - loss(bit)
    assert rises_frozen(bit, batches(), [norm]) == {norm: pytest.approx(expected, rel=1e-2)}


def test_auto_takes_what_costs_nothing_first_and_then_the_cheapest(bit):
    taken = multiplications(bit)
    saved = {path: of_exact - of_frozen for path, (of_exact, of_frozen) in taken.items()}
    free, cheap = "resnet/block1/unit01/c/group_norm", "resnet/block2/unit02/c/group_norm"
    rises = {path: 5.0 for path in ALL} | {free: -1.0, cheap: 1e-9}
    whole = sum(of_exact for of_exact, _ in taken.values())

    def chosen(saving):
        target = 1 - saving / whole + 1e-6
        return to_freeze(bit, norm_free("auto", target_norms=target), lambda norms: rises)

    assert chosen(saved[free]) == [free]
    assert chosen(saved[free] + saved[cheap]) == [free, cheap]


def test_what_is_frozen_already_counts_for_the_target(bit):
    inner = prune(bit, norm_free("inner"), batches)
    assert left(inner) < 0.7
    assert prune(inner, norm_free("auto", target_norms=0.7), batches).architecture == inner.architecture
    more = prune(inner, norm_free("auto", target_norms=left(inner) - 0.05), batches)
    assert left(inner) - 0.3 < left(more) <= left(inner) - 0.05


def test_target_out_of_reach_names_what_is_in_reach(bit):
    entry = norm_free("auto", target_norms=0.05)
    for attempt in (lambda: prune(bit, entry, batches), lambda: rehearsed(bit, entry)):
        with pytest.raises(InputError, match=r"target_norms is 0.05, but with all norms frozen 0\.\d+ are") as error:
            attempt()
    least = float(str(error.value).split()[-3])
    assert least - 1e-3 < left(prune(bit, norm_free(), batches)) <= least
    assert prune(bit, norm_free("auto", target_norms=least), batches).architecture.frozen_norms.keys() == ALL


@pytest.mark.parametrize("second", [norm_free("inner", steps=0), norm_free("auto", target_norms=0.9, steps=0)])
def test_a_part_that_has_nothing_to_freeze_is_refused(bit, second):
    entry = Combine(method="combine", parts=[norm_free(steps=0), second])
    told = rf"^parts\[1\].norms is {second.norms}, but the parts before leave nothing to freeze"
    with pytest.raises(InputError, match=told):
        rehearsed(bit, entry)


# What comes after


def test_recovery_trains_all_and_leaves_what_is_frozen(bit):
    entry = norm_free(steps=2)
    at_once = prune(bit, entry, batches)
    trained = recover(at_once, bit, entry, run_of_noise())
    assert trained.architecture == at_once.architecture
    assert not any(np.array_equal(trained.weights[name], value) for name, value in at_once.weights.items())


@pytest.mark.parametrize(
    "parts",
    [
        [Channels(method="channels", keep=0.5, importance="norm", steps=1), norm_free(steps=1)],
        [norm_free(steps=1), Channels(method="channels", keep=0.5, steps=1)],
        [norm_free("inner", steps=1), norm_free(steps=1)],
        [norm_free(steps=1), Magnitude(method="magnitude", sparsity=0.5, steps=2)],
        [norm_free(steps=1), Units(method="units", remove=1, steps=1)],
    ],
    ids=lambda parts: "-".join(part.method for part in parts),
)
def test_combines_with_other_methods(bit, parts):
    entry = Combine(method="combine", parts=parts)
    found = recover(bit, bit, entry, run_of_noise())
    norms = ALL & {name.rpartition("/")[0] for name in found.weights}
    assert found.architecture.frozen_norms.keys() == norms
    assert len(norms) == (7 if any(isinstance(part, Units) for part in parts) else 10)
    if isinstance(parts[1], Magnitude):
        assert found.sparsity == pytest.approx(0.5, abs=0.05)
    assert np.all(np.isfinite(logits(found)))


def test_channels_of_a_norm_free_model_are_cut_as_of_any(bit):
    """What stays is the network without what the removed groups give."""
    whole = prune(bit, norm_free(), batches)
    smaller = prune(whole, Channels(method="channels", keep=0.5), batches)
    silenced = dict(whole.weights)
    for path in INNER:
        gone = ~np.isin(silenced[f"{path}/gamma"], smaller.weights[f"{path}/gamma"])
        assert gone.mean() == 0.5
        for part in ("gamma", "beta"):
            silenced[f"{path}/{part}"] = np.where(gone, 0, silenced[f"{path}/{part}"])
    assert_close(logits(smaller), logits(whole.with_weights(silenced)))
