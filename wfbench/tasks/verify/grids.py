"""Checks of what a mixer makes of the grid: any shape, a changed one, a wrong one, and what the order of tokens means."""

from __future__ import annotations

import torch
from torch import Tensor

from mixers.base import Grid
from wfbench.tasks.verify.behaviour import BATCH_GRIDS, GRADCHECK_GRIDS, NAIVE_GRIDS
from wfbench.tasks.verify.judge import Outcome, check, fails, holds, judged, not_applicable, said
from wfbench.tasks.verify.subject import HOMES, WINDOWED, WINDOWED_BY_EIGHT, Subject, gap, names_grid, run, shown

GRIDS: tuple[Grid, ...] = ((4, 4), (3, 3), (5, 7), (7, 5), (2, 9))
SAME_N: tuple[Grid, ...] = ((6, 6), (4, 9), (9, 4), (2, 18))
WRONG_FOR: tuple[Grid, ...] = ((3, 5), (5, 7), (4, 4))
#: Every grid that another check leaves out where the mixer does not work: here it must be refused by name.
OTHERS = (*HOMES, *NAIVE_GRIDS, *BATCH_GRIDS, *GRADCHECK_GRIDS, *SAME_N, *WRONG_FOR, *WINDOWED, *WINDOWED_BY_EIGHT)
ALL_GRIDS: tuple[Grid, ...] = tuple(dict.fromkeys((*GRIDS, *OTHERS)))


@check(
    "grids",
    meaning="A square, odd, non-square or changed grid works, or is refused with an error that names it.",
    expected="works, or a ValueError (MixerError) that names the grid",
)
def grids(subject: Subject) -> Outcome:
    """Built for each grid; then built for one and shown the others."""
    told = {grid: _try(subject, built=grid, seen=grid) for grid in ALL_GRIDS}
    bad = [f"{shown(grid)}: {answer}" for grid, answer in told.items() if answer not in ("works", "refused")]
    if subject.spec.needs_grid:
        bad += [f"built for {shown(subject.grid)}, {line}" for line in _refusals_missing(subject)]
    else:
        for grid in ALL_GRIDS:
            answer = _try(subject, built=subject.grid, seen=grid)
            if answer not in ("works", "refused"):
                bad.append(f"built for {shown(subject.grid)}, then {shown(grid)}: {answer}")
    refused = [shown(grid) for grid, answer in told.items() if answer == "refused"]
    good = f"works at {sum(a == 'works' for a in told.values())} of {len(told)} grids"
    good += f", refuses {', '.join(refused)} by name" if refused else ""
    good += ", and refuses a changed one by name" if subject.spec.needs_grid else ""
    remedy = "take H and W from the grid that is passed; raise mixers.MixerError with the grid where one cannot be served"
    return judged(not bad, "; ".join(bad[:3]) + (f" (and {len(bad) - 3} more)" if len(bad) > 3 else "") or good, remedy)


def _try(subject: Subject, built: Grid, seen: Grid) -> str:
    """ "works", "refused" (by name), or what went wrong."""
    try:
        y = run(subject.build(built), subject.tokens(2, seen, torch.float32), seen)
    except ValueError as e:
        return "refused" if names_grid(e, seen) else f"refused without its name: {said(e)[:120]}"
    except Exception as e:
        return said(e)[:120]
    expected = (2, seen[0] * seen[1], subject.out_dim)
    if tuple(y.shape) != expected:
        return f"shape {tuple(y.shape)} instead of {expected}"
    return "works" if y.isfinite().all() else "the output is not finite"


def _refusals_missing(subject: Subject) -> list[str]:
    """A mixer made for one grid must refuse another one, and name both."""
    missing = []
    for grid in GRIDS:
        try:
            run(subject.build(subject.grid), subject.tokens(1, grid, torch.float32), grid)
            missing.append(f"{shown(grid)} is accepted")
        except ValueError as e:
            if not (names_grid(e, grid) and names_grid(e, subject.grid)):
                missing.append(f"{shown(grid)} is refused without naming both: {said(e)[:120]}")
        except Exception as e:
            missing.append(f"{shown(grid)}: {said(e)[:120]}")
    return missing


@check(
    "wrong token number",
    meaning="Tokens that do not fill the grid are refused; one prefix token is accepted exactly where the spec says so.",
    expected="an error",
)
def wrong_number(subject: Subject) -> Outcome:
    """Too few, too many, twice as many; and a class token."""
    grid = next(iter(subject.working(WRONG_FOR)), subject.grid)
    layer, n = subject.build(grid), grid[0] * grid[1]
    prefix = subject.takes_prefix
    accepted = [number for number in (n - 1, n + 1, n + 2, 2 * n) if not (prefix and number == n + 1)]
    accepted = [number for number in accepted if _accepts(subject, layer, number, grid) is None]
    if accepted:
        listed = ", ".join(map(str, accepted))
        return fails(f"{listed} tokens are accepted for {shown(grid)}", "call mixers.base.check_tokens(x, grid) first")
    refusal = _accepts(subject, layer, n + 1, grid)
    if prefix and refusal is not None:
        return fails(f"declared prefix_tokens=True, but a prefix token is refused: {said(refusal)[:120]}", "declare it False")
    if prefix:
        x = subject.tokens(2, grid, torch.float32, prefix=1)
        y = run(layer, x, grid)
        if y.shape != x.shape:
            shapes = f"{tuple(y.shape)} from {tuple(x.shape)}"
            return fails(f"{shapes} with a prefix token", "give the prefix token back, mixed, before the others")
    return holds(f"refused at {shown(grid)}{', and a prefix token accepted, as declared' if prefix else ''}")


