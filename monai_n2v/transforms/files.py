# SPDX-License-Identifier: Apache-2.0
"""How the bundles read noisy images and write denoised ones."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, SaveImaged

from monai_n2v.io.images import default_target, read_volume, save_volume
from monai_n2v.io.volume import Volume

__all__ = ["LoadNoisyd", "SaveDenoisedd", "as_meta_tensor"]


class LoadNoisyd(MapTransform):
    """Read images of every format of `read_volume`, channel-first, with further axes as channels.

    Unlike MONAI's ``LoadImaged`` it names file and fault in one sentence, refuses complex and RGB voxels, of which that
    would silently keep a part, and reads whole DICOM series in stored orientation.

    Args:
        keys: paths to read.

    Raises:
        ValueError: on reading, for a file that is damaged or no image of real numbers.
    """

    def __init__(self, keys: str = "image") -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read ``data[key]``; returns a new dictionary."""
        d = dict(data)
        for key in self.key_iterator(d):
            path, fault = str(d[key]), None
            try:
                d[key] = as_meta_tensor(read_volume(path), path)
            except (ValueError, OSError) as error:
                fault = error
            # Raised outside the handler, it stands first in the chain of exceptions, where MONAI's own stand on top.
            if fault is not None:
                raise fault.with_traceback(None) from None
        return d


def as_meta_tensor(volume: Volume, path: str) -> MetaTensor:
    """Wrap a volume as the bundles take images.

    Args:
        volume: as read.
        path: where from, for metadata and messages.

    Returns:
        ``(C, *spatial)``, float32, with the affine of the file, or one of its spacing.
    """
    affine = volume.source.affine
    if affine is None or volume.data.ndim != 4:
        affine = np.diag([*volume.spacing, 1.0, 1.0][:3] + [1.0])
    meta = {"filename_or_obj": path, "original_channel_dim": 0}
    return MetaTensor(torch.from_numpy(volume.data), affine=torch.from_numpy(affine.copy()), meta=meta)


class SaveDenoisedd(SaveImaged):
    """Save predictions in the manner of their source (see `save_volume`), float32 where the format holds it.

    Below ``output_dir`` the folders of ``data_root_dir`` are kept. It is a ``SaveImaged`` so that hosts which leave out
    a bundle's saving, as MONAI Label does, recognize it.

    Args:
        keys: prediction ``(C, *spatial)``.
        output_dir: where to write.
        data_root_dir: folder the sources lie in; sources elsewhere are written right below ``output_dir``.
        source_key: the image whose metadata names the source.

    Raises:
        ValueError: on saving, where two sources of one run would be written to one place.
    """

    def __init__(
        self, keys: str = "pred", output_dir: str = "./denoised", data_root_dir: str = "", source_key: str = "image"
    ) -> None:
        super().__init__(keys, output_dir=output_dir, resample=False, print_log=False)
        self.output_dir = Path(output_dir)
        self.data_root_dir = Path(data_root_dir)
        self.source_key = source_key
        self._sources: dict[Path, Path] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Save ``data[key]``; returns a new dictionary of the same content."""
        d = dict(data)
        for key in self.key_iterator(d):
            path = Path(str(d[self.source_key].meta["filename_or_obj"]))
            target = self._target(path)
            # Only the file itself knows all that is to be kept.
            save_volume(np.asarray(d[key].cpu(), dtype=np.float32), read_volume(path), target)
        return d

    def _target(self, source: Path) -> Path:
        inside = source.is_relative_to(self.data_root_dir) and source != self.data_root_dir
        folder = self.output_dir / (source.parent.relative_to(self.data_root_dir) if inside else Path())
        target = default_target(source, folder)
        other = self._sources.setdefault(target, source)
        if other != source:
            raise ValueError(
                f"image must have a name of its own, got {source} and {other}, both to be written to {target}. "
                "Rename one of them."
            )
        return target
