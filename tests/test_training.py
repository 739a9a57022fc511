import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from bitlite.bit import network
from bitlite.bit.names import HEAD
from bitlite.bit.shapes import Shape
from bitlite.bit.weights import untrained
from bitlite.training import limits, loop
from bitlite.training.batches import GREY, Images, ahead, batches
from bitlite.training.checkpoint import KEPT, Checkpoint
from bitlite.training.inference import PREDICTION_BATCH, inference, mean_loss, predict
from bitlite.training.loop import Run, fit
from bitlite.training.recipe import Recipe, learning_rate
from bitlite.training.step import distillation_losses, hint_losses
from bitlite.workflow.errors import InputError, WrongValue

RECIPE = Recipe(
    steps=20, batch_size=12, learning_rate=0.03, resize=8, image_size=8, warmup=4, decays=(10, 15, 18), flip=True
)


def images_of(count, side=8, seed=0, classes=3):
    """Noise about a colour of the class: learnable within a few steps."""
    random = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % classes
    colours = 60 + 130 * np.eye(3)[labels % 3][:, None, None]
    return Images(np.clip(random.normal(colours, 40, (count, side, side, 3)), 0, 255).astype(np.uint8), labels)


# Batches


def drawn(images, seed=0, classes=3, **changes):
    return list(batches(images, replace(RECIPE, flip=False, **changes), classes, seed))


def assert_equal(some, others):
    assert len(some) == len(others)
    for batch, other in zip(some, others, strict=True):
        assert all(np.array_equal(each, its) for each, its in zip(batch, other, strict=True))


def test_batches_depend_on_seed_and_step_only():
    images = images_of(30, side=10)
    augmented = {"resize": 10, "mixup": 0.3}
    first = drawn(images, seed=3, steps=6, **augmented)
    assert_equal(drawn(images, seed=3, steps=6, **augmented), first)
    assert_equal(drawn(images, seed=3, steps=9, **augmented)[:6], first)
    other = drawn(images, seed=4, steps=6, **augmented)
    assert not any(np.array_equal(pixels, others) for (pixels, _), (others, _) in zip(first, other, strict=True))


def test_batches_have_the_networks_types():
    for pixels, targets in drawn(images_of(30, side=10), steps=2, resize=10, mixup=0.3):
        assert (pixels.shape, pixels.dtype) == ((12, 8, 8, 3), np.float32)
        assert (targets.shape, targets.dtype) == ((12, 3), np.float32)
        assert pixels.max() > 128  # not yet normalised


@pytest.mark.parametrize("batch_size", [4, 10, 25])
def test_every_epoch_shows_every_image_once_in_a_new_order(batch_size):
    pixels = np.full((10, 8, 8, 3), np.arange(10)[:, None, None, None], np.uint8)
    images = Images(pixels, np.arange(10, dtype=np.int32))
    shown = drawn(images, classes=10, steps=100 // batch_size, batch_size=batch_size)
    order = np.concatenate([pixels[:, 0, 0, 0] for pixels, _ in shown])
    assert order.tolist() == np.concatenate([targets.argmax(1) for _, targets in shown]).tolist()
    epochs = order.reshape(10, 10).astype(int)
    assert np.sort(epochs).tolist() == [list(range(10))] * 10
    assert len({tuple(epoch) for epoch in epochs}) == 10


def test_crops_are_parts_of_the_image():
    # A pixel's value tells its place, of which 3 x 3 are possible; height and width differ to tell them apart.
    places = np.arange(10 * 10, dtype=np.uint8).reshape(1, 10, 10, 1) * np.ones((1, 1, 1, 3), np.uint8)
    images = Images(places, np.zeros(1, np.int32))
    corners = set()
    for pixels, _ in drawn(images, classes=1, steps=20, resize=10):
        for crop in pixels:
            top, left = divmod(int(crop[0, 0, 0]), 10)
            assert np.array_equal(crop, places[0, top : top + 8, left : left + 8])
            corners.add((top, left))
    assert corners == {(top, left) for top in range(3) for left in range(3)}


def windows(image, side):
    """Every square of `side` pixels of an image, by its top and left."""
    height, width, _ = image.shape
    return {
        (top, left): image[top : top + side, left : left + side]
        for top in range(height - side + 1)
        for left in range(width - side + 1)
    }


@pytest.mark.parametrize(("resize", "padding"), [(8, 2), (9, 1)])
def test_padding_surrounds_the_image_with_grey(resize, padding):
    image = np.arange(resize * resize * 3, dtype=np.uint8).reshape(resize, resize, 3)
    side = resize + 2 * padding
    surrounded = np.full((side, side, 3), 127.5)
    surrounded[padding:-padding, padding:-padding] = image
    images = Images(image[None], np.zeros(1, np.int32))
    seen = set()
    for pixels, _ in drawn(images, classes=1, steps=20, resize=resize, padding=padding):
        assert pixels.dtype == np.float32
        for crop in pixels:
            (place,) = [place for place, window in windows(surrounded, 8).items() if np.array_equal(crop, window)]
            seen.add(place)
    # At the image's own scale there are as many places as `padding` leaves on both sides.
    assert seen == set(windows(surrounded, 8))


def test_padded_images_are_mirrored_after_they_are_cropped():
    image = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)
    surrounded = np.full((10, 10, 3), 127.5)
    surrounded[1:-1, 1:-1] = image
    recipe = replace(RECIPE, padding=1, steps=10)
    allowed = [crop for window in windows(surrounded, 8).values() for crop in (window, window[:, ::-1])]
    for pixels, _ in batches(Images(image[None], np.zeros(1, np.int32)), recipe, 1, seed=0):
        assert all(any(np.array_equal(crop, each) for each in allowed) for crop in pixels)


