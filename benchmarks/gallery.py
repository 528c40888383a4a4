# SPDX-License-Identifier: Apache-2.0
"""Small cases for ``docs/gallery.md``, and the picture of the README: input, command, what comes out.

``python -m benchmarks.gallery`` runs the commands that the page shows and writes its pictures, then the page.
``--page`` writes the page alone. Real images come from the folder ``MONAI_N2V_DATA``; their licenses permit it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import ROOT
from benchmarks.paper.images import epithelia
from benchmarks.paper.pictures import IMAGES, panels
from benchmarks.tasks import colin27_crop, data_folder

__all__ = ["CASES", "page"]

OVERVIEW = {"mr": "MR, 0.3 T, real", "ct": "CT, real", "cells": "fluorescence, simulated"}


@dataclass(frozen=True)
class Case:
    """An image, what is done with it, and what to look at.

    Attributes:
        title: of the section.
        image: what it is, with origin and license.
        write: puts the input into a folder, under the name that the command has.
        command: as the page shows it.
        look: what to look at.
        show: what is shown of a volume ``(x, y, z)`` or an image ``(x, y)``.
        window: intensities that are black and white.
    """

    title: str
    image: str
    write: Callable[[Path], None]
    command: str
    look: str
    show: tuple[slice | int, ...]
    window: tuple[float, float]

    @property
    def files(self) -> tuple[str, str]:
        """Input and output of the command."""
        words = shlex.split(self.command)
        return words[words.index("-i") + 1], words[words.index("-o") + 1]


def save_nifti(folder: Path, data: np.ndarray, name: str = "noisy.nii.gz") -> None:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(data), np.eye(4)), folder / name)


def m4raw(folder: Path) -> None:
    paths = sorted((data_folder() / "m4raw" / "T2_rep1").glob("*.png"))
    slices = [np.asarray(Image.open(path)).T[:, ::-1] for path in paths]
    save_nifti(folder, np.stack(slices, -1))


def aorta(folder: Path) -> None:
    shutil.copyfile(data_folder() / "ct_3d" / "totalseg_aorta_ct_1p5mm_noisy.nii.gz", folder / "noisy.nii.gz")


def pancreas(folder: Path) -> None:
    shutil.copytree(data_folder() / "dicom_ct_pancreas", folder / "DICOM_FOLDER")


def cells(folder: Path) -> None:
    import tifffile

    tifffile.imwrite(folder / "cells.tif", epithelia(1, (256, 256), seed=3).first[0].astype(np.float32))


def brain() -> np.ndarray:
    return colin27_crop((slice(20, 164), slice(20, 196), slice(60, 108)), 0)[0]


def rician(folder: Path) -> None:
    rng = np.random.default_rng(0)
    head = colin27_crop((slice(4, 177), slice(4, 213), slice(70, 100)), 0)[0]
    real, imaginary = (rng.normal(0, 12, head.shape) for _ in range(2))
    save_nifti(folder, np.hypot(head + real, imaginary).astype(np.float32), "magnitude.nii.gz")


def uneven(folder: Path) -> None:
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in brain().shape), indexing="ij")
    gfactor = (1 + 2 * np.exp(-4 * (x**2 + y**2))).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 5, gfactor.shape) * gfactor
    save_nifti(folder, (brain() + noise).astype(np.float32))
    save_nifti(folder, gfactor, "gfactor.nii.gz")


def dots(folder: Path) -> None:
    import tifffile

    image = np.full((128, 128), 100.0)
    for row, contrast in enumerate((80, 40, 20, 10)):  # 8, 4, 2 and 1 standard deviations
        image[16 + 32 * row, 8::16] += contrast
    noisy = image + np.random.default_rng(0).normal(0, 10, image.shape)
    tifffile.imwrite(folder / "cells.tif", noisy.astype(np.float32))


_ALL = slice(None)
_COLIN = "Simulated noise on Colin27 (Holmes 1998, BSD-3)"
CASES: dict[str, Case] = {
    "mr": Case(
        "MR at low field",
        "T2-weighted brain at 0.3 T, one of three repeats (M4Raw, Lyu 2023, CC BY 4.0). Magnitude image, thick slices.",
        m4raw,
        "monai-n2v denoise -i noisy.nii.gz -o t2.nii.gz --fast",
        "The gray matter is calm and the edges of the ventricles stay sharp. What was removed is noise, and in air the bias of a magnitude image.",
        (slice(28, 228), slice(20, 236), 9),
        (0, 255),
    ),
    "ct": Case(
        "CT",
        "Chest at 1.5 mm in Hounsfield units (TotalSegmentator's test data, Wasserthal 2023, Apache-2.0).",
        aorta,
        "monai-n2v denoise -i noisy.nii.gz -o ct.nii.gz --fast",
        "Soft tissue is calm. Vessels in the lung keep their contrast.",
        (slice(5, 115), slice(8, 118), 82),
        (-250, 550),
    ),
    "dicom": Case(
        "A DICOM series",
        "Abdomen (TCIA Pancreatic-CT-CBCT-SEG, doi 10.7937/TCIA.ESHQ-4D90, CC BY 4.0).",
        pancreas,
        "monai-n2v denoise -i DICOM_FOLDER -o DERIVED --fast",
        "The result is a derived series with the geometry of its source. There is little noise here, so little is removed.",
        (slice(110, 400), slice(140, 390), 16),
        (-110, 190),
    ),
    "cells": Case(
        "Fluorescence microscopy",
        "Simulated membranes of cells with at most 40 photons per pixel: Poisson noise, then that of a camera.",
        cells,
        "monai-n2v denoise -i cells.tif -o membranes.tif --fast",
        "Bright membranes are noisier than dark cells, and both are clean afterwards. Weak membranes stay visible.",
        (_ALL, _ALL),
        (0, 45),
    ),
    "rician": Case(
        "A magnitude image with air",
        f"{_COLIN}: Rician, as in magnitude images.",
        rician,
        "monai-n2v denoise -i magnitude.nii.gz -o unbiased.nii.gz --magnitude rician --fast",
        "Air becomes black, because the bias of the noise is removed. So what was removed is brighter in air.",
        (_ALL, _ALL, 14),
        (0, 150),
    ),
    "uneven": Case(
        "Uneven noise of parallel imaging",
        f"{_COLIN}: three times as strong in the middle as at the border.",
        uneven,
        "monai-n2v denoise -i noisy.nii.gz -o even.nii.gz --noise-map gfactor.nii.gz --fast",
        "The middle is as calm as the border. What was removed is stronger in the middle, as the map says.",
        (_ALL, _ALL, 24),
        (0, 150),
    ),
    "dots": Case(
        "A case where it fails",
        "Simulated: dots of one pixel in white noise, in rows of 8, 4, 2 and 1 standard deviations above the ground.",
        dots,
        "monai-n2v denoise -i cells.tif -o dots.tif --fast",
        "Dots of the upper row stay, with less contrast. Nearly all others vanish, and those of 4 standard deviations show in what was removed.",
        (_ALL, _ALL),
        (60, 180),
    ),
}


def denoised(case: Case, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Run the command of a case; noisy and denoised, as they are shown."""
    from monai_n2v.io.images import read_volume

    case.write(folder)
    words = shlex.split(case.command)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "monai_n2v.cli", *words[1:]], cwd=folder, check=True, env=environment)
    volumes = [read_volume(folder / name) for name in case.files]
    affine = volumes[0].source.affine
    # Patients are shown with the face up.
    face_down = affine is not None and len(case.show) == 3 and affine[1, 1] > 0
    noisy, result = (volume.data[0][case.show].astype(np.float32).T[:: -1 if face_down else 1] for volume in volumes)
    return noisy, result


