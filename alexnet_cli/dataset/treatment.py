"""What is done to each picture: the choices that preparation, the manifest and prediction share."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from alexnet_cli import paper

Geometry = Literal["crop", "warp", "shorter"]
Encoding = Literal["jpeg", "png", "raw"]
GEOMETRIES: tuple[str, ...] = get_args(Geometry)
EXTENSIONS: dict[Encoding, str] = {"jpeg": "jpg", "png": "png", "raw": "npy"}
LARGEST = 1024  # pixels; a dataset of larger pictures is for other networks
LONGEST = 16  # a picture longer than this many times its shorter side is cut to that length first

# Chosen by measurement: docs/preparation.md.
QUALITY = 95
CHROMA = "4:2:0"


@dataclass(frozen=True)
class Treatment:
    """How a picture is resized and stored; a value that there is not is a ValueError."""

    geometry: Geometry = "crop"
    """`crop`: the shorter side to `size`, then the middle; `warp`: both sides; `shorter`: that side, no cut."""
    size: int = paper.IMAGE_SIZE
    encoding: Encoding = "jpeg"
    quality: int = QUALITY
    """Of JPEG."""
    exif: bool = False
    """Whether a picture is turned as its EXIF orientation says; in 2012 it was not."""

    def __post_init__(self) -> None:
        if self.geometry not in GEOMETRIES:
            raise ValueError(f"geometry {self.geometry!r}")
        if self.encoding not in EXTENSIONS:
            raise ValueError(f"encoding {self.encoding!r}")
        if type(self.size) is not int or not 1 <= self.size <= LARGEST:
            raise ValueError(f"size {self.size!r}")
        if type(self.quality) is not int or not 1 <= self.quality <= 100:
            raise ValueError(f"quality {self.quality!r}")
        if type(self.exif) is not bool:
            raise ValueError(f"exif {self.exif!r}")

    @property
    def extension(self) -> str:
        return EXTENSIONS[self.encoding]


def described(treatment: Treatment) -> dict[str, Any]:
    """Give the part of a manifest that `treatment_of` reads."""
    encoding: dict[str, Any] = {"format": treatment.encoding, "extension": treatment.extension}
    if treatment.encoding == "jpeg":
        encoding |= {"quality": treatment.quality, "chroma": CHROMA}
    facts = {"geometry": treatment.geometry, "size": treatment.size, "exif": treatment.exif}
    return {**facts, "encoding": encoding}


def treatment_of(facts: dict[str, Any]) -> Treatment:
    """Read it from a manifest, or from what a checkpoint has of one; raises ValueError, KeyError or TypeError."""
    encoding = facts.get("encoding", {})
    return Treatment(
        facts.get("geometry", "crop"),
        facts.get("size", paper.IMAGE_SIZE),
        encoding.get("format", "jpeg"),
        encoding.get("quality", QUALITY),
        facts.get("exif", False),
    )
