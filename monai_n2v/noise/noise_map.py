# SPDX-License-Identifier: Apache-2.0
"""Noise maps from outside: how the noise's strength varies over an image, as a g-factor map or a noise scan tells."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from monai_n2v.io.images import read_volume
from monai_n2v.io.nifti import to_volume
from monai_n2v.io.volume import Volume, where

logger = logging.getLogger(__name__)

# Noise that differs more from its median is a fault of the map, such as values that were interpolated at its border.
LARGEST_GAIN = 10.0
# A map that varies from voxel to voxel so many times as much as the image, in units of the median, is the image.
_ROUGHER = 5.0
# Shift of a corner that is rounding, in sides of a voxel.
_ROUNDING = 0.1


@dataclass(frozen=True, eq=False)
class NoiseMap:
    """Strength of the noise at every voxel, in any unit.

    Attributes:
        values: float32 ``(*spatial)``, axes of a single voxel left out. What is not above 0, or not finite, is unknown.
        affine: ``(4, 4)``, from voxel index to space, or None where nobody says where the map lies.
        path: the file; empty for an array.
    """

    values: np.ndarray
    affine: np.ndarray | None = None
    path: str = ""

    @classmethod
    def of(cls, given: Any) -> NoiseMap:
        """Read a map, or take an array as one.

        Args:
            given: path of an image file, nibabel image, or array ``(*spatial)``.

        Raises:
            FileNotFoundError: where there is no such file.
            ValueError: for a file or array that is no single image, or has no value above 0.
            TypeError: for another kind.
        """
        if isinstance(given, NoiseMap):
            return given
        if isinstance(given, (str, Path)) or hasattr(given, "dataobj"):
            volume = _read(given)
            found = cls(volume.data, volume.source.affine, volume.path)
        else:
            tensor = given.detach().cpu() if hasattr(given, "detach") else given
            try:
                values = np.ma.filled(tensor, 0) if isinstance(tensor, np.ma.MaskedArray) else np.asarray(tensor)
            except ValueError:  # lists of unequal length
                values = np.empty(0, dtype=object)
            if values.dtype.kind not in "iuf":
                kind = f"an array of {values.dtype}" if isinstance(given, np.ndarray) else type(given).__name__
                raise TypeError(
                    f"noise_map must be a path, nibabel image or array of real numbers, got {kind}. Convert it first."
                )
            if values.ndim < 2:
                raise ValueError(
                    f"noise_map must be one image of 2 or 3 axes, got shape {values.shape}. "
                    "Leave it out for even noise."
                )
            values = values.reshape([n for n in values.shape if n > 1]).astype(np.float32)
            found = cls(values[None])
        if len(found.values) != 1 or found.values.ndim not in (3, 4):
            raise ValueError(
                f"noise_map must be one image of 2 or 3 axes, got shape {found.values.shape}{where(found.path)}. "
                "One map serves all volumes of a series: check that map and image are not exchanged."
            )
        known = _known(found.values)
        if not known.any():
            raise ValueError(
                f"noise_map must have values above 0, got none{where(found.path)}. Check that it is the right file."
            )
        if not known.all():
            logger.info(
                "The noise map is not above 0 in %.2g %% of its voxels: there the nearest other value counts.",
                100 * (1 - known.mean()),
            )
        return cls(found.values[0], found.affine, found.path)

    def check_grid(self, shape: tuple[int, ...], affine: np.ndarray | None = None, name: object = "") -> None:
        """Refuse an image of another grid.

        Args:
            shape: spatial shape of the image.
            affine: where it lies; compared where that of the map is known, too.
            name: of the image, for the message.

        Raises:
            ValueError: for an image of another shape or at another place.
        """
        step, found = "Resample the map to the image's grid first.", self.values.shape
        if found != tuple(shape):
            raise ValueError(
                f"noise_map must have the shape of the image, {tuple(shape)}, got {found}{where(name)}. {step}"
            )
        if affine is None or self.affine is None:
            return
        corners = np.array([*itertools.product(*((0, n - 1) for n in (*shape, 1)[:3]), [1])])
        shift = np.abs(corners @ (affine - self.affine).T).max()
        if shift > _ROUNDING * np.linalg.norm(affine[:3, :3], axis=0).min():
            raise ValueError(
                f"noise_map must lie where the image does, got a corner {shift:.3g} mm off{where(name)}. {step}"
            )

    def check_smoother(self, image: np.ndarray, name: object = "") -> None:
        """Refuse what looks like the noisy image itself, where the image looks like a map.

        Args:
            image: ``(n_volumes, *spatial)``.
            name: of the image, for the message.

        Raises:
            ValueError: for a map that varies much more from voxel to voxel than the image does.
        """
        of_map, of_image = (_roughness(one) for one in (self.values, image[0]))
        if of_image > 0 and of_map > _ROUGHER * of_image:
            raise ValueError(
                f"noise_map must be smoother than the image, got one that varies {of_map / of_image:.0f} times as much "
                f"from voxel to voxel{where(name)}. Exchange the two, or smooth the map."
            )

    def gain(self, padding: np.ndarray | None = None) -> np.ndarray:
        """Strength of the noise in units of its median.

        Where the map is unknown, the nearest known value counts: outside of the coils' field maps are often 0.

        Args:
            padding: voxels that were not measured, bool ``(*spatial)``; they do not count, and have 1.

        Returns:
            float32 ``(*spatial)``, from 1/10 to 10.

        Raises:
            ValueError: where nothing is known outside of the padding.
        """
        known = _known(self.values)
        counted = known if padding is None else known & ~padding
        if not counted.any():
            raise ValueError(
                f"noise_map must have values above 0 outside of the image's padding, got none{where(self.path)}. "
                "Check that it belongs to the image."
            )
        values = self.values
        if not known.all():
            values = values[tuple(ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True))]
        gain = np.clip(values / np.median(values[counted]), 1 / LARGEST_GAIN, LARGEST_GAIN)
        if padding is not None:
            gain[padding] = 1
        return np.asarray(gain, dtype=np.float32)


def _known(values: np.ndarray) -> np.ndarray:
    known: np.ndarray = np.isfinite(values) & (values > 0)
    return known


def _roughness(values: np.ndarray) -> float:
    """Median difference of neighbors along the first axis in units of the median size, where there is some."""
    known = np.where(np.isfinite(values) & (values != 0), values, np.nan).astype(np.float64)
    steps = np.abs(np.diff(known, axis=0))
    steps = steps[steps > 0]  # never of what is unknown
    return float(np.median(steps) / np.nanmedian(np.abs(known))) if steps.size else 0.0


def _read(given: Any) -> Volume:
    """Read a file, or take nibabel's image; the message of one that is none says that it was to be the noise map."""
    try:
        return to_volume(given) if hasattr(given, "dataobj") else read_volume(given)
    except FileNotFoundError:
        raise FileNotFoundError(f"noise_map must be an existing file, got {given}. Check the path.") from None
    except ValueError as error:
        raise ValueError(f"noise_map must be a readable image: {error}") from None