def _accepts(subject: Subject, layer: torch.nn.Module, number: int, grid: Grid) -> Exception | None:
    """None if it accepts that many tokens, else the error."""
    try:
        run(layer, subject.tokens(1, (1, number), torch.float32), grid)
    except Exception as e:
        return e
    return None


@check(
    "uses the grid",
    meaning="A mixer to which the place of a token matters answers to the grid's shape: it neither guesses the grid from N"
    " nor remembers another one.",
    expected="not one output for all of 6x6, 4x9, 9x4 and 2x18, nor for both 4x9 and 9x4",
    compares=True,
)
def uses_the_grid(subject: Subject) -> Outcome:
    """The same 36 tokens under several shapes."""
    declared = subject.spec.layout if subject.slot == "token" else None
    if declared in ("set", "sequence"):
        return not_applicable(f'declared layout "{declared}": the shape of the grid does not matter')
    if not _ordered(subject):
        return not_applicable("the order of tokens does not matter to it")
    outputs = _by_shape(subject)
    if len(outputs) < 2:
        return not_applicable("it works at fewer than two grids of 36 tokens, and refuses the others by name")
    blind = _blind(outputs, subject.exact)
    # Some shapes may coincide: windows along rows do not see how many rows there are. A shape and its transpose may not.
    swapped = [line for line in blind if line == _same((4, 9), (9, 4))]
    blind = blind if len(blind) == _pairs(len(outputs)) else swapped
    remedy = (
        "take H and W from the grid that is passed, at every call; if only the order of tokens matters, and not the grid, "
        'declare MixerSpec(..., layout="sequence")'
    )
    return judged(not blind, "; ".join(blind) or f"{len(outputs)} shapes give different outputs", remedy)


def _by_shape(subject: Subject) -> dict[Grid, Tensor]:
    """Outputs for the same tokens under the shapes at which it works: each of a new layer."""
    x = subject.tokens(1, SAME_N[0])
    outputs: dict[Grid, Tensor] = {}
    for grid in subject.working_from_home(SAME_N):
        outputs[grid] = run(subject.build(subject.built_for(grid), torch.float64), x, grid)
    return outputs


def _blind(outputs: dict[Grid, Tensor], exact: float) -> list[str]:
    shapes = list(outputs)
    return [_same(a, b) for i, a in enumerate(shapes) for b in shapes[i + 1 :] if gap(outputs[a], outputs[b]) <= exact]


def _same(a: Grid, b: Grid) -> str:
    return f"{shown(a)} and {shown(b)} give the same"


def _ordered(subject: Subject, options: dict[str, object] | None = None) -> bool:
    """Whether permuted tokens give anything but the permuted output."""
    return _disorder(subject, options or {}) > subject.exact


def _disorder(subject: Subject, options: dict[str, object]) -> float:
    """How far the output of permuted tokens is from the permuted output."""
    layer, x = subject.build(subject.grid, torch.float64, options=options), subject.tokens(1, subject.grid)
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(subject.seed))
    return gap(run(layer, x[:, order], subject.grid), run(layer, x, subject.grid)[:, order])


@check(
    "layout",
    meaning='What tokens are to it, "set", "sequence" or "grid", is what its spec declares.',
    expected="the declared layout",
    compares=True,
)
def layout(subject: Subject) -> Outcome:
    """By permuting tokens and by changing the shape of the grid."""
    if not _ordered(subject):
        found = "set"
    else:
        outputs = _by_shape(subject)
        blind = len(_blind(outputs, subject.exact)) == _pairs(len(outputs))
        found = "sequence or grid" if len(outputs) < 2 else "sequence" if blind else "grid"
    if subject.slot != "token":
        return not_applicable(f"measured {found}; layouts are declared for token layers")
    declared = subject.spec.layout
    if declared is None:
        return not_applicable(f"measured {found}; none is declared", f'declare MixerSpec(..., layout="{found}")')
    return judged(declared in found.split(" or "), f"measured {found}", f'declare layout="{found}"', f"{declared}, as declared")


def _pairs(n: int) -> int:
    return n * (n - 1) // 2


@check(
    "as a set",
    meaning="With the options that the spec gives for it, it is a function of a set, and takes tokens that come twice as"
    " declared.",
    expected="permutation equivariance; doubling as declared",
    compares=True,
)
def as_a_set(subject: Subject) -> Outcome:
    """Permuted tokens, and every token twice."""
    spec = subject.spec
    if subject.slot != "token" or (spec.layout != "set" and spec.as_set is None):
        return not_applicable("not declared to be a function of a set")
    options = dict(spec.as_set or {})
    off = _disorder(subject, options)
    if off > subject.exact:
        return fails(f"permuted tokens move the output by {off:.1e}", "declare layout and as_set as they are")
    if spec.doubling is None:
        return holds(f"equivariant to {off:.1e}; doubling is not declared")
    (h, w), x = subject.grid, subject.tokens(1, subject.grid)
    once = run(subject.build((h, w), torch.float64, options=options), x, (h, w))
    twice = run(subject.build((2 * h, w), torch.float64, options=options), torch.cat([x, x], dim=1), (2 * h, w))
    moved = gap(twice[:, : x.shape[1]], once)
    found = "invariant" if moved <= subject.exact else "sensitive"
    measured = f"equivariant to {off:.1e}; doubling moves it by {moved:.1e}"
    return judged(found == spec.doubling, measured, f'declare doubling="{found}"', f"a set; doubling {spec.doubling}")
