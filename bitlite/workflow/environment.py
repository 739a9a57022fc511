"""What libraries are told before anything imports them. Whatever imports bitlite runs this module first."""

import os
import sys

from bitlite.workflow.console import drop_notices

DEBUG_OPTION = "--verbose"
# Whether tracebacks and the libraries' own logs are asked for.
DEBUG = os.environ.get("BITLITE_DEBUG", "0") not in ("", "0") or DEBUG_OPTION in sys.argv[1:]


def program() -> str:
    """The module that `python -m` runs, "" of another program."""
    specification = sys.modules["__main__"].__spec__
    return specification.name if specification else ""


# tfmot and TF Hub work with Keras 2 only (tfmot issue 1119), and TensorFlow picks Keras when it is first imported.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
# Of TensorFlow's C++ only errors show: its notices would drown a stage's own progress.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if DEBUG else "2")
# Some it prints all the same, when it is imported, which is before any `main`.
if program().startswith(("stages.", "benchmarks.", "ship.")) and not DEBUG:
    drop_notices()
