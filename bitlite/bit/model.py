"""A BiT as data: its architecture and its weights under BiT's own names, in one directory. NumPy only.

Kolesnikov et al., "Big Transfer (BiT): General Visual Representation Learning", arXiv:1912.11370. Depth and widths are
not stored: they are read from the names and shapes of the weights, so a pruned BiT is a BiT with smaller kernels.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from bitlite.workflow.errors import InputError
from bitlite.workflow.files import read_npz, whole, write_json

ROOT = "resnet/root_block/standardized_conv2d"
HEAD = "resnet/head/conv2d"
FINAL_NORM = "resnet/group_norm"
ROOT_STRIDE = 2
# Qiao et al., "Weight Standardization", arXiv:1903.10520; the constant is that of BiT's own code.
STANDARDIZATION_EPSILON = 1e-10


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What the weights alone do not tell.

    groups: groups of every GroupNorm before pruning (32 in the published models).
    pool: whether the root ends in BiT's zero-padded 3x3/2 max-pool.
    standardized: whether the network standardises its kernels as it runs; False once that is folded into them.
    image_size: height and width in pixels that the model was trained for.
    labels: class names in the order of the head's outputs; empty without a head.
    """

    name: str
    groups: int
    pool: bool
    standardized: bool
    image_size: tuple[int, int]
    labels: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Unit:
    """One pre-activation bottleneck. `prefix` is its path in BiT's names, such as resnet/block1/unit01."""

    prefix: str
    stride: int
    projected: bool


