import numpy as np
import pytest
import tensorflow as tf

from common import optimizers, schedules
from common.errors import UserError


def losses(optimizer, steps):
    """Losses of a matrix W under f(W) = tr(W' A W B) / 2, whose curvature is A (x) B."""
    rng = np.random.default_rng(0)

    def curvature(size):
        basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
        return tf.constant(basis * np.logspace(-3, 0, size) @ basis.T, tf.float32)

    a, b = curvature(8), curvature(12)
    weight = tf.Variable(tf.constant(rng.normal(size=(8, 12)), tf.float32))
    optimizer.build([weight])

    @tf.function
    def run():
        history = tf.TensorArray(tf.float32, steps)
        for step in tf.range(steps):
            gradient = a @ weight @ b
            history = history.write(step, tf.reduce_sum(weight * gradient) / 2)
            optimizer.apply_gradients([(gradient, weight)])
        return history.stack()

    return run().numpy()


def train(optimizer, variables, gradients):
    for step in gradients:
        optimizer.apply_gradients(zip([tf.constant(g) for g in step], variables))


def setup(seed=0, steps=25):
    """Variables of all ranks, and gradients for `steps` steps."""
    rng = np.random.default_rng(seed)
    shapes = [(), (5,), (4, 6), (3, 3, 2, 4)]
    variables = [tf.Variable(rng.normal(size=shape).astype(np.float32)) for shape in shapes]
    gradients = [[rng.normal(size=shape).astype(np.float32) for shape in shapes]
                 for _ in range(steps)]
    return variables, gradients


def test_soap_needs_fewer_steps_than_the_best_adam():
    steps = 400

    def steps_needed(optimizer):
        history = losses(optimizer, steps)
        reached = history < 1e-3 * history[0]
        return int(np.argmax(reached)) if reached.any() else steps

    rates = (3e-3, 1e-2, 3e-2, 1e-1)
    adam = min(steps_needed(tf.keras.optimizers.Adam(rate)) for rate in rates)
    soap = steps_needed(optimizers.SOAP(3e-2))
    assert soap < 0.7 * adam


def test_first_step_only_initialises():
    variables, gradients = setup(steps=2)
    before = [variable.numpy() for variable in variables]
    optimizer = optimizers.SOAP(0.1)
    train(optimizer, variables, gradients[:1])
    for variable, value in zip(variables, before):
        np.testing.assert_array_equal(variable, value)
    train(optimizer, variables, gradients[1:])
    for variable, value in zip(variables, before):
        assert np.all(variable.numpy() != value)


def test_vectors_follow_adam():
    variables, gradients = setup()
    optimizer = optimizers.SOAP(0.1, beta_1=0.9, beta_2=0.99, epsilon=1e-3)
    value, m, v = variables[1].numpy().astype(np.float64), 0, 0
    for t, step in enumerate(gradients, 1):
        g = step[1]
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        if t > 1:
            # Corrected at once, as Keras does: epsilon is added to the uncorrected root.
            value -= 0.1 * np.sqrt(1 - 0.99**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-3)
        train(optimizer, variables[1:2], [step[1:2]])
        np.testing.assert_allclose(variables[1], value, rtol=1e-4, atol=1e-5)


def test_long_axes_are_left_to_adam():
    rng = np.random.default_rng(0)
    initial = rng.normal(size=(4, 6)).astype(np.float32)
    gradients = rng.normal(size=(20, 4, 6)).astype(np.float32)
    matrix, vector = tf.Variable(initial), tf.Variable(initial.ravel())
    train(optimizers.SOAP(0.1, max_size=3), [matrix], [[g] for g in gradients])
    train(optimizers.SOAP(0.1), [vector], [[g.ravel()] for g in gradients])
    np.testing.assert_allclose(matrix.numpy().ravel(), vector, rtol=1e-5, atol=1e-6)
    rotated = tf.Variable(initial)
    train(optimizers.SOAP(0.1), [rotated], [[g] for g in gradients])
    assert np.max(np.abs(rotated - matrix)) > 0.05


def test_rotations_may_be_rough():
    # What is kept, and Adam for what is not rotated, are in float32.
    (*_, kernel), gradients = setup()
    before = kernel.numpy()
    steps = {}
    for precision in ("float32", "bfloat16"):
        variables, _ = setup()
        optimizer = optimizers.build(dict(cls="SOAP"), 0.1, precision)
        train(optimizer, variables, gradients)
        assert {v.dtype for v in optimizer.variables} == {tf.float32, tf.int64}
        steps[precision] = [v.numpy() for v in variables]
    for exact, rough in zip(steps["float32"][:2], steps["bfloat16"][:2]):
        np.testing.assert_array_equal(exact, rough)
    exact, rough = (np.ravel(steps[precision][3] - before) for precision in steps)
    assert np.any(exact != rough)
    assert np.linalg.norm(exact - rough) < 0.02 * np.linalg.norm(exact)


