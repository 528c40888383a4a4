# SPDX-License-Identifier: Apache-2.0
"""The module's parts: `denoising` is plain Python, `scene` alone speaks to 3D Slicer."""
