"""The zoo from Python."""

import concurrent.futures
import io
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import codec
import ntc
from common import coding, export, images, zoo

MODEL = zoo.DEFAULT


@pytest.fixture(scope="module")
def model():
    return ntc.load(MODEL)


@pytest.fixture
def image(photo):
    return photo[100:167, 200:331]


def test_three_lines(model, image):
    file = model.compress(image, quality=40)
    assert file == coding.compress(model, image, level=model.levels.at_quality(40))
    decoded = ntc.decompress(file)
    np.testing.assert_array_equal(decoded, coding.decompress(model, file))
    assert decoded.dtype == np.uint8 and decoded.shape == image.shape
    found = ntc.decode(file)
    assert found.latents["y"].shape == (1, 5, 9, model.analysis.out_channels)
    assert (found.height, found.width) == image.shape[:2]


def test_paths_and_images_of_pillow_are_what_arrays_are(model, image, tmp_path):
    expected = model.compress(image)
    Image.fromarray(image).save(tmp_path / "photo.png")
    assert model.compress(tmp_path / "photo.png") == expected
    assert model.compress(str(tmp_path / "photo.png")) == expected
    assert model.compress(Image.fromarray(image)) == expected
    grey = Image.fromarray(image).convert("L")
    assert model.compress(grey) == model.compress(np.asarray(grey))
    clear = Image.fromarray(np.dstack([image, np.zeros(image.shape[:2], np.uint8)]))
    assert model.compress(clear) == model.compress(np.full_like(image, 255))
    (tmp_path / "photo.ntc").write_bytes(expected)
    np.testing.assert_array_equal(ntc.decompress(tmp_path / "photo.ntc"), ntc.decompress(expected))


def test_dials_are_those_of_the_command(model, image, tmp_path):
    assert len(model.compress(image, max_bytes=900)) <= 900
    Image.fromarray(image).save(tmp_path / "photo.png")
    codec.main(["compress", "--model", MODEL, "--precision", "float32", "--bpp", "0.8",
                str(tmp_path / "photo.png"), str(tmp_path / "photo.ntc")])
    assert model.compress(image, bpp=0.8) == (tmp_path / "photo.ntc").read_bytes()
    smallest = model.compress(image, max_bytes=1, closest=True)
    assert len(smallest) <= len(model.compress(image, quality=0)) < 900


@pytest.mark.parametrize("dials, message", [
    (dict(quality=101), "need 0 to 100"), (dict(quality=5, bpp=1), "quality and bpp are given"),
    (dict(max_bytes=3), "out of reach"), (dict(psnr=99), "out of reach")])
def test_dials_that_make_no_sense(model, image, dials, message):
    with pytest.raises(ntc.UserError, match=message):
        model.compress(image, **dials)


def test_what_is_no_image_and_no_file(model, tmp_path):
    with pytest.raises(ntc.UserError, match="no such file|No such file|none.png"):
        model.compress(tmp_path / "none.png")
    with pytest.raises(ntc.UserError, match="not an array"):
        model.compress([[1, 2], [3, 4]])
    with pytest.raises(ntc.UserError, match="No such file"):
        ntc.decompress(tmp_path / "none.ntc")
    with pytest.raises(ntc.UserError, match="not a .ntc file"):
        ntc.decode(b"GIF89a" + bytes(40))
    with pytest.raises(ntc.UserError, match="no model 'mshyper-9'"):
        ntc.load("mshyper-9")


def test_a_model_that_was_not_exported_codes_nothing(model, image):
    path = export.find(MODEL)
    bare = export.build(zoo.find_class(path), export.read_config(path))
    with pytest.raises(ntc.UserError, match="was not exported"):
        bare.compress(image)
    with pytest.raises(ntc.UserError, match="was not exported"):
        ntc.decompress(model.compress(image), bare)


def test_a_model_of_one_rate_has_no_dials(image, one_rate_models):
    model = ntc.load(one_rate_models[0])
    assert ntc.decompress(model.compress(image), model).shape == image.shape
    with pytest.raises(ntc.UserError, match="needs a model with levels"):
        model.compress(image, quality=40)