def test_rows_of_vectors_are_left_to_adam():
    # The last column has no gradient. Rotated, it would be moved all the same.
    gradients = np.random.default_rng(0).normal(size=(20, 1, 2, 6)).astype(np.float32)
    gradients[..., -1] = 0
    rows, vector = tf.Variable(tf.zeros((2, 6))), tf.Variable(tf.zeros(12))
    train(optimizers.SOAP(0.1), [rows], gradients)
    train(optimizers.SOAP(0.1), [vector], gradients.reshape(20, 1, 12))
    np.testing.assert_allclose(rows.numpy().ravel(), vector, rtol=1e-5, atol=1e-6)
    assert np.all(rows[:, -1] == 0) and np.all(rows[:, :-1] != 0)


def test_steps_turn_with_the_gradients():
    # In the eigenbasis, a rotation of the problem is a rotation of the steps; Adam's is not.
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(5, 5)))[0] for _ in range(2))
    gradients = rng.normal(size=(20, 5, 5)) * np.logspace(0, 1, 5)[:, None]

    def moved(optimizer, gradients):
        variable = tf.Variable(tf.zeros((5, 5)))
        train(optimizer, [variable], [[g.astype(np.float32)] for g in gradients])
        return variable.numpy()

    turned = left @ gradients @ right
    plain = moved(optimizers.SOAP(0.1), gradients)
    np.testing.assert_allclose(left @ plain @ right, moved(optimizers.SOAP(0.1), turned), atol=1e-2)
    adam = moved(tf.keras.optimizers.Adam(0.1), gradients)
    other = moved(tf.keras.optimizers.Adam(0.1), turned)
    assert np.max(np.abs(left @ adam @ right - other)) > 0.2


def test_no_step_is_longer_than_the_learning_rate():
    # Rows and columns that had gradients of very different sizes, and then have others.
    rng = np.random.default_rng(0)
    variable, optimizer, longest = tf.Variable(tf.zeros((8, 8))), optimizers.SOAP(0.1), 0.0
    for step in range(200):
        if step % 50 == 0:
            rows, columns = (rng.permutation(np.logspace(0, -5, 8)) for _ in range(2))
        gradient = rng.normal(size=(8, 8)) * rows[:, None] * columns
        before = variable.numpy()
        train(optimizer, [variable], [[gradient.astype(np.float32)]])
        if step >= 50:  # until then, bias is corrected
            longest = max(longest, np.linalg.norm(variable - before))
    # Each of 64 entries is at most 0.1, in the rotated basis.
    assert 0.1 < longest <= 0.1 * 64**0.5 * (1 - 0.95**50)**-0.5


@pytest.mark.parametrize("gram_interval, update_interval", [(1, 3), (1, 100), (2, 3), (3, 4)])
def test_matrices_follow_the_algorithm(gram_interval, update_interval):
    # Algorithm 3 of Vyas et al. 2024, in float64; its first moment is not rotated. The second is
    # kept above the first one's square.
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(12, 4, 5, 5)).mean(axis=1) * np.logspace(0, 1, 5)
    variable = tf.Variable(tf.zeros((5, 5)))
    train(optimizers.SOAP(0.1, gram_interval=gram_interval, update_interval=update_interval),
          [variable], [[g.astype(np.float32)] for g in gradients])

    value, left, right, m, v = (np.zeros((5, 5)) for _ in range(5))
    for t, g in enumerate(gradients, 1):
        if (t - 1) % gram_interval == 0:
            decay = 0.95**gram_interval
            left, right = (decay * gram + (1 - decay) * new
                           for gram, new in ((left, g @ g.T), (right, g.T @ g)))
        if t == 1:
            left_basis, right_basis = (np.linalg.eigh(x)[1][:, ::-1] for x in (left, right))
        elif t % update_interval == 0:
            left_basis = np.linalg.qr(left @ left_basis)[0]
            right_basis = np.linalg.qr(right @ right_basis)[0]
            v = np.maximum(v, (left_basis.T @ m @ right_basis)**2)
        m = 0.95 * m + 0.05 * g
        v = 0.95 * v + 0.05 * (left_basis.T @ g @ right_basis) ** 2
        rotated = left_basis.T @ m @ right_basis / np.sqrt(v)
        if t > 1:
            rate = 0.1 * np.sqrt(1 - 0.95**t) / (1 - 0.95**t)
            value -= rate * left_basis @ rotated @ right_basis.T
    np.testing.assert_allclose(variable, value, atol=1e-3)


def test_state_survives_a_checkpoint(tmp_path):
    variables, gradients = setup()
    optimizer = optimizers.SOAP(0.1)
    train(optimizer, variables, gradients[:13])
    path = tf.train.Checkpoint(variables=variables, optimizer=optimizer).save(str(tmp_path / "c"))
    train(optimizer, variables, gradients[13:])

    other, _ = setup(seed=1)
    restored = optimizers.SOAP(0.1)
    restored.build(other)
    status = tf.train.Checkpoint(variables=other, optimizer=restored).restore(path)
    status.assert_consumed()
    assert int(restored.iterations) == 13
    train(restored, other, gradients[13:])
    for a, b in zip(variables, other):
        np.testing.assert_array_equal(a, b)


