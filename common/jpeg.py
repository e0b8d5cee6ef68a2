"""JPEG by Pillow (4:2:0), the codec that everybody knows, for comparison."""

import io

import numpy as np
from PIL import Image

SETTINGS = {"subsampling": "4:2:0", "optimize": True}


def encode(image: np.ndarray, quality: int) -> bytes:
    """A uint8 image [H, W, 3] as JPEG with optimised Huffman tables; quality is 1..95."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, **SETTINGS)
    return file.getvalue()


def decode(jpeg: bytes) -> np.ndarray:
    """The image of a JPEG file, or of any other that Pillow reads, uint8 [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def nearest(image: np.ndarray, num_bytes: int) -> bytes:
    """The JPEG whose size is nearest to `num_bytes`, over all qualities from 1 to 95."""
    return min((encode(image, quality) for quality in range(1, 96)),
               key=lambda jpeg: abs(len(jpeg) - num_bytes))
