"""Importance of channels, by GroupNorm group."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import tensorflow as tf

from bitlite.bit import network
from bitlite.bit.weights import Bit
from bitlite.pruning.budget import Importance, Kept
from bitlite.training.batches import Batch, batches
from bitlite.training.inference import inference, mean_loss
from bitlite.training.loop import Run

# Training images that importance is measured on: as many as these multiply-adds let through, within these bounds.
SAMPLE_MACS, SAMPLE = 2e11, (32, 512)
# Of them at once: gradients by all activations of a large model take memory.
SAMPLE_BATCH = 8

# Gives the batches that importance is measured on, the same every time.
Sample = Callable[[], Iterable[Batch]]


def sampled(run: Run, bit: Bit) -> Iterator[Batch]:
    """Batches of the run's training images, augmented but without mixup, that importance for `bit` is measured on."""
    fewest, most = SAMPLE
    count = int(min(max(SAMPLE_MACS // bit.macs, fewest), most))
    recipe = replace(run.recipe, steps=count // SAMPLE_BATCH, batch_size=SAMPLE_BATCH, mixup=0.0)
    return batches(run.train, recipe, len(bit.architecture.labels), run.seed)


def by_norm(bit: Bit, scope: str) -> Importance:
    """Importance by the weights at the sites of this scope, as shares: those of a site's groups add up to 1.

    A channel counts as much as it can add to the convolutions that read it: its gamma times the norm of the weights
    that read it, squared.
    """
    found = {}
    for site in bit.sites(scope):
        energy = np.zeros(bit.weights[f"{site.norm}/gamma"].size)  # [channels]
        for norm, readers in site.readers.items():
            gamma = bit.weights[f"{norm}/gamma"].astype(np.float64)  # [channels]
            for path in readers:
                kernel = bit.weights[f"{path}/kernel"].astype(np.float64)  # [height, width, channels, outputs]
                energy += gamma**2 * np.sum(kernel**2, axis=(0, 1, 3))
        by_group = energy.reshape(bit.groups(site.norm), -1).sum(axis=1)  # [groups]
        found[site.norm] = by_group / by_group.sum()
    return found


def by_taylor(bit: Bit, batches: Iterable[Batch], scope: str) -> Importance:
    """Importance by the data at the sites of this scope.

    It is the mean, over all images, of the squared change of an image's loss without the group.

    To first order, the loss changes by the group's outputs times the loss's gradients by them (Theis et al.,
    arXiv:1801.05787; Molchanov et al., arXiv:1906.10771).
    """
    model = network.build(bit)
    sites = bit.sites(scope)
    norms = {norm: model.get_layer(norm).output for site in sites for norm in site.readers}
    watched = tf.keras.Model(model.input, (norms, model.output))

    @tf.function
    def changes(pixels, targets):
        with tf.GradientTape() as tape:
            outputs, logits = watched(pixels, training=False)  # a norm's: [batch, height, width, channels]
            loss = tf.reduce_sum(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
        gradients = tape.gradient(loss, outputs)  # of the sum, so each image's own
        return {norm: tf.reduce_sum(outputs[norm] * gradients[norm], axis=[1, 2]) for norm in outputs}

    squares: dict[str, list[np.ndarray]] = {site.norm: [] for site in sites}
    for pixels, targets in batches:
        found = {norm: change.numpy().astype(np.float64) for norm, change in changes(pixels, targets).items()}
        for site in sites:
            by_channel = sum(found[norm] for norm in site.readers)  # [batch, channels]
            by_group = by_channel.reshape(len(pixels), bit.groups(site.norm), -1).sum(axis=2)  # [batch, groups]
            squares[site.norm].append(by_group**2)
    return {norm: np.mean(np.concatenate(found), axis=0) for norm, found in squares.items()}  # [groups]


def loss_with(bit: Bit, batches: list[Batch]) -> Callable[[Kept], float]:
    """A function of the groups that stay: the mean cross-entropy on `batches` of `bit` with them alone."""
    model = network.build(bit)
    variables = {network.name_of(variable): variable for variable in model.weights}
    forward = inference(model)

    def loss(kept: Kept) -> float:
        for site in (each for each in bit.sites("all") if each.norm in kept):
            # A group whose gammas and betas are 0 gives nothing: as if it were cut out.
            stays = np.isin(np.arange(bit.groups(site.norm)), kept[site.norm])  # [groups]
            for name in (f"{norm}/{weight}" for norm in site.readers for weight in ("gamma", "beta")):
                by_group = bit.weights[name].reshape(len(stays), -1)  # [groups, channels of a group]
                variables[name].assign((by_group * stays[:, None]).ravel())
        return mean_loss(forward, batches)

    return loss
