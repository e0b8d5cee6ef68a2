"""`make demo`: the model of small.py from fresh weights, for a few minutes.

Data are the other way round than elsewhere: `photos/validation` chose one of the zoo's models,
and so says less of it than `photos/train` does, on which none of them was trained.
"""

from mshyper.configs import small


def get_config(recipe="cpu"):
    config = small.get_config(recipe)
    config.data.update(train="photos/validation", validation="photos/train", patch_size=128,
                       batch_size=8)
    config.train.num_steps = 300
    config.train.schedule.warmup = 0.05
    config.train.log_interval = 50
    config.train.checkpoint_interval = 50
    return config


def get_hyper():
    return [{}]
