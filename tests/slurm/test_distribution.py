"""Training in the tasks of a Slurm job is that in one process."""

import pytest

from common import training
from mshyper.configs import small
from mshyper.models import MeanScaleHyperprior
from tests.helpers import graphs
from tests.helpers.launches import ROOT, launch_here
from tests.helpers.runs import assert_alike
from tests.helpers.tiny import TINY, TRAINING, photographs, shallow_config


@pytest.mark.slow
def test_two_tasks_train_as_one(slurm, tmp_path, capsys):
    config = shallow_config()
    config.update_from_flattened_dict(small.get_hyper()[0])
    new = dict(num_steps=4, checkpoint_interval=4, log_interval=2)
    config.train.update(new)
    with graphs.none():
        training.run(MeanScaleHyperprior, config, tmp_path / "one")

    given = {f"--config.train.{name}": value for name, value in new.items()}
    given["--config.data.validation"] = photographs()
    code, out, errors = launch_here(
        tmp_path, capsys, *TRAINING[:3], str(ROOT / TRAINING[3]), "--hids", "0", "--xid", "two",
        "--wait", "--slurm", "ntasks_per_node=2", "cpus_per_task=1", "--args",
        *(each for each in TINY if each.partition("=")[0] not in given),
        *(f"{name}={value}" for name, value in given.items()),
        "--config.train.strategy=multi_worker")
    assert code == 0, out + errors
    two, = (tmp_path / "experiments/two").iterdir()
    assert_alike(two, tmp_path / "one")
    assert (two / "model/fingerprint").exists()
