"""What tests of all imported models do with them."""

import numpy as np
import tensorflow as tf

import convert
from common import coding, quantizers, zoo


def load(checkpoint, folder):
    """The model of a checkpoint after a round through an exported one in `folder`."""
    convert.save(convert.read(checkpoint), checkpoint, folder)
    return zoo.load(str(folder))


def check_files(model, image):
    """A file of uint8 [H, W, 3] decodes to its latents, and is as large as their information."""
    latents = model.infer(image[None])
    assert np.std(latents["y"]) > 0.5  # else all of its elements might be coded as 0
    file = coding.compress(model, image)
    decoded = coding.decode(model, file).latents
    assert coding.decompress(model, file).shape == image.shape
    again = model.generate(decoded, quantizers.Round())
    bits = sum(float(tf.reduce_sum(bits)) for bits in again.bits.values())
    assert abs(8 * len(file) - bits) <= 0.001 * bits + 8 * 40
    for name, value in latents.items():
        # Within half a step of what was coded, whatever the grid; joint models round on others.
        assert np.max(np.abs(value - decoded[name])) < 0.5 + 1e-3


def agree(ours, theirs, tolerance=1e-5):
    """The largest difference is within `tolerance` of the largest value."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.max(np.abs(theirs)))
