# SPDX-License-Identifier: Apache-2.0
"""What the bundles' pages show: a picture, a curve of their own training, memory, minutes and scores.

``python -m benchmarks.bundles measure`` trains each bundle by its own ``train.json`` on a public image and follows loss
and PSNR; memory is the peak of a process of its own. Rows go to ``results/bundles.json``.
``python -m benchmarks.bundles write`` needs no data: it draws ``bundles/*/docs/*.png``, and writes the tables of the
pages and ``eval_metrics`` of the metadata from that file and from ``results/prior.json``: run it after these change.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ROOT, load, save

_ROWS = {
    3: ("Colin27, sigma 4", "Colin27, sigma 8", "Colin27, sigma 12"),
    2: ("M4Raw T1", "M4Raw T2", "Set12, sigma 25"),
}
_WAYS = ("prior", "adapted")
_TASKS = {3: "the crop of Colin27 with noise of 12", 2: "Set12 with noise of 25"}
_IMAGES = {
    3: "A crop of 96 x 96 x 96 voxels of Colin27, an MR volume, with white noise of the named standard deviation.",
    2: "M4Raw is a real MR scan of 18 slices, scored by its repeats; Set12 are 12 images with white noise.",
}
_PART = re.compile(r"(<!-- measured -->\n).*?(<!-- end -->)", re.DOTALL)


def bundle(spatial_dims: int) -> Path:
    """The bundle's folder in the checkout."""
    return ROOT / "bundles" / f"n2v_denoise_{spatial_dims}d"


def train(spatial_dims: int, epochs: int, epoch_length: int) -> dict[str, Any]:
    """Train by the bundle's ``train.json`` and follow it; all else is the bundle's own."""
    from ignite.engine import Events

    from benchmarks.tasks import TASKS
    from monai_n2v.bundle.run import Denoiser, _initialized, untouched_process
    from monai_n2v.bundle.trained import TrainedNetwork, prior_network
    from monai_n2v.transforms.files import as_meta_tensor

    task = TASKS["colin27" if spatial_dims == 3 else "set12"]()
    images = [as_meta_tensor(image[None], [1.0] * spatial_dims) for image in task.noisy]
    prior = prior_network(spatial_dims)

    def score(weights: Path) -> float:
        network = TrainedNetwork(prior.bundle, weights, spatial_dims, prior.keys)
        denoiser = Denoiser(network, overlays=(), wiener=0)
        return round(task.score([denoiser(image)[0] for image in images]), 2)

    found: dict[str, Any] = {"task": task.name, "epochs": epochs, "epoch_length": epoch_length, "psnr": []}
    found |= {"psnr_noisy": round(task.score(task.noisy), 2), "train_loss": [], "val_loss": []}
    with tempfile.TemporaryDirectory() as folder, untouched_process():
        data = [{"image": image} for image in images]
        entries = {"output_dir": folder, "save_config": False, "train#dataset#data": data}
        entries |= {"validate#dataset#data": data, "epochs": epochs, "epoch_length": epoch_length}
        workflow = _initialized("train", bundle(spatial_dims), (), entries)
        trainer, weights = workflow.get("train#trainer"), Path(folder) / "models" / "model.pt"
        validator = workflow.get("validate#evaluator")
        found["psnr"].append(score(prior.weights))

        def follow() -> None:
            found["train_loss"].append(round(float(trainer.state.metrics["train_loss"]), 4))
            found["val_loss"].append(round(float(validator.state.metrics["val_loss"]), 4))
            weights.parent.mkdir(exist_ok=True)
            import torch

            torch.save(workflow.get("averaged").network.state_dict(), weights)
            found["psnr"].append(score(weights))
            print(spatial_dims, trainer.state.epoch, found["val_loss"][-1], found["psnr"][-1], flush=True)

        trainer.add_event_handler(Events.EPOCH_COMPLETED, follow)
        workflow.run()
        workflow.finalize()
    return found


