# SPDX-License-Identifier: Apache-2.0
"""Thousands of damaged files of every format: a sentence or the right voxels, never a crash, a hang or other voxels.

The worker runs in a process of its own, so that a crash or a hang of a native library is seen and told of.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import FORMATS, dicom_series, enhanced_image, oblique_affine

# Formats whose voxels are covered by a checksum, or where any change of their number shows in the file's size.
SUMMED = {"nifti", "nrrd", "mha", "png"}
SHAPE = (6, 5, 4)

WORKER = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from monai_n2v.io.images import read_volume
from monai_n2v.io.volume import Refusal
for line in sys.stdin:
    path = line.rstrip("\\n")
    try:
        volume = read_volume(path)
        answer = {"shape": volume.data.shape, "values": np.nan_to_num(volume.data).ravel().tolist(),
                  "sides": [float(side) for side in volume.spacing]}
    except (ValueError, OSError) as error:
        answer = {"error": str(error)}
    except BaseException as error:
        answer = {"crash": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
"""


def make_samples(folder: Path) -> dict[str, Path]:
    """A tiny file of every format; of a series, the folder."""
    rng = np.random.default_rng(0)
    paths = {}
    for name, (suffix, write, types, dims) in FORMATS.items():
        shape = SHAPE[: min(3, max(dims))]
        kind = next(one for one in types if np.dtype(one).kind in "iu")
        paths[name] = folder / name.replace(" ", "_") / f"x{suffix}"
        paths[name].parent.mkdir(parents=True)
        write(paths[name], rng.integers(0, 99, shape).astype(kind), oblique_affine())
    dicom_series(folder / "dicom", rng.integers(0, 99, SHAPE).astype(np.int16), oblique_affine())
    enhanced_image(folder / "enhanced" / "IM1", rng.integers(0, 99, (*SHAPE, 1)).astype(np.uint16), oblique_affine())
    return {**paths, "dicom": folder / "dicom", "enhanced": folder / "enhanced"}


def mutate(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """One of the things that happen to files: a bit, a byte, a number, a hole, an end, a text."""
    kind = str(rng.choice(["bit", "byte", "number", "zeros", "cut", "longer", "swap", "text"]))
    data = bytearray(content)
    # Headers are short: half of all faults fall into the first 600 bytes.
    place = int(rng.integers(min(len(data), 600) if rng.random() < 0.5 else len(data)))
    if kind == "bit":
        data[place] ^= 1 << int(rng.integers(8))
    elif kind == "byte":
        data[place] = int(rng.integers(256))
    elif kind == "number":
        extreme = rng.choice([0, 1, -1, 2**31 - 1, -(2**31), 65535, 2**30]).astype("<i4").tobytes()
        data[place : place + 4] = extreme[: len(data[place : place + 4])]
    elif kind == "zeros":
        n = int(rng.integers(1, 64))
        data[place : place + n] = bytes(len(data[place : place + n]))
    elif kind == "cut":
        del data[place:]
    elif kind == "longer":
        data += rng.integers(0, 256, int(rng.integers(1, 64)), dtype=np.uint8).tobytes()
    elif kind == "swap":
        other = int(rng.integers(len(data)))
        data[place], data[other] = data[other], data[place]
    else:
        text = str(rng.choice(["nan", "-1", "1e999", "0", "99999999999", "\xff\xfe", "%s", "../x"])).encode("latin-1")
        data[place : place + len(text)] = text
    return kind, bytes(data)


class Worker:
    """A process that reads files and tells what it found; started anew after a crash."""

    def __init__(self) -> None:
        self.process = None

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                pipe.close()

    def read(self, path: Path, seconds: float = 60) -> dict:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
        import threading

        alarm = threading.Timer(seconds, self.process.kill)
        alarm.start()
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        alarm.cancel()
        if line:
            return json.loads(line)
        code = self.process.wait()
        self.__exit__()
        self.process = None
        return {"crash": f"the reader ended with {code}"}


def check_cases(folder: Path, n_cases: int, seed: int) -> list[str]:
    """Read mutated files; returns what went wrong, each with what repeats it."""
    rng = np.random.default_rng(seed)
    samples = make_samples(folder / "good")
    faults: list[str] = []
    with Worker() as worker:
        right = {name: worker.read(path) for name, path in samples.items()}
        assert all("values" in answer for answer in right.values()), right
        for case in range(n_cases):
            name = list(samples)[case % len(samples)]
            good = samples[name]
            files = sorted(path for path in (good.parent if good.is_file() else good).iterdir())
            broken = folder / f"case{case}"
            broken.mkdir()
            chosen = files[int(rng.integers(len(files)))]
            for path in files:
                kind, content = mutate(path.read_bytes(), rng) if path == chosen else ("", path.read_bytes())
                what = kind or what  # noqa: F821 - set when the chosen file's turn came
                (broken / path.name).write_bytes(content)
            answer = worker.read(broken / good.name if good.is_file() else broken)
            told = f"case {case} of seed {seed}, {name}, {what} in {chosen.name}"
            if "crash" in answer:
                faults.append(f"{told}: {answer['crash']}")
            elif "error" in answer and str(broken) not in answer["error"]:
                faults.append(f"{told}: names no file: {answer['error']}")
            elif "sides" in answer and not all(0 < side < float("inf") for side in answer["sides"]):
                faults.append(f"{told}: sides {answer['sides']}")
            elif "values" in answer and name in SUMMED and sorted(answer["values"]) != sorted(right[name]["values"]):
                faults.append(f"{told}: other voxels, shape {answer['shape']}")
            for path in broken.iterdir():
                path.unlink()
            broken.rmdir()
    return faults


def test_300_damaged_files_end_in_sentences(tmp_path):
    assert check_cases(tmp_path, 300, seed=0) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_5000_damaged_files_end_in_sentences(seed, tmp_path):
    assert check_cases(tmp_path, 1000, seed) == []
