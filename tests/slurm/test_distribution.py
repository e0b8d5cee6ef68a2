"""Training in the tasks of a Slurm job is that in one process."""

import pathlib

import pytest

from common import training
from tests.helpers.launches import launch
from tests.helpers.runs import assert_alike
from tests.helpers.tiny import TINY, TRAINING


@pytest.mark.slow
def test_two_tasks_train_as_one(slurm, tmp_path):
    new = ["--config.train.num_steps=4", "--config.train.checkpoint_interval=4",
           "--config.train.log_interval=2"]
    names = {argument.partition("=")[0] for argument in new}
    arguments = [each for each in TINY if each.partition("=")[0] not in names] + new
    command = [*TRAINING[:3], str(pathlib.Path(training.__file__).parents[1] / TRAINING[3]),
               "--hids", "0"]
    code, _, errors = launch(tmp_path, *command, "--local", "1", "--xid", "one", "--args",
                             *arguments)
    assert code == 0, errors
    code, out, errors = launch(
        tmp_path, *command, "--xid", "two", "--wait", "--slurm", "ntasks_per_node=2",
        "cpus_per_task=1", "--args", *arguments, "--config.train.strategy=multi_worker")
    assert code == 0, out + errors
    one, two = (next((tmp_path / "experiments" / xid).iterdir()) for xid in ("one", "two"))
    assert_alike(two, one)
    assert (two / "model/fingerprint").exists()
