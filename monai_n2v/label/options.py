# SPDX-License-Identifier: Apache-2.0
"""Options as MONAI Label's clients send them, and refusals in one sentence."""

import contextlib
import logging
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from fastapi import HTTPException
from monailabel.utils.others.generic import name_to_device

from monai_n2v.bundle.resources import nearest

logger = logging.getLogger(__name__)


def chosen(request: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """An option of a request; of a list of choices, which clients may hand back as it is, the first."""
    value = request.get(name, default)
    if isinstance(value, (list, tuple)):
        value = value[0] if value else default
    return default if value is None else value


def check_keys(request: Mapping[str, Any], known: Collection[str], passed: Collection[str]) -> None:
    """Refuse a request with a key that would be ignored.

    Args:
        request: of a client.
        known: the options there are.
        passed: keys that clients send always, whatever they ask for.

    Raises:
        ValueError: for the first unknown key, naming the nearest option.
    """
    unknown = next((name for name in request if name not in known and name not in passed), None)
    if unknown is not None:
        meant = nearest(str(unknown), known)
        step = f"Did you mean {meant}?" if meant else f"There are {', '.join(sorted(known))}."
        raise ValueError(f"{unknown} must be an option of the request, got an unknown one. {step}")


def switched(request: Mapping[str, Any], name: str, default: bool) -> bool:
    """A switch of a request; clients send texts, too.

    Raises:
        ValueError: for what is neither true nor false.
    """
    value = chosen(request, name, default)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}. Send one of them.")
    return value


def whole_number(request: Mapping[str, Any], name: str, default: int) -> int:
    """A whole number from 1 of a request.

    Raises:
        ValueError: for anything else.
    """
    value = chosen(request, name, default)
    if isinstance(value, bool) or not str(value).isdecimal() or int(value) < 1:
        raise ValueError(f"{name} must be a whole number from 1, got {value!r}. Leave it out for {default}.")
    return int(value)


def number(request: Mapping[str, Any], name: str, default: float) -> float:
    """A finite number of a request.

    Raises:
        ValueError: for anything else.
    """
    value = chosen(request, name, default)
    with contextlib.suppress(TypeError, ValueError):
        if not isinstance(value, bool) and math.isfinite(float(value)):
            return float(value)
    raise ValueError(f"{name} must be a number, got {value!r}. Leave it out for {default:g}.")


def device_of(request: Mapping[str, Any]) -> str:
    """The device of a request, as torch names it; MONAI Label's usual one without.

    Raises:
        ValueError: for what is none.
    """
    value = chosen(request, "device", "cuda")
    try:
        return str(torch.device(str(name_to_device(str(value)))))
    except RuntimeError as error:
        raise ValueError(f"device must be cpu, cuda or cuda:N, got {value!r}. GET /info/ lists them.") from error


def sentence(error: BaseException) -> str:
    """The sentence that says what is wrong: MONAI wraps an error of a config's part into others of its own."""
    told = _told(error)
    if told is None:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return str(told.detail if isinstance(told, HTTPException) else told)


def _told(error: BaseException | None) -> BaseException | None:
    """The outermost error whose words are for users."""
    while error is not None:
        if isinstance(error, (HTTPException, ValueError, TypeError, OSError, ArithmeticError)):
            return error
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Answer what is refused in one sentence: 404 for what is missing, 400 for other mistakes, 500 for the rest."""
    try:
        yield
    except HTTPException:
        raise
    except Exception as error:
        told = _told(error)
        status = 500 if told is None else 404 if isinstance(told, FileNotFoundError) else 400
        if status == 500:
            logger.exception("A request failed")
        raise HTTPException(status_code=status, detail=sentence(error)) from error
