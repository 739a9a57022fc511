"""TFLite metadata: what a .tflite file says of itself, so that whoever runs it need not be told. No TensorFlow.

The schema is metadata_schema.fbs of google-ai-edge/mediapipe (mediapipe/tasks/metadata), version 1. A file holds a
flatbuffer of it in the buffer that its metadata list calls METADATA, and ends in a zip archive of the files that this
one mentions: any tool for zip archives reads the labels. bitlite/tflite/metadata.py writes it.
"""

import io
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import number_types

from bitlite.litert.signature import signature
from bitlite.workflow.errors import InputError, one_line

# Its name among a file's metadata.
METADATA = "TFLITE_METADATA"
IDENTIFIER = b"M001"
# The fields of the schema's tables in its order, which numbers them, up to the last one used. A union takes two.
FIELDS = {
    "ModelMetadata": (
        "name", "description", "version", "subgraph_metadata", "author", "license", "associated_files",
        "min_parser_version",
    ),
    "SubGraphMetadata": ("name", "description", "input_tensor_metadata", "output_tensor_metadata"),
    "TensorMetadata": (
        "name", "description", "dimension_names", "content", "process_units", "stats", "associated_files",
    ),
    "Content": ("content_properties_type", "content_properties", "range"),
    "FeatureProperties": (),
    "ImageProperties": ("color_space", "default_size"),
    "ImageSize": ("width", "height"),
    "ProcessUnit": ("options_type", "options"),
    "NormalizationOptions": ("mean", "std"),
    "Stats": ("max", "min"),
    "AssociatedFile": ("name", "description", "type"),
}  # fmt: skip
# Members of the schema's unions ContentProperties and ProcessUnitOptions, and of its enumerations.
FEATURE_PROPERTIES, IMAGE_PROPERTIES, NORMALIZATION_OPTIONS = np.uint8(1), np.uint8(2), np.uint8(1)
RGB, TENSOR_AXIS_LABELS = np.int8(1), np.int8(2)
# Operators that give probabilities, and those that may follow and keep them.
PROBABLE = {schema.BuiltinOperator.SOFTMAX, schema.BuiltinOperator.LOGISTIC}
KEEPING = {
    schema.BuiltinOperator.RESHAPE, schema.BuiltinOperator.SQUEEZE, schema.BuiltinOperator.QUANTIZE,
    schema.BuiltinOperator.DEQUANTIZE,
}  # fmt: skip


@dataclass(frozen=True)
class Description:
    """How an image classifier is to be run, by what its file says."""

    # Names of the classes, in the order of the scores.
    labels: tuple[str, ...]
    # The mean that a pixel's value of 0..255 has subtracted, and the std that it is divided by then: one number, or one
    # of each colour. None: pixels go in as they are.
    normalization: tuple[np.ndarray, np.ndarray] | None
    # Whether its scores are probabilities; or else logits.
    probabilities: bool


def described(path: Path) -> Description:
    """What the file at `path` says.

    Raises InputError naming the file if it is no .tflite file, or none of a classifier of RGB images one at a time, or
    does not say what its classes are or how pixels go in.
    """
    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise InputError(f"{path} is no .tflite file")
    ends = signature(path)
    shapes = [end.shape for end in ends]
    if len(ends) != 2 or len(shapes[0]) != 4 or shapes[0][::3] != (1, 3):
        raise InputError(f"{path} has inputs and outputs of shapes {shapes}, and is no classifier of RGB images")
    model = schema.Model.GetRootAs(content)
    try:
        pixels, scores = _tensors(model)
        labels, normalization = _labels(scores, content), _normalization(pixels)
    except InputError as error:
        raise InputError(f"{path} {error}") from error
    except Exception as error:  # LiteRT does not check what it does not read, and a reader stumbles anywhere
        raise InputError(f"{path} has damaged TFLite metadata: {one_line(error)}") from error
    if len(labels) != math.prod(ends[1].shape):
        raise InputError(f"{path} gives {math.prod(ends[1].shape)} scores, and names {len(labels)} classes")
    if normalization is None and ends[0].dtype != "uint8":
        raise InputError(f"{path} takes {ends[0].dtype}, and its TFLite metadata has no NormalizationOptions for it")
    return Description(labels, normalization, _ends_in_probabilities(model.Subgraphs(0), model))


