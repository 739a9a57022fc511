"""Run a .tflite file on the runtime that is installed, whichever it is: a script for environments that lack bitlite.

    python benchmarks/old_runtime.py FILE IMAGES

IMAGES: a .npy file of uint8 [images, height, width, 3]. Prints a line of JSON: the outputs [images, classes], what
integers mean made floats, or the reason for which the runtime refuses the file.
"""

import importlib
import json
import os
import sys
import traceback

import numpy as np


def interpreters():
    """The module that has the interpreter."""
    for name in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter", "tensorflow"):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        return module.lite if name == "tensorflow" else module
    sys.exit("no runtime is installed")


def outputs(interpreter, images):
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero_point = given["quantization"]
    for image in images:
        interpreter.set_tensor(taken["index"], image[None].astype(taken["dtype"]))
        interpreter.invoke()
        raw = interpreter.get_tensor(given["index"])[0].astype(np.float64)
        yield ((raw - zero_point) * scale if scale else raw).tolist()


if __name__ == "__main__":
    file, images = sys.argv[1:]
    module = interpreters()
    # An error other than a refusal is this script's own. uv ends with 1 or 2 where it has no such environment.
    sys.excepthook = lambda *error: (traceback.print_exception(*error), os._exit(3))
    try:
        interpreter = module.Interpreter(file)
        interpreter.allocate_tensors()
        found = list(outputs(interpreter, np.load(images)))
    except (RuntimeError, ValueError) as refusal:
        found = str(refusal)
    print(json.dumps(found))
