"""What ship.board runs on the board, where this repository is not: time files in turns, a line of JSON for each.

It is sent with the modules that it imports and a folder `files`; besides them it needs NumPy and ai-edge-litert.

    python -m ship.there OPTIONS          all files of `files`; OPTIONS: JSON, what `times` takes and `rounds`
    python -m ship.there OPTIONS FILE     one turn of one file, in a process of its own
"""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

from bitlite.litert.timing import forth_and_back, times
from bitlite.profiling import machine

# Begins a line of ours: shells may print what they like when one logs in.
MARK = "bitlite: "


def main(options: str, file: str = "") -> None:
    if file:
        say(turn(file, **json.loads(options)))
        return
    say({"cpu": machine.cpu(), "runtime": f"ai-edge-litert {version('ai-edge-litert')}"})
    left = json.loads(options)
    rounds, names = left.pop("rounds"), left.pop("variants")
    for name in forth_and_back(names, rounds):
        command = [sys.executable, "-m", "ship.there", json.dumps(left), str(Path("files", name))]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode:
            names.remove(name)
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            found = {"refused": lines[-1] if lines else f"it ended by signal {-done.returncode}"}
        else:
            found = json.loads(done.stdout.decode().split(MARK)[-1])
        say({"variant": name, **found})


def turn(file: str, **options) -> dict:
    """The numbers of BoardTiming, of one process."""
    before = machine.peak_memory_mb(restart=True)
    found = times(file, **options)
    peak = machine.peak_memory_mb()
    percentiles = {f"latency_ms_p{p}": float(np.percentile(found.latencies_ms, p)) for p in (50, 90, 99)}
    return {
        **percentiles,
        "load_ms": found.load_ms,
        "first_inference_ms": found.first_inference_ms,
        "peak_memory_mb": peak - before,
    }


def say(content: dict) -> None:
    print(MARK + json.dumps(content), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
