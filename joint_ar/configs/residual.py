"""Joint autoregressive and hierarchical prior for all rates, for CPUs, from a mean-scale one.

    python -m joint_ar.train --config joint_ar/configs/residual.py \\
        --config.train.warm_start=mshyper

The transforms are those of mshyper/configs/residual.py and go on from there; context and entropy
parameters start fresh, and at first add nothing to what the mean-scale model predicts. All are
trained.
"""

from joint_ar.configs import small
from mshyper.configs import residual

TITLE = "Joint autoregressive and hierarchical prior, residual blocks, for all rates"
PAPER = "this zoo, for CPUs; Minnen, Ballé, Toderici 2018"


def get_config(recipe="cpu"):
    config = residual.get_config(recipe)
    small.add_context(config)
    # The paper's widths would cost as much as all transforms.
    config.model.context.channels = 256
    config.model.entropy_parameters.update(
        channels=(512, 384, 2 * config.model.analysis.channels[-1]), add_psi=True)
    config.train.num_steps = 20_000
    config.train.optimizer.learning_rate = 1e-3
    return config


get_hyper = residual.get_hyper
