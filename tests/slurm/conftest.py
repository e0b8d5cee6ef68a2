"""A Slurm of one node, for tests that submit jobs."""

import os
import pathlib
import shutil
import subprocess

import pytest

_SCRIPTS = pathlib.Path(__file__).parent


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """Starts Slurm for this process and those that it starts; skips where there is none.

    Every process of pytest-xdist has its own, with its own folder and ports.
    """
    search = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    if not all(shutil.which(program, path=search) for program in ("sbatch", "slurmd", "munged")):
        pytest.skip("needs Slurm: apt-get install slurm-wlm munge")
    folder = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        try:
            subprocess.run([_SCRIPTS / "start.sh", folder], check=True)
            yield folder
        finally:
            subprocess.run([_SCRIPTS / "stop.sh", folder], check=False)
