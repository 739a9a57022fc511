"""BiT-HyperRule: how BiT says to fine-tune, from the size of the images and their number alone.

Kolesnikov et al., arXiv:1912.11370, section 3.3; `bit_hyperrule.py` of google-research/big_transfer.
"""

from dataclasses import dataclass
from math import cos, pi

import numpy as np

from bitlite.workflow.params import Combine, Finetune, Pruning

BATCH_SIZE = 512
MOMENTUM = 0.9


@dataclass(frozen=True)
class Recipe:
    """A training run. Sizes are sides of squares in pixels.

    `image_size` is cropped at random from images of `resize` with `padding` grey pixels around them. After `warmup` the
    learning rate is a tenth after each of `decays`, or, if `cosine`, falls to 0 as half a cosine.
    """

    steps: int
    batch_size: int
    learning_rate: float
    resize: int
    image_size: int
    warmup: int
    decays: tuple[int, ...]
    cosine: bool = False
    padding: int = 0
    mixup: float = 0.0
    flip: bool = False
    weight_decay: float = 0.0
    optimizer: str = "sgd"
    batch_split: int = 1

    @property
    def augments(self) -> bool:
        """Whether an image is another one each time it is shown."""
        return self.resize + 2 * self.padding > self.image_size or self.flip or self.mixup > 0


def resolution(image_area: int) -> tuple[int, int]:
    """Sides to resize to and to crop, for images of `image_area` pixels."""
    return (160, 128) if image_area < 96 * 96 else (512, 480)


def schedule(examples: int) -> tuple[int, tuple[int, ...], int]:
    """Steps of warm-up, steps at which the learning rate is divided by 10, and steps in all."""
    if examples < 20_000:
        return 100, (200, 300, 400), 500
    if examples < 500_000:
        return 500, (3000, 6000, 9000), 10_000
    return 500, (6000, 12_000, 18_000), 20_000


def mixup(examples: int) -> float:
    """Parameter of mixup's beta distribution (Zhang et al., arXiv:1710.09412); 0 is none."""
    return 0.0 if examples < 20_000 else 0.1


def peak_rate(batch_size: int) -> float:
    """Highest learning rate: 0.003 for the rule's 512 images a step, 0.001 for 128 (README of big_transfer).

    Other sizes follow the power law through these two.
    """
    return 0.003 * (batch_size / BATCH_SIZE) ** (np.log(3) / np.log(4))


def recipe(params: Finetune, *, image_area: int, examples: int) -> Recipe:
    """The run that `params` asks for, `auto` meaning the rule. Other numbers of steps stretch the rule's schedule."""
    rule_resize, rule_crop = resolution(image_area)
    warmup, decays, rule_steps = schedule(examples)
    steps = _or(params.steps, rule_steps)
    image_size = _or(params.image_size, rule_crop)
    batch_size = _or(params.batch_size, BATCH_SIZE)
    return Recipe(
        steps=steps,
        batch_size=batch_size,
        learning_rate=_or(params.learning_rate, peak_rate(batch_size)),
        resize=_or(params.resize, image_size * rule_resize // rule_crop),
        image_size=image_size,
        warmup=warmup * steps // rule_steps,
        # However short the run, its first step is at the full rate.
        decays=tuple(max(1, decay * steps // rule_steps) for decay in decays)
        if params.learning_rate_schedule == "hyperrule"
        else (),
        cosine=params.learning_rate_schedule == "cosine",
        padding=params.padding,
        mixup=_or(params.mixup, mixup(examples)),
        flip=params.flip,
        weight_decay=params.weight_decay,
        batch_split=params.batch_split,
    )


def recovery(how: Pruning, examples: int) -> Pruning:
    """`how` with `auto` steps of recovery as a number: three tenths of the rule's, so larger data sets get more."""
    if isinstance(how, Combine):
        return how.model_copy(update={"parts": tuple(recovery(part, examples) for part in how.parts)})
    return how.model_copy(update={"steps": _or(how.steps, schedule(examples)[2] * 3 // 10)})


def learning_rate(step: int, run: Recipe) -> float:
    """The rate of `step`, counted from 0: a linear warm-up to the peak, then a tenth after every decay.

    The published schedule without its own step 0, whose rate is 0. A run with `cosine` falls after the warm-up as
    Loshchilov & Hutter, arXiv:1608.03983, do.
    """
    if step < run.warmup:
        return run.learning_rate * (step + 1) / run.warmup
    if run.cosine:
        return run.learning_rate * (1 + cos(pi * (step - run.warmup) / (run.steps - run.warmup))) / 2
    return run.learning_rate / 10 ** sum(step >= decay for decay in run.decays)


def _or(value, automatic):
    return automatic if value == "auto" else value
