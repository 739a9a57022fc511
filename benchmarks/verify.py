"""Rebuild the last commit from nothing, and compare what comes out with what is committed.

    python -m benchmarks.verify

Runs `dvc repro` in a scratch clone without a cache, as whoever clones the repository would. Prints which outputs have
the committed bytes, and whether each variant's rebuilt accuracy, validation accuracy and agreement lie in the 95 %
interval of the committed ones; ends with 1 if one does not. Latencies are of this run's machine, and only told.
"""

import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks.workflow import ENVIRONMENT, PROJECT
from bitlite.images import dataset
from bitlite.report.text import milliseconds, percent
from bitlite.report.variants import Variant, read, wilson
from bitlite.workflow.params import load

# Shares of images that are compared, and the split that has these images.
SHARES = {"accuracy": "test", "validation_accuracy": "validation", "agreement": "test"}


def main() -> None:
    # Below .dvc, where relative paths of data sets are the project's, as they are for queued experiments.
    scratch = PROJECT / ".dvc" / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=scratch) as directory:
        clone = Path(directory) / "clone"
        subprocess.run(["git", "clone", "--quiet", PROJECT, clone], check=True)
        committed = outputs(clone), variants(clone)
        if subprocess.run(["dvc", "repro", "--force"], cwd=clone, env=ENVIRONMENT, check=False).returncode:
            sys.exit("the last commit can't be rebuilt: see above")
        rebuilt = outputs(clone), variants(clone)
        images = {split: dataset.count(split, clone / "data" / "dataset") for split in SHARES.values()}

    print(f"\n{'outputs of':12} {'equal':>6} {'other':>6}")
    for line in equal_bytes(committed[0], rebuilt[0]):
        print(line)
    print(f"\n{'variant':24} {'':20} {'committed':>9} {'rebuilt':>8}  95 % interval")
    outside = 0
    for before, after in zip(committed[1], rebuilt[1], strict=True):
        for key, split in SHARES.items():
            old, new = (getattr(each, key) for each in (before, after))
            low, high = wilson(old, images[split])
            outside += not (within := low <= new <= high)
            told = f"{percent(low)} to {percent(high)}{'' if within else '  OUTSIDE'}"
            print(f"{before.name:24} {key:20} {percent(old):>9} {percent(new):>8}  {told}")
        times = [milliseconds(each.latency_ms_p50) for each in (before, after)]
        told = "" if before.cpu == after.cpu else f"committed: {before.cpu}, here: {after.cpu}"
        print(f"{before.name:24} {'latency_ms_p50':20} {times[0]:>9} {times[1]:>8}  {told}".rstrip())
    if outside:
        sys.exit(f"{outside} shares are not those that were committed")
    print("every share is the committed one, as far as so many images can tell")


def outputs(clone: Path) -> dict[tuple[str, str], str]:
    """The digest of each output in dvc.lock, by its kind of stage and its path."""
    stages = YAML(typ="safe").load(clone / "dvc.lock")["stages"]
    return {
        (name.partition("@")[0], out["path"]): out["md5"]
        for name, stage in stages.items()
        for out in stage.get("outs", ())
    }


def variants(clone: Path) -> tuple[Variant, ...]:
    return read(load(clone / "params.yaml").variants, clone / "metrics")


def equal_bytes(committed: dict[tuple[str, str], str], rebuilt: dict[tuple[str, str], str]) -> Iterator[str]:
    """For each kind of stage, how many outputs have the committed bytes and how many others, and paths of these."""
    others = defaultdict(list)
    for (stage, path), digest in rebuilt.items():
        others[stage] += [path] * (committed.get((stage, path)) != digest)
    for stage, different in others.items():
        total = sum(each == stage for each, _ in rebuilt)
        names = ", ".join(different[:3]) + (", ..." if len(different) > 3 else "")
        yield f"{stage:12} {total - len(different):6} {len(different):6}  {names}".rstrip()


if __name__ == "__main__":
    main()
