"""The command line of a stage, or of what uses its files."""

import inspect
import os
import sys
from collections.abc import Callable

from bitlite.workflow.ending import INTERRUPTED, main_begins
from bitlite.workflow.environment import DEBUG, DEBUG_OPTION, program
from bitlite.workflow.errors import InputError, one_line, printable

GO_ON = "Once that is mended, `dvc repro` goes on from here"


def run(main: Callable[..., None]) -> None:
    """Call a stage's `main` with the command line's arguments, of which --verbose is not one.

    An error ends it with exit code 1 and its text, that of one that is not the user's with its type, and for a stage
    with a line on how to go on; what can't be printed is escaped. DEBUG shows the traceback instead. A locale that is
    not of UTF-8 ends it too, as names of classes and texts in files would be taken for others. For signals exit codes
    are those of shells: 128 and the signal's number.
    """
    if (encoding := sys.getfilesystemencoding()) != "utf-8":
        sys.exit(
            f"this locale makes Python take texts and file names, which are UTF-8, for {encoding}: set PYTHONUTF8=1"
        )
    arguments = [each for each in sys.argv[1:] if each != DEBUG_OPTION]
    try:
        inspect.signature(main).bind(*arguments)
    except TypeError:
        sys.exit(sys.modules["__main__"].__doc__)
    try:
        main_begins()
        main(*arguments)
    except BrokenPipeError:  # whoever reads what is printed, such as head, has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        print(INTERRUPTED if _is_stage() else "interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if DEBUG:
            raise
        sys.exit("\n".join(map(printable, _told(error))))


def _told(error: Exception) -> list[str]:
    """The lines that say what went wrong."""
    if isinstance(error, InputError):
        lines = str(error).split("\n")
    elif isinstance(error, OSError):
        lines = [one_line(error)]
    else:
        lines = [f"{type(error).__name__}: {one_line(error)} (BITLITE_DEBUG=1 shows where)"]
    return [*lines, GO_ON] if _is_stage() else lines


def _is_stage() -> bool:
    return program().startswith("stages.")