def overview(shown: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write the picture of the README: one row for each kind of image."""
    import matplotlib.pyplot as plt

    figure, all_axes = plt.subplots(len(OVERVIEW), 3, figsize=(9, 3.05 * len(OVERVIEW)))
    for axes_row, (name, kind) in zip(all_axes, OVERVIEW.items()):
        noisy, result = (square(image) for image in shown[name])
        limit = 4 * float((noisy - result).std())
        images = (("noisy", noisy), ("denoised", result), ("removed", noisy - result))
        for axes, (title, image) in zip(axes_row, images):
            low, high = (-limit, limit) if title == "removed" else CASES[name].window
            axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_frame_on(False)
            if axes in all_axes[0]:
                axes.set_title(title, fontsize=13)
        axes_row[0].set_ylabel(kind, fontsize=13)
    figure.tight_layout(pad=0.3)
    figure.savefig(IMAGES / "overview.png", dpi=100)
    plt.close(figure)
    Image.open(IMAGES / "overview.png").convert("L").quantize(64).save(IMAGES / "overview.png", optimize=True)


def square(image: np.ndarray) -> np.ndarray:
    """The middle of an image, as wide as high."""
    side = min(image.shape)
    top, left = ((n - side) // 2 for n in image.shape)
    return image[top : top + side, left : left + side]


def page() -> str:
    """The gallery as text."""
    lines = [
        "# Gallery",
        "",
        "<!-- Written by `python -m benchmarks.gallery`, which runs these commands; do not edit. -->",
        "",
        "Each picture shows a part of the image: noisy, denoised, and what was removed (gray is zero). All use the",
        "[prior](explanation/prior.md) alone, in seconds.",
        "",
    ]
    for name, case in CASES.items():
        lines += [f"## {case.title}", "", case.image, "", "```sh", case.command, "```", ""]
        lines += [f"![{case.title}: noisy, denoised, removed](images/gallery_{name}.png)", ""]
        lines += [f"**Look at:** {case.look}", ""]
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write docs/gallery.md and its pictures.")
    parser.add_argument("--page", action="store_true", help="the page alone")
    parser.add_argument("--cases", nargs="+", choices=CASES, help="pictures of these alone")
    args = parser.parse_args(arguments)
    shown = {}
    for name in () if args.page else args.cases or CASES:
        with tempfile.TemporaryDirectory() as folder:
            shown[name] = denoised(CASES[name], Path(folder))
        noisy, result = shown[name]
        limit = 4 * float((noisy - result).std())
        images = {"noisy": noisy, "denoised": result, "removed": noisy - result}
        panels(f"gallery_{name}", images, CASES[name].window, limit)
    if set(OVERVIEW) <= set(shown):
        overview(shown)
    (ROOT / "docs" / "gallery.md").write_text(page())


if __name__ == "__main__":
    main()
