"""Convert a pruned model to one .tflite file.

    python -m stages.convert P Q

Params quantization.Q; data/dataset (train to calibrate, validation to measure), models/pruned/P ->
models/tflite/P-Q.tflite, plots/convert/P-Q/layers.csv.
"""

from bitlite.bit.weights import Bit
from bitlite.images import dataset
from bitlite.tflite import conversion, layers
from bitlite.workflow.command import run
from bitlite.workflow.files import whole, write_csv
from bitlite.workflow.params import Calibrated, Mixed, entry, load
from bitlite.workflow.paths import PLOTS, PRUNED, TFLITE

# Validation images, at most, that the error of each layer is measured on. LiteRT has no fast code for int16
# activations: an image takes it some fifty times as long.
SAMPLE = {"int16x8": 2}
DEFAULT_SAMPLE = 16


def main(pruning: str, quantization: str) -> None:
    how = entry(load().quantization, quantization)
    bit = Bit.load(PRUNED / pruning)
    if isinstance(how, Mixed) and how.keep_float != "auto":
        bit.matching(how.keep_float, "keep_float")  # raises before any work
    size = bit.architecture.image_size
    calibration = None
    if isinstance(how, Calibrated):
        pixels, labels = dataset.read("train", size)
        calibration = pixels[conversion.drawn(labels, dataset.labels(), how)]
    validation = dataset.read("validation", size)

    float32 = conversion.convert(bit, conversion.FLOAT32)
    content = float32
    if how != conversion.FLOAT32:
        content = conversion.convert(bit, how, calibration, validation=validation, float32=float32)
    sample = validation[0][: SAMPLE.get(how.scheme, DEFAULT_SAMPLE)]
    rows = list(layers.rows(content, float32, [convolution.path for convolution in bit.convolutions], sample))
    if how.scheme == "int8_mixed":
        kept = [row["layer"] for row in rows if row["type"] == "float32"]
        print(f"{len(kept)} of {len(rows)} convolutions stay float32{':' if kept else ''}", *kept, sep="\n  ")

    variant = f"{pruning}-{quantization}"
    with whole(TFLITE / f"{variant}.tflite") as temporary:
        temporary.write_bytes(content)
    write_csv(PLOTS / "convert" / variant / "layers.csv", layers.COLUMNS, rows)


if __name__ == "__main__":
    run(main)
