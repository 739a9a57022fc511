"""The variants with their metrics, and the choice among them."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from bitlite.report.text import milliseconds, percent, size, three_digits
from bitlite.workflow import metrics
from bitlite.workflow.params import Compare
from bitlite.workflow.scores import within

# Two-sided 95 % of a normal distribution.
Z95 = 1.959964

TRADEOFF_COLUMNS = (
    "variant", "pruning", "quantization", "accuracy", "validation_accuracy", "agreement", "size_bytes", "gzip_bytes",
    "sparsity", "latency_ms_p50", "latency_ms_p90", "peak_memory_mb", "pareto", "selected",
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
    """The variants, among them the baseline, and the rule that chooses one."""

    variants: tuple[Variant, ...]
    rule: Compare

    @property
    def baseline(self) -> Variant:
        return next(v for v in self.variants if v.name == self.rule.baseline)

    @property
    def qualified(self) -> tuple[Variant, ...]:
        """The variants accurate enough on validation, the baseline among them: test images have no part in it."""
        baseline, most = self.baseline.validation_accuracy, self.rule.max_accuracy_drop
        return tuple(v for v in self.variants if within(v.validation_accuracy, baseline, most))

    @property
    def selected(self) -> Variant:
        """The best of the qualified by the objective; of equals the smaller, then the first by name."""
        cost = OBJECTIVES[self.rule.objective]
        return min(self.qualified, key=lambda v: (cost(v), v.size_bytes, v.name))

    @property
    def best(self) -> str:
        """In which respect the selected is the best: smallest, fastest or most accurate."""
        return BEST[self.rule.objective]

    @property
    def pareto(self) -> tuple[Variant, ...]:
        """The variants that no other one dominates."""
        return tuple(v for v in self.variants if not any(other.dominates(v) for other in self.variants))

    @property
    def machines(self) -> list[str]:
        """The CPUs and thread counts behind the latencies; latencies compare only if this is one."""
        return sorted({f"{v.cpu}, {v.threads} thread{'s' if v.threads > 1 else ''}" for v in self.variants})


def summary(comparison: Comparison) -> metrics.Summary:
    """The selected variant, alone and against the baseline."""
    selected, baseline = comparison.selected, comparison.baseline
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
    """A row of TRADEOFF_COLUMNS for each variant, in the order of params.yaml."""
    return [
        {
            "variant": variant.name,
            **{column: getattr(variant, column) for column in TRADEOFF_COLUMNS[1:-2]},
            "pareto": str(variant in comparison.pareto).lower(),
            "selected": str(variant == comparison.selected).lower(),
        }
        for variant in comparison.variants
    ]


def table(comparison: Comparison) -> str:
    """The variants as lines of text for a terminal, the selected one marked."""
    width = max(len(v.name) for v in comparison.variants)
    lines = [f"  {'variant':{width}}  accuracy  validation       size  latency p50"]
    for v in comparison.variants:
        mark = ">" if v == comparison.selected else " "
        lines.append(
            f"{mark} {v.name:{width}}  {percent(v.accuracy):>8}  {percent(v.validation_accuracy):>10}"
            f"  {size(v.size_bytes):>9}  {milliseconds(v.latency_ms_p50):>11}"
        )
    return "\n".join(lines)


def choice(comparison: Comparison) -> str:
    """The selection and its reason as one sentence."""
    selected, compared = comparison.selected, summary(comparison)
    name, smaller = selected.name, _times(compared.size_ratio, "smaller", "larger")
    faster, fewer = _times(1 / compared.speedup, "faster", "slower"), _points(compared.accuracy_drop)
    if selected == comparison.baseline:
        name, smaller, faster, fewer = f"{name}, the baseline,", "", "", ""
    return (
        f"{name} is the {comparison.best} among the {len(comparison.qualified)} of "
        f"{len(comparison.variants)} variants whose validation accuracy is at most "
        f"{100 * comparison.rule.max_accuracy_drop:g} points below that of {comparison.rule.baseline}: "
        f"{size(selected.size_bytes)}{smaller}, {milliseconds(selected.latency_ms_p50)} an image{faster}, "
        f"{percent(selected.accuracy)} of the test images right{fewer}."
    )


def _times(ratio: float, less: str, more: str) -> str:
    text = three_digits(max(ratio, 1 / ratio))
    return " (the same)" if text == "1.00" else f" ({text} times {less if ratio < 1 else more})"


def _points(drop: float) -> str:
    text = f"{abs(100 * drop):.1f}"
    return " (the same)" if text == "0.0" else f" ({text} points {'less' if drop > 0 else 'more'})"


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a `share` (0..1) observed in `count` > 0 trials.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927).
    """
    centre = share + Z95**2 / (2 * count)
    radius = Z95 * math.sqrt(share * (1 - share) / count + Z95**2 / (4 * count**2))
    scale = 1 + Z95**2 / count
    return max(0.0, (centre - radius) / scale), min(1.0, (centre + radius) / scale)