def test_gradients_are_clipped_by_their_global_norm():
    variables, gradients = setup()
    for i, step in enumerate(gradients):  # norms from far below the limit to far above it
        gradients[i] = [g * np.float32(0.01 * 1.5**i) for g in step]
    norms = [np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in step)) for step in gradients]
    assert min(norms) < 1 < max(norms)
    by_hand = [[(g / max(1.0, norm)).astype(np.float32) for g in step]
               for step, norm in zip(gradients, norms)]
    results = []
    for given, options in ((gradients, dict(global_clipnorm=1.0)), (by_hand, {}), (gradients, {})):
        variables, _ = setup()
        train(optimizers.build(dict(cls="SOAP", **options), 0.01), variables, given)
        results.append(np.concatenate([variable.numpy().ravel() for variable in variables]))
    clipped, expected, unclipped = results
    np.testing.assert_allclose(clipped, expected, atol=1e-4)
    assert np.max(np.abs(clipped - unclipped)) > 0.01


@pytest.mark.parametrize("options", [
    dict(), dict(beta_1=0.5, beta_2=0.7, epsilon=0.1)], ids=["default", "other"])
def test_adam_is_that_of_keras(options):
    # With an epsilon of 0.1 it shows where it is added: to the uncorrected root.
    variables, gradients = setup()
    rate = schedules.WarmupDrop(0.05, len(gradients), warmup=0.2, drop_at=0.6)
    values = {str(i): tf.constant(variable) for i, variable in enumerate(variables)}
    moments = [tf.nest.map_structure(tf.zeros_like, values) for _ in range(2)]
    keras = tf.keras.optimizers.Adam(rate, **{"epsilon": 1e-8, **options})
    start = [variable.numpy() for variable in variables]
    for step, given in enumerate(gradients):
        values, moments = optimizers.adam(
            values, {str(i): tf.constant(g) for i, g in enumerate(given)}, moments,
            tf.constant(step), rate(step), **options)
        train(keras, variables, [given])
        for value, variable in zip(values.values(), variables):
            np.testing.assert_allclose(value, variable, rtol=1e-5, atol=1e-6)
    for value, before in zip(values.values(), start):
        assert np.all(np.abs(value - before) > 1e-4)


def test_adam_leaves_what_it_is_given():
    given, zeros = {"y": tf.ones([2, 3])}, {"y": tf.zeros([2, 3])}
    moments = [zeros, zeros]
    values, new = optimizers.adam(given, {"y": tf.fill([2, 3], 4.0)}, moments, 0, 0.25)
    np.testing.assert_allclose(values["y"], 0.75, rtol=1e-5)  # the first step is the sign
    np.testing.assert_allclose([new[0]["y"], new[1]["y"]],
                               [np.full([2, 3], 0.4), np.full([2, 3], 0.016)], rtol=1e-4)
    assert moments == [zeros, zeros] and np.all(given["y"] == 1)
    still, _ = optimizers.adam(given, zeros, moments, 0, 0.25)
    np.testing.assert_array_equal(still["y"], given["y"])


def test_config_rebuilds_the_optimizer():
    optimizer = optimizers.SOAP(
        schedules.WarmupCosine(0.01, 100), beta_1=0.8, beta_2=0.7, shampoo_beta=0.6,
        gram_interval=3, update_interval=3, max_size=20, epsilon=1e-4, precision="bfloat16",
        global_clipnorm=2.0)
    config = optimizer.get_config()
    again = optimizers.SOAP.from_config(
        dict(config), custom_objects={"WarmupCosine": schedules.WarmupCosine})
    assert again.get_config() == config
    results = []
    for each in (optimizer, again):
        variables, gradients = setup()
        train(each, variables[3:], [step[3:] for step in gradients])
        results.append(variables[3].numpy())
    np.testing.assert_array_equal(*results)


def test_build_by_name():
    soap = optimizers.build(dict(cls="SOAP", learning_rate=1.0, beta_1=0.5), 0.25)
    assert isinstance(soap, optimizers.SOAP)
    assert (float(soap.learning_rate), soap.beta_1) == (0.25, 0.5)
    adam = optimizers.build(
        dict(cls="Adam", learning_rate=1.0, global_clipnorm=1.0), schedules.WarmupDrop(0.5, 10))
    assert isinstance(adam, tf.keras.optimizers.Adam)
    assert (float(adam.learning_rate), adam.global_clipnorm) == (0.5, 1.0)


@pytest.mark.parametrize("config, message", [
    (dict(cls="Adan"), "'Adan'"),
    (dict(cls="schedules"), "'schedules'"),
    (dict(), "None"),
    (dict(cls="Adam", betas=(0.9, 0.99)), "Adam.*betas"),
    (dict(cls="SOAP", momentum=0.9), "SOAP.*momentum"),
    (dict(cls="SOAP", precision="bfloat17"), "SOAP.*bfloat17"),
])
def test_mistakes_in_the_config_are_user_errors(config, message):
    with pytest.raises(UserError, match=message):
        optimizers.build(config, 1e-3)
