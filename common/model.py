"""The four verbs that every model of the zoo has.

    infer       image -> latents          continuous, by the encoder networks
    generate    latents -> image + rate   through a quantizer
    encode      latents -> bytes          through a coder
    decode      bytes -> latents          the exact inverse

Everything else is made of these. Compression is infer, then encode; decompression is decode, then
synthesis; a training step is infer, generate, loss; refinement makes the latents
variables and minimises the same loss through generate.

Outside of graphs, where images are coded, infer and the synthesis take large images in tiles, and
so do encode and decode (common/tiles.py).
"""

import contextlib
import math
import os
import types
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from common import coding_tables, data, images, padding, quantizers, tiles, transforms
from common.coders import Decoder, Encoder, StreamDecoder, StreamEncoder
from common.coding_tables import CodingTables
from common.errors import UserError
from common.integer_networks import Network
from common.levels import DEFAULT_QUALITY, Levels
from common.priors import DeepFactorized, Prior

# Latents by the names of the papers: "y" for the image's, "z" for the hyperprior's. Models with
# levels have a "level" too, int32 [B].
Latents = dict[str, tf.Tensor]

# What the transforms take 0 and 1 of an image as, unless a model says otherwise.
PIXEL_RANGE = (-0.5, 0.5)


class Prediction(NamedTuple):
    """The distribution that an entropy model predicts for y.

    Attributes:
      mean: float32 [B, h, w, C].
      deviation: float32 [B, h, w, C]; the standard deviation.
    """

    mean: tf.Tensor
    deviation: tf.Tensor


class Generated(NamedTuple):
    """The result of `Codec.generate`.

    Attributes:
      x_hat: float32 [B, H', W', 3]; the image at the padded size, not clipped.
      latents: as the decoder gets them; those that no quantizer meets, as they were given.
      element_bits: for each latent float32 [B, ...], the information content of its elements.
      offsets: for each latent that a quantizer met, that of its grid, which broadcasts
        to its shape.
      prediction: of y; None if all images have the same.
    """

    x_hat: tf.Tensor
    latents: Latents
    element_bits: dict[str, tf.Tensor]
    offsets: dict[str, tf.Tensor]
    prediction: Prediction | None = None

    @property
    def bits(self) -> dict[str, tf.Tensor]:
        """The information content of each latent, float32 [B], by name."""
        return {name: tf.reduce_sum(bits, axis=[*range(1, bits.shape.rank)])
                for name, bits in self.element_bits.items()}


