from math import cos, pi

import pytest

from bitlite.training import hyperrule
from bitlite.training.recipe import Recipe, finetuning_recipe, learning_rate
from bitlite.workflow.params import Finetune

SMALL, LARGE = 32 * 32, 500 * 400


@pytest.mark.parametrize(
    ("examples", "steps", "warmup", "decays", "mixup"),
    [
        (1, 500, 100, (200, 300, 400), 0.0),
        (19_999, 500, 100, (200, 300, 400), 0.0),
        (20_000, 10_000, 500, (3000, 6000, 9000), 0.1),
        (499_999, 10_000, 500, (3000, 6000, 9000), 0.1),
        (500_000, 20_000, 500, (6000, 12_000, 18_000), 0.1),
        (14_000_000, 20_000, 500, (6000, 12_000, 18_000), 0.1),
    ],
)
def test_published_schedule(examples, steps, warmup, decays, mixup):
    rule = finetuning_recipe(Finetune(), image_area=LARGE, examples=examples)
    assert (rule.steps, rule.warmup, rule.decays, rule.mixup) == (steps, warmup, decays, mixup)
    assert (rule.batch_size, rule.learning_rate, rule.weight_decay) == (512, 0.003, 0.0)
    assert rule.flip
    assert hyperrule.MOMENTUM == 0.9


@pytest.mark.parametrize(
    ("area", "resize", "crop"),
    [(28 * 28, 160, 128), (96 * 96 - 1, 160, 128), (96 * 96, 512, 480), (4000 * 3000, 512, 480)],
)
def test_published_resolution(area, resize, crop):
    rule = finetuning_recipe(Finetune(), image_area=area, examples=1000)
    assert (rule.resize, rule.image_size) == (resize, crop)


@pytest.mark.parametrize(("area", "size", "resize"), [(SMALL, 32, 40), (SMALL, 224, 280), (LARGE, 240, 256)])
def test_other_image_size_keeps_the_rule_s_margin(area, size, resize):
    rule = finetuning_recipe(Finetune(image_size=size), image_area=area, examples=1000)
    assert (rule.resize, rule.image_size) == (resize, size)


@pytest.mark.parametrize(
    ("steps", "examples", "warmup", "decays"),
    [
        (300, 3500, 60, (120, 180, 240)),
        (6400, 48_000, 320, (1920, 3840, 5760)),
        (40_000, 500_000, 1000, (12_000, 24_000, 36_000)),
        (7, 3500, 1, (2, 4, 5)),
        (1, 3500, 0, (1, 1, 1)),
        (0, 3500, 0, (1, 1, 1)),
    ],
)
def test_other_steps_stretch_the_schedule(steps, examples, warmup, decays):
    run = finetuning_recipe(Finetune(steps=steps), image_area=SMALL, examples=examples)
    assert (run.steps, run.warmup, run.decays) == (steps, warmup, decays)


def test_what_params_say_overrides_the_rule():
    params = Finetune(
        steps=50, batch_size=8, learning_rate=0.5, image_size=24, resize=30, mixup=0.3, flip=False, weight_decay=0.01
    )
    assert finetuning_recipe(params, image_area=LARGE, examples=1_000_000) == Recipe(
        steps=50, batch_size=8, learning_rate=0.5, resize=30, image_size=24, warmup=1, decays=(15, 30, 45), mixup=0.3,
        flip=False, weight_decay=0.01,
    )  # fmt: skip


def test_zero_is_no_auto():
    run = finetuning_recipe(Finetune(steps=0, mixup=0.0), image_area=LARGE, examples=1_000_000)
    assert (run.steps, run.mixup) == (0, 0.0)


@pytest.mark.parametrize(
    ("examples", "steps"), [(3500, "auto"), (30_000, "auto"), (500_000, "auto"), (3500, 300), (3500, 7), (30_000, 3)]
)
def test_learning_rate_of_every_step(examples, steps):
    run = finetuning_recipe(Finetune(steps=steps, learning_rate=0.03), image_area=SMALL, examples=examples)
    rate, rates = 0.0, []
    for step in range(run.steps):
        if step < run.warmup:
            rate += 0.03 / run.warmup
        elif step == run.warmup:
            rate = 0.03
        rate /= 10 ** run.decays.count(step)
        rates.append(rate)
    assert [learning_rate(step, run) for step in range(run.steps)] == pytest.approx(rates, rel=1e-9)


def test_learning_rate_at_the_corners_of_the_rule():
    run = finetuning_recipe(Finetune(), image_area=SMALL, examples=5000)
    rates = {0: 0.00003, 49: 0.0015, 99: 0.003, 100: 0.003, 199: 0.003, 200: 0.0003, 299: 0.0003, 300: 0.00003}
    rates |= {399: 0.00003, 400: 0.000003, 499: 0.000003}
    assert {step: learning_rate(step, run) for step in rates} == pytest.approx(rates)


@pytest.mark.parametrize(("batch_size", "rate"), [(512, 0.003), (128, 0.001), (32, 0.001 / 3), (2048, 0.009)])
def test_smaller_batches_learn_more_slowly(batch_size, rate):
    # The authors' two points, 512: 0.003 and 128: 0.001, say a third of the rate for a quarter of the images.
    run = finetuning_recipe(Finetune(batch_size=batch_size), image_area=SMALL, examples=10_000)
    assert run.learning_rate == pytest.approx(rate)


@pytest.mark.parametrize(
    ("changes", "augments"),
    [
        ({}, False),
        ({"flip": True}, True),
        ({"resize": 40}, True),
        ({"mixup": 0.1}, True),
        ({"padding": 1}, True),
        ({"batch_split": 4}, False),
    ],
)
def test_augments(changes, augments):
    plain = {"image_size": 32, "resize": 32, "flip": False, "mixup": 0.0}
    assert finetuning_recipe(Finetune(**plain | changes), image_area=SMALL, examples=100).augments is augments


def test_cosine_falls_from_the_peak_to_almost_nothing():
    run = Recipe(
        110, 32, learning_rate=0.2, resize=32, image_size=32, warmup=10, decays=(20,), learning_rate_schedule="cosine"
    )
    rates = {0: 0.02, 9: 0.2, 10: 0.2, 35: 0.1 + 0.1 * 0.5**0.5, 60: 0.1}
    assert {step: learning_rate(step, run) for step in rates} == pytest.approx(rates)
    assert 0 < learning_rate(109, run) < 0.001 * 0.2


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("hyperrule", {0: 0.01, 9: 0.1, 10: 0.1, 20: 0.01, 39: 0.001, 40: 0.0001}),
        ("cosine", {0: 0.01, 9: 0.1, 10: 0.1, 30: 0.05, 36: 0.1 * (1 + cos(0.65 * pi)) / 2}),
        ("constant", {0: 0.01, 9: 0.1, 10: 0.1, 25: 0.1, 49: 0.1}),
    ],
)
def test_schedule_that_params_ask_for_shapes_the_learning_rate(schedule, rates):
    params = Finetune(steps=50, learning_rate=0.1, learning_rate_schedule=schedule)
    run = finetuning_recipe(params, image_area=SMALL, examples=3500)
    assert run.learning_rate_schedule == schedule
    assert {step: learning_rate(step, run) for step in rates} == pytest.approx(rates)


def test_padding_is_that_of_params():
    assert finetuning_recipe(Finetune(padding=4), image_area=SMALL, examples=100).padding == 4
    assert finetuning_recipe(Finetune(), image_area=SMALL, examples=100).padding == 0
