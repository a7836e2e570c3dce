"""torchvision's and Caffe's own files on pictures of ILSVRC's classes, against torchvision's class and OpenCV."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset.conftest import photograph
from network.interchange import caffe_files
from PIL import Image
from safetensors.numpy import load_file

from alexnet_cli import imagenet, recipes
from alexnet_cli.dataset.preparation import Options, prepare
from alexnet_cli.dataset.sources.recognise import open_source
from alexnet_cli.dataset.treatment import Geometry, Treatment

Run = Callable[..., Any]
Array = np.ndarray

WNIDS = tuple(imagenet.classes())
RANKS = (0, 3, 60) * 4
"""Of each picture's right class among the answers: a third of them right, a third among the best five."""


@pytest.fixture(scope="module")
def drawn() -> Array:
    """uint8 (12, 256, 256, 3), which preparation need not resize, and as PNG does not change."""
    return np.stack([np.asarray(photograph(seed, 256, 256)) for seed in range(len(RANKS))])


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of the 1000 classes, one of them with a picture."""
    folder = tmp_path_factory.mktemp("train")
    for wnid in WNIDS:
        (folder / wnid).mkdir()
    photograph(99, 40, 50).save(folder / WNIDS[0] / "1.png")
    return folder


def write_dataset(train: Path, drawn: Array, wanted: Array, geometry: Geometry) -> list[int]:
    """Prepare ILSVRC's class folders, where `wanted` ranks the right classes as RANKS says; give their labels."""
    source = Path("source")
    source.mkdir()
    (source / "train").symlink_to(train)
    labels = [int(best[rank]) for best, rank in zip(np.argsort(-wanted, 1), RANKS, strict=True)]
    for number, (picture, label) in enumerate(zip(drawn, labels, strict=True)):
        folder = source / "val" / WNIDS[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{number:02}.png")
    list(prepare(open_source("source"), Path("ilsvrc"), Options(treatment=Treatment(geometry, encoding="png"))))
    return labels


def check(alexnet: Run, model: str, wanted: Array, labels: list[int]) -> str:
    """That `eval` finds the probabilities `wanted`, (12, 1000), and counts them; give what it told people."""
    told = alexnet("eval", model, "--data", "ilsvrc", "--save-probs", "probs.safetensors", "--json").succeeded()
    (score,) = json.loads(told.out)["models"]
    assert (score["pictures"], score["top1_wrong"], score["top5_wrong"]) == (12, 8, 4)
    saved = load_file("probs.safetensors")
    found = saved["probabilities"]
    print(f"largest relative difference of a probability: {abs(found / wanted - 1).max():.1e}")
    assert np.allclose(found, wanted, rtol=1e-4, atol=0)
    assert saved["labels"].tolist() == labels  # ILSVRC's val is in the order of its files' names
    right = wanted[np.arange(12), labels].astype(np.float64)
    assert score["cross_entropy"] == pytest.approx(-np.log(right).mean(), rel=1e-5)
    assert {row["wnid"] for row in score["by_class"] if row["pictures"]} == {WNIDS[label] for label in labels}
    assert [row["name"] for row in score["by_class"]][:2] == ["tench", "goldfish"]
    assert "was trained on pictures of" not in told.err
    return told.err


@pytest.mark.usefixtures("place")
def test_torchvisions_file(train: Path, drawn: Array, alexnet: Run) -> None:
    from torchvision.models import alexnet as theirs

    with torch.device("meta"):
        net = theirs(weights=None).eval()
    generator, state = torch.Generator().manual_seed(1), {}
    for name, tensor in net.state_dict().items():  # such that the answers depend on the picture
        most = 0.1 if tensor.dim() == 1 else (6 / tensor[0].numel()) ** 0.5
        state[name] = torch.empty(tensor.shape).uniform_(-most, most, generator=generator)
    torch.save(state, "alexnet-owt-7be5be79.pth")
    net.load_state_dict(state, assign=True)
    # torchvision's transforms: ToTensor, CenterCrop(224), Normalize.
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = torch.from_numpy(drawn).permute(0, 3, 1, 2)[:, :, 16:240, 16:240] / 255
    with torch.no_grad():
        wanted = net((pixels - mean) / deviation).softmax(1).numpy()
    labels = write_dataset(train, drawn, wanted, "crop")
    said = check(alexnet, "alexnet-owt-7be5be79.pth", wanted, labels)
    assert "alexnet-owt-7be5be79.pth: torchvision's weights\n" in said


@pytest.mark.parametrize("image", [False, True], ids=["mean colour", "mean image"])
@pytest.mark.usefixtures("place")
def test_caffes_file(train: Path, drawn: Array, alexnet: Run, image: bool) -> None:
    narrow = replace(recipes.caffe().network, kernels=(8, 12, 12, 12, 8), hidden=16)
    weights = caffe_files.random_weights(narrow, 1000)
    # Pixels are a hundred times as large as what these weights are for.
    weights["conv1.weight"] *= 0.02
    Path("bvlc.caffemodel").write_bytes(caffe_files.caffemodel(weights))
    Path("bvlc.prototxt").write_text(caffe_files.deploy(narrow, 1000))
    mean = np.broadcast_to(np.array([104, 117, 123], dtype=np.float32)[:, None, None], (3, 256, 256))  # B, G, R
    if image:
        mean = np.random.default_rng(5).uniform(60, 160, (3, 256, 256)).astype(np.float32)
        Path("imagenet_mean.binaryproto").write_bytes(caffe_files.old(mean[None]))
    net = caffe_files.in_opencv(Path("bvlc.prototxt"), Path("bvlc.caffemodel"))
    pixels = (drawn[..., ::-1].transpose(0, 3, 1, 2) - mean)[:, :, 14:241, 14:241]
    answers = []
    for picture in pixels:
        net.setInput(np.ascontiguousarray(picture[None]))
        answers.append(net.forward()[0].copy())
    wanted = np.stack(answers)
    labels = write_dataset(train, drawn, wanted, "warp")
    said = check(alexnet, "bvlc.caffemodel", wanted, labels)
    whose = "the mean image of imagenet_mean.binaryproto" if image else "the mean colour 123/117/104, for lack of"
    assert f"bvlc.caffemodel: Caffe's weights, and {whose}" in said
