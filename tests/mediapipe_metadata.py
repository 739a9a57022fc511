"""Writes TFLite metadata with MediaPipe's own writer, for test_predict: of a file that this project has not made.

    uv run --no-project --isolated --with mediapipe python tests/mediapipe_metadata.py MODEL.tflite MEAN STD LABEL...

MEAN and STD are lists of numbers, as JSON. The model gets the metadata in place.
"""

import json
import sys
import types
from pathlib import Path

# MediaPipe's wheel lacks this module of its own, which tells the writer what version of a reader a file needs.
version = types.ModuleType("_pywrap_metadata_version")
version.GetMinimumMetadataParserVersion = lambda _: "1.0.0"
sys.modules["mediapipe.tasks.cc"] = types.ModuleType("cc")
sys.modules["mediapipe.tasks.cc.metadata"] = types.ModuleType("metadata")
sys.modules["mediapipe.tasks.cc.metadata.python"] = types.ModuleType("python")
sys.modules["mediapipe.tasks.cc.metadata.python"]._pywrap_metadata_version = version

from mediapipe.tasks.python.metadata.metadata_writers import image_classifier, metadata_writer  # noqa: E402

if __name__ == "__main__":
    model, mean, std, *labels = sys.argv[1:]
    named = metadata_writer.Labels().add(labels)
    content = bytearray(Path(model).read_bytes())
    writer = image_classifier.MetadataWriter.create(content, json.loads(mean), json.loads(std), named)
    Path(model).write_bytes(writer.populate()[0])
