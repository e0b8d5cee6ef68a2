"""Runs that other processes or devices are to repeat, and these processes."""

import json
import multiprocessing
import os
import pathlib
import subprocess
import sys

from common import lazy

with lazy.importing():
    import tensorflow as tf

    from common import training
    from factorized.models import FactorizedPrior
    from hific.adversarial import make_trainer
    from mshyper.models import MeanScaleHyperprior
    from tests.helpers import graphs
    from tests.helpers.tiny import shallow_config

_ROOT = pathlib.Path(__file__).parents[2]


def configured(options):
    config = shallow_config()
    config.model.density = dict(num_filters=(3,))
    config.data.batch_size = 4
    config.train.num_steps = config.train.checkpoint_interval = 4
    config.train.log_interval = 2
    config.train.update_from_flattened_dict(options)
    return config


def train(workdir, options):
    training.run(MeanScaleHyperprior, configured(options), workdir)


def train_with_state(workdir, options):
    """With all that keeps a state in training.

    Its codec has no hyper-latents: the graph of a step takes half as long to make.
    """
    config = configured(options)
    config.model = {part: config.model[part] for part in ("analysis", "synthesis", "density")}
    config.train.optimizer.cls = "SOAP"
    config.train.ema_decay = config.train.rate_target = 0.5
    config.train.quantizer = dict(cls="SoftRound")
    config.train.adversarial = dict(weight=0.15, channels=(4, 4), latent_channels=2,
                                    optimizer=dict(cls="Adam", learning_rate=1e-3))
    training.run(FactorizedPrior, config, workdir, make_trainer)


TRAININGS = {"train": train, "train_with_state": train_with_state}


def run_elsewhere(*runs):
    """Makes runs, each a process: name of the training, its arguments, CPUs, and environment."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.distribution", json.dumps(runs, default=str)],
        cwd=_ROOT, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"})
    assert done.returncode == 0, done.stderr


def _run(name, arguments, devices, environment):
    os.environ.update(environment)
    cpu, = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    graphs.as_in_programs(False)
    TRAININGS[name](*arguments)


def _main():
    # All begin with what is imported here, for importing takes as long as training.
    children = [multiprocessing.get_context("fork").Process(target=_run, args=run, daemon=True)
                for run in json.loads(sys.argv[1])]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=300)
    sys.exit(any(child.exitcode != 0 for child in children))  # which ends those that hang


if __name__ == "__main__":
    _main()
