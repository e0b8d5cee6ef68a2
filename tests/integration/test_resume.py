"""Runs that go on: after damage, with other settings, after a stop; and whose folder it is."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tensorflow as tf

import mshyper.train
from common import checkpoints, data, export, images, locks, programs, runs, training
from common.errors import UserError
from common.training_log import Log
from common.training_loop import TrainingLoop
from hific.models import HiFiC
from mshyper.models import MeanScaleHyperprior
from tests.helpers import graphs
from tests.helpers.tiny import TINY, TRAINING, shallow_config

ROOT = pathlib.Path(__file__).parents[2]


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def contents(workdir):
    return {path: path.read_bytes() for path in sorted(workdir.rglob("*")) if path.is_file()}


def short_config():
    """Four steps, an interval of two."""
    config = shallow_config()
    config.train.update(num_steps=4, checkpoint_interval=2, log_interval=1)
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run trained without graphs; beside it is what it had left if it had been killed early."""
    folder = tmp_path_factory.mktemp("runs")
    images_ = Log.images

    def copy(self, step, name, pictures):
        if step == 2:  # the first results are being written
            shutil.copytree(folder / "finished", folder / "killed",
                            ignore=shutil.ignore_patterns(locks.NAME))
        images_(self, step, name, pictures)

    with pytest.MonkeyPatch.context() as patch, graphs.none():
        patch.setattr(Log, "images", copy)
        training.run(MeanScaleHyperprior, short_config(), folder / "finished")
    return folder / "finished"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "wid=0-tiny")


def train(workdir, model_class=MeanScaleHyperprior, **overrides):
    config = short_config()
    with config.unlocked():
        config.update_from_flattened_dict(
            {key.replace("__", "."): value for key, value in overrides.items()})
    return training.run(model_class, config, workdir)


# --- Whose the folder is --------------------------------------------------------------------------


def test_a_second_training_in_a_folder_is_refused(tmp_path):
    with locks.held(tmp_path / "run") as lock:
        with pytest.raises(UserError, match=rf"in use by process {os.getpid()} on "):
            train(tmp_path / "run")
        lock.require()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_nothing_stays_locked(run, tmp_path):
    assert not (run / locks.NAME).exists()
    with pytest.raises(UserError, match="unknown optimizer"):
        train(tmp_path / "a/b", train__optimizer__cls="Adan")
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_a_run_that_lost_its_folder_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT", 0.01)
    end_step = TrainingLoop.end_step

    def lose(self, measured):
        if self.step == 2:
            (tmp_path / "run" / locks.NAME).write_text("another's")
            time.sleep(0.5)
        end_step(self, measured)

    monkeypatch.setattr(TrainingLoop, "end_step", lose)
    with pytest.raises(UserError, match="took the folder over"):
        train(tmp_path / "run", data__validation="")
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1]


def test_a_run_of_another_package_is_refused_also_afterwards(run):
    before = contents(run)
    with pytest.raises(UserError, match=r"\(package differ; package: mshyper there, hific here"):
        train(run, HiFiC)
    assert contents(run) == before


# --- Damage ---------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


DATA, INDEX = "step-4.data-00000-of-00001", "step-4.index"


@pytest.mark.usefixtures("without_graphs")
@pytest.mark.parametrize("name, damage", [
    (DATA, cut), pytest.param(INDEX, pathlib.Path.unlink, marks=pytest.mark.slow)])
def test_a_run_goes_on_at_the_newest_whole_checkpoint(run, finished, caplog, name, damage):
    damage(run / "checkpoints" / name)
    train(run)
    assert "step-4 is damaged or incomplete" in caplog.text and "back to step 2" in caplog.text
    assert metrics(run) == metrics(finished)
    assert export.fingerprint(run / "model") == export.fingerprint(finished / "model")
    latest = tf.train.latest_checkpoint(str(run / "checkpoints"))
    assert latest.endswith("step-4") and tf.train.load_checkpoint(latest)


