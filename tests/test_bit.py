import dataclasses
import json
import zipfile

import numpy as np
import pytest

from bitlite.bit.names import FINAL_NORM, HEAD, ROOT
from bitlite.bit.shapes import Shape, published
from bitlite.bit.weights import Bit, untrained
from bitlite.workflow.errors import InputError

R50 = (3, 4, 6, 3)


@pytest.fixture(scope="module")
def r50x1():
    return untrained("R50x1", published("r50x1"), seed=0)


def small(seed=0, **changes) -> Bit:
    shape = {"filters": 8, "units": (1, 2), "groups": 4, "root": 3, "pool": False, "image_size": (16, 24)}
    return untrained("small", Shape(**{**shape, **changes}), seed=seed)


def with_random_norms(bit: Bit) -> Bit:
    random = np.random.default_rng(7)
    return bit.with_weights(
        {k: v if v.ndim == 4 else random.standard_normal(v.shape).astype(np.float32) for k, v in bit.weights.items()}
    )


def assert_equal(one: Bit, other: Bit) -> None:
    assert one.architecture == other.architecture
    assert one.weights.keys() == other.weights.keys()
    for name, value in one.weights.items():
        assert other.weights[name].dtype == value.dtype
        np.testing.assert_array_equal(other.weights[name], value, err_msg=name)


# Shape


def test_r50x1_has_the_published_weights(r50x1):
    units = [f"resnet/block{block}/unit{i:02d}" for block, count in enumerate(R50, 1) for i in range(1, count + 1)]
    convs = ["resnet/root_block", *(f"{unit}/{part}" for unit in units for part in "abc")]
    convs += [f"resnet/block{block}/unit01/a/proj" for block in (1, 2, 3, 4)]
    norms = ["resnet/group_norm", *(f"{unit}/{part}/group_norm" for unit in units for part in "abc")]
    kernels = {f"{conv}/standardized_conv2d/kernel" for conv in convs}
    gammas, betas = ({f"{norm}/{part}" for norm in norms} for part in ("gamma", "beta"))
    assert (len(kernels), len(gammas), len(betas)) == (53, 49, 49)
    assert set(r50x1.weights) == kernels | gammas | betas
    assert set(r50x1.kernels) == kernels
    assert r50x1.parameters == 23_500_352


def test_r50x1_has_kernels_of_the_published_sizes(r50x1):
    values = {1: 0, 3: 0, 7: 0}
    for kernel in r50x1.kernels.values():
        values[kernel.shape[0]] += kernel.size
    assert values[7] == 9408
    assert (round(values[1] / 1e6, 2), round(values[3] / 1e6, 2)) == (12.13, 11.32)
    assert {value.dtype for value in r50x1.weights.values()} == {np.dtype(np.float32)}
    assert r50x1.weights["resnet/block3/unit02/b/standardized_conv2d/kernel"].shape == (3, 3, 256, 256)
    assert r50x1.weights["resnet/block4/unit01/a/proj/standardized_conv2d/kernel"].shape == (1, 1, 1024, 2048)
    assert r50x1.weights[f"{FINAL_NORM}/gamma"].shape == (2048,)


def test_units_run_in_order_and_stride_where_a_block_begins(r50x1):
    units = r50x1.units
    assert [unit.path for unit in units[:5]] == [
        "resnet/block1/unit01", "resnet/block1/unit02", "resnet/block1/unit03", "resnet/block2/unit01",
        "resnet/block2/unit02",
    ]  # fmt: skip
    assert [unit.stride for unit in units] == [1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1]
    assert [r50x1.projects(unit) for unit in units] == [index in (0, 3, 7, 13) for index in range(16)]


def test_units_above_nine_run_last():
    prefixes = [unit.path for unit in small(units=(1, 12)).units]
    assert prefixes[-4:] == [f"resnet/block2/unit{index}" for index in ("09", "10", "11", "12")]


def test_seed_draws_the_weights():
    assert_equal(small(seed=3), small(seed=3))
    assert not np.array_equal(small(seed=3).weights[f"{ROOT}/kernel"], small(seed=4).weights[f"{ROOT}/kernel"])


# Multiply-adds


