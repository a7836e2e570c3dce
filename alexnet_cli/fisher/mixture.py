"""What all pictures have in common: the principal components of their descriptors, and a mixture of Gaussians."""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_cli.errors import AlexNetError
from alexnet_cli.fisher.encoding import Vocabulary

ITERATIONS = 100
FLOOR = 1e-3
"""What is added to each variance, as a share of their mean: patches without a gradient are all the same point."""


def learnt(sample: NDArray[np.float32], dimensions: int, gaussians: int, seed: int) -> Vocabulary:
    """From descriptors (N, P), by scikit-learn: PCA, then expectation-maximisation from where k-means ends."""
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    check(sample, dimensions, gaussians)
    components = PCA(dimensions, svd_solver="covariance_eigh").fit(sample)
    points = components.transform(sample).astype(np.float32)
    mixture = GaussianMixture(
        gaussians,
        covariance_type="diag",
        reg_covar=FLOOR * float(points.var(axis=0).mean()),
        max_iter=ITERATIONS,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # after so many iterations little changes
        mixture.fit(points)
    arrays = components.mean_, components.components_, mixture.weights_, mixture.means_, mixture.covariances_
    return Vocabulary(*(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)) for array in arrays))


def check(sample: NDArray[np.float32], dimensions: int, gaussians: int) -> None:
    if dimensions > sample.shape[1]:
        raise AlexNetError(
            f"--dimensions {dimensions}: the descriptors have {sample.shape[1]} numbers each",
            "take no more than that",
        )
    if len(sample) < 2 * max(dimensions, gaussians):
        raise AlexNetError(
            f"{len(sample):,} descriptors are too few for {gaussians} Gaussians in {dimensions} dimensions",
            "give more pictures, a smaller --step, or fewer --gaussians",
        )