@pytest.mark.parametrize("text", [None, "\xff\xfe", *(
    pytest.param(text, marks=pytest.mark.slow) for text in (
        "", "nonsense", 'model_checkpoint_path: "x"'))])
def test_the_file_that_names_checkpoints_is_not_needed(run, finished, caplog, text):
    path = run / "checkpoints/checkpoint"
    path.unlink() if text is None else path.write_text(text, encoding="latin-1")
    train(run)
    assert "checkpoints/checkpoint is missing or does not name it" in caplog.text
    assert "goes on at step-4" in caplog.text
    assert metrics(run) == metrics(finished)
    assert tf.train.latest_checkpoint(str(run / "checkpoints")).endswith("step-4")


def test_without_a_whole_checkpoint_nothing_is_done(run):
    for path in (run / "checkpoints").glob("*.data*"):
        cut(path)
    before = contents(run)
    with pytest.raises(UserError, match="no checkpoint of the run can be restored: .*step-4.*-2"):
        train(run)
    assert {path: content for path, content in contents(run).items()
            if "tensorboard" not in str(path)} == {
        path: content for path, content in before.items() if "tensorboard" not in str(path)}


@pytest.mark.parametrize("missing", [[], ["model"], ["metrics.jsonl"], ["config.json"]])
def test_results_without_a_checkpoint_are_not_begun_anew(run, missing):
    for name in ["checkpoints", *missing]:
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    before = contents(run)
    with pytest.raises(UserError, match="no checkpoint to go on from; put its checkpoints/ back"):
        train(run)
    assert contents(run) == before


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_anew(
        run, finished, tmp_path, caplog):
    for name in ("checkpoints", "model"):
        shutil.rmtree(run / name)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text(lines[0] + lines[1][:20])
    with pytest.raises(UserError, match="train.rd_lambda differ"):
        train(run, train__rd_lambda=0.5)
    train(run)
    assert "before its first checkpoint: it begins anew" in caplog.text
    assert metrics(run) == metrics(finished)


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_a_run_that_is_killed_with_its_first_results_goes_on(finished, tmp_path):
    run = shutil.copytree(finished.with_name("killed"), tmp_path / "run")
    assert [line["split"] for line in metrics(run)] == ["train", "train", "validation"]
    train(run)
    assert metrics(run) == metrics(finished)


@pytest.fixture(scope="module")
def another(tmp_path_factory):
    """A training like that of `finished`, in a folder of its own."""
    config, folder = short_config(), tmp_path_factory.mktemp("another")
    return TrainingLoop(folder, config, *training.build(MeanScaleHyperprior, config), [])


@pytest.mark.slow
def test_damaged_checkpoints_never_end_in_a_traceback(another, run, tmp_path):
    rng = random.Random(0)
    whole = run / "checkpoints"
    restored = refused = 0
    for _ in range(150):
        folder = tmp_path / "fuzzed"
        shutil.copytree(whole, folder / "checkpoints")
        for path in rng.sample(sorted(whole.iterdir()), rng.randint(1, 5)):
            path = folder / "checkpoints" / path.name
            content = bytearray(path.read_bytes())
            kind = rng.randrange(4)
            if kind == 0:
                del content[rng.randrange(len(content)):]
            elif kind == 1:
                for _ in range(rng.choice([1, 10, 1000])):
                    content[rng.randrange(len(content))] = rng.randrange(256)
            elif kind == 2:
                content[rng.randrange(len(content)):0] = rng.randbytes(100)
            path.unlink() if kind == 3 else path.write_bytes(content)
        try:
            another._checkpoints.last = None
            another.restore(folder)
            restored += 1
            assert another.step in (2, 4)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
        shutil.rmtree(folder)
    assert restored > 10 and refused > 10


