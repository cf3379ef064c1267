"""Whether claims were written before the runs that answer them: what the records hold of a file of claims."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from wfbench.analysis.claims.schema import Claims, parse_claims
from wfbench.errors import InputError
from wfbench.records import ClaimsRow, Row


@dataclass(frozen=True)
class Registration:
    """Whether the answer to a claim may be called pre-registered, or what speaks against it.

    Attributes:
        is_recorded: whether the records hold this very file.
        other_files: where they do not, the SHA-256 of those that they hold.
        used: how many rows answer the claim.
        older: how many of them are older than the record of the file.
        begun: how many runs of the sweep had begun when the file was recorded.
    """

    is_recorded: bool
    other_files: tuple[str, ...] = ()
    used: int = 0
    older: int = 0
    begun: int = 0

    @property
    def is_before_the_runs(self) -> bool:
        """Whether the file was recorded before any run began, and all rows that answer the claim are newer."""
        return self.is_recorded and not self.older and not self.begun


def registration(sha256: str, recorded: Iterable[ClaimsRow], used: Iterable[Row]) -> Registration:
    """Whether a claim was registered before the rows that answer it.

    Args:
        sha256: of the file of claims.
        recorded: the files of claims that the records hold.
        used: the rows that answer the claim.
    """
    recorded, used = list(recorded), list(used)
    first = first_record(sha256, recorded)
    if first is None:
        return Registration(False, tuple(sorted({row.sha256 for row in recorded})), len(used))
    older = sum(row.created < first.created for row in used)
    return Registration(True, used=len(used), older=older, begun=first.begun)


def first_record(sha256: str, recorded: Iterable[ClaimsRow]) -> ClaimsRow | None:
    """The oldest record of a file of claims; None where there is none."""
    return min((row for row in recorded if row.sha256 == sha256), key=lambda row: row.created, default=None)


def claims_of(row: ClaimsRow) -> Claims:
    """The claims that a record holds.

    Raises:
        InputError: for a text that this version cannot read.
    """
    remedy = "restore the records, or use the version of wfbench that wrote them"
    return parse_claims(row.text, f"the claims recorded {row.created}", remedy)


def recorded_claims(recorded: Iterable[ClaimsRow]) -> list[Claims]:
    """The files of claims that the records hold, each once.

    Raises:
        InputError: for a recorded text that is not that of its hash.
    """
    found: dict[str, Claims] = {}
    for row in recorded:
        claims = claims_of(row)
        if claims.sha256 != row.sha256:
            raise InputError(
                "recorded claims were changed",
                got=f"a text of SHA-256 {claims.sha256[:12]}",
                expected=f"that of the record of {row.created}: {row.sha256[:12]}",
                remedy="restore the records",
            )
        found[row.sha256] = claims
    return list(found.values())
