"""All places side by side. No TensorFlow."""

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
from ai_edge_litert.tools import flatbuffer_utils

from bitlite.images.pixels import Pixels
from bitlite.litert.needs import oldest_runtime
from bitlite.litert.operators import convolutions
from bitlite.where import float16, gpu, micro, npu
from bitlite.where.answers import Unavailable
from bitlite.workflow.metrics import Places
from bitlite.workflow.params import Where

# A place runs images as long as they take no more multiply-adds together; one, if that takes more. In software, as most
# are here, it takes a second or two for 10^9.
MULTIPLY_ADDS = 2 * 10**10


def check(path: Path, pixels: Pixels | np.ndarray, expected: np.ndarray, where: Where) -> Places:
    """What comes of the file at `path` elsewhere, on the first of `pixels` uint8 [images, height, width, 3] in 0..255.

    expected: what it gives for `pixels` on this CPU, float32 [images, classes]. Prints on standard error what was not
    checked, and what would let it. Equal input on equal machines gives equal records.
    """
    count = min(len(pixels), where.images, max(1, MULTIPLY_ADDS // multiply_adds(path)))
    images, expected = pixels[:count], expected[:count]
    checks = {
        "gpu": partial(gpu.check, path, images, expected),
        "float16": partial(float16.check, path, images, expected),
        "float16_peak": partial(float16.peak, path, images),
        "tflm": partial(micro.check, path, images, expected),
        "npu": partial(npu.check, path, where.npu),
    }
    found: dict = {"images_tried": count, "npu": where.npu.accelerator, "oldest_runtime": oldest_runtime(path)}
    unchecked: dict[str, list[str]] = {}
    with ThreadPoolExecutor(len(checks)) as threads:
        started = {name: threads.submit(each) for name, each in checks.items() if count}
        for name, each in started.items():
            try:
                found |= each.result()
            except Unavailable as error:
                unchecked.setdefault(str(error), []).append(name)
    for remedy, names in unchecked.items():
        print(f"{' and '.join(names)} not checked: {remedy}", file=sys.stderr)
    return Places(**{field.name: None for field in fields(Places)} | found)


def multiply_adds(path: Path) -> int:
    """Multiply-adds of a file's convolutions for an image."""
    model = flatbuffer_utils.read_model(str(path))
    graph, found = model.subgraphs[0], 0
    for operator in convolutions(model):
        kernel, output = (graph.tensors[number].shape for number in (operator.inputs[1], operator.outputs[0]))
        found += math.prod(kernel) * math.prod(output[:-1])
    return found
