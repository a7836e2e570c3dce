"""One decode and one resize for preparation and prediction, so that both see the same pixels.

Pictures come from strangers: the format is told by the content, the dimensions are read from the header
before anything is decoded, and whatever is wrong with a picture comes out as `PictureError`.
"""

import io
import re
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from alexnet_cli import paper
from alexnet_cli.dataset.headers import ORIENTATION, UPRIGHT, JpegHeader, jpeg_header
from alexnet_cli.dataset.headers import PictureError as PictureError
from alexnet_cli.dataset.treatment import CHROMA, LONGEST, Encoding, Treatment
from alexnet_cli.errors import AlexNetError

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB, each row in one piece: as the JPEG libraries have them
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
EXTENSIONS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
    ".png": "PNG",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".webp": "WEBP",
}
PIXEL_LIMIT = 178_956_970  # where Pillow refuses of itself

FILTER = "bilinear"  # chosen by measurement: docs/preparation.md
PNG_LEVEL = 1  # of deflate: on photographs zlib's own 6 saves a tenth of the bytes for four times the work

# As numpy writes it: by reading nothing else, no parser of headers is open to strangers.
RAW_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '\|u1', 'fortran_order': False, "
    rb"'shape': \(([1-9]\d{0,5}), ([1-9]\d{0,5}), 3\), \} *\n",
    re.DOTALL,
)

GREY, DEEP, CMYK, ALPHA, TURNED = "grey", "16-bit", "CMYK", "transparent", "with EXIF rotation"


def is_picture(name: str) -> bool:
    """Tell by its extension whether a file is meant to be a picture."""
    return Path(name).suffix.lower() in EXTENSIONS


@dataclass(frozen=True)
class Opened:
    """A picture's pixels, words for what it was ("PNG", "CMYK") and its EXIF orientation, 1 to 8."""

    pixels: Pixels
    kinds: tuple[str, ...] = ()
    orientation: int = UPRIGHT


def decode(data: bytes) -> Pixels:
    """Give a file's pixels: grey repeated, alpha over white, CMYK converted, 16 bits to their high byte.

    EXIF rotation is not applied, as in 2012. Raises PictureError and nothing else.
    """
    return opened(data).pixels


def prepared(content: bytes | np.ndarray, treatment: Treatment) -> Opened:
    """Give what is stored of a file's bytes, or of decoded (H, W) or (H, W, 3) pixels; raises PictureError."""
    if isinstance(content, bytes):
        found = opened(content)
    else:
        found = Opened(from_array(content), (GREY,) if content.ndim == 2 else ())
    pixels = upright(found.pixels, found.orientation) if treatment.exif else found.pixels
    return Opened(treated(pixels, treatment), found.kinds)


def misnamed(name: str, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Say it where a name promises another format than the content has: ("PNG named .jpeg",)."""
    suffix = Path(name).suffix.lower()
    promised = EXTENSIONS.get(suffix)
    form = kinds[0] if kinds and kinds[0] in FORMATS else promised
    return (f"{form} named {suffix}",) if promised and promised != form else ()


def opened(data: bytes) -> Opened:
    if not data:
        raise PictureError("empty file")
    if data.startswith(b"\xff\xd8"):
        header = jpeg_header(data)
        check_size(header.height, header.width)
        if header.components in (1, 3):
            return open_plain_jpeg(data, header)
    return open_with_pillow(data)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn and mirror what a camera stored in one of EXIF's eight orientations."""
    if orientation == UPRIGHT:
        return pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    across = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::down, ::across])


def check_size(height: int, width: int) -> None:
    if not height or not width:
        raise PictureError(f"no pixels: {width}×{height}")
    if height * width > PIXEL_LIMIT:
        raise PictureError(f"too large: {width}×{height} is more than {PIXEL_LIMIT // 10**6} million pixels")


def open_plain_jpeg(data: bytes, header: JpegHeader) -> Opened:
    """Decode grey and three-colour JPEG with libjpeg-turbo.

    It refuses whatever is not quite right. Pillow, whose pixels are the same, then tells a damage that every
    reader lives with (stray bytes, a wrong bit) from a file that is cut short.
    """
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
    except (ValueError, RuntimeError, MemoryError):
        return open_with_pillow(data)
    kinds = ["JPEG"]
    if header.components == 1:
        kinds.append(GREY)
    if header.orientation != UPRIGHT:
        kinds.append(TURNED)
    return Opened(pixels, tuple(kinds), header.orientation)


