import numpy as np
import tensorflow as tf

from tests.helpers.narrow_transforms import pixels, trained


def reflected(x, *ends):
    return tf.pad(x, [(0, 0), *ends, (0, 0)], "REFLECT")


def test_hific_reflects_as_its_port_to_pytorch_does():
    # Channel norms are left as they are; layers are written out, with tf.pad.
    analysis = trained("HiFiCAnalysis reflect")
    x = pixels("HiFiCAnalysis reflect", 32, 40)
    first, norm, relu, *halving, last = analysis.layers
    y = relu(norm(tf.nn.conv2d(reflected(x, (3, 3), (3, 3)), first.kernel, 1, "VALID")
                  + first.bias))
    for conv, norm, relu in zip(halving[::3], halving[1::3], halving[2::3]):
        y = relu(norm(tf.nn.conv2d(reflected(y, (1, 0), (0, 1)), conv.kernel, 2, "VALID")
                      + conv.bias))
    y = tf.nn.conv2d(reflected(y, (1, 1), (1, 1)), last.kernel, 1, "VALID") + last.bias
    np.testing.assert_allclose(analysis(x), y, atol=1e-4)

    synthesis = trained("HiFiCSynthesis reflect")
    x = pixels("HiFiCSynthesis reflect", 32, 40)
    first, conv, norm, residual, *doubling, last = synthesis.layers

    def narrow(x, conv):
        return tf.nn.conv2d(reflected(x, (1, 1), (1, 1)), conv.kernel, 1, "VALID") + conv.bias

    y = head = norm(narrow(first(x), conv))
    for block in residual.layers:
        one, norm_one, relu, two, norm_two = block.layers
        y += norm_two(narrow(relu(norm_one(narrow(y, one))), two))
    y += head
    for layer in doubling:
        y = layer(y)
    y = tf.nn.conv2d(reflected(y, (3, 3), (3, 3)), last.kernel, 1, "VALID") + last.bias
    np.testing.assert_allclose(synthesis(x), tf.tanh(y), atol=1e-4)
