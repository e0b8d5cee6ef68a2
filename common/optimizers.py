"""Optimisers by name: Keras's own, and SOAP."""

import tensorflow as tf

from common.cli import UserError


class SOAP(tf.keras.optimizers.Optimizer):
    """Adam in the eigenbasis of Shampoo's preconditioners (Vyas et al. 2024, algorithm 3).

    For a kernel G of any rank, each axis keeps the running mean of the Gram matrix of its
    unfolding, G_(i) G_(i)^T. Their eigenvectors rotate the gradient into a basis in which Adam's
    diagonal scaling is nearly a full one. Vectors, scalars and long axes are left to plain Adam.
    Transform coding is ill-conditioned; arXiv 2601.20769 measures what this gains learned codecs.

    Args:
      learning_rate: float or schedule.
      beta_1, beta_2: decay of the first and second moment.
      shampoo_beta: decay of the Gram matrices.
      update_interval: steps between two updates of the eigenbasis, one power iteration each.
      max_size: axes longer than this are not rotated.
      epsilon: added to the root of the second moment.
      **kwargs: as for every Keras optimiser, e.g. `global_clipnorm`, `use_ema`.
    """

    def __init__(self, learning_rate=2e-3, beta_1=0.95, beta_2=0.95, shampoo_beta=0.95,
                 update_interval=10, max_size=512, epsilon=1e-8, name="SOAP", **kwargs):
        kwargs.setdefault("jit_compile", False)  # eigh and qr gain nothing from XLA
        super().__init__(name=name, **kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.shampoo_beta = shampoo_beta
        self.update_interval = update_interval
        self.max_size = max_size
        self.epsilon = epsilon

    def build(self, var_list):
        super().build(var_list)
        if getattr(self, "_moments", None):
            return
        self._moments, self._grams, self._bases = [], [], []
        for variable in var_list:
            self._moments.append([
                self.add_variable_from_reference(variable, name) for name in ("m", "v")])
            sizes = [variable.shape[axis] for axis in self._axes(variable)]
            for matrices, name in ((self._grams, "gram"), (self._bases, "basis")):
                matrices.append([
                    self.add_variable_from_reference(variable, f"{name}_{i}", shape=(n, n))
                    for i, n in enumerate(sizes)])

    def _axes(self, variable) -> list[int]:
        """The axes that are rotated: those of 2 to max_size entries of matrices and kernels."""
        if variable.shape.rank not in (2, 4):
            return []
        return [i for i, n in enumerate(variable.shape) if 1 < n <= self.max_size]

    def update_step(self, gradient, variable):
        i = self._index_dict[self._var_key(variable)]
        m, v = self._moments[i]
        axes, grams, bases = self._axes(variable), self._grams[i], self._bases[i]
        step = self.iterations + 1
        for axis, gram in zip(axes, grams):
            others = [k for k in range(variable.shape.rank) if k != axis]
            gram.assign(self.shampoo_beta * gram + (1 - self.shampoo_beta)
                        * tf.tensordot(gradient, gradient, [others, others]))
        if axes:
            self._update_bases(step, grams, bases)
        m.assign(self.beta_1 * m + (1 - self.beta_1) * gradient)
        rotated = _rotate(gradient, axes, bases)
        v.assign(self.beta_2 * v + (1 - self.beta_2) * tf.square(rotated))
        update = _rotate(m, axes, bases) / (tf.sqrt(v) + self.epsilon)
        update = _rotate(update, axes, bases, inverse=True)
        t = tf.cast(step, variable.dtype)
        correction = tf.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        # The first step only initialises the bases.
        rate = tf.where(step == 1, 0.0, tf.cast(self.learning_rate, variable.dtype) * correction)
        variable.assign_sub(rate * update)

    def _update_bases(self, step, grams, bases):
        def initialize():
            for gram, basis in zip(grams, bases):
                _, vectors = tf.linalg.eigh(gram)
                basis.assign(vectors[:, ::-1])
            return True

        def iterate():
            for gram, basis in zip(grams, bases):
                basis.assign(tf.linalg.qr(tf.matmul(gram, basis))[0])
            return True

        due = step % self.update_interval == 0
        tf.cond(step == 1, initialize, lambda: tf.cond(due, iterate, lambda: False))

    def get_config(self):
        return {
            **super().get_config(),
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "shampoo_beta": self.shampoo_beta,
            "update_interval": self.update_interval,
            "max_size": self.max_size,
            "epsilon": self.epsilon,
        }


def _rotate(x, axes, bases, inverse=False):
    """Multiplies each of `axes` of `x` by its basis (transposed, or not for the inverse)."""
    bases = dict(zip(axes, bases))
    for axis in range(x.shape.rank):
        # Contracting axis 0 appends the result at the end: after all axes, the order is back.
        if axis in bases:
            x = tf.tensordot(x, bases[axis], [[0], [1 if inverse else 0]])
        elif bases:
            x = tf.transpose(x, [*range(1, x.shape.rank), 0])
    return x


def adam(values, gradients, moments, step, learning_rate, beta_1=0.9, beta_2=0.999, epsilon=1e-8):
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


def build(config, learning_rate) -> tf.keras.optimizers.Optimizer:
    """Builds the optimiser that `config` names, e.g. dict(cls="Adam", global_clipnorm=1.0).

    Args:
      config: `cls`, and the arguments of that class.
      learning_rate: float or schedule; the config's own entry was its peak.

    Raises:
      UserError: there is no such optimiser, or it does not take these arguments.
    """
    arguments = {**config, "learning_rate": learning_rate}
    name = arguments.pop("cls", None)
    cls = SOAP if name == "SOAP" else getattr(tf.keras.optimizers, str(name), None)
    if not (isinstance(cls, type) and issubclass(cls, tf.keras.optimizers.Optimizer)):
        raise UserError(f"unknown optimizer '{name}'; use SOAP or a Keras one, e.g. Adam")
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer {name}: {error}") from error
