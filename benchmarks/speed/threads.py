# SPDX-License-Identifier: Apache-2.0
"""What two threads cost and gain beside other programs, with threads that wait in a loop and with those that sleep.

``python -m benchmarks.speed.threads`` starts a process for each number of busy processes and each way to wait. In it
steps of the bundle's network in 3D by one thread and by two take turns. Reported is how long those by two took, as a
multiple of those by one: 0.5 is the best that two can do. The ratios are of sums, since a user waits for the sum. The
waiting is that of the command line (`monai_n2v.cli.threads`) or OpenMP's own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.common import save

SETUP = {
    "OpenMP's own": "import torch\n",
    "the command line's": "from monai_n2v.cli.threads import considerate_threads\n"
    "with considerate_threads():\n    import torch\n",
}
STEPS = """
import json, sys, time
from monai_n2v.networks import ReplicateUNet
side, n_rounds = int(sys.argv[1]), int(sys.argv[2])
network = ReplicateUNet(3, 1, 1, features=(16, 16, 32, 64, 128, 16), norm=None).to(memory_format=torch.channels_last_3d)
image, seconds = torch.rand(1, 1, side, side, side), {1: 0.0, 2: 0.0}
for number in range(n_rounds + 1):
    for n in seconds:
        torch.set_num_threads(n)
        started = time.perf_counter()
        network(image).square().mean().backward()
        seconds[n] += (time.perf_counter() - started) * (number > 0)  # the first warms up
print(json.dumps(seconds[2] / seconds[1]))
"""
_ABOUT_THREADS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@contextlib.contextmanager
def busy(n: int) -> Iterator[None]:
    """Processes that do nothing but take a core each."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busy", type=int, nargs="*", default=[0, 1, 3])
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=3, help="of each kind, in turns")
    arguments = parser.parse_args()
    environment = {name: value for name, value in os.environ.items() if name not in _ABOUT_THREADS}
    rows = []
    for n_busy in arguments.busy:
        found: dict[str, list[float]] = {name: [] for name in SETUP}
        for _ in range(arguments.processes):
            for name, setup in SETUP.items():
                command = [sys.executable, "-c", setup + STEPS, str(arguments.side), str(arguments.rounds)]
                with busy(n_busy):
                    text = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
                found[name].append(round(json.loads(text), 2))
        for name, ratios in found.items():
            row = {"busy": n_busy, "waiting": name, "ratio": statistics.median(ratios), "ratios": ratios}
            rows.append(row)
            print(row, flush=True)
    save("threads", {"side": arguments.side, "load": os.getloadavg()[0], "rows": rows})


if __name__ == "__main__":
    main()
