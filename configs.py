"""Where data, runs and released models live, and the names of the data sets.

The environment variables NTC_DATA_DIR, NTC_EXPERIMENTS_DIR and NTC_ZOO_DIR override the folders,
NTC_LPIPS_WEIGHTS and NTC_INCEPTION_WEIGHTS the files.
"""

import os
import pathlib

_ROOT = pathlib.Path(__file__).resolve().parent

DATA_DIR = pathlib.Path(os.environ.get("NTC_DATA_DIR", _ROOT / "data"))
EXPERIMENTS_DIR = pathlib.Path(os.environ.get("NTC_EXPERIMENTS_DIR", "experiments"))
ZOO_DIR = pathlib.Path(os.environ.get("NTC_ZOO_DIR", _ROOT / "zoo"))

# What launch.py gives to Slurm. Options of sbatch; `--slurm` overrides them.
SLURM_DEFAULTS = {"time": "1-00:00:00"}
# Commands of the shell that each job begins with: "module load cuda/11.8".
SLURM_SETUP = []

# Written by `make lpips`.
LPIPS_WEIGHTS = pathlib.Path(
    os.environ.get("NTC_LPIPS_WEIGHTS", DATA_DIR / "lpips" / "lpips_alexnet.npz"))
# Written by `make inception`.
INCEPTION_WEIGHTS = pathlib.Path(
    os.environ.get("NTC_INCEPTION_WEIGHTS", DATA_DIR / "inception" / "inception_fid.npz"))

# Name -> glob below DATA_DIR. The data set `photos` needs no entry: it ships inside
# scikit-image and scikit-learn (see common/data.py).
DATASETS = {
    "kodak": "kodak/kodim*.png",
    "tecnick": "tecnick/*.png",
    "clic": "clic/train/*.png",
    "clic_valid": "clic/valid/*.png",
    "coco": "coco/train2017/*.jpg",
    "div2k": "div2k/*.png",
    "cifar10": "cifar10/train.npy",
    "cifar10_test": "cifar10/test.npy",
    "train": "train/*.jpg",
}
