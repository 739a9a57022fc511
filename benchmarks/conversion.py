"""Measure the conversion: speed against the usual way and against the floor, and what each scheme gets right.

    python benchmarks/conversion.py r50x1 [THREADS]
    python benchmarks/conversion.py schemes [THREADS]

r50x1: files of the same random weights at 224 px, run in turns on one image at a time, seconds and memory to convert:
    usual   a SavedModel as in Google's code (bit_tf2 of google-research/big_transfer), with its GroupNorm over a 5-D
            reshape and its standardisation in the graph, through TFLiteConverter.from_saved_model
    ours    what `convert` makes of them
    floor   ours with the statistics of every GroupNorm frozen, so that a norm is what BatchNorm is on a device: nothing
schemes: the fine-tuned model of this checkout in every scheme: accuracy on test, agreement with float32, size, latency.

Of each round the fastest run counts, which noise from other processes seldom reaches; ratios are of medians of these.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import tensorflow as tf
from pydantic import TypeAdapter

from stages.bit import model, network
from stages.params import Quantization
from stages.tflite import conversion, runtime

SIZE = (224, 224)
ROUNDS, RUNS = 15, 3
CALIBRATION = 8


class FrozenNorm(network.GroupNorm):
    """What is left of a GroupNorm whose statistics are constants: a multiply and an add, which converters fold."""

    def _normalized(self, inputs):
        return inputs * self.gamma + self.beta


class UsualNorm(network.GroupNorm):
    """GroupNorm as google-research/big_transfer writes it (bit_tf2/normalization.py)."""

    def _normalized(self, inputs):
        shape = tf.shape(inputs)
        size = inputs.shape[-1] // self.groups
        grouped = tf.reshape(inputs, [-1, shape[1], shape[2], self.groups, size])
        mean, variance = tf.nn.moments(grouped, [1, 2, 4], keepdims=True)
        grouped = (grouped - mean) / tf.sqrt(variance + network.GROUP_NORM_EPSILON)
        return tf.reshape(grouped, shape) * self.gamma + self.beta


def main(threads: str = "1") -> None:
    bit = r50x1()
    images = np.random.default_rng(1).integers(256, size=(CALIBRATION, *SIZE, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as scratch:
        files = {}
        for scheme in ("float32", "dynamic", "int8"):
            for way, content in ways(bit, scheme, images):
                files[scheme, way] = Path(scratch) / f"{scheme}-{way}.tflite"
                files[scheme, way].write_bytes(content)
        print(f"{int(threads)} threads, batch 1, {SIZE[0]} px", flush=True)
        times = in_turns(files, int(threads))
    print(f"{'':10}{'usual ms':>10}{'ours ms':>10}{'floor ms':>10}{'usual/ours':>12}{'ours/floor':>12}")
    for scheme in ("float32", "dynamic", "int8"):
        usual, ours, floor = (times[scheme, way] for way in ("usual", "ours", "floor"))
        print(
            f"{scheme:10}{usual.min():10.1f}{ours.min():10.1f}{floor.min():10.1f}"
            f"{np.median(usual) / np.median(ours):12.2f}{np.median(ours) / np.median(floor):12.2f}"
        )


def r50x1() -> model.Bit:
    """BiT R50x1 for 10 classes with random weights, gammas and betas included."""
    bit = model.untrained(
        "r50x1", filters=64, units=(3, 4, 6, 3), groups=32, root=7, pool=True, image_size=SIZE, seed=0
    )  # fmt: skip
    random = np.random.default_rng(0)
    weights = {
        name: value if name.endswith("/kernel") else (value + random.normal(0, 0.1, value.shape)).astype(np.float32)
        for name, value in bit.weights.items()
    }
    return model.with_head(bit.with_weights(weights), tuple(f"class{index}" for index in range(10)), SIZE)


def ways(bit: model.Bit, scheme: str, images: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """Name and .tflite content of the three ways."""
    yield "usual", usual(bit, scheme, images)
    how = TypeAdapter(Quantization).validate_python({"scheme": scheme})
    yield "ours", conversion.convert(bit, how, images)
    lowered = network.PerChannelGroupNorm
    network.PerChannelGroupNorm = FrozenNorm
    yield "floor", conversion.convert(bit, how, images)
    network.PerChannelGroupNorm = lowered


def usual(bit: model.Bit, scheme: str, images: np.ndarray) -> bytes:
    """`bit` saved as a SavedModel as in Google's code, and converted as the converter's own guide says."""
    with tempfile.TemporaryDirectory() as saved:
        keras_model = network.build(bit, norm=UsualNorm)
        pixels = tf.TensorSpec((None, *SIZE, 3), tf.float32)
        module = tf.Module()
        module.weights = keras_model.weights
        module.serve = tf.function(lambda pixels: keras_model(pixels, training=False), input_signature=[pixels])
        tf.saved_model.save(module, saved)
        converter = tf.lite.TFLiteConverter.from_saved_model(saved)
        if scheme != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if scheme == "int8":
            converter.representative_dataset = lambda: ([image[None].astype(np.float32)] for image in images)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.uint8
        return converter.convert()


def in_turns(files: dict, threads: int) -> dict:
    """Milliseconds [rounds] of each file, the fastest run in each round."""
    classifiers = {key: runtime.Classifier(path, threads) for key, path in files.items()}
    image = np.random.default_rng(0).integers(256, size=(*SIZE, 3), dtype=np.uint8)
    times = {key: [] for key in files}
    for _ in range(ROUNDS):
        for key, classifier in classifiers.items():
            times[key].append(classifier.latencies(image, warmup_runs=1, runs=RUNS).min())
    return {key: np.array(found) for key, found in times.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
