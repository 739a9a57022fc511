"""A BiT as data: its architecture and its weights under BiT's own names, in one directory. NumPy only.

Kolesnikov et al., "Big Transfer (BiT): General Visual Representation Learning", arXiv:1912.11370. Depth and widths are
not stored: they are read from the names and shapes of the weights, so a pruned BiT is a BiT with smaller kernels.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from fnmatch import fnmatch
from operator import attrgetter
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from bitlite.bit.names import FINAL_NORM, HEAD, ROOT, Unit, place, units
from bitlite.bit.shapes import Shape, misfit
from bitlite.workflow.errors import InputError, WrongValue, damaged, missing, one_line
from bitlite.workflow.files import read_npz, whole, write_json
from bitlite.workflow.params import Positive, PositiveFloat

ROOT_STRIDE = 2
# Qiao et al., "Weight Standardization", arXiv:1903.10520; the constant is from BiT's own code.
STANDARDIZATION_EPSILON = 1e-10
# Of every norm (Wu & He, arXiv:1803.08494).
GROUP_NORM_EPSILON = 1e-5

# What a range is made of, each a weight [] of this name.
ENDS = ("least", "largest")
RANGES = tuple(f"/range/{end}" for end in ENDS)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The facts about a BiT that its weights do not show.

    groups: groups of every GroupNorm before pruning (32 in the published models).
    pool: whether the root ends in BiT's zero-padded 3x3/2 max-pool.
    standardized: whether the network standardises its kernels as it runs; False once that is folded into them.
    image_size: height and width in pixels that the model was trained for.
    labels: class names in the order of the head's outputs; empty without a head.
    frozen_norms: the norms, by path, whose statistics are constants: the mean 0, and for each norm the deviation given
    here. Their output is gamma * input / deviation + beta.
    """

    # Of what is read from architecture.json.
    __pydantic_config__: ClassVar = ConfigDict(strict=True, extra="forbid")

    name: str
    groups: Positive
    pool: bool
    standardized: bool
    image_size: tuple[Positive, Positive]
    labels: tuple[str, ...] = ()
    frozen_norms: dict[str, PositiveFloat] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution, or the head.

    kernel: [height, width, inputs, outputs]. size: height and width of the output.
    """

    path: str
    kernel: np.ndarray
    stride: int
    size: tuple[int, int]

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        height, width = self.size
        return self.kernel.size * height * width

    @property
    def outputs(self) -> int:
        """Values that it gives for one image."""
        height, width = self.size
        return height * width * self.kernel.shape[-1]


@dataclasses.dataclass(frozen=True)
class Site:
    """Channels that can only go together.

    giving: paths of the convolutions whose outputs they are, or are the sum of. readers: of the norms that they go
    through, in running order, each with the convolutions behind it.
    """

    giving: tuple[str, ...]
    readers: Mapping[str, tuple[str, ...]]

    @property
    def norm(self) -> str:
        """The last of its norms, whose path is the site's name."""
        return list(self.readers)[-1]

    @property
    def reading(self) -> tuple[str, ...]:
        """Paths of all convolutions behind its norms."""
        return tuple(itertools.chain(*self.readers.values()))


