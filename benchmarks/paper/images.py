# SPDX-License-Identifier: Apache-2.0
"""The images of the paper's experiments, with seeded noise, in float, neither clipped nor rounded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from benchmarks.tasks import Task, data_folder

__all__ = ["Noisy", "bsd68", "epithelia", "train400"]


@dataclass(frozen=True)
class Noisy:
    """Images to learn from: noisy, noisy once more, and clean; float32."""

    first: list[np.ndarray]
    second: list[np.ndarray]
    clean: list[np.ndarray]

    def targets(self, kind: str | None) -> list[np.ndarray] | None:
        """What a scheme learns from beside the noisy images."""
        return {"clean": self.clean, "second": self.second, None: None}[kind]


def _grays(folder: str) -> list[np.ndarray]:
    from PIL import Image

    paths = sorted((data_folder() / "bsd68" / folder).glob("*.png"))
    if not paths:
        raise SystemExit(f"MONAI_N2V_DATA must name a folder with bsd68/{folder}, got {data_folder()}. Set it.")
    return [np.asarray(Image.open(path), dtype=np.float32) for path in paths]


def bsd68(sigma: float = 25.0, every: int = 1, seed: int = 0) -> Task:
    """The test images of Figure 4; of every ``every``-th one, with the noise it has among all; peak 255."""
    rng = np.random.default_rng(seed)
    clean = _grays("BSD68")
    noisy = [(image + rng.normal(0, sigma, image.shape)).astype(np.float32) for image in clean]
    return Task(f"BSD68, sigma {sigma:g}", noisy[::every], clean[::every], sigma, 255.0)


def train400(sigma: float = 25.0, seed: int = 1) -> Noisy:
    """The training images of Figure 4, each with noise that was added once, and once more for Noise2Noise."""
    rng = np.random.default_rng(seed)
    clean = _grays("Train400")
    first, second = (
        [(image + rng.normal(0, sigma, image.shape)).astype(np.float32) for image in clean] for _ in range(2)
    )
    return Noisy(first, second, clean)


def epithelia(
    n_images: int,
    shape: tuple[int, ...],
    seed: int,
    *,
    cell: float = 22.0,
    photons: float = 40.0,
    read_noise: float = 3.0,
) -> Noisy:
    """Simulated membrane-labeled epithelia: Poisson noise of the photons, then Gaussian noise of the camera.

    Cells are those of a Voronoi tessellation of jittered points. A membrane is as bright as the nearest two centers are
    equally far, its brightness differs from one pair of cells to the next, and all is blurred as by a microscope.

    Args:
        n_images: how many.
        shape: voxels along each of two or three axes.
        seed: of cells and noise.
        cell: mean side of a cell in voxels.
        photons: that the brightest membranes send.
        read_noise: standard deviation in photons.

    Returns:
        images in photons; clean ones are what the noise is zero-mean about.
    """
    rng = np.random.default_rng(seed)
    place = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, len(shape))
    clean = []
    for _ in range(n_images):
        centers = np.stack(np.meshgrid(*(np.arange(-cell, n + cell, cell) for n in shape), indexing="ij"), axis=-1)
        centers = centers.reshape(-1, len(shape))
        centers = centers + rng.uniform(-0.45, 0.45, centers.shape) * cell
        distance, nearest = cKDTree(centers).query(place, k=2)
        pair = np.sort(nearest, axis=1)
        brightness = rng.uniform(0.4, 1.0, 4096)[(pair[:, 0] * 31 + pair[:, 1] * 17) % 4096]
        membrane = brightness * np.exp(-(((distance[:, 1] - distance[:, 0]) / 2.5) ** 2))
        signal = ndimage.gaussian_filter((0.08 + membrane).reshape(shape), 1.0)
        clean.append((photons * signal).astype(np.float32))
    first, second = (
        [(rng.poisson(image) + rng.normal(0, read_noise, shape)).astype(np.float32) for image in clean]
        for _ in range(2)
    )
    return Noisy(first, second, clean)
