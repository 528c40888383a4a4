# SPDX-License-Identifier: Apache-2.0
"""How the bundles read noisy images and write denoised ones."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, SaveImaged

from monai_n2v.io.images import default_target, read_volume, save_volume
from monai_n2v.io.volume import Volume

# Of the files read last, all but their voxels: who writes the result of one need not read it again.
_HEADERS: dict[str, Volume] = {}
_MOST_HEADERS = 4


class LoadNoisyd(MapTransform):
    """Read images of every format of `read_volume`, channel-first, with further axes as channels.

    Unlike MONAI's ``LoadImaged`` it names file and fault in one sentence, refuses RGB voxels, of which that
    would silently keep a part, and reads whole DICOM series in stored orientation.

    Args:
        keys: paths to read; a `Volume` that was read before is taken as it is, and so is a tensor ``(C, *spatial)``.
            Of a folder with several DICOM series, ``data["series"]`` says which one.
        original_key: where the image of the first key goes as well; no later transform changes it. None for nowhere.
        check: called with every volume that was read; raises a ValueError for one that is to be refused.

    Raises:
        ValueError: on reading, for a file that is damaged or no image of real numbers.
    """

    def __init__(
        self, keys: Any = "image", original_key: str | None = None, check: Callable[[Volume], None] | None = None
    ) -> None:
        super().__init__(keys)
        self.original_key = original_key
        self.check = check

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read ``data[key]``; returns a new dictionary."""
        d, fault = dict(data), None
        for key in self.key_iterator(d):
            try:
                d[key] = self._load(d[key], d.get("series"))
            except (ValueError, OSError) as error:
                fault = error
            # Raised outside the handler, it stands first in the chain of exceptions, where MONAI's own stand on top.
            if fault is not None:
                raise fault.with_traceback(None) from None
        if self.original_key is not None:
            d[self.original_key] = d[self.keys[0]]
        return d

    def _load(self, image: Any, series: str | None) -> MetaTensor:
        if isinstance(image, (str, Path)):
            image = read_volume(image, series)
        if not isinstance(image, Volume):
            return image if isinstance(image, MetaTensor) else MetaTensor(torch.as_tensor(image))
        if self.check is not None:
            self.check(image)
        _HEADERS.pop(image.path, None)
        _HEADERS[image.path] = replace(image, data=np.empty(0, np.float32))
        while len(_HEADERS) > _MOST_HEADERS:
            del _HEADERS[next(iter(_HEADERS))]
        return as_meta_tensor(image.data, image.spacing, image.source.affine, image.path, image.source.is_complex)


def affine_of(path: object) -> np.ndarray | None:
    """Where a file that was read last lies: ``(4, 4)``, or None where it does not tell, or was not read."""
    header = _HEADERS.get(str(path)) if str(path) else None
    return None if header is None else header.source.affine


def as_meta_tensor(
    data: np.ndarray,
    spacing: Sequence[float],
    affine: np.ndarray | None = None,
    path: str = "",
    is_complex: bool = False,
) -> MetaTensor:
    """Wrap voxels as the bundles take images.

    Args:
        data: ``(C, *spatial)``, float32.
        spacing: voxel sides, one per spatial axis.
        affine: ``(4, 4)``, from voxel index to space; one of the spacing alone for None, and for images of two axes.
        path: where from, for metadata and messages.
        is_complex: whether the channels are real and imaginary parts.

    Returns:
        the same voxels.
    """
    if affine is None or data.ndim != 4:
        affine = np.diag([*spacing, 1.0, 1.0][:3] + [1.0])
    meta = {"filename_or_obj": path, "is_complex": is_complex}
    return MetaTensor(torch.from_numpy(data), affine=torch.from_numpy(affine.copy()), meta=meta)


class SaveDenoisedd(SaveImaged):
    """Save predictions in the manner of their source (see `save_volume`), float32 where the format holds it.

    Where an item of the data list has the key ``target``, the image goes there; it is not saved where that is empty.
    Without the key it goes below ``output_dir``, where the folders of ``data_root_dir`` are kept. An image that came
    from no file is not saved.

    It is a ``SaveImaged`` so that hosts which leave out a bundle's saving recognize it.

    Args:
        keys: prediction ``(C, *spatial)``.
        output_dir: where to write.
        data_root_dir: folder the sources lie in; sources elsewhere are written right below ``output_dir``.
        source_key: the image whose metadata names the source.
        dtype: ``"float32"``, or ``"input"`` for the source's type, rounded and clipped.

    Raises:
        ValueError: for another ``dtype``; on saving, where two sources of one run would be written to one place.
    """

    def __init__(
        self,
        keys: str = "pred",
        output_dir: str = "./denoised",
        data_root_dir: str = "",
        source_key: str = "image",
        dtype: str = "float32",
    ) -> None:
        # A writer by name, though none is used: to choose one, MONAI would load them all.
        super().__init__(keys, output_dir=output_dir, resample=False, print_log=False, writer="NibabelWriter")
        if dtype not in ("float32", "input"):
            raise ValueError(f"dtype must be float32 or input, got {dtype}. Leave it out for float32.")
        self.output_dir = Path(output_dir)
        self.data_root_dir = Path(data_root_dir)
        self.source_key = source_key
        self.dtype = dtype
        self._sources: dict[Path, Path] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Save ``data[key]``; returns a new dictionary of the same content."""
        d = dict(data)
        name = d[self.source_key].meta.get("filename_or_obj")
        wanted = name and d.get("target", True)
        for key in self.key_iterator(d) if wanted else ():
            target = Path(d["target"]) if "target" in d else self._target(Path(name))
            # Only the file itself knows all that is to be kept.
            volume = _HEADERS.get(str(name)) or read_volume(name, d.get("series"))
            save_volume(d[key].float().cpu().numpy(), volume, target, self.dtype)
        return d

    def _target(self, source: Path) -> Path:
        inside = source.is_relative_to(self.data_root_dir) and source != self.data_root_dir
        folder = self.output_dir / (source.parent.relative_to(self.data_root_dir) if inside else Path())
        target = default_target(source, folder)
        other = self._sources.setdefault(target, source)
        if other != source:
            raise ValueError(
                f"image must have a name of its own, got {source} and {other}, both to be written to {target}. "
                "Rename one of them."
            )
        return target
