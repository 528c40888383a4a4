# SPDX-License-Identifier: Apache-2.0
"""How the bundles read noisy files and write denoised ones."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from monai.transforms import LoadImaged, SaveImaged

from monai_n2v.volumes import NIFTI_SUFFIXES, check_kind, save_nifti, stem_of, to_nifti

__all__ = ["LoadNoisyd", "SaveDenoisedd"]


class LoadNoisyd(LoadImaged):
    """MONAI's ``LoadImaged`` that names the file and the fault in one sentence.

    It also refuses complex and RGB NIfTI files, of which ``LoadImaged`` would silently keep a part.

    Args:
        keys: paths to read.

    Raises:
        ValueError: on reading, for a file that is damaged or no image of real numbers.
    """

    def __init__(self, keys: str = "image") -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any], reader: Any = None) -> dict[Hashable, Any]:
        """Read ``data[key]``; returns a new dictionary."""
        fault = None
        try:
            for key in self.key_iterator(dict(data)):
                if str(data[key]).lower().endswith(NIFTI_SUFFIXES):
                    import nibabel

                    check_kind(nibabel.load(data[key]), str(data[key]))
            loaded: dict[Hashable, Any] = super().__call__(data, reader)
            return loaded
        except Exception as error:  # noqa: BLE001 - readers raise dozens of kinds for a damaged file
            fault = error
        # Raised outside the handler, it stands first in the chain of exceptions, where MONAI's own stand on top.
        if isinstance(fault, ValueError) and str(fault).startswith("image must"):
            raise fault
        names = ", ".join(str(data[key]) for key in self.key_iterator(dict(data)))
        reason = (str(fault).splitlines() or [type(fault).__name__])[0]
        raise ValueError(f"image must be a readable file, got {names} ({reason}). Check that it is complete.")


class SaveDenoisedd(SaveImaged):
    """Save predictions in the manner of their source file, whole or not at all.

    From a NIfTI file: ``.nii.gz`` with the source's whole header, of which MONAI's ``SaveImaged`` keeps the affine
    only. From others: ``.tif``. Both float32. Below ``output_dir`` the folders of ``data_root_dir`` are kept. It is a
    ``SaveImaged`` so that hosts which leave out a bundle's saving, as MONAI Label does, recognize it.

    Args:
        keys: prediction ``(C, *spatial)``; several channels of a NIfTI file become volumes of its last axis.
        output_dir: where to write.
        data_root_dir: folder the sources lie in; sources elsewhere are written right below ``output_dir``.
        output_postfix: added to the file's name.
        source_key: the image whose metadata names the source file.

    Raises:
        ValueError: on saving, where two sources of one run would be written to one file.
    """

    def __init__(
        self,
        keys: str = "pred",
        output_dir: str = "./denoised",
        data_root_dir: str = "",
        output_postfix: str = "denoised",
        source_key: str = "image",
    ) -> None:
        super().__init__(keys, output_dir=output_dir, output_postfix=output_postfix, resample=False, print_log=False)
        self.output_dir = Path(output_dir)
        self.data_root_dir = Path(data_root_dir)
        self.output_postfix = output_postfix
        self.source_key = source_key
        self._sources: dict[Path, Path] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Save ``data[key]``; returns a new dictionary of the same content."""
        d = dict(data)
        for key in self.key_iterator(d):
            path = Path(str(d[self.source_key].meta["filename_or_obj"]))
            values = np.asarray(d[key].cpu(), dtype=np.float32)
            if path.name.lower().endswith(NIFTI_SUFFIXES):
                import nibabel

                target = self._target(path, f"{stem_of(path)}_{self.output_postfix}.nii.gz")
                save_nifti(to_nifti(values, nibabel.load(path)), target)
            else:
                _save_tiff(values, self._target(path, f"{path.stem}_{self.output_postfix}.tif"))
        return d

    def _target(self, source: Path, name: str) -> Path:
        inside = source.is_relative_to(self.data_root_dir)
        target = self.output_dir / (source.parent.relative_to(self.data_root_dir) if inside else Path()) / name
        other = self._sources.setdefault(target, source)
        if other != source:
            raise ValueError(
                f"image must have a name of its own, got {source} and {other}, both to be written to {target}. "
                "Rename one of them."
            )
        return target


def _save_tiff(values: np.ndarray, path: Path) -> None:
    """Write ``(C, x, y[, z])``, as MONAI's readers order the axes of a picture, back as ``([z,] y, x[, C])``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part")
    try:
        tifffile.imwrite(part, np.ascontiguousarray((values[0] if len(values) == 1 else values).T))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