def test_padding_is_zero_to_the_network():
    model = network.build(bit_of())
    normalized = tf.keras.Model(model.input, model.get_layer("normalize").output)
    assert not np.any(normalized(np.full((1, 8, 8, 3), GREY, np.float32)))


@pytest.mark.parametrize("flip", [False, True])
def test_flip_mirrors_every_image_in_every_other_epoch_and_half_of_them_in_each(flip):
    # A class an image: the targets tell which it is.
    images = Images(np.random.default_rng(0).integers(256, size=(24, 8, 8, 3), dtype=np.uint8), np.arange(24))
    mirrored = np.full((4, 24), np.nan)  # by epoch and image
    for step, (pixels, targets) in enumerate(batches(images, replace(RECIPE, flip=flip, steps=8), 24, seed=0)):
        for shown, image in zip(pixels, targets.argmax(axis=1), strict=True):
            mirror = np.array_equal(shown, images.pixels[image][:, ::-1])
            assert mirror or np.array_equal(shown, images.pixels[image])
            mirrored[step // 2, image] = mirror
    if flip:
        assert np.all(mirrored[1:] == 1 - mirrored[:-1]) and np.all(mirrored.sum(axis=1) == 12)
        assert 0 < sum(mirrored[0, ::2]) < 12  # drawn at random, not by place
    else:
        assert not np.any(mirrored)


def test_mixup_mixes_pixels_and_targets_alike():
    # A class an image: the targets tell which images were mixed, and how.
    pixels = np.random.default_rng(0).integers(256, size=(12, 8, 8, 3), dtype=np.uint8)
    images = Images(pixels, np.arange(12, dtype=np.int32))
    shares = set()
    for mixed, targets in drawn(images, classes=12, mixup=0.5):
        assert np.allclose(targets.sum(1), 1, atol=1e-6) and targets.min() >= 0
        assert np.allclose(mixed, np.tensordot(targets, pixels.astype(np.float32), 1), atol=1e-2)
        assert (targets > 0).sum(1).max() == 2
        shares.add(round(float(targets[(targets > 0).sum(1) == 2].max(1)[0]), 4))
    assert len(shares) > 15  # of 20 batches
    assert all(set(np.unique(targets)) == {0, 1} for _, targets in drawn(images, classes=12, mixup=0.0))


# Training


def bit_of(seed=0):
    bit = untrained(
        "bit-test", Shape(filters=8, units=(1,), groups=4, root=3, pool=False, image_size=(8, 8)), seed=seed
    )
    return bit.with_head(("a", "b", "c"), (8, 8))


def run_of(recipe=RECIPE, *, seed=0, train=None):
    """A run on the toy problem."""
    return Run(recipe, train or images_of(36), images_of(30, seed=1), seed)


def trained(bit, recipe=RECIPE, *, seed=0, part="all", train=None, **options):
    """The weights after training on the toy problem, and the points of the curve, with their steps."""
    model = network.build(bit)
    network.set_trainable(model, part)
    curve = []
    options = {"log": lambda step, values: curve.append({"step": step, **values})} | options
    fit(model, run_of(recipe, seed=seed, train=train), **options)
    return network.get_weights(model), curve


def digest(weights):
    return hashlib.sha256(b"".join(weights[name].tobytes() for name in sorted(weights))).hexdigest()


@pytest.fixture(scope="module")
def run():
    return trained(bit_of())


def test_training_lowers_the_loss(run):
    _, curve = run
    assert curve[0]["loss"] == pytest.approx(np.log(3), abs=0.15)  # the head starts at zero
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]
    assert curve[-1]["accuracy"] > 0.9 and curve[-1]["validation_accuracy"] > 0.9


