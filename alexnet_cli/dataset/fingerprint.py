"""Which libraries make the pixels, and what they make of a few built-in pictures: equal where bytes will be."""

import hashlib
import io

import numpy as np
import PIL
import simplejpeg
import torch
import webdataset
from PIL import Image, features

from alexnet_cli.dataset.images import Pixels, decode, encode, to_square
from alexnet_cli.dataset.treatment import Treatment


def decoder() -> dict[str, str]:
    """Name the libraries that make the pixels, with the fingerprint of what they made of a few pictures."""
    return {
        "torch": torch.__version__,
        "simplejpeg": simplejpeg.__version__,
        "pillow": PIL.__version__,
        "libjpeg-turbo": features.version("libjpeg_turbo") or "unknown",
        "webdataset": webdataset.__version__,
        "fingerprint": fingerprint(),
    }


def fingerprint() -> str:
    """Digest built-in pictures taken through decode, resize and encode: equal where the bytes will be."""
    digest = hashlib.sha256()
    for height, width in ((375, 500), (500, 333), (96, 64), (256, 256)):
        pixels = pattern(height, width)
        for data in (encode(pixels), saved(pixels, "PNG", "RGB"), saved(pixels, "JPEG", "CMYK")):
            square = to_square(decode(data))
            digest.update(encode(square))
    digest.update(encode(square, Treatment(encoding="png")))
    return digest.hexdigest()


def pattern(height: int, width: int) -> Pixels:
    """Draw a picture with edges, slopes and fine texture in integers only."""
    y, x = np.mgrid[:height, :width]
    planes = (x * 255 // width, (x * x + 3 * y * y) // 97 % 256, (x // 16 + y // 16) % 2 * 200 + y % 16)
    return np.stack(planes, axis=2).astype(np.uint8)


def saved(pixels: Pixels, form: str, mode: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form)
    return file.getvalue()
