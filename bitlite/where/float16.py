"""float16, in which GPUs and ARM's CPUs compute: what this CPU gives when made to, and how near its end values come."""

import math
import warnings
from pathlib import Path

import numpy as np
from ai_edge_litert.hardware_accelerator import HardwareAccelerator
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.options import CpuOptions, Options
from ai_edge_litert.tools import flatbuffer_utils

from bitlite.where import compiled
from bitlite.where.answers import Unavailable, agreement, answer, ask, finite

LARGEST = float(np.finfo(np.float16).max)
# Flags of TensorFlow Lite's xnnpack_delegate.h: signed and unsigned int8, which LiteRT sets by itself, and float16.
INT8, FORCE_FLOAT16 = 0x1 | 0x2, 0x4
# Operators that only change the type of a value.
CASTS = ("QUANTIZE", "DEQUANTIZE")


def check(path: Path, images: np.ndarray, expected: np.ndarray) -> dict:
    """float16_agreement of Places for `images` uint8 [images, height, width, 3], of which `expected` are the outputs.

    Nothing for a file of integers, where there is nothing to check. Raises Unavailable if this CPU does not compute in
    float16.
    """
    if not _summed(path):
        return {}
    arrays, _ = ask(__name__, path, images)
    if arrays is None or np.array_equal(arrays["float16"], arrays["float32"]):
        raise Unavailable("this CPU does not compute in float16")
    return {"float16_agreement": agreement(arrays["float16"], expected)}


def peak(path: Path, images: np.ndarray) -> dict:
    """float16_peak of Places for `images` uint8 [images, height, width, 3]; 0 for a file of integers."""
    summed, most = _summed(path), 0.0
    if not summed:
        return {"float16_peak": most}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the memory that keeping all tensors takes
        # A delegate does not write what it leaves out, such as float16 weights made float32.
        interpreter = Interpreter(
            str(path),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
    interpreter.allocate_tensors()
    (taken,) = interpreter.get_input_details()
    for image in images:
        interpreter.set_tensor(taken["index"], image[None].astype(taken["dtype"]))
        interpreter.invoke()
        most = max(most, *(n * finite(np.abs(interpreter.get_tensor(each)).max()) for each, n in summed.items()))
    return {"float16_peak": most / LARGEST}


def run(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs [images, classes] of the CPU made to compute in `float16`, and in `float32` as by itself."""

    def outputs(flags: int) -> np.ndarray:
        options = Options(HardwareAccelerator.CPU, cpu_options=CpuOptions(xnnpack_flags=flags))
        return compiled.outputs(path, images, options)[0]

    return {"float16": outputs(INT8 | FORCE_FLOAT16), "float32": outputs(INT8)}


def _summed(path: Path) -> dict[int, int]:
    """How many values each float activation of a file is the mean of, by its tensor's number; none if it has none.

    1 for all but the outputs of MEAN.
    """
    model = flatbuffer_utils.read_model(str(path))
    graph, summed, casts = model.subgraphs[0], {}, True
    for operator in graph.operators:
        kind = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
        for number in operator.outputs:
            if flatbuffer_utils.type_to_name(graph.tensors[number].type) == "FLOAT32":
                sizes = [math.prod(graph.tensors[each].shape) for each in (operator.inputs[0], number)]
                summed[number] = sizes[0] // sizes[1] if kind == "MEAN" else 1
                casts = casts and kind in CASTS
    return {} if casts else summed


if __name__ == "__main__":
    answer(run)
