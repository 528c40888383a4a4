# SPDX-License-Identifier: Apache-2.0
"""A BIDS dataset denoised into a derivative dataset: names, sidecars, and what else BIDS asks for."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from monai_n2v import __version__
from monai_n2v.apps.paths import Job, check_jobs
from monai_n2v.bundle.resources import nearest
from monai_n2v.io.atomic import readers_of, staged
from monai_n2v.io.bids import DATATYPES, DESCRIPTION, BidsImage, find_bids_images, listed, read_object

logger = logging.getLogger(__name__)

_PROGRAM = "monai_n2v"
_VERSION = "1.10.0"  # of BIDS
_SOURCE = "source"  # what BIDS URIs call the dataset that was denoised
# Of reports, which BIDS has no names for.
_FIGURES = "figures"
_MADE = {
    "target": ("denoised", "Denoised by Noise2Void or a network like it, in the grid and units of its source."),
    "residual": ("residual", "What denoising removed: the source minus the denoised image."),
    "noise_map": ("noise", "Local standard deviation of what denoising removed."),
}
_COMPANIONS = {"dwi": (("dwi", ".bval"), ("dwi", ".bvec")), "asl": (("aslcontext", ".tsv"),)}
# Of a record: what is said elsewhere, or tells of one machine.
_NOT_TOLD = ("input", "output", "status", "losses", "faults", "device", "report", "residual", "noise_map")


@dataclass(frozen=True)
class Derivative:
    """A derivative dataset to make.

    Attributes:
        source: top folder of the dataset that is denoised.
        target: top folder of the derivative.
        images: by path.
        jobs: one per image.
    """

    source: Path
    target: Path
    images: Mapping[str, BidsImage]
    jobs: list[Job]

    @property
    def _link(self) -> str:
        """From the derivative to its source."""
        try:
            return quote(Path(os.path.relpath(self.source.resolve(), self.target.resolve())).as_posix())
        except ValueError:  # on another drive
            return self.source.resolve().as_uri()

    def describe(self) -> None:
        """Write what the dataset is, before its first image."""
        source = read_object(self.source / DESCRIPTION)
        # Who made the images, and who may use them, holds for what is made of them.
        kept = {key: value for key, value in source.items() if key not in ("DatasetDOI", "DatasetLinks")}
        origin = {"URL": self._link} | ({"DOI": source["DatasetDOI"]} if "DatasetDOI" in source else {})
        made = {"Name": _PROGRAM, "Version": __version__, "Description": "Denoised images, by monai-n2v denoise --bids"}
        ours = {
            "Name": f"{source.get('Name', self.source.resolve().name)}, denoised",
            "BIDSVersion": _VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [made],
            "SourceDatasets": [origin],
            "DatasetLinks": {_SOURCE: self._link},
        }
        _write(self.target / DESCRIPTION, _as_json(kept | ours))
        _write(self.target / ".bidsignore", f"{_FIGURES}\n")

    def complete(self, record: Mapping[str, Any]) -> None:
        """Write what belongs beside an image: sidecars, and copies of b-values, b-vectors and the like.

        Args:
            record: of the image, as `denoise_jobs` tells it; of a failed one nothing is written.
        """
        if record["status"] != "done":
            return
        image = self.images[record["input"]]
        job = next(job for job in self.jobs if str(job.source) == record["input"])
        readers = readers_of(image.path)
        known = _settings(record)
        metadata = {key: _of_source(value, key, image) for key, value in image.metadata().items()}
        metadata = {"SkullStripped": False} | metadata  # as scanned, unless its own file says otherwise
        metadata |= {"Sources": [_uri(image.path.relative_to(image.dataset))]}
        for copy, original in _companions(image, job.target.parent).items():
            with staged(copy, readers) as place:
                shutil.copyfile(original, place)
        for result, (_, description) in _made_by(job).items():
            sidecar = metadata | {"Description": description, "Denoising": known}
            _write(_sidecar(result), _as_json(sidecar), readers)


def plan_derivative(
    source: Path,
    target: Path,
    wanted: Mapping[str, Collection[str]],
    *,
    report: Path | bool | None = None,
    residual: bool = False,
    noise_map: bool = False,
    force: bool = False,
    skip_existing: bool = False,
) -> Derivative:
    """Decide what becomes of which image of a dataset, and refuse what cannot work before any work is done.

    Args:
        source: top folder of the dataset.
        target: top folder of the derivative, in ``derivatives/`` of the dataset or outside of it.
        wanted: values by entity, ``suffix`` or ``datatype``; an image must have one of each.
        report: the folder of the reports, or True for ``figures/`` beside the image's folder; none without.
        residual: see `plan_jobs`, as for the others.
        noise_map: see `plan_jobs`.
        force: see `plan_jobs`.
        skip_existing: see `plan_jobs`.

    Returns:
        the derivative; its jobs have a kind each, data type and suffix.

    Raises:
        FileNotFoundError: where the source is no dataset, or nothing in it is wanted.
        FileExistsError: where something to be written exists, or another program's derivative.
        ValueError: for an unknown filter, a folder that is no place for a derivative, or a broken JSON file.
        OSError: where a target cannot be written.
    """
    images, others = find_bids_images(source, wanted.get("sub", ()))
    _check_place(source.resolve(), target.resolve())
    images = _choose(images, wanted, source)
    if others:
        logger.info(
            "Masks, maps, phase images and names that BIDS does not know are left out: %d file(s).", len(others)
        )
    jobs = []
    for image in images:
        image.metadata()  # a broken one is refused now, not after hours
        path = {name: target / image.named(made, _ending(image)) for name, (made, _) in _MADE.items()}
        figures = report if isinstance(report, Path) else path["target"].parent.parent / _FIGURES if report else None
        job = Job(
            image.path,
            path["target"],
            figures,
            path["residual"] if residual else None,
            path["noise_map"] if noise_map else None,
            kind=image.kind,
        )
        beside = (*(_sidecar(result) for result in _made_by(job)), *_companions(image, job.target.parent))
        jobs.append(replace(job, beside=beside))
    return Derivative(source, target, {str(i.path): i for i in images}, check_jobs(jobs, force, skip_existing))


def _check_place(source: Path, target: Path) -> None:
    """Refuse to mix results with a dataset of raw images, or with another program's derivative."""
    if target.is_relative_to(source) and not target.is_relative_to(source / "derivatives"):
        raise ValueError(
            f"OUT must lie in derivatives/ of IN or outside of IN, got {target}. "
            f"Use {source / 'derivatives' / _PROGRAM}."
        )
    description = target / DESCRIPTION
    if description.is_file():
        makers = read_object(description).get("GeneratedBy", [])
        names = [maker.get("Name") for maker in makers if isinstance(maker, dict)]
        if _PROGRAM not in names:
            raise FileExistsError(
                f"OUT must be a new dataset or one of {_PROGRAM}, got {target} of "
                f"{listed(map(str, names)) or 'others'}. Choose another folder."
            )


