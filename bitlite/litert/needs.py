"""What a .tflite file says that it needs. No TensorFlow."""

from pathlib import Path

from ai_edge_litert.tools import flatbuffer_utils

# Names the metadata of a file that is a release of TensorFlow: the oldest whose runtime has all that the file needs.
OLDEST_RUNTIME = "min_runtime_version"
# The LiteRT that came with a TensorFlow, where it is not the first: 1.0 is of the time of TensorFlow 2.18.
LITERT = {"2.19.0": "1.1.0"}


def oldest_runtime(path: Path) -> str:
    """Oldest release that runs a file as the file itself says, such as "TensorFlow Lite 2.4.0".

    Where the first LiteRT is too old as well, so is the one that will do: "TensorFlow Lite 2.19.0, LiteRT 1.1.0".
    Raises ValueError naming the file if it does not say.
    """
    model = flatbuffer_utils.read_model(str(path))
    for each in model.metadata or []:
        if each.name == OLDEST_RUNTIME.encode():
            release = bytes(model.buffers[each.buffer].data).rstrip(b"\0").decode()
            return f"TensorFlow Lite {release}" + (f", LiteRT {LITERT[release]}" if release in LITERT else "")
    raise ValueError(f"{path} does not say what runtime it needs: convert it anew (python -m stages.convert)")
