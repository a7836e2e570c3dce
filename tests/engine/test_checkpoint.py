"""A checkpoint is one safetensors file: what is in it, that it is written whole, and that a bad one is refused."""

import json
import os
import random
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from alexnet_cli import recipes
from alexnet_cli.engine import checkpoint as checkpoints
from alexnet_cli.engine.checkpoint import Checkpoint, Position, Subject
from alexnet_cli.engine.schedule import Plateau
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading.augmentation import Colours
from alexnet_cli.network.alexnet import AlexNet, initialise

CLASSES = ("cat", "Wüstenfuchs", "a\x1b[31m/b")
SHAPES = {
    "conv1.weight": (4, 3, 11, 11),
    "conv1.bias": (4,),
    "conv2.weight": (12, 2, 5, 5),
    "conv2.bias": (12,),
    "conv3.weight": (20, 12, 3, 3),
    "conv3.bias": (20,),
    "conv4.weight": (20, 10, 3, 3),
    "conv4.bias": (20,),
    "conv5.weight": (12, 10, 3, 3),
    "conv5.bias": (12,),
    "fc6.weight": (204, 12 * 6 * 6),
    "fc6.bias": (204,),
    "fc7.weight": (204, 204),
    "fc7.bias": (204,),
    "fc8.weight": (3, 204),
    "fc8.bias": (3,),
}
KEYS = (
    *("recipe", "classes", "wnids", "eigenvalues", "eigenvectors", "preparation", "dataset"),
    *(
        "epoch",
        "step",
        "steps",
        "seconds",
        "plateau",
        "judged",
        "best_error",
        "metrics_size",
        "finished",
        "scaling",
    ),
)


def some_checkpoint(seed: int = 1) -> Checkpoint:
    recipe = recipes.chosen("small", ["width=0.05", "biased=conv2"])
    model = AlexNet(recipe.network, len(CLASSES))
    initialise(model, recipe.network, seed)
    generator = torch.Generator().manual_seed(seed)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    velocity = {name: torch.randn(w.shape, generator=generator) for name, w in weights.items()}
    mean = torch.rand((3, 256, 256), generator=generator) * 255
    colours = Colours(
        mean, np.array([0.1 + 0.2, 1 / 3, 1e-300]), np.linalg.qr(np.arange(9.0).reshape(3, 3) ** 2)[0]
    )
    subject = Subject(CLASSES, ("n02121808", None, None), colours, {"size": 256, "filter": "box"}, "f00d")
    position = Position(3, 7, 1234, 99.5, Plateau(12.5, 1, 2), 1230, 12.25, 4321, "plateau")
    return Checkpoint(recipe, subject, position, weights, velocity)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    checkpoints.save(tmp_path / "last.safetensors", some_checkpoint())
    return tmp_path / "last.safetensors"


