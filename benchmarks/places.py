"""Measure where files run rightly: what metrics/where holds, for every scheme, and two more strict comparisons.

    python -m benchmarks.places tiny     the pruned models of this checkout, 100 test images
    python -m benchmarks.places r50x1    R50x1 at 224 px with random weights and a random head, 4 images of noise

int16x8 is left out: a CPU takes minutes for it. The rest takes some 10 minutes, most of it software in a GPU's place.

gpu exact   for dynamic and int4, GPU against the same file with its weights made float32, on the CPU. The CPU quantizes
            activations of these files, the GPU does not: this is the delegate's own error.
emulated    agreement of the lowered network in float16 (benchmarks/emulation.py) with itself in float32, and whether
            all its outputs are finite.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from benchmarks import conversion, emulation
from bitlite.bit.names import HEAD
from bitlite.bit.weights import Bit
from bitlite.images import dataset
from bitlite.litert import runtime
from bitlite.tflite.conversion import convert
from bitlite.tflite.flatbuffer import packed
from bitlite.tflite.graph import Graph, to_file
from bitlite.tflite.lowering import lower
from bitlite.tflite.schemes import SCHEMES
from bitlite.where import gpu, places
from bitlite.workflow.params import Where, load
from bitlite.workflow.paths import PRUNED

IMAGES, R50X1_IMAGES = 100, 4
# Schemes whose files hold integers for weights and for nothing else.
WEIGHTS_ALONE = ("dynamic", "int4")


def main(what: str) -> None:
    models = {"tiny": tiny, "r50x1": r50x1}[what]
    print(f"{'':28}", *(f"{name:>15}" for name in ("gpu", "gpu exact", "emulated", "float16", "tflm", "npu")))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "model.tflite")
        for name, bit, images, training in models():
            for scheme, entry in conversion.entries().items():
                if entry.scheme == conversion.SLOW:
                    continue
                path.write_bytes(convert(bit, entry, training))
                expected = runtime.logits(path, images)
                found = places.check(path, images, expected, Where(images=len(images)))
                graph = lower(bit, SCHEMES[entry.scheme].rewrites(entry))
                cells = (
                    shown(found.gpu_agreement, found.gpu_difference),
                    exact(path, images) if entry.scheme in WEIGHTS_ALONE else "-",
                    emulated(graph, images) if entry.scheme != "int8" else "-",
                    shown(found.float16_agreement, found.float16_peak),
                    shown(found.tflm_agreement, found.tflm_arena_bytes),
                    shown(found.npu_share, found.npu_cycles),
                )
                print(f"{name + ' ' + scheme:28}", *(f"{cell:>15}" for cell in cells), flush=True)


def tiny() -> Iterator[tuple[str, Bit, np.ndarray, np.ndarray]]:
    """Name, model, test images and training images of each pruning."""
    for name in load().pruning:
        bit = Bit.load(PRUNED / name)
        size = bit.architecture.image_size
        yield name, bit, dataset.read("test", size)[0][:IMAGES], dataset.read("train", size)[0][:256]


def r50x1() -> Iterator[tuple[str, Bit, np.ndarray, np.ndarray]]:
    random, bit = np.random.default_rng(0), conversion.r50x1()
    noise = random.integers(256, size=(36, *conversion.SIZE, 3), dtype=np.uint8)
    head = {f"{HEAD}/kernel": random.normal(0, 0.05, bit.weights[f"{HEAD}/kernel"].shape).astype(np.float32)}
    yield "r50x1", bit.with_weights(bit.weights | head), noise[:R50X1_IMAGES], noise[R50X1_IMAGES:]


def shown(*numbers: float | None) -> str:
    return " ".join("-" if number is None else f"{number:.3g}" for number in numbers)


def exact(path: Path, images: np.ndarray) -> str:
    """Largest difference of the GPU from the file with float32 weights, over the largest output."""
    floats = path.with_suffix(".float32")
    floats.write_bytes(with_float_weights(path.read_bytes()))
    return shown(gpu.check(path, images, runtime.logits(floats, images)).get("gpu_difference"))


def with_float_weights(content: bytes) -> bytes:
    """A file of float activations with its int8 and int4 constants as the float32 that they stand for."""
    model = schema.ModelT.InitFromPackedBuf(content)
    for tensor in model.subgraphs[0].tensors:
        held = model.buffers[tensor.buffer].data
        if held is None or tensor.type not in (schema.TensorType.INT8, schema.TensorType.INT4):
            continue
        values = np.asarray(held).view(np.int8)
        if tensor.type == schema.TensorType.INT4:
            # Two to a byte, the lower half first.
            values = np.stack([values << 4 >> 4, values >> 4], axis=1).ravel()[: np.prod(tensor.shape)]
        scales = [1] * len(tensor.shape)
        scales[tensor.quantization.quantizedDimension] = -1
        weights = values.reshape(tensor.shape) * tensor.quantization.scale.astype(np.float32).reshape(scales)
        model.buffers.append(schema.BufferT(data=weights.astype(np.float32).reshape(-1).view(np.uint8)))
        tensor.buffer, tensor.type, tensor.quantization = len(model.buffers) - 1, schema.TensorType.FLOAT32, None
    return packed(model, flatbuffers.Builder(8 * len(content)))


def emulated(graph: Graph, images: np.ndarray) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "model.tflite")
        path.write_bytes(to_file(graph))
        expected = runtime.logits(path, images)
    outputs = emulation.outputs(graph, images)
    agreement = np.mean(outputs.argmax(1) == expected.argmax(1))
    return f"{agreement:.3g} {'finite' if np.isfinite(outputs).all() else 'NOT FINITE'}"


if __name__ == "__main__":
    main(*sys.argv[1:])
