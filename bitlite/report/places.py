"""Where a file runs besides this CPU: what was found there in words, and what to ship where."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bitlite.report.text import count, percent, series, size
from bitlite.report.variants import Comparison, Variant
from bitlite.workflow.metrics import Places

# A file is fit for a place where at least this share of images falls into the class that the CPU gives: not 1, since
# integers are rounded in other ways elsewhere, which can move an image between two classes that are all but equal.
FIT = 0.99
# And where no output is further off than this share of the CPU's largest: the classes of a few images hardly show an
# error. int8 files come to 0.02 by rounding alone.
MOST_OFF = 0.1


@dataclass(frozen=True)
class Finding:
    """What was found of a file in a place, in words. fit: whether to ship it there; None if nothing says so."""

    fit: bool | None
    text: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.note})" if self.note else self.text


UNCHECKED = Finding(None, "not checked")
REFUSES = Finding(False, "refuses")
INTEGERS = Finding(None, "all integers")


@dataclass(frozen=True)
class Place:
    """A place other than this CPU, alone and as sentences name all of its kind. `find` reads what was found there."""

    name: str
    plural: str
    meaning: str
    find: Callable[[Places], Finding]


def gpu(found: Places) -> Finding:
    """Fit if LiteRT's delegate takes all operators, agrees, and is not far off."""
    if found.gpu_agreement == 0 and found.gpu_difference is None:
        return REFUSES
    if found.gpu_agreement is None or found.gpu_whole is None or found.gpu_difference is None:
        return UNCHECKED
    part = "" if found.gpu_whole else "in part, "
    fit = found.gpu_whole and found.gpu_agreement >= FIT and found.gpu_difference <= MOST_OFF
    return Finding(fit, _same(found.gpu_agreement), f"{part}off by {_part(found.gpu_difference)}")


def float16(found: Places) -> Finding:
    """Fit if it agrees and nothing exceeds float16, which some hardware also sums in."""
    if found.float16_peak == 0:
        return INTEGERS
    if found.float16_agreement is None or found.float16_peak is None:
        return UNCHECKED
    fit = found.float16_agreement >= FIT and found.float16_peak <= 1
    return Finding(fit, _same(found.float16_agreement), f"peak {_part(found.float16_peak)} of its range")


def microcontroller(found: Places) -> Finding:
    """Fit if TensorFlow Lite Micro agrees."""
    if found.tflm_agreement == 0 and found.tflm_arena_bytes is None:
        return REFUSES
    if found.tflm_agreement is None or found.tflm_arena_bytes is None:
        return UNCHECKED
    return Finding(found.tflm_agreement >= FIT, _same(found.tflm_agreement), size(found.tflm_arena_bytes))


def npu(found: Places) -> Finding:
    """Fit if Vela leaves no operator to the CPU beside the NPU. It runs nothing, so answers are not compared."""
    if found.npu_share is None:
        return UNCHECKED
    text = "whole" if found.npu_share == 1 else percent(found.npu_share) if found.npu_share else "none"
    whole = found.npu_share == 1
    # Cycles of a part would look like those of a faster file.
    cycles = found.npu_cycles if whole else None
    return Finding(whole, text, "" if cycles is None else f"{count(cycles)} cycles on {found.npu}")


def _part(share: float) -> str:
    return "less than 0.1 %" if share < 0.001 else percent(share) if share <= 10 else "more than 1000 %"


def _same(agreement: float) -> str:
    return "right" if agreement == 1 else percent(agreement)


PLACES = (
    Place(
        "GPU", "GPUs",
        "LiteRT's GPU delegate in float32, on a GPU or on Vulkan in software; off by: the largest difference from the "
        f"CPU's outputs, as a share of their largest, of which {MOST_OFF:.0%} are too much",
        gpu,
    ),
    Place(
        "float16", "float16 arithmetic",
        "a CPU made to compute in float16; peak: the largest value or sum that occurs, as a share of float16's largest",
        float16,
    ),
    Place(
        "Microcontroller", "microcontrollers", "TensorFlow Lite Micro, and the memory that activations take there",
        microcontroller,
    ),
    Place(
        "NPU", "NPUs",
        "share of the operators that Vela puts on an Arm Ethos-U, and the cycles that it reckons for an image; answers "
        "are not compared",
        npu,
    ),
)  # fmt: skip


def advice(comparison: Comparison) -> str:
    """What to ship where, of the variants that meet all constraints, and what was not checked.

    The name of a quantization stands for its variants where all of them are alike. Empty if no variant qualifies.
    """
    if not comparison.qualified:
        return ""
    alike: dict[tuple, list[Variant]] = {}
    for variant in comparison.qualified:
        found = [place.find(variant) for place in PLACES]
        alike.setdefault(tuple((each.fit, each == UNCHECKED) for each in found), []).append(variant)
    parts = [
        f"{series(_names(group, comparison.variants))} for {series(['CPUs', *_places(group[0], fit=True)])}"
        + _not_for(group[0], ", ")
        + _not_checked(group[0])
        for group in alike.values()
    ]
    missed = len(comparison.qualified) < len(comparison.variants)
    why = "misses a constraint" if comparison.constraints[1:] else "is not accurate enough"
    rest = f" What this does not name {why}." if missed else ""
    return f"What to ship where: {'; '.join(parts)}.{rest}"


def caution(variant: Variant) -> str:
    """The places that the variant is known not to be fit for, as one sentence; empty if there are none."""
    wrong = _not_for(variant, f"{variant.name} is ")
    return f"{wrong}." if wrong else ""


def _not_for(variant: Variant, before: str) -> str:
    wrong = _places(variant, fit=False)
    return f"{before}not for {series(wrong, 'or')}" if wrong else ""


def _not_checked(variant: Variant) -> str:
    unchecked = [place.plural for place in PLACES if place.find(variant) == UNCHECKED]
    return f", not checked for {series(unchecked, 'or')}" if unchecked else ""


def _places(variant: Variant, fit: bool) -> list[str]:
    return [place.plural for place in PLACES if place.find(variant).fit is fit]


def _names(group: list[Variant], variants: Iterable[Variant]) -> list[str]:
    """The names of a group, that of a quantization once if the group has all of its `variants`."""
    others = {variant.quantization for variant in variants if variant not in group}
    return list(dict.fromkeys(v.name if v.quantization in others else v.quantization for v in group))