def test_curve(run):
    _, curve = run
    assert [row["step"] for row in curve] == list(range(1, 21))
    assert [row["step"] for row in curve if "validation_accuracy" in row] == list(range(2, 21, 2))
    assert [row["learning_rate"] for row in curve] == [learning_rate(row["step"] - 1, RECIPE) for row in curve]
    # By hand: warm-up to step 4, decays at steps 10, 15 and 18.
    by_hand = [0.0075, 0.015, 0.0225] + 7 * [0.03] + 5 * [3e-3] + 3 * [3e-4] + 2 * [3e-5]
    assert [row["learning_rate"] for row in curve] == pytest.approx(by_hand)


def test_curve_gives_means_since_its_last_point(monkeypatch, run):
    monkeypatch.setattr(loop, "LOGGED", 4)
    _, (*_, last) = trained(bit_of())
    assert last["step"] == 20
    # Which is step 18, where validation is.
    assert last["loss"] == pytest.approx(np.mean([row["loss"] for row in run[1][18:]]), rel=1e-6)


def test_equal_runs_give_equal_bits(run):
    weights, curve = run
    again, curve_again = trained(bit_of())
    assert digest(again) == digest(weights)
    assert curve_again == curve
    assert digest(trained(bit_of(), seed=1)[0]) != digest(weights)


def test_another_process_gives_equal_bits(run):
    code = "import test_training as t; print(t.digest(t.trained(t.bit_of())[0]))"
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == digest(run[0])


def test_no_steps_train_nothing():
    bit = bit_of()
    weights, curve = trained(bit, replace(RECIPE, steps=0, decays=(0, 0, 0), warmup=0))
    assert curve == []
    assert digest(weights) == digest(bit.weights)


def test_a_step_is_of_the_recipes_learning_rate():
    # From a head of zeros every class gets 1/3, so the gradient of its bias is 1/3 less its share of the batch.
    recipe = replace(RECIPE, steps=1, batch_size=9, warmup=4)
    images = images_of(36)
    ((_, targets),) = batches(images, recipe, 3, seed=0)
    weights, _ = trained(bit_of(), recipe, train=images)
    assert np.ptp(targets.mean(0)) > 0
    assert weights[f"{HEAD}/bias"] == pytest.approx(-0.03 / 4 * (1 / 3 - targets.mean(0)), abs=1e-7)


def test_weight_decay_shrinks_kernels_alone():
    recipe = replace(RECIPE, steps=1, warmup=0, decays=())
    bit = bit_of()
    bit = bit.with_weights({name: value + np.float32(0.1) for name, value in bit.weights.items()})
    plain, _ = trained(bit, recipe)
    decayed, _ = trained(bit, replace(recipe, weight_decay=0.5))
    for name, value in bit.weights.items():
        shrunk = 0.03 * 0.5 * value if name.endswith("kernel") else 0
        assert decayed[name] == pytest.approx(plain[name] - shrunk, abs=1e-6)


def test_frozen_trunk_stays_bit_equal():
    bit = bit_of()
    weights, curve = trained(bit, part="head")
    changed = {name for name, value in bit.weights.items() if not np.array_equal(weights[name], value)}
    assert changed == {f"{HEAD}/kernel", f"{HEAD}/bias"}
    assert curve[-1]["loss"] < curve[0]["loss"]


def softmax(x):
    exponentials = np.exp(x - x.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.5, 1, 4])
def test_distillation_loss(temperature):
    teacher, student = np.random.default_rng(0).normal(0, 3, (2, 6, 4)).astype(np.float32)
    expected = -np.sum(softmax(teacher / temperature) * np.log(softmax(student / temperature)), axis=1)
    losses = distillation_losses(tf.constant(teacher), tf.constant(student), temperature)
    assert losses.numpy() == pytest.approx(temperature**2 * expected, rel=1e-5)


@pytest.fixture(scope="module")
def teacher(run):
    return network.build(bit_of().with_weights(run[0]))


