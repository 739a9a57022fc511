"""The variants' metrics, and the choice among them. Pure, but for the reading of metrics files."""

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path

from bitlite.workflow.errors import InputError

# Two-sided 95 % of a normal distribution.
Z95 = 1.959964
# Accuracies are counts over a number of images: far coarser than this, which is far coarser than rounding.
ROUNDING = 1e-9

EVALUATION = ("accuracy", "top5_accuracy", "validation_accuracy", "agreement", "size_bytes", "gzip_bytes", "sparsity")
BENCHMARK = ("latency_ms_p50", "latency_ms_p90", "peak_memory_mb", "delegated", "threads")
TRADEOFF_COLUMNS = (
    "variant", "pruning", "quantization", "accuracy", "validation_accuracy", "agreement", "size_bytes", "gzip_bytes",
    "sparsity", "latency_ms_p50", "latency_ms_p90", "peak_memory_mb", "pareto", "selected",
)  # fmt: skip
MODEL = ("accuracy", "top5_accuracy", "parameters", "sparsity", "macs")


@dataclasses.dataclass(frozen=True)
class Variant:
    """What was measured of one .tflite file. Shares are in 0..1; `cpu` names the machine behind the latencies."""

    name: str
    accuracy: float
    top5_accuracy: float
    validation_accuracy: float
    agreement: float
    size_bytes: int
    gzip_bytes: int
    sparsity: float
    latency_ms_p50: float
    latency_ms_p90: float
    peak_memory_mb: float
    delegated: float
    threads: int
    cpu: str

    @property
    def pruning(self) -> str:
        return self.name.partition("-")[0]

    @property
    def quantization(self) -> str:
        return self.name.partition("-")[2]

    def dominates(self, other: "Variant") -> bool:
        """Whether this is no worse than `other` in accuracy, size and latency, and better in one of them."""
        mine, theirs = ((-v.accuracy, v.size_bytes, v.latency_ms_p50) for v in (self, other))
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


OBJECTIVES = {
    "size": lambda variant: variant.size_bytes,
    "latency": lambda variant: variant.latency_ms_p50,
    "accuracy": lambda variant: -variant.validation_accuracy,
}
# What the best by each objective is called.
KIND = {"size": "smallest", "latency": "fastest", "accuracy": "most accurate"}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The variants and the rule that chooses among them.

    baseline_name: one of the variants; its validation accuracy sets the bound for the others.
    max_accuracy_drop: how far validation accuracy may lie below the baseline's, 0..1.
    objective: a key of OBJECTIVES.
    """

    variants: tuple[Variant, ...]
    baseline_name: str
    max_accuracy_drop: float
    objective: str

    @property
    def baseline(self) -> Variant:
        return next(v for v in self.variants if v.name == self.baseline_name)

    @property
    def qualified(self) -> tuple[Variant, ...]:
        """Those accurate enough on validation, the baseline among them: test images have no part in the choice."""
        bound = self.baseline.validation_accuracy - self.max_accuracy_drop - ROUNDING
        return tuple(v for v in self.variants if v.validation_accuracy >= bound)

    @property
    def selected(self) -> Variant:
        """The best of the qualified by the objective; of equals the smaller, then the first by name."""
        best = OBJECTIVES[self.objective]
        return min(self.qualified, key=lambda v: (best(v), v.size_bytes, v.name))

    @property
    def pareto(self) -> tuple[Variant, ...]:
        """Those that no other variant dominates."""
        return tuple(v for v in self.variants if not any(other.dominates(v) for other in self.variants))

    @property
    def machines(self) -> list[str]:
        """The CPUs and thread counts behind the latencies; latencies compare only if this is one."""
        return sorted({f"{v.cpu}, {v.threads} thread{'s' if v.threads > 1 else ''}" for v in self.variants})


def read_variants(names: Iterable[str], metrics: Path) -> tuple[Variant, ...]:
    """The variants called `names` from `metrics`/evaluate and /benchmark; other files there are left alone.

    Raises InputError as `read_metrics` does.
    """
    return tuple(
        Variant(
            name,
            **read_metrics(metrics / "evaluate" / f"{name}.json", EVALUATION),
            **read_metrics(metrics / "benchmark" / f"{name}.json", BENCHMARK, texts=("cpu",)),
        )
        for name in names
    )


def read_metrics(path: Path, numbers: Iterable[str], texts: Iterable[str] = ()) -> dict:
    """The values of the keys `numbers` and `texts` in a JSON file, which may hold more.

    Raises InputError, naming the file and what makes it, if it is missing, is no JSON or lacks a key.
    """
    try:
        content = json.loads(path.read_text())
        wrong = [key for key in numbers if not _is_number(content.get(key))]
        wrong += [key for key in texts if not isinstance(content.get(key), str)]
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run `dvc repro`") from None
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} holds no metrics ({error}): delete it and run `dvc repro`") from error
    if wrong:
        found = f"{content[wrong[0]]!r} as" if wrong[0] in content else "no"
        raise InputError(f"{path} holds {found} {wrong[0]}: delete it and run `dvc repro`")
    return {key: content[key] for key in (*numbers, *texts)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def summary(comparison: Comparison) -> dict:
    """metrics/summary.json: the selected variant, alone and against the baseline."""
    selected, baseline = comparison.selected, comparison.baseline
    return {
        "selected": selected.name,
        "accuracy": selected.accuracy,
        "accuracy_drop": baseline.accuracy - selected.accuracy,
        "size_bytes": selected.size_bytes,
        "size_ratio": selected.size_bytes / baseline.size_bytes,
        "latency_ms_p50": selected.latency_ms_p50,
        "speedup": baseline.latency_ms_p50 / selected.latency_ms_p50,
    }


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


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a `share` (0..1) observed in `count` > 0 trials.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927).
    """
    centre = share + Z95**2 / (2 * count)
    radius = Z95 * math.sqrt(share * (1 - share) / count + Z95**2 / (4 * count**2))
    scale = 1 + Z95**2 / count
    return max(0.0, (centre - radius) / scale), min(1.0, (centre + radius) / scale)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def size(count: float) -> str:
    """A number of bytes to three digits, in decimal units as shops and app stores use them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{three_digits(count / scale)} {unit}"
    return f"{count} B"


def milliseconds(value: float) -> str:
    return f"{three_digits(value)} ms"


def three_digits(value: float) -> str:
    """`value` >= 0 without an exponent: 0.0123, 1.23, 12.3, 1230."""
    if value == 0:
        return "0"
    decimals = 2 - math.floor(math.log10(value))
    return f"{round(value, decimals):.{max(0, decimals)}f}"