@pytest.mark.parametrize("module, others", [
    ("ntc", "numpy"), ("common.training, common.itinf", "tensorflow_compression")])
def test_importing_changes_nothing(module, others):
    """Neither Pillow's limits, flags, environment, gc, nor what Python and logging show."""
    state = f"""
import gc, logging, os, warnings
import absl.flags, absl.logging
import {others}  # with filters and flags of its own
from PIL import Image
def state():
    flags = absl.flags.FLAGS
    return (Image.MAX_IMAGE_PIXELS, warnings.filters[:], absl.logging.get_verbosity(),
            logging.root.level, logging.root.handlers[:], sorted(flags), dict(os.environ),
            gc.isenabled(), gc.get_threshold(), gc.get_freeze_count())
before = state()
import {module}
assert state() == before, (before, state())
"""
    done = subprocess.run([sys.executable, "-c", state], cwd=pathlib.Path(ntc.__file__).parent,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_loading_twice_and_coding_in_threads(model, image):
    other = ntc.load(MODEL)
    assert other is not model
    expected = [model.compress(image, quality=quality) for quality in (20, 40, 60, 80)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        files = list(pool.map(lambda quality: other.compress(image, quality=quality),
                              (20, 40, 60, 80)))
        pictures = list(pool.map(ntc.decompress, files))
    assert files == expected
    for file, picture in zip(files, pictures):
        np.testing.assert_array_equal(picture, coding.decompress(model, file))


def written(image, name):
    buffer = io.BytesIO()
    image.save(buffer, name)
    return buffer.getvalue()


@pytest.mark.parametrize("file", [
    lambda grey, rgba: written(Image.fromarray(grey), "PPM"),  # mode I in Pillow
    lambda grey, rgba: written(Image.fromarray(grey), "PNG"),
    lambda grey, rgba: written(Image.frombytes(
        "I;16B", grey.shape[::-1], grey.astype(">u2").tobytes()), "TIFF"),
    lambda grey, rgba: written(Image.fromarray(rgba), "TIFF"),
    lambda grey, rgba: written(Image.fromarray(rgba[..., :2], "LA"), "PNG"),
    lambda grey, rgba: written(Image.fromarray(rgba).quantize(), "PNG"),
    lambda grey, rgba: written(Image.fromarray(rgba, "CMYK"), "TIFF")],
    ids=["I", "I;16", "I;16B", "RGBA", "LA", "P", "CMYK"])
def test_an_image_of_pillow_is_what_its_file_is(file):
    grey = np.linspace(0, 65535, 60).astype(np.uint16).reshape(6, 10)
    rgba = np.arange(240, dtype=np.uint8).reshape(6, 10, 4)
    content = file(grey, rgba)
    expected = images.read(content)
    assert np.ptp(expected) > 50
    np.testing.assert_array_equal(images.to_array(Image.open(io.BytesIO(content))), expected)


def test_transparency_of_other_modes_is_white():
    clear = Image.new("RGBA", (4, 3), (90, 10, 200, 0))
    for picture in (clear.convert("RGBa"), clear.convert("LA").convert("La"),
                    Image.new("PA", (4, 3), (0, 0))):
        np.testing.assert_array_equal(images.to_array(picture), 255)


@pytest.mark.parametrize("picture, message", [
    (Image.new("F", (4, 3)), "floating-point samples"),
    (Image.new("I", (4, 3), 70000), "32-bit samples"),
    (Image.new("RGB", (0, 0)), "no pixels"), (Image.new("RGB", (200, 200)), "more than 0.01 mega"),
    (lambda: Image.open(io.BytesIO(written(Image.effect_noise((99, 99), 50), "JPEG")[:1500])),
     "the image: cannot be read as an image")])
def test_an_image_of_pillow_that_cannot_be_taken(picture, message):
    with pytest.raises(ntc.UserError, match=message):
        images.to_array(picture() if callable(picture) else picture, 10000)
