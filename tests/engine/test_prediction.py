"""Pictures in, answers or activations out; whatever bytes a file has, the others are answered."""

import io
import itertools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from alexnet_cli import recipes
from alexnet_cli.dataset.images import load_square
from alexnet_cli.dataset.treatment import Treatment
from alexnet_cli.engine import prediction
from alexnet_cli.engine.checkpoint import Subject
from alexnet_cli.engine.gathering import Picture, gathered
from alexnet_cli.engine.prediction import FEATURES, NetworkClassifier, features, known_label, seen
from alexnet_cli.errors import AlexNetError, Diverged
from alexnet_cli.loading.augmentation import Colours, Patches
from alexnet_cli.network.alexnet import AlexNet, initialise

CPU = torch.device("cpu")


def nothing() -> bytes:
    raise AssertionError("nobody asked for standard input")


def encoded(seed: int, form: str) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((50, 40)).save(file, form)
    return file.getvalue()


def flat(pictures: Tensor) -> Tensor:
    """A stand-in for a net: tells pictures apart, and costs nothing."""
    return torch.stack([pictures.long().sum((1, 2, 3)), torch.full((len(pictures),), len(pictures))], 1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.JPG", "sub/deep/c.webp", "sub/a.gif", "Sub/z.bmp", ".hidden.png", ".git/x.png"):
        path = Path("in") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    Path("in/notes.txt").touch()
    Path("in/loop").symlink_to(Path("in").absolute())
    Path("empty").mkdir()
    return tmp_path


def names(*given: str, stdin: bytes | None = None) -> list[str]:
    return [picture.name for picture in gathered(given, nothing if stdin is None else lambda: stdin)]


@pytest.mark.usefixtures("folder")
def test_folders_are_walked_in_one_order() -> None:
    wanted = ["in/a.JPG", "in/b.png", "in/Sub/z.bmp", "in/sub/a.gif", "in/sub/deep/c.webp"]
    assert names("in") == wanted
    assert names("in/sub", "in/b.png", "in") == [*wanted[3:], "in/b.png", *wanted]


@pytest.mark.usefixtures("folder")
def test_patterns_and_names_that_look_like_one() -> None:
    assert names("in/*.png") == ["in/b.png"]
    assert names("in/**/*.[gw]*") == ["in/sub/a.gif", "in/sub/deep/c.webp"]
    assert names("in/s*") == ["in/sub/a.gif", "in/sub/deep/c.webp"]
    assert names(str(Path("in/*.png").absolute())) == [str(Path("in/b.png").absolute())]
    assert names("in/.h*") == ["in/.hidden.png"]
    Path("in/[b].png").touch()
    assert names("in/[b].png") == ["in/[b].png"]


@pytest.mark.usefixtures("folder")
def test_a_pattern_gives_each_picture_once() -> None:
    """Though it match the folders around it too, and some without pictures."""
    Path("in/void").mkdir()
    Path("in/notes.txt").unlink()
    for pattern in ("in/**", "in/**/*", "in/[!l]*"):
        assert sorted(names(pattern)) == sorted(names("in")), pattern
    assert len(names("in/l*")) == 5, "a link that is named is gone through, one that ** comes upon is not"


@pytest.mark.usefixtures("folder")
def test_standard_input_that_is_no_list_of_files() -> None:
    assert names("-", stdin=b"P5010001.JPG\nBM.png") == ["P5010001.JPG", "BM.png"], "a camera's names"
    (one,) = seen(gathered(["-"], lambda: b"<html>" * 1000), Treatment(), flat, 1)
    assert one.problem is not None and "File name too long" in one.problem.message


def test_outputs_that_are_no_numbers_are_no_answers() -> None:
    picture = Picture("one.png", encoded(1, "PNG"))
    with pytest.raises(Diverged, match="not finite"):
        list(seen([picture], Treatment(), lambda squares: torch.full((len(squares), 3), torch.nan), 1))


@pytest.mark.usefixtures("folder")
def test_standard_input_is_a_picture_or_a_list() -> None:
    for form in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"):
        data = encoded(1, form)
        assert gathered(["-"], lambda data=data: data) == [Picture("-", data)]
    assert names("-", stdin=b"in/b.png\r\n\nin/sub\nabsent.jpg") == [
        *("in/b.png", "in/sub/a.gif", "in/sub/deep/c.webp", "absent.jpg"),
    ]
    odd = os.fsencode("in/with\nline.png")
    assert names("-", stdin=b"in/b.png\0" + odd + b"\0") == ["in/b.png", "in/with\nline.png"]
    assert names("-", stdin=b"caf\xe9.png\n") == [os.fsdecode(b"caf\xe9.png")]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("given", "stdin", "message"),
    [
        ("empty", None, "there are no pictures in empty"),
        ("*.jpeg", None, "no file is named like *.jpeg"),
        ("emp*", None, "there are no pictures in what is named like emp*"),
        ("-", b" \n", "standard input is empty"),
        ("absent.png", None, "absent.png cannot be read: No such file"),
        ("nul\0.png", None, "cannot be read"),
        ("in/sub/a.gif", None, "in/sub/a.gif cannot be used: empty file"),
    ],
)
def test_what_is_no_picture_says_so(given: str, stdin: bytes | None, message: str) -> None:
    found = gathered([given], nothing if stdin is None else lambda: stdin)
    (one,) = seen(found, Treatment(), flat, 1)
    assert one.output is None and one.problem is not None
    assert message in one.problem.message and one.problem.hint


