# SPDX-License-Identifier: Apache-2.0
"""Simulated series on the tissue of Colin27, diffusion-weighted and functional MR, and what they are scored by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from benchmarks.tasks import colin27_crop

SHAPE = (32, 32, 24)
# Mean T1 intensities of Colin27 that tissue goes with.
_CSF, _GRAY, _WHITE = 35.0, 80.0, 108.0
B_VALUE = 1000.0


@dataclass(frozen=True)
class Series:
    """A series with and without noise; volumes lie along the last axis, as in NIfTI.

    Attributes:
        clean: float32 ``(x, y, z, n_volumes)``.
        noisy: the same with noise.
        tissue: voxels that count, ``(x, y, z)``.
        b_values: of each volume in s/mm^2; empty where there is no diffusion.
        b_vectors: ``(n_volumes, 3)``.
        truth: fractional anisotropy, or the share by which activation raises the signal, ``(x, y, z)``.
        model: what the signal of a voxel is fitted by, ``(n_volumes, n_regressors)``; empty for diffusion.
    """

    clean: np.ndarray
    noisy: np.ndarray
    tissue: np.ndarray
    b_values: np.ndarray
    b_vectors: np.ndarray
    truth: np.ndarray
    model: np.ndarray


def _smooth(rng: np.random.Generator, sigma: float, n: int = 1) -> np.ndarray:
    fields = np.stack([ndimage.gaussian_filter(rng.normal(size=SHAPE), sigma, mode="wrap") for _ in range(n)])
    return fields / fields.std()


def directions(n: int) -> np.ndarray:
    """Directions spread evenly over half a sphere, ``(n, 3)``."""
    heights = (np.arange(n) + 0.5) / n
    angles = np.pi * (1 + 5**0.5) * np.arange(n)
    radii = np.sqrt(1 - heights**2)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles), heights], axis=1)


def diffusion(snr: float, n_directions: int = 64, n_b0: int = 6, seed: int = 0) -> Series:
    """Tensors of two fiber bundles with a sharp border, in the white matter of a crop of Colin27.

    Args:
        snr: mean signal of white matter without diffusion weighting over the noise's standard deviation.
        n_directions: at b = 1000 s/mm^2.
        n_b0: volumes without weighting, evenly between the others.
        seed: of fibers and noise.
    """
    rng = np.random.default_rng(seed)
    t1 = colin27_crop((slice(74, 106), slice(92, 124), slice(82, 106)))[0]
    white = np.clip((t1 - _GRAY) / (_WHITE - _GRAY), 0, 1)
    water = np.clip((_GRAY - t1) / (_GRAY - _CSF), 0, 1)
    s0 = 600 - 150 * white + 500 * water
    first, second = (np.moveaxis(_smooth(rng, 8, 3), 0, -1) + offset for offset in ([2, 0, 0], [0, 1.5, 1]))
    fibers = np.where(_smooth(rng, 6)[0][..., None] > 0, first, second)
    fibers /= np.linalg.norm(fibers, axis=-1, keepdims=True)
    mean = 0.75e-3 + 2.0e-3 * water
    share = np.clip(0.05 + white * np.clip(0.38 + 0.1 * _smooth(rng, 3)[0], 0.1, 0.6), 0, 0.6) * (1 - water)
    across = mean * (1 - share)  # eigenvalues: along the fiber mean * (1 + 2 share)
    along = mean * (1 + 2 * share)
    vectors, values = directions(n_directions), np.full(n_directions, B_VALUE)
    places = np.linspace(0, n_directions, n_b0, endpoint=False).astype(int)
    vectors, values = np.insert(vectors, places, 0.0, axis=0), np.insert(values, places, 0.0)
    cosines = np.einsum("xyzi,ti->xyzt", fibers, vectors) ** 2
    decay = values * (across[..., None] + (along - across)[..., None] * cosines)
    clean = (s0[..., None] * np.exp(-decay)).astype(np.float32)
    truth = (along - across) / np.sqrt(along**2 + 2 * across**2)
    sigma = float(s0[white > 0.9].mean()) / snr
    noisy = clean + rng.normal(0, sigma, clean.shape).astype(np.float32)
    return Series(clean, noisy, t1 > 45, values, vectors, truth, np.empty(0))


def functional(tsnr: float, n_volumes: int = 100, block: int = 10, seed: int = 0) -> Series:
    """Blocks of 2 % activation in balls of gray matter, on Colin27 at 2 mm.

    Args:
        tsnr: mean signal of tissue over the noise's standard deviation.
        n_volumes: time points, of 2 s.
        block: length of rest and of activity, in time points.
        seed: of places and noise.
    """
    rng = np.random.default_rng(seed)
    t1 = colin27_crop((slice(58, 122), slice(78, 142), slice(68, 116)))[0]
    t1 = t1.reshape(32, 2, 32, 2, 24, 2).mean(axis=(1, 3, 5))
    tissue = t1 > 45
    mean = np.where(tissue, 700 + 3 * (_WHITE - t1), 700 * t1 / _CSF)
    gray = ndimage.binary_erosion(np.abs(t1 - _GRAY) < 18)
    centers = np.argwhere(gray)[rng.choice(int(gray.sum()), 6, replace=False)]
    grid = np.moveaxis(np.indices(SHAPE), 0, -1)
    apart = np.min([np.linalg.norm(grid - center, axis=-1) for center in centers], axis=0)
    truth = 0.02 * ((apart <= 3) & tissue)
    task = (np.arange(n_volumes) // block % 2).astype(np.float64)
    response = np.exp(-((np.arange(8) - 2.5) ** 2) / 2)  # seconds 2 to 9, peak at 5
    task = np.convolve(task, response / response.sum())[:n_volumes]
    clean = (mean[..., None] * (1 + truth[..., None] * task)).astype(np.float32)
    sigma = float(mean[tissue].mean()) / tsnr
    noisy = clean + rng.normal(0, sigma, clean.shape).astype(np.float32)
    model = np.stack([task - task.mean(), np.ones(n_volumes)], axis=1)
    return Series(clean, noisy, tissue, np.empty(0), np.empty((0, 3)), truth, model)


def fit_tensors(series: Series, signal: np.ndarray) -> np.ndarray:
    """Fractional anisotropy by weighted least squares on the logarithm of the signal, ``(x, y, z)``."""
    g, b = series.b_vectors, series.b_values
    pairs = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
    design = np.stack([np.ones(len(b)), *(-b * g[:, i] * g[:, j] * (1 if i == j else 2) for i, j in pairs)], axis=1)
    logs = np.log(np.maximum(signal[series.tissue].astype(np.float64), 1.0))
    first = logs @ np.linalg.pinv(design).T
    weights = np.exp(2 * np.clip(first @ design.T, 0, 8))
    normal = np.einsum("vt,ti,tj->vij", weights, design, design)
    found = np.linalg.solve(normal, np.einsum("vt,ti,vt->vi", weights, design, logs)[..., None])[..., 0]
    tensors = np.empty((len(found), 3, 3))
    for k, (i, j) in enumerate(pairs):
        tensors[:, i, j] = tensors[:, j, i] = found[:, 1 + k]
    values = np.clip(np.linalg.eigvalsh(tensors), 1e-6, None)
    spread = np.sqrt(1.5 * ((values - values.mean(1, keepdims=True)) ** 2).sum(1) / (values**2).sum(1))
    anisotropy = np.zeros(series.tissue.shape)
    anisotropy[series.tissue] = spread
    return anisotropy


def score(series: Series, output: np.ndarray) -> dict[str, float]:
    """Scores of a denoised series, in tissue.

    Returns:
        PSNR in dB (range: the clean maximum). Of diffusion: root mean square error and bias of the fractional
        anisotropy, and the largest bias of a shell's mean signal, relative. Of activation: median t-value, share of the
        contrast kept, and the spread of the contrast where there is none, relative to the activation.
    """
    error = (output - series.clean)[series.tissue].astype(np.float64)
    found = {"psnr": round(float(10 * np.log10(float(series.clean.max()) ** 2 / (error**2).mean())), 2)}
    if len(series.b_values):
        anisotropy = (fit_tensors(series, output) - series.truth)[series.tissue]
        shells = [series.b_values == b for b in np.unique(series.b_values)]
        expected = series.noisy[series.tissue].astype(np.float64)
        shifts = [
            (output[series.tissue][:, shell].mean(dtype=np.float64) / expected[:, shell].mean() - 1) for shell in shells
        ]
        found |= {
            "fa_error": round(float(np.sqrt((anisotropy**2).mean())), 4),
            "fa_bias": round(float(anisotropy.mean()), 4),
            "shell_bias": round(float(max(map(abs, shifts))), 5),
        }
        return found
    signal = output[series.tissue].astype(np.float64)
    effects, rest, *_ = np.linalg.lstsq(series.model, signal.T, rcond=None)
    error_of_effect = np.sqrt(rest / (len(series.model) - 2) / (series.model[:, 0] ** 2).sum())
    active = series.truth[series.tissue] > 0
    contrast = effects[0] / effects[1]
    return found | {
        "t_value": round(float(np.median((effects[0] / error_of_effect)[active])), 2),
        "contrast_kept": round(float(contrast[active].mean() / series.truth.max()), 3),
        "false_contrast": round(float(contrast[~active].std() / series.truth.max()), 3),
    }
