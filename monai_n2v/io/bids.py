# SPDX-License-Identifier: Apache-2.0
"""BIDS datasets, read by their names alone: images, what they are, and the files that say more about them."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DESCRIPTION = "dataset_description.json"
DATATYPES = ("anat", "func", "dwi", "perf")
_IMAGES = (".nii.gz", ".nii")
# Computed images, masks and phases, whose wraps are no noise: no network should touch them.
_COMPUTED = ("UNIT1", "ADC", "expADC", "FA", "colFA", "trace", "phase", "phase1", "phase2")
_COMPUTED_ENDS = ("map", "mask", "seg")


@dataclass(frozen=True)
class BidsImage:
    """An image of a dataset.

    Attributes:
        path: of the file.
        dataset: top folder.
        datatype: ``anat``, ``func``, ``dwi`` or ``perf``.
        entities: of its name, such as ``{"sub": "01", "run": "2"}``, in their order.
        suffix: last part of its name, such as ``T1w``.
    """

    path: Path
    dataset: Path
    datatype: str
    entities: Mapping[str, str]
    suffix: str

    @property
    def facts(self) -> Mapping[str, str]:
        """What images are chosen by: entities, ``datatype`` and ``suffix``."""
        return {**self.entities, "datatype": self.datatype, "suffix": self.suffix}

    @property
    def kind(self) -> str:
        """What images have in common that look alike: data type, suffix, and the part of a complex image."""
        part = f" {self.entities['part']}" if "part" in self.entities else ""
        return f"{self.datatype} {self.suffix}{part}"

    @property
    def is_noisy(self) -> bool:
        """Whether a scanner measured it: no mask, map or phase."""
        computed = self.suffix in _COMPUTED or self.suffix.endswith(_COMPUTED_ENDS)
        return not computed and self.entities.get("part") != "phase"

    def named(self, description: str, ending: str) -> Path:
        """Its name for what was made of it, relative to a dataset.

        Args:
            description: value of the entity ``desc``, which comes last; one that is there already begins it.
            ending: with the dot.
        """
        before = self.entities.get("desc", "")
        described = before + description[:1].upper() + description[1:] if before else description
        parts = [f"{key}-{value}" for key, value in self.entities.items() if key != "desc"]
        name = "_".join([*parts, f"desc-{described}", self.suffix]) + ending
        return self.path.relative_to(self.dataset).parent / name

    def beside(self, suffix: str, ending: str) -> list[Path]:
        """Files that say more about it, by BIDS's inheritance: in its folder or above, with none but its own entities.

        Args:
            suffix: of these files.
            ending: with the dot.

        Returns:
            their paths, the one that counts most last.
        """
        found: list[Path] = []
        folders = [self.path.parent, *self.path.parent.parents]
        for folder in reversed(folders[: folders.index(self.dataset) + 1]):
            here: list[tuple[int, Path]] = []
            for path in folder.glob(f"*{suffix}{ending}"):
                entities, its_suffix = split_entities(path.name.removesuffix(ending)) or ({}, "")
                if its_suffix == suffix and entities.items() <= self.entities.items():
                    here.append((len(entities), path))
            found += [path for _, path in sorted(here)]
        return found

    def metadata(self) -> dict[str, Any]:
        """Everything that JSON files say about it.

        Raises:
            ValueError: for one that holds something else than a JSON object.
        """
        return {key: value for path in self.beside(self.suffix, ".json") for key, value in read_object(path).items()}


def split_entities(stem: str) -> tuple[dict[str, str], str] | None:
    """Split a name without its ending into entities and suffix; None where it is no name of BIDS."""
    *pairs, suffix = stem.split("_")
    split = [pair.partition("-") for pair in pairs]
    if not suffix.isalnum() or not all(key.isalnum() and value.isalnum() for key, _, value in split):
        return None
    return {key: value for key, _, value in split}, suffix


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: of the file.

    Raises:
        ValueError: where it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path.name} must hold JSON, got something else for {path} ({error}). Correct it.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} must hold a JSON object, got {type(content).__name__} for {path}. Correct it.")
    return content


def find_bids_images(dataset: Path, participants: Collection[str] = ()) -> tuple[list[BidsImage], list[Path]]:
    """Find what ``sub-*/[ses-*/]{anat,func,dwi,perf}`` holds; links to files count, whether these are there or not.

    Args:
        dataset: top folder.
        participants: labels of those whose folders are looked at; all by default.

    Returns:
        noisy images, sorted, and other NIfTI files: masks, maps, phases, and names that BIDS does not know.

    Raises:
        FileNotFoundError: where it is no dataset, or a participant is missing.
    """
    if not (dataset / DESCRIPTION).is_file():
        raise FileNotFoundError(
            f"IN must be a BIDS dataset with --bids, got {dataset} without {DESCRIPTION}. "
            "Name the dataset's top folder."
        )
    labels = sorted(path.name.removeprefix("sub-") for path in dataset.glob("sub-*") if path.is_dir())
    missing = sorted(set(participants) - set(labels))
    if missing:
        raise FileNotFoundError(
            f"--participant-label must name participants of {dataset}, got {', '.join(missing)}. "
            f"It has {listed(labels) or 'none'}."
        )
    images, others = [], []
    for label in labels:
        if participants and label not in participants:
            continue
        top = dataset / f"sub-{label}"
        for session in [top, *sorted(top.glob("ses-*"))]:
            for datatype in DATATYPES:
                paths = [path for path in (session / datatype).glob("*") if path.name.endswith(_IMAGES)]
                for path in sorted(paths):
                    name = split_entities(path.name.removesuffix(".gz").removesuffix(".nii"))
                    image = name and BidsImage(path, dataset, datatype, *name)
                    if image and image.is_noisy and image.entities.get("sub") == label:
                        images.append(image)
                    else:
                        others.append(path)
    return images, others


def listed(values: Iterable[str], most: int = 12) -> str:
    """Values in one line, of many the first ones."""
    each = list(values)
    return ", ".join(each[:most]) + (f" and {len(each) - most} more" if len(each) > most else "")
