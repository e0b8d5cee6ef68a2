import logging
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import configs
from common import data
from common.errors import UserError
from tests.helpers import pictures


def save_plain(folder, count, size=(20, 24)):
    """`count` images; all samples of image i are i."""
    for i in range(count):
        Image.fromarray(np.full((*size, 3), i, np.uint8)).save(folder / f"{i:02}.png")
    return folder


def names(sources):
    return [source.name for source in sources]


def crops(folder, patch_size=16, seed=0, **options):
    return data.Crops(data.find(str(folder)), patch_size, seed, **options)


# --- Finding ----------------------------------------------------------------------------------


def test_folder_glob_and_single_file(tmp_path):
    save_plain(tmp_path, 3)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "UPPER.JPG").touch()
    assert names(data.find(str(tmp_path))) == ["00.png", "01.png", "02.png", "UPPER.JPG"]
    assert names(data.find(f"{tmp_path}/*1.*")) == ["01.png"]
    assert names(data.find(f"{tmp_path}/02.png")) == ["02.png"]


def test_recursive_glob(tmp_path):
    (tmp_path / "inner").mkdir()
    save_plain(tmp_path / "inner", 2)
    assert names(data.find(f"{tmp_path}/**/*.png")) == ["00.png", "01.png"]


def test_a_file_name_with_brackets_is_found(tmp_path):
    path = tmp_path / "photo[1].png"
    Image.new("RGB", (2, 2)).save(path)
    assert [source.path for source in data.find(str(path))] == [path]


def test_named_data_set_lies_below_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(configs, "DATA_DIR", tmp_path)
    with pytest.raises(UserError, match="NTC_DATA_DIR"):
        data.find("kodak")
    (tmp_path / "kodak").mkdir()
    for name in ("kodim02.png", "kodim01.png", "other.png"):
        (tmp_path / "kodak" / name).touch()
    assert names(data.find("kodak")) == ["kodim01.png", "kodim02.png"]


@pytest.mark.parametrize("name", ["kodac", "photos/test", "/no/such/folder", ""])
def test_unknown_name_is_a_user_error_that_lists_the_known_ones(name):
    with pytest.raises(UserError, match="photos.*kodak"):
        data.find(name)


def test_folder_without_images_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no images"):
        data.find(str(tmp_path))


def test_photos_are_split_into_disjoint_halves():
    train, validation = (names(data.find(f"photos/{part}")) for part in ("train", "validation"))
    assert len(train) >= 6 and len(validation) >= 2
    assert not set(train) & set(validation)
    assert names(data.find("photos")) == train + validation
    # Two views of one scene must not be on both sides.
    assert {"motorcycle_left.png", "motorcycle_right.png"} <= set(train)


