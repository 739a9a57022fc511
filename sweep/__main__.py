"""Sweep parameters over many hosts, or search them, each point as a DVC experiment.

    python -m sweep -S 'pruning.channels.keep=0.25,0.5' -S 'pruning.magnitude.sparsity=0.5,0.8'
    python -m sweep -S 'pruning.channels.keep=interval(0.2,0.8)' --search 20 --objective accuracy,latency_ms_p50

Points run on the Ray cluster that RAY_ADDRESS or `ray start` names, or on this machine. Their results go to the Git and
the DVC remote. docs/sweeps.md tells how hosts are set up.
"""

import argparse
import math
from contextlib import suppress
from functools import partial

from bitlite.workflow.command import run
from bitlite.workflow.errors import InputError, tell
from sweep import engine, points, search


def main(*arguments: str) -> None:
    asked = parser().parse_args(arguments)
    if not asked.search and (asked.objective or asked.variant):
        raise InputError("--objective and --variant are for --search")
    project = engine.Project.committed(asked.git, asked.remote)
    resources = engine.Resources(asked.cpus, asked.gpus, asked.memory, asked.retries, asked.scratch)
    if asked.search:
        failed = search.search(project, asked.set_param, asked.search, asked.objective, asked.variant, resources)
    else:
        found = points.grid(asked.set_param, project.revision)
        finished = project.finished()
        missing = [point for point in found if point.name not in finished]
        tell(f"points: {len(found)}, of which {asked.git} has {len(found) - len(missing)}")
        failed = engine.sweep(project, missing, resources) if missing else 0
    tell(f"results: dvc exp pull {asked.git}, then dvc exp show")
    if failed:
        raise InputError(f"points that failed: {failed}; the same command tries again, and runs no other twice")


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        "python -m sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    command.add_argument(
        "-S", "--set-param", action="append", required=True, metavar="KEY=VALUES",
        help="as for dvc exp run; with --search interval(A,B), range(A,B,STEP) and tag(log, interval(A,B)) too",
    )  # fmt: skip
    command.add_argument("--git", default="origin", help="the Git remote that gets experiments (default: origin)")
    command.add_argument("--remote", default="", help="the DVC remote that gets their data (default: the project's)")
    command.add_argument("--cpus", type=_amount, default=0, help="of a point (default: all of the smallest host)")
    command.add_argument("--gpus", type=_amount, default=0, help="of a point (default: 0)")
    command.add_argument("--memory", type=_amount, default=0, metavar="GB", help="of a point (default: not counted)")
    command.add_argument("--retries", type=_count, default=3, help="of a point whose host is lost (default: 3)")
    command.add_argument("--scratch", default="", metavar="DIR", help="on hosts, for clones and DVC's cache")
    command.add_argument(
        "--search", type=partial(_count, least=1), metavar="N", help="try at most N points, as Optuna chooses"
    )
    command.add_argument(
        "--objective", default="", metavar="A,B", help="what --search is for (default: accuracy,size_bytes)"
    )
    command.add_argument(
        "--variant", default="", help="of which --search reads them (default: that which compare selects)"
    )
    return command


def _amount(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text} is no number from 0 on")


def _count(text: str, least: int = 0) -> int:
    with suppress(ValueError):
        if (value := int(text)) >= least:
            return value
    raise argparse.ArgumentTypeError(f"{text} is no whole number from {least} on")


if __name__ == "__main__":
    run(main)
