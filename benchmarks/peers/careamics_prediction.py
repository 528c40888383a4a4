# SPDX-License-Identifier: Apache-2.0
"""The same network predicting the same image in CAREamics and in `AlignedTileInferer`, in turns.

Run it with the Python of an environment that has CAREamics, and this package without its dependencies
(``pip install --no-deps monai pytorch-ignite``; README.md beside it), from the repository's root:
``python -m benchmarks.peers.careamics_prediction --output FILE``. The network is CAREamics' own (depth 2, 32 features,
untrained), whose ``predict`` loads its checkpoint every time: a small image tells what that costs. It predicts the
whole image, and in tiles as its documentation proposes (overlap 48 in 2D); ours chooses.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.careamics_n2v import BATCHES, declare_missing_operators
from benchmarks.speed.overhead import interleaved

# Sides of the image, of CAREamics' tile, and its overlap.
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None, tuple[int, ...] | None]] = {
    "2D whole": ((1024, 1024), None, None),
    "2D tiles": ((1024, 1024), (256, 256), (48, 48)),
    "3D whole": ((96, 96, 96), None, None),
    "3D tiles": ((96, 96, 96), (64, 64, 64), (48, 48, 48)),
}


def main() -> None:
    declare_missing_operators()
    from careamics import CAREamist
    from careamics.config.factories.n2v_factory import create_n2v_config

    from monai_n2v.inferers.tiled import AlignedTileInferer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    rows = []
    for case, (size, tile, overlap) in CASES.items():
        dims = len(size)
        batch_size, patch_size = BATCHES[dims]
        axes = "YX" if dims == 2 else "ZYX"
        image = np.random.default_rng(0).normal(100, 20, size).astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            config = create_n2v_config("n2v", "array", axes, patch_size, batch_size, num_epochs=1, num_steps=1)
            program = CAREamist(config, work_dir=folder, enable_progress_bar=False)
            program.train(train_data=image)  # a step, so that it predicts at all
            program.trainer.save_checkpoint(f"{folder}/end.ckpt")
            network = program.model.model.eval()
            inferer = AlignedTileInferer(dims, halo=24, divisor=4)
            options: dict[str, Any] = {"checkpoint": f"{folder}/end.ckpt", "batch_size": 1}
            if tile is not None:
                options |= {"tile_size": tile, "tile_overlap": overlap}

            def theirs(program: Any = program, image: np.ndarray = image, options: dict[str, Any] = options) -> None:
                program.predict(image, **options)

            def ours(inferer: Any = inferer, image: np.ndarray = image, network: Any = network) -> None:
                tensor = torch.from_numpy(image)[None, None]
                with torch.inference_mode():
                    mean, std = tensor.mean(), tensor.std()
                    inferer((tensor - mean) / std, network) * std + mean

            corner = image[(slice(0, 64),) * dims]
            fixed = {"batch_size": 1, "checkpoint": options["checkpoint"]}
            functions: list[Callable[[], None]] = [
                theirs,
                ours,
                lambda program=program, corner=corner, fixed=fixed: theirs(program, corner, fixed),
            ]  # fmt: skip
            seconds = interleaved(functions, arguments.rounds)
        rows.append(
            {
                "case": case,
                "image": size,
                "careamics_tile": tile,
                "careamics_seconds": round(float(np.median(seconds[:, 0])), 3),
                "careamics_seconds_for_64": round(float(np.median(seconds[:, 2])), 3),
                "our_seconds": round(float(np.median(seconds[:, 1])), 3),
                "ratio": round(float(np.median(seconds[:, 0] / seconds[:, 1])), 2),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    result = {"program": f"careamics {version('careamics')}", "torch": torch.__version__, "rows": rows}
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
