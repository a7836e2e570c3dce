"""torchvision's alexnet: its files in and out, bit for bit, and what is refused."""

import os
import random
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from alexnet_cli import imagenet, recipes
from alexnet_cli.engine import checkpoint as checkpoints
from alexnet_cli.engine import conversion, models
from alexnet_cli.errors import AlexNetError
from alexnet_cli.network.alexnet import AlexNet, initialise
from alexnet_cli.network.interchange import torchvision

CPU = torch.device("cpu")
NARROW = replace(recipes.torchvision().network, kernels=(8, 12, 12, 12, 8), hidden=16)
# As torchvision/models/alexnet.py counts its layers.
NAMES = (
    *(f"features.{number}.{kind}" for number in (0, 3, 6, 8, 10) for kind in ("weight", "bias")),
    *(f"classifier.{number}.{kind}" for number in (1, 4, 6) for kind in ("weight", "bias")),
)


def state(classes: int = 7, net: recipes.Network = NARROW) -> "OrderedDict[str, Tensor]":
    model = AlexNet(net, classes)
    initialise(model, net, 1)
    values = [tensor.detach() for tensor in model.state_dict().values()]
    return OrderedDict(zip(NAMES, values, strict=True))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save(state(), tmp_path / "alexnet.pth")
    return tmp_path / "alexnet.pth"


def refusal(path: Path) -> AlexNetError:
    with pytest.raises(AlexNetError) as caught:
        models.load(path)
    assert str(path) in caught.value.message and caught.value.hint
    return caught.value


def test_torchvisions_own_class(tmp_path: Path) -> None:
    """Full width: its file becomes ours, which computes what it computes, and becomes its file again."""
    from torchvision.models import alexnet

    torch.manual_seed(3)
    theirs = alexnet(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "alexnet-owt-7be5be79.pth")
    checkpoint, origin = models.load_weights(tmp_path / "alexnet-owt-7be5be79.pth", "torchvision")
    assert checkpoint.recipe == recipes.torchvision() and origin == "torchvision's weights"
    assert checkpoint.subject.wnids == tuple(imagenet.classes())
    assert checkpoint.subject.classes[281] == "tabby"

    pictures = torch.randint(
        0, 256, (2, 3, 256, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        wanted = theirs((pictures[:, :, 16:240, 16:240] / 255 - mean) / deviation).softmax(1)
    conversion.write(tmp_path / "ours.safetensors", checkpoint)
    found = models.load(tmp_path / "ours.safetensors").classifier(1, CPU)(pictures)
    print(f"largest relative difference from torchvision's: {((found - wanted) / wanted).abs().max():.1e}")
    assert torch.allclose(found, wanted, rtol=1e-5, atol=0)

    conversion.write(tmp_path / "again.pth", checkpoints.load(tmp_path / "ours.safetensors"))
    back = torch.load(tmp_path / "again.pth", weights_only=True)
    assert list(back) == list(theirs.state_dict())
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.state_dict().items())
    alexnet(weights=None).load_state_dict(back)


@pytest.mark.parametrize("legacy", [False, True])
def test_both_forms_of_file(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "alexnet.pth"
    torch.save(state(), path, _use_new_zipfile_serialization=not legacy)
    assert zipfile.is_zipfile(path) is not legacy
    weights = torchvision.read(path)
    assert dict(zip(weights, NAMES, strict=True)) == torchvision.NAMES
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights.values(), state().values(), strict=True))
    model = models.load(path)
    assert model.recipe.network == NARROW
    assert model.subject.classes[:2] == ("class 0", "class 1") and model.subject.wnids == (None,) * 7
    assert model.subject.preparation["geometry"] == "crop"


def test_any_memory_format(tmp_path: Path) -> None:
    path = tmp_path / "alexnet.pth"
    nhwc = {n: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t for n, t in state().items()}
    torch.save(nhwc, path)
    weights = torchvision.read(path)
    assert all(torch.equal(weights[ours], state()[theirs]) for ours, theirs in torchvision.NAMES.items())


