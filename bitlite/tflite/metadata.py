"""Writing the metadata by which tools such as MediaPipe run a .tflite file; bitlite/litert/metadata.py reads it."""

import io
import zipfile

import flatbuffers
import numpy as np

from bitlite.bit.weights import Architecture
from bitlite.litert.metadata import (
    FEATURE_PROPERTIES,
    FIELDS,
    IDENTIFIER,
    IMAGE_PROPERTIES,
    NORMALIZATION_OPTIONS,
    RGB,
    TENSOR_AXIS_LABELS,
)
from bitlite.tflite.lowering import LOGITS, PROBABILITIES
from bitlite.workflow.params import Quantization

LABELS = "labels.txt"


class Table:
    """A table of the schema with some of its fields: NumPy scalars, texts, tables, lists of floats or of tables."""

    def __init__(self, kind: str, **fields):
        self.size = len(FIELDS[kind])
        self.fields = {FIELDS[kind].index(name): value for name, value in fields.items()}


def metadata(architecture: Architecture, entry: Quantization, type: str) -> bytes:
    """The flatbuffer for a file of `entry`: RGB pixels in 0..255 in, the normalisation being BiT's own; scores out.

    type: of both, float32 or uint8. Equal input gives equal bytes.
    """
    height, width = architecture.image_size
    pixels = Table(
        "TensorMetadata",
        name="pixels",
        description=f"RGB image of {height} x {width} pixels in 0..255, resized without keeping the aspect.",
        content=Table(
            "Content",
            content_properties_type=IMAGE_PROPERTIES,
            content_properties=Table(
                "ImageProperties",
                color_space=RGB,
                default_size=Table("ImageSize", width=np.uint32(width), height=np.uint32(height)),
            ),
        ),
        process_units=[
            Table(
                "ProcessUnit",
                options_type=NORMALIZATION_OPTIONS,
                options=Table("NormalizationOptions", mean=[0.0], std=[1.0]),
            )
        ],
        stats=Table("Stats", max=[255.0], min=[0.0]),
    )
    said = (
        {
            "name": PROBABILITIES,
            "description": "Probabilities of the classes.",
            # MediaPipe's ClassificationTensorMd has those of the values as they are stored.
            "stats": Table("Stats", max=[255.0 if type == "uint8" else 1.0], min=[0.0]),
        }
        if entry.softmax
        else {"name": LOGITS, "description": "Logits of the classes; a softmax makes probabilities of them."}
    )
    scores = Table(
        "TensorMetadata",
        **said,
        content=Table(
            "Content",
            content_properties_type=FEATURE_PROPERTIES,
            content_properties=Table("FeatureProperties"),
        ),
        associated_files=[
            Table("AssociatedFile", name=LABELS, description="Names of the classes.", type=TENSOR_AXIS_LABELS)
        ],
    )
    builder = flatbuffers.Builder()
    root = Table(
        "ModelMetadata",
        name=architecture.name,
        description=f"BiT image classifier of {len(architecture.labels)} classes, quantized as {entry.scheme}.",
        subgraph_metadata=[Table("SubGraphMetadata", input_tensor_metadata=[pixels], output_tensor_metadata=[scores])],
        min_parser_version="1.0.0",
    )
    builder.Finish(_write(builder, root), IDENTIFIER)
    return bytes(builder.Output())


def with_labels(content: bytes, labels: tuple[str, ...]) -> bytes:
    """The .tflite file with a zip archive behind it that holds the class names, one a line."""
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        # A ZipInfo of its own has no time of writing.
        archive.writestr(zipfile.ZipInfo(LABELS), "".join(f"{label}\n" for label in labels))
    return file.getvalue()


def _write(builder: flatbuffers.Builder, value: str | list | Table) -> int:
    """Where `value` lies in `builder`, after it has been written with all that it refers to."""
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, list) and isinstance(value[0], float):
        return builder.CreateNumpyVector(np.array(value, np.float32))
    if isinstance(value, list):
        places = [_write(builder, table) for table in value]
        builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            builder.PrependUOffsetTRelative(place)
        return builder.EndVector()
    slots = {
        number: field if isinstance(field, np.generic) else _write(builder, field)
        for number, field in value.fields.items()
    }
    builder.StartObject(value.size)
    for number, slot in slots.items():
        if isinstance(slot, np.int8):
            builder.PrependInt8Slot(number, slot, 0)
        elif isinstance(slot, np.uint8):
            builder.PrependUint8Slot(number, slot, 0)
        elif isinstance(slot, np.uint32):
            builder.PrependUint32Slot(number, slot, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(number, slot, 0)
    return builder.EndObject()
