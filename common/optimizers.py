"""Optimisers by name: Keras's own, and SOAP."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from common import arguments
from common.errors import UserError

# Matrices of fewer rows or columns are vectors to SOAP.
_FEW = 4


class SOAP(tf.keras.optimizers.Optimizer):
    """Adam in the eigenbasis of Shampoo's preconditioners (Vyas et al. 2024, algorithm 3).

    For a matrix G [inputs, outputs] or a kernel [taps, inputs, outputs], whose taps are its rows
    and columns as one axis, each axis keeps the running mean of the Gram matrix of its unfolding,
    G_(i) G_(i)^T. Their eigenvectors rotate the gradient into a basis in which Adam's diagonal
    scaling is nearly a full one. Vectors, scalars, matrices of few rows and long axes are left to
    plain Adam. Transform coding is ill-conditioned; arXiv 2601.20769 measures what this gains
    learned codecs.

    Both moments are kept in the rotated basis. The first, m, is rotated when the basis changes; the
    paper keeps it unrotated and rotates it in each step, which gives the same. The second, v, is
    not rotated, but becomes m^2 where it is less. Between changes of the basis, means of equal
    decay have v >= m^2 by Jensen's inequality, so that no entry of an update exceeds the learning
    rate. Without this, updates in directions that gradients had not had before were hundreds of
    times as large, and in long trainings weights grew to thousands.

    Args:
      learning_rate: float or schedule.
      beta_1, beta_2: decay of the first and second moment.
      shampoo_beta: decay of the Gram matrices, per step.
      gram_interval: steps between two gradients that enter the Gram matrices.
      update_interval: steps between two updates of the eigenbasis, one power iteration each.
      max_size: axes longer than this are not rotated.
      epsilon: added to the root of the second moment.
      precision: of the rotations, "float32" or "bfloat16"; what is kept from step to step is in
        float32.
      **kwargs: as for every Keras optimiser, e.g. `global_clipnorm`.
    """

    # Until it is built. An attribute of the object would be a part of checkpoints.
    _moments: Sequence = ()

    def __init__(self,
                 learning_rate: float | tf.keras.optimizers.schedules.LearningRateSchedule = 2e-3,
                 beta_1: float = 0.95, beta_2: float = 0.95, shampoo_beta: float = 0.95,
                 gram_interval: int = 2, update_interval: int = 10, max_size: int = 512,
                 epsilon: float = 1e-8, precision: str = "float32", name: str = "SOAP",
                 **kwargs: Any):
        kwargs.setdefault("jit_compile", False)  # eigh and qr gain nothing from XLA
        super().__init__(name=name, **kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.shampoo_beta = shampoo_beta
        self.gram_interval = gram_interval
        self.update_interval = update_interval
        self.max_size = max_size
        self.epsilon = epsilon
        self.precision = tf.as_dtype(precision).name  # refuses other names

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        super().build(var_list)
        if self._moments:
            return
        self._moments, self._grams, self._bases = [], [], []
        for variable in var_list:
            self._moments.append([
                self.add_variable_from_reference(variable, name) for name in ("m", "v")])
            for matrices, name in ((self._grams, "gram"), (self._bases, "basis")):
                matrices.append({
                    axis: self.add_variable_from_reference(
                        variable, f"{name}_{axis}", shape=(size, size))
                    for axis, size in self._axes(variable).items()})

    def _axes(self, variable) -> dict[str, int]:
        """The axes that are rotated and their sizes, 2 to max_size."""
        # A few vectors, as scales by level, have no eigenbasis to speak of; rotated, what has no
        # gradient, as the scale of a channel that is never used, would be moved all the same.
        if variable.shape.rank == 2 and min(variable.shape) < _FEW:
            return {}
        if variable.shape.rank not in (2, 4):
            return {}
        *rows_and_columns, inputs, outputs = variable.shape
        sizes = {"taps": math.prod(rows_and_columns), "inputs": inputs, "outputs": outputs}
        return {axis: size for axis, size in sizes.items() if 1 < size <= self.max_size}

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        i = self._index_dict[self._var_key(variable)]
        m, v = self._moments[i]
        grams, bases = self._grams[i], self._bases[i]
        step = self.iterations + 1
        if bases:
            self._update_grams(step, gradient, grams)
            self._update_bases(step, m, v, grams, bases)
        rough = {axis: tf.cast(basis, self.precision) for axis, basis in bases.items()}
        rotated = _rotate(gradient, rough)
        m.assign(self.beta_1 * m + (1 - self.beta_1) * rotated)
        v.assign(self.beta_2 * v + (1 - self.beta_2) * tf.square(rotated))
        update = _rotate(m / (tf.sqrt(v) + self.epsilon), rough, inverse=True)
        t = tf.cast(step, variable.dtype)
        correction = tf.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        # The first step only initialises the bases.
        rate = tf.where(step == 1, 0.0, tf.cast(self.learning_rate, variable.dtype) * correction)
        variable.assign_sub(rate * update)

    def _update_grams(self, step, gradient, grams):
        decay = self.shampoo_beta**self.gram_interval

        def update():
            for axis, gram in grams.items():
                gram.assign(decay * gram + (1 - decay) * _gram(gradient, axis))
            return True

        due = (step - 1) % self.gram_interval == 0
        tf.cond(due, update, lambda: False)

    def _update_bases(self, step, m, v, grams, bases):
        def initialize():
            for gram, basis in zip(grams.values(), bases.values()):
                _, vectors = tf.linalg.eigh(gram)
                basis.assign(vectors[:, ::-1])
            return True

        def iterate():
            unrotated = _rotate(m, bases, inverse=True)
            for gram, basis in zip(grams.values(), bases.values()):
                basis.assign(tf.linalg.qr(tf.matmul(gram, basis))[0])
            m.assign(_rotate(unrotated, bases))
            v.assign(tf.maximum(v, tf.square(m)))
            return True

        due = step % self.update_interval == 0
        tf.cond(step == 1, initialize, lambda: tf.cond(due, iterate, lambda: False))

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "shampoo_beta": self.shampoo_beta,
            "gram_interval": self.gram_interval,
            "update_interval": self.update_interval,
            "max_size": self.max_size,
            "epsilon": self.epsilon,
            "precision": self.precision,
        }


# By plain products of matrices: to move axes of a kernel around takes as long as to rotate it.


def _taps(x):
    """[rows, columns, inputs, outputs] or [inputs, outputs] -> [taps, inputs, outputs]."""
    return tf.reshape(x, [-1, *x.shape[-2:]])


def _gram(gradient, axis):
    """G_(i) G_(i)^T of the unfolding along one axis."""
    x = _taps(gradient)
    if axis == "outputs":
        columns = tf.reshape(x, [-1, x.shape[-1]])
        return tf.matmul(columns, columns, transpose_a=True)
    x = x if axis == "taps" else tf.transpose(x, [1, 0, 2])
    rows = tf.reshape(x, [x.shape[0], -1])
    return tf.matmul(rows, rows, transpose_b=True)


def _rotate(gradient, bases, inverse=False):
    """Multiplies each axis by its basis, transposed or, inversely, as it is; in their dtype."""
    x = _taps(gradient)
    for basis in bases.values():
        x = tf.cast(x, basis.dtype)
    shape = x.shape
    if "taps" in bases:
        x = tf.matmul(bases["taps"], tf.reshape(x, [shape[0], -1]), transpose_a=not inverse)
    if "inputs" in bases:
        x = tf.matmul(bases["inputs"], tf.reshape(x, shape), transpose_a=not inverse)
    if "outputs" in bases:
        x = tf.matmul(tf.reshape(x, [-1, shape[-1]]), bases["outputs"], transpose_b=inverse)
    return tf.cast(tf.reshape(x, gradient.shape), gradient.dtype)


def adam(values: Any, gradients: Any, moments: Sequence, step: int | tf.Tensor,
         learning_rate: float | tf.Tensor, beta_1: float = 0.9, beta_2: float = 0.999,
         epsilon: float = 1e-8) -> tuple[Any, list]:
    """A step of Adam (Kingma & Ba 2015, in the order at the end of section 2) on any tensors.

    Keras's Adam, which does the same, keeps its moments in variables, whose shapes are fixed.

    Args:
      values: nested structure of tensors.
      gradients: by each of them.
      moments: two such structures, zeros at first.
      step: number of steps before this one.
      learning_rate: scalar.

    Returns:
      The new values and moments.
    """
    t = tf.cast(step, tf.float32) + 1
    rate = learning_rate * tf.sqrt(1 - beta_2**t) / (1 - beta_1**t)
    m, v = moments
    m = tf.nest.map_structure(lambda m, g: beta_1 * m + (1 - beta_1) * g, m, gradients)
    v = tf.nest.map_structure(lambda v, g: beta_2 * v + (1 - beta_2) * g**2, v, gradients)
    values = tf.nest.map_structure(
        lambda x, m, v: x - rate * m / (tf.sqrt(v) + epsilon), values, m, v)
    return values, [m, v]


# By the names that configs give them.
KNOWN = {"SOAP": SOAP, **{
    name: cls for name, cls in vars(tf.keras.optimizers).items()
    if isinstance(cls, type) and issubclass(cls, tf.keras.optimizers.Optimizer)
    and cls is not tf.keras.optimizers.Optimizer}}


def build(config: Mapping,
          learning_rate: float | tf.keras.optimizers.schedules.LearningRateSchedule,
          precision: str = "float32") -> tf.keras.optimizers.Optimizer:
    """Builds the optimiser that `config` names, e.g. dict(cls="Adam", global_clipnorm=1.0).

    Args:
      config: `cls`, and the arguments of that class.
      learning_rate: float or schedule; the config's own entry was its peak.
      precision: that of the training (common/precision.py), which SOAP takes for its rotations.

    Raises:
      UserError: there is no such optimiser, or it does not take these arguments.
    """
    if config.get("use_ema"):
        raise UserError("use_ema of an optimizer is not what is validated and exported here; use "
                        "train.ema_decay")
    own = {"precision": precision} if config.get("cls") == "SOAP" else {}
    return arguments.build("optimizer", KNOWN, {**own, **config, "learning_rate": learning_rate})
