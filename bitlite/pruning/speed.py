"""The largest BiT whose file is fast enough on this machine."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from bitlite.bit.weights import Bit
from bitlite.litert import latency
from bitlite.tflite import conversion
from bitlite.workflow.errors import WrongValue
from bitlite.workflow.params import Uncalibrated

# Shares of the multiply-adds at which latency is measured.
GRID = tuple(step / 20 for step in range(1, 20))
# Of a measurement that is to tell what is clearly out of reach.
QUICK_ROUNDS, QUICK_RUNS = 3, 10


def fast_enough(bit: Bit, smaller: Callable[[float], Bit], least: float, target: float, quick: bool = False) -> Bit:
    """The largest BiT that `smaller` makes of `bit` whose latency, as a share of that of `bit`, is within `target`.

    `smaller` takes a share of the multiply-adds, of which `least` is in its reach. quick: tries only the smallest, by
    few runs. Raises WrongValue if the target is out of reach on this machine.
    """
    shares = [share for share in GRID if share >= least]
    if not shares:
        raise WrongValue(
            f"target_latency is {target:g}, but channels can't bring even the multiply-adds below {least:.2f}"
        )
    rounds = {"rounds": QUICK_ROUNDS, "runs": QUICK_RUNS} if quick else {}
    with TemporaryDirectory() as scratch:
        return largest(
            smaller,
            shares[:1] if quick else shares,
            target,
            lambda candidate: latency_share(candidate, bit, Path(scratch), **rounds),
        )


def largest(
    smaller: Callable[[float], Bit], shares: list[float], target: float, latency_of: Callable[[Bit], float]
) -> Bit:
    """The BiT that `smaller` makes for the largest of the rising `shares` with a latency within `target`, by bisection.

    Raises WrongValue with the latency for the smallest share if that is above `target`.
    """
    found = smaller(shares[0])
    if (least := latency_of(found)) > target:
        raise WrongValue(f"target_latency is {target:g}, but channels can't bring it below {least:.2f} on this machine")
    low, high = 0, len(shares)
    while high - low > 1:
        middle = (low + high) // 2
        tried = smaller(shares[middle])
        if latency_of(tried) <= target:
            low, found = middle, tried
        else:
            high = middle
    return found


def latency_share(bit: Bit, other: Bit, scratch: Path, **rounds: int) -> float:
    """Latency of `bit` as a share of that of `other`, both as files of scheme dynamic, measured in turns."""
    mine, others = scratch / "bit.tflite", scratch / "other.tflite"
    for path, each in ((mine, bit), (others, other)):
        path.write_bytes(conversion.convert(each.folded(), Uncalibrated(scheme="dynamic")))
    return latency.ratio(mine, others, **rounds)
