"""Data sets of photographs, and random crops of them that depend on nothing but (seed, step).

A data set is named by an entry of `configs.DATASETS`, by `photos/train`, `photos/validation` or
`photos` (both), or by any file, folder or glob of .npy files or image files (common/images.py).
"""

import concurrent.futures
import dataclasses
import functools
import glob
import hashlib
import importlib.util
import json
import math
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from absl import logging
from PIL import Image

import configs
from common import distribution, images
from common import image_formats as formats
from common.errors import UserError

# The colour photographs inside the scikit-image and scikit-learn packages. The two halves of the
# stereo pair (motorcycle) stay on one side of the split.
_PHOTOS = {
    "train": (
        ("skimage", "data/astronaut.png"),
        ("skimage", "data/chelsea.png"),
        ("skimage", "data/motorcycle_left.png"),
        ("skimage", "data/motorcycle_right.png"),
        ("skimage", "data/rocket.jpg"),
        ("sklearn", "datasets/images/china.jpg"),
    ),
    "validation": (
        ("skimage", "data/coffee.png"),
        ("sklearn", "datasets/images/flower.jpg"),
    ),
}
_SUFFIXES = (*formats.SUFFIXES, ".npy")


@dataclasses.dataclass(frozen=True)
class Source:
    """One image of a data set: an image file, or image `index` of a [N, H, W, 3] .npy file."""

    path: pathlib.Path
    index: int | None = None

    @property
    def name(self) -> str:
        return self.path.name if self.index is None else f"{self.path.name}[{self.index}]"

    def size(self) -> tuple[int, int]:
        """Height and width, from the file's header alone. Raises UserError."""
        if self.path.suffix.lower() == ".npy":
            height, width = _open_npy(self.path).shape[-3:-1]
            return height, width
        return images.size(self.path)

    def read(self) -> np.ndarray:
        """The image, uint8 [H, W, 3]. Raises UserError."""
        if self.path.suffix.lower() != ".npy":
            return images.read(self.path)
        array = _open_npy(self.path)
        array = array if self.index is None else array[self.index]
        if array.dtype == np.uint8:
            return np.array(array)
        if not (np.all(array >= 0) and np.all(array <= 1)):  # NaN fails both
            raise UserError(f"{self.path}: float images must lie in 0..1")
        return np.round(array * 255).astype(np.uint8)


def find(name: str) -> list[Source]:
    """The images of a data set, sorted by name. A warning counts and names the files left out.

    Raises:
      UserError: the name is neither a data set nor a path, or no image file is there.
    """
    paths, left_out = images.sift(_find_paths(name), _SUFFIXES)
    if left_out:
        images.warn_once(f"data set '{name}': left out {left_out}")
    sources, errors = [], []
    for path in map(pathlib.Path, paths):
        if path.suffix.lower() != ".npy":
            sources.append(Source(path))
            continue
        try:
            array = _open_npy(path)
        except UserError as error:
            logging.warning("skipped: %s", error)
            errors.append(error)
            continue
        sources += [Source(path)] if array.ndim == 3 else [
            Source(path, i) for i in range(len(array))]
    if errors and not sources:
        raise errors[0]
    if not sources:
        raise UserError(f"data set '{name}' has no images" + (left_out and f", only {left_out}"))
    return sources


def content(sources: Sequence[Source]) -> str:
    """A hash of the names and sizes of the files of a data set, wherever they are."""
    files = [(path.name, path.stat().st_size)
             for path in dict.fromkeys(source.path for source in sources)]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _find_paths(name: str) -> Sequence[str | pathlib.Path]:
    dataset, _, split = name.partition("/")
    if dataset == "photos" and split in ("", *_PHOTOS):
        if os.path.exists(name):
            images.warn_once(f"'{name}' is the data set that ships with scikit-image and "
                             f"scikit-learn; the folder of that name here is './{name}'")
        return [_in_package(package, file) for part in ([split] if split else _PHOTOS)
                for package, file in _PHOTOS[part]]
    if name in configs.DATASETS:
        pattern = str(configs.DATA_DIR / configs.DATASETS[name])
        paths = sorted(glob.glob(pattern))
        if not paths:
            raise UserError(f"data set '{name}': no files match {pattern} "
                            "(set NTC_DATA_DIR to the folder that holds your data sets)")
    elif os.path.isdir(name):
        paths = sorted(os.path.join(name, file) for file in os.listdir(name))
    else:  # a name with brackets may be a file's as it stands
        paths = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
        if not paths:
            known = ", ".join(["photos", *configs.DATASETS])
            raise UserError(f"'{name}' is neither a data set ({known}) nor a path with image files")
    return paths


