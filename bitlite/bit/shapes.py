"""Depth and width of BiT's networks, and the shapes of their weights."""

import dataclasses
from collections.abc import Mapping

from bitlite.bit.names import FINAL_NORM, ROOT, unit


@dataclasses.dataclass(frozen=True)
class Shape:
    """A headless BiT.

    filters: inner channels of block1, doubled by every further block. units: residual units in each block.
    groups: groups of every norm. root: side of the root's kernel. pool: whether the root ends in a max-pool.
    image_size: height and width in pixels of the images that the network is made for.
    """

    filters: int
    units: tuple[int, ...]
    groups: int = 32
    root: int = 7
    pool: bool = True
    image_size: tuple[int, int] = (224, 224)

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight by name; kernels are [height, width, inputs, outputs]."""
        found: dict[str, tuple[int, ...]] = {}

        def conv(path: str, *shape: int) -> None:
            found[f"{path}/kernel"] = shape

        def norm(path: str, channels: int) -> None:
            found[f"{path}/gamma"] = found[f"{path}/beta"] = (channels,)

        conv(ROOT, self.root, self.root, 3, self.filters)
        inputs = self.filters
        for block, count in enumerate(self.units, start=1):
            inner = self.filters * 2 ** (block - 1)
            for number in range(1, count + 1):
                here = unit(block, number)
                norm(here.norm("a"), inputs)
                conv(here.conv("a"), 1, 1, inputs, inner)
                if number == 1:
                    conv(here.projection, 1, 1, inputs, 4 * inner)
                norm(here.norm("b"), inner)
                conv(here.conv("b"), 3, 3, inner, inner)
                norm(here.norm("c"), inner)
                conv(here.conv("c"), 1, 1, inner, 4 * inner)
                inputs = 4 * inner
        norm(FINAL_NORM, inputs)
        return found


def misfit(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> str:
    """How weights of the shapes `found`, by name, differ from the expected: how many, and the first; "" if none."""
    ways = {
        "missing": expected.keys() - found.keys(),
        "not BiT's": found.keys() - expected.keys(),
        "misshapen": {name for name in found.keys() & expected.keys() if found[name] != expected[name]},
    }
    return next((f"{len(names)} are {way}: {min(names)}" for way, names in ways.items() if names), "")


DEPTHS = {"r50": (3, 4, 6, 3), "r101": (3, 4, 23, 3), "r152": (3, 8, 36, 3)}
# Inner channels of block1 in a published network of width 1.
FILTERS = 64
# The embedded backbone, for images of 32 pixels.
BIT_TINY = Shape(filters=32, units=(1, 2, 4), groups=16, root=3, pool=False, image_size=(32, 32))


def published(network: str) -> Shape:
    """The published network of this depth and width, such as r50x1 (arXiv:1912.11370, section 3.2)."""
    depth, _, width = network.partition("x")
    return Shape(filters=FILTERS * int(width), units=DEPTHS[depth])
