"""``--mixer-set``: options of mixers, which become part of their names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

HELP = "An option of the mixers, such as window=7; repeat it. For one of several: --mixer 'NAME(window=7)'."


def with_settings(names: Iterable[str], settings: Sequence[str] | None) -> list[str]:
    """The names of mixers with these options.

    Raises:
        MixerError: for what is no option, and for a mixer that does not have it.
    """
    import mixers
    from mixers.options import parse_options, with_options

    if not settings:
        return list(names)
    found = [with_options(name, parse_options(settings)) for name in names]
    for name in found:
        mixers.spec(name)
    return found
