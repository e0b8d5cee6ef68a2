"""Weights in files: names of the architecture, arrays bit for bit."""

import functools
import re

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

import factorized.models
import hific.mixture
import hific.models
import joint_ar.models
import mshyper.bits_back
import mshyper.models
from common import export, weights
from common.errors import UserError
from common.transforms import composites, layers
from tests.helpers.narrow_transforms import NARROW, in_bfloat16, narrow, trained

# What a name may have besides numbers. With another word, files of today cannot be read any more.
WORDS = {"activation", "trunk", "mask", "theta", "phi", "g", "project", "body", "depthwise",
         "kernel", "bias", "depthwise_kernel", "gamma", "beta", "moving_mean", "moving_variance",
         "reparam_gamma", "reparam_beta"}

IMAGE = {"analysis": {"cls": "MBT2018Analysis", "channels": [2, 2, 2, 4]},
         "synthesis": {"cls": "MBT2018Synthesis", "channels": [2, 2, 2, 3]}}
HYPER = {**IMAGE, "hyper_analysis": {"cls": "HyperAnalysis", "channels": [2, 2, 4]},
         "hyper_synthesis": {"cls": "HyperSynthesis", "channels": [2, 2, 8]}}
HYPER_PARTS = {*HYPER, "z_prior"}
CODECS = {
    "factorized": (factorized.models.FactorizedPrior, IMAGE, {*IMAGE, "prior"}),
    "mshyper": (mshyper.models.MeanScaleHyperprior, HYPER, HYPER_PARTS),
    "bits_back": (mshyper.bits_back.BitsBackHyperprior, HYPER, HYPER_PARTS),
    "joint_ar": (joint_ar.models.JointAutoregressive, {
        **HYPER, "context": {"cls": "GatedContext", "latents": 4, "width": 2, "blocks": 1,
                             "channels": 8},
        "entropy_parameters": {"cls": "EntropyParameters", "channels": [6, 4, 8]},
    }, {*HYPER_PARTS, "context", "entropy_parameters"}),
    "hific": (hific.models.HiFiC, {
        **HYPER, "synthesis": {"cls": "HiFiCSynthesis", "channels": [6, 5, 4, 4, 3, 3],
                               "blocks": 1}}, HYPER_PARTS),
    "mixture": (hific.mixture.HiFiCMixture, {
        **HYPER, "hyper_synthesis": {"cls": "HiFiCMixtureHyperSynthesis", "channels": [2, 2, 4],
                                     "components": 2}}, HYPER_PARTS),
    "batch_norm": (mshyper.models.MeanScaleHyperprior, {
        **HYPER, "analysis": {"cls": "AdvDNICMod3Analysis", "channels": 24},
        "hyper_synthesis": {"cls": "HyperSynthesis", "channels": [2, 2, 48]}}, HYPER_PARTS),
}
DENSITY = {"matrix_0", "matrix_1", "matrix_2", "bias_0", "bias_1", "bias_2", "factor_0",
           "factor_1", "offset"}


def shapes(transform):
    return {name: tuple(weight.shape) for name, weight in weights.named({"t": transform}).items()}


@functools.cache
def built(codec, seed=0):
    """Tests leave it as it is, but for the seed 1, which one test has for itself."""
    tf.keras.utils.set_random_seed(seed)
    model_class, arguments, _ = CODECS[codec]
    model = export.build(model_class, {"model": arguments})
    rng = np.random.default_rng(seed)
    for variable in model.variables:  # biases and offsets are all alike when they are fresh
        variable.assign_add(abs(rng.normal(0, 0.01, variable.shape)))
    return model


def saved(model, path, dtype="float32"):
    path.mkdir()
    weights.write(model, path, dtype)
    return path


@pytest.fixture(scope="module", params=sorted(CODECS))
def codec(request):
    return request.param


def test_names_are_those_of_layers_and_weights():
    assert shapes(trained("MBT2018Synthesis")) == {
        "t/0/kernel": (5, 5, 8, 6), "t/0/bias": (6,),
        "t/0/activation/reparam_gamma": (6, 6), "t/0/activation/reparam_beta": (6,),
        "t/1/kernel": (5, 5, 6, 4), "t/1/bias": (4,),
        "t/1/activation/reparam_gamma": (4, 4), "t/1/activation/reparam_beta": (4,),
        "t/2/kernel": (5, 5, 4, 4), "t/2/bias": (4,),
        "t/2/activation/reparam_gamma": (4, 4), "t/2/activation/reparam_beta": (4,),
        "t/3/kernel": (5, 5, 4, 3), "t/3/bias": (3,)}


def test_names_within_composites():
    elic, mobile = shapes(trained("ElicSynthesis")), shapes(trained("AdvDNICMod3Analysis"))
    assert elic["t/0/0/trunk/2/1/kernel"] == (3, 3, 4, 4) and elic["t/0/0/mask/3/bias"] == (8,)
    assert mobile["t/1/moving_variance"] == (4,)
    assert mobile["t/3/0/depthwise_kernel"] == (3, 3, 4, 1)
    assert shapes(trained("SeparateHyperSyntheses"))["t/0/1/2/kernel"] == (3, 3, 5, 6)


def test_layers_of_a_graph_are_counted_in_the_order_of_computation():
    kernels = {name: shape for name, shape in shapes(trained("GatedContext")).items()
               if "kernel" in name}
    assert list(kernels.items()) == [
        # The two streams' first layers, with a block between them; its 1x1 sees the other stream.
        ("t/1/kernel", (2, 3, 8, 4)), ("t/3/kernel", (2, 3, 8, 4)), ("t/5/kernel", (2, 3, 8, 4)),
        ("t/6/kernel", (2, 3, 8, 4)), ("t/8/kernel", (1, 3, 8, 4)), ("t/9/kernel", (2, 1, 8, 4)),
        ("t/15/kernel", (2, 2, 8, 4)), ("t/16/kernel", (1, 1, 8, 4)),
        ("t/19/kernel", (2, 2, 8, 4)), ("t/20/kernel", (2, 2, 8, 4)),
        ("t/25/kernel", (1, 1, 4, 6))]


