"""The variants with their metrics, and the choice among them."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bitlite.report import constraints, noise
from bitlite.report.constraints import Constraint
from bitlite.report.noise import Difference
from bitlite.report.text import milliseconds, percent, series, size, three_digits
from bitlite.workflow import metrics
from bitlite.workflow.errors import listed
from bitlite.workflow.params import Compare

# Two-sided 95 % of a normal distribution.
Z95 = 1.959964

# Times that the baseline's largest median latency may be its least one.
RESTLESS = 1.15

TRADEOFF_COLUMNS = (
    "variant", "pruning", "quantization", "accuracy", "validation_accuracy", "agreement", "size_bytes", "gzip_bytes",
    "sparsity", "latency_ms_p50", "latency_ms_p90", "peak_memory_mb", "p_baseline", "p_selected",
    "pareto", "selected",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Variant(metrics.Evaluation, metrics.Timing, metrics.Places):
    """A .tflite file by name, P-Q, with all that was measured of it."""

    name: str

    @property
    def pruning(self) -> str:
        return self.name.partition("-")[0]

    @property
    def quantization(self) -> str:
        return self.name.partition("-")[2]

    @property
    def relative_latency(self) -> float:
        """Median latency as a share of the baseline's, which was measured in turns with it."""
        return self.latency_ms_p50 / self.baseline_ms_p50

    @property
    def machine(self) -> str:
        """What its time was measured on."""
        return f"{self.cpu}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    def dominates(self, other: "Variant") -> bool:
        """Whether this is no worse than `other` in accuracy, size and latency, and better in one of them."""
        mine, theirs = ((-v.accuracy, v.size_bytes, v.relative_latency) for v in (self, other))
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


def left_over(names: Collection[str], metrics_directory: Path) -> list[Path]:
    """The metrics of variants other than `names`, which entries left that params.yaml no longer has."""
    return sorted(
        path
        for folder in ("evaluate", "benchmark", "where")
        for path in (metrics_directory / folder).glob("*.json")
        if path.stem not in names
    )


def read(names: Iterable[str], directory: Path) -> tuple[Variant, ...]:
    """The variants of these names from `directory`/evaluate, /benchmark and /where, in which others may lie too.

    Raises InputError as `metrics.read` does.
    """

    def variant(name: str) -> Variant:
        evaluation = metrics.read(directory / "evaluate" / f"{name}.json", metrics.Evaluation)
        timing = metrics.read(directory / "benchmark" / f"{name}.json", metrics.Timing)
        places = metrics.read(directory / "where" / f"{name}.json", metrics.Places)
        return Variant(name=name, **vars(evaluation), **vars(timing), **vars(places))

    return tuple(variant(name) for name in names)


# For each objective, a number of which the best variant has the lowest, and the name for that variant.
OBJECTIVES = {
    "size": lambda variant: variant.size_bytes,
    "latency": lambda variant: variant.relative_latency,
    "accuracy": lambda variant: -variant.validation_accuracy,
}
BEST = {"size": "smallest", "latency": "fastest", "accuracy": "most accurate"}


