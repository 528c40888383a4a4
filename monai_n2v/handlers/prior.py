# SPDX-License-Identifier: Apache-2.0
"""The prior: weights that a bundle carries, pretrained on procedural images alone, to start from or to denoise with."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import monai
import torch

from monai_n2v.handlers.checkpoints import load_weights, unlike, unwrapped
from monai_n2v.io.atomic import staged

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=torch.nn.Module)


def start_from_prior(network: T, path: str | Path, enabled: bool | str = True) -> T:
    """Give a network the weights of the prior; one of another shape keeps its random weights, which the log says.

    Args:
        network: that of the bundle, with its random weights.
        path: of the prior, ``models/prior.pt`` of a bundle.
        enabled: whether to; otherwise the network keeps its random weights, as in the Noise2Void paper.
            ``"required"`` refuses a network of another shape, for schemes that learn from the prior's own result.

    Returns:
        the network.

    Raises:
        FileNotFoundError: where there is no prior.
        ValueError: where it is damaged, or of another shape and required.
    """
    if not enabled:
        return network
    state = load_prior(path)
    if unlike(network, state):
        if enabled == "required":
            raise ValueError(
                f"network must be that of the prior for this scheme, got another one than in {path}. "
                "Leave features, in_channels and network_def as they are, or train without this overlay."
            )
        logger.warning("The network is another than that of the prior, so its training starts from random weights.")
    else:
        network.load_state_dict(state)
    return network


def load_prior(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a bundle's prior; its hash must be the one in the bundle's metadata.

    Args:
        path: ``models/prior.pt`` of a bundle.

    Returns:
        a flat state dict, float32.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: where it is damaged or another file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"prior must be a file of the bundle, got none at {path}. Pass --prior False to train from random weights, "
            "or --prior_path FILE."
        )
    metadata = path.parent.parent / "configs" / "metadata.json"
    named = json.loads(metadata.read_text()).get("prior", {}).get("sha256") if metadata.is_file() else None
    if named and hashlib.sha256(path.read_bytes()).hexdigest() != named:
        raise ValueError(
            f"prior must be the file that the bundle's metadata names, got another or a damaged one for {path}. "
            "Copy the bundle anew: monai-n2v bundle copy."
        )
    return {name: value.float() for name, value in load_weights(path, "prior").items()}


def trained_or_prior(path: str | Path, prior: str | Path) -> str:
    """Choose what to denoise with: a trained network where there is one, the prior otherwise, which the log says.

    Args:
        path: where a training would have left its weights.
        prior: of the bundle.

    Returns:
        one of the two.

    Raises:
        ValueError: for a damaged prior.
    """
    if Path(path).is_file() or not Path(prior).is_file():
        return str(path)
    load_prior(prior)  # refuses a damaged one
    logger.info("No network was trained on these images (%s): the prior alone denoises.", path)
    return str(prior)


def write_prior(network: torch.nn.Module, path: str | Path, settings: Mapping[str, Any]) -> None:
    """Write a pretrained network as a bundle's prior, in float16, and what it is into the bundle's metadata.

    Args:
        network: that was trained, with ``configs/pretrain.json``.
        path: of the prior, ``models/prior.pt`` of a bundle.
        settings: of the training, by key. With ``prior`` true it went on from the prior that was there, whose record is
            kept.
    """
    path = Path(path)
    state = {name: value.detach().cpu().half() for name, value in unwrapped(network).state_dict().items()}
    with staged(path) as place:
        torch.save(state, place)
    metadata = path.parent.parent / "configs" / "metadata.json"
    facts = json.loads(metadata.read_text())
    bundle = f"bundles/{path.parent.parent.name}"
    configs = f"['{bundle}/configs/train.json','configs/anneal.json','configs/pretrain.json']"
    given = " ".join(f"--{key} {str(value).replace(' ', '')}" for key, value in settings.items())
    before = facts.get("prior", {}) if settings.get("prior") else {}
    steps = settings.get("epochs", 0) * settings.get("epoch_length", 0)
    facts["prior"] = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "trained_on": "procedural images alone (monai_n2v.data.ProceduralImages): no photograph, no scan",
        "command": f'python -m monai.bundle run --config_file "{configs}" --bundle_root {bundle} {given}',
        "seed": settings.get("seed", 0),
        "steps": steps + before.get("steps", 0),
        "versions": {"torch": torch.__version__.split("+")[0], "monai": monai.__version__},
        **({"started_from": before} if before else {}),
    }
    with staged(metadata) as place:
        place.write_text(json.dumps(facts, indent=4) + "\n")
