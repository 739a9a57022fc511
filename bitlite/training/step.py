"""One training step: the loss, its gradients and their use, on one device or on many."""

import math
import os
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from bitlite.bit import network
from bitlite.training import limits
from bitlite.training.hyperrule import MOMENTUM
from bitlite.training.recipe import Recipe
from bitlite.workflow.ending import ended_by_ctrl_c
from bitlite.workflow.errors import InputError, one_line, tell
from bitlite.workflow.params import Auto


def strategy(devices: str, threads: Auto | int) -> tf.distribute.Strategy:
    """The strategy under which to build a model that trains on `one` device, `all` GPUs of the host, or `all_hosts`.

    From here on TensorFlow computes each operation on so many `threads`, whatever the number of cores: how it splits
    sums among them decides their last digits. auto: as many as there are cores. This must come before any other use of
    TensorFlow, or RuntimeError is raised; hosts find each other by TF_CONFIG only then.
    """
    # How many operations it computes at once (inter_op) changes no bytes, and few would keep many GPUs waiting.
    tf.config.threading.set_intra_op_parallelism_threads(0 if threads == "auto" else threads)
    if devices == "all":
        return tf.distribute.MirroredStrategy()
    if devices == "all_hosts":
        if "TF_CONFIG" in os.environ:
            tell("waiting for the hosts that TF_CONFIG names")
        try:
            with ended_by_ctrl_c():  # it may wait for an hour
                return tf.distribute.MultiWorkerMirroredStrategy()
        except tf.errors.UnknownError as error:
            raise InputError(f"TF_CONFIG: {one_line(error)}; does another run use the port of this host?") from error
    return tf.distribute.get_strategy()


def training_step(
    model: tf.keras.Model, recipe: Recipe, teacher: tf.keras.Model | None = None
) -> tuple[Callable[[np.ndarray, np.ndarray, float], np.ndarray], tf.keras.optimizers.Optimizer]:
    """A function of a batch and the weight of hints that updates `model`; and its optimizer.

    The function gives the batch's [mean loss, accuracy]. `teacher` is needed if the recipe `has_teacher`. Raises
    WrongValue if the devices or the recipe's `batch_split` don't divide its `batch_size`.
    """
    devices = model.distribute_strategy
    images = limits.images_a_device(recipe, devices.num_replicas_in_sync)
    split = _fitting_parts(model, images) if recipe.batch_split == "auto" else recipe.batch_split
    with devices.scope():
        optimizer = _optimizer(recipe)
        # Variables that the first step made would have it traced twice.
        optimizer.build(model.trainable_variables)

    student = network.with_units(model)
    taught = network.with_units(teacher) if teacher else None

    def losses_of(pixels, targets, hints, units, logits):
        losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
        if taught is None:
            return losses
        # On the same crops and mixtures as the student: "consistent", as Beyer et al. (arXiv:2106.05237) have it.
        their_units, their_logits = taught(pixels, training=False)
        followed = distillation_losses(their_logits, logits, recipe.temperature)
        losses = (1 - recipe.distillation) * losses + recipe.distillation * followed
        return losses + hints * hint_losses(their_units, units) if recipe.hints else losses

    def gradients_of(pixels, targets, hints):
        with tf.GradientTape() as tape:
            units, logits = student(pixels, training=True)
            logits = tf.cast(logits, tf.float32)  # [batch, classes]
            # Divided by the whole batch, so that its parts add up, whatever splits it.
            loss = tf.reduce_sum(losses_of(pixels, targets, hints, units, logits)) / recipe.batch_size
        hits = tf.equal(tf.argmax(logits, axis=1), tf.argmax(targets, axis=1))
        share = tf.reduce_sum(tf.cast(hits, tf.float32)) / recipe.batch_size
        return tape.gradient(loss, model.trainable_variables), tf.stack([loss, share])

    def on_device(pixels, targets, hints):
        if split == 1:
            gradients, means = gradients_of(pixels, targets, hints)
        else:
            parts = [tf.reshape(x, [split, -1, *x.shape[1:]]) for x in (pixels, targets)]
            zeros = [tf.zeros(v.shape) for v in model.trainable_variables], tf.zeros(2)
            gradients, means = tf.foldl(
                lambda sums, part: tf.nest.map_structure(tf.add, sums, gradients_of(part[0], part[1], hints)),
                parts, zeros, parallel_iterations=1,
            )  # fmt: skip
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return means

    @tf.function
    def on_all_devices(pixels, targets, hints):
        return devices.reduce("SUM", devices.run(on_device, (pixels, targets, hints)), axis=None)

    def step(pixels, targets, hints):
        shares = [np.split(x, devices.num_replicas_in_sync) for x in (pixels, targets)]
        return on_all_devices(
            *(
                devices.experimental_distribute_values_from_function(
                    lambda device, share=share: tf.constant(share[device.replica_id_in_sync_group])
                )
                for share in shares
            ),
            tf.constant(hints),
        ).numpy()

    return step, optimizer


def _fitting_parts(model: tf.keras.Model, images: int) -> int:
    """The fewest parts in which a device of this machine can hold a step of `model` on so many images."""
    layers = [layer for layer in model.layers if isinstance(layer, tf.keras.layers.Conv2D)]
    outputs = limits.kept_outputs((math.prod(each.output_shape[1:]), each.trainable) for each in layers)
    gpu = tf.config.list_physical_devices("GPU")
    memory = limits.gpu_memory() if gpu else limits.host_memory()
    return limits.parts(images, outputs, model.count_params(), memory)


def _optimizer(recipe: Recipe) -> tf.keras.optimizers.Optimizer:
    decay = recipe.weight_decay or None
    if recipe.optimizer == "sgd":
        optimizer = tf.keras.optimizers.SGD(momentum=MOMENTUM, weight_decay=decay)
    else:
        optimizer = tf.keras.optimizers.Adam(weight_decay=decay)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


def distillation_losses(teacher: tf.Tensor, student: tf.Tensor, temperature: float) -> tf.Tensor:
    """Cross-entropies [batch] of softened logits [batch, classes], by temperature squared as in arXiv:1503.02531.

    They lie above the Kullback-Leibler divergence by what the student can't change: the entropy of the teacher's.
    """
    targets = tf.nn.softmax(tf.cast(teacher, tf.float32) / temperature)
    losses = tf.nn.softmax_cross_entropy_with_logits(tf.stop_gradient(targets), student / temperature)
    return temperature**2 * losses


def hint_losses(teacher: Mapping[str, tf.Tensor], student: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """The squared errors [batch] of the student's units by the squares of the teacher's, on average over its units.

    Both are outputs [batch, height, width, channels] by the unit's path: hints, as in FitNets (arXiv:1412.6550).
    """
    errors = []
    for path, outputs in student.items():
        followed = tf.stop_gradient(tf.cast(teacher[path], tf.float32))
        differences = tf.reduce_sum((tf.cast(outputs, tf.float32) - followed) ** 2, axis=[1, 2, 3])
        errors.append(tf.math.divide_no_nan(differences, tf.reduce_sum(followed**2, axis=[1, 2, 3])))
    return tf.add_n(errors) / len(errors)
