"""Pages of TIFF files: which of them is the picture, and what Pillow reads wrongly of it."""

import contextlib
import itertools
import os

from PIL import TiffImagePlugin

from common.errors import UserError

# Tags that Pillow has no names of.
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, PHOTOMETRIC, _DNG_VERSION = 254, 255, 262, 50706


def is_camera_raw(image: TiffImagePlugin.TiffImageFile, start: bytes) -> bool:
    """Whether the pages are previews of what a camera's sensor saw.

    Args:
      image: the opened file.
      start: its first bytes.
    """
    return _DNG_VERSION in image.tag_v2 or start[8:10] == b"CR"


def turn_to_picture(image: TiffImagePlugin.TiffImageFile, path: str | os.PathLike) -> None:
    """Turns a TIFF file to its first page that is not a smaller copy of another, and counts those.

    Raises:
      UserError: there is none.
    """
    pages = []
    with contextlib.suppress(Exception):  # the end, or a page that cannot be read
        for page in itertools.count():
            image.seek(page)
            if not _is_reduced(image):
                pages.append(page)
    if not pages:
        raise UserError(f"{path}: what can be read of it is only a smaller copy of the picture "
                        "(a thumbnail); convert it to PNG, JPEG or another TIFF")
    image.seek(pages[0])
    image.info["icc_profile"] = image.tag_v2.get(TiffImagePlugin.ICCPROFILE)  # of this page
    image.info["pictures"] = len(pages)


def _is_reduced(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether a page says that it is a smaller copy or a mask, or has a larger one below it."""
    tags = image.tag_v2
    with contextlib.suppress(Exception):  # what is damaged says nothing
        if tags.get(_NEW_SUBFILE_TYPE, 0) & 5 or tags.get(_SUBFILE_TYPE) == 2:
            return True
        below = tags.get(TiffImagePlugin.SUBIFD, ())
        for offset in below if isinstance(below, tuple) else (below,):
            directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=tags.prefix)
            image.fp.seek(offset)  # type: ignore[union-attr]
            directory.load(image.fp)  # type: ignore[arg-type]
            if directory.get(TiffImagePlugin.IMAGEWIDTH, 0) > tags[TiffImagePlugin.IMAGEWIDTH]:
                return True
    return False


def read_planes(image: TiffImagePlugin.TiffImageFile) -> None:
    """Lets libtiff read colours of 16 bits stored one after the other, which Pillow takes for 8."""
    if set(image.tag_v2[TiffImagePlugin.BITSPERSAMPLE]) == {16} and image.tile[0][0] == "raw":
        image.use_load_libtiff = True
        image.tile = [image.tile[0]._replace(
            codec_name="libtiff", extents=(0, 0, *image._tile_size), offset=0,
            args=(f"{image.mode};16N", False, image.tag_v2.offset))]
