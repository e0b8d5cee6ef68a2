"""What a file decodes to does not depend on the machine's arithmetic; what floats say does."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from common import coding, export, integer_builder, priors, transforms
from common.transforms import contract, mbt2018
from tests.helpers import small_mixture, small_models

ROOT = pathlib.Path(__file__).parent.parent
# Pictures for each model; z has a stride of 64, so the first is not padded.
SIZES = {"joint_ar": [(64, 128), (67, 131)], "joint_gated": [(67, 131)], "mixture": [(131, 67)]}
SETTINGS = {  # besides those of the process that the tests run in
    "one thread": dict(threads=1, TF_ENABLE_ONEDNN_OPTS="0", OPENBLAS_NUM_THREADS="1"),
    "XLA": dict(threads=2, TF_XLA_FLAGS="--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit"),
}

DECODE = """
import functools, hashlib, json, sys
import tensorflow as tf
threads, *paths = sys.argv[1:]
tf.config.threading.set_intra_op_parallelism_threads(int(threads))
tf.config.threading.set_inter_op_parallelism_threads(int(threads))
from common import zoo
from common.container import Container
from common.range_coding import RangeDecoder

load = functools.cache(zoo.load)
digest = lambda *tensors: hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()
found = {}
for path in paths:
    model = load(path.rpartition("/")[0] + "/model")
    container = Container.unpack(open(path, "rb").read(), 10**9)
    coder = RangeDecoder(model.tables, container.stream)
    latents = model.decode(coder, container.height, container.width)
    assert coder.crc == container.symbols_crc
    z = tf.round(latents["z"] - model.z_prior.offset)
    network = model.networks["hyper_synthesis"]
    psi = network(z)
    found[path] = [digest(latents["y"]), digest(latents["z"]), digest(*psi)]
    if path != paths[0]:  # one file says the rest
        continue
    if threads == "1":
        batch, = network(tf.concat([z + 1, z, -z], axis=0))
        forms = [digest(batch[1:2])]
        for jit in (False, True):
            forms.append(digest(*tf.function(network, jit_compile=jit)(z)))
        assert {*forms} == {digest(*psi)}, "batched, in a graph or with XLA the network is another"
    found["in floats"] = digest(tf.function(model.hyper_synthesis)(latents["z"]))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def decoded(tmp_path_factory, photo):
    """By setting: digests of what the same files decode to, here and in processes of their own."""
    folder, here = tmp_path_factory.mktemp("models"), {}
    for name, sizes in SIZES.items():
        if name == "mixture":
            model, config = small_mixture.make(), {
                "package": "hific", "module": "mixture", "model": small_mixture.CONFIG}
        else:
            model, config = small_models.shared(name), {
                "package": "joint_ar", "model": small_models.CONFIGS[name]}
        model.fingerprint = export.save(model, config, folder / name / "model")
        for height, width in sizes:
            path = folder / name / f"{height}x{width}.ntc"
            path.write_bytes(coding.compress(model, photo[100:100 + height, 200:200 + width]))
            latents = coding.decode(model, path.read_bytes()).latents
            here[str(path)] = [
                hashlib.sha256(latents[name].numpy()).hexdigest() for name in ("y", "z")]
    results = {}
    for name, setting in SETTINGS.items():
        environment = {k: v for k, v in setting.items() if k.isupper()}
        process = subprocess.run(
            [sys.executable, "-c", DECODE, str(setting["threads"]), *here],
            cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr[-3000:]
        results[name] = json.loads(process.stdout.splitlines()[-1])
    return here, results


def test_a_file_decodes_to_the_same_latents_under_all_settings(decoded):
    here, processes = decoded
    reference = processes["one thread"]
    # The arithmetics that are compared do differ.
    assert len({found.pop("in floats") for found in processes.values()}) > 1
    assert len(reference) == sum(map(len, SIZES.values()))
    assert {path: digests[:2] for path, digests in reference.items()} == here
    for setting, found in processes.items():
        assert found == reference, setting


def test_floats_flip_an_index_and_integers_do_not():
    """The same weights and latents; two ways to run the network, both correct."""
    tf.keras.utils.set_random_seed(0)
    channels = 64
    layer = transforms.build(dict(cls="HyperSynthesis", channels=(32, 32, 2 * channels)))
    assert isinstance(layer, mbt2018.HyperSynthesis)
    z = tf.round(tf.random.normal([1, 96, 96, 32], stddev=3.0, seed=1))
    layer(z[:, :2, :2])
    prior = priors.ScaleTable()
    builder = integer_builder.Builder()
    output = contract.integers(layer, builder, builder.input(0, 32, 0, 2**12))
    log_scale = builder.slice(output, channels, 2 * channels)
    integers = builder.network(prior.integer_index(builder, log_scale))

    def floats(z):
        return [tf.round(prior.index(layer(z)[..., channels:]))]

    flips = {}
    for name, network in (("floats", floats), ("integers", integers)):
        plain, xla = (tf.function(network, jit_compile=jit)(z)[0] for jit in (False, True))
        assert len(np.unique(plain)) > 20  # not all at the ends of the table
        flips[name] = int(np.sum(plain.numpy() != xla.numpy()))
    assert flips["floats"] > 0
    assert flips["integers"] == 0
