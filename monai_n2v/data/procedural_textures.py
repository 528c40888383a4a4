# SPDX-License-Identifier: Apache-2.0
"""Textures of procedural images: random ones of a limited band, and mosaics."""

import functools
import math
from collections.abc import Sequence

import numpy as np

# The finest texture's frequency, in cycles per voxel. Finer ones cannot be told from correlated noise: a network that
# has seen them as signal leaves such noise in real scans as it is.
_FINEST = 0.12


def dot(weights: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Sum of coordinates, weighted: a coordinate along another direction."""
    total = weights[0] * parts[0]
    for weight, part in zip(weights[1:], parts[1:]):
        total = total + weight * part
    return total


def radius_of(u: Sequence[np.ndarray]) -> np.ndarray:
    """Distance from the origin, by coordinates."""
    total = u[0] * u[0]
    for one in u[1:]:
        total = total + one * one
    return np.sqrt(total)


def band_limited(rng: np.random.Generator, shape: Sequence[int], voxel: np.ndarray | None = None) -> np.ndarray:
    """A random texture of a power-law or band-pass spectrum, often oriented.

    Args:
        rng: source of all that is random.
        shape: of the texture.
        voxel: sides of a voxel.

    Returns:
        float32 ``shape``, of mean 0 and standard deviation 1.
    """
    n_axes = len(shape)
    scale = (voxel if voxel is not None else np.ones(n_axes)).astype(np.float32)
    axes = [np.fft.fftfreq(side) for side in shape[:-1]] + [np.fft.rfftfreq(shape[-1])]
    k = np.meshgrid(*[(a / s).astype(np.float32) for a, s in zip(axes, scale)], indexing="ij", sparse=True)
    turn = np.linalg.qr(rng.normal(size=(n_axes, n_axes)))[0].astype(np.float32)
    stretch = np.ones(n_axes, dtype=np.float32)
    if rng.random() < 0.5:
        stretch[0] = math.exp(rng.uniform(0, 2))
    turned = [dot(s * row, k) for s, row in zip(stretch, turn)]
    radius = radius_of(turned)
    if rng.random() < 0.5:
        amplitude = (radius + np.float32(0.5 / max(shape))) ** np.float32(-rng.uniform(1.4, 2.4) * n_axes / 2)
    else:
        center, width = math.exp(rng.uniform(math.log(0.02), math.log(_FINEST))), rng.uniform(0.15, 0.5)
        amplitude = np.exp(-((np.log(radius + np.float32(1e-4)) - math.log(center)) ** 2) / (2 * width**2))
    white = np.fft.rfftn(rng.standard_normal(shape, dtype=np.float32), axes=range(n_axes))
    texture = np.fft.irfftn(white * amplitude, s=tuple(shape), axes=range(n_axes)).astype(np.float32)
    texture -= texture.mean()
    return texture / max(float(texture.std()), 1e-6)


def mosaic(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Stripes, grids, dots, checkers or cells at random, 1 to 10 voxels wide.

    Args:
        rng: source of all that is random.
        shape: of the mosaic.

    Returns:
        float32 ``shape``, of the values -0.5 and 0.5; now and then of one alone, inside of a wide stripe.
    """
    n_axes = len(shape)
    turn = np.eye(n_axes) if rng.random() < 0.5 else np.linalg.qr(rng.normal(size=(n_axes, n_axes)))[0]
    place = np.ogrid[tuple(slice(0, side) for side in shape)]
    kind = rng.integers(4)
    widths = np.exp(rng.uniform(math.log(3 if kind == 3 else 1), math.log(10), n_axes))
    if rng.random() < 0.5:
        widths = np.round(np.full(n_axes, widths[0]))  # the same along all axes
    cells = [dot(row / width, place) + rng.uniform() for row, width in zip(turn, widths)]
    if rng.random() < 0.4:
        cells = cells[: rng.integers(1, n_axes + 1)]  # the others run through
    if kind == 3:
        table = rng.random((16,) * len(cells)) < rng.uniform(0.2, 0.8)
        on = table[tuple(np.floor(cell).astype(int) % 16 for cell in cells)]
    else:
        duties = 2 * rng.uniform(0.3, 0.7, len(cells)) if kind else np.ones(len(cells))
        on = functools.reduce(
            (np.logical_xor, np.logical_or, np.logical_and)[kind],
            [cell % 2 < duty for cell, duty in zip(cells, duties)],
        )
    return np.broadcast_to(on, shape).astype(np.float32) - np.float32(0.5)