# --- Other settings -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_what_leaves_the_results_as_they_are_may_change(run, finished, capsys):
    train(run, train__num_steps=8, train__optimizer__learning_rate=1e-5, train__log_interval=2,
          train__checkpoint_interval=4, data__cache_gib=0.0, train__export_dtype="float16")
    assert metrics(run)[:6] == metrics(finished)
    assert [(line["step"], line["split"]) for line in metrics(run)[6:]] == [
        (6, "train"), (8, "train"), (8, "validation")]
    assert all(line["learning_rate"] <= 1e-5 for line in metrics(run)[6:] if "train" in
               line["split"])
    assert json.loads((run / "config.json").read_text())["train"]["num_steps"] == 8
    change, = runs.fact(run, "changes")
    assert change["step"] == 4 and change["config"]["train.num_steps"] == {
        "before": 4, "after": 8}
    assert set(change["config"]) == {
        "data.cache_gib", "train.checkpoint_interval", "train.export_dtype", "train.log_interval",
        "train.num_steps", "train.optimizer.learning_rate"}
    assert "from step 4 on: train.num_steps is 8, was 4" in capsys.readouterr().out


@pytest.mark.parametrize("key, value", [
    ("seed", 1), ("train.rd_lambda", 0.5), ("data.batch_size", 4), ("data.patch_size", 32),
    ("data.train", "photos/validation"), ("model.predict_mean", False),
    ("train.quantizer.cls", "Mixed"), ("train.optimizer.cls", "SGD"), ("train.ema_decay", 0.5),
    ("train.optimizer.beta_1", 0.0), ("train.warm_start", "mshyper")])
def test_what_changes_the_results_is_named(run, key, value):
    before = contents(run)
    overrides = {key: value}
    if key == "model.predict_mean":
        overrides["model.hyper_synthesis.channels"] = (8, 8, 12)
    with pytest.raises(UserError, match=rf"{key}.* differ.*another folder.*warm_start=") as error:
        train(run, **overrides)
    assert "remove" not in str(error.value)
    assert contents(run) == before


def test_fewer_steps_than_are_done_are_refused(run):
    with pytest.raises(UserError, match="num_steps is 3, but 4 steps are done"):
        train(run, train__num_steps=3)
    assert json.loads((run / "config.json").read_text())["train"]["num_steps"] == 4


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_data_may_be_moved(tmp_path, caplog):
    photos = tmp_path / "here/photos"
    photos.mkdir(parents=True)
    for source in data.find("photos/validation"):
        images.write(photos / f"{pathlib.Path(source.name).stem}.png", source.read()[:96, :96])
    one = dict(train__num_steps=1, data__validation="")
    train(tmp_path / "run", data__train=str(photos), **one)
    (tmp_path / "here").rename(tmp_path / "there")
    photos = tmp_path / "there/photos"
    train(tmp_path / "run", data__train=f"{photos}/*.png", **one)
    change, = runs.fact(tmp_path / "run", "changes")
    assert change["config"] == {"data.train": {
        "before": str(tmp_path / "here/photos"), "after": f"{photos}/*.png"}}
    (photos / "flower.png").unlink()
    with pytest.raises(UserError, match="data.train differ"):
        train(tmp_path / "run", data__train=str(photos), **one)
    assert not caplog.text
    train(tmp_path / "run", data__train=f"{photos}/*.png", **one)
    assert "data.train holds other files than when the run began" in caplog.text


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_the_advice_after_a_divergence_can_be_followed(run, finished):
    with pytest.raises(UserError, match=r"not finite at step [56]: the same command with a lower "
                       r"train.optimizer.learning_rate .* goes on at step 4"):
        train(run, train__num_steps=6, train__optimizer__learning_rate=1e30)
    train(run, train__num_steps=6, train__optimizer__learning_rate=1e-4)
    assert metrics(run)[:6] == metrics(finished)
    assert metrics(run)[-1]["step"] == 6
    assert [change["step"] for change in runs.fact(run, "changes")] == [4, 4]


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_a_rate_by_plateaus_follows_a_lower_rate(tmp_path):
    options = dict(train__schedule=dict(cls="ReduceOnPlateau", patience=10))
    train(tmp_path, train__num_steps=1, train__optimizer__learning_rate=1e-3, **options)
    train(tmp_path, train__num_steps=2, train__optimizer__learning_rate=1e-4, **options)
    rates = [line["learning_rate"] for line in metrics(tmp_path) if line["split"] == "train"]
    assert rates == pytest.approx([1e-3, 1e-4])


