"""BiT's own names for its layers and weights, such as resnet/block1/unit01/a/standardized_conv2d/kernel.

A path names a layer: a convolution or a norm. The names of its weights are the path with /kernel (and, of the head,
/bias), or with /gamma and /beta. POOL has none.
"""

import dataclasses
import re
from collections.abc import Iterable

ROOT = "resnet/root_block/standardized_conv2d"
POOL = "resnet/root_block/pool"
FINAL_NORM = "resnet/group_norm"
HEAD = "resnet/head/conv2d"
# What the root and the head read.
PIXELS, FEATURES = "normalize", "resnet/features"


@dataclasses.dataclass(frozen=True)
class Unit:
    """One pre-activation bottleneck, by its path: resnet/block1/unit01.

    Its convolutions are a, b and c in running order, each with a norm before it.
    """

    path: str

    @property
    def block(self) -> int:
        """Number of its block, from 1."""
        return int(self.path.split("/")[1].removeprefix("block"))

    @property
    def stride(self) -> int:
        """Stride of convolution b and of the projection. Only the first unit of a block has 2, block1's has not."""
        return 2 if self.path.endswith("/unit01") and self.block > 1 else 1

    @property
    def projection(self) -> str:
        """Path of the convolution on the shortcut, which only the first unit of a block has."""
        return f"{self.path}/a/proj/standardized_conv2d"

    def conv(self, part: str) -> str:
        """Path of convolution a, b or c."""
        return f"{self.path}/{part}/standardized_conv2d"

    def norm(self, part: str) -> str:
        """Path of the norm before convolution a, b or c."""
        return f"{self.path}/{part}/group_norm"


def unit(block: int, number: int) -> Unit:
    """The unit of this number in this block, both from 1."""
    return Unit(f"resnet/block{block}/unit{number:02d}")


def units(names: Iterable[str]) -> list[Unit]:
    """The units that `names` of weights are of, in running order."""
    paths = {match[0] for name in names if (match := re.match(r"resnet/block\d+/unit\d+(?=/)", name))}
    return [Unit(path) for path in sorted(paths)]


def place(norm: str) -> tuple[Unit, str] | None:
    """The unit that has the norm at this path, and the convolution, a, b or c, that it is before; None for the last."""
    match = re.fullmatch(r"(resnet/block\d+/unit\d+)/([abc])/group_norm", norm)
    return match and (Unit(match[1]), match[2])
