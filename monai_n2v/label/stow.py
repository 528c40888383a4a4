# SPDX-License-Identifier: Apache-2.0
"""A denoised DICOM series, written back to the DICOMweb server the noisy one came from."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from monai_n2v.denoising import choose_device
from monai_n2v.files import as_meta_tensor
from monai_n2v.models import TrainedNetwork
from monai_n2v.volumes import read_volume, save_volume

__all__ = ["connect", "denoise_series"]


def connect(url: str) -> Any:
    """Make a client of a DICOMweb server.

    Args:
        url: of its DICOMweb root, such as ``http://127.0.0.1:8042/dicom-web``.

    Raises:
        ModuleNotFoundError: without the package dicomweb-client, which MONAI Label brings along.
        ValueError: for what is no address.
    """
    try:
        from dicomweb_client.api import DICOMwebClient
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "stow must have the package dicomweb-client, got none. Install it: pip install dicomweb-client."
        ) from error
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"url must begin with http:// or https://, got {url}. Name the server's DICOMweb root.")
    return DICOMwebClient(url=url.rstrip("/"))


def denoise_series(client: Any, series: str, network: TrainedNetwork, device: str = "auto") -> tuple[str, int]:
    """Denoise a series of a server and store the result beside it, as a derived series of the same study.

    The instances carry the noisy series' patient, study, frame of reference and geometry, UIDs of their own, and whole
    numbers of the noisy series' type, rounded and clipped (see ``docs/formats.md``).

    Args:
        client: of `connect`.
        series: Series Instance UID of the noisy series.
        network: that denoises.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Returns:
        the Series Instance UID of the denoised series, and how many instances it has.

    Raises:
        FileNotFoundError: for a series that the server has not.
        ValueError: for a series that cannot be denoised, or that the server does not take.
    """
    import pydicom

    found = client.search_for_series(search_filters={"SeriesInstanceUID": series})
    if not found:
        raise FileNotFoundError(f"series must be on the server, got {series}. Look it up there.")
    study = str(pydicom.Dataset.from_json(found[0]).StudyInstanceUID)
    with tempfile.TemporaryDirectory() as folder:
        noisy, denoised = Path(folder) / "noisy", Path(folder) / "denoised"
        noisy.mkdir()
        for number, instance in enumerate(client.retrieve_series(study, series)):
            instance.save_as(noisy / f"{number:06d}.dcm", **_with_file_header())
        volume = read_volume(noisy)
        output = network.predict(as_meta_tensor(volume, str(noisy)), choose_device(device))
        save_volume(np.asarray(output, dtype=np.float32), volume, denoised)
        instances = [pydicom.dcmread(path) for path in sorted(denoised.iterdir())]
        answer = client.store_instances(instances, study)
        n_failed = len(answer.get("FailedSOPSequence", []))
        if n_failed:
            raise ValueError(f"server must take the series, got {n_failed} of {len(instances)} refused. See its log.")
    return str(instances[0].SeriesInstanceUID), len(instances)


def _with_file_header() -> dict[str, Any]:
    """How pydicom is asked for a whole file, of which the name changed with version 3."""
    import pydicom

    return (
        {"enforce_file_format": True} if int(pydicom.__version__.split(".")[0]) >= 3 else {"write_like_original": False}
    )
