"""LiteRT's GPU delegate, as phones run it.

Where no Vulkan driver is installed it runs on SwiftShader, Vulkan in software, out of Debian's chromium-common. That
computes in float32: it shows operators and logic, not float16 and not speed.
"""

import ctypes
import os
from pathlib import Path

import numpy as np
from ai_edge_litert.hardware_accelerator import HardwareAccelerator
from ai_edge_litert.options import GpuOptions, Options

from bitlite.litert.signature import signature
from bitlite.where import compiled
from bitlite.where.answers import Unavailable, agreement, answer, ask, finite

SWIFTSHADER, LOADER = (Path("/usr/lib/chromium", name) for name in ("vk_swiftshader_icd.json", "libvulkan.so.1"))
# Where Vulkan's loader looks for drivers: folders of JSON files, and variables that name such files.
DRIVERS = (Path("/usr/share/vulkan/icd.d"), Path("/usr/local/share/vulkan/icd.d"), Path("/etc/vulkan/icd.d"))
VARIABLES = {"VK_DRIVER_FILES", "VK_ICD_FILENAMES"}
# LiteRT's log: there is no GPU; shaders that it made are invalid, which leaves outputs at whatever they were.
NO_GPU = ("No adapters found", "GPU accelerator could not be loaded")
INVALID = "Validation error"


def check(path: Path, images: np.ndarray, expected: np.ndarray) -> dict:
    """The fields gpu_* of Places for `images` uint8 [images, height, width, 3], of which `expected` are the outputs.

    Raises Unavailable if this machine has neither a GPU nor SwiftShader.
    """
    arrays, log = ask(__name__, path, images)
    if any(line in log for line in NO_GPU):
        raise Unavailable("no Vulkan device; Debian's is: apt-get install chromium-common")
    if arrays is None or INVALID in log:
        return {"gpu_agreement": 0.0, "gpu_whole": False, "gpu_difference": None}
    _, output = signature(path)
    outputs = output.real(arrays["outputs"])
    difference = np.abs(outputs - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny)
    return {
        "gpu_agreement": agreement(outputs, expected),
        "gpu_whole": bool(arrays["whole"]),
        "gpu_difference": finite(difference),
    }


def run(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs [images, classes], and whether the delegate takes the `whole` file."""
    drivers = [driver for folder in DRIVERS for driver in folder.glob("*.json")]
    if not drivers and not os.environ.keys() & VARIABLES and SWIFTSHADER.exists():
        os.environ["VK_DRIVER_FILES"] = str(SWIFTSHADER)
        ctypes.CDLL(str(LOADER))  # LiteRT looks for a library of this name, and takes one that is there
    options = Options(HardwareAccelerator.GPU, gpu_options=GpuOptions(enforce_f32=True))
    outputs, whole = compiled.outputs(path, images, options)
    return {"outputs": outputs, "whole": np.array(whole)}


if __name__ == "__main__":
    answer(run)
