"""models/release: the selected file, its labels, and a model card on running it and on its making."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml
from PIL import ImageColor

from bitlite.litert.signature import signature
from bitlite.report.origin import Origin
from bitlite.report.places import PLACES, caution
from bitlite.report.text import template
from bitlite.report.variants import Comparison, Variant, choice, wilson
from bitlite.workflow.files import whole
from bitlite.workflow.params import Params


def published(params: Params, origin: Origin) -> dict:
    """params.yaml with all defaults, without where data set and backbone lie on this machine."""
    return params.model_dump(mode="json") | {
        "dataset": params.dataset.model_dump(exclude={"data_dir"}) | {"name": origin.dataset},
        "backbone": {"name": origin.backbone},
    }


def recipe(params: Params, origin: Origin, variant: Variant) -> dict:
    """The part of `published` that made `variant`."""
    everything = published(params, origin)
    return {
        **{key: everything[key] for key in ("seed", "dataset", "backbone", "finetune")},
        "pruning": {variant.pruning: everything["pruning"][variant.pruning]},
        "quantization": {variant.quantization: everything["quantization"][variant.quantization]},
    }


def card(comparison: Comparison, origin: Origin, recipe: Mapping, model: Path, images: int) -> str:
    """The README of the release, as Markdown.

    recipe: the part of params.yaml that made the selected variant. model: its .tflite file. images: number of test
    images.
    """
    selected = comparison.selected
    assert selected, "a variant meets the constraints"
    pixels, output = signature(model)
    background = ImageColor.getrgb(recipe.get("dataset", {}).get("background", "white"))[:3]
    return template("model_card.md.j2").render(
        variant=selected,
        origin=origin,
        choice=choice(comparison),
        places=PLACES,
        caution=caution(selected),
        pixels=pixels,
        output=output,
        recipe=yaml.safe_dump(dict(recipe), sort_keys=False).strip(),
        background="#{:02x}{:02x}{:02x}".format(*background),
        images=images,
        interval=wilson(selected.accuracy, images),
        norm_free=norm_free(recipe),
    )


def norm_free(recipe: Mapping) -> bool:
    """Whether the pruning of `recipe`, or a part of it, took all norms out."""
    entries = recipe.get("pruning", {}).values()
    parts = [part for entry in entries for part in entry.get("parts", [entry])]
    return any(part.get("method") == "norm_free" and part["norms"] == "all" for part in parts)


def write(directory: Path, model: Path, labels: tuple[str, ...], card: str) -> None:
    """Make `directory` hold all that one needs to ship `model`, and nothing else."""
    with whole(directory) as temporary:
        temporary.mkdir()
        shutil.copyfile(model, temporary / "model.tflite")
        (temporary / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
        (temporary / "README.md").write_text(card, encoding="utf-8")
