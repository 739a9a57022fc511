"""A TFLite graph in the making: operators in running order, the tensors between them, and the file that they become.

Activations are float32. Types in capitals are TFLite's operators; those in small letters are steps of BiT, which
`lowering` rewrites into TFLite's. The schema is tensorflow/compiler/mlir/lite/schema/schema.fbs of TensorFlow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from bitlite.tflite.flatbuffer import packed

# Type of each operator's options in the schema, where it has any.
OPTIONS = {
    "ADD": schema.AddOptionsT,
    "CONCATENATION": schema.ConcatenationOptionsT,
    "CONV_2D": schema.Conv2DOptionsT,
    "DEPTHWISE_CONV_2D": schema.DepthwiseConv2DOptionsT,
    "DEQUANTIZE": schema.DequantizeOptionsT,
    "FULLY_CONNECTED": schema.FullyConnectedOptionsT,
    "MAX_POOL_2D": schema.Pool2DOptionsT,
    "MEAN": schema.ReducerOptionsT,
    "MUL": schema.MulOptionsT,
    "PAD": schema.PadOptionsT,
    "RESHAPE": schema.ReshapeOptionsT,
    "SLICE": schema.SliceOptionsT,
    "SOFTMAX": schema.SoftmaxOptionsT,
    "SUB": schema.SubOptionsT,
}
SAME, VALID = schema.Padding.SAME, schema.Padding.VALID
RELU = schema.ActivationFunctionType.RELU
# The name of the one signature, as TensorFlow's converter gives it.
SIGNATURE = "serving_default"


@dataclass(eq=False)
class Tensor:
    """An activation, or a constant, which has `data`.

    range: the least and the largest value that integers are to hold of an activation; None: what calibration finds.
    """

    name: str
    shape: tuple[int, ...]
    data: np.ndarray | None = None
    range: tuple[float, float] | None = None

    @property
    def values(self) -> np.ndarray:
        """The data of a constant."""
        assert self.data is not None, f"{self.name} is no constant"
        return self.data

    @property
    def type(self) -> int:
        """Number of its type in the schema."""
        return getattr(schema.TensorType, ("float32" if self.data is None else self.data.dtype.name).upper())


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator with one output. `options` are the schema's, or, of a step of BiT, the settings it needs."""

    type: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    options: dict = field(default_factory=dict)

    @property
    def activates(self) -> bool:
        """Whether it can have a ReLU as its own activation."""
        return hasattr(OPTIONS[self.type](), "fusedActivationFunction")


