"""A program to launch that counts instead of training: all that a run has, but for TensorFlow.

    python -m tests.helpers.counting --config tests/helpers/counting_config.py --hid 0
"""

import json
import os
import pathlib
import time

import common
import configs
from common import launch_jobs, programs, runs, stopping
from common.errors import UserError
from common.files import write_json

CONFIG = str(pathlib.Path(__file__).with_name("counting_config.py"))


def count(config, workdir):
    """Counts to train.num_steps; goes on from where `save` was called."""
    saved, path = workdir / "saved.json", workdir / "metrics.jsonl"
    runs.claim(workdir, {"module": "counting", **config.to_dict()}, begun=path.exists())
    write_json(workdir / "seen.json", {
        "code": common.__file__, "numbers": pathlib.Path(config.data.train).read_text(),
        "data": str(configs.DATA_DIR), "zoo": str(configs.ZOO_DIR),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")})
    done = json.loads(saved.read_text()) if saved.exists() else 0
    lines = path.read_text().splitlines()[:done] if path.exists() else []
    path.write_text("".join(line + "\n" for line in lines))
    with stopping.saved_by(lambda: write_json(saved, done)):
        while done < config.train.num_steps:
            if done == config.train.fail_at:
                raise UserError(f"cannot count beyond {done}")
            with open(path, "a") as file:
                file.write(json.dumps({"step": done + 1, "count": 1}) + "\n")
            done += 1
            time.sleep(config.train.seconds)
    (workdir / "model").mkdir(exist_ok=True)
    (workdir / "model" / "fingerprint").touch()
    print(f"counted to {done}")


run = programs.Program("tests", count)


def make_job(folder, hid=0):
    """A job of an entry of counting_config.py, with its run below `folder`."""
    command = ["tests.helpers.counting", "--config", CONFIG, f"--hid={hid}",
               f"--experiments_dir={folder / 'experiments'}"]
    return launch_jobs.Job("tests.helpers.counting", programs.read(run, command), command)


if __name__ == "__main__":
    programs.main(run)
