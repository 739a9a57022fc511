"""Operators of .tflite files, by their names in TFLite's schema."""

import math

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

# Those that have a kernel: their inputs are the image, the kernel and the bias.
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def convolutions(model: schema.ModelT) -> list[schema.OperatorT]:
    """The layers with a kernel: those of CONVOLUTIONS but for what norms have, with one weight for each channel."""
    (graph,) = model.subgraphs
    return [
        operator
        for operator in graph.operators
        if flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex) in CONVOLUTIONS
        and math.prod(shape := graph.tensors[operator.inputs[1]].shape) > max(shape)
    ]
