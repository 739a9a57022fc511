"""What libraries are told before anything imports them. Whatever imports bitlite runs this module first."""

import os
import sys

from bitlite.workflow.console import drop_notices
from bitlite.workflow.ending import end_imports_by_ctrl_c, end_with_dvc


def program() -> str:
    """The module that `python -m` runs, "" of another program."""
    specification = sys.modules["__main__"].__spec__
    return specification.name if specification else ""


OURS = program().startswith(("stages.", "benchmarks.", "ship."))
DEBUG_OPTION = "--verbose"
# Whether tracebacks and the libraries' own logs are asked for.
DEBUG = os.environ.get("BITLITE_DEBUG", "0") not in ("", "0") or (OURS and DEBUG_OPTION in sys.argv[1:])

# tfmot and TF Hub work with Keras 2 only (tfmot issue 1119), and TensorFlow picks Keras when it is first imported.
os.environ["TF_USE_LEGACY_KERAS"] = "1"
# Whether TensorFlow computes by oneDNN changes last digits: it is to follow from the machine alone.
os.environ.pop("TF_ENABLE_ONEDNN_OPTS", None)
# Of TensorFlow's C++ only errors show: its notices would drown a stage's own progress.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if DEBUG else "2")
# Libraries take seconds to import, within which users lose patience and DVC may die.
if program().startswith("stages."):
    end_imports_by_ctrl_c()
    end_with_dvc()
# Some lines TensorFlow prints all the same, when it is imported, which is before any `main`.
if OURS and not DEBUG:
    drop_notices()
