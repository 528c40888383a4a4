# SPDX-License-Identifier: Apache-2.0
"""What the MONAI Label app does for a segmenter: a toy one, on a noisy brain, as it is and after denoising.

``python -m benchmarks.label``, with the Python of an environment that has MONAI Label (``docs/how-to/label.md``). Three
crops of Colin27 with white noise are the studies; the app trains on them without labels, through MONAI Label's own
interface, and all that is shown comes from its answers. The segmenter is a threshold between gray and white matter, so
what it makes of the clean volume is the truth.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import ROOT, save
from benchmarks.paper.pictures import panels
from benchmarks.tasks import colin27_crop, psnr

sys.path.insert(0, str(ROOT / "tests" / "label"))
sys.path.insert(0, str(ROOT))

SIGMA, THRESHOLD = 12.0, 100.0
CROPS = [(slice(40, 136), slice(start, start + 64), slice(60, 124)) for start in (40, 100, 150)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--epoch-length", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    import nibabel
    from serving import Server, add_segmenter, dice

    from monai_n2v.label.__main__ import make_app

    volumes = [colin27_crop(crop, SIGMA, seed=k) for k, crop in enumerate(CROPS)]
    with tempfile.TemporaryDirectory() as folder:
        app_dir, studies = make_app(Path(folder) / "app"), Path(folder) / "studies"
        add_segmenter(app_dir, "white_matter_segmentation", THRESHOLD)
        studies.mkdir()
        for k, (_, noisy) in enumerate(volumes):
            nibabel.save(nibabel.Nifti1Image(noisy, np.eye(4)), studies / f"brain_{k}.nii.gz")
        server = Server(app_dir, studies)
        started = time.perf_counter()
        training = {"max_epochs": arguments.epochs, "epoch_length": arguments.epoch_length, "device": "cpu"}
        answer = server.train("n2v_denoise_3d", **training)
        assert answer.status_code == 200, answer.text
        seconds = time.perf_counter() - started
        rows: list[dict[str, Any]] = []
        for k, (clean, noisy) in enumerate(volumes):
            image, truth, peak = f"brain_{k}", clean > THRESHOLD, float(clean.max())
            denoised = server.voxels(server.infer("n2v_denoise_3d", image)).get_fdata(dtype=np.float32)
            masks = [
                server.voxels(server.infer(model, image)).get_fdata() > 0
                for model in ("white_matter_segmentation", "white_matter_segmentation_after_n2v")
            ]
            rows.append(
                {
                    "image": image,
                    "psnr_noisy": round(psnr(noisy, clean, peak), 2),
                    "psnr_denoised": round(psnr(denoised, clean, peak), 2),
                    "dice_noisy": round(dice(masks[0], truth), 3),
                    "dice_after_n2v": round(dice(masks[1], truth), 3),
                }
            )
            print(rows[-1], flush=True)
            if k == 1:
                shown = {"noisy": noisy, "n2v_denoise_3d": denoised, "white_matter_segmentation": masks[0] * peak}
                shown["..._after_n2v"] = masks[1] * peak
                cut = {title: np.rot90(volume[:, :, 32]) for title, volume in shown.items()}
                panels("label", cut, (0, peak))
    steps = arguments.epochs * arguments.epoch_length
    save("label", {"sigma": SIGMA, "steps": steps, "training_seconds": round(seconds, 1), "rows": rows})


if __name__ == "__main__":
    main()
