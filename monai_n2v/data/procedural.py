# SPDX-License-Identifier: Apache-2.0
"""Clean images and volumes made by rules alone, to pretrain on: what the prior knows, it knows from these."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from monai_n2v.data.patches import check_whole_number
from monai_n2v.data.procedural_textures import band_limited, dot, mosaic, radius_of
from monai_n2v.transforms.procedural_noise import smooth_factor

_SMALLEST = 0.6  # of an object's semi-axes, in voxels
_OVERSIZE = 0.7  # the largest, as a share of the side
_MOST_OBJECTS = 600


class ProceduralImages(Sequence[dict[str, Any]]):
    """An endless, seeded collection of clean images: dead leaves of many shapes, with textures, shading and blur.

    Every image is a scene of ellipsoids, shells, polyhedra, tubes and sheets of all sizes that cover each other, as in
    the dead leaves model ([1]_), whose statistics are those of natural images. Objects are flat, shaded or textured.
    Stripes, grids, checkers or cells lie over some scenes, as from MR tagging or gratings. Some scenes lie in air, some
    are seen in thick slices; most are blurred by a random point-spread function. No photograph and no scan enters.

    Args:
        shape: of the images in voxels, 2 or 3 sides.
        n_images: how many there are, numbered; each is made when it is asked for.
        seed: with its number, the source of an image.

    Raises:
        ValueError: for other numbers of axes than 2 and 3, or sides below 16 voxels.

    References:
        .. [1] Lee, Mumford, Huang, "Occlusion Models for Natural Images", IJCV 2001.
    """

    def __init__(self, shape: Sequence[int], n_images: int = 1_000_000, seed: int = 0) -> None:
        self.shape = tuple(check_whole_number("shape", side, 16) for side in shape)
        if len(self.shape) not in (2, 3):
            raise ValueError(f"shape must have 2 or 3 sides, got {list(shape)}. Use for example 64 64 64.")
        self.n_images = check_whole_number("n_images", n_images, 1)
        self.seed = check_whole_number("seed", seed, 0)

    def __len__(self) -> int:
        """How many images there are."""
        return self.n_images

    def __getitem__(self, number: Any) -> Any:
        """Make an image.

        Args:
            number: of the image, from 0.

        Returns:
            ``image``: float32 ``(1, *shape)``, of standard deviation 1, from 0 (no signal) upwards.
        """
        if not 0 <= number < self.n_images:
            raise IndexError(number)  # ends an iteration
        scene = draw_scene(np.random.default_rng([self.seed, int(number)]), self.shape)
        return {"image": torch.from_numpy(scene)[None]}


def draw_scene(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw one clean image.

    Args:
        rng: source of all that is random.
        shape: of the image.

    Returns:
        float32 ``shape``, of standard deviation 1 and a minimum of at least 0.
    """
    voxel = _voxel_sides(rng, len(shape))
    textures = [band_limited(rng, shape, voxel) for _ in range(3)]
    scene = np.full(shape, rng.uniform(), dtype=np.float32)
    scene += np.float32(rng.uniform(0, 0.3) * rng.integers(2)) * textures[0]
    _add_objects(rng, scene, voxel, textures)
    if rng.random() < 0.15:
        scene += np.float32(math.exp(rng.uniform(math.log(0.1), 0))) * mosaic(rng, shape)
    if rng.random() < 0.35:
        scene *= _body(rng, shape)
    if rng.random() < 0.4:
        scene *= smooth_factor(rng, shape, 0.25)  # as of a receive coil
    scene = blur(rng, scene, voxel)
    if rng.random() < 0.3:
        _add_specks(rng, scene)
    scene -= scene.min() * np.float32(rng.random() < 0.7)
    np.maximum(scene, 0, out=scene)
    return scene / max(float(scene.std()), 1e-3)


def _voxel_sides(rng: np.random.Generator, n_axes: int) -> np.ndarray:
    """Sides of a voxel, the smallest 1: mostly a cube, else longer along one axis, as in thick slices."""
    sides = np.ones(n_axes)
    if rng.random() < 0.35:
        sides[rng.integers(n_axes)] = math.exp(rng.uniform(0, math.log(6 if n_axes == 3 else 2)))
    return sides


