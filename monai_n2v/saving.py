# SPDX-License-Identifier: Apache-2.0
"""Saving predictions of a bundle in the manner of their source files."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from monai.transforms import SaveImaged

from monai_n2v.volumes import NIFTI_SUFFIXES, save_nifti, stem_of, to_nifti

__all__ = ["SaveDenoisedd"]


class SaveDenoisedd(SaveImaged):
    """Save predictions in the manner of their source file, whole or not at all.

    From a NIfTI file: ``.nii.gz`` with the source's whole header, of which MONAI's ``SaveImaged`` keeps the affine
    only. From others: ``.tif``. Both float32. Below ``output_dir`` the folders of ``data_root_dir`` are kept. It is a
    ``SaveImaged`` so that hosts which leave out a bundle's saving, as MONAI Label does, recognize it.

    Args:
        keys: prediction ``(C, *spatial)``; several channels of a NIfTI file become volumes of its last axis.
        output_dir: where to write.
        data_root_dir: folder the sources lie in.
        output_postfix: added to the file's name.
        source_key: the image whose metadata names the source file.
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

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Save ``data[key]``; returns a new dictionary of the same content."""
        d = dict(data)
        for key in self.key_iterator(d):
            path = Path(str(d[self.source_key].meta["filename_or_obj"]))
            values = np.asarray(d[key].cpu(), dtype=np.float32)
            target = self.output_dir / path.parent.relative_to(self.data_root_dir)
            if path.name.lower().endswith(NIFTI_SUFFIXES):
                import nibabel

                source = nibabel.load(path)
                save_nifti(to_nifti(values, source), target / f"{stem_of(path)}_{self.output_postfix}.nii.gz")
            else:
                _save_tiff(values, target / f"{path.stem}_{self.output_postfix}.tif")
        return d


def _save_tiff(values: np.ndarray, path: Path) -> None:
    """Write ``(C, x, y[, z])``, as MONAI's readers order the axes of a picture, back as ``([z,] y, x[, C])``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part")
    try:
        tifffile.imwrite(part, np.ascontiguousarray((values[0] if len(values) == 1 else values).T))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
