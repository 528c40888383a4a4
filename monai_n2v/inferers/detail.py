# SPDX-License-Identifier: Apache-2.0
"""Detail that no neighborhood predicts, taken back from the measured values.

References:
    .. [1] Lee, "Digital Image Enhancement and Noise Filtering by Use of Local Statistics", IEEE PAMI 1980.
    .. [2] Laine et al., "High-Quality Self-Supervised Deep Image Denoising", NeurIPS 2019.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import Inferer

# Side of the box over which the power of the residual is taken, in voxels, by number of axes: about 25 voxels.
_BOX = {2: 5, 3: 3}
# Side of the blocks whose median tells the noise, and into how many cells a block is averaged along each axis.
_BLOCK = {2: 32, 3: 16}
_CELLS = {2: 16, 3: 8}
# The power of pure noise in 25 voxels varies by 28 %: what does not exceed the noise by so much counts as noise.
_MARGIN = 1.3
# And a tenth of its values lie below so much of the mean.
_TENTH = 0.66
# Intensities at which the noise is told, evenly from the 0.1st to the 99.9th percentile; and cells that each needs.
_N_LEVELS = 64
_FEWEST = 16
# A residual counts for at most so many standard deviations of the noise, lest one hot pixel vouch for its neighbors.
_MOST = 4.0

_CELL_POOL: dict[int, Callable[..., torch.Tensor]] = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


class DetailInferer(Inferer):
    """Take back, from the measured values, the detail that another inferer's estimate lacks.

    See `keep_detail`. With one spatial axis more than the network has, a volume is treated slice by slice along its
    last axis. Memory: input, estimate and result.

    Args:
        inferer: gives the estimate, ``(B, C, *spatial)`` like the input.
        spatial_dims: axes of the network, 2 or 3.
        enabled: whether to; otherwise the result is the inferer's own.

    Raises:
        ValueError: for ``enabled`` other than true or false.
    """

    def __init__(self, inferer: Inferer, spatial_dims: int, enabled: bool = True) -> None:
        if not isinstance(enabled, bool):  # the text "false", from a command line, would count as true
            raise ValueError(f"keep_detail must be True or False, got {enabled!r}. Mind the capital letter.")
        self.inferer = inferer
        self.spatial_dims = spatial_dims
        self.enabled = enabled

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Predict.

        Args:
            inputs: ``(B, C, *spatial)``, noisy, floating point.
            network: as the inferer takes it.
            args: further arguments of the network.
            kwargs: further keyword arguments of the network.

        Returns:
            ``(B, C, *spatial)``, a plain tensor; exactly what the inferer returns where this is not enabled.

        Raises:
            ValueError: where the estimate has another shape than the input, or axes do not fit the network.
        """
        estimate: torch.Tensor = self.inferer(inputs, network, *args, **kwargs)
        if not self.enabled:
            return estimate
        noisy, estimate = (x.as_tensor() if isinstance(x, MetaTensor) else x for x in (inputs, estimate))
        n_axes = noisy.ndim - 2
        if n_axes not in (self.spatial_dims, self.spatial_dims + 1) or n_axes > 3:
            raise ValueError(f"inputs must have {self.spatial_dims} spatial axes, got {n_axes}. Use the other bundle.")
        if n_axes == self.spatial_dims or noisy.shape != estimate.shape:  # differing shapes are refused there
            return keep_detail(noisy, estimate)
        output = torch.empty_like(estimate)
        for i in range(noisy.shape[-1]):
            output[..., i] = keep_detail(noisy[..., i], estimate[..., i])
        return output