def _choose(images: list[BidsImage], wanted: Mapping[str, Collection[str]], source: Path) -> list[BidsImage]:
    known = sorted({key for image in images for key in image.facts})
    unknown = next((key for key in wanted if key not in known), None)
    if unknown is not None and images:
        found = nearest(unknown, known)
        step = f"Did you mean {found}?" if found else "Use a part of the dataset's names."
        raise ValueError(f"--filter must begin with one of {', '.join(known)}, got {unknown}. {step}")
    for key, values in wanted.items():
        there = sorted({image.facts[key] for image in images if key in image.facts})
        images = [image for image in images if image.facts.get(key) in values]
        if not images and there:
            got = " ".join(f"{key}={value}" for value in values)
            raise FileNotFoundError(f"--filter must match an image, got {got}. The images have {key} {listed(there)}.")
    if not images:
        raise FileNotFoundError(
            f"IN must hold NIfTI images in sub-*/[ses-*/]{{{','.join(DATATYPES)}}}, got none below {source}. "
            "Check the path."
        )
    return images


def _made_by(job: Job) -> dict[Path, tuple[str, str]]:
    """The images that a job writes, with their value of ``desc`` and what they are."""
    return {path: made for name, made in _MADE.items() if (path := getattr(job, name)) is not None}


def _companions(image: BidsImage, folder: Path) -> dict[Path, Path]:
    """Copies of files without which the image cannot be used, by what they are copies of.

    BIDS has no ``desc`` in their names: they hold for all images that have their entities.
    """
    parts = [f"{key}-{value}" for key, value in image.entities.items() if key != "desc"]
    return {
        folder / ("_".join([*parts, suffix]) + ending): found
        for suffix, ending in _COMPANIONS.get(image.suffix, ())
        for found in image.beside(suffix, ending)[-1:]
    }


def _ending(image: BidsImage) -> str:
    return ".nii.gz" if image.path.name.endswith(".gz") else ".nii"


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _sidecar(result: Path) -> Path:
    return result.with_name(f"{_stem(result)}.json")


def _uri(path: Path) -> str:
    return f"bids:{_SOURCE}:{path.as_posix()}"


def _of_source(value: Any, key: str, image: BidsImage) -> Any:
    """Turn references within the source into such from the derivative."""
    if isinstance(value, list):
        return [_of_source(one, key, image) for one in value]
    if isinstance(value, str) and value.startswith("bids::"):
        return f"bids:{_SOURCE}:{value.removeprefix('bids::')}"
    if key == "IntendedFor" and isinstance(value, str) and not value.startswith("bids:"):
        return _uri(Path(f"sub-{image.entities['sub']}", value))  # the older way: relative to the participant
    return value


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """What of a record repeats the run, in BIDS's spelling; of files the names alone."""
    told = {key: value for key, value in record.items() if key not in _NOT_TOLD and not key.endswith("_seconds")}
    told |= {key: Path(told[key]).name for key in ("model", "given_noise_map") if told.get(key)}
    return {"".join(part[:1].upper() + part[1:] for part in key.split("_")): value for key, value in told.items()}


def _as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=4, ensure_ascii=False) + "\n"


def _write(path: Path, text: str, readers: int = 0o777) -> None:
    with staged(path, readers) as place:
        place.write_text(text, encoding="utf-8")