@dataclasses.dataclass(frozen=True)
class Bit:
    """Architecture and weights; kernels are [height, width, inputs, outputs], all float32.

    A BiT that was trained for int8 has, among its weights, the ranges of layers' outputs.
    """

    architecture: Architecture
    weights: dict[str, np.ndarray]

    @classmethod
    def load(cls, directory: Path) -> "Bit":
        """The BiT that `save` wrote. Raises InputError naming the directory if it is none or is damaged."""
        try:
            content = (directory / "architecture.json").read_bytes()
            bit = cls(TypeAdapter(Architecture).validate_json(content), read_npz(directory / "weights.npz"))
            if fault := bit._fault():
                raise ValueError(fault)
        except FileNotFoundError as error:
            raise missing(Path(error.filename)) from error
        except (OSError, ValueError) as error:
            told = _first(error) if isinstance(error, ValidationError) else one_line(error)
            raise damaged(directory, f"holds no BiT (architecture.json and weights.npz; {told})") from error
        return bit

    def save(self, directory: Path) -> None:
        """Write architecture.json and weights.npz. Equal models give equal bytes.

        Raises InputError, and leaves what was there, if a weight is not finite.
        """
        astray = [name for name, value in self.weights.items() if not np.isfinite(value).all()]
        if astray:
            raise InputError(
                f"{directory} is not written: {len(astray)} of its weights are not finite, such as {min(astray)}; try "
                "a lower learning_rate"
            )
        with whole(directory) as temporary:
            temporary.mkdir()
            write_json(temporary / "architecture.json", dataclasses.asdict(self.architecture))
            np.savez(temporary / "weights.npz", allow_pickle=False, **dict(sorted(self.weights.items())))

    def _fault(self) -> str:
        """Why these weights make no network of this architecture; "" if they do."""
        if other := sorted(name for name, value in self.weights.items() if value.dtype != np.float32):
            return f"{other[0]} is of type {self.weights[other[0]].dtype}"
        if fault := misfit({name: value.shape for name, value in self.weights.items()}, self._shapes()):
            return fault
        frozen = self.architecture.frozen_norms
        if unknown := sorted(frozen.keys() - set(self.norms)):
            return f"frozen_norms has {unknown[0]}, which is no norm of it"
        if odd := [norm for norm in self.norms if norm not in frozen and not self._grouped(norm)]:
            return f"{odd[0]} does not fill whole groups of {self.architecture.groups}"
        return ""

    def _grouped(self, norm: str) -> bool:
        """Whether the norm at this path has whole groups: as many channels in each as before pruning."""
        unpruned, groups = self._unpruned(norm), self.architecture.groups
        return unpruned % groups == 0 and self.weights[f"{norm}/gamma"].size % (unpruned // groups) == 0

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes that the weights would have with the outputs that the kernels have: what feeds what must fit."""
        found: dict[str, tuple[int, ...]] = {}

        def conv(path: str, side: int, inputs: int, outputs: int | None = None) -> int:
            kernel = self.weights.get(f"{path}/kernel", np.empty(0))
            outputs = outputs or (kernel.shape or (1,))[-1]
            side = kernel.shape[0] if path == ROOT and kernel.ndim else side
            found[f"{path}/kernel"] = (side, side, inputs, outputs)
            return outputs

        def norm(path: str, channels: int) -> None:
            found[f"{path}/gamma"] = found[f"{path}/beta"] = (channels,)

        inputs = conv(ROOT, 0, 3)
        for unit in self.units:
            norm(unit.norm("a"), inputs)
            inner = conv(unit.conv("a"), 1, inputs)
            norm(unit.norm("b"), inner)
            inner = conv(unit.conv("b"), 3, inner)
            norm(unit.norm("c"), inner)
            outputs = conv(unit.conv("c"), 1, inner, None if self.projects(unit) else inputs)
            if self.projects(unit):
                conv(unit.projection, 1, inputs, outputs)
            inputs = outputs
        norm(FINAL_NORM, inputs)
        if self.architecture.labels:
            classes = len(self.architecture.labels)
            conv(HEAD, 1, inputs, classes)
            found[f"{HEAD}/bias"] = (classes,)
        return found | {name: () for name in self.weights if name.endswith(RANGES)}

    @property
    def units(self) -> list[Unit]:
        """The residual units in running order."""
        return units(self.weights)

    def projects(self, unit: Unit) -> bool:
        """Whether the unit's shortcut is a convolution instead of the identity."""
        return f"{unit.projection}/kernel" in self.weights

    @property
    def convolutions(self) -> list[Convolution]:
        """All convolutions in running order, then the head if there is one."""
        found = []

        def add(path: str, size: tuple[int, int], stride: int = 1) -> tuple[int, int]:
            size = _strided(size, stride)
            found.append(Convolution(path, self.weights[f"{path}/kernel"], stride, size))
            return size

        size = add(ROOT, self.architecture.image_size, ROOT_STRIDE)
        if self.architecture.pool:
            size = _strided(size, 2)
        for unit in self.units:
            add(unit.conv("a"), size)
            if self.projects(unit):
                add(unit.projection, size, unit.stride)
            size = add(unit.conv("b"), size, unit.stride)
            add(unit.conv("c"), size)
        if f"{HEAD}/kernel" in self.weights:
            add(HEAD, (1, 1))
        return found

    @property
    def stride(self) -> int:
        """Side in pixels of the square for which the last block has one pixel."""
        pool = 2 if self.architecture.pool else 1
        return ROOT_STRIDE * pool * math.prod(unit.stride for unit in self.units)

    @property
    def paths(self) -> list[str]:
        """Paths of all convolutions in running order, then that of the head if there is one."""
        return [convolution.path for convolution in self.convolutions]

    @property
    def norms(self) -> list[str]:
        """Paths of all norms in running order."""
        return [*(unit.norm(part) for unit in self.units for part in "abc"), FINAL_NORM]

    def sites(self, scope: str) -> list[Site]:
        """Where channels can go: inner, inside the bottlenecks, or all, those that a block's shortcuts carry too."""
        inner = [
            Site((unit.conv(before),), {unit.norm(after): (unit.conv(after),)})
            for unit in self.units
            for before, after in (("a", "b"), ("b", "c"))
        ]
        return inner + self._trunk_sites if scope == "all" else inner

    @property
    def _trunk_sites(self) -> list[Site]:
        blocks = [list(units) for _, units in itertools.groupby(self.units, attrgetter("block"))]
        found = []
        for (first, *others), behind in itertools.zip_longest(blocks, blocks[1:]):
            readers: dict[str, tuple[str, ...]] = {unit.norm("a"): (unit.conv("a"),) for unit in others}
            if behind:
                readers[behind[0].norm("a")] = (behind[0].conv("a"), behind[0].projection)
            else:
                readers[FINAL_NORM] = (HEAD,)
            found.append(Site((first.projection, *(unit.conv("c") for unit in (first, *others))), readers))
        return found

    @property
    def inner_norms(self) -> list[str]:
        """Paths of the norms inside the bottlenecks, before convolutions b and c."""
        return [unit.norm(part) for unit in self.units for part in "bc"]

    def groups(self, norm: str) -> int:
        """Groups of the norm at this path. Pruning removes whole groups, so what stays fixed is a group's size."""
        return self.weights[f"{norm}/gamma"].size // (self._unpruned(norm) // self.architecture.groups)

    def _unpruned(self, norm: str) -> int:
        """Channels that the norm at this path had before pruning: a multiple of the root's, which stay."""
        unit, part = place(norm) or (self.units[-1], "behind")
        before_block = part == "a" and self.projects(unit)  # it reads what the block before gives, or the root
        blocks = unit.block - 1 - before_block
        filters = self.weights[f"{ROOT}/kernel"].shape[-1]
        return filters if blocks < 0 else filters * 2**blocks * (1 if part in ("b", "c") else 4)

    def range(self, layer: str) -> tuple[float, float] | None:
        """The least and the largest value that int8 holds of this layer's output, if the BiT was trained with them."""
        least, largest = (self.weights.get(f"{layer}/range/{end}") for end in ENDS)
        return None if least is None or largest is None else (float(least), float(largest))

    @property
    def parameters(self) -> int:
        """Number of trained values, the head's included, without ranges."""
        return sum(value.size for name, value in self.weights.items() if "/range/" not in name)

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
        return sum(convolution.macs for convolution in self.convolutions)

    def matching(self, patterns: tuple[str, ...], key: str, among: str = "BiT's convolutions") -> list[str]:
        """Paths of the convolutions, in running order, that match a pattern of shell wildcards.

        Raises WrongValue naming `key` of params.yaml, a pattern that matches nothing, and what these are `among`.
        """
        paths = self.paths
        for pattern in patterns:
            if not any(fnmatch(path, pattern) for path in paths):
                raise WrongValue(f"{key} has {pattern!r}, which matches none of {among}, such as {paths[1]}")
        return [path for path in paths if any(fnmatch(path, pattern) for pattern in patterns)]

    def with_weights(self, weights: dict[str, np.ndarray], **changes) -> "Bit":
        """This BiT with other weights, and the architecture's fields named in `changes` replaced."""
        return Bit(dataclasses.replace(self.architecture, **changes), weights)

    def with_head(self, labels: tuple[str, ...], image_size: tuple[int, int]) -> "Bit":
        """This BiT for other classes and images: with a new head of zeros, as BiT starts every transfer."""
        channels = self.weights[f"{FINAL_NORM}/gamma"].size
        head = {
            f"{HEAD}/kernel": np.zeros((1, 1, channels, len(labels)), np.float32),
            f"{HEAD}/bias": np.zeros(len(labels), np.float32),
        }
        return self.with_weights({**self.weights, **head}, labels=labels, image_size=image_size)

    def folded(self) -> "Bit":
        """This BiT with its kernels standardised once and for all: the same function from plain convolutions.

        StdConv normalises each output channel's kernel over height, width and inputs (arXiv:1903.10520), which turns a
        zero of the raw kernel into -mean / std: only folded kernels keep the zeros that pruning puts there.
        """
        if not self.architecture.standardized:
            return self
        weights = {
            name: standardize(value) if "standardized_conv2d" in name else value for name, value in self.weights.items()
        }
        return self.with_weights(weights, standardized=False)


def _first(error: ValidationError) -> str:
    """The first of pydantic's findings: the field, its value and what is wrong with it."""
    found = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, found['loc'])) or 'architecture.json'} is {found['input']!r}: {found['msg']}"


