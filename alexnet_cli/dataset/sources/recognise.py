"""Look at what the user named and open it: a torchvision set, IDX files, or class folders."""

from pathlib import Path

from alexnet_cli.dataset.sources.folders import LAYOUT, list_folders
from alexnet_cli.dataset.sources.idx import has_idx, list_idx
from alexnet_cli.dataset.sources.listing import Listing
from alexnet_cli.dataset.sources.named import PREFIX, list_named
from alexnet_cli.errors import AlexNetError


def open_source(
    source: str, root: Path | None = None, download: bool = False, class_names: Path | None = None
) -> Listing:
    """List what `source` holds; raises AlexNetError when it is nothing that can be prepared.

    `class_names` is a file of names for IDX labels, one a line; `root` and `download` are for `torchvision:`.
    """
    if source.startswith(PREFIX):
        return list_named(source, root, download)
    folder = Path(source)
    check_folder(folder)
    if has_idx(folder):
        return list_idx(folder, read_names(class_names) if class_names else None)
    if class_names:
        raise AlexNetError("--class-names is for IDX files: class folders name their classes themselves")
    return list_folders(folder)


def check_folder(folder: Path) -> None:
    if not folder.exists():
        raise AlexNetError(f"{folder} does not exist", "name a folder of pictures, or torchvision:NAME")
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
