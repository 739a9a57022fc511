"""Writing a .tflite file anew, smaller and with metadata. No TensorFlow."""

from collections.abc import Mapping

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

# The name of TFLite metadata among a file's other notes.
METADATA = "TFLITE_METADATA"


def compact(content: bytes, notes: bytes | None = None) -> bytes:
    """The same .tflite file with equal vectors written once, no scale of 0, no ranges, and `notes` for metadata.

    What follows the flatbuffer, as the constants of large files from the AI Edge Quantizer do, is taken into it. An
    int8 file has a zero point of 64 bits, always 0, for each channel of each kernel and bias: of a small model that
    is a twentieth of the file.
    """
    model = schema.ModelT.InitFromPackedBuf(content)
    for buffer in model.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    if notes is not None:
        # A file that is made from another brings that one's.
        model.metadata = [each for each in model.metadata or [] if each.name != METADATA.encode()]
        model.metadata.append(schema.MetadataT(name=METADATA, buffer=len(model.buffers)))
        model.buffers.append(schema.BufferT(data=np.frombuffer(notes, np.uint8)))
    for tensor in model.subgraphs[0].tensors:
        scale = tensor.quantization and tensor.quantization.scale
        if scale is not None:
            # The converter's scale of a constant of zeros is 0, at which LiteRT ends the process. A large one would
            # cost the other operand of a sum its precision.
            tensor.quantization.scale = np.where(scale == 0, np.float32(2**-30), scale)
            # What it was calibrated with is of no use any more.
            tensor.quantization.min = tensor.quantization.max = None
    builder = _SharingBuilder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(memoryview(builder.Bytes)[builder.Head() :])


def with_ranges(content: bytes, ranges: Mapping[str, Mapping[str, np.ndarray]]) -> bytes:
    """The same float32 file with the "min" and "max" [1] of its tensors, as TensorFlow's own calibration leaves it."""
    model = schema.ModelT.InitFromPackedBuf(content)
    for tensor in model.subgraphs[0].tensors:
        if extremes := ranges.get(tensor.name.decode()):
            least, largest = (extremes[end].astype(np.float32) for end in ("min", "max"))
            tensor.quantization = schema.QuantizationParametersT(min=least, max=largest)
    builder = _SharingBuilder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _SharingBuilder(flatbuffers.Builder):
    def __init__(self, size: int):
        super().__init__(size)
        self.offsets = {}

    def CreateNumpyVector(self, x):
        key = (x.dtype.str, x.tobytes())
        if key not in self.offsets:
            self.offsets[key] = super().CreateNumpyVector(x)
        return self.offsets[key]

    def StartVector(self, elemSize, numElems, alignment):
        # Weights are vectors of bytes; LiteRT reads them in place, aligned as its schema demands.
        return super().StartVector(elemSize, numElems, 16 if elemSize == 1 else alignment)
