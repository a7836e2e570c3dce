"""Where ImageNet's train, val and test lie in a folder, and in which form each of them is."""

from pathlib import Path

from alexnet_cli.dataset.sources.classtars import (
    CLASS_TAR,
    Found,
    class_tars,
    flat_tar,
    folder_of_tars,
    is_tar_of_tars,
    tar_of_tars,
)
from alexnet_cli.dataset.sources.folders import NAMES, is_folder, visible
from alexnet_cli.dataset.sources.wnidfolders import class_folders, flat_folder, has_class_folders
from alexnet_cli.errors import AlexNetError
from alexnet_cli.imagenet import WNID

KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
CSV = "LOC_val_solution.csv"
YEARS = (2010, 2012)
FOLDERS = NAMES | {"train": (*NAMES["train"], "winter21_whole")}
PEEKED = 8  # archives of any name that are tried as a tar of class tars


def named_year(root: Path) -> int:
    """Give the year of an ILSVRC that the names in the folder tell, or 0."""
    names = [entry.name for base in bases(root) for entry in visible(base)]
    years = {year for year in YEARS if any(f"ILSVRC{year}" in name for name in names)}
    if len(years) > 1:
        raise AlexNetError(f"{root} has files of ILSVRC-2010 and of ILSVRC-2012", "one folder for each of them")
    return 2012 if not years and (root / CSV).is_file() else max(years, default=0)


def bases(root: Path) -> list[Path]:
    """Give the folders in which train, val and test may lie; Kaggle's are deep inside."""
    return [root, *(root / place for place in KAGGLE if (root / place).is_dir())]


def find_train(root: Path, year: int) -> Found | None:
    for base in bases(root):
        for path in sorted(base.glob(f"ILSVRC{year}_im*_train.tar")):
            return tar_of_tars(root, path, "official archives")
        for folder in [*(base / name for name in FOLDERS["train"]), *base.glob(f"ILSVRC{year}_im*_train"), base]:
            if folder.is_dir() and class_tars(folder):
                check_unpacked(folder)
                return folder_of_tars(root, folder, "class archives")
            if folder.is_dir() and has_class_folders(folder):
                return class_folders(root, folder, by_name=False)
        tars = [path for path in sorted(base.glob("*.tar")) if not CLASS_TAR.fullmatch(path.name)]
        for path in [] if year else tars[:PEEKED]:
            if is_tar_of_tars(path):
                return tar_of_tars(root, path, f"{path.name}, one archive")
    return None


def check_unpacked(folder: Path) -> None:
    """Refuse a folder of which a part is unpacked: what is only unpacked would be missing."""
    packed = {path.stem for path in class_tars(folder)}
    unpacked = [entry.name for entry in visible(folder) if WNID.fullmatch(entry.name) and is_folder(entry)]
    missing = [name for name in unpacked if name not in packed]
    if missing:
        raise AlexNetError(
            f"{folder} has class archives, and {listed(missing)} as a folder only",
            "unpack the others too and remove the archives, or put the missing archives back",
        )


def find_split(root: Path, split: str, year: int) -> Found | None:
    """Find val or test: an archive, class folders, or flat pictures in a folder or in the root."""
    for base in bases(root):
        for path in sorted(base.glob(f"ILSVRC{year}_im*_{split}*.tar")):
            return flat_tar(root, path, "official archives")
        for folder in [*(base / name for name in FOLDERS[split]), *base.glob(f"ILSVRC{year}_im*_{split}*/"), base]:
            part = f"_{split}_" if split == "val" or folder == base else ""
            if folder != base and folder.is_dir() and has_class_folders(folder):
                return class_folders(root, folder, by_name=True)
            if folder.is_dir() and (found := flat_folder(root, folder, part)) is not None:
                return found
            if folder != base and split == "val" and folder.is_dir() and any(visible(folder)):
                raise AlexNetError(
                    f"{folder} has neither folders of WNIDs nor pictures named ILSVRC20…_{split}_00000001.JPEG",
                    f"sort its pictures into {split}/<WNID>/, or take the folder out of the source",
                )
    return None


def listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
