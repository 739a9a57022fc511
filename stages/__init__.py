"""The workflow: one module a stage, run as `python -m stages.NAME` by dvc.yaml.

    download -> finetune -> prune -> convert -> evaluate, benchmark -> compare

Stage modules read params, load, call and save. What they call lies in
    params.py     params.yaml, checked as a whole
    artifacts.py  files written whole or not at all
    images/       data sets: where images come from, and the prepared directory that every stage reads
    bit/          BigTransfer: weights, Keras network, BiT-HyperRule, training, pruning
    tflite/       conversion to .tflite, and running the file with LiteRT
    report/       comparison of variants: selection, pictures, HTML, model card
"""

import inspect
import os
import sys
from collections.abc import Callable

# tfmot and TF Hub work with Keras 2 only (tfmot issue 1119), and TensorFlow picks Keras when it is first imported.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
# TensorFlow's start-up notices would drown a stage's own progress; errors still show.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


class InputError(ValueError):
    """What the user gave can't be used. The message says which key or file, what happened and what to do."""


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