def _in_package(package: str, file: str) -> pathlib.Path:
    spec = importlib.util.find_spec(package)
    folders = (spec and spec.submodule_search_locations) or []
    path = next((pathlib.Path(folder) / file for folder in folders), None)
    if path is None or not path.exists():
        raise UserError("the data set 'photos' ships inside scikit-image and scikit-learn: "
                        "pip install -r requirements-dev.txt")
    return path


@functools.lru_cache(maxsize=8)
def _open_npy(path: pathlib.Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header raises errors of many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read as an array ({reason})") from None
    if array.ndim not in (3, 4) or array.shape[-1] != 3 or array.dtype not in (
            np.uint8, np.float32) or 0 in array.shape:
        raise UserError(f"{path}: need uint8 or float32 of shape [H, W, 3] or [N, H, W, 3], "
                        f"found {array.dtype} {list(array.shape)}")
    return array


class Crops:
    """Random crops as a pure function of (seed, number of the draw).

    Draw `n` takes one image of a shuffled pass over the set, and from it `crops_per_image`
    crops, each down-scaled by its own random factor and flipped with probability 1/2. Nothing
    depends on the draws before, so training that resumes at any step sees the same data.

    Args:
      sources: the images.
      patch_size: height and width of a crop. Images that are smaller are extended by mirroring.
      seed: integer.
      crops_per_image: crops of one draw.
      min_scale: crops are down-scaled by a factor drawn from [min_scale, 1], never so far that
        the image would be smaller than the patch.
      flip: mirror left and right at random.
      cache_gib: decoded images are kept in memory when the whole set fits into this many GiB.
      by_size: in a pass, an image occurs once for every `patch_size` of sqrt(height * width), so
        that small images among large ones are not seen again and again.

    Raises:
      UserError: no image of the set can be read.
    """

    def __init__(self, sources: Sequence[Source], patch_size: int, seed: int, *,
                 crops_per_image: int = 1, min_scale: float = 1.0, flip: bool = True,
                 cache_gib: float = 4.0, by_size: bool = False):
        self.patch_size = patch_size
        self.crops_per_image = crops_per_image
        self._seed = seed
        # Batches at an epoch's end have images of two.
        self._order = functools.lru_cache(maxsize=2)(self._order_of)
        self._min_scale = min_scale
        self._flip = flip
        self._skipped = set()
        sizes = _of_readable(sources, Source.size)
        fits = sum(3 * h * w for h, w in sizes.values()) / 2**30 <= cache_gib
        self._cache = _of_readable(list(sizes), Source.read) if fits else {}
        self._sources = [source for source in self._cache or sizes for _ in range(
            max(1, round(math.sqrt(math.prod(sizes[source])) / patch_size)) if by_size else 1)]

    def __len__(self) -> int:
        return len(self._sources)

    def draw(self, n: int) -> np.ndarray:
        """Draw number `n` >= 0: uint8 [crops_per_image, patch_size, patch_size, 3]."""
        epoch, position = divmod(int(n), len(self._sources))
        image = self._image(self._order(epoch)[position])
        rng = np.random.default_rng([self._seed, 1, int(n)])
        return np.stack([self._crop(image, rng) for _ in range(self.crops_per_image)])

    def _order_of(self, epoch):
        return np.random.default_rng([self._seed, 0, epoch]).permutation(len(self._sources))

    def _image(self, i: int) -> np.ndarray:
        for k in range(len(self._sources)):
            source = self._sources[(i + k) % len(self._sources)]
            if source in self._cache:
                return self._cache[source]
            try:
                return source.read()
            except UserError as error:  # its successor stands in for a broken file
                if source not in self._skipped:
                    self._skipped.add(source)
                    logging.warning("skipped: %s", error)
        raise UserError("no image of the training set can be read any more")

    def _crop(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        patch = self.patch_size
        missing = [max(0, patch - size) for size in image.shape[:2]]
        if any(missing):
            image = np.pad(image, [(0, m) for m in missing] + [(0, 0)], mode="symmetric")
        lowest = max(self._min_scale, patch / min(image.shape[:2]))
        window = int(round(patch / rng.uniform(min(lowest, 1.0), 1.0)))
        top, left = (int(rng.integers(size - window + 1)) for size in image.shape[:2])
        crop = image[top:top + window, left:left + window]
        if window != patch:
            crop = np.asarray(Image.fromarray(crop).resize(
                (patch, patch), Image.Resampling.LANCZOS))
        return crop[:, ::-1] if self._flip and rng.random() < 0.5 else crop


def readable(sources: Sequence[Source]) -> list[Source]:
    """The images that can be read; the others are named and counted in warnings.

    Raises:
      UserError: none can.
    """
    return list(_of_readable(sources, lambda source: source.read().shape))


def _of_readable(sources: Sequence[Source], function: Callable) -> dict:
    """`function` of every source for which it raises no UserError, by source."""
    def result_or_error(source):
        try:
            return function(source)
        except UserError as error:
            logging.warning("skipped: %s", error)
            return error

    with concurrent.futures.ThreadPoolExecutor() as pool:
        results = list(pool.map(result_or_error, sources))
    good = {s: r for s, r in zip(sources, results) if not isinstance(r, UserError)}
    if len(good) < len(sources):
        logging.warning("skipped %d unreadable of %d images", len(sources) - len(good),
                        len(sources))
    if not good:
        raise UserError(f"none of the {len(sources)} images of the data set can be read")
    return good


def training_batches(crops: Crops, batch_size: int, start_step: int, num_steps: int,
                     batches_per_step: int = 1, share: distribution.Share = distribution.ALL
                     ) -> tf.data.Dataset:
    """The crops of steps `start_step` .. `num_steps` - 1, float32 [N, patch, patch, 3] in [0, 1].

    Args:
      crops: where the images come from.
      batch_size: of all replicas together; a multiple of their number * `crops.crops_per_image`.
      start_step, num_steps: see above.
      batches_per_step: how many batches a step takes, one after the other in one tensor.
      share: the replicas that are fed, one after the other. Each takes N = batch_size / replicas *
        batches_per_step images a step.
    """
    draws = batch_size // crops.crops_per_image // share.replicas  # of a replica's piece
    pieces = batches_per_step * share.count

    def number(i):
        """The number, among the draws of all replicas, of the i-th draw here."""
        i, draw = i // draws, i % draws
        step, replica, batch = (
            i // pieces, i % pieces // batches_per_step, i % batches_per_step)
        piece = (step * batches_per_step + batch) * share.replicas + share.first + replica
        return piece * draws + draw

    def draw(n):
        batch = tf.numpy_function(crops.draw, [n], tf.uint8, stateful=False)
        return tf.ensure_shape(
            batch, [crops.crops_per_image, crops.patch_size, crops.patch_size, 3])

    return (tf.data.Dataset.range(start_step * pieces * draws, num_steps * pieces * draws)
            .map(number).map(draw, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .unbatch().batch(batches_per_step * draws * crops.crops_per_image,
                             drop_remainder=True)
            .map(to_float).prefetch(tf.data.AUTOTUNE))


def whole_images(sources: Sequence[Source]) -> tf.data.Dataset:
    """Whole images, one a batch: float32 [1, H, W, 3] in [0, 1]; without what cannot be read."""
    def read():
        for source in sources:
            try:
                yield source.read()
            except UserError as error:
                logging.warning("skipped: %s", error)

    return (tf.data.Dataset.from_generator(
        read, output_signature=tf.TensorSpec([None, None, 3], tf.uint8))
            .batch(1).map(to_float).prefetch(1))


def to_float(image: tf.Tensor) -> tf.Tensor:
    """uint8 image -> float32 in [0, 1]."""
    return tf.cast(image, tf.float32) / 255.0
