# SPDX-License-Identifier: Apache-2.0
"""Write ``noisy_brain.nii.gz``: the MR volume that ships with nibabel, with more noise, as of a faster scan."""

from pathlib import Path

import nibabel
import numpy as np

source = nibabel.load(Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz")
scan = source.dataobj[..., 0].astype(float)
sigma = 0.06 * np.percentile(scan, 99.5)
real, imaginary = np.random.default_rng(0).normal(0, sigma, (2, *scan.shape))
noisy = np.hypot(scan + real, imaginary)  # what a scanner stores is the length of a complex number
nibabel.save(nibabel.Nifti1Image(noisy.astype("int16"), source.affine), "noisy_brain.nii.gz")
