"""What an operator costs that PyTorch does not know: a mixer with a kernel of its own says it here, once.

The bench asks this table only about operators that its own tables lack. Both of its counters read the same entry, so that for
such an operator they are one opinion, not two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mixers.base import MixerError

#: (arguments, output) of one call to (MACs, elementwise operations). The arguments stand in the order of the operator's
#: schema, with its defaults; tensors among them may be on the meta device, and have shape and dtype alone.
Price = Callable[[Sequence[Any], Any], tuple[int, int]]

_PRICES: dict[str, Price] = {}


def counts(operator: str) -> Callable[[Price], Price]:
    """Decorator: what one call of an operator costs, in the units of `mixers.base`.

    >>> @counts("mylib::scan")  # of (x: (B, N, C), a: (C, S)) -> (B, N, C)
    ... def scan(args, out):
    ...     x, a = args[:2]
    ...     return 2 * x.numel() * a.shape[1], out.numel()

    Args:
        operator: its namespace and name, as of ``torch.library``: "mylib::scan". All its overloads cost the same formula.

    The function takes the arguments (in the order of the schema, defaults filled in) and the output of one call, for the whole
    batch, and returns two ints, MACs and elementwise operations. It may look at shapes and dtypes only. Given twice, the later
    one holds (a file that is edited and loaded again). An operator that the bench knows keeps the bench's price.

    Raises:
        MixerError: for a name that is not of this form.
    """
    namespace, colons, name = operator.partition("::")
    if not (colons and namespace.isidentifier() and name.isidentifier()):
        raise MixerError(
            "not the name of an operator",
            got=repr(operator),
            expected="namespace::name without an overload, as 'mylib::scan'",
            remedy="take the name that torch.library registered",
        )

    def enter(price: Price) -> Price:
        _PRICES[operator] = price
        return price

    return enter


def price_of(operator: str) -> Price | None:
    """What was said of an operator, "mylib::scan"; None if nothing was."""
    return _PRICES.get(operator)


def priced_operators() -> tuple[str, ...]:
    """The operators of which something was said, in alphabetical order."""
    return tuple(sorted(_PRICES))
