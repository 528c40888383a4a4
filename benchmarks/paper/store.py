# SPDX-License-Identifier: Apache-2.0
"""Rows of the paper's tables, each of which tells where it comes from."""

from __future__ import annotations

import fcntl
import functools
from typing import Any

from benchmarks.common import RESULTS, load, machine, origin, save

__all__ = ["is_there", "record", "rows_of", "this_run"]


@functools.cache
def this_run() -> str:
    """Where this process's numbers come from; the commit is that of its start, so call it first."""
    return origin(machine())


def rows_of(experiment: str) -> list[dict[str, Any]]:
    """All rows that were measured of an experiment."""
    stored = load(f"paper_{experiment}")
    return stored["rows"] if stored else []


def is_there(experiment: str, **identity: Any) -> bool:
    """Tell whether a row with these values was measured already."""
    return any(all(row.get(key) == value for key, value in identity.items()) for row in rows_of(experiment))


def record(experiment: str, **row: Any) -> None:
    """Add a row, in the place of one that differs in its results alone.

    Texts, ``sigma``, ``seed`` and ``steps`` identify it.
    """

    def key(found: dict[str, Any]) -> tuple[Any, ...]:
        names = sorted(name for name, value in found.items() if isinstance(value, str) and name != "origin")
        return tuple((name, found[name]) for name in names) + (
            found.get("sigma"),
            found.get("seed"),
            found.get("steps"),
        )

    row["origin"] = this_run()
    with (RESULTS / ".paper.lock").open("w") as lock:  # several processes may share an experiment's methods
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = rows_of(experiment)
        places = [place for place, found in enumerate(rows) if key(found) == key(row)]
        if places:
            rows[places[0]] = row
        else:
            rows.append(row)
        save(f"paper_{experiment}", {"rows": rows})
    print({name: value for name, value in row.items() if name != "origin"}, flush=True)