def test_a_folder_of_the_same_name_is_another(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    built_in = names(data.find("photos/train"))
    assert not caplog.text
    pathlib.Path("photos/train").mkdir(parents=True)
    np.save("photos/train/mine.npy", np.zeros([8, 8, 3], np.uint8))
    assert names(data.find("photos/train")) == built_in
    assert "the folder of that name here is './photos/train'" in caplog.text
    assert names(data.find("./photos/train")) == ["mine.npy"]


@pytest.mark.parametrize("source", data.find("photos"), ids=lambda source: source.name)
def test_every_photo_is_a_colour_photograph_of_the_stated_size(source):
    image = source.read()
    assert image.shape[:2] == source.size()
    assert min(image.shape[:2]) >= 256 and image.dtype == np.uint8
    assert np.mean(np.abs(image[..., 0] - image[..., 2].astype(float))) > 5


def test_what_a_folder_has_besides_is_counted_and_named_once(tmp_path, caplog):
    save_plain(tmp_path, 2)
    (tmp_path / "inner").mkdir()
    for name in ("a.heic", "b.HEIC", "c.txt", "._00.png", ".DS_Store", "d.avif", "e.jfif"):
        (tmp_path / name).touch()
    with caplog.at_level(logging.WARNING, logger="absl"):
        found = names(data.find(str(tmp_path)))
        data.find(str(tmp_path))
    assert found == ["00.png", "01.png", "d.avif", "e.jfif"]
    assert [record.getMessage() for record in caplog.records] == [
        f"data set '{tmp_path}': left out 2 .heic (HEIF: format not read here), 1 .txt, "
        "1 folder(s)"]


def test_a_folder_of_formats_that_are_not_read_is_a_user_error_that_names_them(tmp_path):
    (tmp_path / "a.heic").touch()
    with pytest.raises(UserError, match="no images, only 1 .heic .HEIF: format not read here"):
        data.find(str(tmp_path))


# --- Arrays -----------------------------------------------------------------------------------


def test_array_of_one_image(tmp_path, photo):
    np.save(tmp_path / "a.npy", photo[:30, :40])
    [source] = data.find(str(tmp_path / "a.npy"))
    assert (source.name, source.size()) == ("a.npy", (30, 40))
    np.testing.assert_array_equal(source.read(), photo[:30, :40])


def test_array_of_several_images(tmp_path, photo):
    stack = np.stack([photo[:30, :40], photo[50:80, :40]])
    np.save(tmp_path / "a.npy", stack)
    sources = data.find(str(tmp_path))
    assert names(sources) == ["a.npy[0]", "a.npy[1]"]
    assert [source.size() for source in sources] == [(30, 40)] * 2
    np.testing.assert_array_equal([source.read() for source in sources], stack)


def test_float_array_is_rounded_to_eight_bits(tmp_path):
    np.save(tmp_path / "a.npy", np.float32([[[0, 1, 0.5], [99.6 / 255, 99.4 / 255, 1e-4]]]))
    [source] = data.find(str(tmp_path / "a.npy"))
    assert source.read().dtype == np.uint8
    np.testing.assert_array_equal(source.read(), [[[0, 255, 128], [100, 99, 0]]])


@pytest.mark.parametrize("array", [
    np.zeros((4, 4, 3), np.float64), np.zeros((4, 4, 3), np.int64), np.zeros((4, 4, 4), np.uint8),
    np.zeros((4, 3), np.uint8), np.zeros((1, 1, 4, 4, 3), np.uint8), np.zeros((0, 4, 3), np.uint8),
    np.array([{}])], ids=["float64", "int64", "rgba", "2d", "5d", "empty", "object"])
def test_wrong_array_is_a_user_error(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match="a.npy"):
        data.find(str(tmp_path))


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, np.inf])
def test_float_array_out_of_range_is_a_user_error(tmp_path, value):
    array = np.zeros((4, 4, 3), np.float32)
    array[1, 2, 0] = value
    np.save(tmp_path / "a.npy", array)
    [source] = data.find(str(tmp_path))
    with pytest.raises(UserError, match="a.npy.*0..1"):
        source.read()


def test_truncated_array_is_a_user_error(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match="a.npy"):
        data.find(str(tmp_path))


def test_a_damaged_array_does_not_end_a_folder(tmp_path, caplog):
    save_plain(tmp_path, 2)
    np.save(tmp_path / "a.npy", np.zeros((4, 4, 3), np.uint8))
    whole = (tmp_path / "a.npy").read_bytes()
    rng = np.random.default_rng(0)
    for i in range(200):
        part = bytearray(whole)
        for at in rng.integers(0, 128, 3):
            part[at] = rng.integers(256)
        path = tmp_path / f"b{i}.npy"
        path.write_bytes(part)
        sources = data.find(str(tmp_path))
        assert names(sources)[:3] == ["00.png", "01.png", "a.npy"]
        path.unlink()
    assert "b0.npy" in caplog.text


# --- Crops ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos():
    return data.find("photos/validation")


def test_large_images_are_drawn_more_often_by_size(tmp_path):
    for side in (8, 16, 48):
        Image.fromarray(np.full((side, side, 3), side, np.uint8)).save(tmp_path / f"{side}.png")
    for by_size, expected in ((False, [1, 1, 1]), (True, [1, 1, 3])):
        drawer = crops(tmp_path, by_size=by_size)
        drawn = [int(drawer.draw(n)[0, 0, 0, 0]) for n in range(2 * sum(expected))]
        assert [drawn.count(side) for side in (8, 16, 48)] == [2 * times for times in expected]


def test_draws_are_a_function_of_seed_and_number(photos):
    def make(seed, cache_gib=4.0):
        return data.Crops(photos, 32, seed, min_scale=0.5, cache_gib=cache_gib)

    forward = [make(1).draw(n) for n in range(6)]
    other = make(1, cache_gib=0)
    backward = [other.draw(n) for n in reversed(range(6))][::-1]
    np.testing.assert_array_equal(forward, backward)
    different = [make(2).draw(n) for n in range(6)]
    assert not any(np.array_equal(a, b) for a, b in zip(forward, different))
    assert not any(np.array_equal(forward[0], b) for b in forward[1:])


