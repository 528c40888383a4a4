# SPDX-License-Identifier: Apache-2.0
"""The masked loss of Noise2Void."""

from typing import Optional

import torch
from torch.nn.modules.loss import _Loss


class N2VLoss(_Loss):
    r"""Mean error over the blind spots, :math:`\sum_i m_i\,|f(\tilde x)_i - x_i|^p / n` ([1]_, Eq. 10), of which are n.

    The sum runs over the whole batch, so the value does not depend on how many voxels are hidden. Voxels that are not
    blind spots have no influence: zero gradient, and NaN there does no harm. Without any blind spot the loss is 0. A
    mask of other values than 0 and 1 weights the errors; the weights are not normalized.

    Args:
        loss: ``"l2"`` (p = 2), whose minimum is the mean and hence the signal for zero-mean noise ([1]_, Eq. 4-5), or
            ``"l1"`` (p = 1), whose minimum is the median.

    Raises:
        ValueError: for another ``loss``.

    References:
        .. [1] Krull et al., "Noise2Void - Learning Denoising from Single Noisy Images", CVPR 2019.
    """

    def __init__(self, loss: str = "l2") -> None:
        super().__init__(reduction="mean")
        if loss not in ("l2", "l1"):
            raise ValueError(f'loss must be "l2" or "l1", got {loss!r}. Use "l2" for zero-mean noise.')
        self.squared = loss == "l2"

    # TorchScript reads this annotation at run time and knows `Optional`, not `X | None`.
    def forward(self, input: torch.Tensor, target: torch.Tensor, mask: Optional[torch.Tensor] = None) -> torch.Tensor:  # noqa: UP045
        """Compute the loss.

        Args:
            input: what the network predicted, ``(B, C, *spatial)``.
            target: the untouched noisy images, of the same shape. Without ``mask``: ``cat([images, mask], dim=1)``,
                ``(B, 2 * C, *spatial)``, since MONAI's trainer hands over two arguments only.
            mask: non-zero at blind spots, of the shape of ``input``.

        Returns:
            a scalar.

        Raises:
            ValueError: where the shapes do not fit.
        """
        if mask is None:
            n_channels = input.shape[1]
            if target.shape[1] != 2 * n_channels:
                raise ValueError(
                    f"target must have {2 * n_channels} channels (images, then their mask) when no mask is given, "
                    f"got {target.shape[1]}. Pack it with prepare_batch, or pass mask."
                )
            mask = target[:, n_channels:]
            target = target[:, :n_channels]
        if input.shape != target.shape or input.shape != mask.shape:
            raise ValueError(
                f"input, target and mask must have one shape, got {list(input.shape)}, {list(target.shape)} and "
                f"{list(mask.shape)}. Channels share their blind spots, so expand the mask over them."
            )
        blind = mask != 0
        # where() rather than a product: NaN times 0 would still be NaN.
        error = torch.where(blind, input - target, torch.zeros_like(input)).float()
        weighted = mask * (error * error if self.squared else error.abs())
        return torch.where(blind, weighted, torch.zeros_like(weighted)).sum() / blind.sum().clamp(min=1)
