# SPDX-License-Identifier: Apache-2.0
"""What a whole prediction holds of a volume, as the system counts it: one step of the road after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from monai_n2v.io.memory import _BYTES_PER_VOXEL

# In a process of its own, where what is taken at a time is made small beside the volume. The network, whose memory has
# its own budget, is replaced by a product.
PROCESS = """
import json, sys
import nibabel, numpy as np, torch
torch.set_num_threads(1)
import monai_n2v.transforms as transforms
from monai_n2v.transforms import intensity, noise_parts, wiener
from monai_n2v.bundle.run import Denoiser
from monai_n2v.bundle.trained import prior_network
from monai_n2v.inferers import AlignedTileInferer

def status(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024

def measured(kind):
    call = kind.__call__
    def counted(self, *args, **kwargs):
        open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
        result = call(self, *args, **kwargs)
        peaks[kind.__name__] = max(peaks.get(kind.__name__, 0), (status("VmHWM") - before) / volume)
        return result
    kind.__call__ = counted

folder, shape = sys.argv[1], (192, 176, 160)
volume, before, peaks = 4 * np.prod(shape), 0, {}
intensity._MAX_AT_A_TIME, wiener._MAX_VOXELS, wiener._MAX_AT_A_TIME = 2**16, 2**19, 2**16
noise_parts._MAX_VOXELS = noise_parts._FEW_VOXELS = 2**15
AlignedTileInferer.__call__ = lambda self, images, *args, **kwargs: images * 0.9
for name in ("LoadNoisyd", "StandardizeIntensityd", "WienerFilterd", "RestoreIntensityd", "RestorePaddingd",
             "RemoveMagnitudeBiasd", "SaveDenoisedd"):
    measured(getattr(transforms, name))
measured(AlignedTileInferer)

def write(name, shape):
    x, y = (np.linspace(-1, 1, n)[:, None, None] if i == 0 else np.linspace(-1, 1, n)[:, None]
            for i, n in enumerate(shape[:2]))
    image = 40.0 + np.random.default_rng(0).normal(0, 30, shape)
    image[np.broadcast_to(x**2 + y**2 > 1, shape)] = -1000
    nibabel.save(nibabel.Nifti1Image(image.astype(np.int16), np.eye(4)), f"{folder}/{name}.nii")

write("small", (24, 24, 24)), write("large", shape)
denoiser = Denoiser(prior_network(3))
for name in ("small", "large"):
    before = status("VmRSS")
    peaks.clear()
    denoiser.run([{"image": f"{folder}/{name}.nii", "target": f"{folder}/{name}_out.nii"}], lambda item, outcome: None)
peaks["kept"] = (status("VmRSS") - before) / volume
print(json.dumps(peaks))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux counts peaks")
def test_no_step_of_a_prediction_holds_more_volumes_than_promised(tmp_path):
    # Memory that is let go goes back at once, so that what is counted is what is held.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**16), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert found.returncode == 0, found.stderr
    peaks = json.loads(found.stdout.splitlines()[-1])
    assert len(peaks) == 9
    promised = _BYTES_PER_VOXEL / 4
    assert max(peaks.values()) < promised + 0.5, peaks
    assert peaks["LoadNoisyd"] < 2.5, peaks
    assert peaks["AlignedTileInferer"] < 3.5, peaks
    assert peaks["kept"] < 0.5 + 1, "the result alone may be"
