# SPDX-License-Identifier: Apache-2.0
"""Saving predictions of a bundle in the manner of their source files."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import SaveImaged

from monai_n2v.volumes import NIFTI_SUFFIXES, save_nifti, stem_of, to_nifti

__all__ = ["SaveDenoisedd"]


class SaveDenoisedd(SaveImaged):
    """Save predictions in the manner of their source file.

    From a NIfTI file: ``.nii.gz`` with the source's whole header. From others: ``.tif``, float32, through MONAI's
    ``SaveImaged``. Below ``output_dir`` the folders of ``data_root_dir`` are kept.

    Args:
        keys: predictions ``(C, *spatial)``; several channels of a NIfTI file become volumes of its last axis.
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
        super().__init__(
            keys,
            output_dir=output_dir,
            output_postfix=output_postfix,
            output_ext=".tif",
            resample=False,
            separate_folder=False,
            data_root_dir=data_root_dir,
            output_dtype=np.float32,
            print_log=False,
        )
        self.output_dir = Path(output_dir)
        self.data_root_dir = Path(data_root_dir)
        self.output_postfix = output_postfix
        self.source_key = source_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Save ``data[key]``; returns the dictionary as it is."""
        import nibabel

        d = dict(data)
        for key in self.key_iterator(d):
            path = Path(str(d[self.source_key].meta["filename_or_obj"]))
            if not path.name.lower().endswith(NIFTI_SUFFIXES):
                d[key].meta = d[self.source_key].meta
                return super().__call__(d)
            folder = self.output_dir / path.parent.relative_to(self.data_root_dir)
            source = nibabel.load(path)
            values = np.asarray(d[key].cpu())
            save_nifti(to_nifti(values, source), folder / f"{stem_of(path)}_{self.output_postfix}.nii.gz")
        return d
