"""Look at what the user named and open it: a torchvision set, or a folder of one of the forms that we read."""

from pathlib import Path

from alexnet_cli.dataset.sources.folders import LAYOUT, list_folders
from alexnet_cli.dataset.sources.idx import has_idx, list_idx
from alexnet_cli.dataset.sources.imagenet import list_imagenet
from alexnet_cli.dataset.sources.listing import Listing
from alexnet_cli.dataset.sources.named import PREFIX, list_named
from alexnet_cli.dataset.sources.parquet import list_parquet
from alexnet_cli.dataset.sources.tiny import list_tiny
from alexnet_cli.dataset.sources.webshards import list_web_shards
from alexnet_cli.errors import AlexNetError


def open_source(
    source: str, root: Path | None = None, download: bool = False, class_names: Path | None = None
) -> Listing:
    """List what `source` holds; raises AlexNetError when it is nothing that can be prepared.

    `class_names` is a file of names for labels that are numbers, one a line; `root` and `download` are for
    `torchvision:`.
    """
    if source.startswith(PREFIX):
        return list_named(source, root, download)
    folder = Path(source)
    check_folder(folder)
    return open_folder(folder, read_names(class_names) if class_names else None)


def open_folder(folder: Path, names: tuple[str, ...] | None) -> Listing:
    """Try one form after the other, the most certain first."""
    if has_idx(folder):
        return list_idx(folder, names)
    listing = list_tiny(folder) or list_imagenet(folder)
    # An archive of training pictures may lie beside what was unpacked of it.
    if listing is None and not (folder / "train").is_dir():
        numbered = list_web_shards(folder, names) or list_parquet(folder, names)
        if numbered:
            return numbered
    if names:
        raise AlexNetError(
            f"{folder} names its classes itself", "--class-names is for IDX files, WebDataset shards and Parquet"
        )
    return listing or list_folders(folder)


def check_folder(folder: Path) -> None:
    if not folder.exists():
        raise AlexNetError(f"{folder} does not exist", "name a folder of pictures, or torchvision:NAME")
    if folder.suffix in (".tar", ".parquet") and folder.is_file():
        raise AlexNetError(f"{folder} is a file", f"name the folder it lies in: {folder.absolute().parent}")
    if not folder.is_dir():
        raise AlexNetError(f"{folder} is a file, not a folder of pictures", LAYOUT)
    if not any(folder.iterdir()):
        raise AlexNetError(f"{folder} is an empty folder", LAYOUT)


def read_names(path: Path) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise AlexNetError(f"{path} cannot be read as class names: {error}", "one name a line") from error
    if len(set(names)) != len(names):
        raise AlexNetError(f"{path} names a class twice", "one name a line, each once")
    return names
