"""Claims are recorded before the first run, with the hash of their file."""

from __future__ import annotations

import os
from pathlib import Path

from wfbench import records
from wfbench.errors import InputError
from wfbench.records import ClaimsRow
from wfbench.report.claims import read_claims


def check(path: Path) -> None:
    """Read a file of claims.

    Raises:
        InputError: if it is none.
    """
    read_claims(path)


def record(path: Path, out: Path) -> str:
    """Add the file, its hash and the time to the sweep's records, unless it stands there; what was done, in words.

    Raises:
        InputError: if the records hold another version of it, and runs have begun since.
    """
    found, into = read_claims(path), out / "records.jsonl"
    begun = _begun(out)
    known = [row for row in (records.read(into)[0] if into.is_file() else []) if isinstance(row, ClaimsRow)]
    same = [row for row in known if row.sha256 == found.sha256]
    if same:
        return f"claims {found.sha256[:12]}, recorded {same[0].created}"
    if known and begun:
        raise InputError(
            "the claims were changed after runs began",
            got=f"{path}: SHA-256 {found.sha256[:12]}, {begun} runs begun",
            expected=f"the file that was recorded {known[-1].created}: SHA-256 {known[-1].sha256[:12]}",
            remedy="restore the file, or sweep into another --out",
        )
    records.append(into, [ClaimsRow(environment=records.environment(), sha256=found.sha256, text=found.text, begun=begun)])
    late = f"; {begun} runs had begun, so they are not pre-registered" if begun else ", before the first run"
    return f"claims {found.sha256[:12]} recorded{late}"


def _begun(out: Path) -> int:
    return sum("config.yaml" in names for _, _, names in os.walk(out))