def keep_detail(noisy: torch.Tensor, estimate: torch.Tensor) -> torch.Tensor:
    """Move an estimate towards the measured values where the two differ by more than noise.

    A blind estimate ``m`` is made without a voxel's own value ``x``. Where structure is too fine for the neighbors to
    tell, the residual ``x - m`` holds that structure besides the noise. If both are Gaussian, with variances ``s**2``
    and ``n**2``, the best estimate from all there is ([1]_, [2]_, eq. 4) is ``m + w * (x - m)`` with
    ``w = s**2 / (s**2 + n**2)``. The denominator is the power of the residual nearby; ``n**2`` is the larger of two
    guesses, each too large rather than too small:

    - what that power commonly is around, its median over a block: noise may differ from place to place;
    - what it is where the estimate is equally bright and the residual weak, at the lowest tenth: noise may grow with
      the signal, as on bright cells in the dark.

    So nothing is to be known of the noise. Where residuals are equally strong throughout a block, be it noise or fine
    texture, the estimate stays what it is, but for a hundredth of white noise; of correlated noise more comes back.
    Noise that is stronger in a small part of a block, at intensities that hold little of it elsewhere, is taken for
    detail. A residual counts for at most four standard deviations of noise, lest a single hot pixel bring itself back,
    and the noise around it: on average less than a fifth of it returns, at the image's corners a half.

    Args:
        noisy: ``(N, C, *spatial)`` with 2 or 3 spatial axes, floating point.
        estimate: the same image denoised, without the voxels' own values or nearly so; same shape.

    Returns:
        a new tensor of the estimate's shape and type.

    Raises:
        ValueError: for differing shapes.
    """
    if noisy.shape != estimate.shape:
        raise ValueError(
            f"estimate must have the shape of the image, {tuple(noisy.shape)}, got {tuple(estimate.shape)}. "
            "Set keep_detail to false for a network with other channels than its input."
        )
    longest = max(range(2, noisy.ndim), key=lambda axis: noisy.shape[axis])
    if noisy.shape[2] < noisy.shape[longest]:  # slabs along the longest axis are the smallest
        return keep_detail(noisy.transpose(2, longest), estimate.transpose(2, longest)).transpose(2, longest)
    blocks, by_intensity = _measure_noise(noisy, estimate)
    output = torch.empty_like(estimate)
    for start, stop, low, high in _slabs(noisy.shape):
        residual = noisy[:, :, low:high] - estimate[:, :, low:high]
        level = _spread(blocks, low, high, noisy.shape[2:])
        level = torch.maximum(level, by_intensity.at(estimate[:, :, low:high]))
        power = _box_mean(torch.minimum(residual.square(), _MOST**2 * level))
        weight = (1 - _MARGIN * level / power.clamp_min(torch.finfo(power.dtype).tiny)).clamp(0, 1)
        kept = estimate[:, :, low:high] + weight * residual
        output[:, :, start:stop] = kept[:, :, start - low : stop - low]
    return output