@pytest.mark.parametrize("recipe", [RECIPE, replace(RECIPE, mixup=1.0)], ids=["plain", "mixed"])
def test_student_of_the_teacher_alone_ignores_labels(run, teacher, recipe):
    images = images_of(36)
    shuffled = Images(images.pixels, np.random.default_rng(0).permutation(images.labels))
    alone = replace(recipe, distillation=1, temperature=2)
    weights, curve = trained(bit_of(seed=7), alone, train=images, teacher=teacher)
    assert digest(trained(bit_of(seed=7), alone, train=shuffled, teacher=teacher)[0]) == digest(weights)
    assert curve[-1]["loss"] < curve[0]["loss"] and curve[-1]["validation_accuracy"] > 0.5
    assert digest(network.get_weights(teacher)) == digest(run[0])  # the teacher does not learn


def test_teacher_sees_the_students_pixels(run, teacher):
    """A student that equals its teacher has nothing to learn from it, as long as both see the same."""
    recipe = replace(RECIPE, padding=2, mixup=1.0, steps=3, warmup=0, distillation=1)
    weights, _ = trained(bit_of().with_weights(run[0]), recipe, teacher=teacher)
    assert max(np.abs(weights[name] - value).max() for name, value in run[0].items()) < 1e-6
    other = network.build(bit_of().with_weights(run[0]))
    mirrored = tf.keras.Model(other.input, other(tf.reverse(other.input, [2])))
    weights, _ = trained(bit_of().with_weights(run[0]), recipe, teacher=mirrored)
    assert max(np.abs(weights[name] - value).max() for name, value in run[0].items()) > 1e-5


def test_teachers_weight_mixes_the_losses(teacher):
    # A student with a head of zeros gives 1/3 to each class, whatever the temperature.
    recipe = replace(RECIPE, steps=1, distillation=0.25, temperature=3)
    _, (row,) = trained(bit_of(), recipe, teacher=teacher)
    assert row["loss"] == pytest.approx(0.75 * np.log(3) + 0.25 * 9 * np.log(3), rel=1e-5)


def test_hints_are_relative_errors_of_each_image():
    random = np.random.default_rng(0)
    teacher, student = ({name: random.normal(1, 2, (5, 4, 3, 2)) for name in ("one", "two")} for _ in range(2))
    errors = [
        ((student[n] - teacher[n]) ** 2).sum(axis=(1, 2, 3)) / (teacher[n] ** 2).sum(axis=(1, 2, 3)) for n in student
    ]
    more = {**teacher, "cut": teacher["one"]}  # of a teacher, units may have been cut
    assert hint_losses(more, student).numpy() == pytest.approx(np.mean(errors, axis=0), rel=1e-5)


def test_hints_bring_the_units_closer_to_the_teachers(run, teacher):
    images = images_of(36).pixels[:].astype(np.float32)

    def error(weights: dict[str, np.ndarray]) -> float:
        (units, _), (hints, _) = (
            network.with_units(model)(images) for model in (network.build(bit_of().with_weights(weights)), teacher)
        )
        return float(np.mean(hint_losses(hints, units)))

    plain, hinted = (
        error(trained(bit_of(seed=7), replace(RECIPE, hints=hints), teacher=teacher)[0]) for hints in (0.0, 5.0)
    )
    assert hinted < plain / 2
    weights, _ = trained(
        bit_of().with_weights(run[0]), replace(RECIPE, steps=3, warmup=0, distillation=1, hints=5.0), teacher=teacher
    )
    assert max(np.abs(weights[name] - value).max() for name, value in run[0].items()) < 1e-6


def test_hints_end_half_way(run, teacher):
    """By hand, from a head of zeros and weights that stay: the loss above the labels' is that of the hints."""
    still = replace(RECIPE, steps=10, learning_rate=1e-12, flip=False, warmup=0)
    _, plain = trained(bit_of(seed=7), still, teacher=teacher)
    _, hinted = trained(bit_of(seed=7), replace(still, hints=5.0), teacher=teacher)
    more = [their["loss"] - its["loss"] for its, their in zip(plain, hinted, strict=True)]
    error = more[0] / 5
    assert error > 0.1
    # Each step has a batch of its own, and so another error.
    assert more[:5] == pytest.approx([5 * error * share for share in (1, 0.8, 0.6, 0.4, 0.2)], rel=0.2)
    assert more[5:] == pytest.approx([0] * 5, abs=1e-6)


