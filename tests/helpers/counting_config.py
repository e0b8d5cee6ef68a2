"""A config of tests/helpers/counting.py."""

from ml_collections import config_dict


def get_config(recipe="slow"):
    config = config_dict.ConfigDict(dict(
        seed=0, data=dict(train="numbers.txt"),
        train=dict(num_steps=3, seconds=dict(slow=0.1, fast=0.0)[recipe], fail_at=-1)))
    config.train.last = config.train.get_ref("num_steps")
    return config


def get_hyper():
    return [{"train.num_steps": steps, "train.fail_at": fail_at}
            for steps in (3, 2) for fail_at in (-1, 1)]