def test_only_its_own_net_becomes_its_file(tmp_path: Path) -> None:
    path = tmp_path / "out.pth"
    net = recipes.torchvision()
    weights, _ = models.load_weights(saved(tmp_path))
    for recipe in (net, replace(net, network=replace(net.network, dropout=0.3, sigma=(0.1,) * 8))):
        conversion.write(path, replace(weights, recipe=recipe))
        path.unlink()
    others = (*(recipes.RECIPES[name]() for name in recipes.RECIPES if name != "torchvision"),)
    tanh = recipes.named("torchvision+tanh")
    pixel = replace(net, preprocessing=recipes.Preprocessing("pixel"))
    for recipe in (*others, tanh, pixel):
        with pytest.raises(AlexNetError, match=f"these are the weights of {recipe.name.split('+')[0]}") as caught:
            conversion.write(path, replace(weights, recipe=recipe))
        assert "recipe torchvision" in caught.value.hint and not path.exists()


def saved(folder: Path) -> Path:
    torch.save(state(), folder / "in.pth")
    return folder / "in.pth"


# --- refusals


def test_another_recipe_is_refused_with_the_right_name(file: Path) -> None:
    for name in ("paper", "caffe", "small"):
        with pytest.raises(AlexNetError) as caught:
            models.load_weights(file, name)
        assert f"holds the weights of recipe torchvision, not of {name}" in caught.value.message
        assert "--recipe torchvision" in caught.value.hint


def test_what_was_found_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    for found, said in (
        (
            {"layer1.0.conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)},
            "holds layer1.0.conv1.weight, fc.bias,",
        ),
        ({}, "holds nothing,"),
        ({"state_dict": dict(state()), "epoch": 3}, "holds state_dict, epoch,"),
        ([1, 2], "holds list, not a state_dict"),
        (torch.zeros(3), "holds Tensor, not a state_dict"),
        (
            {**state(), "extra": torch.zeros(1)},
            "features.0.weight, features.0.bias, features.3.weight and 14 more",
        ),
    ):
        torch.save(found, path)
        assert said in refusal(path).message


@pytest.mark.parametrize(
    "odd",
    [
        torch.zeros(16, 16, dtype=torch.float64),
        torch.zeros(16, 16, dtype=torch.int64),
        torch.zeros(16),
        torch.zeros(16, 0),
        torch.zeros(1).expand(16, 16),
        torch.zeros(1).expand(10**9, 16),
        torch.zeros(16, 16).to_sparse(),
        torch.empty(16, 16, device="meta"),
        "text",
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_odd_tensors_are_refused(tmp_path: Path, odd: object) -> None:
    path = tmp_path / "x.pth"
    torch.save({**state(), "classifier.4.weight": odd}, path)
    assert "classifier.4.weight is not a whole float32 tensor" in refusal(path).message


def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({**state(), "features.3.weight": torch.zeros(12, 4, 5, 5)}, path)
    assert "torchvision's net: conv2.weight is 12×4×5×5, not 12×8×5×5" in refusal(path).message


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("boom",)


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_in_a_pickle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**state(), "bomb": Bomb()}, "x.pth", _use_new_zipfile_serialization=not legacy)
    assert (
        "cannot be read as tensors alone: it names posix.mkdir, which is not run" in refusal(Path("x.pth")).message
    )
    assert not Path("boom").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_changed_bytes_never_escape_the_one_door(tmp_path: Path, legacy: bool) -> None:
    path, generator = tmp_path / "x.pth", random.Random(1)
    torch.save(state(), path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(generator.randrange(1, 4)):
            # The pickle lies at the beginning of both, the zip's directory at the end.
            place = generator.choice((generator.randrange(2000), -generator.randrange(1, 2000)))
            data[place] = generator.randrange(256)
        path.write_bytes(bytes(data[: generator.choice((len(data), generator.randrange(len(data))))]))
        try:
            models.load(path)
        except AlexNetError as error:
            assert error.hint
