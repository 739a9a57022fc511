"""What libraries are told before anything imports them. Whatever imports bitlite runs this module first."""

import os
import sys

from bitlite.workflow.console import drop_notices

# tfmot and TF Hub work with Keras 2 only (tfmot issue 1119), and TensorFlow picks Keras when it is first imported.
os.environ["TF_USE_LEGACY_KERAS"] = "1"
# Of TensorFlow's C++ only errors show: its notices would drown a stage's own progress.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Some it prints all the same, when it is imported, which is before any `main`.
if (program := sys.modules["__main__"].__spec__) and program.name.startswith(("stages.", "benchmarks.", "ship.")):
    drop_notices()
