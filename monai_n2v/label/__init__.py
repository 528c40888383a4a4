# SPDX-License-Identifier: Apache-2.0
"""Noise2Void inside MONAI Label: an app that denoises, trains on unlabeled studies and denoises before segmenting.

``python -m monai_n2v.label init DIR`` makes the app's folder. MONAI Label itself is needed to serve it, not before;
``docs/how-to/label.md`` tells how to install it.
"""
