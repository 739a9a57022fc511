"""BiT-HyperRule: how BiT says to fine-tune, from the size of the images and their number alone.

Kolesnikov et al., arXiv:1912.11370, section 3.3; `bit_hyperrule.py` of google-research/big_transfer.
"""

from math import log
from typing import NamedTuple

BATCH_SIZE = 512
MOMENTUM = 0.9


class Schedule(NamedTuple):
    """Steps in all, steps of warm-up, and the steps at which the learning rate is divided by 10."""

    steps: int
    warmup: int
    decays: tuple[int, ...]

    def stretched(self, steps: int) -> "Schedule":
        """This schedule over another number of steps."""
        # However short the run, its first step is at the full rate.
        decays = tuple(max(1, decay * steps // self.steps) for decay in self.decays)
        return Schedule(steps, self.warmup * steps // self.steps, decays)


def schedule(examples: int) -> Schedule:
    """The schedule for so many training images."""
    if examples < 20_000:
        return Schedule(500, 100, (200, 300, 400))
    if examples < 500_000:
        return Schedule(10_000, 500, (3000, 6000, 9000))
    return Schedule(20_000, 500, (6000, 12_000, 18_000))


def resolution(image_area: int) -> tuple[int, int]:
    """Sides in pixels to resize to and to crop, for images of `image_area` pixels."""
    return (160, 128) if image_area < 96 * 96 else (512, 480)


def mixup(examples: int) -> float:
    """Parameter of mixup's beta distribution (Zhang et al., arXiv:1710.09412); 0 is none."""
    return 0.0 if examples < 20_000 else 0.1


def peak_rate(batch_size: int) -> float:
    """Highest learning rate: 0.003 for the rule's 512 images a step, 0.001 for 128 (README of big_transfer).

    Other sizes follow the power law through these two.
    """
    return 0.003 * (batch_size / BATCH_SIZE) ** (log(3) / log(4))
