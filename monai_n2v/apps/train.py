# SPDX-License-Identifier: Apache-2.0
"""Training a network on noisy images, into a bundle that stands on its own."""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser

from monai_n2v.apps.choose import Choice, choose, starts_from_prior
from monai_n2v.apps.inspect import NoisyImage
from monai_n2v.apps.judge import Verdict
from monai_n2v.bundle.options import TrainingOptions
from monai_n2v.bundle.resources import PRIOR, bundle_name, find_bundle, find_config
from monai_n2v.bundle.run import train, untouched_process
from monai_n2v.bundle.settings import check_settings
from monai_n2v.bundle.trained import UNFINISHED, TrainedNetwork, resolve_model
from monai_n2v.io.atomic import scratch
from monai_n2v.io.lock import locked
from monai_n2v.io.volume import where
from monai_n2v.transforms.axes import MIN_DEPTH, slice_axis
from monai_n2v.transforms.footprints import smallest_radius

logger = logging.getLogger(__name__)

_FEW_STEPS = 50
_RADIUS = 1  # of the bundles' blind spots
_SCHEMES = {
    "n2v": "Noise2Void's blind spots",
    "recorrupted": "recorrupted images",
    "renoised": "the prior's result with noise of the measured kind",
    "prior": "the prior alone",
}


def train_network(
    images: Sequence[NoisyImage], folder: Path, options: TrainingOptions
) -> tuple[TrainedNetwork, dict[str, Any]]:
    """Train one network on all images and leave it in a bundle that stands on its own.

    Args:
        images: what to learn from.
        folder: becomes the bundle: configs with the settings of this training, metadata with a summary of the data,
            ``models/model.pt``.
        options: length and kind of the training.

    Returns:
        the network, and a record of the run.

    Raises:
        ValueError: where a 3D network is asked for images, a setting has an unknown key, or scheme, footprint or
            patch size do not fit the network.
        FileNotFoundError: where there is nothing to resume.
        FileExistsError: where another process trains into the folder.
    """
    check_settings(options.settings, parts=True)
    with locked(folder):
        return _train_into(folder, images, options)


def _train_into(
    folder: Path, images: Sequence[NoisyImage], options: TrainingOptions
) -> tuple[TrainedNetwork, dict[str, Any]]:
    with untouched_process():
        choice = choose(images, options)
    spatial_dims = choice.spatial_dims
    patch_size = options.settings.get("patch_size")
    if isinstance(patch_size, list) and len(patch_size) != spatial_dims:
        raise ValueError(
            f"patch_size must have {spatial_dims} sides for a {spatial_dims}D network, got {patch_size}. "
            "Give it one side per axis."
        )
    if options.spatial_dims is None and spatial_dims == 2:
        _tell_of_slices(images)
    started = time.perf_counter()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch(folder.parent) as made:
        _write_bundle(made, spatial_dims, images, options, choice.scheme)
        record = _train(made, folder, images, options, choice)
        configs = [made / "configs" / name for name in ("train.json", "inference.json")]
        record["config_sha256"] = hashlib.sha256(b"".join(path.read_bytes() for path in configs)).hexdigest()
        # A network that was in the folder stays whole until the new one is. In between it is marked: its weights would
        # run with the settings of another.
        (folder / UNFINISHED).touch()
        for part in sorted(path for path in made.rglob("*") if path.is_file()):
            (folder / part.relative_to(made)).parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, folder / part.relative_to(made))
        (folder / UNFINISHED).unlink()
    record |= {"training_seconds": round(time.perf_counter() - started, 1), "seed": options.seed}
    from_scratch = not starts_from_prior(options)
    if from_scratch and options.max_time is not None and record["steps"] < _FEW_STEPS:
        logger.warning(
            "Only %d steps of training fitted into %g s, which is too few: the result is blurred or false. "
            "Give it more time.",
            record["steps"], options.max_time,
        )  # fmt: skip
    if options.settings:
        record["settings"] = dict(options.settings)
    if options.noise_map is not None:
        record["given_noise_map"] = options.noise_map.path
    return resolve_model(folder), record


def _tell_of_slices(images: Sequence[NoisyImage]) -> None:
    """Say why volumes that a 3D network suits get a 2D one."""
    flat = [image for image in images if len(image.shape) == 3 or min(image.shape[1:]) < MIN_DEPTH]
    if flat and len(flat) < len(images):
        logger.warning(
            "All volumes are denoised slice by slice, since one network is to serve them and %s. "
            "Choose with --pattern, or use --per-image.",
            flat[0].name or "an image",
        )


