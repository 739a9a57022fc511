"""Convert a pruned model to one .tflite file.

    python -m stages.convert P Q

Params quantization.Q; data/dataset (for calibration), models/pruned/P -> models/tflite/P-Q.tflite.
"""

from stages import run
from stages.artifacts import PRUNED, TFLITE, whole
from stages.bit import model
from stages.images import dataset
from stages.params import entry, load
from stages.tflite import conversion


def main(pruning: str, quantization: str) -> None:
    how = entry(load().quantization, quantization)
    bit = model.load(PRUNED / pruning)
    calibration = None
    if how.scheme == "int8":
        pixels, labels = dataset.read("train", bit.architecture.image_size)
        calibration = pixels[conversion.balanced(labels, how.calibration_images)]
    content = conversion.convert(bit, how, calibration)
    with whole(TFLITE / f"{pruning}-{quantization}.tflite") as temporary:
        temporary.write_bytes(content)


if __name__ == "__main__":
    run(main)
