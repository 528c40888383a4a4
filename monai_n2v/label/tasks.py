# SPDX-License-Identifier: Apache-2.0
"""What MONAI Label decides before it asks an app: whether a task may start, and which one where a client names none."""

import os
import threading
import time
from typing import Any

import psutil
from fastapi import HTTPException
from monailabel.endpoints import train as train_endpoint
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import tasks

_SERVER = "MONAI_N2V_LABEL_SERVER"  # its process, for those of its tasks
_INTERVAL = 2  # seconds between two looks whether it lives
_run, _run_all = AsyncTask.run, train_endpoint.run


def ask_the_app() -> None:
    """Have the app in use asked first; another app than ours in this process is served as before.

    MONAI Label accepts a training whatever it is asked for, and its process fails later; without a model it trains all
    there are, one after the other.
    """
    AsyncTask.run = staticmethod(_checked)
    train_endpoint.run = _train_what_is_needed


def name_the_server() -> None:
    """Have the tasks that this process starts know who started them."""
    os.environ[_SERVER] = str(os.getpid())


def end_with_the_server() -> None:
    """Have this process, where a server has started it for a task, end as soon as the server is no more.

    A training would else go on, and take the machine and the network from the one that is started next.
    """
    server = int(os.environ.get(_SERVER, 0))
    if server in (0, os.getpid()):  # started by hand, or the server itself
        return

    def watch() -> None:
        while os.getppid() == server and psutil.pid_exists(server):
            time.sleep(_INTERVAL)
        for child in psutil.Process().children(recursive=True):  # of a training on several GPUs
            child.kill()
        os._exit(1)

    threading.Thread(target=watch, name="monai_n2v-server", daemon=True).start()


def as_clients_read(stats: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Order what is told of trainings: clients show that of the first model, and one without its time as one that runs.

    Args:
        stats: of all models.

    Returns:
        the same, the model that trains first.
    """
    trains = _training_model()
    ended = {name: {"total_time": "0:00:00", **one} for name, one in stats.items() if name != trains}
    return ended if trains not in stats else {trains: stats[trains], **ended}


def _training_model() -> str | None:
    """The model whose training runs or waits; None without one."""
    found = [task["request"].get("model") for task in tasks("train") if task["status"] in ("SUBMITTED", "RUNNING")]
    return found[0] if found else None


def _checked(
    method: str,
    request: dict[str, Any] | None = None,
    params: dict[str, Any] | None = None,
    force_sync: bool = False,
    enqueue: bool = False,
) -> tuple[Any, Any]:
    check = getattr(app_instance(), "check_task", None)
    if check is not None:
        check(method, {**(request or {}), **(params or {})})
    return _run(method, request, params, force_sync, enqueue)


def _train_what_is_needed(params: dict[str, Any] | None = None, run_sync: bool | None = False) -> dict[str, Any]:
    needed = getattr(app_instance(), "needed_model", None)
    if needed is None:
        return _run_all(params, run_sync)
    model = needed(params)
    # OHIF sends the options of all models by their names.
    own = (params or {}).get(model)
    own = own if isinstance(own, dict) else {name: v for name, v in (params or {}).items() if not isinstance(v, dict)}
    result, detail = AsyncTask.run("train", {"model": model}, {**own, "model": model}, bool(run_sync))
    if result is None:
        raise HTTPException(status_code=429, detail=detail)
    return {model: {"result": result, "detail": detail}}
