# SPDX-License-Identifier: Apache-2.0
"""The order of DICOM frames: slices by their positions, volumes by what the standard says that tells images apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monai_n2v.io.dicom_frames import Frame
from monai_n2v.io.volume import Refusal

# Slices whose distances agree to this fraction are evenly spaced: positions are stored as decimal text.
_EVEN = 0.01
# Positions of one slice agree to this, in mm.
_SAME = 1e-3
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_ALIKE = (*("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation"), *_PLACE[1:])
# What one volume of a series has in common.
_KINDS = (
    *("StackID", "ImageType", "FrameType", "ComplexImageComponent", "EchoTime", "EffectiveEchoTime", "EchoNumbers"),
    *("TemporalPositionIdentifier", "TemporalPositionIndex", "DiffusionBValue", "DiffusionGradientOrientation"),
    *("InversionTime", "FlipAngle", "RepetitionTime", "ConvolutionKernel", "ReconstructionAlgorithm", "KVP"),
    *("NominalCardiacTriggerDelayTime", "NominalPercentageOfCardiacPhase", "EnergyWindowNumber", "PhaseNumber"),
    # Private b values and directions, of Siemens, GE and Philips.
    *("(0019,100c)", "(0019,100e)", "(0043,1039)", "(2001,1003)", "(2001,1008)"),
    *("ContrastBolusAgent", "AcquisitionNumber"),
)
# What differs from slice to slice as well, but has an order at every position.
_TIMES = (
    *("TriggerTime", "FrameReferenceTime", "AcquisitionDateTime", "FrameAcquisitionDateTime", "AcquisitionTime"),
    *("InstanceNumber", "ContentTime"),
)
Volumes = list[list[Frame]]


def check_alike(folder: Path, frames: Sequence[Frame]) -> None:
    """Refuse frames that do not lie in one grid, and images that are there twice.

    Args:
        folder: they come from.
        frames: in any order.

    Raises:
        ValueError: naming the first two files that differ.
    """
    seen: dict[tuple[str, int], Frame] = {}
    for frame in frames:
        twin = seen.setdefault((str(frame.header.SOPInstanceUID), frame.number), frame)
        if twin.path != frame.path:
            raise Refusal(
                f"series must hold every image once, got one image (SOPInstanceUID {frame.header.SOPInstanceUID}) in "
                f"{twin.path.name} and {frame.path.name} in {folder}. Remove one of them."
            )
    first = frames[0]
    sizes = {"ImageOrientationPatient": 6, "PixelSpacing": 2}
    placed = [all(frame.value(keyword) is not None for keyword in _PLACE) for frame in frames]
    if any(placed) and not all(placed):
        lost = frames[placed.index(False)]
        keyword = next(keyword for keyword in _PLACE if lost.value(keyword) is None)
        raise Refusal(
            f"series must tell the place of every image, got {sum(placed)} images with and {len(placed) - sum(placed)} "
            f"without, the first {lost.place} without {keyword} in {folder}. Remove such files, or export them again."
        )
    for frame in frames[1:]:
        for keyword in _ALIKE:
            mine, other = (one.numbers(keyword, sizes.get(keyword, 1)) for one in (frame, first))
            if mine is other is None:
                continue
            if mine is None or other is None or not np.allclose(mine, other, atol=1e-3):
                raise Refusal(
                    f"series must have one {keyword}, got {first.value(keyword)} for {first.place} and "
                    f"{frame.value(keyword)} for {frame.place} in {folder}. Separate them."
                )


def sort_frames(folder: Path, frames: Sequence[Frame]) -> tuple[Volumes, np.ndarray | None, list[str]]:
    """Order frames.

    Args:
        folder: they come from.
        frames: that passed `check_alike`.

    Returns:
        ``[volume][slice]``, the step from slice to slice in mm (LPS), None without positions, and notes.

    Raises:
        ValueError: where slices are missing or uneven, or where nothing tells what belongs together.
    """
    if any(frames[0].value(keyword) is None for keyword in _PLACE):
        note = "The files tell no positions: the images are stacked in the order of their numbers."
        return [_by_number(folder, frames)], None, [note][: len(frames) - 1]
    orientation = frames[0].numbers("ImageOrientationPatient", 6)
    assert orientation is not None
    right, down = orientation[:3], orientation[3:]
    lengths = [float(np.linalg.norm(v)) for v in (right, down)]
    if not np.allclose(lengths, 1, atol=0.05) or abs(float(right @ down)) > 0.05:
        raise Refusal(
            f"ImageOrientationPatient must be two directions at right angles, got {orientation.tolist()} for "
            f"{frames[0].path}. The file is damaged."
        )
    normal = np.cross(right, down)
    levels = _levels(frames, normal)
    counts = Counter(len(level) for _, level in levels)
    if len(counts) > 1:
        height, fewest = min(levels, key=lambda level: len(level[1]))
        raise Refusal(
            f"series must have as many images at every position, got {len(fewest)} at {height:g} mm and "
            f"{max(counts)} elsewhere in {folder}. Find the missing files, or separate the repeats."
        )
    _check_even(folder, [height for height, _ in levels])
    volumes, told = _tell_apart(folder, [level for _, level in levels])
    step = _step(folder, volumes, normal)
    notes = [f"{len(volumes)} volumes, told apart by {told}."] if told else []
    return volumes, step, notes


def _by_number(folder: Path, frames: Sequence[Frame]) -> list[Frame]:
    """Frames without positions, of one kind, by numbers that differ."""
    if len(frames) == 1:
        return list(frames)
    kinds = [name for name in _KINDS[:-1] if len({_text(frame, name) for frame in frames}) > 1]
    numbers = [frame.numbers("InstanceNumber", 1) for frame in frames]
    known = {(float(number[0]), frame.number) for number, frame in zip(numbers, frames) if number is not None}
    if kinds or len(known) < len(frames):
        fault = f"which differ in {kinds[0]}" if kinds else "of which some have one InstanceNumber or none"
        raise Refusal(
            f"series must tell the place of every image, got {len(frames)} without ImagePositionPatient, {fault}, in "
            f"{folder}. Export them with positions, or separate them."
        )
    return sorted(frames, key=_number_of)


def _levels(frames: Sequence[Frame], normal: np.ndarray) -> list[tuple[float, list[Frame]]]:
    """Frames by their height along the normal; heights of one slice may differ by rounding."""
    heights = [float(frame.position @ normal) for frame in frames]
    order = np.argsort(heights, kind="stable")
    gaps = np.diff(np.asarray(heights)[order])
    limit = max(_SAME, _EVEN * float(gaps.max(initial=0)))
    levels: list[tuple[float, list[Frame]]] = []
    for k, gap in zip(order, [np.inf, *gaps]):
        if gap > limit:
            levels.append((heights[k], []))
        levels[-1][1].append(frames[k])
    return levels


def _check_even(folder: Path, heights: Sequence[float]) -> None:
    gaps = np.diff(heights)
    if not len(gaps):
        return
    middle = float(np.median(gaps))
    worst = int(np.abs(gaps - middle).argmax())
    if abs(gaps[worst] - middle) > max(_EVEN * middle, 2 * _SAME):
        raise Refusal(
            f"series must have evenly spaced slices, got {gaps[worst]:g} mm from {heights[worst]:g} to "
            f"{heights[worst + 1]:g} mm where others are {middle:g} mm apart in {folder}. "
            "Find the missing files, or separate the parts."
        )


def _text(frame: Frame, name: str) -> str:
    """A value as text; a private one is named by its tag."""
    if not name.startswith("("):
        return str(frame.value(name))
    if name in frame.groups:
        return str(frame.groups[name])
    group, _, number = name[1:-1].partition(",")
    element = frame.header.get((int(group, 16), int(number, 16)))
    return str(None if element is None else element.value)


def _order(text: str) -> tuple[float, str]:
    """Numbers by size, then other text by letters."""
    try:
        return float(text), text
    except ValueError:
        return np.inf, text


def _tell_apart(folder: Path, levels: Sequence[list[Frame]]) -> tuple[Volumes, str]:
    """One frame of every level to each volume, and the names of what tells the frames of a level apart."""
    if len(levels[0]) == 1:
        return [[level[0] for level in levels]], ""
    kinds: list[str] = []
    for name in _KINDS:
        counts = [Counter(_key(frame, [*kinds, name]) for frame in level) for level in levels]
        # It tells them apart, and does so alike at every position.
        if len(counts[0]) > len({_key(frame, kinds) for frame in levels[0]}) and counts.count(counts[0]) == len(counts):
            kinds.append(name)
    times: list[str] = []
    columns: list[list[Frame]] = []
    for level in levels:
        groups: dict[tuple[tuple[float, str], ...], list[Frame]] = {}
        for frame in level:
            groups.setdefault(_key(frame, kinds), []).append(frame)
        columns.append([frame for one in sorted(groups) for frame in _by_time(folder, groups[one], times)])
    volumes = sorted((list(row) for row in zip(*columns)), key=lambda row: min(map(_number_of, row)))
    return volumes, " and ".join([*kinds, *times])


def _key(frame: Frame, kinds: Sequence[str]) -> tuple[tuple[float, str], ...]:
    return tuple(_order(_text(frame, name)) for name in kinds)


def _by_time(folder: Path, group: list[Frame], times: list[str]) -> list[Frame]:
    """Frames of one position and kind in the order of the first time that all of them differ in."""
    if len(group) == 1:
        return group
    for name in _TIMES:
        texts = [_text(frame, name) for frame in group]
        if "None" not in texts and len(set(texts)) == len(group):
            if name not in times:
                times.append(name)
            return [frame for _, frame in sorted(zip(texts, group), key=lambda item: _order(item[0]))]
    raise Refusal(
        f"series must tell the images at one position apart, got nothing that differs between {group[0].place} and "
        f"{group[1].place} in {folder}. Separate them into folders."
    )


def _number_of(frame: Frame) -> tuple[float, int]:
    number = frame.numbers("InstanceNumber", 1)
    return (0.0 if number is None else float(number[0])), frame.number


def _step(folder: Path, volumes: Volumes, normal: np.ndarray) -> np.ndarray:
    """From slice to slice in mm, LPS, the same for all slices of all volumes."""
    first = volumes[0]
    ends = [first[k].position for k in (0, -1)]
    if len(first) == 1:
        thickness = first[0].numbers("SliceThickness", 1)
        return normal * (1.0 if thickness is None or thickness[0] <= 0 else float(thickness[0]))
    step = (ends[1] - ends[0]) / (len(first) - 1)
    for row in volumes:
        for k, frame in enumerate(row):
            off = frame.position - ends[0] - k * step
            if np.abs(off).max() > _EVEN * max(1.0, float(np.linalg.norm(step))):
                raise Refusal(
                    f"series must have its slices in one line, got {frame.place} off by {np.linalg.norm(off):.3g} mm "
                    f"in {folder}. Separate the parts."
                )
    return step
