# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import laws
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from monai_n2v.losses import N2VLoss


def batch(spatial_dims: int, fraction: float = 0.1, channels: int = 1) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shape = (3, channels, *(8,) * spatial_dims)
    prediction = torch.randn(shape, generator=generator, requires_grad=True)
    target = torch.randn(shape, generator=generator)
    mask = (torch.rand(shape[0], 1, *shape[2:], generator=generator) < fraction).float().expand(shape)
    return prediction, target, mask


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("loss", "power"), [("l2", 2), ("l1", 1)])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_loss_equals_hand_computation(spatial_dims, loss, power, channels):
    prediction, target, mask = batch(spatial_dims, channels=channels)
    value = N2VLoss(loss)(prediction, target, mask)
    laws.loss_equals_hand_value(value, prediction, target, mask, power)
    assert N2VLoss(loss)(prediction, torch.cat([target, mask], 1)) == value


def test_loss_invariant_to_mask_density():
    prediction, target = torch.full((1, 1, 16, 16), 3.0), torch.zeros(1, 1, 16, 16)
    sparse, dense = torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)
    sparse[..., 3, 5] = 1
    assert N2VLoss()(prediction, target, sparse) == N2VLoss()(prediction, target, dense) == 9


@pytest.mark.parametrize("loss", ["l2", "l1"])
def test_loss_gradient_zero_off_the_mask(loss):
    prediction, target, mask = batch(2)
    N2VLoss(loss)(prediction, target, mask).backward()
    assert (prediction.grad[mask == 0] == 0).all()
    assert (prediction.grad[mask == 1] != 0).all()


def test_loss_gradient_agrees_with_finite_differences():
    prediction, target, mask = batch(2)
    # The loss computes in float32 whatever comes in, so the check is as coarse as that.
    step = 1e-2
    value = N2VLoss()
    value(prediction, target, mask).backward()
    site = tuple(torch.nonzero(mask)[0].tolist())
    high, low = prediction.detach().clone(), prediction.detach().clone()
    high[site] += step
    low[site] -= step
    slope = (value(high, target, mask) - value(low, target, mask)) / (2 * step)
    assert prediction.grad[site].item() == pytest.approx(slope.item(), rel=1e-2)


def test_loss_finite_on_empty_mask():
    prediction, target, mask = batch(3)
    value = N2VLoss()(prediction, target, torch.zeros_like(mask))
    value.backward()
    assert value == 0
    assert (prediction.grad == 0).all()


@pytest.mark.parametrize("where", ["prediction", "target"])
def test_loss_nan_outside_the_mask_harmless(where):
    prediction, target, mask = batch(2)
    expected = N2VLoss()(prediction, target, mask).item()
    values = {"prediction": prediction.detach().clone(), "target": target.clone()}
    values[where][mask == 0] = float("nan")
    values["prediction"].requires_grad_()
    loss = N2VLoss()(values["prediction"], values["target"], mask)
    loss.backward()
    assert loss.item() == expected
    assert torch.isfinite(values["prediction"].grad).all()


def test_loss_nan_at_a_blind_spot_shows():
    prediction, target, mask = batch(2)
    target[mask == 1] = float("nan")
    assert torch.isnan(N2VLoss()(prediction, target, mask))


def test_loss_scriptable():
    prediction, target, mask = batch(2)
    scripted = torch.jit.script(N2VLoss())
    assert scripted(prediction, target, mask) == N2VLoss()(prediction, target, mask)
    assert scripted(prediction, torch.cat([target, mask], 1)) == N2VLoss()(prediction, target, mask)


def test_loss_half_precision_sums_in_float32():
    prediction = torch.full((1, 1, 512, 512), 3.0, dtype=torch.float16)
    assert N2VLoss()(prediction, torch.zeros_like(prediction), torch.ones_like(prediction)) == 9


def test_loss_forgotten_mask_refused():
    prediction, target, _ = batch(2)
    with pytest.raises(ValueError, match="target must have 2 channels"):
        N2VLoss()(prediction, target)


def test_loss_bad_arguments_refused():
    prediction, target, mask = batch(2)
    with pytest.raises(ValueError, match="loss must be"):
        N2VLoss("huber")
    with pytest.raises(ValueError, match="one shape"):
        N2VLoss()(prediction, target, mask[..., :4])


@settings(deadline=None, max_examples=40)
@given(fraction=st.floats(0, 1), power=st.sampled_from([1, 2]), seed=st.integers(0, 2**31))
def test_loss_equals_hand_computation_for_any_mask(fraction, power, seed):
    rng = np.random.default_rng(seed)
    prediction, target = (torch.from_numpy(rng.normal(size=(2, 1, 5, 6)).astype(np.float32)) for _ in range(2))
    mask = torch.from_numpy((rng.random((2, 1, 5, 6)) < fraction).astype(np.float32))
    value = N2VLoss("l2" if power == 2 else "l1")(prediction, target, mask)
    laws.loss_equals_hand_value(value, prediction, target, mask, power)
