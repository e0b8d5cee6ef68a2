"""A method of refinement with few steps."""

from common import methods

LAMBDA = 0.01
FEW_STEPS = 60


def method(name, **changes):
    config = methods.method(name)
    config.update(dict(num_steps=FEW_STEPS, check_interval=10))
    config.update(changes)
    return config
