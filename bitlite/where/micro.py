"""TensorFlow Lite Micro's interpreter, as microcontrollers run it, on this CPU (PyPI: tflite-micro)."""

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from bitlite.where.answers import TOOLS, Unavailable, agreement, answer, ask

# Bytes of memory lent to it, far more than a microcontroller has.
ARENA = 2**28
USED = re.compile(r"Arena allocation total (\d+) bytes")


def check(path: Path, images: np.ndarray, expected: np.ndarray) -> dict:
    """The fields tflm_* of Places for `images` uint8 [images, height, width, 3], of which `expected` are the outputs.

    The memory is that on a machine of 64 bits, whose pointers are twice as long as a microcontroller's. Raises
    Unavailable if TensorFlow Lite Micro is not installed.
    """
    if not find_spec("tflite_micro"):
        raise Unavailable(TOOLS)
    arrays, log = ask(__name__, path, images)
    if arrays is None:
        return {"tflm_agreement": 0.0, "tflm_arena_bytes": None}
    return {
        "tflm_agreement": agreement(arrays["outputs"], expected),
        "tflm_arena_bytes": int(USED.findall(log)[0]),
    }


def run(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs [images, classes] of the file's type; the log tells the memory."""
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(str(path), arena_size=ARENA)
    kind = interpreter.get_input_details(0)["dtype"]
    found = []
    for image in images:
        interpreter.set_input(image[None].astype(kind), 0)
        interpreter.invoke()
        found.append(interpreter.get_output(0)[0])
    interpreter.print_allocations()
    return {"outputs": np.stack(found)}


if __name__ == "__main__":
    answer(run)