@pytest.mark.parametrize("case", sorted(NARROW))
def test_every_transform_names_all_its_weights_the_same_again(case):
    names = shapes(trained(case))
    assert len(names) == len(trained(case).weights) >= 1
    for name in names:
        assert all(re.fullmatch(r"\d+", word) or word in WORDS for word in name.split("/")[1:])
    assert shapes(in_bfloat16(case)) == names  # another, and Keras's numbers go on


def test_a_codec_names_all_its_weights_by_its_parts(codec):
    model, (_, _, parts) = built(codec), CODECS[codec]
    names = weights.named(weights.parts(model))
    assert {weight.ref() for weight in names.values()} == {w.ref() for w in model.variables}
    assert {name.partition("/")[0] for name in names} == parts
    prior, = (part for part in parts if "prior" in part)
    assert {name for name in names if name.startswith(prior)} == {
        f"{prior}/{name}" for name in DENSITY}


def test_parts_or_weights_of_one_name_are_an_error():
    class Two(composites.Stack):
        def __init__(self):
            super().__init__([layers.conv(2, 1)])
            self.others = [layers.conv(2, 1)]

        def call(self, x):
            return self.others[0](super().call(x))

    two = Two()
    two(tf.zeros([1, 1, 1, 2]))
    with pytest.raises(ValueError, match="two parts of Two would be called 0"):
        weights.named({"two": two})

    class Held(tf.keras.layers.Layer):
        def build(self, _):
            self.first = self.add_weight("kernel", [1])
            self.second = self.add_weight("kernel", [1])

    held = Held()
    held.build(None)
    with pytest.raises(ValueError, match="two weights would be called held/kernel"):
        weights.named({"held": held})


def test_weights_come_back_bit_for_bit(codec, tmp_path):
    model, other = built(codec), built(codec, seed=1)
    assert any(np.any(a.numpy() != b.numpy()) for a, b in zip(model.variables, other.variables))
    weights.restore(weights.parts(other), saved(model, tmp_path / "model"))
    for a, b in zip(model.variables, other.variables):
        np.testing.assert_array_equal(a, b)


def test_others_may_read_weights_as_the_umask_says(tmp_path):
    codec = CODECS["factorized"]
    model = export.build(codec[0], {"model": codec[1]})
    weights.write(model, tmp_path)
    (tmp_path / "other").touch()
    modes = [path.stat().st_mode for path in (tmp_path / weights.FILE, tmp_path / "other")]
    assert modes[0] == modes[1]


def test_other_software_reads_names_and_arrays(codec, tmp_path):
    model = built(codec)
    named = weights.named(weights.parts(model))
    arrays = safetensors.numpy.load_file(saved(model, tmp_path / "model") / "weights.safetensors")
    assert arrays.keys() == named.keys()
    for name, array in arrays.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, named[name])


def test_half_of_the_bytes_keep_eleven_bits_of_what_is_trained(tmp_path):
    model = built("batch_norm")
    whole, half = (saved(model, tmp_path / dtype, dtype) for dtype in weights.DTYPES)
    arrays = weights.read(half)
    for name, array in weights.read(whole).items():
        exact = "moving" in name or "offset" in name
        assert arrays[name].dtype == (np.float32 if exact else np.float16)
        np.testing.assert_allclose(
            arrays[name].astype(np.float32), array, rtol=0 if exact else 2**-11, atol=2**-25)
    sizes = [(path / weights.FILE).stat().st_size for path in (whole, half)]
    assert sizes[1] < 0.65 * sizes[0]  # the rest are names


def test_weights_of_another_architecture_are_refused_whole(tmp_path):
    path = saved(built("joint_ar"), tmp_path / "model")
    wider = dict(CODECS["joint_ar"][1], analysis={**IMAGE["analysis"], "channels": [2, 3, 2, 4]})
    other = export.build(joint_ar.models.JointAutoregressive, {"model": wider})
    before = other.get_weights()
    with pytest.raises(UserError, match=r"analysis/1/activation/reparam_beta is \[2\] there and "
                                        r"\[3\] here"):
        weights.restore(weights.parts(other), path)
    for a, b in zip(before, other.get_weights()):
        np.testing.assert_array_equal(a, b)
    longer = narrow("MaskedStack")
    longer(tf.zeros([1, 4, 4, 4]))
    with pytest.raises(UserError, match="do not fit the model .context/0/bias is missing there"):
        weights.restore({"context": longer}, path)
    with pytest.raises(UserError, match="context/1/bias is .* there and missing here"):
        weights.restore({"context": composites.Stack([])}, path)


def test_damaged_files_are_one_clear_error(tmp_path):
    path = saved(built("factorized"), tmp_path / "model")
    whole = (path / weights.FILE).read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    damaged = [whole[:n] for n in (0, 7, 8, header // 2, header, len(whole) - 1)]
    damaged += [whole + b"more", b"\xff" * 8 + whole[8:], whole.replace(b"F32", b"F99"),
                whole.replace(b"data_offsets", b"data_offset_"),
                whole.replace(b'"shape":[', b'"shape":[9', 1)]
    for data in damaged:
        (path / weights.FILE).write_bytes(data)
        with pytest.raises(UserError, match="its weights are damaged") as error:
            weights.read(path)
        assert "\n" not in str(error.value)
    (path / weights.FILE).unlink()
    with pytest.raises(UserError, match="its weights are damaged"):
        weights.read(path)
