"""Small ImageNets, laid out exactly as the official ones: the same pictures in every form."""

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .conftest import photograph

WNIDS = ("n01440764", "n02012849", "n03126707")  # in label order; the last two are both called "crane"
IDS = {"n03126707": 1, "n01440764": 2, "n02012849": 3}  # as little in order as the official ones


@dataclass(frozen=True)
class Originals:
    """Train: WNID → file name → bytes. Val and test: file name → (WNID, bytes)."""

    train: dict[str, dict[str, bytes]]
    val: dict[str, tuple[str, bytes]]
    test: dict[str, tuple[str, bytes]]


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    photograph(seed, 40 + seed % 17, 60 - seed % 13).save(file, "JPEG")
    return file.getvalue()


def originals(year: int = 2012) -> Originals:
    train = {
        wnid: {f"{wnid}_{number}.JPEG": jpeg(100 * label + number) for number in (7, 10026, 3, 410)}
        for label, wnid in enumerate(WNIDS)
    }
    order = (2, 0, 1, 1, 2, 0)
    val, test = (
        {
            f"ILSVRC{year}_{split}_{n:08d}.JPEG": (WNIDS[label], jpeg(start + n))
            for n, label in enumerate(order[::turn], 1)
        }
        for split, start, turn in (("val", 1000, 1), ("test", 2000, -1))
    )
    return Originals(train, val, test)


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def tar(members: Iterable[tuple[str, bytes]], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def class_tar(pictures: dict[str, bytes]) -> bytes:
    return tar(pictures.items())  # not in the order of names, as the official ones need not be


def train_tar(pictures: Originals) -> bytes:
    return tar((f"{wnid}.tar", class_tar(files)) for wnid, files in reversed(pictures.train.items()))


def flat_tar(files: dict[str, tuple[str, bytes]], folder: str = "") -> bytes:
    return tar((folder + name, data) for name, (_, data) in reversed(files.items()))


def meta(year: int, ids: dict[str, int] | None = None) -> bytes:
    """As the official file is: a struct array of leaves, then of their ancestors with IDs above 1000."""
    from scipy.io import savemat

    key = f"ILSVRC{year}_ID"
    fields = (key, "WNID", "words", "gloss", "num_children", "children", "wordnet_height", "num_train_images")
    names = {"n01440764": "tench, Tinca tinca", "n02012849": "crane", "n03126707": "crane"}
    ids = ids or IDS
    rows = [
        (float(number), wnid, names.get(wnid, "word"), "a gloss, with “quotes”", 0.0, np.zeros((1, 0)), 0.0, 4.0)
        for wnid, number in sorted(ids.items(), key=lambda item: item[1])
    ]
    rows += [
        (1001.0, "n01429172", "cyprinid", "soft-finned", 2.0, np.array([[1.0, 2.0]]), 1.0, 0.0),
        (1002.0, "n00001740", "entity", "that which is", 1.0, np.array([[1001.0]]), 2.0, 0.0),
    ]
    synsets = np.array(rows, dtype=[(name, object) for name in fields]).reshape(-1, 1)
    file = io.BytesIO()
    savemat(file, {"synsets": synsets}, do_compression=True)
    return file.getvalue()


def truth(files: dict[str, tuple[str, bytes]]) -> bytes:
    return "".join(f"{IDS[files[name][0]]}\n" for name in sorted(files)).encode()


def kit_files(pictures: Originals, year: int) -> dict[str, bytes]:
    folder = "ILSVRC2012_devkit_t12" if year == 2012 else "devkit-1.0"
    return {
        f"{folder}/readme.txt": b"Introduction",
        f"{folder}/data/meta.mat": meta(year),
        f"{folder}/data/ILSVRC{year}_validation_ground_truth.txt": truth(pictures.val),
    }


def write_unpacked(root: Path, pictures: Originals) -> None:
    for wnid, files in pictures.train.items():
        for name, data in files.items():
            write(root / "train" / wnid / name, data)
    for name, (wnid, data) in pictures.val.items():
        write(root / "val" / wnid / name, data)


def write_official(root: Path, pictures: Originals) -> None:
    write(root / "ILSVRC2012_img_train.tar", train_tar(pictures))
    write(root / "ILSVRC2012_img_val.tar", flat_tar(pictures.val))
    write(root / "ILSVRC2012_img_test_v10102019.tar", flat_tar(pictures.test, "test/"))
    write(root / "ILSVRC2012_devkit_t12.tar.gz", tar(kit_files(pictures, 2012).items(), "w:gz"))


def write_2010(root: Path, pictures: Originals) -> None:
    write(root / "ILSVRC2010_images_train.tar", train_tar(pictures))
    write(root / "ILSVRC2010_images_val.tar", flat_tar(pictures.val, "val/"))
    write(root / "ILSVRC2010_images_test.tar", flat_tar(pictures.test, "test/"))
    write(root / "ILSVRC2010_test_ground_truth.txt", truth(pictures.test))
    write(root / "ILSVRC2010_devkit-1.0.tar.gz", tar(kit_files(pictures, 2010).items(), "w:gz"))


def patch_tar(files: dict[str, bytes], nested: bool = True) -> bytes:
    """As the official one is, or with the pictures at its top."""
    folders = {name: "val" if "_val_" in name else "test" if "_test_" in name else "train" for name in files}
    return tar((f"patch_images/{folders[name]}/{name}" if nested else name, data) for name, data in files.items())


def write_half_unpacked(root: Path, pictures: Originals) -> None:
    for wnid, files in pictures.train.items():
        write(root / "train" / f"{wnid}.tar", class_tar(files))
    for name, (_, data) in pictures.val.items():
        write(root / "val" / name, data)
    for name, data in kit_files(pictures, 2012).items():
        write(root / name, data)


def write_heap(root: Path, pictures: Originals) -> None:
    """All that was in the archives, in one folder."""
    for wnid, files in pictures.train.items():
        write(root / f"{wnid}.tar", class_tar(files))
    for name, (_, data) in pictures.val.items():
        write(root / name, data)
    for path, data in kit_files(pictures, 2012).items():
        write(root / Path(path).name, data)


def write_kaggle(root: Path, pictures: Originals) -> None:
    data_root = root / "ILSVRC" / "Data" / "CLS-LOC"
    for wnid, files in pictures.train.items():
        for name, data in files.items():
            write(data_root / "train" / wnid / name, data)
    lines = ["ImageId,PredictionString"]
    for name, (wnid, data) in reversed(pictures.val.items()):
        write(data_root / "val" / name, data)
        lines.append(f"{Path(name).stem},{wnid} 85 1 499 272 {wnid} 1 2 3 4 ")
    for name, (_, data) in pictures.test.items():
        write(data_root / "test" / name, data)
    write(root / "LOC_val_solution.csv", "\n".join(lines).encode())
    write(root / "LOC_synset_mapping.txt", b"n01440764 tench, Tinca tinca\n")


def write_mixed(root: Path, pictures: Originals) -> None:
    write_unpacked(root, Originals({}, pictures.val, {}))
    write(root / "ILSVRC2012_img_train.tar", train_tar(pictures))


def write_moved(root: Path, pictures: Originals) -> None:
    """Train as class folders alone beside the archive of val."""
    write_unpacked(root, Originals(pictures.train, {}, {}))
    write(root / "ILSVRC2012_img_val.tar", flat_tar(pictures.val))
    write(root / "ILSVRC2012_devkit_t12.tar", tar(kit_files(pictures, 2012).items()))


def write_tiny(root: Path, pictures: Originals) -> None:
    for wnid, files in pictures.train.items():
        for name, data in files.items():
            write(root / "train" / wnid / "images" / name, data)
        write(root / "train" / wnid / f"{wnid}_boxes.txt", b"a.JPEG\t0\t0\t1\t1\n")
    lines = []
    for name, (wnid, data) in pictures.val.items():
        write(root / "val" / "images" / name, data)
        lines.append(f"{name}\t{wnid}\t0\t32\t44\t62\n")
    write(root / "val" / "val_annotations.txt", "".join(lines).encode())
    for name, (_, data) in pictures.test.items():
        write(root / "test" / "images" / name, data)
    write(root / "wnids.txt", "\n".join(reversed(WNIDS)).encode())
    write(root / "words.txt", b"n01440764\ttench, Tinca tinca\nn02012849\tcrane\nn03126707\tcrane\n")
