import numpy as np
import pytest
import tensorflow as tf

from common import padding


@pytest.mark.parametrize("size, padded", [
    ((1, 1), (16, 16)), ((1, 65), (16, 80)), ((67, 131), (80, 144)), ((32, 48), (32, 48))])
def test_padding_repeats_the_edge_and_is_undone_by_cropping(photo, size, padded):
    height, width = size
    x = photo[None, :height, :width].astype(np.float32)
    expected = np.pad(
        x, [(0, 0), (0, padded[0] - height), (0, padded[1] - width), (0, 0)], mode="edge")
    static = padding.pad_to_multiple(tf.constant(x), 16)
    np.testing.assert_array_equal(static, expected)
    np.testing.assert_array_equal(padding.crop_to(static, x), x)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
    def there_and_back(x):
        there = padding.pad_to_multiple(x, 16)
        return there, padding.crop_to(there, x)

    dynamic, back = there_and_back(x)
    np.testing.assert_array_equal(dynamic, expected)
    np.testing.assert_array_equal(back, x)
