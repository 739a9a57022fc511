"""Running and inspecting .tflite files with LiteRT. No TensorFlow."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from ai_edge_litert.tools import flatbuffer_utils
from tqdm import tqdm

from bitlite.litert.operators import convolutions
from bitlite.litert.signature import Tensor, interpreter_of
from bitlite.litert.timing import latencies
from bitlite.workflow.cores import cores

# Interpreters side by side, of which each holds the file's weights once more, take no more bytes for them than this.
WEIGHTS_BYTES = 2 * 10**9


class Images(Protocol):
    """Images uint8 [images, height, width, 3] in 0..255: an array, or what gives some as one when it is asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: int | slice, /) -> np.ndarray: ...


class Classifier:
    """One .tflite file, ready to run on one image at a time."""

    def __init__(self, path: Path, threads: int = 1):
        """Raises InputError naming the file if it is missing, or no .tflite file."""
        self.interpreter = interpreter_of(path, threads)
        self.interpreter.allocate_tensors()
        (self.input,) = self.interpreter.get_input_details()
        (self.output,) = self.interpreter.get_output_details()

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.input["shape"][1:3]
        return int(height), int(width)

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Logits float32 [images, classes] of images uint8 [images, height, width, 3] in 0..255.

        Of a file with a softmax they are probabilities.
        """
        return np.stack([self.scores(image) for image in tqdm(pixels, "classify", leave=False, disable=None)])

    def scores(self, image: np.ndarray) -> np.ndarray:
        """Scores float32 [classes] of one image [height, width, 3], of values that the file takes as they are."""
        self.interpreter.set_tensor(self.input["index"], image[None].astype(self.input["dtype"]))
        self.interpreter.invoke()
        return Tensor.of(self.output).real(self.interpreter.get_tensor(self.output["index"])[0])

    def latencies(self, image: np.ndarray, *, warmup_runs: int, runs: int) -> np.ndarray:
        """Milliseconds [runs] that LiteRT takes for `image` [height, width, 3], after runs that do not count."""
        self.interpreter.set_tensor(self.input["index"], image[None].astype(self.input["dtype"]))
        counted = tqdm(range(warmup_runs + runs), "time", leave=False, disable=None)
        return latencies(self.interpreter, counted)[warmup_runs:]


def logits(path: Path, pixels: Images) -> np.ndarray:
    """The same as `Classifier.logits` of the file at `path`, from one interpreter on each processor.

    They share the images. For small networks that is faster than one interpreter of several threads, which wait for
    each other after every operator.
    """
    own = threading.local()

    def start() -> None:
        own.classifier = Classifier(path)

    def run(number: int) -> np.ndarray:
        return own.classifier.scores(pixels[number])

    count = max(1, min(cores(), WEIGHTS_BYTES // path.stat().st_size))
    with ThreadPoolExecutor(count, initializer=start) as threads:
        found = threads.map(run, range(len(pixels)))
        return np.stack(list(tqdm(found, "classify", len(pixels), leave=False, disable=None)))


def sparsity(path: Path) -> float:
    """Share of zeros in the kernels of a .tflite file's convolutions, which are dense layers where they can be."""
    model = flatbuffer_utils.read_model(str(path))
    graph = model.subgraphs[0]
    maker = {number: operator for operator in graph.operators for number in operator.outputs}
    zeros = total = 0
    for operator in convolutions(model):
        kernel = graph.tensors[operator.inputs[1]]
        if model.buffers[kernel.buffer].data is None:  # float16, made float32 by an operator
            kernel = graph.tensors[maker[operator.inputs[1]].inputs[0]]
        held = np.asarray(model.buffers[kernel.buffer].data, np.uint8)
        kind, size = flatbuffer_utils.type_to_name(kernel.type).lower(), math.prod(kernel.shape)
        # Two int4 share a byte, the last of an odd number with padding.
        values = np.stack([held & 15, held >> 4], axis=1).ravel() if kind == "int4" else held.view(kind)
        zeros, total = zeros + size - int(np.count_nonzero(values[:size])), total + size
    return zeros / total
