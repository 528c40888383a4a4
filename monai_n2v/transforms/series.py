# SPDX-License-Identifier: Apache-2.0
"""Which other volumes of a series a network sees beside each: context that is not masked."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_n2v.io.series import nearest_volumes, read_q_vectors

# Key of the metadata: int64 ``(n_volumes, context)``, as `nearest_volumes` returns it.
NEAREST = "nearest_volumes"


def noise_scales(image: MetaTensor) -> np.ndarray:
    """Strength that noise of one strength in all volumes of a series has in each after standardizing.

    Args:
        image: ``(n_volumes, *spatial)``, as `StandardizeIntensity` returns it.

    Returns:
        float64 ``(n_volumes,)``, of geometric mean 1: small for volumes that were bright, such as those without
        diffusion weighting.
    """
    spreads = np.asarray(image.meta.get("intensity_std", np.ones(len(image))), dtype=np.float64)
    logs = -np.log(np.where(spreads > 0, spreads, 1.0))
    return np.exp(logs - logs.mean())


class NearestVolumesd(MapTransform):
    """Write into the metadata of a series which other volumes are the nearest of each.

    `PatchLoader` cuts them beside the volume, and `ContextInferer` predicts with them. They are the nearest in the
    order of the file, such as in time; in q-space where b-values and b-vectors lie beside it (see `read_q_vectors`).

    Args:
        keys: images ``(n_volumes, *spatial)``.
        context: how many others each volume gets; 0 for none, which leaves the image as it is.

    Raises:
        ValueError: for a negative ``context``; for an image without so many other volumes, or with b-vectors that do
            not fit it.
    """

    def __init__(self, keys: Any = "image", context: int = 0) -> None:
        super().__init__(keys)
        if isinstance(context, bool) or not isinstance(context, int) or context < 0:
            raise ValueError(f"context must be a whole number from 0, got {context!r}. Use 0 for none.")
        self.context = context

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Look for the nearest volumes of ``data[key]``; returns a new dictionary."""
        d = dict(data)
        for key in self.key_iterator(d) if self.context else ():
            image = d[key] if isinstance(d[key], MetaTensor) else MetaTensor(d[key])
            name = str(image.meta.get("filename_or_obj") or "")
            q_vectors = read_q_vectors(name, len(image)) if name and len(image) > self.context else None
            near = nearest_volumes(len(image), self.context, q_vectors, name)
            d[key] = MetaTensor(image.as_tensor(), meta={**image.meta, NEAREST: near})
        return d
