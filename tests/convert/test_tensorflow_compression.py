"""Models of tensorflow/compression: made, imported, compared.

They are made of the same layers as the originals, which compute what is expected.
"""

import pytest
import tensorflow as tf
import tensorflow_compression as tfc
from tensorflow_compression.python.distributions import helpers

import convert
from common.errors import UserError
from tests.helpers.convert.models import agree
from tests.helpers.convert.tensorflow_models import (
    M,
    N,
    bls_analysis,
    bls_synthesis,
    mbt_analysis,
    mbt_synthesis,
    randomised,
    round_trip,
    signal,
    widen,
)


@pytest.fixture(scope="module")
def image(image):
    """Float32 [1, 64, 128, 3]."""
    return tf.constant(image[None])


@pytest.fixture(scope="module", autouse=True)
def tails_in_a_graph():
    """Eagerly, the hundreds of steps by which an entropy model finds quantiles take ten seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(helpers, "estimate_tails",
                      tf.function(helpers.estimate_tails, autograph=False))
        yield


def make_tfc(folder, name):
    """A SavedModel with what the training of bls2017 or bmshj2018 saves; its parts."""
    tf.keras.utils.set_random_seed(0)
    model = tf.Module()
    model.analysis_transform = bls_analysis() if name == "bls2017" else mbt_analysis()
    model.synthesis_transform = bls_synthesis() if name == "bls2017" else mbt_synthesis()
    model.synthesis_transform(model.analysis_transform(tf.zeros([1, 64, 64, 3])))
    if name == "bls2017":
        model.prior = tfc.NoisyDeepFactorized(batch_shape=(N,))
        density = model.prior
    else:
        model.hyper_analysis_transform = tf.keras.Sequential([
            signal(N, 3, activation=tf.nn.relu), signal(N, 5, 2, activation=tf.nn.relu),
            signal(N, 5, 2, use_bias=False)])
        model.hyper_synthesis_transform = tf.keras.Sequential([
            signal(N, 5, up=2, activation=tf.nn.relu), signal(N, 5, up=2, activation=tf.nn.relu),
            tfc.SignalConv2D(M, (3, 3), corr=False, strides_up=1, padding="same_zeros",
                             use_bias=True)])
        model.hyper_synthesis_transform(model.hyper_analysis_transform(tf.zeros([1, 4, 4, M])))
        model.hyperprior = density = tfc.NoisyDeepFactorized(batch_shape=(N,))
    randomised(model)
    widen(model.analysis_transform, model.analysis_transform.layers[-1])
    coder = tfc.ContinuousBatchedEntropyModel(density, coding_rank=3, compression=True)
    if name == "bls2017":
        model.entropy_model = coder
    else:
        model.side_entropy_model = coder
    tf.saved_model.save(model, str(folder))
    return model


@pytest.mark.parametrize("name", ["bls2017", "bmshj2018"])
def test_tensorflow_compression(name, tmp_path, image):
    original = make_tfc(tmp_path / "saved", name)
    imported = convert.read(tmp_path / "saved")
    assert imported.name == f"tensorflow/compression's {name}" and imported.rd_lambda is None
    model = imported.build()
    y = original.analysis_transform(image)
    agree(model.infer(image)["y"], y)
    agree(model.to_image(tf.round(y)), original.synthesis_transform(tf.round(y)))
    if name == "bls2017":
        coder, latent, offset = original.entropy_model, y, model.prior.offset
    else:
        coder, offset = original.side_entropy_model, model.z_prior.offset
        latent = original.hyper_analysis_transform(tf.abs(y))
        agree(model.infer(image)["z"], latent)
        index = original.hyper_synthesis_transform(tf.round(latent))
        found = model.y_prior.table.index(model.hyper_synthesis(tf.round(latent)))
        agree(found, tf.clip_by_value(index, 0, 63), 1e-4)
    rounded = tf.round(latent - offset) + offset
    agree(rounded, coder.quantize(latent), 1e-4)
    round_trip(tmp_path / "saved", image)


def test_ms2020_is_refused_by_name(tmp_path):
    model = tf.Module()
    for name in "analysis_transform", "synthesis_transform", "cc_mean_transforms":
        setattr(model, name, tf.Module())
        getattr(model, name).x = tf.Variable(1.0)
    tf.saved_model.save(model, str(tmp_path / "saved"))
    with pytest.raises(UserError, match="ms2020"):
        convert.read(tmp_path / "saved")
