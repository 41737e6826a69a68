"""Features as places in the plane."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from solo_bam.core.errors import UserError


def principal_components(features: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The two directions of largest variance: places ``(N, 2)`` and names of the axes.

    Args:
        features: ``(N, D)``, N at least 2.
    """
    centred = features.astype(np.float64) - features.mean(0)
    left, sigma, _ = np.linalg.svd(centred, full_matrices=False)
    shares = 100 * sigma**2 / max((sigma**2).sum(), 1e-300)
    return left[:, :2] * sigma[:2], [f"principal component {i + 1} ({shares[i]:.0f} % of the variance)" for i in (0, 1)]


def umap(features: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """UMAP by the cosine, the same every time: places ``(N, 2)`` and names of the axes.

    Raises:
        UserError: umap-learn is not installed.
    """
    try:
        from umap import UMAP
    except ImportError:
        raise UserError(
            "reduction", "got 'umap', umap-learn is not installed", "pip install 'solo-bam[umap]' or use reduction=pca"
        ) from None
    places = UMAP(metric="cosine", random_state=0, n_jobs=1).fit_transform(features)
    return places, ["UMAP 1 (no unit)", "UMAP 2 (no unit)"]


REDUCTIONS: Mapping[str, Callable[[np.ndarray], tuple[np.ndarray, list[str]]]] = {
    "pca": principal_components,
    "umap": umap,
}