def test_head_alone_follows_a_teacher(run, teacher):
    recipe = replace(RECIPE, flip=False, distillation=1, temperature=2)
    weights, curve = trained(bit_of(), recipe, part="head", teacher=teacher)
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert not np.array_equal(weights[f"{HEAD}/kernel"], bit_of().weights[f"{HEAD}/kernel"])


# Interruption


class Interruption(Exception):
    pass


def interrupt(at):
    def log(step, values):
        if step == at:
            raise Interruption

    return log


@pytest.mark.parametrize("logged", [20, 3])
def test_interrupted_training_ends_as_an_unbroken_one(tmp_path, monkeypatch, logged):
    monkeypatch.setattr(loop, "LOGGED", logged)
    unbroken, curve = trained(bit_of())
    checkpoint = Checkpoint(tmp_path / "states", "data", seconds=0)
    for at in (7, 13, 17) if logged == 20 else (13,):
        with pytest.raises(Interruption):
            trained(bit_of(), checkpoint=checkpoint, log=interrupt(at))
    weights, whole_curve = trained(bit_of(), checkpoint=checkpoint)
    assert digest(weights) == digest(unbroken)
    assert whole_curve == curve


def test_training_goes_on_from_the_checkpoint_instead_of_the_start(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "states", "data", seconds=0)
    with pytest.raises(Interruption):
        trained(bit_of(), checkpoint=checkpoint, log=interrupt(15))
    firsts = []
    monkeypatch.setattr(loop, "batches", lambda *args: firsts.append(args[-1]) or batches(*args))
    trained(bit_of(), checkpoint=checkpoint)
    assert firsts == [14]


def test_checkpoint_of_another_trunk_is_ignored(tmp_path):
    plain, checkpoint = replace(RECIPE, flip=False), Checkpoint(tmp_path / "states", "data", seconds=0)
    expected, _ = trained(bit_of(), plain, part="head")
    with pytest.raises(Interruption):
        trained(bit_of(seed=1), plain, part="head", checkpoint=checkpoint, log=interrupt(12))
    assert digest(trained(bit_of(), plain, part="head", checkpoint=checkpoint)[0]) == digest(expected)


@pytest.mark.parametrize("other", ["data", "seed", "recipe", "weights", "part", "precision", "damage"])
def test_checkpoint_of_another_run_is_ignored(tmp_path, run, other):
    checkpoint = Checkpoint(tmp_path / "states", "other" if other == "data" else "data", seconds=0)
    recipe = replace(RECIPE, flip=False) if other == "recipe" else RECIPE
    with pytest.raises(Interruption), network.precision("mixed" if other == "precision" else "float32"):
        trained(
            bit_of(seed=int(other == "weights")), recipe, seed=int(other == "seed"), checkpoint=checkpoint,
            part="last_block" if other == "part" else "all", log=interrupt(12),
        )  # fmt: skip
    if other == "damage":
        (path,) = checkpoint.directory.glob("*/*.npz")
        path.write_bytes(path.read_bytes()[:-100])
    weights, curve = trained(bit_of(), checkpoint=replace(checkpoint, identity="data"))
    assert digest(weights) == digest(run[0])
    assert curve == run[1]


def test_runs_beside_each_other_go_on_from_their_own(tmp_path):
    checkpoint = Checkpoint(tmp_path / "states", "data", seconds=0)
    checkpoints = [replace(checkpoint, identity=name) for name in ("one", "other")]
    for seed, checkpoint in enumerate(checkpoints):
        with pytest.raises(Interruption):
            trained(bit_of(), seed=seed, checkpoint=checkpoint, log=interrupt(12))
    points = []

    def log(step, values):
        points.append(step)
        interrupt(13)(step, values)

    for seed, checkpoint in enumerate(checkpoints):
        with pytest.raises(Interruption):
            trained(bit_of(), seed=seed, checkpoint=checkpoint, log=log)  # what is done already is logged at once
    assert points == 2 * list(range(1, 14))
    assert len(list(checkpoint.directory.iterdir())) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.pop("variable3"),
        lambda arrays: arrays.update(variable0=arrays["variable0"][:1]),
        lambda arrays: arrays.update(state=str(arrays["state"]).replace('"done"', '"steps"')),
        lambda arrays: arrays.update(state=re.sub(r'"curve": \[.*\]', '"curve": 7', str(arrays["state"]))),
    ],
)
def test_checkpoint_of_another_form_is_ignored(tmp_path, run, change):
    checkpoint = Checkpoint(tmp_path / "states", "data", seconds=0)
    with pytest.raises(Interruption):
        trained(bit_of(), checkpoint=checkpoint, log=interrupt(12))
    (path,) = checkpoint.directory.glob("*/*.npz")
    arrays = dict(np.load(path))
    change(arrays)
    np.savez(path, **arrays)
    assert digest(trained(bit_of(), checkpoint=checkpoint)[0]) == digest(run[0])


