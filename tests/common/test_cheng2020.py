import functools

import numpy as np
import tensorflow as tf

from common import transforms, weights
from common.transforms import composites
from tests.helpers.narrow_transforms import narrow, pixels, trained


def leaky(x):
    return tf.nn.leaky_relu(x, 0.01)


def test_blocks_of_cheng2020_are_the_formulas_of_the_paper():
    analysis, synthesis = (trained(f"Cheng2020{end} attention")
                           for end in ("Analysis", "Synthesis"))
    down, block, _, attention, *_ = analysis.layers
    x = pixels("Cheng2020Analysis", 32, 32)
    (one, two), (skip,) = (branch.layers for branch in down.branches)
    y = two.activation(plain(two, leaky(plain(one, x, 2)))) + plain(skip, x, 2)
    np.testing.assert_allclose(down(x), y, atol=1e-3)
    assert (two.activation.inverse, two.activation.square) == (False, True)
    one, two = block.layers
    np.testing.assert_allclose(block(y), y + leaky(plain(two, leaky(plain(one, y)))), atol=1e-3)

    [gated] = attention.layers

    def unit(x, layer):  # the ReLU is after the sum
        first, second, third = layer.layers[0].layers
        return tf.nn.relu(x + plain(third, tf.nn.relu(plain(second, tf.nn.relu(plain(first, x))))))

    trunk, (*mask, last) = gated.trunk.layers, gated.mask.layers
    assert len(trunk) == len(mask) == 3
    expected = y + functools.reduce(unit, trunk, y) * tf.sigmoid(
        plain(last, functools.reduce(unit, mask, y)))
    np.testing.assert_allclose(attention(y), expected, atol=1e-3)

    up = synthesis.layers[2]
    x = pixels("Cheng2020Synthesis", 32, 32)
    (one, two), (skip,) = (branch.layers for branch in up.branches)
    wide, thin = (tf.nn.depth_to_space(plain(part.layers[0], x), 2) for part in (one, skip))
    np.testing.assert_allclose(
        up(x), two.activation(plain(two, leaky(wide))) + thin, atol=1e-3)
    assert (two.activation.inverse, two.activation.square) == (True, True)


def plain(conv, x, stride=1):
    """A convolution without its activation, with zeros on both sides."""
    size = conv.kernel.shape[0] // 2
    x = tf.pad(x, [(0, 0), (size, size), (size, size), (0, 0)])
    return tf.nn.conv2d(x, conv.kernel, stride, "VALID") + conv.bias


def test_attention_may_be_left_out_of_cheng2020():
    for end, missing in (("Analysis", [3, 8]), ("Synthesis", [0, 5])):
        attentive = narrow(f"Cheng2020{end} attention").layers
        plain = transforms.build(dict(cls=f"Cheng2020{end}", channels=6)).layers
        assert [type(layer) for layer in plain] == [
            type(layer) for i, layer in enumerate(attentive) if i not in missing]
        assert all(isinstance(attentive[i].layers[0], composites.Gated) for i in missing)
        assert not any(isinstance(part, composites.Gated) for layer in plain
                       for part in layer.submodules)


def test_weights_of_cheng2020_are_in_the_order_of_computation():
    # In which CompressAI's are too: convolutions, GDN, then the way around.
    names = [*weights.named({"g": trained("Cheng2020Analysis attention")})]
    assert [name for name in names if name.startswith(("g/0/", "g/3/"))][:8] == [
        "g/0/0/0/kernel", "g/0/0/0/bias", "g/0/0/1/activation/reparam_beta",
        "g/0/0/1/activation/reparam_gamma", "g/0/0/1/kernel", "g/0/0/1/bias", "g/0/1/0/kernel",
        "g/0/1/0/bias"]