class Codec(tf.keras.Model):
    """Base of the codecs: a nonlinear transform of the image and an entropy model of the latents.

    Subclasses define `_priors`, `_infer_hyper` and the other three verbs. Images are float32 in
    [0, 1], or to be inferred from also uint8, and may have any height and width.

    Args:
      analysis, synthesis: transforms as in `transforms.build`.
      levels: None for a model of one rate; else arguments of `Levels` (common/levels.py).
      pixel_range: the values that stand for 0 and 1 of an image at the analysis' input and the
        synthesis' output.

    Raises:
      TypeError: these make no codec.

    Attributes:
      levels: see above.
      tables: the range coder's tables; None until `prepare_coding` or an exported model sets them.
      networks: in integers, those whose outputs encoder and decoder must agree on; set likewise.
      fingerprint: of the exported model that it was loaded from, else None.
      precision: that its transforms were loaded for (common/precision.py).
      context: the network that predicts y from what of it is decoded; None if there is none.
    """

    tables: CodingTables | None = None
    # Not a dict: Keras would track its values.
    networks: Mapping[str, Network] = types.MappingProxyType({})
    fingerprint: str | None = None
    precision: str = "float32"

    def __init__(self, analysis: Mapping, synthesis: Mapping, levels: dict | None = None,
                 pixel_range: tuple[float, float] = PIXEL_RANGE):
        if len(pixel_range) != 2 or not -math.inf < pixel_range[0] < pixel_range[1] < math.inf:
            raise TypeError(f"pixel_range is {pixel_range}; need two numbers, the lower first")
        # Whatever the precision of its transforms, Keras should not round the images.
        super().__init__(dtype="float32")
        # Not of the class: Keras would not track the layer that takes its place.
        self.context: transforms.AnyTransform | None = None
        self._black, self._contrast = pixel_range[0], pixel_range[1] - pixel_range[0]
        self.analysis = transforms.build(analysis)
        self.synthesis = transforms.build(synthesis)
        self.levels = Levels(self.analysis.out_channels, **levels) if levels else None
        if self.levels:
            self.levels.condition("analysis", self.analysis)
            self.levels.condition("synthesis", self.synthesis)

    @property
    def priors(self) -> list[Prior]:
        """The priors, in the order of their distributions within `tables`."""
        return [*self._priors, *([self.levels] if self.levels else [])]

    @property
    def _priors(self) -> list[Prior]:
        """Those of all latents but the level."""
        raise NotImplementedError

    def numbers_of(self, prior: Prior) -> range:
        """Numbers of the distributions of one of the priors within `tables`."""
        return next(numbers for other, numbers in coding_tables.numbered(self.priors)
                    if other is prior)

    def channel_numbers(self, prior: DeepFactorized, height: int, width: int) -> np.ndarray:
        """Numbers of the distributions of each element of a latent, int [1, height, width, C]."""
        numbers = self.numbers_of(prior)
        return np.broadcast_to(numbers, (1, height, width, len(numbers)))

    @property
    def strides(self) -> dict[str, int]:
        """The stride of each quantised latent: the pixels a side that a position stands for."""
        return {"y": self.analysis.stride}

    def latent_size(self, height: int, width: int, name: str = "y") -> tuple[int, int]:
        """Rows and columns of a latent of an image of `height` x `width` pixels."""
        stride = self.strides[name]
        return -(-height // stride), -(-width // stride)

    @property
    def tiled(self) -> list[transforms.AnyTransform]:
        """The transforms that take large images in tiles."""
        return [self.analysis, self.synthesis]

    def infer(self, x: tf.Tensor, training: bool = False, level: int | tf.Tensor | None = None
              ) -> Latents:
        """Image [B, H, W, 3] -> latents [B, ceil(H / stride), ceil(W / stride), C].

        Args:
          x: the image.
          training: let batch normalisation take the statistics of the batch.
          level: of a model with levels, for all images or int32 [B]; by default that in the middle.
        """
        return self.at_level(self.to_latent(x, training, level), training, level)

    def at_level(self, y: tf.Tensor, training: bool = False, level: int | tf.Tensor | None = None
                 ) -> Latents:
        """The latents at a level, of an image for which `to_latent` returned `y`.

        That is the same for all levels unless convolutions have scales. Arguments as of `infer`.
        """
        latents = self.level_latent(level, _batch(y))
        if self.levels:
            y = self.levels.apply_gain(y, latents["level"])
        return {**latents, "y": y, **self._infer_hyper(y, training)}

    def level_latent(self, level: int | tf.Tensor | None, batch: int | tf.Tensor) -> Latents:
        """The latent "level" int32 [batch], in a model with levels; else none.

        Raises:
          ValueError: the model has no such level, or none at all.
        """
        if self.levels is None:
            if level is not None:
                raise ValueError("this model was trained for one rate: it has no levels")
            return {}
        if level is None:
            level = self.levels.at_quality(DEFAULT_QUALITY)
        if isinstance(level, int | np.integer) and not 0 <= level < self.levels.count:
            raise ValueError(f"level {level}: this model has 0 to {self.levels.count - 1}")
        return {"level": self.levels.latent(level, batch)}

    def _infer_hyper(self, y: tf.Tensor, training: bool) -> Latents:
        """The other latents of an image, from y at its level."""
        raise NotImplementedError

    def generate(self, latents: Latents, quantizer: quantizers.Quantizer,
                 training: bool = False) -> Generated:
        """Latents -> image and rate.

        Args:
          latents: as from `infer`.
          quantizer: of the latents. If it is differentiable, so is the rate, with continuous
            scales; else the rate is that of the table entries that the coder would use.
          training: as for `infer`.
        """
        raise NotImplementedError

    def encode(self, latents: Latents, coder: StreamEncoder) -> None:
        """Rounds the latents of one image and writes them to `coder`."""
        raise NotImplementedError

    def decode(self, coder: StreamDecoder, height: int, width: int) -> Latents:
        """Reads from `coder` the quantised latents of one image of `height` x `width` pixels."""
        raise NotImplementedError

    def compress(self, image: np.ndarray | Image.Image | str | os.PathLike, *,
                 quality: float | None = None, bpp: float | None = None,
                 max_bytes: float | None = None, psnr: float | None = None, closest: bool = False,
                 max_pixels: int = images.MAX_PIXELS) -> bytes:
        """Codes an image; `ntc.decompress` is the inverse.

        Args:
          image: uint8 [H, W, 3], or what else `coding.as_rgb` takes; an image of Pillow; or the
            path of an image file.
          quality, bpp, max_bytes, psnr: at most one of these, of a model with levels: what the file
            should be, see `targets.Target`. By default the quality is 50.
          closest: if that is out of reach, take what comes closest.
          max_pixels: larger images, after padding, are refused.

        Returns:
          The bytes of a .ntc file.

        Raises:
          UserError: this is not an exported model; `image` is not an image; or the target is out
            of reach, is not the only one, or needs a model with levels.
        """
        from common import targets  # which needs this module

        target = targets.only(quality=quality, bpp=bpp, max_bytes=max_bytes, psnr=psnr)
        image = images.to_array(image, max_pixels)
        return targets.compress(self, image, target, closest=closest, max_pixels=max_pixels).ntc

    def call(self, x: tf.Tensor, level: int | tf.Tensor | None = None,
             quantizer: quantizers.Quantizer | None = None) -> Generated:
        """Evaluation of an image: what a decoder would show, cropped to `x`, and the rate.

        By default latents are rounded as in a file; a quantizer may stop earlier (`passes`). Other
        arguments as of `infer`.
        """
        generated = self.generate(self.infer(x, level=level), quantizer or quantizers.Round())
        return generated._replace(x_hat=padding.crop_to(generated.x_hat, x))

    def to_latent(self, x: tf.Tensor, training: bool = False, level: int | tf.Tensor | None = None
                  ) -> tf.Tensor:
        """Image [B, H, W, 3] -> y, padded inside to a multiple of the analysis' stride.

        In a model with levels it is y before its gain; see `at_level`. Arguments as of `infer`.
        """
        stride = self.analysis.stride

        def in_range(x):
            x = data.to_float(x) if x.dtype == np.uint8 else x
            return padding.pad_to_multiple(x, stride) * self._contrast + self._black

        with self._at(self.level_latent(level, _batch(x)).get("level")):
            return tiles.run(self.analysis, x, down=stride, before=in_range, training=training)

    def to_image(self, y: tf.Tensor, training: bool = False,
                 finish: Callable[[tf.Tensor], tf.Tensor] = tf.identity, *,
                 level: tf.Tensor | None = None) -> tf.Tensor:
        """Quantised y -> image at the padded size; `finish` acts on each of its pixels.

        In a model with levels y is that of `level`, int32 [B].
        """
        def unamplified(y):
            return self.levels.apply_inverse(y, level) if self.levels else y

        with self._at(level):
            return tiles.run(self.synthesis, y, up=self.synthesis.stride, before=unamplified,
                             after=lambda x: finish((x - self._black) / self._contrast),
                             training=training)

    def _at(self, level):
        return self.levels.at(level) if self.levels else contextlib.nullcontext()

    def _level_bits(self, latents: Latents) -> dict[str, tf.Tensor]:
        """The information content of the level, by name; empty in a model of one rate."""
        return {"level": self.levels.bits(latents["level"])} if self.levels else {}

    def _encode_level(self, latents: Latents, coder: Encoder) -> None:
        if self.levels:
            self.levels.encode(latents["level"], coder, self.numbers_of(self.levels).start)

    def _decode_level(self, coder: Decoder) -> Latents:
        if not self.levels:
            return {}
        return {"level": self.levels.decode(coder, self.numbers_of(self.levels).start)}

    def initialize(self) -> None:
        """Creates all weights. Raises ValueError if the parts do not fit together."""
        x = tf.zeros([1, 64, 64, 3])
        latents = self.infer(x)
        generated = self.generate(latents, quantizers.Round())
        channels = generated.x_hat.shape[-1]
        if channels != 3:
            raise ValueError(f"the synthesis ends in {channels} channels; an image has 3")
        stride, ratio = self.analysis.stride, generated.x_hat.shape[1] / latents["y"].shape[1]
        if ratio != stride:
            raise ValueError(f"the synthesis has a stride of {ratio:g}; the analysis has {stride}")
        # Where there is one value instead of many, it would be taken for all of them.
        y, predicted = latents["y"].shape, generated.prediction
        if predicted and not y == predicted.mean.shape == predicted.deviation.shape:
            raise ValueError(f"y is {y.as_list()[1:]}, rows, columns and channels; what is "
                             f"predicted of it, {predicted.deviation.shape.as_list()[1:]}")

    def update_offsets(self) -> None:
        """Recentres the integer grids of the priors; the weights have changed."""
        for prior in self.priors:
            prior.update_offset()

    @property
    def exported(self) -> tuple[CodingTables, str]:
        """The tables and the fingerprint. Raises UserError if this is not an exported model."""
        if self.tables is None or self.fingerprint is None:
            raise UserError("this model was not exported: it has no tables to code with; export it "
                            "(common/export.py) and load it again")
        return self.tables, self.fingerprint

    def integer_networks(self) -> dict[str, Network]:
        """The current networks that coding depends on, as integer networks.

        Raises:
          ConversionError: one has no faithful integer form.
        """
        return {}

    def prepare_coding(self) -> None:
        """Builds tables and integer networks from the current weights. Once, at export.

        Raises:
          ConversionError: as `integer_networks`.
        """
        self.update_offsets()
        self.tables = CodingTables.build(self.priors)
        self.networks = types.MappingProxyType(self.integer_networks())


def _batch(x) -> int | tf.Tensor:
    """Length of the first axis; of a large array without making a tensor of it."""
    return tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
