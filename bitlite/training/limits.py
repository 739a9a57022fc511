"""What a recipe can't do with a BiT on this machine, told before training. No TensorFlow.

The memory of a step is an estimate, by the outputs of convolutions that it keeps for the gradients.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from bitlite.bit.weights import Bit
from bitlite.training.recipe import Recipe
from bitlite.workflow.errors import WrongValue

# Bytes that a step takes: for each output of a trained convolution and image, for each weight (itself, standardised,
# its gradients, the optimizer's), and TensorFlow itself. Measured with bit-tiny and R50x1 on a CPU, within 15 %.
BYTES_AN_OUTPUT, BYTES_A_WEIGHT, BYTES_ANYWAY = 9, 40, 10**9
# Bytes of an image's pixel in a batch (RGB in float32), and batches that are in memory at once: see batches.ahead.
BYTES_A_PIXEL, BATCHES_AT_ONCE = 12, 3
# Where nothing is kept for gradients there are as many layers' outputs at a time.
LAYERS_AT_ONCE = 4
# Share of the memory that `batch_split: auto` fills: images and other programs take some.
ROOM = 0.75
# Where Linux's control groups tell what they may take, by what their versions are called in /proc/self/cgroup: folder
# and file.
CGROUPS = Path("/sys/fs/cgroup")
CGROUP_FILES = {"": (".", "memory.max"), "memory": ("memory", "memory.limit_in_bytes")}


def check(recipe: Recipe, bit: Bit, *, devices: int = 1, trainable: str = "all") -> None:
    """Raise WrongValue if `recipe` can't train `bit`, which has a head, on so many devices of this machine."""
    name, images = bit.architecture.name, images_a_device(recipe, devices)
    if recipe.image_size < bit.stride:
        raise WrongValue(
            f"image_size is {recipe.image_size}: {name} needs at least {bit.stride}, which it halves to one pixel"
        )
    if recipe.padding >= recipe.image_size:
        raise WrongValue(
            f"padding is {recipe.padding}: crops of {recipe.image_size} px may hold no pixel of the image; take a few"
        )
    if recipe.weight_decay * recipe.learning_rate >= 1:
        raise WrongValue(
            f"learning_rate is {recipe.learning_rate:g}: times finetune.weight_decay, {recipe.weight_decay:g}, it "
            f"takes the whole of a weight at a step; less than {1 / recipe.weight_decay:g} does not"
        )
    # A head alone may be trained on features, which are smaller.
    pixels = BATCHES_AT_ONCE * BYTES_A_PIXEL * recipe.batch_size * recipe.image_size**2
    if recipe.steps and (trainable != "head" or recipe.augments) and pixels > host_memory():
        raise WrongValue(
            f"batch_size is {recipe.batch_size}: the pixels of {BATCHES_AT_ONCE} batches of {recipe.image_size} px, "
            f"which are in memory at once, take some {pixels / 1e9:.0f} GB, and there are {host_memory() / 1e9:.0f}"
        )
    images = 1 if recipe.batch_split == "auto" else images // recipe.batch_split
    outputs = kept_outputs((each.outputs, trainable == "all") for each in bit.convolutions)
    needed, memory = bytes_needed(images, outputs, bit.parameters), max(host_memory(), gpu_memory())
    if recipe.steps and needed > memory:
        remedy = "finetune.image_size or the backbone is too large" if images == 1 else "try finetune.batch_split: auto"
        raise WrongValue(
            f"batch_size is {recipe.batch_size}: a step on {images} images of {recipe.image_size} px at a time takes "
            f"some {needed / 1e9:.0f} GB of memory, and there are {memory / 1e9:.0f}; {remedy}"
        )


def replicas(devices: str) -> int:
    """The number of devices that `finetune.devices` asks for: one, all GPUs of this host, or those of TF_CONFIG's."""
    if devices == "one":
        return 1
    import tensorflow as tf  # which one device does not need

    cluster = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {}) if devices == "all_hosts" else {}
    hosts = sum(len(cluster.get(role, [])) for role in ("chief", "worker"))
    return max(1, hosts) * max(1, len(tf.config.list_physical_devices("GPU")))


def images_a_device(recipe: Recipe, devices: int) -> int:
    """Images of a batch that each device gets. Raises WrongValue if devices and `batch_split` don't divide it."""
    split = 1 if recipe.batch_split == "auto" else recipe.batch_split
    if recipe.batch_size % (devices * split):
        raise WrongValue(
            f"batch_size is {recipe.batch_size}, which {devices} devices and a batch_split of {split} don't divide"
        )
    return recipe.batch_size // devices


def parts(images: int, outputs: int, weights: int, memory: int) -> int:
    """The fewest equal parts of `images` of which one leaves room in so many bytes of memory; one each if none does."""
    return next(
        count
        for count in range(1, images + 1)
        if images % count == 0 and (bytes_needed(images // count, outputs, weights) <= ROOM * memory or count == images)
    )


def bytes_needed(images: int, outputs: int, weights: int) -> int:
    """Memory that a step on so many images at a time takes.

    outputs: values for each image, as `kept_outputs` has them. weights: their number.
    """
    return BYTES_ANYWAY + BYTES_AN_OUTPUT * images * outputs + BYTES_A_WEIGHT * weights


def kept_outputs(layers: Iterable[tuple[int, bool]]) -> int:
    """Values that a step keeps for each image, of layers given as the number of outputs and whether it is trained."""
    sizes = list(layers)
    return max(sum(size for size, trained in sizes if trained), LAYERS_AT_ONCE * max(size for size, _ in sizes))


def host_memory() -> int:
    """Bytes of memory that this machine has, or that this container or job may take."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_limits()])


def _limits(own: Path = Path("/proc/self/cgroup"), cgroups: Path = CGROUPS) -> Iterator[int]:
    """Bytes that each control group which this process is in, directly or not, may take, as far as it has a limit."""
    for line in own.read_text().splitlines() if own.exists() else ():
        _, version, group = line.split(":", 2)
        if version in CGROUP_FILES:
            folder, file = CGROUP_FILES[version]
            # A container may see its own group as the outermost, yet be told the path that the host has for it.
            within = Path(group.lstrip("/"))
            for each in (within, *within.parents):
                with contextlib.suppress(OSError, ValueError):  # there is none, or it is "max"
                    yield int((cgroups / folder / each / file).read_text())


def gpu_memory() -> int:
    """Bytes of memory of the smallest NVIDIA GPU; 0 if there is none."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return min(map(int, found.split())) * 2**20
    except (OSError, subprocess.CalledProcessError, ValueError):
        return 0
