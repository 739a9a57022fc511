"""The schemes of quantization: one row of SCHEMES each, and the function that makes its file. No TensorFlow.

Every file is made of the float32 file of the lowered network. Weights are quantized symmetrically, with a scale for
each output channel, so zeros stay zeros.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from bitlite.bit.names import PIXELS
from bitlite.bit.weights import Bit
from bitlite.images.pixels import Pixels
from bitlite.tflite import calibration, quantizer
from bitlite.tflite.dense import dense
from bitlite.tflite.graph import Graph, Rewrite, rewritten, to_file
from bitlite.tflite.lowering import even_contrast, half_weights, integer_norm, lower, packed_root, probabilities
from bitlite.tflite.winograd import winograd
from bitlite.workflow.params import Int8Mixed, Quantization, Uncalibrated


@dataclass(frozen=True)
class Source:
    """All that a file can be made of.

    scheme: the row of SCHEMES. entry: the entry of params.yaml.
    graph, float32: the lowered network, and its file.
    images: to calibrate with, each uint8 [height, width, 3]. ranges: the least and largest value of every tensor, for
    schemes of fixed ranges; none for others.
    """

    bit: Bit
    scheme: "Scheme"
    entry: Quantization
    graph: Graph
    float32: bytes
    images: Pixels | Collection[np.ndarray]
    ranges: calibration.Ranges


# The type of each convolution by its path, which is float32, int8 or int4; of those that are not named it is float32.
Types = Mapping[str, str]


def _float32(source: Source, _: Types) -> bytes:
    return source.float32


def _float16(source: Source, _: Types) -> bytes:
    return to_file(rewritten(source.graph, half_weights))


def _dynamic(source: Source, _: Types) -> bytes:
    return quantizer.dynamic(source.float32)


def _integers(source: Source, _: Types) -> bytes:
    scheme = source.scheme
    return quantizer.integers(source.float32, source.ranges, activations=scheme.activations, pixels=scheme.pixels)


def _int8_mixed(source: Source, _: Types) -> bytes:
    assert isinstance(source.entry, Int8Mixed), "SCHEMES has this for int8_mixed alone"
    kept = source.entry.keep_float
    return _mixed(source, {path: "int8" for path in source.bit.paths if path not in kept})


def _mixed(source: Source, types: Types) -> bytes:
    trained = source.bit.range(PIXELS) is not None  # which the root reads
    return quantizer.by_layer(to_file(lowered(source, types)), types, source.ranges, static_root=trained)


def lowered(source: Source, types: Types) -> Graph:
    """The network with the convolutions that are to be int4 as dense layers; other tensors keep their names."""
    int4 = {path for path, type in types.items() if type == "int4"}
    return lower(source.bit, source.scheme.rewrites(source.entry, int4)) if int4 else source.graph


@dataclass(frozen=True)
class Scheme:
    """A way to make a file.

    weights, activations: their types in convolutions. pixels: type of the image that goes in and of what comes out.
    packs_root: whether XNNPACK is faster with the pixels of a large root packed, as it is where weights are integers.
    tool: what quantizes. needs: the data that it quantizes by.
    """

    make: Callable[[Source, Types], bytes]
    weights: str
    activations: str
    pixels: str
    packs_root: bool
    tool: str
    needs: str

    @property
    def notes(self) -> dict[str, bytes]:
        """Metadata by name: a float16 file allows ARMv8.2 CPUs to compute in float16, sums too (XNNPACK's README)."""
        return {"reduced_precision_support": b"fp16accfp16"} if self.weights == "float16" else {}

    def rewrites(self, entry: Quantization, int4: Collection[str] = ()) -> list[Rewrite]:
        """Those that the lowering is to make for this scheme, in order.

        int4: paths of the convolutions that become dense layers, for the scheme mixed.
        """
        by_winograd = isinstance(entry, Uncalibrated) and entry.winograd
        chosen: dict[Rewrite, bool] = {
            even_contrast: self.make is _integers and self.activations == "int8",
            packed_root: self.packs_root,
            winograd: by_winograd,
            dense: self.weights == "int4",
            partial(dense, paths=int4): bool(int4),
            integer_norm: self.make is _integers,
            probabilities: entry.softmax,
        }
        return [rewrite for rewrite, wanted in chosen.items() if wanted]


# In dynamic and int4 activations become int8 as they come, with a scale for each pixel that a dense layer reads, which
# XNNPACK makes of a 1x1 convolution too, and for each image that another convolution reads. The scheme int4 has int8
# where int4 would be slow. Each convolution of mixed is float32, as in int8_mixed, or as in int4. LiteRT has no fast
# code for int16x8, which accelerators run.
# fmt: off
SCHEMES = {
    #                    make         weights    activations pixels     packs  tool                needs
    "float32":    Scheme(_float32,    "float32", "float32",  "float32", False, "the lowering",     "nothing"),
    "float16":    Scheme(_float16,    "float16", "float32",  "float32", False, "the lowering",     "nothing"),
    "dynamic":    Scheme(_dynamic,    "int8",    "int8",     "float32", True,  "litert-quantizer", "nothing"),
    "int8":       Scheme(_integers,   "int8",    "int8",     "uint8",   True,  "LiteRT's own",     "training images"),
    "int8_mixed": Scheme(_int8_mixed, "int8",    "int8",     "float32", True,  "litert-quantizer", "training images"),
    "int16x8":    Scheme(_integers,   "int8",    "int16",    "float32", False, "LiteRT's own",     "training images"),
    "int4":       Scheme(_dynamic,    "int4",    "int8",     "float32", True,  "litert-quantizer", "training images"),
    "mixed":      Scheme(_mixed,      "chosen",  "chosen",   "float32", True,  "litert-quantizer",
                         "training and validation images"),
}
# fmt: on
