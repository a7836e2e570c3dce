"""One decode and one resize for preparation and prediction, so that both see the same pixels.

Pictures come from strangers: the format is told by the content, the dimensions are read from the header
before anything is decoded, and whatever is wrong with a picture comes out as `PictureError`.
"""

import hashlib
import io
import struct
import warnings
from pathlib import Path

import numpy as np
import PIL
import simplejpeg
import torch
import webdataset
from numpy.typing import NDArray
from PIL import Image, features
from torch.nn import functional

from alexnet_cli import paper
from alexnet_cli.errors import AlexNetError

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB, each row in one piece: as the JPEG libraries have them
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
EXTENSIONS = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".png",
        ".gif",
        ".bmp",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
    )
)
PIXEL_LIMIT = 178_956_970  # where Pillow refuses of itself
LONGEST = 16  # a picture longer than this many times its shorter side is cut to that length first

# Chosen by measurement: docs/preparation.md.
FILTER = "bilinear"
QUALITY = 95
CHROMA = "4:2:0"

# SOF0-15 without DHT (C4), JPG (C8) and DAC (CC), which share the range.
START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers that carry no length


class PictureError(ValueError):
    """A picture that cannot be used; the message is the short reason."""


def is_picture(name: str) -> bool:
    """Tell by its extension whether a file is meant to be a picture."""
    return Path(name).suffix.lower() in EXTENSIONS


def decode(data: bytes) -> Pixels:
    """Give a file's pixels: grey repeated, alpha over white, CMYK converted, 16 bits to their high byte.

    EXIF rotation is not applied, as in 2012. Raises PictureError and nothing else.
    """
    if not data:
        raise PictureError("empty file")
    if data.startswith(b"\xff\xd8"):
        height, width, components = jpeg_header(data)
        check_size(height, width)
        if components in (1, 3):
            return decode_plain_jpeg(data)
    return decode_with_pillow(data)


def jpeg_header(data: bytes) -> tuple[int, int, int]:
    """Give height, width and number of components from the first start-of-frame segment."""
    at = 2
    while True:
        # Like libjpeg, step over stray bytes and over any number of fill bytes before a marker.
        at = data.find(b"\xff", at)
        while at >= 0 and data[at : at + 1] == b"\xff":
            at += 1
        if at < 0 or at + 9 > len(data) or data[at] in (START_OF_SCAN, END_OF_IMAGE):
            raise PictureError("truncated or damaged JPEG header")
        marker, at = data[at], at + 1
        if marker in START_OF_FRAME:
            height, width, components = struct.unpack_from(">HHB", data, at + 3)
            return height, width, components
        if marker not in STANDALONE and marker != 0:
            at += struct.unpack_from(">H", data, at)[0]


def check_size(height: int, width: int) -> None:
    if not height or not width:
        raise PictureError(f"no pixels: {width}×{height}")
    if height * width > PIXEL_LIMIT:
        raise PictureError(f"too large: {width}×{height} is more than {PIXEL_LIMIT // 10**6} million pixels")


def decode_plain_jpeg(data: bytes) -> Pixels:
    """Decode grey and three-colour JPEG with libjpeg-turbo.

    It refuses whatever is not quite right. Pillow, whose pixels are the same, then tells a damage that every
    reader lives with (stray bytes, a wrong bit) from a file that is cut short.
    """
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
    except (ValueError, RuntimeError, MemoryError):
        return decode_with_pillow(data)
    return pixels


def decode_with_pillow(data: bytes) -> Pixels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "possibly corrupt EXIF", large pictures: judged here instead
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                check_size(image.height, image.width)
                image.load()
                return rgb(image)
    except (PictureError, AlexNetError):  # a signal's error may arrive here, and is not the picture's fault
        raise
    except PIL.UnidentifiedImageError:
        raise PictureError(f"not a picture in a known format ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise PictureError(f"too large: more than {PIXEL_LIMIT // 10**6} million pixels") from None
    except Exception as error:  # Pillow's readers raise almost anything on damaged files
        raise PictureError(short_reason(error)) from None


def rgb(image: Image.Image) -> Pixels:
    """Give an opened picture's pixels; what is transparent shows white."""
    if image.mode.startswith("I"):
        return deep_grey(np.asarray(image))
    if image.mode == "F":
        raise PictureError("floating-point pixels")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        image = Image.alpha_composite(white, picture)
    return np.array(image.convert("RGB"))


def deep_grey(pixels: np.ndarray) -> Pixels:
    """Keep the high byte of 16-bit grey, as the PNG and PPM readers do for 16-bit colour."""
    if pixels.min() < 0 or pixels.max() > 65535:
        raise PictureError("more than 16 bits a pixel")
    return from_array((pixels >> 8).astype(np.uint8))


def short_reason(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0][:160]
    return text or type(error).__name__


def from_array(pixels: np.ndarray) -> Pixels:
    """Give a copy of decoded uint8 pixels that are (H, W) grey or (H, W, 3) RGB."""
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else np.array(pixels, order="C")


def resized(height: int, width: int, size: int) -> tuple[int, int]:
    """Give the height and width when the shorter side becomes `size`; the longer is rounded down.

    Rounding down, in integers, is what torchvision's Resize does.
    """
    shorter = min(height, width)
    return height * size // shorter, width * size // shorter


def central(pixels: Pixels, height: int, width: int) -> Pixels:
    """Cut the middle out; an odd pixel that is left over stays below or to the right."""
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def to_square(pixels: Pixels, size: int = paper.IMAGE_SIZE) -> Pixels:
    """Resize until the shorter side is `size`, then cut out the middle (paper §2).

    The whole picture is resized and then cut: the other order gives other pixels at the border of the square.
    """
    shorter = min(pixels.shape[:2])
    pixels = central(pixels, *(min(side, LONGEST * shorter) for side in pixels.shape[:2]))
    height, width = resized(pixels.shape[0], pixels.shape[1], size)
    if (height, width) != pixels.shape[:2]:
        pixels = resize(pixels, height, width)
    return central(pixels, size, size)


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize in the memory order the pixels have, which torch is told by the strides of a batch of one."""
    picture = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    picture = functional.interpolate(picture, (height, width), mode=FILTER, antialias=True)
    return picture.contiguous(memory_format=torch.channels_last)[0].permute(1, 2, 0).numpy()


def load_square(data: bytes, size: int = paper.IMAGE_SIZE) -> torch.Tensor:
    """Give contiguous uint8 (3, size, size) of a picture file's bytes; raises PictureError."""
    return torch.from_numpy(to_square(decode(data), size)).permute(2, 0, 1).contiguous()


def encode(pixels: Pixels) -> bytes:
    """Give pixels as JPEG of the recorded quality and chroma.

    By Pillow, with the accurate cosine transform: simplejpeg takes the fast one below quality 96, 0.9 dB worse.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY, subsampling=CHROMA)
    return file.getvalue()


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
            digest.update(encode(to_square(decode(data))))
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