def _sizes(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Semi-axes of a scene's objects in voxels: of a power law, so that each size covers about as much."""
    largest = _OVERSIZE * min(shape) * math.exp(-rng.exponential(0.5))
    smallest = min(_SMALLEST * math.exp(rng.uniform(0, 2.3)), largest / 2)
    power = len(shape) * rng.uniform(0.5, 1)
    mean_cover = smallest**power * (largest ** (len(shape) - power) - smallest ** (len(shape) - power) + 1)
    n = min(int(rng.uniform(0.3, 3) * math.prod(shape) / (4 * mean_cover)), _MOST_OBJECTS)
    u = rng.random(max(n, 8))
    sizes = smallest * (1 - u * (1 - (smallest / largest) ** power)) ** (-1 / power)
    sizes = np.concatenate([rng.uniform(0.3, 1, rng.integers(2, 8)) * largest, sizes])
    return np.sort(sizes)[::-1] if rng.random() < 0.7 else rng.permutation(sizes)


def _add_objects(
    rng: np.random.Generator, scene: np.ndarray, voxel: np.ndarray, textures: Sequence[np.ndarray]
) -> None:
    """Cover the scene by objects, one after the other."""
    sizes, n_axes = _sizes(rng, scene.shape), scene.ndim
    n = len(sizes)
    kinds = rng.choice(len(_SHAPES), n, p=_SHARES)
    semis = sizes[:, None] * np.exp(rng.normal(0, 0.3, (n, n_axes))) * np.where(kinds > 2, 1.6, 1)[:, None]
    turns = np.linalg.qr(rng.normal(size=(n, n_axes, n_axes)))[0]
    turns[rng.random(n) < 0.15] = np.eye(n_axes)
    # From voxels of the image to the unit ball of the object.
    to_object = (turns / semis[:, :, None] * voxel).astype(np.float32)
    reaches = np.linalg.norm(turns.swapaxes(1, 2) * semis[:, None], axis=2) / voxel * 1.15 + 1
    centers = rng.uniform(-0.1, 1.1, (n, n_axes)) * scene.shape
    lows = np.maximum(centers - reaches, 0).astype(int)
    highs = np.minimum(centers + reaches + 1, scene.shape).astype(int)
    axes = [
        np.arange(side, dtype=np.float32).reshape(-1, *(1,) * (n_axes - 1 - a)) for a, side in enumerate(scene.shape)
    ]
    for kind, semi, matrix, center, low, high in zip(kinds, semis.min(1), to_object, centers, lows, highs):
        if (high <= low).any():
            continue
        box = tuple(slice(a, b) for a, b in zip(low, high))
        place = [axis[part] - np.float32(c) for axis, part, c in zip(axes, box, center)]
        u = [dot(row, place) for row in matrix]
        cover = _SHAPES[kind](rng, u, float(semi))
        value = _filling(rng, u, [texture[box] for texture in textures])
        if rng.random() < 0.1:
            cover *= np.float32(rng.uniform(0.1, 0.6))  # seen through
        scene[box] += cover * (value - scene[box])


def _filling(rng: np.random.Generator, u: Sequence[np.ndarray], textures: Sequence[np.ndarray]) -> Any:
    """Values of an object: one, often with a gradient or a texture over it."""
    value: Any = np.float32(rng.uniform() ** rng.choice((0.5, 1, 2)))
    kind = rng.random()
    if kind < 0.3:
        value = value + np.float32(rng.normal(0, 0.15)) * u[int(rng.integers(len(u)))]
    texture = textures[int(rng.integers(len(textures)))]
    if kind > 0.8:  # folds: two values, where the texture is above or below a level
        steepness, level = rng.uniform(2, 12), rng.normal(0, 0.5)
        return value + np.float32(rng.normal(0, 0.2)) * np.tanh(np.float32(steepness) * (texture - np.float32(level)))
    if kind > 0.5:
        value = value + np.float32(rng.exponential(0.08)) * texture
    return value


# An implicit function below 0 inside the object, in units of its semi-axes, becomes an edge one voxel wide.
def _edge(f: np.ndarray, semi: float) -> np.ndarray:
    return np.clip(np.float32(0.5) - f * np.float32(semi), 0, 1)


def _ellipsoid(rng: np.random.Generator, u: Sequence[np.ndarray], semi: float) -> np.ndarray:
    del rng
    return _edge(radius_of(u) - 1, semi)


def _shell(rng: np.random.Generator, u: Sequence[np.ndarray], semi: float) -> np.ndarray:
    thickness = max(rng.uniform(0.05, 0.4), 0.6 / semi)
    return _edge(np.abs(radius_of(u) - np.float32(1 - thickness / 2)) - np.float32(thickness / 2), semi)


def _polyhedron(rng: np.random.Generator, u: Sequence[np.ndarray], semi: float) -> np.ndarray:
    if rng.random() < 0.5:  # a box
        f = np.abs(u[0])
        for one in u[1:]:
            f = np.maximum(f, np.abs(one))
        return _edge(f - np.float32(0.75), semi)
    normals = rng.normal(size=(rng.integers(len(u) + 1, 9), len(u)))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    f = radius_of(u) - np.float32(1)
    for normal in normals.astype(np.float32):
        f = np.maximum(f, dot(normal, u) - np.float32(rng.uniform(0.3, 0.9)))
    return _edge(f, semi)


def _bent(rng: np.random.Generator, along: np.ndarray) -> np.ndarray:
    amplitude, wave, phase = rng.uniform(0, 0.4), rng.uniform(1, 6), rng.uniform(0, 2 * math.pi)
    return np.float32(amplitude) * np.sin(np.float32(wave) * along + np.float32(phase))


def _tube(rng: np.random.Generator, u: Sequence[np.ndarray], semi: float) -> np.ndarray:
    radius = max(rng.uniform(0.02, 0.25), 0.5 / semi)
    across = [one - _bent(rng, u[0]) for one in u[1:]]
    return _edge(np.maximum(radius_of(across) - np.float32(radius), np.abs(u[0]) - 1), semi)


def _sheet(rng: np.random.Generator, u: Sequence[np.ndarray], semi: float) -> np.ndarray:
    thickness = max(rng.uniform(0.01, 0.15), 0.35 / semi)
    f = np.abs(u[0] - _bent(rng, u[1])) - np.float32(thickness)
    return _edge(np.maximum(f, radius_of(u) - 1), semi)


_SHAPES = (_ellipsoid, _shell, _polyhedron, _tube, _sheet)  # the last two thin and long
_SHARES = (0.3, 0.12, 0.24, 0.2, 0.14)


def _body(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """1 within a large, wobbly body, 0 in the air around."""
    place = np.ogrid[tuple(slice(0, side) for side in shape)]
    center = rng.uniform(0.2, 0.8, len(shape)) * shape
    semi = rng.uniform(0.3, 0.9, len(shape)) * shape
    u = [((p - c) / s).astype(np.float32) for p, c, s in zip(place, center, semi)]
    wobble = [np.float32(0.1) * _bent(rng, u[(axis + 1) % len(u)]) for axis in range(len(u))]
    return _edge(radius_of([one + w for one, w in zip(u, wobble)]) - 1, float(semi.min()))


def blur(rng: np.random.Generator, scene: np.ndarray, voxel: np.ndarray) -> np.ndarray:
    """Blur by a random Gaussian point-spread function; long voxels have a profile of their own length."""
    if rng.random() < 0.2:
        return scene
    width = rng.uniform(0, 1.1) * np.exp(rng.normal(0, 0.2, scene.ndim)) / np.sqrt(voxel)
    return ndimage.gaussian_filter(scene, width, mode="nearest", truncate=3.0)


def _add_specks(rng: np.random.Generator, scene: np.ndarray) -> None:
    """Add isolated structures of a voxel or two: crossing vessels, calcifications, beads."""
    n = rng.integers(4, 60)
    where = tuple(rng.integers(0, side, n) for side in scene.shape)
    specks = np.zeros_like(scene)
    specks[where] = rng.normal(0, 1, n) * rng.uniform(0.1, 0.8)
    width = rng.uniform(0.3, 1.2)
    scene += ndimage.gaussian_filter(specks, width, mode="nearest") * (2.5 * width) ** scene.ndim / 2
