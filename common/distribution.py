"""Training on several devices, as train.strategy says: on those of a machine, or on many machines.

Every replica takes its share of the crops and of the noise of each batch. The replica's number says
which share, so that training gives the same on any number of devices, up to the order of sums.
(Batch normalisation sees the share only.)
"""

import json
import os
from typing import Any, NamedTuple

import tensorflow as tf

from common import arguments
from common.errors import UserError

# Ports of a job's workers begin at a number of these that follows from its id: two jobs may share
# a machine.
_PORTS = range(20_000, 30_000)
_PORTS_PER_JOB = 16


class Share(NamedTuple):
    """The replicas whose batches are made here.

    Attributes:
      first: number of the first of the replicas that are fed here.
      count: how many of them there are.
      replicas: how many there are in all.
    """

    first: int
    count: int  # type: ignore[assignment]  # tuples have one too
    replicas: int


ALL = Share(first=0, count=1, replicas=1)


def build(name: str) -> tf.distribute.Strategy:
    """The strategy of this name; to be called before TensorFlow does anything else.

    Args:
      name: "one" (device), "mirrored" (all GPUs of this machine, or else all logical CPUs), or
        "multi_worker" (one worker in each task of a Slurm job, or as TF_CONFIG says).

    Raises:
      UserError: there is no such strategy, or no workers for it.
    """
    if name == "one":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(
            [device.name for device in tf.config.list_logical_devices("GPU")
             or tf.config.list_logical_devices("CPU")])
    if name != "multi_worker":
        raise arguments.unknown("train.strategy", name, ("one", "mirrored", "multi_worker"))
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if "SLURM_STEP_NUM_TASKS" not in os.environ:
        raise UserError("train.strategy multi_worker needs a Slurm job of several tasks, as by "
                        "ntasks_per_node=2, or TF_CONFIG in the environment")
    os.environ["TF_CONFIG"] = json.dumps(_slurm_config())
    return tf.distribute.MultiWorkerMirroredStrategy()


def _slurm_config() -> dict:
    """TF_CONFIG of this task of a Slurm job."""
    jobs = len(_PORTS) // _PORTS_PER_JOB
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=_PORTS[int(os.environ["SLURM_JOB_ID"]) % jobs * _PORTS_PER_JOB],
        # It fails without a GPU for each task, and with those that Slurm binds to tasks: this says
        # that there are some, and that it should leave alone which.
        gpus_per_node=int(os.environ["SLURM_STEP_NUM_TASKS"]), gpus_per_task=1, auto_set_gpu=False)
    return {"cluster": resolver.cluster_spec().as_dict(),
            "task": {"type": resolver.task_type, "index": resolver.task_id}}


def share(context: tf.distribute.InputContext | None) -> Share:
    """The replicas that a pipeline of images feeds, if TensorFlow tells it; else all."""
    if context is None:
        return ALL
    count = context.num_replicas_in_sync // context.num_input_pipelines
    return Share(context.input_pipeline_id * count, count, context.num_replicas_in_sync)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes the run's folder."""
    resolver = strategy.cluster_resolver
    jobs = resolver.cluster_spec().jobs if resolver else []
    chief = "chief" if "chief" in jobs else "worker"
    return not jobs or (resolver.task_type, resolver.task_id) == (chief, 0)


def replica() -> tuple[int, int | tf.Tensor]:
    """The number of replicas, and which of them this code is of."""
    context = tf.distribute.get_replica_context()
    if context is None:  # the code is of all
        return 1, 0
    return context.num_replicas_in_sync, context.replica_id_in_sync_group


def mean(values: Any) -> Any:
    """The mean over all replicas of each tensor of a nested structure."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
