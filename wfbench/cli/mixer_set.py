"""``--mixer-set``: options of mixers, which become part of their names."""

from __future__ import annotations

from collections.abc import Sequence

HELP = "An option of the mixers, such as window=7; repeat it. For one of several: --mixer 'NAME(window=7)'."


def with_settings(names: Sequence[str], settings: Sequence[str] | None, remedy: str = "add --mixer NAME") -> list[str]:
    """The names of mixers with these options.

    Raises:
        InputError: for options of no mixer.
        MixerError: for what is no option, and for a mixer that does not have it.
    """
    if not settings:
        return list(names)
    import mixers
    from mixers.options import parse_options, with_options
    from wfbench.errors import InputError

    if not names:
        raise InputError(
            "options of which mixer?", got="--mixer-set without a mixer", expected="the mixer that they are of", remedy=remedy
        )
    found = [with_options(name, parse_options(settings)) for name in names]
    for name in found:
        mixers.spec(name)
    return found
