"""Configs of runs that other processes or devices are to repeat."""

from tests.helpers.tiny import shallow_config


def configured(options):
    config = shallow_config()
    config.data.batch_size = 4
    config.train.num_steps = config.train.checkpoint_interval = 4
    config.train.log_interval = 2
    config.train.update_from_flattened_dict(options)
    return config


def adversarial(options):
    config = configured(options)
    config.train.adversarial = dict(
        weight=0.15, channels=(4, 4, 4, 4), latent_channels=2,
        optimizer=dict(cls="Adam", learning_rate=1e-3))
    return config
