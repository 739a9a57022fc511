"""Time `dvc repro` in a clean clone of the last commit: at first, again, and with one quantization entry more.

    python benchmarks/workflow.py

Prints seconds for each, and for each kind of stage in the first run. Needs the environment that `make` sets up.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

PROJECT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def main() -> None:
    clone = Path(tempfile.mkdtemp()) / "clone"
    subprocess.run(["git", "clone", "--quiet", PROJECT, clone], check=True)
    try:
        first, seconds = repro(clone)
        print(f"first run: {first:.0f} s")
        for stage, (count, total) in seconds.items():
            print(f"  {stage:10} {count:2} x {total / count:5.1f} s = {total:5.0f} s")
        print(f"second run, nothing changed: {repro(clone)[0]:.1f} s")
        params = clone / "params.yaml"
        entry = "quantization:\n  more:\n    scheme: int8\n    calibration_images: 64\n"
        params.write_text(params.read_text().replace("quantization:\n", entry))
        added, seconds = repro(clone)
        print(f"one quantization entry more: {added:.0f} s for {sum(count for count, _ in seconds.values())} stages")
    finally:
        shutil.rmtree(clone.parent)


def repro(clone: Path) -> tuple[float, dict[str, tuple[int, float]]]:
    """Seconds of `dvc repro`, and for each kind of stage how many ran and their seconds together."""
    begin = time.perf_counter()
    run = subprocess.Popen(
        ["dvc", "repro"], cwd=clone, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    counts, totals, current, since = Counter(), Counter(), None, begin
    lines = []
    for line in run.stdout:
        lines.append(line)
        if started := re.match(r"Running stage '([a-z]+)", line):
            now = time.perf_counter()
            totals[current] += now - since
            current, since = started[1], now
            counts[current] += 1
    if run.wait():
        sys.exit("".join(lines[-30:]))
    end = time.perf_counter()
    totals[current] += end - since
    return end - begin, {stage: (counts[stage], totals[stage]) for stage in counts}


if __name__ == "__main__":
    main()
