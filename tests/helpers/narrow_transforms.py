"""Every transform with few channels."""

import functools
import tempfile

import numpy as np
import tensorflow as tf

from common import precision, transforms

CHANNELS = 8  # of every latent

# Every transform with other widths than its paper's, as the tests only need.
NARROW = {
    "AdvDNICMod1Analysis": dict(channels=(4, 6, 8, 8)),
    "AdvDNICMod1Synthesis": dict(channels=(8, 6, 4, 3)),
    "AdvDNICMod2Analysis": dict(channels=24),
    "AdvDNICMod2Synthesis": dict(channels=24),
    "AdvDNICMod3Analysis": dict(channels=24),
    "AdvDNICMod3Synthesis": dict(channels=24),
    "AdvDNICMod4Synthesis": dict(channels=(8, 6, 4, 3)),
    "AdvDNICNlaicAnalysis": dict(channels=8, window=2),
    "AdvDNICNlaicHyperAnalysis": dict(channels=8),
    "AdvDNICNlaicHyperSynthesis": dict(channels=8),
    "AdvDNICNlaicSynthesis": dict(channels=8, window=2),
    "BLS2017Analysis": dict(channels=(4, 5, 6)),
    "BLS2017Synthesis": dict(channels=(4, 5, 3)),
    "CNNAnalysis": dict(channels=(4, 5, 6)),
    "CNNAnalysis keras": dict(channels=(4, 5, 6), activation="gdn_square", align="keras"),
    "CNNSynthesis": dict(channels=(4, 5, 3), activation="igdn"),
    "CNNSynthesis keras": dict(channels=(4, 5, 3), activation="igdn_square", align="keras"),
    "Cheng2020Analysis attention": dict(channels=6, attention=True),
    "Cheng2020HyperAnalysis": dict(channels=6),
    "Cheng2020HyperSynthesis": dict(channels=6),
    "Cheng2020Synthesis attention": dict(channels=8, attention=True),
    "ElicAnalysis": dict(channels=(4, 6, 8, 10)),
    "ElicSynthesis": dict(channels=(8, 6, 4, 3), latents=CHANNELS),
    "EntropyParameters": dict(channels=(8, 6, 4)),
    "EntropyParameters add_psi": dict(channels=(8, 6, 4), add_psi=True),
    "GatedContext": dict(latents=CHANNELS, width=4, blocks=1, channels=6),
    "HiFiCAnalysis": dict(channels=(3, 4, 5, 6)),
    "HiFiCAnalysis instance": dict(channels=(3, 4, 5, 6), norm="instance"),
    "HiFiCAnalysis reflect": dict(channels=(3, 4, 5, 6), padding="reflect"),
    "HiFiCSynthesis": dict(channels=(6, 5, 4, 3), blocks=2),
    "HiFiCSynthesis instance": dict(channels=(6, 5, 4, 3), blocks=2, norm="instance"),
    "HiFiCSynthesis reflect": dict(
        channels=(12, 10, 8, 3), blocks=2, padding="reflect", last_activation="tanh"),
    "HiFiCMixtureHyperSynthesis": dict(channels=(4, 5, 6), components=2),
    "HyperAnalysis": dict(channels=(4, 5, 6)),
    "HyperAnalysis keras": dict(channels=(4, 5, 6), align="keras", last_bias=False),
    "HyperAnalysis reflect": dict(channels=(4, 5, 6), padding="reflect"),
    "HyperAnalysisSmall": dict(channels=(4, 5)),
    "HyperSynthesis": dict(channels=(4, 5, 6)),
    "HyperSynthesis keras": dict(channels=(4, 5, 6), align="keras"),
    "HyperSynthesisSmall": dict(channels=(4, 5)),
    "JPEGLikeHyperSynthesis": dict(channels=6),
    "JPEGLikeSynthesis": dict(),
    "JPEGLikeSynthesis with offset": dict(use_offset=True),
    "MBT2018Analysis": dict(channels=(4, 4, 6, 8)),
    "MBT2018Synthesis": dict(channels=(6, 4, 4, 3)),
    "MaskedContext": dict(channels=6),
    "MaskedStack": dict(channels=(4, 5, 6)),
    "ResidualAnalysis": dict(channels=(4, 6, 6, 8), blocks=(1, 1, 1)),
    "ResidualAnalysis dct": dict(channels=(4, 6, 6, 8), dct=True),
    "ResidualAnalysis gdn": dict(channels=(4, 6, 6, 8), kernel=3, activation="gdn"),
    "ResidualSynthesis": dict(channels=(8, 6, 4, 3), blocks=(1, 1, 1)),
    "ResidualSynthesis dct": dict(channels=(8, 6, 4, 3), dct=True),
    "ResidualSynthesis igdn": dict(channels=(8, 6, 4, 3), kernel=3, activation="igdn"),
    "SeparateHyperSyntheses": dict(channels=(4, 5, 6)),
    "TwoLayerResSynthesis": dict(channels=(6, 3)),
    "TwoLayerResSynthesis dct": dict(channels=(6, 3), dct=True),
    "TwoLayerResSynthesis d2s": dict(channels=(6, 3), residual="d2s"),
    "TwoLayerResSynthesis keras": dict(channels=(6, 3), align="keras"),
    "TwoLayerSynthesis": dict(channels=(6, 3)),
}


def narrow(case, seed=0):
    tf.keras.utils.set_random_seed(seed)
    return transforms.build(dict(cls=case.partition(" ")[0], **NARROW[case]))


def shrinks(case):
    """Whether it makes its input smaller."""
    return "Analysis" in case


def pixels(case, height, width, seed=0):
    """An input of one case: an image, or latents of about that many pixels."""
    channels = 3 if shrinks(case) and "Hyper" not in case else CHANNELS
    if not shrinks(case):
        height, width = -(-height // 8), -(-width // 8)
    rng = np.random.default_rng(seed)
    return tf.constant(rng.normal(size=(2, height, width, channels)), tf.float32)


@functools.cache
def trained(case):
    """A case with weights that all matter, none of them zero. Tests leave them as they are."""
    transform, rng = narrow(case), np.random.default_rng(1)
    transform(pixels(case, 64, 64))
    for weight in transform.weights:
        if "variance" not in weight.name:
            weight.assign_add(rng.normal(0, 0.1, weight.shape))
    return transform


@functools.cache
def in_bfloat16(case):
    """Another transform, for bfloat16, with the weights of `trained(case)` out of a checkpoint.

    Tests leave them as they are.
    """
    with precision.policy("bfloat16"):
        rough = narrow(case, seed=1)
        rough(pixels(case, 64, 64))
    with tempfile.TemporaryDirectory() as folder:
        path = tf.train.Checkpoint(transform=trained(case)).write(f"{folder}/weights")
        tf.train.Checkpoint(transform=rough).read(path).assert_consumed()
    return rough