def peak_gib(*arguments: str) -> float:
    """Peak memory of a command of this module in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bundles", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def _use_memory(what: str, spatial_dims: int) -> None:
    """Train one step, or denoise, and print the peak of this process."""
    from benchmarks.tasks import colin27_crop
    from monai_n2v.bundle.run import Denoiser, train
    from monai_n2v.bundle.trained import prior_network
    from monai_n2v.transforms.files import as_meta_tensor

    image = as_meta_tensor(colin27_crop((slice(None),) * 3)[1][None], [1.0] * 3)
    if what == "train":
        with tempfile.TemporaryDirectory() as folder:
            data = [{"image": image}]
            own = {"validate#dataset#data": data, "val_length": 1, "epochs": 1, "epoch_length": 2}
            train(bundle(spatial_dims), data, Path(folder), **own)
    elif what == "denoise":
        Denoiser(prior_network(spatial_dims))(image)
    print(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2))


def metrics(spatial_dims: int) -> dict[str, float]:
    """``eval_metrics`` of the metadata: PSNR in dB by image and way."""
    rows = (load("prior") or {"rows": []})["rows"]
    return {
        f"PSNR of {row['image']}, {row['method']}": row["psnr"]
        for name in _ROWS[spatial_dims]
        for way in _WAYS
        for row in rows
        if (row["image"], row["method"]) == (name, way)
    }


def table(spatial_dims: int) -> str:
    """The measured part of a bundle's page."""
    prior, own = load("prior"), load("bundles")
    assert prior is not None
    assert own is not None
    by = {(row["image"], row["method"]): row for row in prior["rows"]}
    lines = ["| image | prior alone | prior, then trained on the image |", "| --- | --- | --- |"]
    for name in _ROWS[spatial_dims]:
        cells = [f"{by[name, way]['psnr']:.2f} dB, {by[name, way]['seconds']:.0f} s" for way in _WAYS]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    curve, memory = own["curves"][str(spatial_dims)], own["memory"][str(spatial_dims)]
    n_steps = curve["epochs"] * curve["epoch_length"]
    paragraphs = [
        f"PSNR, and seconds of the whole call of `monai-n2v denoise` on {prior['threads']} thread of a CPU "
        f"({prior['machine']['cpu']}). {_IMAGES[spatial_dims]} The training is that of the command line, which chooses "
        "by the noise what it learns from, in a few hundred steps.",
        "\n".join(lines),
        f"Memory of the whole process on a CPU: {memory['train']:.1f} GiB in training, {memory['denoise']:.1f} GiB to "
        f"denoise a volume of 181 x 217 x 181 voxels. The program itself takes {memory['program']:.1f} GiB of either.",
        f"The first {n_steps} steps of `train.json`, from the prior, {curve['epoch_length']} to the epoch, on "
        f"{_TASKS[spatial_dims]} ({curve['psnr_noisy']:.1f} dB):",
        "![Loss and PSNR by epoch](curve.png)",
        _verdict(curve),
    ]
    return "\n\n".join(text if "|" in text else textwrap.fill(text, 120) for text in paragraphs) + "\n"


def _verdict(curve: dict[str, Any]) -> str:
    """What the curve says, in words."""
    first, last = curve["psnr"][0], curve["psnr"][-1]
    change = f"{abs(last - first):.1f} dB {'above' if last > first else 'below'} the prior's {first:.1f} dB"
    falls = " The loss falls all the same: it tells how well blind spots are guessed." if last < first else ""
    return (
        f"After these, the PSNR of the network alone is {change}.{falls} Look at scores and pictures, not at the loss."
    )


def _picture(spatial_dims: int) -> None:
    """The middle slice of the scan that ships inside nibabel, by the prior."""
    import nibabel

    from benchmarks.paper.pictures import panels
    from monai_n2v.apps.denoise import denoise_image
    from monai_n2v.bundle.options import TrainingOptions
    from monai_n2v.io.images import read_volume

    volume = read_volume(Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz")
    denoised = denoise_image(volume, training=TrainingOptions(scheme="prior", spatial_dims=spatial_dims))[0]
    middle = volume.data.shape[-1] // 2
    noisy, result = (np.rot90(values[0, 12:116, :, middle]) for values in (volume.data, denoised))
    shown = {"noisy": noisy, "denoised": result, "removed": noisy - result}
    limit = 3 * float((noisy - result).std())
    panels("denoised", shown, (0.0, float(np.quantile(noisy, 0.998))), limit, bundle(spatial_dims) / "docs")


def _plot(spatial_dims: int) -> None:
    """Loss and PSNR by epoch."""
    import matplotlib.pyplot as plt
    from PIL import Image

    results = load("bundles")
    assert results is not None
    curve = results["curves"][str(spatial_dims)]
    epochs = range(1, curve["epochs"] + 1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.4), layout="constrained")
    left.plot(epochs, curve["train_loss"], color="0.6", label="training")
    left.plot(epochs, curve["val_loss"], color="C0", label="validation")
    left.set(xlabel="epoch", ylabel="loss over blind spots")
    left.legend(frameon=False, fontsize=8)
    right.plot(range(curve["epochs"] + 1), curve["psnr"], color="C0")
    right.set(xlabel="epoch; 0 is the prior", ylabel="PSNR / dB")
    path = bundle(spatial_dims) / "docs" / "curve.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


def write(spatial_dims: int) -> None:
    """Write the measured parts of a bundle: pictures, page, metadata."""
    _picture(spatial_dims)
    _plot(spatial_dims)
    page = bundle(spatial_dims) / "docs" / "README.md"
    page.write_text(_PART.sub(lambda found: found[1] + table(spatial_dims) + found[2], page.read_text()))
    facts = bundle(spatial_dims) / "configs" / "metadata.json"
    content = json.loads(facts.read_text()) | {"eval_metrics": metrics(spatial_dims)}
    facts.write_text(json.dumps(content, indent=4) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("measure", "write", "train", "denoise", "program"))
    parser.add_argument("--dims", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--epoch-length", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.what in ("train", "denoise", "program"):
        _use_memory(arguments.what, arguments.dims[0])
        return
    if arguments.what == "measure":
        import torch

        torch.set_num_threads(arguments.threads)
        for dims in arguments.dims:
            known = load("bundles") or {"curves": {}, "memory": {}}
            known["memory"][str(dims)] = {
                what: peak_gib(what, "--dims", str(dims)) for what in ("train", "denoise", "program")
            }
            known["curves"][str(dims)] = train(dims, arguments.epochs, arguments.epoch_length)
            save("bundles", {key: known[key] for key in ("curves", "memory")})
        return
    for dims in arguments.dims:
        write(dims)


if __name__ == "__main__":
    main()
