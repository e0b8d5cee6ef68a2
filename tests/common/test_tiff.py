import numpy as np
import pytest

from common import images
from common.errors import UserError
from tests.helpers import pictures

# Pages of a TIFF file.
THUMBNAIL = (pictures.tiff_tags(2, 2, _254=(4, [1])), bytes(4))
WHOLE = (pictures.tiff_tags(4, 4), bytes(range(16)))


def test_damaged_pages_below_a_tiff():
    for offset in (0, 3, 10**6, 2**32 - 1):
        page = ({**WHOLE[0], 330: (4, [offset])}, WHOLE[1])
        read = images.read(pictures.tiff([page]))
        np.testing.assert_array_equal(read[..., 0], np.arange(16).reshape(4, 4))


@pytest.mark.parametrize("pages", [[WHOLE, THUMBNAIL], [THUMBNAIL, WHOLE],
                                   [THUMBNAIL, THUMBNAIL, WHOLE]])
def test_thumbnails_are_passed_over(pages, caplog):
    read = images.read(pictures.tiff(pages))
    np.testing.assert_array_equal(read[..., 0], np.arange(16).reshape(4, 4))
    assert not caplog.records


def test_a_profile_of_another_page_is_not_used():
    other = {**pictures.tiff_tags(4, 4), 34675: (7, pictures.grey_profile(1.0))}
    read = images.read(pictures.tiff([WHOLE, (other, WHOLE[1])]))
    np.testing.assert_array_equal(read[..., 0], np.arange(16).reshape(4, 4))


@pytest.mark.parametrize("file", [
    pictures.tiff([THUMBNAIL]),
    pictures.tiff([THUMBNAIL], sub=[WHOLE]),
    pictures.tiff([(pictures.tiff_tags(2, 2), bytes(4))], sub=[WHOLE])],
    ids=["alone", "flagged", "smaller"])
def test_what_is_only_a_thumbnail_is_refused(file):
    with pytest.raises(UserError, match="thumbnail"):
        images.read(file)


def test_previews_of_cameras_are_refused(tmp_path):
    with pytest.raises(UserError, match="camera raw: format not read here"):
        images.read(pictures.tiff([(pictures.tiff_tags(4, 4, _50706=(1, [1, 4, 0, 0])), WHOLE[1])]))
    (tmp_path / "a.NEF").write_bytes(pictures.tiff([WHOLE]))
    with pytest.raises(UserError, match="a.NEF: camera raw: format not read here"):
        images.read(tmp_path / "a.NEF")
