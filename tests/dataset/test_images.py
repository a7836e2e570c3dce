import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image, ImageOps

from alexnet_cli.dataset import images
from alexnet_cli.dataset.fingerprint import fingerprint
from alexnet_cli.dataset.images import (
    PictureError,
    decode,
    encode,
    from_array,
    load_square,
    misnamed,
    prepared,
    raw_pixels,
    read_stored,
    to_square,
    treated,
)
from alexnet_cli.dataset.treatment import EXTENSIONS, QUALITY, Treatment, described, treatment_of

from .conftest import photograph


def saved(picture: Image.Image, form: str, **words: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **words)
    return file.getvalue()


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def reference_square(picture: np.ndarray, size: int) -> np.ndarray:
    """The central square of `reference_shorter`."""
    out = reference_shorter(picture, size)
    top, left = (out.shape[0] - size) // 2, (out.shape[1] - size) // 2
    return out[top : top + size, left : left + size]


def reference_shorter(picture: np.ndarray, size: int) -> np.ndarray:
    height, width = picture.shape[:2]
    shorter = min(height, width)
    return reference_resize(picture, height * size // shorter, width * size // shorter)


def reference_resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Triangle-filter resampling in float64, written from its definition."""
    rows, columns = triangle(picture.shape[0], height), triangle(picture.shape[1], width)
    return np.einsum("yh,hwc,xw->yxc", rows, picture.astype(np.float64), columns, optimize=True)


def triangle(old: int, new: int) -> np.ndarray:
    scale = old / new
    support = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale
    distance = np.abs(np.arange(old)[None] + 0.5 - centres[:, None]) / support
    weights = np.clip(1 - distance, 0, None)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("height,width", [(375, 500), (500, 333), (301, 299), (64, 91), (256, 256), (257, 999)])
def test_square_is_the_triangle_filter_to_one_grey_level(height: int, width: int) -> None:
    picture = np.asarray(photograph(3, height, width))
    square = to_square(from_array(picture))
    assert square.shape == (256, 256, 3) and square.dtype == np.uint8
    assert np.abs(square - reference_square(picture, 256)).max() <= 1.5


@pytest.mark.parametrize("size", [64, 100, 257])
@pytest.mark.parametrize("height,width", [(375, 500), (500, 333), (41, 64), (257, 999)])
def test_every_geometry_is_the_triangle_filter_to_one_grey_level(size: int, height: int, width: int) -> None:
    picture = np.asarray(photograph(6, height, width))
    for geometry, reference in (
        ("crop", reference_square(picture, size)),
        ("warp", reference_resize(picture, size, size)),
        ("shorter", reference_shorter(picture, size)),
    ):
        found = treated(from_array(picture), Treatment(geometry, size))
        assert found.shape == reference.shape and found.dtype == np.uint8
        assert np.abs(found - reference).max() <= 1.5


def test_warping_agrees_with_pillow() -> None:
    picture = photograph(4, 375, 500)
    expected = np.asarray(picture.resize((256, 256), Image.Resampling.BILINEAR)).astype(int)
    found = prepared(saved(picture, "PNG"), Treatment("warp")).pixels
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_the_longest_pictures_lose_their_ends() -> None:
    strip = np.zeros((2, 1000, 3), dtype=np.uint8)
    assert treated(strip, Treatment("shorter", 10)).shape == (10, 160, 3)
    assert treated(strip.transpose(1, 0, 2).copy(), Treatment("shorter", 10)).shape == (160, 10, 3)
    assert treated(strip, Treatment("warp", 10)).shape == (10, 10, 3)


def test_square_agrees_with_pillow() -> None:
    picture = photograph(4, 375, 500)
    expected = picture.resize((341, 256), Image.Resampling.BILINEAR).crop((42, 0, 298, 256))
    difference = to_square(decode(saved(picture, "PNG"))).astype(int) - np.asarray(expected).astype(int)
    assert np.abs(difference).max() <= 1


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    picture = photograph(1, 256, 256)
    square = load_square(saved(picture, "PNG"))
    assert square.shape == (3, 256, 256) and square.dtype == torch.uint8 and square.is_contiguous()
    assert np.array_equal(square.permute(1, 2, 0).numpy(), np.asarray(picture))


@pytest.mark.parametrize("height,width", [(1, 1), (1, 100_000), (100_000, 2), (5, 3)])
def test_tiny_and_very_long_pictures(height: int, width: int) -> None:
    square = to_square(np.full((height, width, 3), 7, dtype=np.uint8))
    assert np.unique(square).tolist() == [7] and decode(encode(square)).shape == (256, 256, 3)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_as_pillow_decodes_it(subsampling: int, progressive: bool) -> None:
    for seed, (height, width) in enumerate(((200, 300), (201, 299), (17, 33))):
        picture = Image.fromarray(textured(seed, height, width))
        data = saved(picture, "JPEG", quality=80 + 9 * seed, subsampling=subsampling, progressive=progressive)
        assert np.array_equal(simplejpeg.decode_jpeg(data), opened(data))
        assert np.array_equal(decode(data), opened(data))


def textured(seed: int, height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(-20, 21, (height, width, 3))
    return np.clip(np.asarray(photograph(seed, height, width)) + noise, 0, 255).astype(np.uint8)


def test_grey_is_repeated() -> None:
    grey = photograph(2, 40, 50).convert("L")
    for data in (saved(grey, "PNG"), saved(grey, "JPEG"), saved(grey, "PPM"), saved(grey, "BMP")):
        picture = decode(data)
        assert (picture == picture[:, :, :1]).all()
        assert np.abs(picture[:, :, 0].astype(int) - np.asarray(grey).astype(int)).max() < 12


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_every_lossless_form(form: str) -> None:
    picture = photograph(2, 40, 50).quantize(64).convert("RGB")
    data = saved(picture, form, **({"lossless": True} if form == "WEBP" else {}))
    assert np.array_equal(decode(data), np.asarray(picture))


def test_transparency_shows_white() -> None:
    half = Image.new("RGBA", (4, 4), (200, 0, 100, 128))
    half.putpixel((0, 0), (0, 0, 0, 0))
    picture = decode(saved(half, "PNG"))
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert np.abs(picture[2, 2] - np.array([227.4, 127, 177.2])).max() <= 1


def test_transparent_palette_shows_white() -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((0, 0), 0)
    picture = decode(saved(palette, "PNG", transparency=0))
    assert picture[0, 0].tolist() == [255, 255, 255] and picture[1, 1].tolist() == [40, 50, 60]


def test_cmyk_jpeg_has_the_right_colours() -> None:
    for colour in ((250, 10, 10), (10, 240, 20), (255, 255, 255), (0, 0, 0)):
        data = saved(Image.new("RGB", (32, 32), colour).convert("CMYK"), "JPEG", quality=95)
        assert np.abs(decode(data).astype(int) - np.array(colour)).max() <= 6


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    grey = (np.arange(256, dtype=np.uint16) * 256).reshape(16, 16)
    assert np.array_equal(decode(saved(Image.fromarray(grey), "PNG"))[:, :, 0], grey >> 8)
    assert np.array_equal(decode(b"P5 16 16 65535\n" + grey.astype(">u2").tobytes())[:, :, 0], grey >> 8)
    rows = b"".join(b"\0" + row.astype(">u2").repeat(3).tobytes() for row in grey)
    assert np.array_equal(decode(png(16, 16, 16, 2, rows))[:, :, 1], grey >> 8)


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def turned(form: str, orientation: int, order: str = "<") -> bytes:
    """A picture with an EXIF orientation, in either byte order."""
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F] = "a camera"
    exif[0x0112] = orientation
    words = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(form, {})
    return saved(photograph(1, 30, 60), form, exif=exif.tobytes(), **words)


def test_rotation_is_not_applied() -> None:
    data = turned("JPEG", 6)
    assert decode(data).shape == (30, 60, 3)
    assert prepared(data, Treatment("shorter", 30)).pixels.shape == (30, 60, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form, order", [("JPEG", "<"), ("JPEG", ">"), ("PNG", "<"), ("WEBP", ">")])
def test_rotation_is_applied_when_asked_for(form: str, order: str, orientation: int) -> None:
    data = turned(form, orientation, order)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    found = prepared(data, Treatment("shorter", 30, exif=True))
    assert np.array_equal(found.pixels, expected) and found.pixels.flags.c_contiguous
    assert ("with EXIF rotation" in found.kinds) == (orientation != 1)
    plain = prepared(data, Treatment("shorter", 30))
    assert plain.kinds == found.kinds and plain.pixels.shape == (30, 60, 3)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_is_none(orientation: int) -> None:
    found = prepared(turned("JPEG", orientation), Treatment("shorter", 30, exif=True))
    assert found.pixels.shape == (30, 60, 3) and found.kinds == ("JPEG",)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_damaged_exif_never_rejects_a_picture_and_is_silent(form: str) -> None:
    good = turned(form, 6)
    start = good.index(b"Exif\0\0" if form == "JPEG" else b"eXIf")
    length = struct.unpack(">I", good[start - 4 : start])[0]  # of a PNG's chunk
    end = good.index(b"\xff\xdb", start) if form == "JPEG" else start + 4 + length
    generator = np.random.default_rng(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(300):
            data = bytearray(good)
            for at in generator.integers(start + 6, end, 4):
                data[at] = generator.integers(256)
            if form == "PNG":  # a chunk's checksum is no part of the EXIF
                data[end : end + 4] = struct.pack(">I", zlib.crc32(data[start:end]))
            found = prepared(bytes(data), Treatment("shorter", 30, exif=True))
            assert sorted(found.pixels.shape) == [3, 30, 60]


def test_what_a_picture_was_is_told_by_its_content() -> None:
    photo = photograph(2, 40, 50)
    deep = Image.fromarray((np.arange(256, dtype=np.uint16) * 256).reshape(16, 16))
    for data, kinds in (
        (saved(photo, "JPEG"), ("JPEG",)),
        (saved(photo.convert("L"), "JPEG"), ("JPEG", "grey")),
        (saved(photo.convert("CMYK"), "JPEG"), ("JPEG", "CMYK")),
        (saved(photo, "PNG"), ("PNG",)),
        (saved(photo.convert("RGBA"), "PNG"), ("PNG", "transparent")),
        (saved(deep, "PNG"), ("PNG", "grey", "16-bit")),
        (png(1, 1, 16, 2, bytes(7)), ("PNG", "16-bit")),
        (saved(photo.quantize(8), "GIF"), ("GIF",)),
        (saved(photo.convert("1"), "BMP"), ("BMP", "grey")),
    ):
        assert prepared(data, Treatment()).kinds == kinds
    assert prepared(np.zeros((28, 28), np.uint8), Treatment()).kinds == ("grey",)
    assert prepared(np.zeros((32, 32, 3), np.uint8), Treatment()).kinds == ()


def test_names_that_promise_another_format() -> None:
    assert misnamed("n02105855_2933.JPEG", ("PNG",)) == ("PNG named .jpeg",)
    assert misnamed("a.png", ("JPEG", "grey")) == ("JPEG named .png",)
    for name, kinds in (("a.JPEG", ("JPEG", "CMYK")), ("a", ("PNG",)), ("a.jpg", ()), ("a.pgm", ("PPM",))):
        assert misnamed(name, kinds) == ()


@pytest.mark.parametrize("shape", [(256, 256, 3), (64, 91, 3), (1, 1, 3)])
def test_lossless_encodings_give_the_pixels_back(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = {name: encode(pixels, Treatment(encoding=name)) for name in EXTENSIONS}
    assert np.array_equal(np.load(io.BytesIO(data["raw"])), pixels)
    assert np.array_equal(opened(data["png"]), pixels) and opened(data["jpeg"]).shape == shape
    assert np.array_equal(raw_pixels(data["raw"]), pixels)
    for name in EXTENSIONS:
        target = np.zeros(shape, dtype=np.uint8)
        read_stored(data[name], name, target)
        assert np.array_equal(target, decode(data["jpeg"]) if name == "jpeg" else pixels)
        assert encode(pixels, Treatment(encoding=name)) == data[name]


def test_quality_is_that_of_the_jpeg() -> None:
    pixels = from_array(textured(1, 80, 80))
    sizes = [len(encode(pixels, Treatment(quality=quality))) for quality in (30, 60, 95)]
    assert sizes == sorted(sizes) and encode(pixels, Treatment(quality=QUALITY)) == encode(pixels)


@pytest.mark.parametrize("encoding", EXTENSIONS)
def test_what_was_stored_otherwise_is_refused(encoding: str) -> None:
    pixels = from_array(textured(1, 32, 32))
    good = encode(pixels, Treatment(encoding=encoding))
    grey = io.BytesIO()
    np.save(grey, pixels[:, :, 0])
    for bad in (
        *(b"", b"\x93NUMPY", good[:20], good[: len(good) // 2], b"x" + good[1:], grey.getvalue()),
        encode(from_array(textured(1, 32, 33)), Treatment(encoding=encoding)),
        saved(Image.new("RGBA", (32, 32)), "PNG"),
        *(encode(pixels, Treatment(encoding=other)) for other in EXTENSIONS if other != encoding),
    ):
        target = np.zeros((32, 32, 3), dtype=np.uint8)
        with pytest.raises(PictureError) as caught:
            read_stored(bad, encoding, target)
        assert "\n" not in str(caught.value)


def test_raw_that_lies_about_its_shape_is_refused() -> None:
    good = encode(from_array(textured(1, 32, 32)), Treatment(encoding="raw"))
    for lie in (b"(32, 33, 3)", b"(99999, 99999, 3)", b"(32, 32, 4)", b"(-2, 32, 3)", b"(0x20, 32, 3)", b"((9))"):
        with pytest.raises(PictureError):
            raw_pixels(good.replace(b"(32, 32, 3)", lie))
    with pytest.raises(PictureError):
        raw_pixels(good.replace(b"|u1", b"|O1"))
    with pytest.raises(PictureError):
        raw_pixels(good + b"\0")


def test_a_treatment_is_read_back_from_what_a_manifest_says() -> None:
    for treatment in (Treatment(), Treatment("warp", 64, "png", exif=True), Treatment("shorter", 100, "raw")):
        assert treatment_of(described(treatment)) == treatment
    assert treatment_of(described(Treatment(quality=80))).quality == 80
    assert treatment_of({}) == Treatment()
    for wrong in ({"geometry": "fit"}, {"size": 0}, {"size": "256"}, {"exif": 1}, {"encoding": {"format": "gif"}}):
        with pytest.raises(ValueError):
            treatment_of(wrong)


JPEG = saved(photograph(2, 200, 300), "JPEG")
PNG = saved(photograph(2, 200, 300), "PNG")
HUGE_JPEG = b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03" + bytes(20)


@pytest.mark.parametrize(
    "data,reason",
    [
        (b"", "empty file"),
        (b"just text", "not a picture in a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a picture in a known format"),
        (JPEG[: len(JPEG) // 2], "truncated|premature|incomplete"),
        (JPEG[:30], "truncated or damaged JPEG header"),
        (b"\xff\xd8\xff", "truncated or damaged JPEG header"),
        (PNG[: len(PNG) // 2], "truncated"),
        (PNG[:20], "."),
        (HUGE_JPEG, "too large: 65535×65535"),
        (png(50_000, 50_000, 8, 2, b""), "too large: more than 178 million"),
        (b"\xff\xd8\xff\xc0\0\x11\x08\0\0\0\0\x03" + bytes(20), "no pixels"),
        (saved(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
    ],
)
def test_what_is_no_picture_has_a_short_reason(data: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason) as caught:
        decode(data)
    assert len(str(caught.value)) <= 200 and "\n" not in str(caught.value)


@pytest.mark.parametrize("good", [JPEG, PNG, saved(photograph(5, 30, 40).quantize(8), "GIF")])
def test_damage_gives_a_picture_or_a_picture_error(good: bytes) -> None:
    generator = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(good)
        for _ in range(generator.integers(1, 8)):
            data[generator.integers(len(data))] = generator.integers(256)
        try:
            picture = decode(bytes(data))
        except PictureError:
            continue
        assert picture.dtype == np.uint8 and picture.shape[2] == 3


@pytest.mark.parametrize("cut", [2, 10, len(JPEG) // 2, len(JPEG) - 700])
def test_jpeg_that_is_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(PictureError, match="truncated"):
        decode(JPEG[:-cut])


def test_jpeg_header_with_garbage_behind_it_is_refused() -> None:
    garbage = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()
    with pytest.raises(PictureError):
        decode(JPEG[: JPEG.index(b"\xff\xda") + 14] + garbage)


@pytest.mark.parametrize("where", [0.4, 0.5, 0.6])
def test_jpeg_with_damage_that_readers_live_with_is_as_pillow_reads_it(where: float) -> None:
    at = int(len(JPEG) * where)
    data = JPEG[:at] + bytes(8) + JPEG[at + 8 :]
    with pytest.raises(ValueError, match="Corrupt"):
        simplejpeg.decode_jpeg(data)
    assert np.array_equal(decode(data), opened(data))


def test_encoding_is_the_accurate_one_and_half_colour() -> None:
    square = to_square(textured(9, 300, 400)[:, :, :1].repeat(3, axis=2))  # grey: what chroma loses would drown it
    assert simplejpeg.decode_jpeg_header(encode(square))[:4] == (256, 256, "YCbCr", "420")
    fast = simplejpeg.encode_jpeg(square, QUALITY, "RGB", "420", fastdct=True)

    def error(data: bytes) -> float:
        return float(((decode(data).astype(float) - square) ** 2).mean())

    assert error(encode(square)) < 0.95 * error(fast)


def test_fingerprint_is_stable_and_sees_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    first = fingerprint()
    assert first == fingerprint()
    monkeypatch.setattr(images, "FILTER", "bicubic")
    assert fingerprint() != first
