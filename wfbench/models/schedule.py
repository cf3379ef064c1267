"""Which layers of a model carry its mixer, and what fills the others: the choice, checked and in its one form."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import mixers
from mixers import MixerSpec
from mixers.base import Schedule
from wfbench.errors import InputError


class HasSchedule(Protocol):
    """A model's configuration, as far as its schedule goes."""

    @property
    def mixer(self) -> str:
        """The mixer's name."""
        ...

    @property
    def every(self) -> int | None:
        """One layer in so many carries it; None for its own schedule."""
        ...

    @property
    def offset(self) -> int | None:
        """The first layer that carries it; None for its own schedule."""
        ...

    @property
    def between(self) -> str | None:
        """The mixer that was chosen for the other layers."""
        ...

    @property
    def depth(self) -> int:
        """How many layers there are."""
        ...


class Choice(NamedTuple):
    """The three options of a schedule. All None is the mixer's own; ``between`` None is what the mixer itself has there."""

    every: int | None = None
    offset: int | None = None
    between: str | None = None


def settled(mixer: str, every: int | None, offset: int | None, between: str | None) -> Choice:
    """A choice with its defaults filled in; all None where it says what the mixer does by itself.

    The default of ``every`` is the mixer's own. That of ``offset`` is the mixer's own where ``every`` is, else WeightFormer's,
    1, or 0 where every layer is active. What is settled stays as it is.

    Raises:
        InputError: for an offset without every, numbers that no layer fits, nothing to fill, or nothing to fill it with.
        MixerError: for an unknown mixer.
    """
    if every is None and offset is None and between is None:
        return Choice()
    spec = mixers.spec(mixer)
    given = {"every": every, "offset": offset, "between": between}
    got = f"mixer {mixer!r}, {', '.join(f'{key} = {value!r}' for key, value in given.items() if value is not None)}"
    if every is None and offset is not None:
        raise InputError(
            "an offset alone is no schedule", got=got, expected="every beside it", remedy="say in which layers: every = 3"
        )
    n = spec.every if every is None else every
    if not _is_whole(n) or n < 1:
        raise InputError(
            "impossible schedule",
            got=got,
            expected="a whole number of layers, every >= 1",
            remedy="use 1 for every layer, 3 for one in three",
        )
    start = (spec.offset if n == spec.every else min(1, n - 1)) if offset is None else offset
    if not _is_whole(start) or not 0 <= start < n:
        raise InputError(
            "impossible schedule",
            got=got,
            expected=f"an offset from 0 to every - 1, which is {n - 1}",
            remedy="use 0, or leave the offset out",
        )
    if between is None and n > 1 and spec.off_token is None:
        raise InputError(
            "nothing fills the layers between",
            got=got,
            expected=f"a mixer for the layers that do not hold {mixer!r}, which has none of its own for them",
            remedy="say what fills the other layers: --between static",
        )
    if between is not None:
        if n == 1:
            raise InputError(
                "there is nothing to fill",
                got=f"{got}; {mixer!r} stands in every layer",
                expected="every > 1 beside between",
                remedy="leave between out, or add --every 3",
            )
        if between == mixer:
            raise InputError(
                "the layers between hold the same mixer",
                got=got,
                expected="another mixer",
                remedy="leave the schedule out, or say every = 1",
            )
        if _has_of_its_own(spec, mixers.spec(between)):
            between = None
    if (Schedule(n, start), between) == (spec.schedule, None):
        return Choice()
    return Choice(n, start, between)


def schedule_of(config: HasSchedule) -> Schedule:
    """The schedule of a model, chosen or its mixer's own.

    Raises:
        MixerError: for an unknown mixer.
    """
    if config.every is None or config.offset is None:
        return mixers.spec(config.mixer).schedule
    return Schedule(config.every, config.offset, config.between)


def mixers_of(config: HasSchedule) -> tuple[str, ...]:
    """The mixers whose active layers a model may hold: its own, and what was chosen for the layers between."""
    return (config.mixer,) if config.between is None else (config.mixer, config.between)


def check_depth(config: HasSchedule) -> None:
    """Refuse a chosen schedule by which no layer carries the mixer.

    Raises:
        InputError: for such a schedule.
    """
    if config.offset is not None and config.offset >= config.depth:
        raise InputError(
            "no layer carries the mixer",
            got=f"every = {config.every}, offset = {config.offset} with depth {config.depth}",
            expected=f"an offset below the depth, {config.depth}",
            remedy="choose a smaller offset (or every), or a deeper model",
        )


def _has_of_its_own(spec: MixerSpec, other: MixerSpec) -> bool:
    """Whether a mixer has by itself, in the layers that do not carry it, what another has in its active ones."""
    same = (spec.off_token, spec.off_ffn_in) == (other.token, other.ffn_in)
    return same and not other.token_options and not other.ffn_options


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