def test_every_epoch_visits_every_image_once(tmp_path):
    drawer = crops(save_plain(tmp_path, 8))
    assert len(drawer) == 8
    epochs = [[int(drawer.draw(n)[0, 0, 0, 0]) for n in range(8 * e, 8 * e + 8)] for e in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(8))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_crops_are_all_the_parts_of_the_image(tmp_path, photo):
    np.save(tmp_path / "a.npy", photo[:17, :18])
    windows = [photo[top:top + 16, left:left + 16] for top in range(2) for left in range(3)]
    drawer = crops(tmp_path, flip=False)
    draws = [drawer.draw(n)[0] for n in range(60)]
    found = {next(i for i, window in enumerate(windows) if np.array_equal(window, draw))
             for draw in draws}
    assert found == set(range(6))


def test_small_images_are_extended_by_mirroring(tmp_path, photo):
    image = photo[:5, :16]
    np.save(tmp_path / "a.npy", image)
    crop = crops(tmp_path, flip=False, min_scale=0.25).draw(0)[0]
    np.testing.assert_array_equal(crop, np.pad(image, [(0, 11), (0, 0), (0, 0)], "symmetric"))


def test_a_pixel_fills_a_patch(tmp_path):
    np.save(tmp_path / "a.npy", np.full((1, 1, 3), 77, np.uint8))
    crop = crops(tmp_path, min_scale=0.5).draw(3)
    np.testing.assert_array_equal(crop, np.full((1, 16, 16, 3), 77))


@pytest.mark.parametrize("side, lowest", [(256, 0.5), (80, 0.8)])
def test_scales_are_within_their_bounds(tmp_path, side, lowest):
    # On a ramp, the range of a crop tells the width of its window. At side 80, a scale of 0.5
    # would need 128 pixels; the image allows 64 / 80 only.
    ramp = np.broadcast_to(np.linspace(0, 255, side)[:, None], (side, side, 3))
    np.save(tmp_path / "a.npy", np.round(ramp).astype(np.uint8))
    drawer = crops(tmp_path, patch_size=64, min_scale=0.5, flip=False)
    spans = np.array([np.ptp(drawer.draw(n)[0].astype(float)) for n in range(60)])
    scales = 63 / (spans * (side - 1) / 255)
    assert lowest - 0.03 < scales.min() < lowest + 0.15 * (1 - lowest) + 0.03
    assert 1 - 0.15 * (1 - lowest) - 0.03 < scales.max() < 1.03


def test_flipping_is_left_to_right_at_random(tmp_path, photo):
    image = photo[:16, :16]
    np.save(tmp_path / "a.npy", image)
    drawer = crops(tmp_path, flip=True)
    flipped = [np.array_equal(drawer.draw(n)[0], image[:, ::-1]) for n in range(40)]
    straight = [np.array_equal(drawer.draw(n)[0], image) for n in range(40)]
    assert [not f for f in flipped] == straight
    assert 8 < sum(flipped) < 32
    unflipped = crops(tmp_path, flip=False)
    assert all(np.array_equal(unflipped.draw(n)[0], image) for n in range(40))


def test_several_crops_of_one_image(photos):
    draw = data.Crops(photos, 32, 0, crops_per_image=3).draw(0)
    assert draw.shape == (3, 32, 32, 3)
    assert not np.array_equal(draw[0], draw[1]) and not np.array_equal(draw[1], draw[2])


@pytest.mark.parametrize("cache_gib", [4.0, 0.0])
def test_broken_files_are_named_counted_and_skipped(tmp_path, caplog, cache_gib):
    save_plain(tmp_path, 4)
    (tmp_path / "01.png").write_bytes(b"no image")
    (tmp_path / "empty.jpg").touch()
    with caplog.at_level(logging.WARNING, logger="absl"):
        drawer = crops(tmp_path, cache_gib=cache_gib)
    messages = [record.getMessage() for record in caplog.records]
    assert sum("01.png" in m for m in messages) == sum("empty.jpg" in m for m in messages) == 1
    assert any("skipped 2 unreadable of 5 images" in m for m in messages)
    assert sorted(int(drawer.draw(n)[0, 0, 0, 0]) for n in range(3)) == [0, 2, 3]


@pytest.mark.parametrize("cache_gib", [4.0, 0.0])
def test_image_with_a_good_header_and_broken_data(tmp_path, caplog, photo, cache_gib):
    save_plain(tmp_path, 2)
    path = tmp_path / "cut.png"
    Image.fromarray(photo[:40, :40]).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING, logger="absl"):
        drawer = crops(tmp_path, cache_gib=cache_gib)
        seen = {int(drawer.draw(n).max()) for n in range(12)}
    assert seen == {0, 1}
    assert sum("cut.png" in record.getMessage() for record in caplog.records) == 1