def test_an_equal_run_beside_does_no_harm(tmp_path):
    checkpoint = Checkpoint(tmp_path / "states", "data", seconds=0)

    def beside(step, _):
        if step == 10:
            with checkpoint:
                trained(bit_of(), checkpoint=checkpoint)  # goes on from this one's file, and removes it in the end
        if step == 15:
            shutil.rmtree(checkpoint.directory)

    with checkpoint:
        weights, _ = trained(bit_of(), checkpoint=checkpoint, log=beside)
    assert digest(weights) == digest(trained(bit_of())[0])
    assert not any(tmp_path.iterdir())


def test_checkpoint_of_another_teacher_is_ignored(tmp_path, run, teacher):
    recipe, checkpoint = replace(RECIPE, distillation=1), Checkpoint(tmp_path / "states", "data", seconds=0)
    with pytest.raises(Interruption):
        trained(bit_of(), recipe, teacher=network.build(bit_of(seed=1)), checkpoint=checkpoint, log=interrupt(12))
    weights, _ = trained(bit_of(), recipe, teacher=teacher, checkpoint=checkpoint)
    assert digest(weights) == digest(trained(bit_of(), recipe, teacher=teacher)[0])


def test_a_finished_training_stays_until_what_it_came_to_is_written(tmp_path, monkeypatch, run):
    checkpoint = Checkpoint(tmp_path / "states", "two after each other")
    with pytest.raises(OSError), checkpoint:
        trained(bit_of(), checkpoint=checkpoint)
        trained(bit_of(seed=1), checkpoint=checkpoint)
        raise OSError("no space left")
    for name in "xyz":  # its trainings count as one run
        with pytest.raises(Interruption):
            trained(bit_of(), checkpoint=Checkpoint(tmp_path / "states", name, seconds=0), log=interrupt(2))
    shown = []
    monkeypatch.setattr(loop, "batches", lambda *args: shown.append(list(batches(*args))) or iter(shown[-1]))
    with checkpoint:
        weights, curve = trained(bit_of(), checkpoint=checkpoint)
    assert shown == [[]]
    assert digest(weights) == digest(run[0]) and curve == run[1]
    assert len(list(checkpoint.directory.iterdir())) == 3 == KEPT - 1


def test_few_unfinished_runs_are_kept(tmp_path):
    for number in range(KEPT + 2):
        checkpoint = Checkpoint(tmp_path / "states", f"run {number}", seconds=0)
        with pytest.raises(Interruption):
            trained(bit_of(), checkpoint=checkpoint, log=interrupt(2))
    assert len(list(checkpoint.directory.iterdir())) == KEPT


# Devices, precision, memory


def elsewhere(code, **environment):
    """A process that runs `code` beside this module, named t."""
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; import test_training as t; {code}"]
    return subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def train_under(devices, path):
    """For `elsewhere`: train as the fixture `run` does, and save the weights."""
    with devices.scope():
        model = network.build(bit_of())
    fit(model, run_of())
    np.savez(path, replicas=devices.num_replicas_in_sync, **network.get_weights(model))


def assert_same_training(path, run):
    with np.load(path) as weights:
        assert weights["replicas"] == 2
        assert max(np.abs(weights[name] - value).max() for name, value in run[0].items()) < 1e-5


def test_two_devices_train_as_one_does(tmp_path, run):
    code = (
        "import tensorflow as tf; cpu, = tf.config.list_physical_devices('CPU');"
        "tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()]);"
        f"t.train_under(tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1']), {str(tmp_path / 'two.npz')!r})"
    )
    process = elsewhere(code)
    assert process.wait() == 0, process.communicate()[1]
    assert_same_training(tmp_path / "two.npz", run)


