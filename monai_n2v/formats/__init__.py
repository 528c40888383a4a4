# SPDX-License-Identifier: Apache-2.0
"""File formats: each module reads one family of them and writes denoised voxels back in the file's own manner."""
