"""The command line of a stage."""

import inspect
import sys
from collections.abc import Callable

from bitlite.workflow.errors import InputError


def run(main: Callable[..., None]) -> None:
    """Call a stage's `main` with the command line's arguments. An InputError ends it with one line, exit code 1."""
    try:
        inspect.signature(main).bind(*sys.argv[1:])
    except TypeError:
        sys.exit(sys.modules["__main__"].__doc__)
    try:
        main(*sys.argv[1:])
    except InputError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)  # as shells have it: 128 and the number of the signal
