# SPDX-License-Identifier: Apache-2.0
"""Options as MONAI Label's clients send them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import HTTPException

__all__ = ["chosen", "refusals", "switched"]


def chosen(request: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """An option of a request; of a list of choices, which clients may hand back as it is, the first."""
    value = request.get(name, default)
    if isinstance(value, (list, tuple)):
        value = value[0] if value else default
    return default if value is None else value


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


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Answer what is refused in one sentence: 404 for what is missing, 400 for the rest."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        status = 404 if isinstance(error, FileNotFoundError) else 400
        raise HTTPException(status_code=status, detail=str(error)) from error
