"""What coding takes: pictures in the forms that libraries have them in, and nothing else."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from common import coding, filters, inspection, methods, refinement, targets
from common.coding_tables import CodingTables
from common.errors import UserError
from common.objectives import Objective
from tests.helpers.small_models import CLASSES, CONFIGS, shared


@pytest.fixture
def picture(photo):
    return photo[100:150, 200:270]


@pytest.fixture
def model(monkeypatch):
    found = shared("mean_scale")
    monkeypatch.setattr(found, "fingerprint", "0" * 64)
    return found


GOOD = {
    "float32": lambda rgb: (rgb / np.float32(255), rgb),
    "float64": lambda rgb: (rgb / 255.0, rgb),
    "float16": lambda rgb: ((rgb / 255.0).astype(np.float16), rgb),
    "tensor": lambda rgb: (tf.constant(rgb) / 255, rgb),
    "bytes in a tensor": lambda rgb: (tf.constant(rgb), rgb),
    "black": lambda rgb: (np.zeros(rgb.shape), np.zeros_like(rgb)),
    "grey": lambda rgb: (rgb[..., 1], rgb[..., [1, 1, 1]]),
    "grey with an axis": lambda rgb: (rgb[..., 1:2], rgb[..., [1, 1, 1]]),
    "grey floats": lambda rgb: (rgb[..., 1] / 255, rgb[..., [1, 1, 1]]),
    "rounded": lambda rgb: (np.full(rgb.shape, 0.5), np.full_like(rgb, 128)),
    "a view": lambda rgb: (rgb[::-1, ::2], rgb[::-1, ::2].copy()),
    "in Fortran's order": lambda rgb: (np.asfortranarray(rgb), rgb),
}


@pytest.mark.parametrize("case", GOOD)
def test_pictures(case, model, picture):
    given, meant = GOOD[case](picture)
    found = coding.as_rgb(given)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, meant)
    assert coding.compress(model, given) == coding.compress(model, meant)


BAD = {
    "0 to 255 in floats": (lambda rgb: rgb.astype(np.float32), "values from .*to 255.* to uint8"),
    "below 0": (lambda rgb: rgb / 127.5 - 1, "values from -"),
    "nan": (lambda rgb: np.where(rgb > 90, np.nan, 0.5), "values from nan"),
    "inf": (lambda rgb: np.where(rgb > 90, np.inf, 0.5), "to inf"),
    "16 bits": (lambda rgb: rgb.astype(np.uint16) * 257, "uint16.*divide by 65535"),
    "int64": (lambda rgb: rgb.astype(np.int64), "image of int64"),
    "int8": (lambda rgb: rgb.astype(np.int8), "image of int8"),
    "bool": (lambda rgb: rgb > 128, "image of bool"),
    "complex": (lambda rgb: rgb * 1j, "image of complex"),
    "objects": (lambda rgb: rgb.astype(object), "image of object"),
    "strings": (lambda rgb: rgb.astype(str), "image of <U"),
    "transparency": (lambda rgb: np.dstack([rgb, rgb[..., 0]]), "70 x 4 has a fourth channel"),
    "grey and transparency": (lambda rgb: rgb[..., :2], "2 channels"),
    "channels first": (lambda rgb: np.moveaxis(rgb, -1, 0), "70 channels.*with channels last"),
    "batch": (lambda rgb: rgb[None], "1 x 50 x 70 x 3 is a batch.*one image"),
    "line": (lambda rgb: rgb[0, :, 0], "array of 70 is not an image"),
    "number": (lambda rgb: np.uint8(3), "type uint8 is not an array"),
    "no axes": (lambda rgb: np.array(3, np.uint8), "no axes"),
    "no rows": (lambda rgb: rgb[:0], "0 x 70 x 3 has no pixels"),
    "no columns": (lambda rgb: rgb[:, :0], "50 x 0 x 3 has no pixels"),
    "no channels": (lambda rgb: rgb[:, :, :0], "no pixels"),
    "list": (lambda rgb: rgb.tolist(), "type list is not an array"),
    "none": (lambda rgb: None, "type NoneType"),
    "path": (lambda rgb: "photo.png", "type str"),
    "bytes": (lambda rgb: rgb.tobytes(), "type bytes"),
    "PIL": (Image.fromarray, "type Image"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_picture_is_one_clear_error(case, model, picture):
    make, message = BAD[case]
    given = make(picture)
    refiner = refinement.Refiner(model, methods.method("sga"), Objective(0.01))
    for take in (coding.as_rgb, lambda x: coding.compress(model, x),
                 lambda x: coding.infer(model, x), lambda x: coding.measure(model, x),
                 lambda x: targets.compress(model, x, targets.Target("bpp", 1)),
                 lambda x: refiner.infer(model, x),
                 lambda x: coding.compress(model, x, to_latents=refiner.infer),
                 lambda x: inspection.inspect(model, x),
                 lambda x: filters.measure_channels(model, x)):
        with pytest.raises(UserError, match=message) as error:
            take(given)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [
    lambda x: x * 255, lambda x: (x * 255).astype(np.uint8), lambda x: x[0], lambda x: x[..., :1],
    lambda x: x[:0], lambda x: np.where(x > 0.3, np.float32(np.nan), x)])
def test_refinement_takes_batches_of_floats(make, model, picture):
    refiner = refinement.Refiner(model, methods.method("sga"), Objective(0.01))
    with pytest.raises(UserError, match="need float32 from 0 to 1"):
        refiner(make(picture[None].astype(np.float32) / 255))


@pytest.mark.parametrize("change, message", [
    (lambda latents: {**latents, "y": latents["y"][:, 1:]}, "latents y of 1 x 3 x 5 positions"),
    (lambda latents: {**latents, "z": latents["z"][0]}, "latents z of"),
    (lambda latents: {**latents, "y": np.repeat(latents["y"], 2, axis=0)}, "y of 2 x 4 x 5"),
    (lambda latents: {"y": latents["y"]}, "there is no z among the latents")])
def test_latents_of_another_size_are_refused(change, message, model, picture):
    latents = coding.infer(model, picture)
    assert coding.decompress(model, coding.encode(model, latents, 50, 70)).shape == (50, 70, 3)
    with pytest.raises(UserError, match=message):
        coding.encode(model, change(latents), 50, 70)
    with pytest.raises(UserError, match="are not those of one image of 65 x 80"):
        coding.encode(model, latents, 80, 65)


# --- Claims that their stream does not hold -----------------------------------------------------


@pytest.fixture(params=["factorized", "mean_scale", "joint_ar"])
def any_model(request, monkeypatch):
    found = shared(request.param)
    monkeypatch.setattr(found, "fingerprint", "0" * 64)
    return found


@pytest.mark.parametrize("stream", [b"", b"\0", b"\xff\xff", b"some"])
@pytest.mark.parametrize("height, width", [(16, 2_000_000), (1, 12_000_000), (12_000_000, 1),
                                           (14_000, 14_000)])
def test_a_few_bytes_that_claim_a_large_image(any_model, height, width, stream, monkeypatch):
    decoded = []
    read = coding.RangeDecoder._read
    monkeypatch.setattr(coding.RangeDecoder, "_read", lambda self, numbers: (
        decoded.append(numbers.size), read(self, numbers))[1])
    monkeypatch.setattr(type(any_model), "to_image", None)
    monkeypatch.setattr(type(any_model), "_decode_y", None, raising=False)
    file = coding.Container("00000000", height, width, stream, 0).pack()
    with pytest.raises(UserError, match="cannot be decoded"):
        coding.decompress(any_model, file)
    assert sum(decoded) < 1000


@pytest.mark.parametrize("name", ["mean_scale", "joint_ar"])
def test_a_stream_that_ends_before_y_is_noticed(name, monkeypatch, photo):
    model = shared(name)
    monkeypatch.setattr(model, "fingerprint", "0" * 64)
    picture = photo[:, :592]
    latents = coding.infer(model, picture)
    encoder = coding.RangeEncoder(model.tables)
    z = tf.round(latents["z"] - model.z_prior.offset)
    encoder.encode(z, model.channel_numbers(model.z_prior, *z.shape[1:3]))
    file = coding.Container("00000000", *picture.shape[:2], encoder.finish(), encoder.crc)
    with pytest.raises(UserError, match="ends before its symbols|outside of the tables among"):
        coding.decode(model, file.pack())


@pytest.mark.parametrize("value", [0, 127, 255])
def test_flat_images_cost_few_bytes_and_decode(any_model, value):
    flat = np.full((600, 1200, 3), value, np.uint8)
    assert coding.decompress(any_model, coding.compress(any_model, flat)).shape == flat.shape


def test_a_stream_of_almost_nothing_decodes(monkeypatch):
    """Symbols that are certain take no bytes: claims are measured by what symbols need."""
    model = CLASSES["factorized"](**CONFIGS["factorized"])
    model.initialize()
    model.prepare_coding()
    model.fingerprint = "0" * 64
    sizes = model.tables.sizes
    # One count for every other symbol, and all others for that of 0.
    cdfs = []
    for size, minimum in zip(sizes[:-1], model.tables.minima):
        counts = np.ones(size + 1, int)
        counts[-minimum] += 2**16 - counts.sum()
        cdfs += [[16], np.cumsum([0, *counts])]
    cdfs.append(model.tables.cdfs[-(sizes[-1] + 3):])
    model.tables = CodingTables(
        np.concatenate(cdfs).astype(np.int32), model.tables.minima, sizes)
    height, width = 1024, 2048
    y = np.broadcast_to(model.prior.offset, (1, *model.latent_size(height, width), 12))
    ntc = coding.encode(model, {"y": y}, height, width)
    assert len(ntc) < 1500
    np.testing.assert_array_equal(coding.decode(model, ntc).latents["y"], y)
