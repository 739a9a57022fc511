"""Measure what `python -m sweep` adds to a point, and what a second node gains, on a reduced workflow.

    python -m benchmarks.sweep [RUNS]

Runs the last commit in a scratch clone with the parameters of benchmarks.faults, a bare Git remote and a folder as DVC
remote. Prints the seconds of RUNS (3) points by `dvc exp run` in that clone and, in turns with them, by the sweep: its
task, from clone to push, and its whole command, with what starts Ray; then those of four points on one Ray node and on
two, of one processor each.
"""

import itertools
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
from ray.cluster_utils import Cluster

from benchmarks.faults import Clone

DONE = re.compile(r": done on \S+ in (\d+) s")


def main(runs: str = "3") -> None:
    with tempfile.TemporaryDirectory() as folder:
        clone, values = prepared(Path(folder)), itertools.count(21)

        def option() -> str:
            """A value that was not tried yet: its convert, evaluate and benchmark run."""
            return f"quantization.int8.calibration_images={next(values)}"

        alone, tasks, commands = [], [], []
        for _ in range(int(runs)):
            alone.append(timed(clone, "dvc", "exp", "run", "-q", "-S", option())[0])
            clone.do("git", "checkout", "-q", "--force", "main")
            seconds, said = timed(clone, sys.executable, "-m", "sweep", "-S", option())
            tasks += map(int, DONE.findall(said))
            commands.append(seconds)
        print(f"dvc exp run             {np.median(alone):6.1f} s, {spread(alone)}")
        print(f"a task of the sweep     {np.median(tasks):6.1f} s, {spread(tasks)}")
        print(f"the sweep of one point  {np.median(commands):6.1f} s, {spread(commands)}")
        print(f"the engine adds         {np.median(tasks) - np.median(alone):6.1f} s to a point", flush=True)
        for nodes in (1, 2):
            seconds = on_nodes(nodes, clone, [option().rpartition("=")[2] for _ in range(4)])
            print(f"4 points, {nodes} node(s)      {seconds:6.1f} s", flush=True)


def prepared(folder: Path) -> Clone:
    """A clone whose workflow is built, committed and pushed."""
    clone = Clone(folder / "clone")
    clone.do("dvc", "repro", "-q")
    clone.do("dvc", "remote", "add", "-q", "-d", "storage", str(folder / "storage"))
    clone.commit()
    clone.do("git", "branch", "-qM", "main")
    clone.do("git", "init", "-q", "--bare", str(folder / "remote.git"))
    clone.do("git", "remote", "set-url", "origin", str(folder / "remote.git"))
    clone.do("git", "push", "-q", "origin", "main")
    clone.do("dvc", "push", "-q", "--run-cache")
    return clone


def timed(clone: Clone, *command: str, **environment: str) -> tuple[float, str]:
    """The seconds of a command, and what it prints."""
    start = time.monotonic()
    said = clone.do(*command, **environment)
    return time.monotonic() - start, said


def on_nodes(nodes: int, clone: Clone, values: list[str]) -> float:
    cluster = Cluster()
    try:
        for number in range(nodes):
            disk = clone.temporary / f"{nodes}-{number}"
            disk.mkdir()
            cluster.add_node(
                num_cpus=1, include_dashboard=False, env_vars={"TMPDIR": str(disk), "PATH": os.environ["PATH"]}
            )
        option = f"quantization.int8.calibration_images={','.join(values)}"
        return timed(clone, sys.executable, "-m", "sweep", "-S", option, RAY_ADDRESS=cluster.address)[0]
    finally:
        ray.shutdown()
        cluster.shutdown()


def spread(values: list[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}"


if __name__ == "__main__":
    main(*sys.argv[1:])
