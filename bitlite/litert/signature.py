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

    @classmethod
    def of(cls, details: dict) -> "Tensor":
        """The tensor that LiteRT's interpreter describes by `details`."""
        shape = tuple(int(side) for side in details["shape"])
        return cls(details["name"], shape, details["dtype"].__name__, *details["quantization"])

    def real(self, values: np.ndarray) -> np.ndarray:
        """The float32 values that stored ones mean."""
        return (values.astype(np.float32) - self.zero_point) * self.scale if self.scale else values


def signature(path: Path) -> tuple[Tensor, ...]:
    """The inputs of a .tflite file, and behind them its outputs."""
    interpreter = Interpreter(str(path))
    return tuple(map(Tensor.of, (*interpreter.get_input_details(), *interpreter.get_output_details())))
