"""Say what this machine is, as far as timings depend on it.

    python -m stages.machine

-> data/.machine. DVC runs this each time: on another machine every timing is made anew, and none of another machine's
comes out of the run cache.
"""

from pathlib import Path

from bitlite.profiling import machine
from bitlite.workflow.command import run
from bitlite.workflow.files import write_json

MACHINE = Path("data/.machine")


def main() -> None:
    write_json(MACHINE, machine.kind())


if __name__ == "__main__":
    run(main)
