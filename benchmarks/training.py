"""Measure training: a frozen trunk against training everything, and how long training waits for its images.

    python -m benchmarks.training FOLDER

FOLDER holds one folder of images for each class. Models have random weights, which changes no time. Prints images a
second of training everything and of training the head alone on features that are computed once, for bit-tiny at 32 px
and for R50x1 at 128 px, and the share of the time that training R50x1 spends waiting for images yet to be decoded.
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bitlite.bit import network
from bitlite.bit.shapes import BIT_TINY, published
from bitlite.bit.weights import untrained
from bitlite.images import dataset
from bitlite.sources.prepare import prepare
from bitlite.training.batches import Images, ahead, batches
from bitlite.training.inference import predict
from bitlite.training.recipe import Recipe
from bitlite.training.step import training_step
from bitlite.workflow.params import Dataset


def main(folder: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "dataset"
        prepare(Dataset(name=folder), directory)
        for name, shape, side, steps in (("bit-tiny", BIT_TINY, 32, 40), ("R50x1", published("r50x1"), 128, 6)):
            backbone = untrained(name, shape, seed=0)
            model = network.build(backbone.with_head(dataset.labels(directory), (side, side)))
            recipe = Recipe(
                steps=steps, batch_size=32, learning_rate=0.003, resize=side, image_size=side, warmup=0, decays=()
            )
            pixels, labels = dataset.read("train", (side, side), directory)
            everything, _ = measure(model, Images(pixels[:1000], labels[:1000]), recipe)

            network.set_trainable(model, "head")
            trunk, head = network.split(model)
            features = Images(predict(trunk, pixels[:1000]), labels[:1000])
            frozen, _ = measure(head, features, replace(recipe, steps=1000))
            times = frozen / everything
            print(f"{name}, {side} px: {everything:.0f} images/s, head on features {frozen:.0f}: {times:.0f} x")

        network.set_trainable(model, "all")
        recipe = replace(recipe, resize=160, flip=True, steps=8)
        images = Images(*dataset.read("train", (160, 160), directory, cache_mb=1000))
        _, waiting = measure(model, images, recipe)
        print(f"R50x1, 128 px, images decoded as training goes: {waiting:.2%} of the time spent waiting")


def measure(model, images: Images, recipe: Recipe) -> tuple[float, float]:
    """Images a second, and the share of the time that training waits for a batch, without the first two steps."""
    step, _ = training_step(model, recipe)
    coming = ahead(batches(images, recipe, model.output_shape[-1], seed=0))
    for _ in range(2):
        step(*next(coming))
    begin, waited = time.perf_counter(), 0.0
    for _ in range(recipe.steps - 2):
        asked = time.perf_counter()
        batch = next(coming)
        waited += time.perf_counter() - asked
        step(*batch)
    seconds = time.perf_counter() - begin
    return (recipe.steps - 2) * recipe.batch_size / seconds, waited / seconds


if __name__ == "__main__":
    main(*sys.argv[1:])