def after(side: int, kernel: int, stride: int, padding: int) -> int:
    return (side + 2 * padding - kernel) // stride + 1


def count_macs(height, width, filters, counts, root, pool, classes=0):
    """From the description of the network alone: padding and kernels as BiT writes them."""
    h, w = (after(side, root, 2, root // 2) for side in (height, width))
    total = h * w * root * root * 3 * filters
    if pool:
        h, w = (after(side, 3, 2, 1) for side in (h, w))
    inputs = filters
    for block, count in enumerate(counts):
        inner = filters * 2**block
        for unit in range(count):
            stride = 2 if unit == 0 and block > 0 else 1
            total += h * w * inputs * inner
            h, w = (after(side, 3, stride, 1) for side in (h, w))
            if unit == 0:
                total += h * w * inputs * 4 * inner
            total += h * w * (9 * inner * inner + inner * 4 * inner)
            inputs = 4 * inner
    return total + inputs * classes


@pytest.mark.parametrize("size", [(224, 224), (97, 65), (480, 128)])
def test_macs_of_r50x1(r50x1, size):
    macs = r50x1.with_weights(r50x1.weights, image_size=size).macs
    assert macs == count_macs(*size, 64, R50, root=7, pool=True)
    if size == (224, 224):
        assert macs == pytest.approx(4.1e9, rel=0.02)  # ResNet-50 with its stride in the 3x3, as commonly given


@pytest.mark.parametrize("size", [(32, 32), (31, 17)])
@pytest.mark.parametrize("pool", [False, True])
def test_macs_of_a_small_one_with_head(size, pool):
    bit = small(pool=pool).with_head(tuple("abcde"), size)
    assert bit.macs == count_macs(*size, 8, (1, 2), root=3, pool=pool, classes=5)


# Directory


def test_comes_back_as_saved(tmp_path):
    bit = small().with_head(("daisy", "ä, é"), (20, 30))
    bit.save(tmp_path / "bit")
    assert sorted(path.name for path in (tmp_path / "bit").iterdir()) == ["architecture.json", "weights.npz"]
    assert_equal(Bit.load(tmp_path / "bit"), bit)


def test_equal_models_give_equal_bytes_that_hold_no_time(tmp_path):
    bit = small()
    bit.save(tmp_path / "one")
    bit.with_weights(dict(reversed(bit.weights.items()))).save(tmp_path / "other")
    for name in ("architecture.json", "weights.npz"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    with zipfile.ZipFile(tmp_path / "one" / "weights.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {entry.filename.removesuffix(".npy") for entry in archive.infolist()} == set(bit.weights)


def test_saving_replaces(tmp_path):
    small(units=(2,)).save(tmp_path / "bit")
    small(units=(1,)).save(tmp_path / "bit")
    assert_equal(Bit.load(tmp_path / "bit"), small(units=(1,)))


def change_json(**changes):
    def damage(directory):
        fields = json.loads((directory / "architecture.json").read_text()) | changes
        fields = {key: value for key, value in fields.items() if value is not None}
        (directory / "architecture.json").write_text(json.dumps(fields))

    return damage


def flip_a_bit(directory):
    content = bytearray((directory / "weights.npz").read_bytes())
    content[content.index(small().weights[f"{ROOT}/kernel"].tobytes())] ^= 1
    (directory / "weights.npz").write_bytes(content)


def change_weights(change):
    def damage(directory):
        with np.load(directory / "weights.npz") as arrays:
            weights = dict(arrays)
        change(weights)
        np.savez(directory / "weights.npz", **weights)

    return damage


DAMAGES = {
    "no JSON": lambda d: (d / "architecture.json").write_text("{"),
    "a list": lambda d: (d / "architecture.json").write_text("[]"),
    "no text": lambda d: (d / "architecture.json").write_bytes(b"\xff"),
    "a field less": change_json(groups=None),
    "a field more": change_json(colour="red"),
    "frozen norms without deviations": change_json(frozen_norms=["resnet/group_norm"]),
    "weights cut short": lambda d: (d / "weights.npz").write_bytes((d / "weights.npz").read_bytes()[:1000]),
    "empty weights": lambda d: (d / "weights.npz").write_bytes(b""),
    "a bit flipped": flip_a_bit,
    **{
        f"{key} is {value!r}": change_json(**{key: value})
        for key, value in (
            ("name", 3),
            ("groups", "2"),
            ("groups", 0),
            ("groups", 7),
            ("groups", 2.5),
            ("pool", "yes"),
            ("standardized", 1),
            ("image_size", [16]),
            ("image_size", ["a", "b"]),
            ("image_size", [16.5, 16]),
            ("image_size", [0, 0]),
            ("labels", "ab"),
            ("labels", [1, 2]),
            ("labels", ["no head"]),
            ("frozen_norms", {"resnet/nothing": 1.0}),
            ("frozen_norms", {"resnet/group_norm": 0}),
            ("frozen_norms", {"resnet/group_norm": float("nan")}),
        )
    },
    "a weight less": change_weights(lambda weights: weights.pop(f"{FINAL_NORM}/beta")),
    "a weight more": change_weights(lambda weights: weights.update(more=np.zeros(3, np.float32))),
    "integers": change_weights(lambda weights: weights.update({f"{FINAL_NORM}/beta": np.zeros(64, np.int32)})),
    "a short norm": change_weights(lambda weights: weights.update({f"{FINAL_NORM}/beta": np.zeros(3, np.float32)})),
    "a flat kernel": change_weights(lambda weights: weights.update({f"{ROOT}/kernel": np.zeros(9, np.float32)})),
    "no kernel but a number": change_weights(lambda weights: weights.update({f"{ROOT}/kernel": np.float32(0)})),
    "pickled weights": lambda d: np.savez(d / "weights.npz", a=np.array([{}], object)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_directory_is_named(tmp_path, damage):
    small().save(tmp_path / "bit")
    DAMAGES[damage](tmp_path / "bit")
    with pytest.raises(InputError) as error:
        Bit.load(tmp_path / "bit")
    assert str(error.value).startswith(f"{tmp_path / 'bit'} holds no BiT")


def test_every_weight_must_fit_the_others(tmp_path):
    for bit in (small(), small().with_head(("a", "b"), (16, 16)), small().folded()):
        bit.save(tmp_path / "bit")
        Bit.load(tmp_path / "bit")
        for name, value in bit.weights.items():
            wrong = bit.with_weights(bit.weights | {name: np.concatenate([value, value], axis=-1)})
            wrong.save(tmp_path / "bit")
            with pytest.raises(InputError, match="misshapen|whole groups"):
                Bit.load(tmp_path / "bit")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_saved(tmp_path, value):
    small().save(tmp_path / "bit")
    bad = small().with_weights(small().weights | {f"{FINAL_NORM}/beta": np.full(64, value, np.float32)})
    with pytest.raises(InputError, match=f"bit is not written: 1 of its weights are not finite, such as {FINAL_NORM}"):
        bad.save(tmp_path / "bit")
    assert_equal(Bit.load(tmp_path / "bit"), small())


@pytest.mark.parametrize("file", ["architecture.json", "weights.npz"])
def test_missing_file_is_named(tmp_path, file):
    small().save(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(InputError, match=rf"{tmp_path / file} is missing: run `dvc repro`"):
        Bit.load(tmp_path)


# Changes


def test_fold_standardises_every_output_channel():
    bit = with_random_norms(small())
    bit.weights["resnet/block1/unit01/b/standardized_conv2d/kernel"][...] += 3
    folded = bit.folded()
    assert not folded.architecture.standardized
    assert dataclasses.replace(folded.architecture, standardized=True) == bit.architecture
    for name, value in bit.weights.items():
        if value.ndim == 1:
            np.testing.assert_array_equal(folded.weights[name], value, err_msg=name)
            continue
        assert folded.weights[name].dtype == np.float32
        for channel in range(value.shape[-1]):
            numbers = [float(number) for number in value[..., channel].ravel()]
            mean = sum(numbers) / len(numbers)
            variance = sum((number - mean) ** 2 for number in numbers) / len(numbers)
            expected = [(number - mean) / (variance + 1e-10) ** 0.5 for number in numbers]
            np.testing.assert_allclose(folded.weights[name][..., channel].ravel(), expected, rtol=1e-6, atol=1e-6)


def test_fold_of_tiny_kernels_has_bit_s_epsilon():
    bit = small()
    kernel = bit.weights[f"{ROOT}/kernel"]
    kernel *= 1e-5 / kernel.std(axis=(0, 1, 2))
    kernel -= kernel.mean(axis=(0, 1, 2))
    # A variance of 1e-10 beside an epsilon of 1e-10.
    folded = bit.folded().weights[f"{ROOT}/kernel"]
    np.testing.assert_allclose(folded.std(axis=(0, 1, 2)), 0.5**0.5, rtol=1e-3)


def test_folding_twice_is_folding_once():
    folded = small().folded()
    folded.weights[f"{ROOT}/kernel"][0, 0] = 0  # as pruning does
    assert_equal(folded.folded(), folded)


def test_fold_leaves_the_head_and_its_argument():
    bit = small().with_head(("a", "b"), (16, 24))
    bit.weights[f"{HEAD}/kernel"][...] = 5
    before = {name: value.copy() for name, value in bit.weights.items()}
    folded = bit.folded()
    assert (folded.weights[f"{HEAD}/kernel"] == 5).all()
    assert_equal(bit.with_weights(before), bit)


def test_zeros_of_a_folded_kernel_count_as_sparsity():
    bit = small().folded()
    assert bit.sparsity == 0
    kernel = bit.weights["resnet/block2/unit02/b/standardized_conv2d/kernel"]
    kernel[:, :, :8] = 0
    total = sum(value.size for value in bit.weights.values() if value.ndim == 4)
    assert bit.sparsity == kernel.size / 2 / total


def test_head_begins_at_zero():
    bit = small().with_head(("a", "b", "c"), (20, 30))
    assert bit.architecture == dataclasses.replace(small().architecture, labels=("a", "b", "c"), image_size=(20, 30))
    kernel, bias = bit.weights.pop(f"{HEAD}/kernel"), bit.weights.pop(f"{HEAD}/bias")
    assert (kernel.shape, bias.shape) == ((1, 1, 64, 3), (3,))
    assert not kernel.any() and not bias.any()
    assert_equal(bit, small().with_weights(small().weights, labels=("a", "b", "c"), image_size=(20, 30)))


def test_new_head_replaces_the_old():
    bit = small().with_head(("a", "b", "c"), (16, 24))
    bit.weights[f"{HEAD}/kernel"][...] = 1
    again = bit.with_head(("x", "y"), (16, 24))
    assert again.weights[f"{HEAD}/kernel"].shape == (1, 1, 64, 2)
    assert not again.weights[f"{HEAD}/kernel"].any()
    assert again.architecture.labels == ("x", "y")


def test_groups_keep_their_size_when_channels_go():
    bit = small()  # 4 groups; 2 inner channels a group in block1, 4 in block2
    assert {norm.removesuffix("/gamma") for norm in bit.weights if norm.endswith("/gamma")} == set(
        norms := [f"{unit.path}/{part}/group_norm" for unit in bit.units for part in "abc"] + [FINAL_NORM]
    )
    assert {bit.groups(norm) for norm in norms} == {4}
    weights = dict(bit.weights)
    unit = "resnet/block2/unit02"
    for norm, channels in ((f"{unit}/b/group_norm", 12), (f"{unit}/c/group_norm", 4)):
        for part in ("gamma", "beta"):
            weights[f"{norm}/{part}"] = weights[f"{norm}/{part}"][:channels]
    kernel = weights[f"{unit}/c/standardized_conv2d/kernel"]
    weights[f"{unit}/c/standardized_conv2d/kernel"] = kernel[:, :, :4]
    pruned = bit.with_weights(weights)
    expected = dict.fromkeys(norms, 4) | {f"{unit}/b/group_norm": 3, f"{unit}/c/group_norm": 1}
    assert {norm: pruned.groups(norm) for norm in norms} == expected


def test_macs_and_parameters_follow_removed_channels():
    bit = small()
    kernel = "resnet/block1/unit01/c/standardized_conv2d/kernel"
    pruned = bit.with_weights({**bit.weights, kernel: bit.weights[kernel][:, :, :6]})
    assert bit.parameters - pruned.parameters == 2 * 32
    assert bit.macs - pruned.macs == 2 * 32 * 8 * 12