def test_two_hosts_train_as_one_does(tmp_path, run):
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        hosts = ["{}:{}".format(*each.getsockname()) for each in (one, other)]
    paths = [tmp_path / f"{index}.npz" for index in range(2)]
    processes = [
        elsewhere(
            f"from bitlite.training.step import strategy;t.train_under(strategy('all_hosts', 2), {str(path)!r})",
            TF_CONFIG=json.dumps({"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}),
        )
        for index, path in enumerate(paths)
    ]
    for process, path in zip(processes, paths, strict=True):
        assert process.wait() == 0, process.communicate()[1]
        assert_same_training(path, run)


@pytest.mark.parametrize(
    ("changes", "part", "told", "rate"),
    [
        (
            {"learning_rate": 1e9},
            "all",
            r"learning_rate is 1e\+09: at step \d+ (the loss is not|a weight has grown to) ",
            0.1,
        ),
        (
            {"learning_rate": 100.0},
            "all",
            r"learning_rate is 100: at step \d+ (the loss is not|a weight has grown to) ",
            0.1,
        ),
        ({"learning_rate": 1e9, "optimizer": "adam"}, "all", r"learning_rate is 1e\+09: at step \d+ ", 0.01),
        # A head alone ends up with weights of 10^8 or so, and a loss as large, but finite.
        (
            {"learning_rate": 1e9, "flip": False},
            "head",
            r"learning_rate is 1e\+09: at step 1 a weight has grown to \d\.",
            0.1,
        ),
    ],
)
def test_a_rate_too_high_stops_training_and_leaves_no_checkpoint(tmp_path, changes, part, told, rate):
    checkpoint = Checkpoint(tmp_path / "states", "data", seconds=0)
    with pytest.raises(WrongValue, match=f"^{told}.*; try {rate}$") as error:
        trained(bit_of(), replace(RECIPE, **changes), part=part, checkpoint=checkpoint)
    assert len(str(error.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_rate_within_reach_that_fails_gives_a_tenth_of_it(monkeypatch):
    monkeypatch.setattr(loop, "RUNAWAY", 0)  # any weight is too large
    with pytest.raises(WrongValue, match=r"^learning_rate is 0\.05: at step 1 a weight has grown to .*; try 0\.005$"):
        trained(bit_of(), replace(RECIPE, learning_rate=0.05))


def test_a_rate_to_try_is_below_the_one_that_failed_and_trains():
    failing = replace(RECIPE, learning_rate=1e9)
    with pytest.raises(WrongValue) as error:
        trained(bit_of(), failing)
    rate = float(str(error.value).rsplit(" ", 1)[1])
    _, curve = trained(bit_of(), replace(failing, learning_rate=rate))
    assert curve[-1]["loss"] < curve[0]["loss"]


def test_weights_that_are_no_numbers_stop_training_at_once():
    weights = {name: np.full_like(value, np.nan) for name, value in bit_of().weights.items()}
    with pytest.raises(WrongValue, match="at step 1 the loss is not finite"):
        trained(bit_of().with_weights(weights))


def test_a_temperature_too_low_is_told_as_such(teacher):
    with pytest.raises(WrongValue, match="^temperature is 1e-40: at step 1 the loss is not finite; try 2$"):
        trained(bit_of(), replace(RECIPE, distillation=0.5, temperature=1e-40), teacher=teacher)


def test_a_rate_too_high_is_told_as_such_with_a_teacher_too(teacher):
    with pytest.raises(WrongValue, match=r"^learning_rate is 1e\+06: at step 1 a weight has grown to .*; try 0\.1$"):
        trained(bit_of(), replace(RECIPE, distillation=0.5, temperature=2, learning_rate=1e6), teacher=teacher)


def test_batches_are_split_as_memory_needs(run, monkeypatch):
    split = []
    monkeypatch.setattr(limits, "parts", lambda *given: split.append(given) or 3)
    weights, _ = trained(bit_of(), replace(RECIPE, batch_split="auto"))
    assert digest(weights) == digest(trained(bit_of(), replace(RECIPE, batch_split=3))[0])
    ((images, outputs, parameters, memory),) = split
    assert (images, memory) == (12, limits.host_memory())
    assert parameters == bit_of().parameters
    assert outputs == limits.kept_outputs((each.outputs, True) for each in bit_of().convolutions)


def test_split_batches_train_as_whole_ones_do(run):
    weights, curve = trained(bit_of(), replace(RECIPE, batch_split=3))
    assert max(np.abs(weights[name] - value).max() for name, value in run[0].items()) < 1e-5
    assert [row["loss"] for row in curve] == pytest.approx([row["loss"] for row in run[1]], rel=1e-4)


def test_batch_that_does_not_split_is_refused_before_training():
    bit = bit_of()
    with pytest.raises(InputError, match="batch_size is 12, which 1 devices and a batch_split of 5 don't divide"):
        trained(bit, replace(RECIPE, batch_split=5))


def test_mixed_precision_learns_in_bfloat16_and_keeps_float32_weights(run):
    with network.precision("mixed"):
        model = network.build(bit_of())
    assert model.get_layer("resnet/block1/unit01/b/standardized_conv2d").compute_dtype == "bfloat16"
    curve = []
    fit(model, run_of(), log=lambda _, values: curve.append(values))
    assert all(value.dtype == np.float32 for value in network.get_weights(model).values())
    assert curve[-1]["validation_accuracy"] > 0.9
    assert curve[-1]["loss"] == pytest.approx(run[1][-1]["loss"], abs=0.1)
    assert curve[-1]["loss"] != run[1][-1]["loss"]
    assert network.build(bit_of()).get_layer(HEAD).compute_dtype == "float32"


PLAIN = replace(RECIPE, flip=False)


def test_features_of_a_frozen_trunk_train_the_head_as_images_do(monkeypatch):
    weights, curve = trained(bit_of(), PLAIN, part="head")
    monkeypatch.setattr(network, "only_head_trained", lambda model: False)
    expected, expected_curve = trained(bit_of(), PLAIN, part="head")
    for name, value in expected.items():
        assert weights[name] == pytest.approx(value, abs=1e-5)
    assert [row["loss"] for row in curve] == pytest.approx([row["loss"] for row in expected_curve], rel=1e-4)


@pytest.mark.parametrize(
    ("part", "recipe", "computed_once"),
    [
        ("head", PLAIN, True),
        ("all", PLAIN, False),
        ("last_block", PLAIN, False),
        ("head", RECIPE, False),
        ("head", replace(PLAIN, padding=1), False),
    ],
)
def test_each_image_goes_through_a_frozen_trunk_once(monkeypatch, part, recipe, computed_once):
    shapes = set()

    def seen(*args):
        for pixels, targets in batches(*args):
            shapes.add(pixels.shape[1:])
            yield pixels, targets

    monkeypatch.setattr(loop, "batches", seen)
    trained(bit_of(), recipe, part=part)
    assert shapes == ({(1, 1, 32)} if computed_once else {(8, 8, 3)})


# Preparing ahead


def test_batches_are_prepared_ahead_in_order():
    made = []

    def items():
        for item in range(5):
            made.append(item)
            yield item

    coming = ahead(items(), depth=3)
    assert next(coming) == 0
    deadline = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [0, 1, 2, 3]
    assert list(coming) == [1, 2, 3, 4]


def test_what_fails_ahead_is_told():
    def items():
        yield 0
        raise InputError("a damaged image")

    with pytest.raises(InputError, match="a damaged image"):
        list(ahead(items()))


# Prediction


def test_predict_takes_fewer_large_images_at_a_time():
    taken = []

    def forward(pixels):
        taken.append(len(pixels))
        return pixels[:, 0, 0]

    for side, count in ((32, 300), (480, 40)):
        predict(forward, np.zeros((count, side, side, 3), np.uint8))
    assert taken == [256, 44, 18, 18, 4]


def test_predict_keeps_the_order_over_batches():
    bit = bit_of()
    head = np.random.default_rng(0).normal(size=bit.weights[f"{HEAD}/kernel"].shape)
    model = network.build(bit.with_weights({**bit.weights, f"{HEAD}/kernel": head}))
    pixels = np.random.default_rng(1).integers(256, size=(PREDICTION_BATCH + 3, 8, 8, 3), dtype=np.uint8)
    logits = predict(model, pixels)
    assert logits.shape == (len(pixels), 3)
    for index in (0, 255, 256, -1):
        expected = model(pixels[index][None].astype(np.float32)).numpy()
        assert logits[index] == pytest.approx(expected[0], rel=1e-3, abs=1e-4)


def test_mean_loss_is_that_of_all_images():
    random = np.random.default_rng(0)
    bit = bit_of()
    head = random.normal(size=bit.weights[f"{HEAD}/kernel"].shape).astype(np.float32)
    model = network.build(bit.with_weights({**bit.weights, f"{HEAD}/kernel": head}))
    pixels = random.integers(256, size=(7, 8, 8, 3)).astype(np.float32)
    targets = softmax(random.normal(size=(7, 3))).astype(np.float32)
    expected = np.mean(-np.sum(targets * np.log(softmax(model(pixels).numpy().astype(np.float64))), axis=1))
    # Batches of unequal sizes: every image counts alike.
    parts = [(pixels[:5], targets[:5]), (pixels[5:], targets[5:])]
    assert mean_loss(inference(model), parts) == pytest.approx(expected, rel=1e-5)