def test_a_file_without_end_is_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from alexnet_cli.engine import gathering

    monkeypatch.setattr(gathering, "FILE_LIMIT", 1 << 20)
    with pytest.raises(AlexNetError, match="/dev/zero is larger than"):
        Picture("/dev/zero").read()


@pytest.mark.parametrize("count", [1, 5, 64, 65, 200])
def test_each_picture_has_its_answer_in_order(count: int) -> None:
    """Every seventh is rubbish."""
    whole = {seed: encoded(seed, "PNG") for seed in range(10)}
    pictures = [Picture(str(n), b"rubbish" if n % 7 == 3 else whole[n % 10]) for n in range(count)]
    found = [*seen(pictures, Treatment(), flat, 2)]
    assert [one.name for one in found] == [picture.name for picture in pictures]
    for picture, one in zip(pictures, found, strict=True):
        assert picture.data is not None
        if picture.data == b"rubbish":
            assert one.output is None and one.square is None and "not a picture" in str(one.problem)
        else:
            assert one.square is not None and torch.equal(one.square, load_square(picture.data))
            assert one.output is not None and one.output[0] == one.square.long().sum()
            assert one.output[1] <= prediction.AT_ONCE


SOUND = [encoded(5, form) for form in ("JPEG", "PNG")]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(SOUND),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=6)), min_size=1, max_size=4),
    st.one_of(st.none(), st.integers(0, 1 << 16)),
)
def test_no_bytes_are_too_bad(data: bytes, changes: list[tuple[int, bytes]], end: int | None) -> None:
    for place, new in changes:
        at = place % len(data)
        data = data[:at] + new + data[at + len(new) :]
    spoilt = data if end is None else data[: end % len(data)]
    before, one, after = seen(
        [Picture("a", SOUND[0]), Picture("b", spoilt), Picture("c", SOUND[1])], Treatment(), flat, 1
    )
    assert before.output is not None and after.output is not None
    assert (one.output is None) == (one.problem is not None)


def net(recipe: str) -> tuple[AlexNet, NetworkClassifier]:
    chosen = recipes.chosen(recipe, ["width=0.05"])
    model = AlexNet(chosen.network, 7).eval()
    initialise(model, chosen.network, 1)
    mean = torch.full((3, 256, 256), 100.0)
    return model, NetworkClassifier(model, Patches(chosen.network.crop, mean), 10, CPU)


@pytest.mark.parametrize("recipe", ["paper", "original", "torchvision", "paper+six-conv", "caffe"])
@torch.no_grad()
def test_features_are_the_layers_of_the_centre_patch(recipe: str) -> None:
    """Against the net's own layers, one after the other."""
    model, classify = net(recipe)
    generator = torch.Generator().manual_seed(2)
    pictures = torch.randint(0, 256, (3, 3, 256, 256), dtype=torch.uint8, generator=generator)
    side = classify.patches.side
    first = (256 - side) // 2
    x = pictures[:, :, first : first + side, first : first + side].float() - 100
    x = model.stage2(model.conv2(model.stage1(model.conv1(F.pad(x, model.edges)))))
    wanted = {
        "conv5": torch.relu(
            model.get_submodule("conv5")(
                torch.relu(model.get_submodule("conv4")(torch.relu(model.get_submodule("conv3")(x))))
            )
        )
    }
    wanted["pool5"] = F.max_pool2d(wanted["conv5"], 3, 2)
    x = wanted["pool5"]
    if "conv6" in model.layers:
        x = torch.relu(model.get_submodule("conv6")(x))
    half = 1.0 if recipe in ("torchvision", "caffe") else 0.5
    wanted["fc6"] = torch.relu(model.fc6(x.flatten(1))) * half
    wanted["fc7"] = torch.relu(model.fc7(wanted["fc6"])) * half
    wanted["fc8"] = model.fc8(wanted["fc7"])
    for layer in FEATURES:
        found = features(classify, layer)(pictures)
        assert found.shape == wanted[layer].shape and torch.allclose(found, wanted[layer], rtol=1e-4, atol=1e-5)
        assert found.std() > 0 and torch.equal(found, features(classify, layer)(pictures))
    hooks = [module._forward_hooks for module in model.modules()]
    assert not [*itertools.chain(*hooks)], "the net is left as it was"


def test_layers_that_there_are_not() -> None:
    _, classify = net("paper")
    with pytest.raises(AlexNetError, match="no features 'fc9'") as caught:
        features(classify, "fc9")
    assert caught.value.hint == "it is one of conv5, pool5, fc6, fc7, fc8"
    without = recipes.chosen("paper", ["width=0.05", "without=conv5"])
    lacking = replace(classify, model=AlexNet(without.network, 7))
    with pytest.raises(AlexNetError, match="no features 'conv5'"):
        features(lacking, "conv5")


def test_the_right_class_is_known_by_the_folder() -> None:
    colours = Colours(torch.zeros(3, 256, 256), np.ones(3), np.eye(3))
    subject = Subject(("tench", "crane"), ("n01440764", "n02012849"), colours, {}, "")
    for folder, label in (("n02012849", 1), ("crane", 1), ("tench", 0), ("cranes", None), (".", None)):
        assert known_label(subject, f"x/{folder}/1.jpg") == label