@dataclass(frozen=True)
class Comparison:
    """The variants, among them the baseline, and the rule that chooses one.

    right: by variant, whether it puts each test image into its class, bool [images]. The choice goes without.
    """

    variants: tuple[Variant, ...]
    rule: Compare
    right: Mapping[str, np.ndarray]

    @cached_property
    def baseline(self) -> Variant:
        return next(v for v in self.variants if v.name == self.rule.baseline)

    @cached_property
    def constraints(self) -> tuple[Constraint, ...]:
        """What a variant must meet, by validation images: test images have no part in it."""
        return constraints.of(self.rule, self.baseline.validation_accuracy)

    def misses(self, variant: Variant) -> dict[Constraint, float]:
        """The constraints that a variant does not meet, and by how much."""
        found = {each: each.missed_by(getattr(variant, each.field)) for each in self.constraints}
        return {constraint: by for constraint, by in found.items() if by}

    @cached_property
    def qualified(self) -> tuple[Variant, ...]:
        """The variants that meet all constraints."""
        return tuple(v for v in self.variants if not self.misses(v))

    @cached_property
    def nearest_first(self) -> tuple[Variant, ...]:
        """All variants, by the sum of what they miss constraints by; of equals the best by the rule."""

        def distance(variant: Variant) -> float:
            return sum(constraint.weight(by) for constraint, by in self.misses(variant).items())

        return tuple(sorted(self.variants, key=lambda v: (distance(v), *self._rank(v))))

    @cached_property
    def selected(self) -> Variant | None:
        """The best of the qualified by the objective; of equals the smaller, then the first by name. None: none is."""
        return min(self.qualified, key=self._rank, default=None)

    @property
    def foremost(self) -> Variant:
        """The selected variant, or the nearest to being it."""
        return self.selected or self.nearest_first[0]

    def _rank(self, variant: Variant) -> tuple:
        return OBJECTIVES[self.rule.objective](variant), variant.size_bytes, variant.name

    @property
    def images(self) -> int:
        """Number of test images."""
        return len(self.right[self.rule.baseline])

    @cached_property
    def against_baseline(self) -> dict[str, Difference]:
        """What the test images tell of each other variant against the baseline."""
        return noise.differences(self.right, self.rule.baseline)

    @cached_property
    def against_foremost(self) -> dict[str, Difference]:
        """What the test images tell of each other variant against the foremost."""
        return noise.differences(self.right, self.foremost.name)

    @property
    def best(self) -> str:
        """In which respect the selected is the best: smallest, fastest or most accurate."""
        return BEST[self.rule.objective]

    @property
    def pareto(self) -> tuple[Variant, ...]:
        """The variants that no other one dominates."""
        return tuple(v for v in self.variants if not any(other.dominates(v) for other in self.variants))

    @property
    def restless(self) -> tuple[float, float] | None:
        """The least and the largest latency in ms of the baseline beside one variant or another, if they are far apart.

        Latencies then do not compare; each variant's share of the baseline's, measured in turns with it, still does.
        """
        seen = [v.baseline_ms_p50 for v in self.variants]
        return (min(seen), max(seen)) if max(seen) > RESTLESS * min(seen) else None

    @property
    def machines(self) -> list[str]:
        """The CPUs and thread counts behind the latencies; latencies compare only if this is one."""
        return sorted({v.machine for v in self.variants})


def summary(comparison: Comparison) -> metrics.Summary:
    """The selected variant, alone and against the baseline."""
    selected, baseline = comparison.selected, comparison.baseline
    assert selected, "a variant meets the constraints"
    return metrics.Summary(
        selected=selected.name,
        accuracy=selected.accuracy,
        accuracy_drop=baseline.accuracy - selected.accuracy,
        size_bytes=selected.size_bytes,
        size_ratio=selected.size_bytes / baseline.size_bytes,
        latency_ms_p50=selected.latency_ms_p50,
        speedup=1 / selected.relative_latency,
    )


def tradeoff_rows(comparison: Comparison) -> list[dict]:
    """A row of TRADEOFF_COLUMNS for each variant, in the order of params.yaml.

    p_baseline, p_selected: how probable it is that chance parts their accuracies so far; empty for the variant itself.
    """
    return [
        {
            "variant": variant.name,
            **{column: getattr(variant, column) for column in TRADEOFF_COLUMNS[1:-4]},
            "p_baseline": _p(comparison.against_baseline.get(variant.name)),
            "p_selected": _p(comparison.against_foremost.get(variant.name)),
            "pareto": str(variant in comparison.pareto).lower(),
            "selected": str(variant == comparison.selected).lower(),
        }
        for variant in comparison.variants
    ]


def table(comparison: Comparison) -> str:
    """The variants as lines of text for a terminal, the selected one marked, and what ties with it in accuracy."""
    width = max(len(v.name) for v in comparison.variants)
    lines = [f"  {'variant':{width}}  accuracy  validation       size  latency p50  p to selected"]
    for v in comparison.variants:
        mark = ">" if v == comparison.selected else " "
        lines.append(
            f"{mark} {v.name:{width}}  {percent(v.accuracy):>8}  {percent(v.validation_accuracy):>10}"
            f"  {size(v.size_bytes):>9}  {milliseconds(v.latency_ms_p50):>11}"
            f"  {told(comparison.against_foremost.get(v.name)):>13}".rstrip()
        )
    return "\n".join(lines)


def unrest(comparison: Comparison) -> str:
    """What to do about latencies that were measured on a restless machine, as one sentence; "" if they were not."""
    if not (seen := comparison.restless):
        return ""
    return (
        f"This machine was not the same throughout: beside one variant or another {comparison.rule.baseline} took "
        f"{milliseconds(seen[0])} to {milliseconds(seen[1])}. Once it is idle, time all anew: "
        "dvc repro --force --single-item benchmark."
    )


def told(difference: Difference | None) -> str:
    """What is known of a difference, in words; nothing of a variant against itself."""
    if difference is None:
        return ""
    return f"{'tie' if difference.tie else 'differs'} {probability(difference.p)}"


def probability(p: float) -> str:
    """A p-value to two decimals, or to one digit if that is less."""
    return f"{p:.2f}" if p >= 0.01 else f"{p:.1g}" if p >= 0.0001 else "<0.0001"


