# SPDX-License-Identifier: Apache-2.0
"""Denoise, then segment: any segmentation bundle of the app, on images that were denoised first."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import EnsureChannelFirstd, EnsureTyped, LoadImaged, MapTransform
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.transform.pre import LoadImageTensord

from monai_n2v.bundle.options import PredictionOptions
from monai_n2v.bundle.run import Denoiser
from monai_n2v.label.infer import DenoiseTask
from monai_n2v.label.options import device_of, switched


def chained_name(segmenter: str) -> str:
    """What a segmenter is called that sees denoised images."""
    return f"{segmenter}_after_n2v"


class DenoiseImaged(MapTransform):
    """Denoise images in a segmenter's preprocessing, on their own grid and in their own units.

    Args:
        keys: images ``(C, *spatial)`` as loaded, before anything resamples, turns or scales them.
        denoiser: whose network is used.
        device: where it computes.
    """

    def __init__(self, keys: Any, denoiser: DenoiseTask, device: str) -> None:
        super().__init__(keys)
        self.denoiser = denoiser
        self.device = device

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Denoise ``data[key]``; returns a new dictionary."""
        d = dict(data)
        denoise = Denoiser(self.denoiser.network(), PredictionOptions(self.device))
        for key in self.key_iterator(d):
            image = d[key] if isinstance(d[key], MetaTensor) else MetaTensor(torch.as_tensor(d[key]))
            output = torch.from_numpy(denoise(image.cpu().float()))
            d[key] = MetaTensor(output.to(image.device), meta=image.meta)
        return d


class SegmentDenoisedTask(BundleInferTask):
    """A segmentation bundle whose preprocessing begins with denoising; the option ``denoise`` switches that off.

    To clients it is one more segmenter: its answer is a mask on the grid of the noisy image.

    Args:
        path: folder of the segmentation bundle.
        conf: of the app.
        denoiser: what denoises first.
    """

    def __init__(self, path: str, conf: dict[str, str], denoiser: DenoiseTask) -> None:
        super().__init__(path, conf, type=InferType.SEGMENTATION)
        self.denoiser = denoiser
        if self.is_valid():
            self.description: str = f"{self.description}, after denoising by {denoiser.name}"
            self._config["denoise"] = True

    def pre_transforms(self, data: Any = None) -> Sequence[Callable[..., Any]]:
        """The segmenter's own, with denoising right behind those that load."""
        transforms, request = list(super().pre_transforms(data)), data or {}
        if not switched(request, "denoise", True):
            return transforms
        loading = (LoadImaged, LoadImageTensord, EnsureChannelFirstd, EnsureTyped)
        n_loading = next((i for i, t in enumerate(transforms) if not isinstance(t, loading)), len(transforms))
        transforms.insert(n_loading, DenoiseImaged(self.key_image, self.denoiser, device_of(request)))
        return transforms


def is_segmenter(bundle: Path) -> bool:
    """Tell whether MONAI Label takes a bundle for a segmenter: by its name alone, where no other kind is named."""
    others = ("deepedit", "deepgrow", "detection", "classification")
    return (bundle / "configs" / "metadata.json").is_file() and not any(kind in bundle.name.lower() for kind in others)