# --- Files that cannot be written -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_a_full_disk_is_one_line_and_the_checkpoints_stay(run, monkeypatch):
    def fail(self, *arguments, **options):
        (run / "checkpoints/step-6_temp").mkdir()
        raise tf.errors.ResourceExhaustedError(
            None, None, f"{run}/checkpoints/step-6_temp/part; No space left on device [Op:SaveV2]")

    before = contents(run / "checkpoints")
    monkeypatch.setattr(tf.train.CheckpointManager, "save", fail)
    with pytest.raises(UserError, match=r"^cannot write .*checkpoints/step-6: .*/part; No space "
                                        r"left on device$"):
        train(run, train__num_steps=6)
    assert contents(run / "checkpoints").keys() == before.keys()


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard", "model"])
def test_a_file_where_a_folder_should_be(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=rf"{name}|no checkpoint to go on from"):
        train(tmp_path, train__num_steps=1)
    assert (tmp_path / name).read_text() == "mine"


# --- Models that cannot be used -------------------------------------------------------------------


@pytest.mark.parametrize("key, value, message", [
    ("model.synthesis.channels", (8, 1), "synthesis ends in 1 channels; an image has 3"),
    ("model.synthesis.channels", (8, 4), "synthesis ends in 4 channels"),
    ("model.synthesis.channels", (8, 8, 3), "synthesis has a stride of 8; the analysis has 4"),
    ("model.analysis.channels", (8, 8, 12), "synthesis has a stride of 4; the analysis has 8"),
    ("model.hyper_synthesis.channels", (8, 8, 2), "of y is|predicted of it"),
    ("model.hyper_synthesis.channels", (8, 8, 12), "do not fit together"),
    ("model.hyper_synthesis.channels", (8, 8, 25), "do not fit together"),
    ("model.hyper_synthesis", dict(cls="HyperSynthesisSmall", channels=(8, 24)),
     "hyper-synthesis has a stride of 2; the hyper-analysis has 4"),
    ("model.context", dict(cls="MaskedContext"), "it takes no context"),
    ("model.predict_means", True, "did you mean predict_mean"),
    ("train.rate_target", 0.3, "rate control TwoWeights: it needs above"),
])
def test_what_cannot_be_coded_is_not_trained(tmp_path, key, value, message):
    overrides = {key: value}
    if "TwoWeights" in message:
        overrides["train.rate_control"] = dict(cls="TwoWeights")
    with pytest.raises(UserError, match=message) as error:
        train(tmp_path / "run", **overrides)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


# --- On the command line --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    # test_stopping.py has the other signal.
    command = [sys.executable, "-m", *TRAINING[1:], *TINY, "--experiments_dir", str(tmp_path),
               "--config.train.log_interval=1", "--config.train.checkpoint_interval=100000",
               "--config.data.validation="]
    workdir = tmp_path / "mshyper-small/wid=0-mshyper-small"
    with subprocess.Popen([*command, "--config.train.num_steps=100000"], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 300
        while not (workdir / "metrics.jsonl").exists() or len(metrics(workdir)) < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    step, = checkpoints.steps(workdir / "checkpoints")
    assert f"stopped at step {step} of 100000; the same command goes on" in errors.splitlines()
    assert "\r" not in out and len(out.splitlines()) == 1, "no interval is over"
    with graphs.none():
        goes_on = programs.read(mshyper.train.run, [
            *command[2:], f"--config.train.num_steps={step + 2}"])
        mshyper.train.run(*goes_on.arguments)
    assert [line["step"] for line in metrics(workdir) if line["split"] == "train"] == [
        *range(1, step + 3)]
