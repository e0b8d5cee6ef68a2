"""Training on several devices and in several processes is that on one."""

import json
import socket
import types

import numpy as np
import pytest
import tensorflow as tf

from common import data, distribution, quantizers, stopping, training
from common.errors import UserError
from common.training_loop import TrainingLoop
from mshyper.models import MeanScaleHyperprior
from tests.helpers import graphs
from tests.helpers.distribution import configured, run_elsewhere, train, train_with_state
from tests.helpers.runs import assert_alike


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def on_one(tmp_path_factory):
    """The run on one device."""
    workdir = tmp_path_factory.mktemp("one")
    with graphs.none():
        train(workdir, {})
    return workdir


@pytest.mark.slow
def test_two_devices(on_one, tmp_path, monkeypatch, without_graphs):
    """They go on where one was interrupted, and train from the start with all that has a state."""
    end_step = TrainingLoop.end_step

    def interrupt(self, measured):
        end_step(self, measured)
        if self.step == 1:
            stopping.save_all()
            raise InterruptedError

    mirrored = {"strategy": "mirrored"}
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(TrainingLoop, "end_step", interrupt)
        train(tmp_path / "interrupted", mirrored)
    assert tf.train.latest_checkpoint(
        str(tmp_path / "interrupted/checkpoints")).endswith("step-1")
    train_with_state(tmp_path / "one", {})
    run_elsewhere(("train", (tmp_path / "interrupted", mirrored), 2, {}),
                  ("train_with_state", (tmp_path / "two", mirrored), 2, {}))
    assert_alike(tmp_path / "interrupted", on_one)
    # SOAP divides by what is small, and its basis is any where there have been no gradients yet.
    assert_alike(tmp_path / "two", tmp_path / "one", tolerance=1e-3)


@pytest.mark.slow
def test_two_workers(on_one, tmp_path):
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    run_elsewhere(*(
        ("train", (tmp_path, {"strategy": "multi_worker"}), 1, {"TF_CONFIG": json.dumps(
            {"cluster": {"worker": workers}, "task": {"type": "worker", "index": i}})})
        for i in range(2)))
    assert_alike(tmp_path, on_one)
    assert (tmp_path / "model/fingerprint").exists()


def test_the_shares_of_all_replicas_are_the_batch():
    sources = data.find("photos/train")
    crops = data.Crops(sources, 16, seed=0, crops_per_image=2)

    def batches(share):
        return np.stack(list(data.training_batches(crops, 8, 1, 3, 2, share)))

    whole = batches(distribution.ALL)  # of each step two batches of 8
    assert whole.shape == (2, 16, 16, 16, 3)
    first, second = (batches(distribution.Share(first, 1, 2)) for first in (0, 1))
    both = batches(distribution.Share(0, 2, 2)).reshape(2, 2, 8, 16, 16, 3)
    np.testing.assert_array_equal(both[:, 0], first)
    np.testing.assert_array_equal(both[:, 1], second)
    for batch in (0, 1):
        np.testing.assert_array_equal(whole[:, 8 * batch:8 * batch + 4],
                                      first[:, 4 * batch:4 * batch + 4])
        np.testing.assert_array_equal(whole[:, 8 * batch + 4:8 * batch + 8],
                                      second[:, 4 * batch:4 * batch + 4])


def test_the_noise_of_replicas_is_that_of_the_batch(monkeypatch):
    values = tf.zeros([6, 5, 4])

    def noise(values, replica=(1, 0)):
        monkeypatch.setattr(distribution, "replica", lambda: replica)
        return quantizers.UniformNoise(tf.constant([1, 2])).noise(values, "y")

    whole = noise(values)
    assert len(np.unique(whole)) > 100
    for i in range(3):
        np.testing.assert_array_equal(noise(values[:2], (3, i)), whole[2 * i:2 * i + 2])


@pytest.mark.parametrize("tasks, chief", [
    ({"worker": 2}, ("worker", 0)), ({"chief": 1, "worker": 2}, ("chief", 0)),
    ({"evaluator": 1, "worker": 1}, ("worker", 0))])
def test_one_worker_is_the_chief(tasks, chief):
    cluster = tf.train.ClusterSpec({
        kind: [f"{kind}{i}:1" for i in range(count)] for kind, count in tasks.items()})
    found = [(kind, i) for kind in tasks for i in range(tasks[kind]) if distribution.is_chief(
        types.SimpleNamespace(cluster_resolver=tf.distribute.cluster_resolver.SimpleClusterResolver(
            cluster, task_type=kind, task_id=i)))]
    assert found == [chief]


@pytest.mark.parametrize("options, message", [
    ({"strategy": "cluster"}, "'cluster'; known: one, mirrored, multi_worker"),
    ({"strategy": "multi_worker"}, "Slurm job of several tasks"),
])
def test_mistakes_are_named(tmp_path, monkeypatch, options, message):
    for name in ("TF_CONFIG", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=message):
        training.run(MeanScaleHyperprior, configured(options), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_that_cannot_be_shared_is_named(tmp_path, monkeypatch):
    three = [tf.config.LogicalDevice(f"/device:CPU:{i}", "CPU") for i in range(3)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: three)
    with pytest.raises(UserError, match="data.batch_size 4 is not a multiple of "
                                        "data.crops_per_image 1 times 3 devices"):
        training.run(MeanScaleHyperprior, configured({"strategy": "mirrored"}), tmp_path / "run")
