# SPDX-License-Identifier: Apache-2.0
"""Train one denoising network on the noisy images of several sites, in NVIDIA FLARE's simulator.

``python examples/federated/simulate.py WORKSPACE FOLDER1 FOLDER2 ...``, one folder of noisy images per site. It needs
``nvflare`` and ``monai-nvflare``. The network goes to ``WORKSPACE/model.pt``, as ``--ckpt_path`` of the bundle's
``inference.json`` takes it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from monai.fl.client import MonaiAlgo
from monai_nvflare.client_algo_executor import ClientAlgoExecutor
from monai_nvflare.monai_bundle_persistor import MonaiBundlePersistor
from nvflare.apis.dxo import DataKind
from nvflare.app_common.aggregators.intime_accumulate_model_aggregator import InTimeAccumulateWeightedAggregator
from nvflare.app_common.shareablegenerators.full_model_shareable_generator import FullModelShareableGenerator
from nvflare.app_common.widgets.intime_model_selector import IntimeModelSelector
from nvflare.app_common.workflows.scatter_and_gather import ScatterAndGather
from nvflare.job_config.api import FedJob

from monai_n2v import find_bundle


def build(bundle: Path, folders: list[Path], workspace: Path, rounds: int, settings: dict[str, Any]) -> FedJob:
    """Describe server and sites; of a site, only weights and mean scores leave it."""
    job = FedJob(name="noise2void", min_clients=len(folders))
    controller = ScatterAndGather(
        min_clients=len(folders),
        num_rounds=rounds,
        aggregator_id=job.to_server(InTimeAccumulateWeightedAggregator(expected_data_kind=DataKind.WEIGHTS)),
        persistor_id=job.to_server(MonaiBundlePersistor(str(bundle)), id="persistor"),
        shareable_generator_id=job.to_server(FullModelShareableGenerator(), id="shareable_generator"),
    )
    job.to_server(controller)
    # Of losses the lowest is best.
    job.to_server(IntimeModelSelector(key_metric="val_loss", negate_key_metric=True))
    for number, folder in enumerate(folders, 1):
        site = f"site-{number}"
        own = {**settings, "dataset_dir": str(folder), "output_dir": str(workspace / "sites" / site), "seed": number}
        algo = MonaiAlgo(str(bundle), send_weight_diff=False, train_kwargs=own, eval_kwargs=dict(own))
        algo_id = job.to(algo, site, id="algo")
        job.to(ClientAlgoExecutor(algo_id, key_metric="val_loss"), site, tasks=["train", "validate", "submit_model"])
    return job


def main() -> None:
    """Run the simulation."""
    parser = argparse.ArgumentParser(description="Federated Noise2Void in NVIDIA FLARE's simulator.")
    parser.add_argument("workspace", type=Path, help="folder for everything")
    parser.add_argument("folders", type=Path, nargs="+", help="noisy images, one folder per site")
    parser.add_argument("--bundle", default="n2v_denoise_3d")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--epoch-length", type=int, default=100, help="steps of a site per round")
    arguments = parser.parse_args()
    workspace = arguments.workspace.resolve()
    folders = [folder.resolve() for folder in arguments.folders]
    # The server averages; a running average of one site's steps would be in the way.
    settings = {"epoch_length": arguments.epoch_length, "ema": 0}
    job = build(find_bundle(arguments.bundle), folders, workspace, arguments.rounds, settings)
    # A process per site: one that takes turns starts its epochs, and with them its patches, anew in every round.
    job.simulator_run(str(workspace / "flare"), threads=len(folders))
    saved = sorted((workspace / "flare").rglob("FL_global_model.pt"))
    if not saved:
        sys.exit("The simulation must leave FL_global_model.pt, got none. Read WORKSPACE/flare/server/log.txt.")
    torch.save(torch.load(saved[0], map_location="cpu", weights_only=True)["model"], workspace / "model.pt")
    print(workspace / "model.pt")  # noqa: T201 - the result of this program


if __name__ == "__main__":
    main()
