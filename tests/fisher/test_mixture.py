import numpy as np
import pytest
import torch

from alexnet_cli.errors import AlexNetError
from alexnet_cli.fisher.mixture import learnt

CENTRES = np.array([[40.0, 0, 0], [-40, 10, 0], [0, -40, 5]])
SHARES = (0.5, 0.3, 0.2)


@pytest.fixture(scope="module")
def sample() -> np.ndarray:
    """Three clouds in three dimensions, turned into eight of which five say next to nothing."""
    rng = np.random.default_rng(2)
    which = rng.choice(3, 6000, p=SHARES)
    cloud = np.zeros((6000, 8))
    cloud[:, :3] = CENTRES[which] + rng.normal(0, 3, (6000, 3))
    cloud[:, 3:] = rng.normal(0, 0.1, (6000, 5))
    axes = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    return (cloud @ axes + 50).astype(np.float32)


def test_the_axes_are_the_principal_components(sample: np.ndarray) -> None:
    found = learnt(sample, 3, 3, 1)
    assert (found.axes @ found.axes.T).numpy() == pytest.approx(np.eye(3), abs=1e-5)
    values, vectors = np.linalg.eigh(np.cov(sample.astype(np.float64).T))
    assert np.abs(np.diag(found.axes.double().numpy() @ vectors[:, ::-1][:, :3])) == pytest.approx(1, abs=1e-4)
    points = found.projected(torch.from_numpy(sample)).double().numpy()
    assert points.mean(0) == pytest.approx(0, abs=1e-3)
    assert np.cov(points.T) == pytest.approx(np.diag(values[::-1][:3]), abs=0.05)


def test_the_clouds_are_found(sample: np.ndarray) -> None:
    found = learnt(sample, 3, 3, 1)
    order = np.argsort(-found.weights.numpy())
    assert found.weights.numpy()[order] == pytest.approx(SHARES, abs=0.02)
    assert found.variances.numpy() == pytest.approx(9, rel=0.3)
    back = found.means.double().numpy() @ found.axes.double().numpy()
    apart = np.linalg.norm(back[order][:, None] - back[order][None], axis=2)
    assert apart == pytest.approx(np.linalg.norm(CENTRES[:, None] - CENTRES[None], axis=2), abs=0.5)


def test_the_same_seed_gives_the_same_bits(sample: np.ndarray) -> None:
    first, second = learnt(sample, 3, 4, 7), learnt(sample, 3, 4, 7)
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in vars(first))


def test_patches_that_are_all_the_same_leave_no_gaussian_without_width(sample: np.ndarray) -> None:
    """As the empty borders of drawn pictures are, of which SIFT says nothing."""
    found = learnt(np.concatenate([sample, np.zeros((6000, 8), dtype=np.float32)]), 3, 4, 1)
    assert float(found.variances.min()) > 0.1
    assert found.posteriors(found.projected(torch.from_numpy(sample))).isfinite().all()


def test_too_little_and_too_much_are_refused(sample: np.ndarray) -> None:
    with pytest.raises(AlexNetError, match="--dimensions 9: the descriptors have 8 numbers each"):
        learnt(sample, 9, 3, 1)
    with pytest.raises(AlexNetError, match="19 descriptors are too few for 10 Gaussians"):
        learnt(sample[:19], 3, 10, 1)
