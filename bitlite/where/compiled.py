"""Running a file by LiteRT's CompiledModel, which reaches what its interpreter does not. No TensorFlow."""

from pathlib import Path

import numpy as np
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.options import Options


def outputs(path: Path, images: np.ndarray, options: Options) -> tuple[np.ndarray, bool]:
    """Outputs [images, classes] of the file's type, and whether the accelerator in `options` took all operators.

    images: uint8 [images, height, width, 3] in 0..255. Raises RuntimeError if it took not enough to run the file.
    """
    model = CompiledModel.from_file(str(path), options=options)
    (key,) = model.get_signature_list()
    (taken,) = model.get_input_tensor_details(key).values()
    (given,) = model.get_output_tensor_details(key).values()
    (pixels,), (result,) = model.create_input_buffers(0), model.create_output_buffers(0)
    found = []
    for image in images:
        pixels.write(image[None].astype(taken["dtype"]))
        model.run_by_index(0, [pixels], [result])
        found.append(np.array(result.read(int(np.prod(given["shape"])), given["dtype"])))
    return np.stack(found), model.is_fully_accelerated()
