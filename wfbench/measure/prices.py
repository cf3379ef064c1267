"""MACs of operators that PyTorch's counter does not know, and how an einsum runs.

For what stands in `MACS` both counters read the same formula, but that fvcore has handlers of its own for matrix products and
attention, and sees a recurrent layer whole where the other sees the products that run. So for solves, factorisations, and
what a mixer says by `mixers.counts`, they are one opinion. An einsum is not among these: on the meta device PyTorch takes it
apart into the products that run, and fvcore's count of it is `einsum_macs`, from the equation and the shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from mixers.counting import price_of
from wfbench.measure.operators import bare_name

# --- products


def of_real(macs: int, tensor: Any) -> int:
    """A complex multiply-add is four real ones."""
    return 4 * macs if isinstance(tensor, Tensor) and tensor.is_complex() else macs


def _product(a: int) -> Callable[[Sequence[Any], Any], int]:
    """(…, m, k) @ (…, k, n), broadcast or not, or vectors: every output element is a contraction over k."""

    def count(args: Sequence[Any], out: Any) -> int:
        return of_real(out.numel() * args[a].shape[-1], out)

    return count


def _summed_product(args: Sequence[Any], out: Any) -> int:
    """addbmm: the products of a batch, summed."""
    return of_real(args[1].numel() * args[2].shape[-1], out)


def _tensordot(args: Sequence[Any], out: Any) -> int:
    a, dims = args[0], args[2]
    return of_real(out.numel() * math.prod(a.shape[d] for d in dims), out)


# --- factorisations and solves: A is (..., n, n), with right-hand sides


def _lu(a: Tensor, out: Any = None) -> int:
    """Gaussian elimination: Σ k² for k from 1 to n - 1."""
    n = a.shape[-1]
    return of_real(a.shape[:-2].numel() * (n * (n - 1) * (2 * n - 1) // 6), a)


def _half_square(x: Tensor, n: int) -> int:
    """One triangular solve: n (n - 1) / 2 for each right-hand side of n."""
    return of_real(x.numel() * (n - 1) // 2, x)


def _first(out: Any) -> Tensor:
    return out[0] if isinstance(out, (tuple, list)) else out


def _solve(args: Sequence[Any], out: Any) -> int:
    """LU of A, then two triangular solves."""
    return _lu(args[0]) + 2 * _half_square(_first(out), args[0].shape[-1])


def _inverse(args: Sequence[Any], out: Any) -> int:
    """LU of A, then two triangular solves for the n columns of the identity."""
    return _lu(args[0]) + 2 * _half_square(args[0], args[0].shape[-1])


def _cholesky(args: Sequence[Any], out: Any) -> int:
    """(n³ - n) / 6."""
    a, n = args[0], args[0].shape[-1]
    return of_real(a.shape[:-2].numel() * ((n**3 - n) // 6), a)


def _determinant(args: Sequence[Any], out: Any) -> int:
    """LU of A."""
    return _lu(args[0])


# --- recurrent layers, which only the tracer shows whole


def _recurrent(args: Sequence[Any], out: Any) -> int:
    """Every matrix of the layer works once on every token: (input (..., C), state or states, weights, ...)."""
    return int(args[0].shape[:-1].numel()) * sum(w.numel() for w in args[2] if w.ndim == 2)


#: MACs of one call, by bare name, from (arguments in the order of the schema, output). Both the names that reach the dispatcher
#: and those that the tracer shows.
MACS: dict[str, Callable[[Sequence[Any], Any], int]] = {
    "mm": _product(0),
    "bmm": _product(0),
    "addmm": _product(1),
    "baddbmm": _product(1),
    "mv": _product(0),
    "addmv": _product(1),
    "dot": _product(0),
    "vdot": _product(0),
    "addbmm": _summed_product,
    "tensordot": _tensordot,
    "inner": _product(0),
    "affine_grid_generator": lambda args, out: out.numel() * args[0].shape[-1],  # θ (B, 2, 3) times homogeneous places
    "_linalg_solve_ex": _solve,
    "linalg_solve_ex": _solve,
    "linalg_solve": _solve,
    "linalg_inv_ex": _inverse,
    "linalg_inv": _inverse,
    "inverse": _inverse,
    "linalg_cholesky_ex": _cholesky,
    "linalg_cholesky": _cholesky,
    "cholesky": _cholesky,
    "linalg_solve_triangular": lambda args, out: _half_square(out, args[0].shape[-1]),
    "triangular_solve": lambda args, out: _half_square(_first(out), args[1].shape[-1]),
    "cholesky_solve": lambda args, out: 2 * _half_square(out, args[1].shape[-1]),
    "linalg_lu_factor_ex": _determinant,
    "linalg_lu_factor": _determinant,
    "linalg_lu": _determinant,
    "linalg_lu_solve": lambda args, out: 2 * _half_square(out, args[0].shape[-1]),
    "_linalg_det": _determinant,
    "linalg_det": _determinant,
    "det": _determinant,
    "_linalg_slogdet": _determinant,
    "linalg_slogdet": _determinant,
    "slogdet": _determinant,
    "logdet": _determinant,
    **dict.fromkeys(("gru", "lstm", "rnn_tanh", "rnn_relu"), _recurrent),
}


def macs_of(name: str, args: Sequence[Any], out: Any) -> int | None:
    """MACs of one call of an operator by this table, or by what a mixer said of it; None where neither knows it.

    Args:
        name: ``aten::mv`` or ``aten.mv``.
        args: its arguments in the order of its schema, with the defaults.
        out: its output.
    """
    name = name.replace(".", "::", 1)
    if name.startswith("aten::") and (known := MACS.get(bare_name(name))):
        return known(args, out)
    said = said_of(name, args, out)
    return None if said is None else said[0]


class PriceError(ValueError):
    """What a mixer said of an operator by `mixers.counts` is no price."""


def said_of(name: str, args: Sequence[Any], out: Any) -> tuple[int, int] | None:
    """MACs and elementwise operations of one call by what was said with `mixers.counts`; None if nothing was.

    Raises:
        PriceError: if that is not a pair of ints, or cannot be had.
    """
    name = name.replace(".", "::", 1)
    price = price_of(name)
    if price is None:
        return None
    try:
        macs, elementwise = price(args, out)
        if type(macs) is int and type(elementwise) is int and macs >= 0 and elementwise >= 0:
            return macs, elementwise
        got = f"({macs!r}, {elementwise!r})"
    except Exception as e:
        raise PriceError(
            f"the price of {name} given by mixers.counts cannot be had: got {type(e).__name__}: {e}, expected a function of "
            "(args, out) that returns two ints, MACs and elementwise operations; correct the function"
        ) from e
    raise PriceError(
        f"the price of {name} given by mixers.counts is none: got {got}, expected two ints, MACs and elementwise operations, "
        "0 or more; correct the function"
    )


# --- einsum


def einsum_macs(equation: str, shapes: Sequence[Sequence[int]], path: Sequence[int] | None = None) -> int:
    """MACs of an einsum as PyTorch runs it: two operands at a time, summed over at once what both have and nobody else needs.

    A pair without such an index is a pointwise product, and costs no MACs. An index that only one of the two has is summed out
    before. Sides of 1 broadcast.

    Args:
        equation: as of `torch.einsum`, with or without an output and an ellipsis.
        shapes: of the operands.
        path: places of pairs, one after the other, in the list of operands, to whose end each result goes; None for from left
            to right.
    """
    terms, output = _labels(equation, [len(shape) for shape in shapes])
    operands = [_sizes(term, shape) for term, shape in zip(terms, shapes, strict=True)]
    macs, steps = 0, list(path or [])
    while len(operands) > 1:
        i, j = sorted((steps.pop(0), steps.pop(0))) if steps else (0, 1)
        b, a = operands.pop(j), operands.pop(i)
        needed = set(output) | {label for other in operands for label, size in other.items() if size != 1}
        shared = {label for label in a if a[label] != 1 and b.get(label, 1) != 1}
        summed = shared - needed
        alone = {label for label in {*a, *b} - shared if label not in needed}  # summed out of one operand before the product
        result = {label: max(a.get(label, 1), b.get(label, 1)) for label in {*a, *b} if label not in alone}
        if summed:
            macs += math.prod(result.values())
        operands.insert(len(operands) if path else 0, {k: size for k, size in result.items() if k not in summed})
    return macs


def _labels(equation: str, dims: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """The indices of each operand and of the output; those of an ellipsis as numbers from the right."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    spread = [n - len(term.replace("...", "")) for term, n in zip(terms, dims, strict=True)]

    def labels(term: str, n: int) -> list[str]:
        before, dots, after = term.partition("...")
        return [*before, *(str(k) for k in range(n, 0, -1) if dots), *after]

    most = max((n for term, n in zip(terms, spread, strict=True) if "..." in term), default=0)
    if not arrow:
        letters = sorted({c for c in left if c.isalpha()})
        right = "..." * ("..." in left) + "".join(c for c in letters if left.count(c) == 1)
    return [labels(term, n) for term, n in zip(terms, spread, strict=True)], labels(right, most)


def _sizes(labels: Sequence[str], shape: Sequence[int]) -> dict[str, int]:
    """Sizes by index; one that an operand repeats is its diagonal."""
    sizes: dict[str, int] = {}
    for label, size in zip(labels, shape, strict=True):
        sizes[label] = max(sizes.get(label, 1), size)
    return sizes
