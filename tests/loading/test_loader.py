"""Batches from real shards: their content by hand, on any ranks and threads, and what a bad shard does."""

import io
import os
import re
import shutil
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as torchvision

from alexnet_cli import recipes
from alexnet_cli.dataset import shards
from alexnet_cli.dataset.images import encode
from alexnet_cli.dataset.manifest import Dataset, open_dataset
from alexnet_cli.dataset.preparation import Options, prepare
from alexnet_cli.dataset.sources.folders import list_folders
from alexnet_cli.dataset.treatment import Encoding, Treatment
from alexnet_cli.engine.events import Step
from alexnet_cli.engine.launch import Placement
from alexnet_cli.engine.session import Limits
from alexnet_cli.engine.training import Job, config
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading import draws, loader
from alexnet_cli.loading import reader as reader_module
from alexnet_cli.loading.augmentation import Colours, training_views
from alexnet_cli.loading.loader import (
    GivenUp,
    Reader,
    TrainingBatch,
    TrainingBatches,
    ahead,
    evaluation_batches,
    taken,
)
from alexnet_cli.loading.plan import Plan, shard_lengths

PICTURES, VALIDATION, PER_SHARD, SEED, HIDDEN = 11, 5, 4, 3, 10
RECIPE = replace(recipes.paper(), network=recipes.Network(hidden=HIDDEN, dropout=0.25))
SHARED_BOXES = replace(RECIPE, augmentation=recipes.Augmentation("resized", sharing=3, colour_shrinks=True))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def prepared(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes in shards of four: three of training pictures, the last one short, and two of validation."""
    out = tmp_path_factory.mktemp("prepared") / "dataset"
    prepare_in_fours(source, out)
    return out


def prepare_in_fours(source: Path, out: Path, treatment: Treatment | None = None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "PICTURES_PER_SHARD", PER_SHARD)
        for _ in prepare(list_folders(source), out, Options(treatment=treatment or Treatment())):
            pass


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    generator = np.random.default_rng(1)
    for split, count in (("train", PICTURES), ("val", VALIDATION)):
        for number in range(count):
            folder = source / split / ("cat", "dog")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
            coarse.resize((340, 260), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return source


@pytest.fixture(scope="module")
def dataset(prepared: Path) -> Dataset:
    found = open_dataset(prepared)
    assert [len(found.splits[name].shards) for name in ("train", "val")] == [3, 2]
    return found


@pytest.fixture(scope="module")
def members(prepared: Path) -> dict[str, list[tuple[Tensor, int]]]:
    """The pictures and labels of each split in the order of its shards, read with `tarfile` and Pillow."""
    found: dict[str, list[tuple[Tensor, int]]] = {}
    for split in ("train", "val"):
        content: dict[str, dict[str, bytes]] = {}
        for path in sorted(prepared.glob(f"{split}-*.tar")):
            with tarfile.open(path) as tar:
                for member in tar:
                    key, _, extension = member.name.partition(".")
                    file = tar.extractfile(member)
                    assert file is not None
                    content.setdefault(key, {})[extension] = file.read()
        found[split] = [(decoded(item["jpg"]), int(item["cls"])) for item in content.values()]
    return found


def decoded(jpeg: bytes) -> Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(jpeg)))).permute(2, 0, 1)


def colours(dataset: Dataset) -> Colours:
    return Colours(torch.from_numpy(dataset.mean.copy()), dataset.eigenvalues, dataset.eigenvectors)


def builder(
    dataset: Dataset,
    reader: Reader,
    batch: int = 4,
    rank: int = 0,
    ranks: int = 1,
    recipe: recipes.Recipe = RECIPE,
) -> TrainingBatches:
    plan = Plan(PICTURES, batch, SEED, recipe.augmentation.reshuffled)
    return TrainingBatches(reader, plan, recipe, colours(dataset), SEED, rank, ranks, CPU)


def real_rows(batch: TrainingBatch) -> tuple[Tensor, ...]:
    """Everything in a batch but its padding."""
    return tuple(
        values[: len(batch.samples)]
        for values in (batch.pixels, *batch.masks, batch.labels, batch.weights, torch.from_numpy(batch.samples))
    )


def equal(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# -- what is in a batch ---------------------------------------------------------------------------------------


def test_a_reader_gives_the_pictures_of_the_shards(
    dataset: Dataset, members: dict[str, list[tuple[Tensor, int]]]
) -> None:
    for split, pictures in members.items():
        with Reader(dataset.splits[split]) as reader:
            assert len(dataset.splits[split].index) == len(pictures)
            for sample, (picture, _) in enumerate(pictures):
                difference = reader.picture(sample).int() - picture.int()
                assert difference.abs().max() <= 2  # another build of libjpeg may round otherwise


def test_a_training_batch_is_the_one_computed_by_hand(
    dataset: Dataset, members: dict[str, list[tuple[Tensor, int]]]
) -> None:
    mean = dataset.mean.astype(np.float64)
    with Reader(dataset.splits["train"]) as reader:
        for epoch, step in ((0, 0), (2, 1), (1, 2)):
            batch = builder(dataset, reader)((epoch, step))
            positions = np.arange(4 * step, min(4 * step + 4, PICTURES))
            order = draws.permutation(SEED, epoch, PICTURES)
            assert batch.samples.tolist() == order[positions].tolist()
            rows, columns = (draws.integers(SEED, name, epoch, positions, 33) for name in ("row", "column"))
            reflected = draws.integers(SEED, "reflection", epoch, positions, 2)
            alphas = 0.1 * draws.normals(SEED, "colour", epoch, positions, 3)
            for i, position in enumerate(positions):
                picture, label = reader.picture(order[position]), members["train"][order[position]][1]
                window = np.s_[:, rows[i] : rows[i] + 224, columns[i] : columns[i] + 224]
                patch = picture.numpy()[window] - mean[window]
                patch = patch[:, :, ::-1] if reflected[i] else patch
                noise = dataset.eigenvectors @ (alphas[i] * np.sqrt(dataset.eigenvalues))
                expected = patch + noise[:, None, None]
                np.testing.assert_allclose(batch.pixels[i].numpy(), expected, rtol=0, atol=5e-5)
                assert batch.labels[i] == label
                assert batch.weights[i] == 1
            for mask, name in zip(batch.masks, ("fc6", "fc7"), strict=True):
                kept = draws.kept(SEED, name, epoch, positions, HIDDEN, 0.25)
                assert np.array_equal(mask[: len(positions)].numpy(), kept.astype(np.float32))


def test_a_training_batch_as_in_the_2012_code(dataset: Dataset) -> None:
    """One order, patches shared by three, the mean's central patch, noise and ÷1.1 before the third epoch only."""
    original = recipes.original()
    recipe = replace(
        original,
        network=replace(RECIPE.network, crop=227),
        augmentation=replace(original.augmentation, sharing=3),
        schedule=replace(original.schedule, colour_stop=2),
    )
    order = draws.permutation(SEED, 0, PICTURES)
    central = dataset.mean[:, 14:241, 14:241].astype(np.float64)
    with Reader(dataset.splits["train"]) as reader:
        for epoch, step in ((0, 1), (1, 0), (2, 1), (5, 2)):
            batch = builder(dataset, reader, recipe=recipe)((epoch, step))
            positions = np.arange(4 * step, min(4 * step + 4, PICTURES))
            assert batch.samples.tolist() == order[positions].tolist()
            rows, columns = (draws.integers(SEED, name, epoch, positions // 3, 30) for name in ("row", "column"))
            reflected = draws.integers(SEED, "reflection", epoch, positions // 3, 2)
            alphas = 0.1 * draws.normals(SEED, "colour", epoch, positions, 3)
            for i, position in enumerate(positions):
                picture = reader.picture(order[position]).numpy().astype(np.float64)
                patch = picture[:, rows[i] : rows[i] + 227, columns[i] : columns[i] + 227]
                expected = (patch[:, :, ::-1] if reflected[i] else patch) - central
                if epoch < 2:
                    noise = dataset.eigenvectors @ (alphas[i] * np.sqrt(dataset.eigenvalues))
                    expected = (expected + noise[:, None, None]) / 1.1
                np.testing.assert_allclose(batch.pixels[i].numpy(), expected, rtol=0, atol=5e-5)


def test_a_training_batch_as_torchvision_trains(dataset: Dataset) -> None:
    recipe = recipes.torchvision()
    with Reader(dataset.splits["train"]) as reader:
        batch = builder(dataset, reader, recipe=recipe)((1, 0))
        positions = np.arange(4)
        views = training_views(recipe.augmentation, SEED, 1, positions)
        assert views.sizes is not None
        boxes = np.column_stack([views.rows, views.columns, views.sizes]).tolist()
        for i, box in enumerate(boxes):
            picture = reader.picture(int(batch.samples[i])).double() / 255
            patch = torchvision.resized_crop(picture, *box, [224, 224], antialias=True)
            patch = torchvision.normalize(patch, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
            expected = patch.flip(2) if views.reflected[i] else patch
            assert torch.allclose(batch.pixels[i].double(), expected, rtol=0, atol=1e-5)
    assert [mask.shape[1] for mask in batch.masks] == list(recipe.network.mask_widths)


def test_rows_beyond_the_pictures_weigh_nothing_and_are_finite(dataset: Dataset) -> None:
    with Reader(dataset.splits["train"]) as reader:
        last = builder(dataset, reader, batch=8)((0, 1))
        empty = builder(dataset, reader, batch=8, rank=1, ranks=2)((0, 1))
    assert last.weights.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert last.labels[3:].tolist() == [0] * 5
    assert empty.weights.tolist() == [0] * 4  # the first rank has room for all three
    for batch, rows in ((last, 8), (empty, 4)):
        assert batch.pixels.shape == (rows, 3, 224, 224)
        assert all(mask.shape == (rows, HIDDEN) for mask in batch.masks)
        assert torch.isfinite(batch.pixels).all()


def test_evaluation_batches_are_the_split_in_order_and_uncut(
    dataset: Dataset, members: dict[str, list[tuple[Tensor, int]]]
) -> None:
    with Reader(dataset.splits["val"]) as reader:
        batches = list(evaluation_batches(reader, 2, 0, 1, 2))
        pictures = [reader.picture(sample) for sample in range(VALIDATION)]
    assert [batch.samples.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    for batch in batches:
        assert batch.pictures.shape == (2, 3, 256, 256)
        for row, sample in enumerate(batch.samples.tolist()):
            assert torch.equal(batch.pictures[row], pictures[sample])
            assert batch.labels[row] == members["val"][sample][1]
    assert batches[-1].weights.tolist() == [1, 0]
    assert not batches[-1].pictures[1].any()


# -- however the pictures are stored ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lossless(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Encoding, Dataset]:
    """The same pictures without JPEG's loss."""
    folder, encodings = tmp_path_factory.mktemp("lossless"), ("png", "raw")
    for encoding in encodings:
        prepare_in_fours(source, folder / encoding, Treatment(encoding=encoding))
    return {encoding: open_dataset(folder / encoding) for encoding in encodings}


def test_the_same_pixels_are_the_same_batch(lossless: dict[Encoding, Dataset]) -> None:
    found = {}
    for encoding, dataset in lossless.items():
        with Reader(dataset.splits["train"]) as reader:
            found[encoding] = [real_rows(builder(dataset, reader)((1, step))) for step in range(3)]
    for ours, theirs in zip(found["png"], found["raw"], strict=True):
        assert equal(ours, theirs)


def test_lossless_pictures_are_those_of_the_source_in_the_order_of_the_others(
    lossless: dict[Encoding, Dataset], dataset: Dataset
) -> None:
    for its in lossless.values():
        assert np.array_equal(its.mean, dataset.mean)
        for split in ("train", "val"):
            assert its.splits[split].index["label"].tolist() == dataset.splits[split].index["label"].tolist()
            with Reader(its.splits[split]) as exact, Reader(dataset.splits[split]) as lossy:
                for sample in range(len(its.splits[split].index)):
                    picture = exact.picture(sample)
                    assert picture.shape == (3, 256, 256)
                    assert (picture.float() - lossy.picture(sample)).abs().mean() < 3


@pytest.mark.parametrize(
    "encoding, content",
    [("png", "zeros"), ("png", "half"), ("png", "of another size"), ("raw", "zeros"), ("raw", "of another size")],
)
def test_lossless_pictures_that_were_changed(
    lossless: dict[Encoding, Dataset], tmp_path: Path, encoding: Encoding, content: str
) -> None:
    shutil.copytree(lossless[encoding].root, tmp_path / "dataset")
    dataset = open_dataset(tmp_path / "dataset")
    entry = dataset.splits["train"].index[PER_SHARD]
    offset, size = int(entry["offset"]), int(entry["size"])
    smaller = encode(np.zeros((64, 64, 3), dtype=np.uint8), Treatment(encoding=encoding))
    path = dataset.root / "train-000001.tar"
    half = path.read_bytes()[offset : offset + size // 2]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write({"zeros": b"", "half": half, "of another size": smaller}[content].ljust(size, b"\0"))
    assert f"byte {offset}" in refused(dataset, "train-000001.tar").message


# -- the same on any number of ranks and threads --------------------------------------------------------------


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("batch", [4, 7])
@pytest.mark.parametrize("recipe", [RECIPE, SHARED_BOXES], ids=["paper", "shared boxes"])
def test_the_ranks_rows_together_are_the_batch_of_one_rank(
    dataset: Dataset, batch: int, ranks: int, recipe: recipes.Recipe
) -> None:
    with Reader(dataset.splits["train"]) as reader:
        for place in ((0, 0), (1, -(-PICTURES // batch) - 1)):  # a whole batch, and the short last one
            alone = builder(dataset, reader, batch, recipe=recipe)(place)
            found = [builder(dataset, reader, batch, rank, ranks, recipe)(place) for rank in range(ranks)]
            assert {len(part.pixels) for part in found} == {-(-batch // ranks)}
            together = tuple(torch.cat(rows) for rows in zip(*map(real_rows, found), strict=True))
            assert equal(together, real_rows(alone))


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_ranks_evaluate_the_same_batches_each_once(dataset: Dataset, ranks: int) -> None:
    with Reader(dataset.splits["train"]) as reader:
        alone = list(evaluation_batches(reader, 3, 0, 1, 1))
        found = [list(evaluation_batches(reader, 3, rank, ranks, 1)) for rank in range(ranks)]
    for step, batch in enumerate(alone):
        theirs = found[step % ranks][step // ranks]
        assert torch.equal(theirs.pictures, batch.pictures)
        assert torch.equal(theirs.labels, batch.labels)
    assert sum(map(len, found)) == len(alone)


def test_the_number_of_threads_changes_nothing(dataset: Dataset) -> None:
    places = [(epoch, step) for epoch in range(2) for step in range(3)]
    with Reader(dataset.splits["train"]) as reader:
        build = builder(dataset, reader)
        alone = [build(place) for place in places]
        for count in (1, 3):
            batches = list(ahead(build, places, count))
            assert all(equal(real_rows(a), real_rows(b)) for a, b in zip(batches, alone, strict=True))


def test_batches_come_in_order() -> None:
    assert list(ahead(lambda place: place * place, range(9), 3)) == [n * n for n in range(9)]
    assert list(ahead(lambda place: place, [], 3)) == []


def test_only_a_few_batches_are_built_ahead() -> None:
    built: list[int] = []
    with closing(ahead(built.append, iter(range(50)), 2)) as batches:
        for _ in range(3):
            next(batches)
        deadline = time.monotonic() + 10
        while len(built) < 3 + loader.BATCHES_AHEAD and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.05)  # in which more would be built if more were wanted
        assert sorted(built) == list(range(3 + loader.BATCHES_AHEAD))


def test_torch_has_one_thread_in_each_of_ours_and_all_others_keep_their_number() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []

    def caller() -> None:  # which never asked torch for its number of threads
        seen.extend(ahead(lambda _: torch.get_num_threads(), range(4), 2))
        seen.append(torch.get_num_threads())
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()

    torch.set_num_threads(3)  # what threads that come after this one are given
    try:
        thread = threading.Thread(target=caller)
        thread.start()
        thread.join()
        assert seen == [1, 1, 1, 1, 3, 3] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_who_waits_for_a_batch_may_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """But takes those that are there, may come back, and does not wait for the threads."""
    monkeypatch.setattr(loader, "ASKED_EVERY", 0.01)
    going_on, tired = threading.Event(), threading.Event()

    def build(place: int) -> int:
        if place == 2:
            going_on.wait()
        return place

    batches = ahead(build, range(5), 2, tired.is_set)
    assert next(batches) == 0
    tired.set()
    assert next(batches) == 1
    assert isinstance(next(batches), GivenUp) and isinstance(next(batches), GivenUp)
    going_on.set()
    assert [batch for batch in batches if not isinstance(batch, GivenUp)] == [2, 3, 4] and not loader_threads()


def test_who_may_give_up_gets_an_error_before_the_other_threads_are_done() -> None:
    going_on = threading.Event()

    def build(place: int) -> int:
        if place == 0:
            raise AlexNetError("the shard is damaged", "")
        going_on.wait()
        return place

    batches = ahead(build, range(3), 2, lambda: False)
    with pytest.raises(AlexNetError, match="is damaged"):
        taken(next(batches))
    assert len(loader_threads()) == 2
    going_on.set()
    assert [taken(batch) for batch in batches] == [1, 2] and taken(GivenUp()) is None


def test_leaving_waits_for_the_batch_at_work_and_drops_those_that_wait() -> None:
    built: list[int] = []
    left = threading.Event()

    def build(place: int) -> None:
        assert place == 0 or left.wait(10)
        built.append(place)

    batches = ahead(build, range(50), 1)
    next(batches)
    threading.Timer(0.3, left.set).start()
    batches.close()
    assert built == [0, 1]


def test_an_error_comes_at_the_place_it_belongs_to() -> None:
    def build(place: int) -> int:
        if place == 2:
            raise AlexNetError("the third")
        return place

    with closing(ahead(build, range(9), 3)) as batches:
        assert [next(batches), next(batches)] == [0, 1]
        with pytest.raises(AlexNetError, match="the third"):
            next(batches)


# -- nothing is left behind -----------------------------------------------------------------------------------


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("loader")]


def open_shards(root: Path) -> list[str]:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("this system does not list a process's open files")
    found = []
    for descriptor in descriptors.iterdir():
        try:
            found.append(str(descriptor.readlink()))
        except FileNotFoundError:  # that of the listing itself
            continue
    return [path for path in found if path.startswith(f"{root}/") and path.endswith(".tar")]


@pytest.mark.parametrize("steps", [1, 3], ids=["leaving early", "a whole epoch"])
def test_no_thread_and_no_open_file_is_left(dataset: Dataset, steps: int) -> None:
    with Reader(dataset.splits["train"]) as reader:
        assert not open_shards(dataset.root)
        with closing(ahead(builder(dataset, reader), [(0, step) for step in range(3)], 2)) as batches:
            for _ in range(steps):
                next(batches)
            assert loader_threads() and open_shards(dataset.root)
        assert not loader_threads()
    assert not open_shards(dataset.root)


def test_no_thread_is_left_after_an_error(dataset: Dataset) -> None:
    def build(place: int) -> int:
        raise AlexNetError(f"no {place}")

    with pytest.raises(AlexNetError, match="no 0"), Reader(dataset.splits["train"]):
        list(ahead(build, range(9), 3))
    assert not loader_threads()
    assert not open_shards(dataset.root)


# -- shards that are not as they were -------------------------------------------------------------------------


@pytest.fixture
def copied(prepared: Path, tmp_path: Path) -> Dataset:
    shutil.copytree(prepared, tmp_path / "dataset")
    return open_dataset(tmp_path / "dataset")


def read_all(dataset: Dataset) -> Iterator[TrainingBatch]:
    with Reader(dataset.splits["train"]) as reader:
        yield from ahead(builder(dataset, reader), [(0, step) for step in range(3)], 2)


def refused(dataset: Dataset, shard: str) -> AlexNetError:
    with pytest.raises(AlexNetError, match=shard) as caught:
        list(read_all(dataset))
    assert "prepare the dataset again" in caught.value.hint
    assert not loader_threads()
    assert not open_shards(dataset.root)
    return caught.value


def test_a_missing_shard_is_named(copied: Dataset) -> None:
    (copied.root / "train-000001.tar").unlink()
    assert "No such file" in refused(copied, "train-000001.tar").message


def test_a_shard_cut_short_is_named(copied: Dataset) -> None:
    path = copied.root / "train-000001.tar"
    last = copied.splits["train"].index[2 * PER_SHARD - 1]
    with path.open("r+b") as file:
        file.truncate(int(last["offset"]) + int(last["size"]) // 2)
    assert "is damaged" in refused(copied, "train-000001.tar").message


def test_an_empty_shard_is_named(copied: Dataset) -> None:
    (copied.root / "train-000000.tar").write_bytes(b"")
    refused(copied, "train-000000.tar")


@pytest.mark.parametrize("content", ["zeros", "a smaller picture", "a PNG", "half a JPEG"])
def test_a_picture_that_was_changed_is_an_error_that_names_its_shard_and_place(
    copied: Dataset, content: str
) -> None:
    entry = copied.splits["train"].index[PER_SHARD + 1]
    offset, size = int(entry["offset"]), int(entry["size"])
    path = copied.root / "train-000001.tar"
    original = path.read_bytes()[offset : offset + size]
    changed = {
        "zeros": bytes(size),
        "a smaller picture": coded(Image.new("RGB", (64, 64)), "JPEG"),
        "a PNG": coded(Image.new("RGB", (256, 256)), "PNG"),
        "half a JPEG": original[: size // 2],
    }[content]
    assert len(changed) <= size
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(changed.ljust(size, b"\0"))
    assert f"byte {offset}" in refused(copied, "train-000001.tar").message


def removed(shard: Path) -> None:
    shard.unlink()


def truncated(shard: Path) -> None:
    os.truncate(shard, 700)


def replaced_by_another(shard: Path) -> None:
    """As another preparation would: whole pictures of the same size where they were, a day later."""
    other = shard.with_name("other")
    shutil.copy(shard, other)
    os.utime(other, (0, other.stat().st_mtime + 86400))
    other.rename(shard)


def corrupted(shard: Path) -> None:
    """As by a failing disk, which leaves size and time."""
    before = shard.stat()
    shard.write_bytes(bytes(before.st_size))
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "harm, reason",
    [
        (removed, "No such file"),
        (truncated, "was changed or replaced"),
        (replaced_by_another, "was changed or replaced"),
        (corrupted, "is damaged: "),
    ],
)
def test_harm_in_mid_epoch_stops_the_training_with_one_error(
    copied: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None], reason: str
) -> None:
    monkeypatch.setattr(loader, "BATCHES_AHEAD", 2)
    monkeypatch.setattr(reader_module, "OPEN_SHARDS", 1)
    recipe = recipes.chosen("small", ["width=0.05", "optimizer.batch_size=1"])
    place = Placement("cpu", 1, "")
    job = Job(copied, config(recipe, copied, SEED, 1, "fp32", place), Limits(), place)
    index = copied.splits["train"].index
    last = index[Plan(PICTURES, 1, SEED, shards=shard_lengths(index["shard"])).part(0, PICTURES - 1).samples[0]]
    shard = copied.splits["train"].shards[last["shard"]]
    events = job.started(tmp_path / "runs", None, None, True)
    next(event for event in events if isinstance(event, Step))
    harm(shard)
    with pytest.raises(AlexNetError, match=shard.name) as caught:
        list(events)
    found = re.search(r"the picture at byte (\d+) of .*", caught.value.message)
    assert found and int(found[1]) in index["offset"][index["shard"] == last["shard"]] and reason in found[0]
    assert not loader_threads() and not open_shards(copied.root)


def test_few_shards_are_open_at_once_and_nothing_changes(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = np.random.default_rng(1).integers(0, PICTURES, 200).tolist()
    with Reader(dataset.splits["train"]) as reader:
        pictures = [reader.picture(sample) for sample in range(PICTURES)]
        assert len(open_shards(dataset.root)) == 3
    monkeypatch.setattr(reader_module, "OPEN_SHARDS", 1)
    with Reader(dataset.splits["train"]) as reader, closing(ahead(reader.picture, samples, 4)) as found:
        for sample, picture in zip(samples, found, strict=True):
            assert torch.equal(picture, pictures[sample])
        assert len(open_shards(dataset.root)) == 1


def coded(picture: Image.Image, form: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, form)
    return file.getvalue()