def test_file_that_vanishes_during_training_is_replaced(tmp_path, caplog):
    drawer = crops(save_plain(tmp_path, 3), cache_gib=0)
    (tmp_path / "01.png").unlink()
    with caplog.at_level(logging.WARNING, logger="absl"):
        seen = [int(drawer.draw(n)[0, 0, 0, 0]) for n in range(6)]
    assert set(seen) == {0, 2}
    assert sum("01.png" in record.getMessage() for record in caplog.records) == 1
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="any more"):
        drawer.draw(6)


def odd_files(photo):
    """A picture whose notes cannot be written back, and one that its decoder cannot end."""
    damaged = bytearray(pictures.saved(photo[:64, :64], "AVIF"))
    damaged[len(damaged) // 2:] = bytes(len(damaged) - len(damaged) // 2)
    return {"turned.jpg": pictures.saved(photo[:24, :32], "JPEG", exif=pictures.exif(6)),
            "damaged.avif": bytes(damaged)}


@pytest.mark.parametrize("cache_gib", [4.0, 0.0])
def test_odd_files_end_neither_training_nor_its_continuation(tmp_path, photo, caplog, cache_gib):
    save_plain(tmp_path, 3)
    for name, content in odd_files(photo).items():
        (tmp_path / name).write_bytes(content)
    batches = list(data.training_batches(crops(tmp_path, cache_gib=cache_gib), 2, 0, 6))
    assert len(batches) == 6 and "damaged.avif" in caplog.text
    assert "turned.jpg" not in caplog.text
    again = list(data.training_batches(crops(tmp_path, cache_gib=cache_gib), 2, 3, 6))
    np.testing.assert_array_equal(batches[3:], again)


def test_a_file_that_is_damaged_during_training_is_passed_over_in_the_graph(
        tmp_path, photo, caplog):
    folder = save_plain(tmp_path, 2)
    (folder / "c.avif").write_bytes(pictures.saved(photo[:64, :64], "AVIF"))
    drawer = crops(folder, cache_gib=0)
    (folder / "c.avif").write_bytes(odd_files(photo)["damaged.avif"])
    batches = list(data.training_batches(drawer, 1, 0, 6))
    assert sorted({round(float(255 * batch.numpy().max())) for batch in batches}) == [0, 1]
    assert caplog.text.count("c.avif") == 1


def test_only_broken_files_are_a_user_error(tmp_path):
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_text("no image")
    with pytest.raises(UserError, match="none of the 2"):
        crops(tmp_path)


# --- Batches ----------------------------------------------------------------------------------


def test_batches_from_any_step_are_the_tail_of_those_from_the_first(photos):
    drawer = data.Crops(photos, 16, 5, crops_per_image=2, min_scale=0.5)
    whole = list(data.training_batches(drawer, 4, 0, 7))
    tail = list(data.training_batches(drawer, 4, 4, 7))
    assert (len(whole), len(tail)) == (7, 3)
    np.testing.assert_array_equal(whole[4:], tail)
    assert not np.array_equal(whole[0], whole[1])


def test_batches_are_draws_in_order_in_the_unit_interval(photos):
    drawer = data.Crops(photos, 16, 5, crops_per_image=2)
    batches = list(data.training_batches(drawer, 4, 0, 3))
    assert all(batch.shape == (4, 16, 16, 3) and batch.dtype == "float32" for batch in batches)
    expected = np.concatenate([drawer.draw(n) for n in range(6)]).reshape(3, 4, 16, 16, 3)
    np.testing.assert_allclose(batches, expected / 255, rtol=1e-6)


def test_whole_images_come_one_by_one(tmp_path, photo):
    np.save(tmp_path / "a.npy", photo[:30, :41])
    np.save(tmp_path / "b.npy", photo[:7, :5])
    first, second = data.whole_images(data.find(str(tmp_path)))
    assert (first.shape, second.shape) == ((1, 30, 41, 3), (1, 7, 5, 3))
    np.testing.assert_allclose(second[0], photo[:7, :5] / 255.0, rtol=1e-6)


def test_whole_images_go_on_without_one_that_vanishes(tmp_path, caplog):
    sources = data.find(str(save_plain(tmp_path, 3)))
    (tmp_path / "01.png").unlink()
    assert [round(255 * float(tf.reduce_max(image))) for image in data.whole_images(sources)] == [
        0, 2]
    assert "01.png" in caplog.text


def test_readable_names_what_cannot_be_read(tmp_path, caplog):
    save_plain(tmp_path, 2)
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert len(data.readable(data.find(str(tmp_path)))) == 2
    assert "broken.png" in caplog.text and "skipped 1 unreadable of 3" in caplog.text
