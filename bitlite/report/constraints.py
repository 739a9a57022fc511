"""The constraints that `compare` in params.yaml sets, and by how much a variant misses them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from bitlite.report.text import milliseconds, percent, points, size, three_digits
from bitlite.workflow.params import Compare
from bitlite.workflow.scores import ROUNDING


@dataclass(frozen=True)
class Constraint:
    """A bound on one number of every variant.

    key, setting: of `compare` in params.yaml. field: of Variant, the number that is bounded.
    bound: the least that it may be if `least`, else the most. name, demand, text, by: it, what the constraint asks, a
    value of it and a difference of two in words.
    """

    key: str
    setting: float
    field: str
    bound: float
    least: bool
    name: str
    demand: str
    text: Callable[[float], str]
    by: Callable[[float], str]

    def missed_by(self, value: float) -> float:
        """How far `value` is beyond the bound, in its own unit; 0 if it is not."""
        beyond = self.bound - value if self.least else value - self.bound
        return beyond if beyond > ROUNDING else 0.0

    def weight(self, missed_by: float) -> float:
        """A miss as a number to compare with other constraints': a point of accuracy is 1 % of size, time or memory."""
        return missed_by if self.least else missed_by / self.bound

    def relaxed(self, missed_by: float) -> str:
        """The line of params.yaml that admits what misses the bound by so much, rounded away from the bound."""
        if self.key == "min_accuracy":
            return f"{self.key}: {_rounded(self.setting - missed_by, math.floor)}"
        return f"{self.key}: {_rounded(self.setting + missed_by, math.ceil)}"


def of(rule: Compare, baseline_accuracy: float) -> tuple[Constraint, ...]:
    """Those that are set. baseline_accuracy: the baseline's on validation, 0..1."""
    drop = f"at most {points(rule.max_accuracy_drop)} below that of {rule.baseline}"
    accuracy, validation = "validation accuracy", "validation_accuracy"
    found = [
        Constraint(
            "max_accuracy_drop", rule.max_accuracy_drop, validation, baseline_accuracy - rule.max_accuracy_drop, True,
            accuracy, f"{accuracy} is {drop}", percent, points,
        )
    ]  # fmt: skip
    if rule.min_accuracy is not None:
        demand = f"{accuracy} is at least {percent(rule.min_accuracy)}"
        least = rule.min_accuracy
        found.append(Constraint("min_accuracy", least, validation, least, True, accuracy, demand, percent, points))
    for key, field, name, text in (
        ("max_size_bytes", "size_bytes", "size", size),
        ("max_latency_ms", "latency_ms_p50", "median latency", milliseconds),
        ("max_memory_mb", "peak_memory_mb", "peak memory", lambda mb: f"{three_digits(mb)} MB"),
    ):
        if (most := getattr(rule, key)) is not None:
            found.append(Constraint(key, most, field, most, False, name, f"{name} is at most {text(most)}", text, text))
    return tuple(found)


def _rounded(value: float, to: Callable[[float], int]) -> str:
    """Four digits of `value`, or all of a whole number."""
    if value == int(value):
        return f"{int(value)}"
    decimals = 3 - math.floor(math.log10(abs(value)))
    return f"{to(round(value * 10**decimals, 6)) / 10**decimals:.{max(0, decimals)}f}".rstrip("0")
