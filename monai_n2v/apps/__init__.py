# SPDX-License-Identifier: Apache-2.0
"""What the command line, `denoise()` and MONAI Label share: training, denoising, folders, facts."""
