# SPDX-License-Identifier: Apache-2.0
"""What MONAI Label decides before it asks an app: whether a task may start, and which one where a client names none."""

from typing import Any

from fastapi import HTTPException
from monailabel.endpoints import train as train_endpoint
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import tasks

_run, _run_all = AsyncTask.run, train_endpoint.run


def ask_the_app() -> None:
    """Have the app in use asked first; another app than ours in this process is served as before.

    MONAI Label accepts a training whatever it is asked for, and its process fails later; without a model it trains all
    there are, one after the other.
    """
    AsyncTask.run = staticmethod(_checked)
    train_endpoint.run = _train_what_is_needed


def training_model() -> str | None:
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