class _Table:
    """A table of the schema in a flatbuffer, with fields by their names. What is not there is None, or empty."""

    def __init__(self, kind: str, content: bytes, position: int) -> None:
        self._fields, self._table = FIELDS[kind], flatbuffers.table.Table(content, position)

    def _place(self, field: str) -> int | None:
        """Where the field's value lies from the table's position on."""
        return self._table.Offset(4 + 2 * self._fields.index(field)) or None

    def number(self, field: str) -> int | None:
        place = self._place(field)
        return self._table.Get(number_types.Int8Flags, self._table.Pos + place) if place else None

    def text(self, field: str) -> str:
        place = self._place(field)
        return self._table.String(self._table.Pos + place).decode() if place else ""

    def table(self, field: str, kind: str) -> "_Table":
        """Raises InputError if it is not there."""
        if place := self._place(field):
            return _Table(kind, self._table.Bytes, self._table.Indirect(self._table.Pos + place))
        raise InputError(f"has TFLite metadata that lacks {kind}")

    def tables(self, field: str, kind: str) -> "Iterator[_Table]":
        if place := self._place(field):
            start = self._table.Vector(place)
            for number in range(self._table.VectorLen(place)):
                yield _Table(kind, self._table.Bytes, self._table.Indirect(start + 4 * number))

    def floats(self, field: str) -> np.ndarray:
        place = self._place(field)
        return self._table.GetVectorAsNumpy(number_types.Float32Flags, place) if place else np.empty(0, np.float32)


def _tensors(model: schema.Model) -> tuple[_Table, _Table]:
    """The TensorMetadata of the first input and the first output."""
    listed = (model.Metadata(number) for number in range(model.MetadataLength()))
    buffers = [each.Buffer() for each in listed if each.Name() == METADATA.encode()]
    if not buffers:
        raise InputError("has no TFLite metadata, which says what its classes are and how pixels go in")
    content = model.Buffers(buffers[0]).DataAsNumpy().tobytes()
    root = _Table("ModelMetadata", content, int.from_bytes(content[:4], "little"))
    for graph in root.tables("subgraph_metadata", "SubGraphMetadata"):
        for pixels in graph.tables("input_tensor_metadata", "TensorMetadata"):
            for scores in graph.tables("output_tensor_metadata", "TensorMetadata"):
                return pixels, scores
    raise InputError("has TFLite metadata that says nothing of its input or its output")


def _labels(scores: _Table, content: bytes) -> tuple[str, ...]:
    for file in scores.tables("associated_files", "AssociatedFile"):
        if file.number("type") == TENSOR_AXIS_LABELS:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                text = archive.read(file.text("name")).decode()
            return tuple(text.replace("\r\n", "\n").removesuffix("\n").split("\n"))
    raise InputError("has TFLite metadata that does not name its classes")


def _normalization(pixels: _Table) -> tuple[np.ndarray, np.ndarray] | None:
    for unit in pixels.tables("process_units", "ProcessUnit"):
        if unit.number("options_type") == NORMALIZATION_OPTIONS:
            options = unit.table("options", "NormalizationOptions")
            mean, std = options.floats("mean"), options.floats("std")
            if len(mean) != len(std) or len(mean) not in (1, 3) or not np.all(std):
                raise InputError(f"has TFLite metadata of the mean {mean.tolist()} and the std {std.tolist()}")
            return mean, std
    return None


def _ends_in_probabilities(graph: schema.SubGraph, model: schema.Model) -> bool:
    """Whether the output comes from one of PROBABLE, other than by those KEEPING what they are given."""
    operators = [graph.Operators(number) for number in range(graph.OperatorsLength())]
    maker = {number: operator for operator in operators for number in operator.OutputsAsNumpy()}
    at = graph.Outputs(0)
    while operator := maker.pop(at, None):
        code = model.OperatorCodes(operator.OpcodeIndex())
        # Files of before there were 127 operators have the code in a byte of its own.
        kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if kind not in KEEPING:
            return kind in PROBABLE
        at = operator.Inputs(0)
    return False
