"""The operators of a .tflite file and the layers of BiT that they serve. No TensorFlow."""

import re
from dataclasses import dataclass
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from bitlite.litert.operators import CONVOLUTIONS

# A layer of weights ends with its name; the rest of a tensor's name is the operator's.
WEIGHTED = re.compile(r"(?:.*/)?(?:standardized_conv2d|conv2d|group_norm)(?=/|$)")
# XNNPACK adds integers if each input's scale over the output's is at least the one and below the other.
SUM_SCALES = (2**-10, 2**8)


@dataclass(frozen=True)
class Operator:
    """An operator of a file that runs for each image.

    node: its number in the file. type: as TFLite calls it. layer: path of the layer of BiT that it serves.
    inputs, output: its tensors, as the flatbuffer describes them.
    """

    node: int
    type: str
    layer: str
    inputs: tuple[schema.TensorT, ...]
    output: schema.TensorT

    @property
    def refusal(self) -> str:
        """The operator as one that XNNPACK does not run, and why as far as the file tells."""
        types = [flatbuffer_utils.type_to_name(tensor.type).lower() for tensor in (self.inputs[0], self.output)]
        scales = [_scale(tensor) for tensor in (*self.inputs, self.output)]
        if types[0] != types[1]:
            return f"{self.type} from {types[0]} to {types[1]}"
        if self.type in ("ADD", "SUB") and all(scales):
            low, high = SUM_SCALES
            if not all(low <= scale / scales[-1] < high for scale in scales[:-1]):
                return f"{self.type} of {types[0]} (scales too far apart)"
        return f"{self.type} of {types[0]}"


def read(path: Path) -> list[Operator]:
    """The operators of a .tflite file in running order, except those whose inputs are all constants, which run once."""
    model = flatbuffer_utils.read_model(str(path))
    graph = model.subgraphs[0]
    constant = {i for i, tensor in enumerate(graph.tensors) if model.buffers[tensor.buffer].data is not None}
    found, layer = [], "input"
    for node, operator in enumerate(graph.operators):
        inputs = [i for i in operator.inputs if i >= 0]
        if constant.issuperset(inputs):
            constant |= set(operator.outputs)
            continue
        kind = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
        output = graph.tensors[operator.outputs[0]]
        # A name without a path is the converter's own: the operator serves the layer before it.
        layer = _layer(output.name.decode(), kind) or layer
        found.append(Operator(node, kind, layer, tuple(graph.tensors[i] for i in inputs), output))
    return found


def _layer(name: str, kind: str) -> str:
    """BiT's path of the layer that an operator of this kind serves; "" if the name of its output has no path.

    Where operators were joined, their names are joined by semicolons.
    """
    paths = [part.partition("/")[2] for part in name.split(";")]
    if kind in CONVOLUTIONS:
        paths.sort(key=lambda path: "conv2d" not in path)
    weighted = WEIGHTED.match(paths[0])
    return weighted[0] if weighted else paths[0].rpartition("/")[0]


def _scale(tensor: schema.TensorT) -> float:
    """Of integers; 0 of a tensor that has none."""
    found = tensor.quantization and tensor.quantization.scale
    return 0.0 if found is None or len(found) == 0 else float(found[0])