def edited(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], object]) -> Path:
    """The file again after `change` of its tensors and metadata."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["alexnet"])
    tensors = load_file(path)
    change(tensors, about)
    save_file(tensors, path, {"alexnet": json.dumps(about)})
    return path


def refusal(path: Path) -> AlexNetError:
    with pytest.raises(AlexNetError) as caught:
        checkpoints.load(path)
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value


def test_a_round_trip_is_bit_equal(saved: Path) -> None:
    before, after = some_checkpoint(), checkpoints.load(saved)
    assert (after.recipe, after.position) == (before.recipe, before.position)
    for ours, theirs in ((after.weights, before.weights), (after.velocity, before.velocity)):
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours, theirs = after.subject, before.subject
    assert torch.equal(ours.colours.mean, theirs.colours.mean)
    assert np.array_equal(ours.colours.eigenvalues, theirs.colours.eigenvalues)
    assert np.array_equal(ours.colours.eigenvectors, theirs.colours.eigenvectors)
    colours = theirs.colours
    assert replace(ours, colours=colours) == theirs


def test_plain_safetensors_reads_what_is_documented(saved: Path) -> None:
    with safe_open(saved, "np") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        kinds = {file.get_slice(name).get_dtype() for name in shapes}
        about = json.loads(file.metadata()["alexnet"])
    assert shapes == SHAPES | {f"velocity.{n}": shape for n, shape in SHAPES.items()} | {"mean": (3, 256, 256)}
    assert kinds == {"F32"}
    assert set(about) == {"format", *KEYS}
    assert about["classes"] == list(CLASSES) and about["wnids"] == ["n02121808", None, None]
    assert about["recipe"]["network"]["width"] == 0.05
    assert about["plateau"] == {"best": 12.5, "waited": 1, "count": 2}


def test_the_model_computes_as_before(saved: Path) -> None:
    model = checkpoints.model_of(checkpoints.load(saved), torch.device("cpu")).eval()
    before = AlexNet(some_checkpoint().recipe.network, len(CLASSES)).eval()
    initialise(before, some_checkpoint().recipe.network, 1)
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(3)) * 50
    assert torch.equal(model(pixels), before(pixels))
    assert all(p.requires_grad for p in model.parameters())


def test_the_one_before_is_kept(saved: Path, tmp_path: Path) -> None:
    first, keep = saved.read_bytes(), tmp_path / "previous.safetensors"
    checkpoints.save(saved, some_checkpoint(2), keep)
    assert keep.read_bytes() == first != saved.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.safetensors", "previous.safetensors"]


def test_it_may_be_read_by_whom_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        checkpoints.save(tmp_path / "last.safetensors", some_checkpoint())
    finally:
        os.umask(before)
    assert (tmp_path / "last.safetensors").stat().st_mode & 0o777 == 0o640


def test_without_velocity_it_is_for_prediction(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    checkpoints.save(path, replace(some_checkpoint(), velocity={}))
    assert set(load_file(path)) == {*SHAPES, "mean"}
    assert checkpoints.load(path).velocity == {}


@pytest.mark.usefixtures("place")
def test_a_run_has_velocity_in_last_and_none_in_best(alexnet: Callable[..., Any], net: tuple[str, ...]) -> None:
    alexnet("train", *net, "--max-steps", 2).succeeded()
    last, best = (set(load_file(f"runs/small-1/{name}.safetensors")) for name in ("last", "best"))
    assert best == {*SHAPES, "mean"}
    assert last == best | {f"velocity.{name}" for name in SHAPES}


# --- bad files


def test_another_shape_is_refused(saved: Path) -> None:
    edited(saved, lambda tensors, _: tensors.update({"fc7.weight": torch.zeros(204, 205)}))
    assert "does not hold the network it names: fc7.weight" in refusal(saved).message


@pytest.mark.parametrize("name", ["conv1.bias", "velocity.fc8.weight", "mean"])
def test_a_missing_tensor_is_refused(saved: Path, name: str) -> None:
    assert name in refusal(edited(saved, lambda tensors, _: tensors.pop(name))).message


def test_a_tensor_too_many_is_refused(saved: Path) -> None:
    edited(saved, lambda tensors, _: tensors.update(intruder=torch.zeros(1)))
    assert "intruder" in refusal(saved).message


@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (256, 256, 3)])
def test_a_mean_of_another_shape_is_refused(saved: Path, shape: tuple[int, ...]) -> None:
    assert "mean" in refusal(edited(saved, lambda tensors, _: tensors.update(mean=torch.zeros(shape)))).message


@pytest.mark.parametrize("kind", [torch.float16, torch.float64, torch.int8])
def test_numbers_of_another_kind_are_refused(saved: Path, kind: torch.dtype) -> None:
    edited(saved, lambda tensors, _: tensors.update({"fc8.bias": torch.zeros(3, dtype=kind)}))
    assert "fc8.bias" in refusal(saved).message


def test_another_recipe_than_the_tensors_is_refused_before_anything_is_allocated(saved: Path) -> None:
    edited(saved, lambda _, about: about["recipe"]["network"].update(hidden=10**9))
    assert "does not hold the network it names" in refusal(saved).message


def test_another_format_is_refused(saved: Path) -> None:
    edited(saved, lambda _, about: about.update(format=2))
    assert "a checkpoint format this version does not know" in refusal(saved).message


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("junk", [None, "x", [], {}, ["x"], -1, "missing"])
def test_metadata_without_sense_is_refused(saved: Path, key: str, junk: object) -> None:
    def spoil(_: object, about: dict[str, Any]) -> None:
        if junk == "missing":
            del about[key]
        else:
            about[key] = junk

    edited(saved, spoil)
    try:
        checkpoints.load(saved)
    except AlexNetError as error:
        assert error.hint


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 1000, 100_000, -1])
def test_a_file_cut_short_is_refused(saved: Path, keep: int) -> None:
    os.truncate(saved, keep % saved.stat().st_size)
    refusal(saved)


def test_random_bytes_are_refused(saved: Path) -> None:
    generator = random.Random(1)
    for length in (1, 8, 9, 64, 5000):
        saved.write_bytes(generator.randbytes(length))
        refusal(saved)
        saved.write_bytes(length.to_bytes(8, "little") + generator.randbytes(length))
        refusal(saved)


def test_flipped_bits_are_found_wherever_they_are(saved: Path) -> None:
    whole, generator = saved.read_bytes(), random.Random(2)
    header = 8 + int.from_bytes(whole[:8], "little")
    digits = whole.index(b'\\"steps\\": 1234') + len(b'\\"steps\\": 12')  # 1234 → 1235 reads as well
    for place in (digits, header, len(whole) - 1, *(generator.randrange(header, len(whole)) for _ in range(20))):
        with saved.open("rb+") as file:
            file.seek(place)
            file.write(bytes([whole[place] ^ (1 if place == digits else 1 << generator.randrange(8))]))
        assert "its checksum is that of other bytes" in refusal(saved).message
        saved.write_bytes(whole)
    checkpoints.load(saved)


def test_a_header_with_flipped_bits_never_escapes_the_one_door(saved: Path) -> None:
    whole, generator = saved.read_bytes(), random.Random(1)
    header = 8 + int.from_bytes(whole[:8], "little")
    with saved.open("rb+") as file:
        for _ in range(300):
            place = generator.randrange(header)
            file.seek(place)
            file.write(bytes([whole[place] ^ 1 << generator.randrange(8)]))
            file.flush()
            try:
                checkpoints.load(saved)
            except AlexNetError as error:
                assert error.hint
            file.seek(place)
            file.write(whole[place : place + 1])


@pytest.mark.parametrize("text", [b"[" * 200_000, b"{}", b"[]", b"null", b'{"__metadata__": {"alexnet": "[]"}}'])
def test_odd_json_is_refused(saved: Path, text: bytes) -> None:
    saved.write_bytes(len(text).to_bytes(8, "little") + text)
    refusal(saved)


def test_other_peoples_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"conv1.weight": torch.zeros(1)}, path)
    assert "is not a checkpoint of alexnet" in refusal(path).message
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    assert "is not a checkpoint of alexnet" in refusal(path).message
    assert "there is no file" in refusal(tmp_path / "absent.safetensors").message
    refusal(tmp_path)


# --- a full disk


def test_a_save_that_fails_leaves_the_old_files(saved: Path, tmp_path: Path) -> None:
    checkpoints.save(saved, some_checkpoint(2), tmp_path / "previous.safetensors")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises((OSError, AlexNetError)):
            checkpoints.save(saved, some_checkpoint(3), tmp_path / "previous.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