@dataclass
class Graph:
    """Operators from one input to one output. Its methods add an operator and give its output."""

    input: Tensor
    operators: list[Operator] = field(default_factory=list)

    @property
    def output(self) -> Tensor:
        return self.operators[-1].output

    def operator(self, type: str, name: str, inputs: Sequence[Tensor], shape: Sequence[int], **options) -> Tensor:
        """Add any operator, whose output has this name and shape."""
        output = Tensor(name, tuple(int(side) for side in shape))
        self.operators.append(Operator(type, tuple(inputs), output, options))
        return output

    def multiply(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        return self.operator("MUL", name, [a, b], np.broadcast_shapes(a.shape, b.shape))

    def add(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        return self.operator("ADD", name, [a, b], np.broadcast_shapes(a.shape, b.shape))

    def subtract(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        return self.operator("SUB", name, [a, b], np.broadcast_shapes(a.shape, b.shape))

    def mean(self, name: str, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Means over `axes`, which stay with size 1."""
        shape = [1 if axis in axes else side for axis, side in enumerate(x.shape)]
        return self.operator("MEAN", name, [x, integers(f"{name}/axes", axes)], shape, keepDims=True)

    def reciprocal_root(self, name: str, x: Tensor) -> Tensor:
        return self.operator("RSQRT", name, [x], x.shape)

    def reshape(self, name: str, x: Tensor, shape: Sequence[int]) -> Tensor:
        return self.operator("RESHAPE", name, [x, integers(f"{name}/shape", shape)], shape, newShape=list(shape))

    def pad_image(self, name: str, x: Tensor, before: int, after: int) -> Tensor:
        """Zeros around an image [1, height, width, channels]: so many rows above and columns before, and behind."""
        return self.pad(name, x, [(0, 0), (before, after), (before, after), (0, 0)])

    def pad(self, name: str, x: Tensor, margins: Sequence[tuple[int, int]]) -> Tensor:
        """Zeros before and behind each axis, as many as `margins` say."""
        shape = [side + sum(margin) for side, margin in zip(x.shape, margins, strict=True)]
        return self.operator("PAD", name, [x, integers(f"{name}/margins", margins)], shape)

    def convolve(
        self, name: str, x: Tensor, kernel: np.ndarray, bias: np.ndarray | None = None, *, stride: int = 1, padding=SAME
    ) -> Tensor:
        """A convolution of x [1, height, width, inputs] by `kernel` [side, side, inputs, outputs]."""
        _, height, width, _ = x.shape
        side, _, _, outputs = kernel.shape
        lost = side - 1 if padding == VALID else 0
        size = [-(-(length - lost) // stride) for length in (height, width)]
        constants = [
            constant(f"{name}/kernel", kernel.transpose(3, 0, 1, 2)),  # as TFLite has it: [outputs, side, side, inputs]
            constant(f"{name}/bias", np.zeros(outputs) if bias is None else bias),
        ]
        options = {"padding": padding, "strideH": stride, "strideW": stride, "dilationHFactor": 1, "dilationWFactor": 1}
        return self.operator("CONV_2D", name, [x, *constants], [1, *size, outputs], **options)

    def dense(self, name: str, x: Tensor, kernel: np.ndarray, bias: np.ndarray | None = None) -> Tensor:
        """A dense layer of every pixel of x [1, height, width, inputs], by `kernel` [inputs, outputs]."""
        _, outputs = kernel.shape
        constants = [
            constant(f"{name}/kernel", kernel.T),  # as TFLite has it: [outputs, inputs]
            constant(f"{name}/bias", np.zeros(outputs) if bias is None else bias),
        ]
        return self.operator("FULLY_CONNECTED", name, [x, *constants], [*x.shape[:3], outputs], keepNumDims=True)

    def scale_channels(self, name: str, x: Tensor, factors: Tensor, offsets: Tensor) -> Tensor:
        """x [1, height, width, channels] times a factor for each channel plus an offset, both [channels]."""
        kernel = replace(factors, shape=(1, 1, 1, *factors.shape), data=factors.values[None, None, None])
        options = {"padding": VALID, "strideH": 1, "strideW": 1, "depthMultiplier": 1}
        options |= {"dilationHFactor": 1, "dilationWFactor": 1}
        return self.operator("DEPTHWISE_CONV_2D", name, [x, kernel, offsets], x.shape, **options)

    def max_pool(self, name: str, x: Tensor, side: int, stride: int) -> Tensor:
        """The largest of side x side pixels, none of them outside the image."""
        _, height, width, channels = x.shape
        size = [(length - side) // stride + 1 for length in (height, width)]
        options = {"padding": VALID, "strideH": stride, "strideW": stride, "filterHeight": side, "filterWidth": side}
        return self.operator("MAX_POOL_2D", name, [x], [1, *size, channels], **options)

    def softmax(self, name: str, x: Tensor) -> Tensor:
        return self.operator("SOFTMAX", name, [x], x.shape, beta=1.0)

    def slice(self, name: str, x: Tensor, begin: Sequence[int], size: Sequence[int]) -> Tensor:
        return self.operator("SLICE", name, [x, integers(f"{name}/begin", begin), integers(f"{name}/size", size)], size)

    def windows(self, name: str, x: Tensor, axis: int, side: int, stride: int) -> list[Tensor]:
        """The first lines along `axis` of all windows of `side` lines, the second lines, and so on.

        x: [1, height, width, channels], of a multiple of `stride` lines. A window begins every `stride` lines.
        """
        lines, below = x.shape[axis : axis + 2]
        if stride > 1:
            # Lines behind one another in memory are a longer one, of whose parts XNNPACK copies each as it is.
            shape = list(x.shape)
            shape[axis : axis + 2] = lines // stride, stride * below
            x = self.reshape(f"{name}/pairs", x, shape)
        size = list(x.shape)
        size[axis : axis + 2] = (lines - side) // stride + 1, below
        found = []
        for line in range(side):
            begin = [0, 0, 0, 0]
            begin[axis : axis + 2] = line // stride, line % stride * below
            found.append(self.slice(f"{name}/{line}", x, begin, size))
        return found

    def concatenate(self, name: str, parts: Sequence[Tensor], axis: int) -> Tensor:
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self.operator("CONCATENATION", name, parts, shape, axis=axis)


def constant(name: str, data: np.ndarray | float) -> Tensor:
    """A constant in float32."""
    return Tensor(name, np.shape(data), np.ascontiguousarray(data, np.float32))


def integers(name: str, data) -> Tensor:
    """A constant of int32, such as axes and shapes are."""
    return Tensor(name, np.shape(data), np.array(data, np.int32))


# Takes the new graph, and an operator of the old one with inputs from the new. Adds to the new graph and gives the
# output in the operator's place, or gives None to keep the operator.
Rewrite = Callable[[Graph, Operator], Tensor | None]


def rewritten(graph: Graph, rewrite: Rewrite) -> Graph:
    """`graph` with each operator that `rewrite` takes replaced. What comes in its output's place has its range."""
    new = Graph(graph.input)
    moved: dict[Tensor, Tensor] = {}
    for operator in graph.operators:
        operator = replace(operator, inputs=tuple(moved.get(each, each) for each in operator.inputs))
        output = rewrite(new, operator)
        if output is None:
            new.operators.append(operator)
        else:
            moved[operator.output] = output
            output.range = operator.output.range or output.range
    return new


def to_file(graph: Graph) -> bytes:
    """The .tflite file of a graph of TFLite's operators. Equal constants are written once."""
    model = schema.ModelT(version=3, operatorCodes=[], buffers=[schema.BufferT()])
    subgraph = schema.SubGraphT(name="main", tensors=[], operators=[], inputs=[], outputs=[])
    model.subgraphs = [subgraph]
    tensors, codes = {}, {}

    def tensor(each: Tensor) -> int:
        key = each if each.data is None else (each.type, each.shape, each.data.tobytes())
        if key not in tensors:
            tensors[key] = len(subgraph.tensors)
            buffer = 0
            if each.data is not None:
                buffer = len(model.buffers)
                model.buffers.append(schema.BufferT(data=each.data.reshape(-1).view(np.uint8)))
            subgraph.tensors.append(
                schema.TensorT(name=each.name, shape=np.array(each.shape, np.int32), type=each.type, buffer=buffer)
            )
        return tensors[key]

    def code(type: str) -> int:
        if type not in codes:
            codes[type] = len(model.operatorCodes)
            model.operatorCodes.append(schema.OperatorCodeT(builtinCode=getattr(schema.BuiltinOperator, type)))
        return codes[type]

    subgraph.inputs = [tensor(graph.input)]
    for operator in graph.operators:
        made = schema.OperatorT(opcodeIndex=code(operator.type), inputs=[tensor(each) for each in operator.inputs])
        made.outputs = [tensor(operator.output)]
        if options := OPTIONS.get(operator.type):
            made.builtinOptions = options(**operator.options)
            made.builtinOptionsType = getattr(schema.BuiltinOptions, options.__name__.removesuffix("T"))
        subgraph.operators.append(made)
    subgraph.outputs = [tensor(graph.output)]
    ends = [[schema.TensorMapT(name=each.name, tensorIndex=tensors[each])] for each in (graph.input, graph.output)]
    model.signatureDefs = [
        schema.SignatureDefT(signatureKey=SIGNATURE, inputs=ends[0], outputs=ends[1], subgraphIndex=0)
    ]
    size = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    return packed(model, flatbuffers.Builder(size + 2**20))
