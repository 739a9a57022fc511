"""Writing a .tflite file anew, smaller and with metadata. No TensorFlow."""

from collections.abc import Mapping

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from bitlite.litert.needs import OLDEST_RUNTIME
from bitlite.tflite.versions import declare


def compact(content: bytes, notes: Mapping[str, bytes] | None = None) -> bytes:
    """The same .tflite file, smaller, with no more operators than it needs, and with `notes` as metadata by name.

    Equal vectors are written once, there is no scale of 0, no range, and no ReLU that does nothing.

    Constants that lie behind the flatbuffer, where litert-quantizer puts those of large files, are taken into it. An
    int8 file has a zero point of 64 bits, always 0, for each channel of each kernel and bias: of a small model that
    is a twentieth of the file.
    """
    model = schema.ModelT.InitFromPackedBuf(content)
    for buffer in model.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    _note(model, notes or {})
    for tensor in model.subgraphs[0].tensors:
        if not (quantization := tensor.quantization):
            continue
        # Ranges serve the quantizer alone.
        quantization.min = quantization.max = None
        if quantization.scale is not None:
            # The quantizer gives a constant of zeros the scale 0, at which LiteRT ends the process. A large one would
            # cost the other operand of a sum its precision.
            quantization.scale = np.where(quantization.scale == 0, np.float32(2**-30), quantization.scale)
    _drop_idle_relus(model)
    return rewritten(model, len(content))


def rewritten(model: schema.ModelT, size: int) -> bytes:
    """The file of a model, of some `size` in bytes, with equal vectors written once."""
    return packed(model, _SharingBuilder(size))


def _drop_idle_relus(model: schema.ModelT) -> None:
    """Take the ReLU from sums that are integers from zero on, or become such: what is less ends at zero anyway.

    XNNPACK makes a pass of its own of a sum's ReLU.
    """
    (graph,) = model.subgraphs
    relu, none = schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.NONE

    def type(operator: schema.OperatorT) -> str:
        return flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)

    def begins_at_zero(operator: schema.OperatorT) -> bool:
        output = graph.tensors[operator.outputs[0]]
        return output.type == schema.TensorType.INT8 and output.quantization.zeroPoint[0] == np.iinfo(np.int8).min

    for operator in graph.operators:
        if type(operator) in ("ADD", "SUB") and operator.builtinOptions.fusedActivationFunction == relu:
            readers = [each for each in graph.operators if operator.outputs[0] in each.inputs]
            quantized = {type(each) for each in readers} == {"QUANTIZE"}
            if all(begins_at_zero(each) for each in (readers if quantized else [operator])):
                operator.builtinOptions.fusedActivationFunction = none


def with_ranges(content: bytes, ranges: Mapping[str, Mapping[str, np.ndarray]]) -> bytes:
    """The same float32 file with the "min" and "max" [1] of its tensors, as TensorFlow's own calibration leaves it."""
    model = schema.ModelT.InitFromPackedBuf(content)
    for tensor in model.subgraphs[0].tensors:
        if extremes := ranges.get(tensor.name.decode()):
            least, largest = (extremes[end].astype(np.float32) for end in ("min", "max"))
            tensor.quantization = schema.QuantizationParametersT(min=least, max=largest)
    return packed(model, _SharingBuilder(len(content)))


def packed(model: schema.ModelT, builder: flatbuffers.Builder) -> bytes:
    """The file of a model, which says what it needs, written by `builder`."""
    # As TensorFlow's converter writes it: 16 bytes, zeros behind the release.
    _note(model, {OLDEST_RUNTIME: declare(model).encode().ljust(16, b"\0")})
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(memoryview(builder.Bytes)[builder.Head() :])


def _note(model: schema.ModelT, notes: Mapping[str, bytes]) -> None:
    """Set metadata by name; those of other names stay."""
    held = {each.name if isinstance(each.name, str) else each.name.decode(): each for each in model.metadata or []}
    for name, note in notes.items():
        if name not in held:
            held[name] = schema.MetadataT(name=name, buffer=len(model.buffers))
            model.buffers.append(schema.BufferT())
        model.buffers[held[name].buffer].data = np.frombuffer(note, np.uint8)
    model.metadata = list(held.values())


class _SharingBuilder(flatbuffers.Builder):
    def __init__(self, size: int):
        super().__init__(size)
        self.offsets: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x):
        key = (x.dtype.str, x.tobytes())
        if key not in self.offsets:
            self.offsets[key] = super().CreateNumpyVector(x)
        return self.offsets[key]

    def StartVector(self, elemSize, numElems, alignment):
        # Weights are vectors of bytes; LiteRT reads them in place, aligned as its schema demands.
        return super().StartVector(elemSize, numElems, 16 if elemSize == 1 else alignment)
