# SPDX-License-Identifier: Apache-2.0
"""Which files a command reads and writes: found, named and checked before any work is done."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from monai_n2v.io.dicom_files import has_dicom, holds_dicom_only
from monai_n2v.io.find import find_images
from monai_n2v.io.images import check_target, float_suffix, partners_of, split_name, voxel_files_of


@dataclass(frozen=True)
class Job:
    """One image to denoise.

    Attributes:
        source: file, or folder of a DICOM series.
        target: where the denoised image goes.
        report: folder for its report, or None.
        residual: where what was removed goes, or None.
        noise_map: where the local noise level goes, or None.
        done: whether all of these exist and are to stay; a network is trained on such an image still.
        kind: images of one kind are alike, and share a network.
        beside: other files that are written with the results.
    """

    source: Path
    target: Path
    report: Path | None = None
    residual: Path | None = None
    noise_map: Path | None = None
    done: bool = False
    kind: str = ""
    beside: tuple[Path, ...] = ()

    @property
    def stem(self) -> str:
        """Start of the names of the report's files."""
        return split_name(self.target)[0]

    @property
    def results(self) -> list[Path]:
        """Everything that was asked for."""
        results = [path for path in (self.target, self.residual, self.noise_map, *self.beside) if path is not None]
        if self.report is not None:
            from monai_n2v.report.write import report_paths

            results += report_paths(self.report, self.stem)
        return results

    @property
    def outputs(self) -> list[Path]:
        """Everything that will be written: the results, and what is written along with them."""
        return [*self.results, *(partner for image in self.results for partner in partners_of(image))]


def is_tree(path: Path) -> bool:
    """Tell whether a path is a folder of images rather than one image or DICOM series."""
    return path.is_dir() and not has_dicom(path)


def plan_jobs(
    source: Path,
    target: Path,
    *,
    patterns: Sequence[str] = (),
    report: Path | bool | None = None,
    residual: bool = False,
    noise_map: bool = False,
    force: bool = False,
    skip_existing: bool = False,
) -> list[Job]:
    """Decide what becomes of which image, and refuse what cannot work before any work is done.

    Args:
        source: an image, a folder with a DICOM series, or a folder of images that is mirrored.
        target: the denoised image, or the folder that mirrors ``source``.
        patterns: of a tree, only images whose name or relative path matches one of these globs.
        report: the folder of the reports, or True for that of the denoised image; none is written without.
        residual: whether what was removed is written beside the denoised image.
        noise_map: whether the local noise level is, too.
        force: whether existing files are overwritten.
        skip_existing: whether images are done all of whose results exist; of the others, what exists is overwritten.

    Returns:
        the jobs, sorted by source.

    Raises:
        FileNotFoundError: where there is no such source, or no image in it.
        FileExistsError: where something to be written exists.
        ValueError: where a target does not suit its source, or two sources have one target.
        OSError: where a target cannot be written.
    """
    if source.exists() and is_tree(source):
        if split_name(target)[1] or target.is_file():
            raise ValueError(f"OUT must be a folder where IN is one, got {target}. Name a folder.")
        if target.resolve() == source.resolve():
            raise ValueError(f"OUT must not be IN, got {target} for both. Choose another folder.")
    found = plan_sources(source, patterns, exclude=target)
    jobs = [_job(path, target / path.relative_to(source), report, residual, noise_map) for path in found]
    return check_jobs(jobs, force, skip_existing)


def check_jobs(jobs: Sequence[Job], force: bool, skip_existing: bool) -> list[Job]:
    """Refuse jobs that cannot work, and find those that are done.

    Args:
        jobs: what to read and write.
        force: see `plan_jobs`.
        skip_existing: see `plan_jobs`.

    Returns:
        the jobs; those that are done say so.

    Raises:
        FileExistsError: where something to be written exists.
        ValueError: where a target does not suit its source, or two sources have one target.
        OSError: where a target cannot be written.
    """
    _check_collisions(jobs)
    if skip_existing:
        jobs = [replace(job, done=all(path.exists() for path in job.results)) for job in jobs]
    for job in jobs:
        if not job.done:
            _check(job, force or skip_existing)
    return list(jobs)


def plan_sources(source: Path, patterns: Sequence[str] = (), exclude: Path | None = None) -> list[Path]:
    """List the images to work on.

    Args:
        source: an image, a folder with a DICOM series, or a folder of images.
        patterns: of a folder of images, only those whose name or relative path matches one of these globs.
        exclude: a folder whose files are left out of a folder of images.

    Returns:
        their paths, sorted.

    Raises:
        FileNotFoundError: where there is no such source, or no image in it.
        ValueError: for a pattern without a folder.
    """
    if not source.exists():
        raise FileNotFoundError(f"IN must be an existing file or folder, got {source}. Check the path.")
    if not is_tree(source):
        if patterns:
            raise ValueError(f"--pattern must come with a folder of images, got {source}. Leave it out.")
        return [source]
    try:
        return [Path(item["image"]) for item in find_images(source, exclude, patterns)]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--{error}" if str(error).startswith("pattern ") else str(error)) from None


def _job(source: Path, target: Path, report: Path | bool | None, residual: bool, noise_map: bool) -> Job:
    stem, suffix = split_name(target)
    # What is no image of the source's kind, with negative and broken values, needs a format that holds them.
    floating = float_suffix(source, suffix)
    return Job(
        source,
        target,
        report if isinstance(report, Path) else target.parent if report else None,
        target.parent / f"{stem}_residual{floating}" if residual else None,
        target.parent / f"{stem}_noise{floating}" if noise_map else None,
    )


def _check_collisions(jobs: Sequence[Job]) -> None:
    taken: dict[Path, Path] = {}
    for job in jobs:
        for output in job.outputs:
            other = taken.setdefault(output, job.source)
            if other != job.source:
                raise ValueError(
                    f"IN must give every image a result of its own, got {other} and {job.source}, both to be written "
                    f"to {output}. Rename one of them."
                )
    folders = {job.target for job in jobs if not split_name(job.target)[1]}
    for job in jobs:
        inside = folders.intersection(job.target.parents)
        if inside:
            raise ValueError(
                f"IN must not hold images inside the folder of a DICOM series, got {job.source}. "
                "Move it out, or choose with --pattern."
            )


def _check(job: Job, force: bool) -> None:
    check_target(job.target, job.source)
    if job.target.resolve() in job.source.resolve().parents:
        raise ValueError(f"OUT must not hold IN, got {job.target} for {job.source}. Choose another folder.")
    read = [path for path in (job.source, *voxel_files_of(job.source)) if path.exists()]
    for output in job.outputs:
        if output.exists() and any(output.samefile(path) for path in read):
            raise ValueError(f"OUT must not be IN, got {output} for both. Choose another name.")
        if output.is_dir() and not holds_dicom_only(output):
            raise FileExistsError(
                f"OUT must be a new folder or one of DICOM files only, got {output} with others. Choose another folder."
            )
        if os.path.lexists(output) and not force:  # a link to nowhere is something, too
            raise FileExistsError(f"OUT must not exist yet, got {output}. Use --force to overwrite it.")
