"""BiT's convolutions inside a .tflite file: where they stand, what goes through them, how far off their outputs are.

LiteRT alone, as devices run it, with every tensor kept. No TensorFlow.
"""

import math
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils
from tqdm import tqdm

from bitlite.bit.weights import Bit
from bitlite.litert.operators import CONVOLUTIONS, convolutions
from bitlite.tflite.calibration import THREADS
from bitlite.tflite.lowering import MODEL

CODES = tuple(getattr(schema.BuiltinOperator, name) for name in CONVOLUTIONS)
TYPES = {number: name.lower() for name, number in vars(schema.TensorType).items() if not name.startswith("_")}
COLUMNS = ("layer", "type", "size_bytes", "snr_db")
# Images, at most, on which errors are measured. For int16 LiteRT has no fast code: an image takes fifty times as long.
SAMPLE, SLOW_SAMPLE = 16, {"int16x8": 2}


class Tensor(NamedTuple):
    number: int
    name: str


class Found(NamedTuple):
    """One convolution as a file holds it."""

    input: Tensor
    output: Tensor
    # Of the kernel: as NumPy calls it, or int4.
    type: str
    # Of kernel and bias.
    size_bytes: int


def find(content: bytes, paths: Collection[str]) -> dict[str, Found]:
    """The convolutions of a BiT, by path. Raises ValueError naming a path that the file has no operator for.

    The outputs of a convolution's operators bear names that begin with its path.
    """
    model = schema.Model.GetRootAs(content)
    graph = model.Subgraphs(0)
    operators = [graph.Operators(number) for number in range(graph.OperatorsLength())]
    maker = {operator.Outputs(0): operator for operator in operators}

    def tensor(number: int) -> Tensor:
        return Tensor(number, graph.Tensors(number).Name().decode())

    def constant(number: int) -> tuple[str, int]:
        """Type and bytes of a constant; in float16 files it goes through an operator that makes it float32."""
        while not model.Buffers(graph.Tensors(number).Buffer()).DataLength():
            number = maker[number].Inputs(0)
        held = graph.Tensors(number)
        return TYPES[held.Type()], model.Buffers(held.Buffer()).DataLength()

    names = [tensor(each.Outputs(0)).name for each in operators]
    found = {}
    for path in paths:
        start = f"{MODEL}/{path}/"
        own = [each for each, name in zip(operators, names, strict=True) if name.startswith(start)]
        parts = [each for each in own if model.OperatorCodes(each.OpcodeIndex()).BuiltinCode() in CODES]
        if not parts:
            raise ValueError(f"the .tflite file has no convolution {path}")
        # The inputs are the image, the kernel and the bias.
        constants = [constant(each.Inputs(place)) for each in parts for place in range(1, each.InputsLength())]
        # By Winograd's algorithm it is several, whose outputs the layer's other operators put together.
        last = parts[0] if len(parts) == 1 else own[-1]
        found[path] = Found(
            tensor(parts[0].Inputs(0)), tensor(last.Outputs(0)), constants[0][0], sum(size for _, size in constants)
        )
    return found


def operators(content: bytes, paths: Collection[str]) -> dict[str, str]:
    """The types of the operators of these layers, by the names of their outputs.

    A convolution's are itself, and those that bring its image's values to their places.
    """
    model = schema.ModelT.InitFromPackedBuf(content)
    (graph,) = model.subgraphs
    types = {
        graph.tensors[each.outputs[0]].name.decode(): flatbuffer_utils.opcode_to_name(model, each.opcodeIndex)
        for each in graph.operators
    }
    starts = tuple(f"{MODEL}/{path}/" for path in paths)
    return {name: type for name, type in types.items() if name.startswith(starts)}


def outputs(content: bytes, least: int) -> dict[str, str]:
    """Types of all convolutions whose kernels have at least `least` weights, by the names of their outputs."""
    model = schema.ModelT.InitFromPackedBuf(content)
    (graph,) = model.subgraphs
    return {
        graph.tensors[operator.outputs[0]].name.decode(): flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
        for operator in convolutions(model)
        if np.prod(graph.tensors[operator.inputs[1]].shape) >= least
    }


def values(content: bytes, pixels: Iterable[np.ndarray]) -> Iterator[Callable[[int], np.ndarray]]:
    """For each image [height, width, 3] in 0..255, what gives a tensor's value by its number, as float32.

    The function is good until the next image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the memory that keeping all tensors takes
        interpreter = Interpreter(model_content=content, num_threads=THREADS, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    (taken,) = interpreter.get_input_details()
    quantizations = {each["index"]: each["quantization"] for each in interpreter.get_tensor_details()}

    def value(number: int) -> np.ndarray:
        raw, (scale, zero_point) = interpreter.get_tensor(number), quantizations[number]
        return (raw.astype(np.float32) - zero_point) * np.float32(scale) if scale else raw

    for image in pixels:
        interpreter.set_tensor(taken["index"], image[None].astype(taken["dtype"]))
        interpreter.invoke()
        yield value


def signal_to_noise(content: bytes, float32: bytes, paths: Collection[str], pixels: np.ndarray) -> dict[str, float]:
    """For each convolution 10 log10(sum of squares of its output / that of its error), in dB, over all `pixels`.

    The error is against the file `float32`, and holds that of all layers before; infinite where there is none.
    """
    here, there = find(content, paths), find(float32, paths)
    signal, noise = dict.fromkeys(paths, 0.0), dict.fromkeys(paths, 0.0)
    pairs = zip(values(content, pixels), values(float32, pixels), strict=True)
    for value, expected in tqdm(pairs, "compare layers", total=len(pixels), leave=False, disable=None):
        for path in paths:
            right = expected(there[path].output.number).astype(np.float64)
            signal[path] += float(np.sum(right**2))
            noise[path] += float(np.sum((value(here[path].output.number) - right) ** 2))
    return {path: decibels(signal[path], noise[path]) for path in paths}


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two powers, infinite where one of them is 0."""
    if not noise:
        return np.inf
    return 10 * math.log10(signal / noise) if signal else -np.inf


def rows(content: bytes, float32: bytes, bit: Bit, pixels: np.ndarray) -> Iterator[dict]:
    """A row of COLUMNS for each convolution of `bit`; `snr_db` is empty where the output is just that of `float32`."""
    ratios = {} if content == float32 else signal_to_noise(content, float32, bit.paths, pixels)
    for path, layer in find(content, bit.paths).items():
        ratio = ratios.get(path, np.inf)
        yield {
            "layer": path,
            "type": layer.type,
            "size_bytes": layer.size_bytes,
            "snr_db": "" if ratio == np.inf else ratio,
        }
