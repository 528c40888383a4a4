# SPDX-License-Identifier: Apache-2.0
"""A DICOMweb server of the tests' own: Orthanc, as Debian packages it (``orthanc`` and ``orthanc-dicomweb``)."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import CTImageStorage
from samples import dicom_series

from label.serving import end

PROGRAM = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
INTERCEPT = -1024


def why_not() -> str:
    """Why these tests cannot run here; empty where they can."""
    if PROGRAM is None or not PLUGIN.is_file():
        return "no Orthanc with DICOMweb: install the packages orthanc and orthanc-dicomweb"
    if shutil.which("itkimage2segimage") is None:  # without it, MONAI Label downloads it
        return "itkimage2segimage is not on the path: install dcmqi"
    return ""


class Orthanc:
    """Orthanc in a folder of its own. It speaks HTTP with this machine alone, and no DICOM.

    Debian's Orthanc 1.10 listens on all interfaces whatever its settings; it refuses what comes from elsewhere.

    Args:
        folder: for its images, settings and log; made here.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        settings = {
            "Name": "tests",
            "StorageDirectory": str(folder),
            "IndexDirectory": str(folder),
            "HttpPort": port,
            "HttpBindAddresses": ["127.0.0.1"],  # for later releases
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomServerEnabled": False,
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        self.root = f"http://127.0.0.1:{port}"
        self.url = f"{self.root}/dicom-web"
        self._log = (folder / "log").open("w")
        command = [str(PROGRAM), str(folder / "settings.json")]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        try:
            self._wait(folder / "log")
        except BaseException:
            self.stop()
            raise

    def _wait(self, log: Path) -> None:
        for _ in range(300):
            if self._process.poll() is not None:
                break
            try:
                self.get("/system")
            except urllib.error.URLError:
                time.sleep(0.1)
            else:
                return
        raise RuntimeError(f"Orthanc did not start: {log.read_text()[-2000:]}")

    def stop(self) -> None:
        end(self._process)
        self._log.close()

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.root + path, timeout=30) as answer:
            return answer.read()

    def upload(self, folder: Path) -> str:
        """Store the files of a series; returns its Series Instance UID."""
        paths = [path for path in sorted(folder.iterdir()) if path.read_bytes()[128:132] == b"DICM"]
        for path in paths:
            request = urllib.request.Request(f"{self.root}/instances", data=path.read_bytes(), method="POST")
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert json.load(answer)["Status"] == "Success"
        return str(pydicom.dcmread(paths[0]).SeriesInstanceUID)

    def series(self) -> dict[str, str]:
        """Orthanc's own name of every series, by Series Instance UID."""
        found = json.loads(self.get("/series?expand"))
        return {item["MainDicomTags"]["SeriesInstanceUID"]: item["ID"] for item in found}

    def files(self, series: str) -> list[bytes]:
        """The stored files of a series, byte by byte."""
        instances = json.loads(self.get(f"/series/{self.series()[series]}"))["Instances"]
        return [self.get(f"/instances/{instance}/file") for instance in sorted(instances)]

    def download(self, series: str, folder: Path) -> Path:
        folder.mkdir()
        for number, content in enumerate(self.files(series)):
            (folder / f"{number}.dcm").write_bytes(content)
        return folder


def ct_series(folder: Path, values: np.ndarray, affine: np.ndarray, **options) -> list[Path]:
    """Write HU ``(columns, rows, slices)`` as a CT series, rounded; returns the files in order."""
    stored = np.rint(values - INTERCEPT).astype(np.int16)
    paths = dicom_series(folder, stored, affine, intercept=INTERCEPT, **options)
    for path in paths:
        image = pydicom.dcmread(path)
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CTImageStorage
        image.Modality, image.SeriesDescription = "CT", "phantom"
        image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        image.save_as(path)
    return paths
