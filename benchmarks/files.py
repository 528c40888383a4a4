# SPDX-License-Identifier: Apache-2.0
"""Real files that packages ship, read once each and compared with an independent reader.

``python -m benchmarks.files [NAME=FOLDER ...]``: those of installed packages, and of further folders, such as an
unpacked wheel. Independent are ITK for NIfTI, MetaImage, NRRD and DICOM (pydicom for negatives), Pillow for TIFF,
imagecodecs for PNG.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import save
from monai_n2v.io.images import read_volume, split_name

PACKAGES = ("pydicom", "nibabel", "skimage", "matplotlib", "scipy", "networkx")
# ITK in a process of its own: some of these files are made to break readers.
_ITK = """
import itk, numpy, sys
for line in sys.stdin:
    source, target = line.rstrip("\\n").split("\\t")
    try:
        numpy.save(target, itk.array_from_image(itk.imread(source)))
    except Exception:
        pass
    print("done", flush=True)
"""
_GRAY = "PhotometricInterpretation"
_RUNNING: list[subprocess.Popen[str]] = []
KINDS = ("equal", "refused by both", "refused", "no other reader", "different")


def files_of(folder: Path) -> list[Path]:
    """The images below a folder that could be read, by their names or first bytes; of a pair the header."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            suffix = split_name(path)[1].lower()
            with path.open("rb") as file:
                is_dicom = path.suffix.lower() == ".dcm" or file.read(132)[128:] == b"DICM"
            if (suffix and suffix != ".img") or is_dicom:
                found.append(path)
    return found


def read_independently(path: Path, is_dicom: bool) -> np.ndarray | None:
    """Voxels by another reader, slowest axis first; None where it cannot."""
    suffix = split_name(path)[1].lower()
    try:
        if suffix == ".npy":
            with path.open("rb") as file:
                return np.lib.format.read_array(file).T
        if suffix == ".png":
            import imagecodecs

            return imagecodecs.png_decode(path.read_bytes())
        if suffix in (".tif", ".tiff"):
            from PIL import Image, ImageSequence

            with Image.open(path) as image:
                return np.stack([np.asarray(frame) for frame in ImageSequence.Iterator(image)])
        import pydicom

        if is_dicom and pydicom.dcmread(path, force=True, stop_before_pixels=True).get(_GRAY) == "MONOCHROME1":
            dataset = pydicom.dcmread(path)  # which ITK turns to its negative
            return dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        with tempfile.TemporaryDirectory() as work:
            out = Path(work) / "x.npy"
            _ask_itk(path, out)
            return np.load(out)
    except Exception:  # noqa: BLE001 - whatever it says, it cannot
        return None


def _ask_itk(path: Path, out: Path) -> None:
    process = (
        _RUNNING.pop()
        if _RUNNING
        else subprocess.Popen(
            [sys.executable, "-c", _ITK],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    )
    alarm = threading.Timer(60, process.kill)
    alarm.start()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{path}\t{out}\n")
    process.stdin.flush()
    alive = process.stdout.readline() == "done\n"
    alarm.cancel()
    if alive:
        _RUNNING.append(process)


def judge(path: Path) -> tuple[str, str]:
    """What became of a file, one of `KINDS`, and the reason of a refusal."""
    is_dicom = not split_name(path)[1]
    with tempfile.TemporaryDirectory() as work:
        source = path
        if is_dicom:  # a series of one image
            source = Path(work)
            shutil.copy(path, source / path.name)
        other = read_independently(path, is_dicom)
        try:
            volume = read_volume(source)
        except (ValueError, OSError) as error:
            reason = re.sub(r"( (for|in) )?\S*/\S*", "", str(error)).partition(". ")[0]
            return ("refused by both" if other is None else "refused"), reason[:120]
    if other is None:
        return "no other reader", ""
    ours, theirs = np.squeeze(volume.source.split_axes(volume.data)), np.squeeze(other.T)
    # Niftilib, inside ITK, replaces NaN; it is refused before any work in ours, but told of by info.
    known = np.isfinite(ours)
    same = ours.shape == theirs.shape and np.allclose(ours[known], theirs[known], rtol=2e-6, atol=1e-6)
    return ("equal" if same else "different"), "" if same else f"{ours.shape} and {theirs.shape}: {path.name}"


def table(results: dict[str, Any]) -> str:
    """The table of docs/reference/formats.md."""
    names = [*results, "all"]
    total = {kind: sum(one[kind] for one in results.values()) for kind in ("files", *KINDS)}
    rows = [
        f"| {name} | {' | '.join(str(one[kind]) for kind in ('files', *KINDS))} |"
        for name, one in zip(names, [*results.values(), total])
    ]
    return (
        "\n".join([f"| package | files | {' | '.join(KINDS)} |", "| --- |" + " ---: |" * (len(KINDS) + 1), *rows])
        + "\n"
    )


def main() -> None:
    folders = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin:
            folders[name] = Path(spec.origin).parent
    folders |= {name: Path(folder) for name, _, folder in (argument.partition("=") for argument in sys.argv[1:])}
    results: dict[str, Any] = {}
    for name, folder in folders.items():
        judged = {path: judge(path) for path in files_of(folder)}
        counts = Counter(kind for kind, _ in judged.values())
        reasons = Counter(reason for kind, reason in judged.values() if reason)
        results[name] = {"files": len(judged), **{kind: counts[kind] for kind in KINDS}, "reasons": dict(reasons)}
        print(name, {key: value for key, value in results[name].items() if key != "reasons"}, flush=True)
        for path, (kind, reason) in judged.items():
            if kind in ("different", "no other reader"):
                print("  ", kind, path.name, reason)
    sys.argv[1:] = [f"{name}=FOLDER" for name in folders if name not in PACKAGES]  # no places of this machine
    save("files", {"packages": results})


if __name__ == "__main__":
    main()
