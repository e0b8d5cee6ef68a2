"""launch.py with programs that are called like those of Slurm: what is queued, and what is not."""

import datetime
import os

import pytest

import launch
from common import launching
from tests.helpers.launches import COUNTING, EXPERIMENT, ROOT, launches
from tests.helpers.tiny import TRAINING


@pytest.fixture
def wrappers(monkeypatch, tmp_path):
    """Writes programs that are called like those of Slurm; sbatch notes that it was called."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")

    def write(**programs):
        for name, script in programs.items():
            path = tmp_path / "bin" / name
            path.write_text(f"#!/bin/sh\necho called >> {tmp_path}/{name}.calls\n{script}\n")
            path.chmod(0o755)

    write(srun="", scancel="")
    return write


def main(*arguments):
    """The exit code of `launch`, in this process."""
    try:
        launch.main([*map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def calls(folder, name):
    path = folder / f"{name}.calls"
    return len(path.read_text().splitlines()) if path.exists() else 0


class Later(datetime.datetime):
    """Tomorrow's clock: folders of launches are named for the second."""

    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(days=1)


def test_a_wrapper_of_sbatch_may_print_the_number_alone(wrappers, tmp_path, capsys, monkeypatch):
    wrappers(sbatch="echo 'Good morning'; echo 4711",
             squeue="echo 'Good morning'; echo 4711_0 PENDING; echo 4711_1 PENDING")
    command = [*COUNTING, "--hids", "0", "2", "--xid", "mine"]
    assert main(*command) == 0
    assert [line.split()[-2] for line in capsys.readouterr().out.splitlines()[-2:]] == [
        "pending", "pending"]
    # None is launched twice, also where it cannot be asked what has become of it.
    for squeue, why in ("echo 4711_0 PENDING", "is pending"), ("exit 1", "be told: squeue"):
        wrappers(squeue=squeue)
        assert main(*command) == 2
        error, = capsys.readouterr().err.splitlines()
        assert why in error and calls(tmp_path, "sbatch") == 1
    # Others of the experiment may be.
    monkeypatch.setattr(launch.datetime, "datetime", Later)
    assert main(*COUNTING, "--hids", "1", "--xid", "mine", "--slurm", "time=1") == 0
    assert calls(tmp_path, "sbatch") == 2
    assert "submitted as 4711; squeue failed" in capsys.readouterr().out


@pytest.mark.parametrize("second", ["echo 4712", "exit 1"])
def test_an_evaluation_is_queued_as_a_whole_or_not_at_all(wrappers, tmp_path, capsys, second):
    # An array of models, and then a job that collects, whatever has become of them.
    wrappers(squeue="echo 4711_0 PENDING; echo 4711_1 PENDING; echo 4712 PENDING",
             sbatch=f"""cat "$1" >> {tmp_path}/scripts
        [ $(wc -l < {tmp_path}/sbatch.calls) = 1 ] && echo 4711 && exit
        {second}""")
    code = main("--main", "evaluate", "--args", "--model", "mshyper", "joint_ar",
                "--dataset", "photos/validation")
    assert calls(tmp_path, "sbatch") == 2
    assert "--dependency=afterany:4711\n" in (tmp_path / "scripts").read_text()
    if second == "exit 1":
        assert code == 2 and "Slurm does not take the job" in capsys.readouterr().err
        assert calls(tmp_path, "scancel") == 1 and not launches(tmp_path)
    else:
        assert code == 0 and calls(tmp_path, "scancel") == 0 and len(launches(tmp_path)) == 1


@pytest.mark.parametrize("names", [["--xid", "mine"], []])
def test_a_job_of_which_sbatch_does_not_say_the_number(wrappers, tmp_path, capsys, names):
    wrappers(sbatch="echo all is well", squeue="")
    command = [*COUNTING, "--hids", "0", *names]
    assert main(*command) == 2
    error, = capsys.readouterr().err.splitlines()
    assert "it says all is well" in error and "squeue --me" in error
    found, = launches(tmp_path)
    assert str(found) in error
    experiment = tmp_path / "experiments" / (names[1] if names else EXPERIMENT)
    for path in found, experiment:
        assert main("--status", path) == 1
        _, row, cause = capsys.readouterr().out.splitlines()
        assert "unknown" in row and "waiting" not in row and "it says all is well" in cause
    wrappers(sbatch="echo 4711")
    assert main(*command) == 2
    error, = capsys.readouterr().err.splitlines()
    assert "may be under way" in error and "--force" in error and calls(tmp_path, "sbatch") == 1
    assert len(launches(tmp_path)) == 1


def test_what_may_be_under_way_is_launched_by_force(wrappers, tmp_path, monkeypatch, capsys):
    wrappers(sbatch="echo all is well", squeue="")
    command = [*COUNTING, "--hids", "0", "--xid", "mine"]
    assert main(*command) == 2
    wrappers(sbatch="echo 4711", squeue="echo 4711 PENDING")
    monkeypatch.setattr(launch.datetime, "datetime", Later)
    assert main(*command, "--force") == 0
    capsys.readouterr()
    assert main("--status", tmp_path / "experiments/mine") == 0
    assert "pending" in capsys.readouterr().out


def test_a_launch_that_is_killed_while_sbatch_works(wrappers, tmp_path, monkeypatch, capsys):
    wrappers(sbatch="echo 4711", squeue="")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(launching.submitit.SlurmExecutor, "submit_array", interrupt, raising=False)
    assert main(*COUNTING, "--hids", "0", "--xid", "mine") == 130
    capsys.readouterr()
    assert main("--status", tmp_path / "experiments/mine") == 1
    assert "unknown" in capsys.readouterr().out


def test_sbatch_without_srun(wrappers, tmp_path, monkeypatch, capsys):
    wrappers(sbatch="echo 4711")
    (tmp_path / "bin/srun").unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert main(*COUNTING) == 2
    error, = capsys.readouterr().err.splitlines()
    assert "no srun" in error and not (tmp_path / "experiments").exists()


def test_data_and_models_are_looked_for_before_jobs_are_queued(wrappers, tmp_path, capsys):
    wrappers(sbatch="echo 4711", squeue="echo 4711 PENDING")
    train = [*TRAINING[:3], str(ROOT / TRAINING[3]), "--hids", "0", "--xid", "mine"]
    photos = ["--config.data.train=photos/train", "--config.data.validation=photos/validation"]
    itinf = ["--main", "mshyper.itinf", "--config", str(ROOT / "mshyper/configs/itinf.py:sga"),
             "--hids", "0"]
    for command, message in (
            ([*train, "--args", "--config.data.train=nowhere/*.png"], "'nowhere/*.png' is neither"),
            ([*train, "--args", photos[0], "--config.data.validation=none"], "'none' is neither"),
            ([*train, "--args", *photos, "--config.train.warm_start=none"], "no model 'none'"),
            ([*train, "--args", *photos, "--config.data.batch_size=0"], "data.batch_size is 0"),
            ([*itinf, "--args", "--config.data=nowhere"], "'nowhere' is neither"),
            ([*itinf, "--args", "--config.model=none"], "no model 'none'"),
            (["--main", "evaluate", "--args", "--model", "mshyper", "--dataset",
              "nowhere"], "'nowhere' is neither")):
        assert main(*command) == 2, command
        error, = capsys.readouterr().err.splitlines()
        assert message in error and not calls(tmp_path, "sbatch")
        assert not (tmp_path / "experiments").exists()
    assert main(*train, "--force", "--args", "--config.data.train=nowhere/*.png") == 0
    assert calls(tmp_path, "sbatch") == 1
