"""The input and the output of a .tflite file, as who runs it must know them. No TensorFlow."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from bitlite.workflow.errors import InputError, damaged, missing, one_line
from bitlite.workflow.paths import TFLITE


@dataclass(frozen=True)
class Tensor:
    """An input or output of a .tflite file. A quantized one means (value - zero_point) * scale; else scale is 0."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int

    @classmethod
    def of(cls, details: dict) -> "Tensor":
        """The tensor that LiteRT's interpreter describes by `details`."""
        shape = tuple(int(side) for side in details["shape"])
        return cls(details["name"], shape, details["dtype"].__name__, *details["quantization"])

    def real(self, values: np.ndarray) -> np.ndarray:
        """The float32 values that stored ones mean."""
        return (values.astype(np.float32) - self.zero_point) * self.scale if self.scale else values


def interpreter_of(path: Path, threads: int | None = None) -> Interpreter:
    """LiteRT's interpreter of a .tflite file. Raises InputError naming the file if it is missing or is none."""
    if not path.is_file():
        raise missing(path)
    try:
        return Interpreter(str(path), num_threads=threads)
    except (ValueError, RuntimeError) as error:  # LiteRT checks a file's structure before anything is read of it
        how = f"is no .tflite file that LiteRT can run ({one_line(error)})"
        raise damaged(path, how) if path.parent == TFLITE else InputError(f"{path} {how}") from error


def signature(path: Path) -> tuple[Tensor, ...]:
    """The inputs of a .tflite file, and behind them its outputs. Raises InputError as above."""
    interpreter = interpreter_of(path)
    return tuple(map(Tensor.of, (*interpreter.get_input_details(), *interpreter.get_output_details())))
