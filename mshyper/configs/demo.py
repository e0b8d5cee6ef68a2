"""`make demo`: a few minutes more of training of a released model, on the embedded photographs."""

from mshyper.configs import small


def get_config(recipe="cpu"):
    config = small.get_config(recipe)
    config.train.warm_start = "mshyper-small-2"
    config.train.rd_lambda = 0.01
    config.data.batch_size = 4
    config.train.num_steps = 300
    config.train.optimizer.learning_rate = 3e-5
    config.train.schedule = dict(cls="WarmupCosine", warmup=0.1, final=0.01)
    config.train.log_interval = 50
    config.train.checkpoint_interval = 100
    return config


def get_hyper():
    return [{}]
