"""The input and the output of a .tflite file, as who runs it must know them. No TensorFlow."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter


@dataclass(frozen=True)
class Tensor:
    """An input or output of a .tflite file. A quantized one means (value - zero_point) * scale; else scale is 0."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int

    def real(self, values: np.ndarray) -> np.ndarray:
        """The float32 values that stored ones mean."""
        return (values.astype(np.float32) - self.zero_point) * self.scale if self.scale else values


def signature(path: Path) -> tuple[Tensor, Tensor]:
    """The input and the output of a .tflite file of one input and one output."""
    interpreter = Interpreter(str(path))
    return tuple(
        Tensor(
            details["name"],
            tuple(int(side) for side in details["shape"]),
            details["dtype"].__name__,
            *details["quantization"],
        )
        for details in (*interpreter.get_input_details(), *interpreter.get_output_details())
    )
