"""Compare the variants, choose the one to ship, and put it into models/release.

    python -m stages.compare

Params compare (and of the others what the report names); metrics/finetune.json, metrics/prune/, metrics/evaluate/,
metrics/benchmark/, plots/prune/, plots/convert/, plots/evaluate/, plots/benchmark/, models/tflite/, models/finetuned/
-> metrics/summary.json, plots/tradeoff.csv, plots/tradeoff.png, report.html, models/release/ (model.tflite, labels.txt,
README.md).
"""

import json
import shutil
from pathlib import Path

from bitlite.report import layers, picture, render, variants
from bitlite.workflow.command import run
from bitlite.workflow.files import read_csv, read_npz, whole, write_csv, write_json
from bitlite.workflow.params import Params, load
from bitlite.workflow.paths import FINETUNED, METRICS, PLOTS, RELEASE, TFLITE


def main() -> None:
    params = load()
    comparison = variants.Comparison(
        variants.read_variants(params.variants, METRICS),
        params.compare.baseline,
        params.compare.max_accuracy_drop,
        params.compare.objective,
    )
    made_from = read_run(params)
    selected = comparison.selected
    model = TFLITE / f"{selected.name}.tflite"
    predictions = read_csv(PLOTS / "evaluate" / selected.name / "predictions.csv")
    by_layer = layers.read(params.variants, params.pruning, kernel_sizes(FINETUNED), PLOTS)
    png = picture.tradeoff(comparison)
    report = render.report(comparison, made_from, by_layer, predictions, png)
    card = render.model_card(comparison, made_from, recipe(params, selected), model, len(predictions))

    write_release(RELEASE, model, made_from.labels, card)
    write_csv(PLOTS / "tradeoff.csv", variants.TRADEOFF_COLUMNS, variants.tradeoff_rows(comparison))
    with whole(PLOTS / "tradeoff.png") as temporary:
        temporary.write_bytes(png)
    with whole(Path("report.html")) as temporary:
        temporary.write_text(report, encoding="utf-8")
    write_json(METRICS / "summary.json", variants.summary(comparison))
    print(variants.table(comparison))


def read_run(params: Params) -> render.Run:
    """What the models were made from. Raises InputError as `variants.read_metrics` does."""
    architecture = json.loads((FINETUNED / "architecture.json").read_text())
    return render.Run(
        dataset=params.dataset.name,
        backbone=params.backbone.name,
        seed=params.seed,
        image_size=tuple(architecture["image_size"]),
        labels=tuple(architecture["labels"]),
        finetuned=variants.read_metrics(METRICS / "finetune.json", variants.MODEL),
        pruned={name: variants.read_metrics(METRICS / f"prune/{name}.json", variants.MODEL) for name in params.pruning},
    )


def kernel_sizes(model: Path) -> dict[str, int]:
    """Number of weights in the kernel of each layer of a model."""
    sizes = {name: array.size for name, array in read_npz(model / "weights.npz").items()}
    return {name.removesuffix("/kernel"): size for name, size in sizes.items() if name.endswith("/kernel")}


def recipe(params: Params, variant: variants.Variant) -> dict:
    """The part of params.yaml that made `variant`."""
    return {
        "seed": params.seed,
        # Where the data set lies on this machine is nobody else's business.
        "dataset": params.dataset.model_dump(exclude={"data_dir"}),
        "backbone": {"name": params.backbone.name},
        "finetune": params.finetune.model_dump(),
        "pruning": {variant.pruning: params.pruning[variant.pruning].model_dump()},
        "quantization": {variant.quantization: params.quantization[variant.quantization].model_dump()},
    }


def write_release(directory: Path, model: Path, labels: tuple[str, ...], card: str) -> None:
    """Write a directory that has all one needs to ship `model`."""
    with whole(directory) as temporary:
        temporary.mkdir()
        shutil.copyfile(model, temporary / "model.tflite")
        (temporary / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
        (temporary / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    run(main)
