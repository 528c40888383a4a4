# SPDX-License-Identifier: Apache-2.0
"""A denoised DICOM series, written back to the DICOMweb server the noisy one came from."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from monai_n2v.apps.denoise import denoise_image
from monai_n2v.apps.inspect import choose_device
from monai_n2v.bundle.options import PredictionOptions
from monai_n2v.bundle.trained import TrainedNetwork
from monai_n2v.io.dicom_files import read_dataset
from monai_n2v.io.dicom_write import DicomSource
from monai_n2v.io.images import read_volume

if TYPE_CHECKING:
    from pydicom import Dataset

# Seconds to connect, and without a byte from the server: without, requests waits forever.
_PATIENCE = 10, 300


def connect(url: str) -> Any:
    """Make a client of a DICOMweb server; nothing is asked of it yet.

    Name and password are those that MONAI Label uses: ``MONAI_LABEL_DICOMWEB_USERNAME`` and
    ``MONAI_LABEL_DICOMWEB_PASSWORD`` of the environment.

    Args:
        url: of its DICOMweb root, such as ``http://127.0.0.1:8042/dicom-web``.

    Raises:
        ModuleNotFoundError: without the package dicomweb-client, which MONAI Label brings along.
        ValueError: for what is no address.
    """
    try:
        from dicomweb_client.api import DICOMwebClient
        from dicomweb_client.session_utils import create_session, create_session_from_user_pass
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "stow must have the package dicomweb-client, got none. Install it: pip install dicomweb-client."
        ) from error
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url must begin with http:// or https://, got {url}. Name the server's DICOMweb root.")
    if parts.username is not None:
        raise ValueError(
            "url must not hold a name or password, got one. Set MONAI_LABEL_DICOMWEB_USERNAME and "
            "MONAI_LABEL_DICOMWEB_PASSWORD."
        )
    name, password = (os.environ.get(f"MONAI_LABEL_DICOMWEB_{k}", "") for k in ("USERNAME", "PASSWORD"))
    session = create_session_from_user_pass(name, password) if name and password else create_session()
    session.request = functools.partial(session.request, timeout=_PATIENCE)
    try:
        client = DICOMwebClient(url=url.rstrip("/"), session=session)
    except ValueError as error:
        raise ValueError(f"url must be an address, got {url}. Name the server's DICOMweb root.") from error
    # It retries what is no use to retry, half a minute for a server that is not there; and instances sent a second
    # time it sends without what was sent the first time.
    client.set_http_retry_params(retry=False)
    return client


def denoise_series(client: Any, series: str, network: TrainedNetwork, device: str = "auto") -> tuple[str, int]:
    """Denoise a series of a server and store the result beside it, as a derived series of the same study.

    The instances carry the noisy series' patient, study, frame of reference and geometry, UIDs of their own, and whole
    numbers of the noisy series' type, rounded and clipped (see ``docs/reference/formats.md``). The noisy series stays.

    Args:
        client: of `connect`.
        series: Series Instance UID of the noisy series.
        network: that denoises.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Returns:
        the Series Instance UID of the denoised series, and how many instances it has.

    Raises:
        FileNotFoundError: for a series that the server has not.
        ConnectionError: for a server that does not answer, or refuses.
        ValueError: for a series that cannot be denoised, or that the server does not take.
    """
    device = choose_device(device)
    study = _find_study(client, series)
    with tempfile.TemporaryDirectory() as folder:
        noisy, denoised = Path(folder) / "noisy", Path(folder) / "denoised"
        noisy.mkdir()
        _download(client, study, series, noisy)
        try:
            volume = read_volume(noisy)
            _check_noisy(cast(DicomSource, volume.source).header, series)  # of a folder
            denoise_image(volume, model=network.weights, prediction=PredictionOptions(device), target=denoised)
        except ValueError as error:  # the user never saw that folder
            raise ValueError(str(error).replace(str(noisy), f"series {series}")) from error
        instances = [read_dataset(path) for path in sorted(denoised.iterdir())]
        return _store(client, study, instances), len(instances)


def _find_study(client: Any, series: str) -> str:
    with _answers(client, "search for series"):
        found = client.search_for_series(search_filters={"SeriesInstanceUID": series})
        if not all(isinstance(item, dict) for item in found):
            raise _OtherAnswerError
    # Servers take wildcards, or may leave out a filter they do not know.
    studies = [_value(item, "0020000D") for item in found if _value(item, "0020000E") == series]
    if not studies:
        raise FileNotFoundError(f"series must be on the server, got {series}. Look up its Series Instance UID there.")
    return studies[0]


def _value(item: dict[str, Any], tag: str) -> str:
    """The first value of an attribute in DICOM's JSON; empty where it has none."""
    values = item.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _download(client: Any, study: str, series: str, folder: Path) -> None:
    with _answers(client, "hand out the series"):
        for instance in client.iter_series(study, series):
            name = "".join(c for c in str(instance.SOPInstanceUID) if c in "0123456789.")
            instance.save_as(folder / f"{name}.dcm", **_with_file_header())


def _check_noisy(header: Dataset, series: str) -> None:
    """Refuse a series that this package made."""
    tools = header.get("ContributingEquipmentSequence") or []
    if any(tool.get("Manufacturer") == "monai_n2v" for tool in tools):
        raise ValueError(f"series must be noisy, got {series}, which is denoised. Name its source.")


def _store(client: Any, study: str, instances: list[Dataset]) -> str:
    series = str(instances[0].SeriesInstanceUID)
    with _answers(client, "take a new series"):
        n_failed = len(client.store_instances(instances, study).get("FailedSOPSequence") or [])
    if n_failed:
        raise ValueError(
            f"server must take all {len(instances)} instances, got {n_failed} refused. See its log, and remove what "
            f"there is of series {series}."
        )
    return series


class _OtherAnswerError(Exception):
    """A server's answer is JSON, but not DICOM's."""


@contextlib.contextmanager
def _answers(client: Any, what: str) -> Iterator[None]:
    """Tell in one sentence what a server did not do; the messages of requests are long, and about its own parts."""
    from pydicom.errors import InvalidDicomError
    from requests import HTTPError, RequestException  # type: ignore[import-not-found,import-untyped,unused-ignore]

    url, rule = client.base_url, f"url must be of a DICOMweb server that can {what}"
    try:
        yield
    except HTTPError as error:
        status = f"{error.response.status_code} {error.response.reason}"
        raise ConnectionError(f"{rule}, got {status} from {url}. See its log, or check the address.") from error
    except (RequestException, InvalidDicomError, _OtherAnswerError) as error:
        kind = type(error).__name__.lstrip("_")
        raise ConnectionError(f"{rule}, got {kind} from {url}. Start the server, or check the address.") from error


def _with_file_header() -> dict[str, Any]:
    """How pydicom is asked for a whole file, of which the name changed with version 3."""
    import pydicom

    if int(pydicom.__version__.partition(".")[0]) >= 3:
        return {"enforce_file_format": True}
    return {"write_like_original": False}