def _slabs(shape: torch.Size) -> Iterator[tuple[int, int, int, int]]:
    """Cut the first spatial axis: first and last row of a slab, and the same with the rows that its boxes reach.

    So beside input and output no more is held than what a few rows need.
    """
    n_axes, size = len(shape) - 2, shape[2]
    n_slabs, halo = max(1, size // _BLOCK[n_axes]), _BOX[n_axes] // 2
    for i in range(n_slabs):
        start, stop = i * size // n_slabs, (i + 1) * size // n_slabs
        yield start, stop, max(start - halo, 0), min(stop + halo, size)


def _box_mean(values: torch.Tensor) -> torch.Tensor:
    """Mean over the box around every voxel, as much of it as lies in the image; one axis after the other.

    torch's own pooling reads the whole box for every voxel, and a single channel with a single thread.
    """
    n_axes = values.ndim - 2
    for axis, size in enumerate(values.shape[2:], start=2):
        reach = min(_BOX[n_axes] // 2, (size - 1) // 2)  # no box is larger than a thin image
        if reach == 0:
            continue
        total = values.clone()
        for shift in range(1, reach + 1):
            total.narrow(axis, shift, size - shift).add_(values.narrow(axis, 0, size - shift))
            total.narrow(axis, 0, size - shift).add_(values.narrow(axis, shift, size - shift))
        place = torch.arange(size, device=values.device)
        n_summed = 1 + place.clamp_max(reach) + place.flip(0).clamp_max(reach)
        values = total.div_(n_summed.view(-1, *[1] * (n_axes + 1 - axis)))
    return values


@dataclass(frozen=True)
class _NoiseByIntensity:
    """Noise ``power``, ``(N, C, n)``, at ``n`` even steps of the intensity from ``low`` to ``high``, ``(N, C)``."""

    low: torch.Tensor
    high: torch.Tensor
    power: torch.Tensor

    def at(self, intensity: torch.Tensor) -> torch.Tensor:
        """Noise power at every voxel of ``(N, C, *spatial)``, linear between the steps."""
        place = _place(intensity.flatten(2), self.low, self.high)
        before = place.long().clamp_max(_N_LEVELS - 1)
        low, high = self.power.gather(2, before), self.power.gather(2, before + 1)
        return torch.lerp(low, high, place - before).view(intensity.shape)


def _place(intensity: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Where intensities ``(N, C, n)`` lie from 0 to `_N_LEVELS`; those beyond at the ends."""
    width = (high - low).clamp_min(torch.finfo(intensity.dtype).tiny)
    return ((intensity - low[..., None]) * (_N_LEVELS / width)[..., None]).nan_to_num().clamp(0, _N_LEVELS)


def _measure_noise(noisy: torch.Tensor, estimate: torch.Tensor) -> tuple[torch.Tensor, _NoiseByIntensity]:
    """Noise power of every block, ``(N, C, *n_blocks)``, and by intensity, both from the mean power of cells."""
    n_axes = noisy.ndim - 2
    n_blocks = [max(1, round(side / _BLOCK[n_axes])) for side in noisy.shape[2:]]
    n_cells = [n * _CELLS[n_axes] for n in n_blocks]
    slabs = []
    for start, stop, low, high in _slabs(noisy.shape):
        residual = noisy[:, :, low:high] - estimate[:, :, low:high]
        power = _box_mean(residual.square_())[:, :, start - low : stop - low]
        both = torch.cat([power, estimate[:, :, start:stop].to(power.dtype)], dim=1)
        slabs.append(_CELL_POOL[n_axes](both, [stop - start, *n_cells[1:]]))
    # Means of cells rather than single voxels: a mirrored image has the same ones.
    powers, intensities = _CELL_POOL[n_axes](torch.cat(slabs, dim=2), n_cells).chunk(2, dim=1)
    by_intensity = _lowest_tenths(powers.flatten(2), intensities.flatten(2))
    for axis, n in enumerate(n_blocks):
        powers = powers.unflatten(2 + axis, (n, _CELLS[n_axes])).movedim(3 + axis, -1)
    blocks = powers.flatten(2 + n_axes)
    return _smallest(blocks, blocks.shape[-1] // 2), by_intensity


def _smallest(values: torch.Tensor, place: int) -> torch.Tensor:
    """The value of the last axis that ``place`` others are no larger than.

    A CPU finds it without sorting all of them; a GPU sorts faster than it would travel.
    """
    if values.is_cuda:
        return values.sort(dim=-1).values[..., place].contiguous()
    found = np.partition(values.float().numpy(), place, axis=-1)[..., place]
    return torch.from_numpy(np.ascontiguousarray(found)).to(values)


def _lowest_tenths(powers: torch.Tensor, intensities: torch.Tensor) -> _NoiseByIntensity:
    """Noise power by intensity, from the cells, ``(N, C, n)``, of the weakest residuals; 0 where nothing tells."""
    n = intensities.shape[-1]
    low, high = _smallest(intensities, n // 1000), _smallest(intensities, n - 1 - n // 1000)
    levels = _place(intensities, low, high).round().to(torch.uint8)
    tenths_of = _tenths_by_sorting if powers.is_cuda else _tenths_by_selection
    found = np.zeros((*powers.shape[:2], _N_LEVELS + 1))
    for where in np.ndindex(*powers.shape[:2]):
        counts, tenths = tenths_of(levels[where], powers[where])
        known = np.flatnonzero(counts >= _FEWEST)
        if len(known):
            found[where] = np.interp(range(_N_LEVELS + 1), known, tenths[known] / _TENTH)
    return _NoiseByIntensity(low, high, torch.from_numpy(found).to(powers))


def _tenths_by_selection(levels: torch.Tensor, powers: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """How many cells each level has, and the power that a tenth of them are no larger than; 0 for a level of none."""
    order = np.argsort(levels.numpy(), kind="stable")  # of bytes: by radix
    counts = np.bincount(levels.numpy(), minlength=_N_LEVELS + 1)
    groups = np.split(powers.float().numpy()[order], counts.cumsum()[:-1])
    tenths = [np.partition(group, len(group) // 10)[len(group) // 10] if len(group) else 0.0 for group in groups]
    return counts, np.array(tenths)


def _tenths_by_sorting(levels: torch.Tensor, powers: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The same on a GPU: sorted by power, then in that order by level, a level's cells lie side by side."""
    ordered, order = powers.float().sort()
    grouped, by_level = levels[order].sort(stable=True)
    stops = torch.searchsorted(grouped.int(), torch.arange(_N_LEVELS + 1, device=grouped.device).int(), right=True)
    starts = F.pad(stops[:-1], (1, 0))
    tenth = (starts + (stops - starts) // 10).clamp_max(len(ordered) - 1)
    counts = (stops - starts).cpu().numpy()
    return counts, np.where(counts > 0, ordered[by_level[tenth]].cpu().numpy(), 0.0)


def _spread(noise: torch.Tensor, low: int, high: int, shape: torch.Size) -> torch.Tensor:
    """Rows ``low`` to ``high`` of the noise power at every voxel, linear between the centers of blocks."""
    n = noise.shape[2]
    place = (torch.arange(low, high, device=noise.device) + 0.5) * n / shape[0] - 0.5
    place = place.clamp(0, n - 1)
    before = place.long()
    after = (before + 1).clamp_max(n - 1)
    share = (place - before).to(noise.dtype).view(-1, *[1] * (noise.ndim - 3))
    rows = torch.lerp(noise[:, :, before], noise[:, :, after], share)
    # What is left to interpolate has one axis less: its rows are channels.
    mode = "linear" if noise.ndim == 4 else "bilinear"
    spread: torch.Tensor = F.interpolate(rows.flatten(1, 2), tuple(shape[1:]), mode=mode)
    return spread.view(*rows.shape[:3], *spread.shape[2:])
