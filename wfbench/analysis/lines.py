"""What a line is called, and the grouping of rows into lines and settings."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from wfbench.records import Row, TracedRow

#: The mixer that speed-ups are measured against, with the same factors.
BASELINE = "softmax"
#: What a row says of its attention backend where none was forced.
CHOSEN_BACKEND = "chosen by PyTorch"
SMALL_SIDE = 64  # up to this image side, tables say that small images reward convolutions

R = TypeVar("R", bound=Row)
T = TypeVar("T", bound=TracedRow)
V = TypeVar("V")
K = TypeVar("K", bound=Hashable)
N = TypeVar("N", bound="Key")


class _HasFactors(Protocol):
    """What names a line: a row about a model, or the key of such rows."""

    @property
    def model(self) -> str: ...
    @property
    def mixer(self) -> str: ...
    @property
    def local_conv(self) -> str: ...
    @property
    def pos_embed(self) -> str: ...
    @property
    def every(self) -> int | None: ...
    @property
    def offset(self) -> int | None: ...
    @property
    def between(self) -> str | None: ...


class _HasSchedule(Protocol):
    """What says which layers carry which mixer: a row about a model, the key of such rows, or a model's configuration."""

    @property
    def mixer(self) -> str: ...
    @property
    def every(self) -> int | None: ...
    @property
    def offset(self) -> int | None: ...
    @property
    def between(self) -> str | None: ...


def scheduled(row: _HasSchedule) -> str:
    """The mixer, and the schedule if one was chosen: "softmax", "softmax / 3 + static", "softmax / 3 from 0 + static".

    The number is how many layers there are to one that carries the mixer; behind "from" stands the first of these, if it is
    not the second layer, and behind "+" what fills the others, if it is not the mixer's own.
    """
    if row.every is None:
        return row.mixer
    start = "" if row.offset == min(1, row.every - 1) else f" from {row.offset}"
    return f"{row.mixer} / {row.every}{start}" + ("" if row.between is None else f" + {row.between}")


def factors(row: _HasFactors, *, all_positions: bool = False) -> str:
    """What was chosen beside mixer and schedule, in words: "", "DWC", "DWC, rope2d"; rows with different ones never mix.

    A position is named where it is not the usual one (of DiTs and the probes shift and flood sincos, of other probes and
    of weightformer-* none, else the learned one), and with ``all_positions`` wherever it is not the learned one. The local
    convolution is named where there is one; of the probe flood, where there is none.
    """
    probe = getattr(row, "probe", None)
    usual = "sincos" if probe in ("shift", "flood") else "none" if probe else _usual(row.model)
    named = row.pos_embed != usual or (all_positions and row.pos_embed != "learned")
    position = "no position" if row.pos_embed == "none" else row.pos_embed
    own = "dwc" if probe == "flood" else "none"
    local = [] if row.local_conv == own else ["DWC" if row.local_conv == "dwc" else "no DWC"]
    return ", ".join([*local, *([position] if named else [])])


def _usual(model: str) -> str:
    """A model's usual position."""
    return "sincos" if "dit-" in model else "none" if model.startswith("weightformer-") else "learned"


def label(row: _HasFactors, *, all_positions: bool = False) -> str:
    """The name of a mixer's line: "softmax", "softmax + DWC, rope2d", "softmax, patch 32", "softmax [flash]".

    The mixer stands there as `scheduled` names it. Behind the factors stands the variant of the model, and in brackets the
    attention backend that was forced, in rows that have them.
    """
    chosen = ", ".join(filter(None, [factors(row, all_positions=all_positions), getattr(row, "variant", "")]))
    backend = getattr(row, "sdpa_backend", CHOSEN_BACKEND)
    forced = "" if backend == CHOSEN_BACKEND else f" [{backend}]"
    return scheduled(row) + (" + " if chosen.startswith("DWC") else ", " if chosen else "") + chosen + forced


class Key(Protocol):
    """What the lines of one table share: a named tuple."""

    def _asdict(self) -> dict[str, Any]: ...


def sorted_keys(keys: Iterable[N]) -> list[N]:
    """The keys in order, where a field that is None comes before any value."""
    return sorted(keys, key=lambda key: [(value is not None, value) for value in key._asdict().values()])


def group(rows: Iterable[V], key: Callable[[V], K]) -> dict[K, list[V]]:
    """The rows by key, keys and rows in the order in which they come."""
    groups: dict[K, list[V]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def latest(rows: Iterable[R], key: Callable[[R], K]) -> list[R]:
    """The newest row of each key, in the order of the keys; of rows of the same second, the last one recorded."""
    groups = group(rows, key)
    return [max(reversed(groups[name]), key=lambda row: row.created) for name in sorted(groups)]  # type: ignore[type-var]


def latest_session(sessions: Mapping[str, Sequence[Row]]) -> str:
    """The session with the newest row; of rows of the same second, the session that was recorded last."""
    return max(reversed(list(sessions)), key=lambda name: max(row.created for row in sessions[name]))


def lines_by_code(rows: Iterable[T]) -> dict[str, list[T]]:
    """The rows by their line's name; where the code of a mixer was changed, each version is a line of its own."""
    named: dict[str, list[T]] = {}
    for name, members in group(rows, label).items():
        versions = group(members, lambda row: row.mixer_digest)
        for digest, kept in versions.items():
            code = f" (code {(digest or 'unknown')[:8]})" if len(versions) > 1 else ""
            named[f"{name}{code}"] = kept
    return named