def _train(
    bundle: Path, folder: Path, images: Sequence[NoisyImage], options: TrainingOptions, choice: Choice
) -> dict[str, Any]:
    """Train the network of ``bundle``; its weights go there, checkpoints into ``folder``."""
    weights, prior = bundle / "models" / "model.pt", bundle / PRIOR
    logger.info("%s, %s: %s.", f"{choice.spatial_dims}D", _SCHEMES[choice.scheme], choice.reason)
    record: dict[str, Any] = {"scheme": choice.scheme, "epochs": 0, "epoch_length": 0, "steps": 0, "losses": []}
    if choice.scheme == "prior":
        shutil.copyfile(prior, weights)
        # What is denoised together is filtered whole, whatever the weight.
        judge = None if choice.judge is None or choice.judge.of_components else choice.judge
        _keep_weight(bundle, None if judge is None else judge.prior, record)
        return record
    overlays = [*([] if choice.scheme == "n2v" else [f"{choice.scheme}.json"]), "anneal.json"]
    # Those of train.json stand there already; what remains of the settings is for the overlays.
    known = {key for name in overlays for key in json.loads(find_config(name).read_text())}
    more = {key: value for key, value in options.settings.items() if key in known}
    if options.epochs is not None:
        more["epochs"] = options.epochs
    record |= train(
        bundle,
        [{"image": image.image, "series": image.series} for image in images],
        folder,
        overlays,
        ckpt_path=str(weights),
        device=f"$torch.device('{options.device}')",
        seed=options.seed,
        max_time=options.max_time,
        noise_map=options.noise_map,
        progress=options.progress,
        checkpoints=options.checkpoints,
        resume=options.resume,
        **more,
    )
    if choice.judge is None:
        return record
    with untouched_process():
        verdict = choice.judge.trained(resolve_model(bundle))
    if verdict.error >= choice.judge.prior.error:
        logger.info("By the noisy image itself, the prior alone is better than what was trained: it is kept.")
        shutil.copyfile(prior, weights)
        record["scheme"] = "prior"
        verdict = choice.judge.prior
    _keep_weight(bundle, verdict, record)
    return record


def _keep_weight(bundle: Path, verdict: Verdict | None, record: dict[str, Any]) -> None:
    """Write the weight of the Wiener filter that suits the images into a bundle."""
    if verdict is None:
        return
    logger.info("By the noisy image itself, the Wiener filter gets the weight %g.", verdict.weight)
    record["wiener"] = verdict.weight
    for name in ("inference.json", "evaluate.json"):
        path = bundle / "configs" / name
        path.write_text(json.dumps({**json.loads(path.read_text()), "wiener": verdict.weight}, indent=4) + "\n")


def _turn_footprint(footprint: np.ndarray, images: Sequence[NoisyImage], spatial_dims: int) -> list[Any]:
    """Turn a footprint as `ShortestAxisLastd` turns the images; a 2D network sees its middle slice."""
    seen: list[list[Any]] = []
    for image in images:
        n_axes = len(image.shape) - 1
        if footprint.ndim != n_axes:
            raise ValueError(
                f"footprint must have {n_axes} axes like the image, got {footprint.ndim}{where(image.name)}. "
                "Give it one side per axis."
            )
        turned = np.moveaxis(footprint, slice_axis(image.shape[1:], spatial_dims), -1)
        turned = turned if spatial_dims == n_axes else turned[..., turned.shape[-1] // 2]
        if turned.size == 1 and footprint.size > 1:
            raise ValueError(
                f"footprint must lie in the slices of a 2D network, got one across them{where(image.name)}. "
                "Slices are denoised one by one: leave it out."
            )
        seen.append(turned.astype(int).tolist())
    if any(rows != seen[0] for rows in seen):
        raise ValueError(
            "footprint must lie alike in all images, got images sliced across different axes. Separate them."
        )
    return seen[0]


def _write_bundle(
    folder: Path, spatial_dims: int, images: Sequence[NoisyImage], options: TrainingOptions, scheme: str
) -> None:
    """Copy a bundle with overlays and settings in its configs; only entries that a config has are replaced in it."""
    bundle = find_bundle(bundle_name(spatial_dims))
    pages = sorted(f"docs/{path.name}" for path in (bundle / "docs").iterdir() if path.suffix in (".md", ".png"))
    for name in ("LICENSE", "configs/logging.conf", *pages, PRIOR):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle / name, folder / name)
    entries: dict[str, Any] = {"footprint": None, "volumes": options.volumes_for(scheme)}
    if not starts_from_prior(options):
        entries |= json.loads(find_config("from_scratch.json").read_text())
        del entries["_desc_"]
    entries |= options.settings
    if isinstance(options.footprint, np.ndarray):
        entries["footprint"] = _turn_footprint(options.footprint, images, spatial_dims)
        if "radius" not in options.settings:
            # The direct neighbors may all be hidden with a blind spot: then look further.
            entries["radius"] = smallest_radius(np.asarray(entries["footprint"], dtype=bool), _RADIUS)
    for path in sorted((bundle / "configs").glob("*.json")):
        if path.name == "metadata.json":
            continue
        parser = ConfigParser(json.loads(path.read_text()))
        config = parser.get()
        # Training in bfloat16 is no reason to predict in it.
        left_out = set() if path.name == "train.json" else {"amp"}
        for key, value in entries.items():
            if key.partition("#")[0] in config and key not in left_out:
                parser[key] = value
        (folder / "configs" / path.name).write_text(json.dumps(config, indent=4) + "\n")
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    metadata |= {"data_source": "the user's own noisy images", "eval_metrics": {}}  # those are of the prior
    metadata["network_data_format"]["inputs"]["image"]["num_channels"] = 1
    metadata["training_data"] = [_summary(image) for image in images]
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata, indent=4) + "\n")


def _summary(image: NoisyImage) -> Mapping[str, Any]:
    return {
        "shape": list(image.shape[1:]),
        "n_volumes": image.shape[0],
        "spacing_mm": [round(float(side), 6) for side in image.spacing],
        "mean": image.mean,
        "std": image.std,
    }