def _strided(size: tuple[int, int], stride: int) -> tuple[int, int]:
    # A kernel of odd size k, padded by k // 2 on each side, leaves ceil(size / stride).
    height, width = size
    return -(-height // stride), -(-width // stride)


def standardize(kernel: np.ndarray) -> np.ndarray:
    """`kernel` [height, width, inputs, outputs] with mean 0 and variance 1 for every output channel."""
    wide = kernel.astype(np.float64)
    mean, variance = wide.mean(axis=(0, 1, 2)), wide.var(axis=(0, 1, 2))
    return ((wide - mean) / np.sqrt(variance + STANDARDIZATION_EPSILON)).astype(np.float32)


def untrained(name: str, shape: Shape, *, seed: int) -> Bit:
    """A headless BiT of random weights (He et al., arXiv:1502.01852), for pretraining, benchmarks and tests."""
    random = np.random.default_rng(seed)

    def initial(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("/kernel"):
            return (np.sqrt(2 / np.prod(shape[:3])) * random.standard_normal(shape)).astype(np.float32)
        return np.full(shape, name.endswith("/gamma"), np.float32)

    weights = {name: initial(name, each) for name, each in shape.weights.items()}
    return Bit(Architecture(name, shape.groups, shape.pool, standardized=True, image_size=shape.image_size), weights)