@dataclasses.dataclass(frozen=True)
class Bit:
    """Architecture and weights; kernels are [height, width, inputs, outputs], all float32."""

    architecture: Architecture
    weights: dict[str, np.ndarray]

    @property
    def units(self) -> list[Unit]:
        """The residual units in running order. The first unit of every block but block1 has stride 2."""
        prefixes = sorted({m[1] for name in self.weights if (m := re.match(r"(resnet/block\d+/unit\d+)/", name))})
        return [
            Unit(
                prefix,
                stride=2 if prefix.endswith("unit01") and "/block1/" not in prefix else 1,
                projected=f"{prefix}/a/proj/standardized_conv2d/kernel" in self.weights,
            )
            for prefix in prefixes
        ]

    def groups(self, norm: str) -> int:
        """Groups of the norm at this path. Pruning removes whole groups, so what stays fixed is a group's size."""
        channels = self.weights[f"{norm}/gamma"].size
        inner = re.match(r"(resnet/block\d+/unit\d+)/[bc]/group_norm", norm)
        if not inner:
            return self.architecture.groups
        unpruned = self.weights[f"{inner[1]}/c/standardized_conv2d/kernel"].shape[-1] // 4
        return channels // (unpruned // self.architecture.groups)

    @property
    def parameters(self) -> int:
        """Number of trained values, the head's included."""
        return sum(value.size for value in self.weights.values())

    @property
    def kernels(self) -> dict[str, np.ndarray]:
        """The convolution kernels, the head's included."""
        return {name: value for name, value in self.weights.items() if name.endswith("/kernel")}

    @property
    def sparsity(self) -> float:
        """Share of zeros in the kernels."""
        return sum(int(np.sum(k == 0)) for k in self.kernels.values()) / sum(k.size for k in self.kernels.values())

    @property
    def macs(self) -> int:
        """Multiply-adds of all convolutions and the head for one image of the architecture's size."""
        return sum(self.weights[f"{conv}/kernel"].size * h * w for conv, (h, w) in self.output_sizes())

    def output_sizes(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Path of every convolution with the height and width of its output."""
        size = _strided(self.architecture.image_size, ROOT_STRIDE)
        yield ROOT, size
        if self.architecture.pool:
            size = _strided(size, 2)
        for unit in self.units:
            yield f"{unit.prefix}/a/standardized_conv2d", size
            size = _strided(size, unit.stride)
            if unit.projected:
                yield f"{unit.prefix}/a/proj/standardized_conv2d", size
            yield f"{unit.prefix}/b/standardized_conv2d", size
            yield f"{unit.prefix}/c/standardized_conv2d", size
        if f"{HEAD}/kernel" in self.weights:
            yield HEAD, (1, 1)

    def matching(self, patterns: tuple[str, ...], key: str) -> list[str]:
        """Paths of the convolutions, in running order, that match a pattern of shell wildcards.

        Raises InputError naming `key` of params.yaml and a pattern that matches nothing.
        """
        layers = [layer for layer, _ in self.output_sizes()]
        for pattern in patterns:
            if not any(fnmatch(layer, pattern) for layer in layers):
                raise InputError(
                    f"{key} has {pattern!r}, which matches none of BiT's convolutions, such as {layers[1]}"
                )
        return [layer for layer in layers if any(fnmatch(layer, pattern) for pattern in patterns)]

    def with_weights(self, weights: dict[str, np.ndarray], **changes) -> "Bit":
        """This BiT with other weights, and the architecture's fields named in `changes` replaced."""
        return Bit(dataclasses.replace(self.architecture, **changes), weights)


def _strided(size: tuple[int, int], stride: int) -> tuple[int, int]:
    # A kernel of odd size k, padded by k // 2 on each side, leaves ceil(size / stride).
    return tuple(-(-side // stride) for side in size)


def untrained(
    name: str, *, filters: int, units: tuple[int, ...], groups: int, root: int, pool: bool,
    image_size: tuple[int, int], seed: int,
) -> Bit:  # fmt: skip
    """A headless BiT of random weights (He et al., arXiv:1502.01852), for pretraining and for tests.

    filters, units, root: as `shapes` takes them. The others: as in `Architecture`.
    """
    random = np.random.default_rng(seed)

    def initial(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path.endswith("/kernel"):
            return (np.sqrt(2 / np.prod(shape[:3])) * random.standard_normal(shape)).astype(np.float32)
        return np.full(shape, path.endswith("/gamma"), np.float32)

    weights = {path: initial(path, shape) for path, shape in shapes(filters=filters, units=units, root=root).items()}
    return Bit(Architecture(name, groups, pool, standardized=True, image_size=image_size), weights)


def shapes(*, filters: int, units: tuple[int, ...], root: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of a headless BiT.

    filters: inner channels of block1, doubled by every further block (64 x width in the published models).
    units: residual units in each block. root: side of the root's kernel.
    """
    found: dict[str, tuple[int, ...]] = {}

    def kernel(path: str, *shape: int) -> None:
        found[f"{path}/standardized_conv2d/kernel"] = shape

    def norm(path: str, channels: int) -> None:
        found[f"{path}/group_norm/gamma"] = found[f"{path}/group_norm/beta"] = (channels,)

    kernel("resnet/root_block", root, root, 3, filters)
    inputs = filters
    for block, count in enumerate(units, start=1):
        inner = filters * 2 ** (block - 1)
        for index in range(1, count + 1):
            unit = f"resnet/block{block}/unit{index:02d}"
            norm(f"{unit}/a", inputs)
            kernel(f"{unit}/a", 1, 1, inputs, inner)
            if index == 1:
                kernel(f"{unit}/a/proj", 1, 1, inputs, 4 * inner)
            norm(f"{unit}/b", inner)
            kernel(f"{unit}/b", 3, 3, inner, inner)
            norm(f"{unit}/c", inner)
            kernel(f"{unit}/c", 1, 1, inner, 4 * inner)
            inputs = 4 * inner
    norm("resnet", inputs)
    return found


def with_head(bit: Bit, labels: tuple[str, ...], image_size: tuple[int, int]) -> Bit:
    """`bit` for other classes and images: with a new head of zeros, as BiT starts every transfer."""
    channels = bit.weights[f"{FINAL_NORM}/gamma"].size
    head = {
        f"{HEAD}/kernel": np.zeros((1, 1, channels, len(labels)), np.float32),
        f"{HEAD}/bias": np.zeros(len(labels), np.float32),
    }
    return bit.with_weights({**bit.weights, **head}, labels=labels, image_size=image_size)


def fold(bit: Bit) -> Bit:
    """`bit` with its kernels standardised once and for all: the same function from plain convolutions.

    StdConv normalises each output channel's kernel over height, width and inputs (arXiv:1903.10520), which turns a
    zero of the raw kernel into -mean / std: only folded kernels keep the zeros that pruning puts there.
    """
    if not bit.architecture.standardized:
        return bit
    return bit.with_weights(
        {name: standardize(value) if "standardized_conv2d" in name else value for name, value in bit.weights.items()},
        standardized=False,
    )


def standardize(kernel: np.ndarray) -> np.ndarray:
    """`kernel` [h, w, inputs, outputs] with mean 0 and variance 1 for every output channel."""
    wide = kernel.astype(np.float64)
    mean, variance = wide.mean(axis=(0, 1, 2)), wide.var(axis=(0, 1, 2))
    return ((wide - mean) / np.sqrt(variance + STANDARDIZATION_EPSILON)).astype(np.float32)


def save(bit: Bit, directory: Path) -> None:
    """Write `bit` as architecture.json and weights.npz. Equal models give equal bytes."""
    with whole(directory) as temporary:
        temporary.mkdir()
        write_json(temporary / "architecture.json", dataclasses.asdict(bit.architecture))
        np.savez(temporary / "weights.npz", **dict(sorted(bit.weights.items())))


def load(directory: Path) -> Bit:
    """The BiT that `save` wrote. Raises InputError naming the directory if it is none or is damaged."""
    try:
        fields = json.loads((directory / "architecture.json").read_text())
        fields["image_size"], fields["labels"] = tuple(fields["image_size"]), tuple(fields["labels"])
        return Bit(Architecture(**fields), read_npz(directory / "weights.npz"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{directory} holds no BiT (architecture.json and weights.npz): {error}") from error
