"""What a JPEG says of itself before its pixels: dimensions, components and the EXIF orientation."""

import struct
from dataclasses import dataclass

# SOF0-15 without DHT (C4), JPG (C8) and DAC (CC), which share the range.
START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
START_OF_SCAN, END_OF_IMAGE, APP1 = 0xDA, 0xD9, 0xE1
STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers that carry no length

EXIF = b"Exif\0\0"
ORIENTATION, SHORT = 0x0112, 3  # a tag of EXIF and the kind of its value
UPRIGHT = 1


class PictureError(ValueError):
    """A picture that cannot be used; the message is the short reason."""


@dataclass(frozen=True)
class JpegHeader:
    height: int
    width: int
    components: int
    orientation: int


def jpeg_header(data: bytes) -> JpegHeader:
    """Read the first start-of-frame segment, and the first EXIF segment if it stands before that."""
    at, exif = 2, b""
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
            return JpegHeader(height, width, components, orientation(exif))
        if marker not in STANDALONE and marker != 0:
            length = struct.unpack_from(">H", data, at)[0]
            if marker == APP1 and not exif and data.startswith(EXIF, at + 2):
                exif = data[at + 2 + len(EXIF) : at + length]
            at += length


def orientation(exif: bytes) -> int:
    """Find the orientation, 1 to 8, in a TIFF header and its first directory; 1 in whatever is damaged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return UPRIGHT
    try:
        at = struct.unpack_from(f"{order}I", exif, 4)[0]
        for entry in range(struct.unpack_from(f"{order}H", exif, at)[0]):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, at + 2 + 12 * entry)
            if tag == ORIENTATION:
                return int(value) if kind == SHORT and 1 <= value <= 8 else UPRIGHT
    except struct.error:
        pass
    return UPRIGHT
