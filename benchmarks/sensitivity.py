"""How much accuracy each layer costs when it alone is pruned: plots/sensitivity.csv and plots/sensitivity.png.

    python -m benchmarks.sensitivity [IMAGES]

Run after `dvc repro`. Prunes one convolution of the fine-tuned model at a time by magnitude, at each rate, without
recovery, and measures accuracy on IMAGES of the validation split (default 500): that many times layers times rates
forward passes, and no training.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from tqdm import tqdm

from bitlite.bit import network
from bitlite.bit.weights import Bit
from bitlite.images import dataset
from bitlite.training.inference import inference, predict
from bitlite.workflow.files import write_csv
from bitlite.workflow.paths import FINETUNED, PLOTS
from bitlite.workflow.scores import accuracy

RATES = (0.5, 0.7, 0.8, 0.9)


def main(images: str = "500") -> None:
    bit = Bit.load(FINETUNED).folded()
    pixels, labels = dataset.read("validation", bit.architecture.image_size)
    pixels, labels = pixels[: int(images)], labels[: int(images)]
    model = network.build(bit)
    forward = inference(model)
    variables = {network.name_of(variable): variable for variable in model.variables}
    rows = []
    for layer in tqdm([each.path for each in bit.convolutions], disable=None):
        name = f"{layer}/kernel"
        kernel, row = bit.weights[name], {"layer": layer}
        for rate in RATES:
            variables[name].assign(np.where(np.abs(kernel) < np.quantile(np.abs(kernel), rate), 0, kernel))
            row[str(rate)] = accuracy(predict(forward, pixels), labels)
        variables[name].assign(kernel)
        rows.append(row)
    write_csv(PLOTS / "sensitivity.csv", ("layer", *map(str, RATES)), rows)
    draw(rows, PLOTS / "sensitivity.png")


def draw(rows: list[dict], path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.22 * len(rows)), layout="constrained")
    for rate in RATES:
        axes.plot([row[str(rate)] for row in rows], range(len(rows)), "o-", label=f"{rate:.0%} zeros", markersize=4)
    names = [row["layer"].removeprefix("resnet/").replace("/standardized_conv2d", "") for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("accuracy on validation with this layer alone pruned")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main(*sys.argv[1:])