def misses_table(comparison: Comparison) -> str:
    """What every variant has of what is bounded, and misses, the nearest first, as lines of text for a terminal."""
    rows = [["variant", *(constraint.key for constraint in comparison.constraints)]]
    for variant in comparison.nearest_first:
        found = (standing(comparison, variant, constraint) for constraint in comparison.constraints)
        rows.append([variant.name, *(f"{has}, {missed}" if missed else has for has, missed in found)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"  {line}".rstrip() for line in lines)


def standing(comparison: Comparison, variant: Variant, constraint: Constraint) -> tuple[str, str]:
    """What the variant has of what is bounded, and what it is over it or short of it; "" if it meets the constraint."""
    by = comparison.misses(variant).get(constraint)
    missed = f"{constraint.by(by)} {'short' if constraint.least else 'over'}" if by else ""
    return constraint.text(getattr(variant, constraint.field)), missed


def misses(comparison: Comparison, variant: Variant) -> list[str]:
    """The constraints that the variant misses, and by how much, in words."""
    return [f"{missed.key} by {missed.by(by)}" for missed, by in comparison.misses(variant).items()]


def remedy(comparison: Comparison) -> str:
    """What to relax if no variant qualifies, as one sentence."""
    nearest = comparison.nearest_first[0]
    lines = [constraint.relaxed(by) for constraint, by in comparison.misses(nearest).items()]
    return f"the nearest, {nearest.name}, would with {series(lines)} under compare in params.yaml"


def demands(comparison: Comparison) -> str:
    """What the constraints ask, as the end of a sentence."""
    return series([constraint.demand for constraint in comparison.constraints])


def choice(comparison: Comparison) -> str:
    """The selection and its reason as one sentence, or that there is none."""
    selected = comparison.selected
    if not selected:
        return (
            f"None of the {len(comparison.variants)} variants meets all constraints: that its {demands(comparison)}. "
            f"Of them {remedy(comparison)}."
        )
    name = f"{selected.name}, the baseline," if selected == comparison.baseline else selected.name
    smaller, faster, fewer = (f" ({text})" if text else "" for text in compared(comparison))
    return (
        f"{name} is the {comparison.best} among the {len(comparison.qualified)} of "
        f"{len(comparison.variants)} variants whose {demands(comparison)}: "
        f"{size(selected.size_bytes)}{smaller}, {milliseconds(selected.latency_ms_p50)} an image{faster}, "
        f"{percent(selected.accuracy)} of the test images right{fewer}."
    )


def ties(comparison: Comparison) -> str:
    """Which differences from the foremost variant in accuracy are noise, and which are not, as sentences."""
    name, against = comparison.foremost.name, comparison.against_foremost
    same = [other for other, found in against.items() if found.tie]
    better = [other for other, found in against.items() if not found.tie and found.gained > found.lost]
    worse = [other for other in against if other not in (*same, *better)]
    if not against:
        return ""
    images = f"For what {comparison.images} test images can tell, {name} is"
    if len(same) == len(against):
        return f"{images} as accurate as all others: which of them is ahead is noise."
    parts = [f"as accurate as {listed(same)}"] if same else []
    for how, names in (("more accurate than", worse), ("less accurate than", better)):
        if names:
            parts.append(f"{how} {listed(names) if len(names) < 4 else f'{len(names)} others'}")
    return f"{images} {'; '.join(parts)}."


def _p(difference: Difference | None) -> float | str:
    return difference.p if difference else ""


def compared(comparison: Comparison) -> tuple[str, str, str]:
    """The foremost variant's size, latency and test accuracy against the baseline's, in words; "" if it is that."""
    foremost, baseline = comparison.foremost, comparison.baseline
    if foremost == baseline:
        return "", "", ""
    return (
        _times(foremost.size_bytes / baseline.size_bytes, "smaller", "larger"),
        _times(foremost.relative_latency, "faster", "slower"),
        _points(baseline.accuracy - foremost.accuracy),
    )


def _times(ratio: float, less: str, more: str) -> str:
    text = three_digits(max(ratio, 1 / ratio))
    return "the same" if text == "1.00" else f"{text} times {less if ratio < 1 else more}"


def _points(drop: float) -> str:
    text = f"{abs(100 * drop):.1f}"
    return "the same" if text == "0.0" else f"{text} points {'less' if drop > 0 else 'more'}"


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a `share` (0..1) observed in `count` > 0 trials.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927).
    """
    centre = share + Z95**2 / (2 * count)
    radius = Z95 * math.sqrt(share * (1 - share) / count + Z95**2 / (4 * count**2))
    scale = 1 + Z95**2 / count
    return max(0.0, (centre - radius) / scale), min(1.0, (centre + radius) / scale)
