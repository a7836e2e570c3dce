"""The small labelled set of `alexnet demo`: shapes and textures, drawn in a few seconds, the same for a seed.

Shape is what tells the classes apart: places, sizes and grounds are drawn freely for every picture. Colour
gives a hint, as it does among real things (a class has a usual hue, from which its pictures stray into its
neighbours'), so that a small net is past its first plateau within a hundred steps.
"""

import colorsys
import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
SIDES = (200, 460)  # pixels, shortest and longest side of a picture
STRAY = 0.08  # standard deviation of a picture's hue; the classes' hues are 0.125 apart
TURN = 20  # degrees
SCALE = 2  # masks are drawn this much larger and shrunk, for smooth edges


def draw_demo(root: Path, seed: int = 0, train: int = 100, val: int = 20) -> None:
    """Write root/train/<class>/* and root/val/<class>/*, that many pictures of each class, JPEG and PNG."""
    for split, count in (("train", train), ("val", val)):
        for name, shape in SHAPES.items():
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                # A string seeds the same generator on every machine, whatever was drawn before.
                rng = random.Random(f"{seed} {split} {name} {number}")
                save(draw(shape, usual_hue(name), rng), folder / f"{name}-{number:04d}", rng)


def save(picture: Image.Image, path: Path, rng: random.Random) -> None:
    if rng.random() < 0.3:
        picture.save(path.with_suffix(".png"), compress_level=1)
    else:
        picture.save(path.with_suffix(".jpg"), quality=rng.randint(80, 95))


def usual_hue(name: str) -> float:
    return list(SHAPES).index(name) / len(SHAPES)


def draw(shape: Callable[[random.Random], Image.Image], hue: float, rng: random.Random) -> Image.Image:
    """Draw one shape, turned, somewhere on a sloping and noisy ground of another brightness."""
    width, height = rng.randint(*SIDES), rng.randint(*SIDES)
    ground, ink = colours(hue, rng)
    picture = background(width, height, ground, rng)
    size = int(min(width, height) * rng.uniform(0.7, 0.95))
    mask = shape(rng).rotate(rng.uniform(-TURN, TURN), Image.Resampling.BILINEAR).resize((size, size))
    # The central square is what remains of a picture, so the shape stays in it.
    room = min(width, height) - size
    left = (width - min(width, height)) // 2 + rng.randint(0, room)
    top = (height - min(width, height)) // 2 + rng.randint(0, room)
    picture.paste(ink, (left, top), mask)
    return picture


def colours(hue: float, rng: random.Random) -> tuple[Colour, Colour]:
    """Give a ground of any colour and an ink near `hue` that differs from it by at least 80 in brightness."""
    while True:
        ground = rng.randrange(256), rng.randrange(256), rng.randrange(256)
        parts = colorsys.hsv_to_rgb(rng.gauss(hue, STRAY) % 1, rng.uniform(0.5, 1), rng.uniform(0.5, 1))
        ink = tuple(int(255 * part) for part in parts)
        if abs(sum(ground) - sum(ink)) >= 3 * 80:
            return ground, (ink[0], ink[1], ink[2])


def background(width: int, height: int, colour: Colour, rng: random.Random) -> Image.Image:
    """A slope of light in a random direction, with grain."""
    angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(10, 60)
    down = np.linspace(-strength, strength, height, dtype=np.float32)[:, None, None] * math.sin(angle) / 2
    right = np.linspace(-strength, strength, width, dtype=np.float32)[:, None] * math.cos(angle) / 2
    grain = np.random.default_rng(rng.getrandbits(64)).integers(-8, 9, (height, width, 1), dtype=np.int8)
    pixels = np.array(colour, dtype=np.float32) + down + right + grain
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


CANVAS = 256 * SCALE
MIDDLE = CANVAS / 2
RADIUS = 0.46 * CANVAS


def blank() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    mask = Image.new("L", (CANVAS, CANVAS), 0)
    return mask, ImageDraw.Draw(mask)


def around(radius: float) -> tuple[float, float, float, float]:
    return MIDDLE - radius, MIDDLE - radius, MIDDLE + radius, MIDDLE + radius


def corners(count: int, radii: tuple[float, ...]) -> list[Point]:
    """Give points around the middle whose distances from it repeat `radii`."""
    turns = [(radii[k % len(radii)], 2 * math.pi * k / count) for k in range(count)]
    return [(MIDDLE + radius * math.cos(angle), MIDDLE + radius * math.sin(angle)) for radius, angle in turns]


def disc(_: random.Random) -> Image.Image:
    mask, pen = blank()
    pen.ellipse(around(RADIUS), fill=255)
    return mask


def ring(rng: random.Random) -> Image.Image:
    mask, pen = blank()
    pen.ellipse(around(RADIUS), outline=255, width=int(RADIUS * rng.uniform(0.25, 0.4)))
    return mask


def polygon(count: int, *radii: float) -> Callable[[random.Random], Image.Image]:
    def shape(_: random.Random) -> Image.Image:
        mask, pen = blank()
        pen.polygon(corners(count, tuple(radius * RADIUS for radius in radii)), fill=255)
        return mask

    return shape


def cross(rng: random.Random) -> Image.Image:
    mask, pen = blank()
    half = RADIUS * rng.uniform(0.2, 0.3)
    pen.rectangle((MIDDLE - RADIUS, MIDDLE - half, MIDDLE + RADIUS, MIDDLE + half), fill=255)
    pen.rectangle((MIDDLE - half, MIDDLE - RADIUS, MIDDLE + half, MIDDLE + RADIUS), fill=255)
    return mask


def stripes(rng: random.Random) -> Image.Image:
    mask, pen = blank()
    step = RADIUS * 2 / rng.randint(5, 8)
    for k in range(-8, 9):
        left = MIDDLE + k * step
        pen.rectangle((left, 0, left + step / 2, CANVAS), fill=255)
    return inside_disc(mask)


def checkerboard(rng: random.Random) -> Image.Image:
    mask, pen = blank()
    step = RADIUS * 2 / rng.randint(5, 8)
    for row in range(-5, 5):
        for column in range(-5, 5):
            if (row + column) % 2:
                left, top = MIDDLE + column * step, MIDDLE + row * step
                pen.rectangle((left, top, left + step, top + step), fill=255)
    return inside_disc(mask)


def inside_disc(texture: Image.Image) -> Image.Image:
    """Textures fill the disc's outline, so that they are told from it by what is inside."""
    mask, pen = blank()
    pen.ellipse(around(RADIUS), fill=255)
    return Image.composite(texture, Image.new("L", texture.size, 0), mask)


SHAPES: dict[str, Callable[[random.Random], Image.Image]] = {
    "checkerboard": checkerboard,
    "cross": cross,
    "disc": disc,
    "ring": ring,
    "square": polygon(4, 1.0),
    "star": polygon(10, 1.0, 0.4),
    "stripes": stripes,
    "triangle": polygon(3, 1.0),
}
