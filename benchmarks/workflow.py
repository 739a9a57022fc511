"""Time `dvc repro` in a clean clone of the last commit.

    python -m benchmarks.workflow

Prints the seconds of a first run and of each kind of stage in it, of a second one, of one quantization entry more, and
of a parameter changed and changed back; and how long dvc.yaml and dvc.lock are. Runs in the environment of the Python
that runs it.
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
# In params.yaml: text, and what replaces it.
ENTRY = "quantization:\n", "quantization:\n  more:\n    scheme: int8\n    calibration_images: 64\n"
STEPS = "\n  steps: 400\n", "\n  steps: 40\n"
# Of a stage, by what DVC says of it.
OUTCOMES = {":": "run", " is cached": "from the cache", " didn't change": "unchanged"}


def main() -> None:
    clone = Path(tempfile.mkdtemp()) / "clone"
    try:
        subprocess.run(["git", "clone", "--quiet", PROJECT, clone], check=True)
        print(f"first run: {repro(clone)}")
        print(f"second run, nothing changed: {repro(clone)}")
        lock = (clone / "dvc.lock").stat().st_size
        print(f"dvc.yaml: {len((clone / 'dvc.yaml').read_text().splitlines())} lines, dvc.lock: {lock / 1e3:.1f} kB")
        replace(clone, *ENTRY)
        print(f"one quantization entry more: {repro(clone)}")
        replace(clone, *STEPS)
        print(f"finetune.steps changed: {repro(clone)}")
        replace(clone, *STEPS[::-1])
        print(f"and changed back: {repro(clone)}")
    finally:
        shutil.rmtree(clone.parent)


def replace(clone: Path, old: str, new: str) -> None:
    params = clone / "params.yaml"
    text = params.read_text()
    assert text.count(old) == 1, f"params.yaml has not one {old!r}"
    params.write_text(text.replace(old, new))


def repro(clone: Path) -> str:
    """Seconds that `dvc repro` takes, and of them those of each kind of stage with DVC's own work for it."""
    begin = since = time.perf_counter()
    run = subprocess.Popen(
        ["dvc", "repro"], cwd=clone, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    counts, seconds, current, lines = Counter(), Counter(), None, []
    for line in run.stdout:
        lines.append(line)
        if begun := re.match(r"(?:Running s|S)tage '([a-z]+)[^']*'(:| is cached| didn't change)", line):
            now = time.perf_counter()
            seconds[current] += now - since
            current, since = (begun[1], OUTCOMES[begun[2]]), now
            counts[current] += 1
    if run.wait():
        sys.exit("".join(lines[-30:]))
    end = time.perf_counter()
    seconds[current] += end - since
    rows = [f"  {name:9} {n:3} {outcome:14} {seconds[name, outcome]:6.1f} s" for (name, outcome), n in counts.items()]
    return "\n".join([f"{end - begin:.1f} s", *rows])


if __name__ == "__main__":
    main()
