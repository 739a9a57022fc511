"""Convert a pruned model to one .tflite file.

    python -m stages.convert P Q

Params quantization.Q; data/dataset (train to calibrate, validation to measure), models/pruned/P ->
models/tflite/P-Q.tflite, plots/convert/P-Q/layers.csv, and of scheme mixed all that it tried as steps.csv beside it.
"""

from collections import Counter

from bitlite.bit.weights import Bit
from bitlite.images import dataset
from bitlite.images.pixels import Pixels
from bitlite.tflite import calibration, conversion, convolutions, mixed
from bitlite.workflow import params
from bitlite.workflow.command import run
from bitlite.workflow.errors import under
from bitlite.workflow.files import whole, write_bytes, write_csv
from bitlite.workflow.paths import PLOTS, PRUNED, TFLITE


def main(pruning: str, quantization: str) -> None:
    entry = params.load().entry("quantization", quantization)
    bit = Bit.load(PRUNED / pruning)
    size = bit.architecture.image_size
    images: Pixels | tuple[()] = ()
    if isinstance(entry, params.Calibrated):
        train, labels = dataset.read("train", size)
        images = train.chosen(calibration.drawn(labels, entry))
        if told := calibration.shortfall(entry, len(labels), len(dataset.labels())):
            print(f"quantization.{quantization}.{told}")
    validation = dataset.read("validation", size)

    with under(f"quantization.{quantization}"):
        source = conversion.source(bit, entry, images)
    steps = isinstance(entry, params.Mixed)
    types, tried = mixed.choose(source, *validation) if steps else (conversion.ALL_FLOAT32, [])
    content = conversion.file(source, types)
    sample = validation[0][: convolutions.SLOW_SAMPLE.get(entry.scheme, convolutions.SAMPLE)]
    rows = list(convolutions.rows(content, conversion.convert(bit, conversion.FLOAT32), bit, sample))

    variant = f"{pruning}-{quantization}"
    write_bytes(TFLITE / f"{variant}.tflite", content)
    with whole(PLOTS / "convert" / variant) as plots:
        write_csv(plots / "layers.csv", convolutions.COLUMNS, rows)
        if steps:
            write_csv(plots / "steps.csv", mixed.COLUMNS, tried)
    if steps:
        counts = Counter(row["type"] for row in rows)
        print("Convolutions:", ", ".join(f"{number} {type}" for type, number in counts.items()))
    if entry.scheme == "int8_mixed":
        kept = [row["layer"] for row in rows if row["type"] == "float32"]
        print(f"{len(kept)} of {len(rows)} convolutions stay float32{':' if kept else ''}", *kept, sep="\n  ")


if __name__ == "__main__":
    run(main)
