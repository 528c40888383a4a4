# SPDX-License-Identifier: Apache-2.0
"""Which volumes of a series are near each other: in order, or in q-space by b-values and b-vectors."""

from pathlib import Path

import numpy as np

from monai_n2v.io.images import split_name
from monai_n2v.io.volume import where

# Below this b-value (s/mm^2) a volume counts as one without diffusion weighting, whose direction means nothing.
_NO_WEIGHTING = 50.0
# Directions are rounded in their files; by more than this share they are no directions.
_OFF_UNIT = 0.05


def nearest_volumes(
    n_volumes: int, n_nearest: int, q_vectors: np.ndarray | None = None, name: object = ""
) -> np.ndarray:
    """Find the nearest others of every volume of a series.

    Args:
        n_volumes: of the series.
        n_nearest: how many others of each; always so many, also at the ends of the series.
        q_vectors: ``(n_volumes, 3)``, see `read_q_vectors`. A direction and its opposite are one. Without them the
            order of the volumes counts, as for time points and echoes.
        name: of the series, for the message.

    Returns:
        int64 ``(n_volumes, n_nearest)``: distinct numbers of other volumes, the nearest first; of equally near ones the
        nearer in order, then the earlier.

    Raises:
        ValueError: where there are not so many others.
    """
    if n_nearest >= n_volumes:
        most = "One volume has no others: use context 0." if n_volumes == 1 else f"Use at most {n_volumes - 1}."
        raise ValueError(
            f"context must be below the number of volumes, {n_volumes}, got {n_nearest}{where(name)}. {most}"
        )
    numbers = np.arange(n_volumes)
    steps = np.abs(numbers[:, None] - numbers)
    near = np.empty((n_volumes, n_nearest), dtype=np.int64)
    for number in numbers:
        distance = steps[number].astype(np.float64)
        if q_vectors is not None:
            apart = (np.linalg.norm(q_vectors + sign * q_vectors[number], axis=1) for sign in (-1, 1))
            distance = np.round(np.minimum(*apart), 6)  # equal ones must not differ by rounding
        order = np.lexsort((numbers, steps[number], distance))
        near[number] = order[order != number][:n_nearest]
    return near


def read_q_vectors(path: str | Path, n_volumes: int) -> np.ndarray | None:
    """Read where in q-space the volumes of a diffusion series lie.

    Args:
        path: of the image; ``dwi.nii.gz`` has its b-values in ``dwi.bval`` (or ``.bvals``) and its b-vectors in
            ``dwi.bvec`` (or ``.bvecs``), in FSL's format.
        n_volumes: of the image.

    Returns:
        ``(n_volumes, 3)``, the b-vectors times the root of the b-values (s/mm^2); None where neither file exists.

    Raises:
        ValueError: where one of the two is missing, holds something else than numbers or another number of volumes, or
            a b-vector is no direction.
    """
    found = find_q_files(path)
    if not found:
        return None
    values, vectors = (_numbers(one, kind) for kind, one in found.items())
    b_values = values.ravel()
    directions = vectors.T if vectors.shape[0] == 3 else vectors
    for kind, count, fits in (
        ("bval", b_values.size, min(values.shape) == 1),
        ("bvec", len(directions), directions.shape[1] == 3),
    ):
        if not fits or count != n_volumes:
            got = f"{count}" if fits else f"the shape {(values if kind == 'bval' else vectors).shape}"
            raise ValueError(
                f"{kind} must hold one entry per volume, {n_volumes}, got {got}{where(found[kind])}. "
                "Take the file of this image, or use context 0."
            )
    if (b_values < 0).any():
        raise ValueError(f"bval must hold values from 0, got {b_values.min():g}{where(found['bval'])}. Correct it.")
    lengths = np.linalg.norm(directions, axis=1)
    wrong = (b_values >= _NO_WEIGHTING) & (np.abs(lengths - 1) > _OFF_UNIT)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"bvec must hold vectors of length 1, got {lengths[first]:.3g} for volume {first}{where(found['bvec'])}. "
            "Correct it, or use context 0."
        )
    return np.sqrt(b_values)[:, None] * directions


def find_q_files(path: str | Path) -> dict[str, Path]:
    """Find b-values and b-vectors of a diffusion series; they are not read.

    Args:
        path: of the image.

    Returns:
        the files ``bval`` and ``bvec``; empty where there is neither.

    Raises:
        ValueError: where one of the two is missing.
    """
    found = {kind: one for kind in ("bval", "bvec") if (one := _beside(Path(path), kind)) is not None}
    for kind, other in (("bval", "bvec"), ("bvec", "bval")):
        if kind not in found and other in found:
            raise ValueError(f"{kind} must lie beside {other}, got none for {found[other]}. Add it, or use context 0.")
    return found


def _beside(path: Path, kind: str) -> Path | None:
    stem = split_name(path)[0]
    return next((one for end in (kind, f"{kind}s") if (one := path.with_name(f"{stem}.{end}")).is_file()), None)


def _numbers(path: Path, kind: str) -> np.ndarray:
    try:
        numbers = np.loadtxt(path, ndmin=2)
        if numbers.size and np.isfinite(numbers).all():
            return numbers
        reason = "no or not finite numbers"
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
    raise ValueError(f"{kind} must hold rows of numbers, got something else for {path} ({reason}). Correct it.")
