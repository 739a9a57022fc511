"""The command line of a stage, or of what uses its files."""

import errno
import inspect
import os
import sys
from collections.abc import Callable

from bitlite.workflow.ending import main_begins
from bitlite.workflow.errors import InputError, one_line, printable

# What is not the code's to mend: no permission, a read-only or full disk, a limit of files' size.
REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def run(main: Callable[..., None]) -> None:
    """Call a stage's `main` with the command line's arguments.

    An InputError, or one of the system's REFUSALS, ends it with its text, exit code 1; what can't be printed in it is
    escaped. So does a locale that is not of UTF-8, as names of classes and texts in files are: they would be taken for
    others. For signals exit codes are those of shells: 128 and the signal's number.
    """
    if (encoding := sys.getfilesystemencoding()) != "utf-8":
        sys.exit(
            f"this locale makes Python take texts and file names, which are UTF-8, for {encoding}: set PYTHONUTF8=1"
        )
    try:
        inspect.signature(main).bind(*sys.argv[1:])
    except TypeError:
        sys.exit(sys.modules["__main__"].__doc__)
    main_begins()
    try:
        main(*sys.argv[1:])
    except InputError as error:
        sys.exit("\n".join(map(printable, str(error).split("\n"))))
    except BrokenPipeError:  # whoever reads what is printed, such as head, has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        sys.exit(printable(one_line(error)))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
