# SPDX-License-Identifier: Apache-2.0
"""MONAI Label's HTTP interface in this process, an app with small networks, and phantoms to denoise."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
from monai.transforms import Orientation

SIGMA = 80.0
FEATURES = {"n2v_denoise_2d": [8, 8, 16, 16, 32, 8], "n2v_denoise_3d": [8, 8, 16, 16, 32, 8]}


def phantom_3d(seed: int, shape: tuple[int, ...] = (48, 48, 32)) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball and a few tubes in a dim box; without and with white noise; float32."""
    rng = np.random.default_rng(seed)
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    center = rng.uniform(-0.25, 0.25, 3)
    clean = np.full(shape, 100.0)
    clean[(np.abs(place) < 0.85).all(axis=0)] = 300
    clean[((place - center[:, None, None, None]) ** 2).sum(axis=0) < 0.45**2] = 600
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        offset = rng.uniform(-0.6, 0.6, 2)
        near = (place[others[0]] - offset[0]) ** 2 + (place[others[1]] - offset[1]) ** 2 < 0.1**2
        clean[near] = 450
    noisy = clean + rng.normal(0, SIGMA, shape)
    return clean.astype(np.float32), noisy.astype(np.float32)


AFFINE = np.array([[-1.2, 0.1, 0, 10], [0.1, 1.2, 0, -20], [0, 0, 2.5, 5], [0, 0, 0, 1]], dtype=float)


def psnr(output: np.ndarray, clean: np.ndarray) -> float:
    return float(10 * np.log10(600**2 / np.mean((output.astype(np.float64) - clean) ** 2)))


def make_small(app_dir: Path) -> None:
    """Give the bundles of an app networks that train in seconds."""
    for name, features in FEATURES.items():
        for config in ("train.json", "inference.json"):
            path = app_dir / "model" / name / "configs" / config
            content = json.loads(path.read_text())
            content["features"] = features
            if config == "train.json":
                content |= {"epoch_length": 10, "val_length": 1, "batch_size": 2, "ema": 0}
                content |= {"lr": 0.002, "grad_clip": 0.1}  # from random weights: it is not the prior's network
            path.write_text(json.dumps(content, indent=4))


def make_studies(folder: Path, n: int = 3) -> Path:
    folder.mkdir()
    for k in range(n):
        nibabel.save(nibabel.Nifti1Image(phantom_3d(k)[1], AFFINE), folder / f"phantom_{k}.nii.gz")
    return folder


class Server:
    """MONAI Label's own HTTP interface to an app, in this process."""

    def __init__(self, app_dir: Path, studies: Path | str, conf: dict[str, str] | None = None) -> None:
        from fastapi.testclient import TestClient
        from monailabel.config import settings
        from monailabel.interfaces.utils.app import app_instance, clear_cache

        settings.MONAI_LABEL_APP_DIR = str(app_dir)
        settings.MONAI_LABEL_STUDIES = str(studies)
        settings.MONAI_LABEL_APP_CONF = conf or {}
        settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD = False
        for key in ("APP_DIR", "STUDIES", "APP_CONF"):  # for tasks that run in processes of their own
            value = getattr(settings, f"MONAI_LABEL_{key}")
            os.environ[f"MONAI_LABEL_{key}"] = json.dumps(value) if isinstance(value, dict) else value
        os.environ.setdefault("PYTHONPATH", os.pathsep.join(sys.path[:1]))
        clear_cache()
        self.app_dir, self.studies = app_dir, studies
        self.instance = app_instance()
        self.instance.server_mode(True)
        from monailabel.app import app

        self.client = TestClient(app)  # without its lifespan, whose timer would outlive the test

    def infer(self, model: str, image: str, output: str = "image", **params):
        return self.client.post(f"/infer/{model}?image={image}&output={output}", data={"params": json.dumps(params)})

    def train(self, model: str, **params):
        return self.client.post(f"/train/{model}?run_sync=true", json=params)

    def batch(self, model: str, images: str = "all", **params):
        return self.client.post(f"/batch/infer/{model}?images={images}&run_sync=true", json=params)

    def voxels(self, answer, suffix: str = ".nii.gz") -> nibabel.Nifti1Image:
        assert answer.status_code == 200, answer.text
        path = Path(str(self.studies)).parent / f"answer{suffix}"
        path.write_bytes(answer.content)
        image = nibabel.load(path)
        return nibabel.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header)


def end(process: subprocess.Popen) -> None:
    """End a server, by force where it does not go."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(20)


def add_segmenter(app_dir: Path, name: str = "toy_segmentation", threshold: float = 525.0) -> None:
    """A bundle that segments what is brighter than a threshold, turned to RAS and back as real ones do."""
    import torch

    bundle = app_dir / "model" / name
    (bundle / "configs").mkdir(parents=True)
    (bundle / "models").mkdir(exist_ok=True)
    turned = {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"}
    if "labels" in inspect.signature(Orientation).parameters:  # newer MONAI asks for it
        turned["labels"] = [["L", "R"], ["P", "A"], ["I", "S"]]
    inference = {
        "bundle_root": ".",
        "device": "$torch.device('cpu')",
        "network_def": {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 1, "kernel_size": 1},
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                turned,
                {"_target_": "EnsureTyped", "keys": "image"},
            ],
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"},
                {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.0},
            ],
        },
    }
    (bundle / "configs" / "inference.json").write_text(json.dumps(inference, indent=4))
    side = {"num_channels": 1, "spatial_shape": [8, 8, 8]}
    channels = {
        "inputs": {"image": side},
        "outputs": {"pred": {**side, "channel_def": {"0": "background", "1": "ball"}}},
    }
    metadata = {"version": "0.1.0", "description": "a threshold", "network_data_format": channels}
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata, indent=4))
    weights = {"weight": torch.ones(1, 1, 1, 1, 1), "bias": torch.tensor([-threshold])}
    torch.save(weights, bundle / "models" / "model.pt")


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (mask.astype(bool) & truth).sum() / (mask.astype(bool).sum() + truth.sum()))