def open_with_pillow(data: bytes) -> Opened:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "possibly corrupt EXIF", large pictures: judged here instead
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                check_size(image.height, image.width)
                image.load()
                turn = orientation_of(image)
                return Opened(rgb(image), kinds_of(image, data, turn), turn)
    except (PictureError, AlexNetError):  # a signal's error may arrive here, and is not the picture's fault
        raise
    except PIL.UnidentifiedImageError:
        raise PictureError(f"not a picture in a known format ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise PictureError(f"too large: more than {PIXEL_LIMIT // 10**6} million pixels") from None
    except Exception as error:  # Pillow's readers raise almost anything on damaged files
        raise PictureError(short_reason(error)) from None


def orientation_of(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION, UPRIGHT)
    except AlexNetError:  # a signal's
        raise
    except Exception:  # damaged EXIF is no reason to reject a picture
        return UPRIGHT
    return value if type(value) is int and 1 <= value <= 8 else UPRIGHT


def kinds_of(image: Image.Image, data: bytes, orientation: int) -> tuple[str, ...]:
    # What begins as a JPEG is one, also where Pillow finds several pictures in it and calls that MPO.
    form = "JPEG" if data.startswith(b"\xff\xd8") else str(image.format)
    found = {
        GREY: image.mode in ("1", "L", "LA") or image.mode.startswith("I"),
        DEEP: image.mode.startswith("I") or (form == "PNG" and data[24] == 16),
        CMYK: image.mode == "CMYK",
        ALPHA: image.has_transparency_data,
        TURNED: orientation != UPRIGHT,
    }
    return (form, *(kind for kind, there in found.items() if there))


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


def treated(pixels: Pixels, treatment: Treatment) -> Pixels:
    """Resize and cut as the geometry says."""
    if treatment.geometry == "warp":
        return resize(pixels, treatment.size, treatment.size)
    if treatment.geometry == "shorter":
        return shortened(pixels, treatment.size)
    return to_square(pixels, treatment.size)


def to_square(pixels: Pixels, size: int = paper.IMAGE_SIZE) -> Pixels:
    """Resize until the shorter side is `size`, then cut out the middle (paper §2).

    The whole picture is resized and then cut: the other order gives other pixels at the border of the square.
    """
    return central(shortened(pixels, size), size, size)


def shortened(pixels: Pixels, size: int) -> Pixels:
    """Resize until the shorter side is `size`; what is longer than LONGEST times that loses its ends first."""
    shorter = min(pixels.shape[:2])
    pixels = central(pixels, *(min(side, LONGEST * shorter) for side in pixels.shape[:2]))
    return resize(pixels, *resized(pixels.shape[0], pixels.shape[1], size))


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize in the memory order the pixels have, which torch is told by the strides of a batch of one."""
    if (height, width) == pixels.shape[:2]:
        return pixels
    picture = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    picture = functional.interpolate(picture, (height, width), mode=FILTER, antialias=True)
    return picture.contiguous(memory_format=torch.channels_last)[0].permute(1, 2, 0).numpy()


def load_square(data: bytes, treatment: Treatment | None = None) -> torch.Tensor:
    """Give contiguous uint8 (3, size, size) of a picture file's bytes; raises PictureError.

    Of a treatment that cuts nothing it is the middle.
    """
    treatment = treatment or Treatment()
    square = central(prepared(data, treatment).pixels, treatment.size, treatment.size)
    return torch.from_numpy(square).permute(2, 0, 1).contiguous()


def encode(pixels: Pixels, treatment: Treatment | None = None) -> bytes:
    """Give pixels as the bytes that are stored.

    JPEG is by Pillow, with the accurate cosine transform: simplejpeg takes the fast one below quality 96, 0.9 dB
    worse.
    """
    treatment = treatment or Treatment()
    file = io.BytesIO()
    if treatment.encoding == "raw":
        np.save(file, np.ascontiguousarray(pixels), allow_pickle=False)
    elif treatment.encoding == "png":
        Image.fromarray(pixels).save(file, "PNG", compress_level=PNG_LEVEL)
    else:
        Image.fromarray(pixels).save(file, "JPEG", quality=treatment.quality, subsampling=CHROMA)
    return file.getvalue()


def read_stored(data: bytes, encoding: Encoding, target: Pixels) -> None:
    """Read a stored picture into `target`; raises PictureError where it is damaged or of another shape.

    What claims another shape is refused before it is decoded.
    """
    try:
        if encoding == "jpeg":
            shape = simplejpeg.decode_jpeg(data, "RGB", buffer=target).shape
        else:
            pixels = raw_pixels(data) if encoding == "raw" else png_pixels(data, target.shape)
            shape = pixels.shape
            if shape == target.shape:
                target[:] = pixels
    except AlexNetError:  # a signal's
        raise
    except Exception as error:
        raise PictureError(short_reason(error)) from None
    if shape != target.shape:
        raise PictureError(f"{shape[1]}×{shape[0]} pixels instead of {target.shape[1]}×{target.shape[0]}")


def png_pixels(data: bytes, shape: tuple[int, ...]) -> Pixels:
    """Decode a PNG of a known shape, without warnings: they are no business of a loader's threads."""
    if data[16:24] != struct.pack(">II", shape[1], shape[0]):
        raise PictureError("a PNG of another size, or none")
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        if (image.height, image.width) != shape[:2] or image.mode != "RGB":
            raise PictureError("a PNG of another kind")
        return np.asarray(image)


def raw_pixels(data: bytes) -> Pixels:
    """Give the pixels of a stored .npy, read-only; raises PictureError for what is no uint8 (H, W, 3)."""
    header = RAW_HEADER.match(data)
    if header is None:
        raise PictureError("not a .npy of uint8 (H, W, 3)")
    height, width, start = int(header[1]), int(header[2]), header.end()
    if len(data) - start != 3 * height * width:
        raise PictureError(f"{len(data) - start} bytes for {width}×{height} pixels")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(height, width, 3)
