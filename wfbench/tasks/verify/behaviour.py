"""Checks of what a mixer computes: contract, images apart, determinism, gradients, dtypes, weights that travel."""

from __future__ import annotations

import math
import re

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from mixers.base import Grid, evaluated_by, has_prediction
from wfbench.tasks.verify.differences import widened, wrong_gradients
from wfbench.tasks.verify.judge import Outcome, check, fails, holds, judged, not_applicable, said
from wfbench.tasks.verify.subject import (
    HOMES,
    NO_GRIDS,
    TOLERANCE,
    WINDOWED,
    Subject,
    batch_norms,
    gap,
    gradients,
    in_double,
    in_training,
    paths_of,
    run,
    run_in_half,
    shown,
    without_dropout,
)

NAIVE_GRIDS: tuple[Grid, ...] = ((4, 4), (5, 7), (2, 3), (7, 2))
BATCH_GRIDS: tuple[Grid, ...] = ((4, 4), (5, 7), (4, 6), WINDOWED[1])
#: More images than any threshold that a fast path is likely to have.
MANY_IMAGES = 130
GRADCHECK_GRIDS: tuple[Grid, ...] = ((2, 3), (4, 4), *HOMES)


@check(
    "contract",
    meaning="It can be created as the skeleton creates it, at two dimensions, gives (B, N, C) of the input's dtype and device,"
    " and leaves its input as it was.",
    expected="(B, N, C) in, (B, N, C) or (B, N, D) out",
)
def contract(subject: Subject) -> Outcome:
    """Shapes, dtype, device, and an input that is not written to."""
    grid = subject.home or HOMES[0]
    problems = []
    for dtype in (torch.float32, torch.float64):
        x = subject.tokens(2, grid, dtype)
        given = x.clone()
        with torch.no_grad():
            y = subject.build(grid, dtype)(given, grid)
        expected = (2, x.shape[1], subject.out_dim)
        if not isinstance(y, Tensor):
            return fails(f"it returns {type(y).__name__}", "return one tensor")
        if tuple(y.shape) != expected:
            problems.append(f"shape {tuple(y.shape)} instead of {expected}")
        if (y.dtype, y.device) != (x.dtype, x.device):
            problems.append(f"{y.dtype} on {y.device} from {x.dtype} on {x.device}")
        if not torch.equal(given, x):
            problems.append("its input is written to")
    problems += _at_twice_the_width(subject, grid)
    done = f"{tuple(y.shape)} from {tuple(x.shape)}, input unchanged"
    return judged(
        not problems,
        "; ".join(dict.fromkeys(problems)) or done,
        "take every size from the arguments dim and num_heads; copy before writing; keep the input's dtype",
    )


def _at_twice_the_width(subject: Subject, grid: Grid) -> list[str]:
    """What is wrong at another dimension, in a list of none or one; it may be refused by its number."""
    wide = subject.at(2 * subject.dim)
    try:
        y = run(wide.build(grid), wide.tokens(2, grid, torch.float32), grid)
    except ValueError as e:
        return [] if re.search(rf"\b{wide.dim}\b", str(e)) else [f"at dim {wide.dim}: {said(e)}"]
    except Exception as e:
        return [f"at dim {wide.dim}: {said(e)}"]
    expected = (2, grid[0] * grid[1], wide.out_dim)
    return [] if tuple(y.shape) == expected else [f"at dim {wide.dim}: shape {tuple(y.shape)} instead of {expected}"]


@check(
    "batch independence",
    meaning="Each image gives alone what it gives in a batch, small or large, in evaluation and in training (where BatchNorm"
    " alone may mix images, and is named), and a neighbour full of NaN does it no harm.",
    expected=f"differences up to {TOLERANCE.exact:.0e}",
    compares=True,
)
def batch_independence(subject: Subject) -> Outcome:
    """f(X)[i] against f(X[i:i+1]), without dropout, and beside a poisoned image."""
    worst, notes = 0.0, []
    grids = subject.working(BATCH_GRIDS) or [subject.grid]
    cases = [(grid, 5, 0) for grid in grids] + [(grids[0], MANY_IMAGES, 0)]
    cases += [(grids[0], 5, 1)] if subject.takes_prefix else []
    for grid, batch, prefix in cases:
        layer, x = subject.build(grid, torch.float64), subject.tokens(batch, grid, prefix=prefix)
        for training in (False, True):
            found, note = _apart(layer, x, grid, training, subject.exact)
            worst = max(worst, found)
            notes += [note] if note else []
            if found > subject.exact:
                notes.append(f"in {'training' if training else 'evaluation'}, {batch} images at {shown(grid)}")
    for grid in grids:
        layer, x = subject.build(grid, torch.float64), subject.tokens(5, grid)
        poisoned = x.clone()
        poisoned[1] = math.nan
        beside = gap(run(layer, poisoned, grid)[::2], run(layer, x, grid)[::2])
        if beside > subject.exact:
            notes.append(f"an image of NaN changes its neighbours at {shown(grid)}")
            worst = max(worst, beside)
    remedy = (
        "mix over tokens and channels only; look at every reshape that touches the batch, and at what large batches do;"
        " statistics over the batch are BatchNorm's, torch.nn.BatchNorm1d or 2d, which has others in evaluation"
    )
    return judged(worst <= subject.exact, "; ".join([f"{worst:.1e}", *dict.fromkeys(notes)]), remedy, subject.within)


def _apart(layer: nn.Module, x: Tensor, grid: Grid, training: bool, exact: float) -> tuple[float, str]:
    """How far images in a batch are from the same alone, in one mode, and what is to be said about it."""
    some = sorted({*range(0, len(x), max(1, len(x) // 5)), len(x) - 1})

    def found() -> float:
        whole = run(layer, x, grid)[some]
        return gap(whole, torch.cat([run(layer, x[i : i + 1], grid) for i in some]))

    if not training:
        layer.eval()
        return found(), ""
    with without_dropout(layer):
        in_training(layer)
        if gap(run(layer, x, grid), run(layer, x, grid)) > exact:
            return 0.0, "random in training beyond dropout, so judged in evaluation only"
        apart = found()
        norms = batch_norms(layer)
        if norms and apart <= exact:
            return apart, f"in training, BatchNorm ({', '.join(norms)}) makes it depend on the batch, and nothing else does"
    return apart, ""


@check(
    "determinism",
    meaning="In evaluation the same input gives the same bits, whatever came between; no parameter or buffer is written to, and"
    " torch's random state is left alone.",
    expected="bit-equal",
)
def determinism(subject: Subject) -> Outcome:
    """f(X) twice, then again after another input, and after eval(); the state dict; and the global generator."""
    grid = subject.grid
    layer, x = subject.build(grid), subject.tokens(2, grid, torch.float32)
    weights = {name: value.clone() for name, value in layer.state_dict().items()}
    torch.rand(1)  # so that no seed leads to the state that is compared
    state = torch.get_rng_state()
    first = run(layer, x, grid)
    drawn = not torch.equal(torch.get_rng_state(), state)
    cases = {"a second call": run(layer, x, grid)}
    run(layer, subject.tokens(2, grid, torch.float32, other=1), grid)
    cases["a call after another input"] = run(layer, x, grid)
    layer.eval()
    cases["a call after eval()"] = run(layer, x, grid)
    different = [f"{case} differs by {gap(y, first):.1e}" for case, y in cases.items() if not torch.equal(y, first)]
    different += ["torch's random state is another after a call"] if drawn else []
    now = layer.state_dict()
    written = [name for name, value in weights.items() if name in now and not _same_bits(now[name], value)]
    different += [f"{name} is written to" for name in written]
    remedy = (
        "switch dropout, noise and running statistics off with self.training; keep no state between calls; seed a generator of"
        " your own"
    )
    return judged(not different, "; ".join(different) or f"{len(cases)} calls bit-equal", remedy)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a.nan_to_num(), b.nan_to_num()))


@check(
    "gradients",
    meaning="A gradient reaches the input and every parameter, in evaluation and in training; where both give one output, they"
    " give the same gradients.",
    expected="every one finite and not all zero, in both modes",
)
def every_gradient(subject: Subject) -> Outcome:
    """Names the parameters that get none, and those whose gradient the mode decides."""
    grid = subject.grid
    layer, other, x = *(subject.build(grid, torch.float64) for _ in range(2)), subject.tokens(2, grid)
    with without_dropout(layer):
        found = gradients(layer, x, grid)
    with without_dropout(other):
        trained = gradients(in_training(other), x, grid)
    wrong = [*_useless(found), *(f"in training, {line}" for line in _useless(trained) if line not in _useless(found))]
    y, z = found.pop("the output"), trained.pop("the output")
    assert y is not None
    assert z is not None
    if not wrong and gap(z, y) <= subject.exact:
        apart = {name: _distance(trained[name], g) for name, g in found.items()}
        wrong = [f"that of {name} is another in training, by {d:.1e}" for name, d in apart.items() if d > subject.exact]
    remedy = "use the parameter or remove it (a fixed tensor is a buffer), and do not detach, in training least of all"
    done = f"the input and {len(found) - 1} of {len(found) - 1} parameters, in both modes"
    return judged(not wrong, ", ".join(wrong) or done, remedy)


def _useless(found: dict[str, Tensor | None]) -> list[str]:
    """Which gradients are none, zero or not finite."""
    gradients = {name: g for name, g in found.items() if name != "the output"}
    dead = [f"none for {name}" for name, g in gradients.items() if g is None or not g.abs().max() > 0]
    return dead + [f"{name} (not finite)" for name, g in gradients.items() if g is not None and not g.isfinite().all()]


@check(
    "gradcheck",
    meaning="The gradients are those of the function, by finite differences in float64.",
    expected="differences up to 1e-7, or 1e-5 of the derivative",
    compares=True,
)
def gradcheck(subject: Subject) -> Outcome:
    """Input and parameters, each along a random direction; what a mixer does in float32, in float64 as well."""
    grid = subject.working(GRADCHECK_GRIDS)[0]
    layer, x = subject.build(grid, torch.float64), subject.tokens(2, grid)
    remedy = "compute in the input's dtype, or in float32, throughout, and do not detach; a custom backward may be wrong"
    if not subject.narrows:
        wrong = wrong_gradients(layer, x, grid)
        return judged(not wrong, "; ".join(wrong[:3]) or f"agrees at {shown(grid)}", remedy)
    with widened():
        try:
            wrong, how = wrong_gradients(layer, x, grid), "its steps in float32 taken in float64"
        except RuntimeError as e:  # two dtypes meet where one was widened: then as it is, and as coarse as float32 is
            with_coarse, how = True, f"in float32, as coarse as that is ({said(e)[:80]})"
        else:
            with_coarse = False
    if with_coarse:
        wrong = wrong_gradients(layer, x, grid, step=3e-3, least=1e-3, relative=2e-2)
    expected = "" if not with_coarse else "differences up to 1e-3, or 2 % of the derivative"
    return judged(not wrong, "; ".join(wrong[:3]) or f"agrees at {shown(grid)}, {how}", remedy, expected)


@check(
    "naive agreement",
    meaning="Where the class has a method naive(x, grid), outputs and every gradient equal the naive form's, on odd and"
    " non-square grids, in every order of evaluation that the layer has, with and without gradients.",
    expected=f"differences up to {TOLERANCE.exact:.0e}",
    compares=True,
)
def naive_agreement(subject: Subject) -> Outcome:
    """Outputs and gradients, batch 1 and 2, by every path."""
    if not hasattr(subject.build(subject.grid), "naive"):
        return not_applicable("it has no method naive(x, grid)")
    grids = subject.working(NAIVE_GRIDS) or [subject.grid]
    cases = [(grid, batch, 0) for grid in grids for batch in (1, 2)]
    cases += [(grids[0], 2, 1)] if subject.takes_prefix else []
    worst, where = max((_from_naive(subject, *case) for case in cases), key=lambda found: found[0])
    measured = f"{worst:.1e}{f' in {where}' if worst > subject.exact else ''}, over {len(grids)} grids"
    return judged(worst <= subject.exact, measured, "one of the two forms is wrong", subject.within)


def _from_naive(subject: Subject, grid: Grid, batch: int, prefix: int) -> tuple[float, str]:
    """The largest distance from the naive form, and where it is."""
    layer, x = subject.build(grid, torch.float64), subject.tokens(batch, grid, prefix=prefix)
    slow = gradients(layer, x, grid, naive=True)
    distances: dict[str, float] = {}
    for path in paths_of(layer):
        with evaluated_by(layer, path):
            fast = gradients(layer, x, grid)
            fast["the output without gradients"] = run(layer, x, grid)
        for name, value in fast.items():
            place = f"{name if name.startswith('the output') else f'the gradient of {name}'} at {shown(grid)}, batch {batch}"
            place += ", with a prefix token" if prefix else ""
            reference = slow[name.removesuffix(" without gradients")]
            distances[f"{place}{'' if path == 'auto' else f', path {path}'}"] = _distance(value, reference)
    where = max(distances, key=distances.__getitem__)
    return distances[where], where


def _distance(a: Tensor | None, b: Tensor | None) -> float:
    """How far two gradients are apart; none is zero."""
    if a is None or b is None:
        other = a if b is None else b
        return 0.0 if other is None else gap(other, torch.zeros_like(other))
    return gap(a, b)


@check(
    "prediction",
    meaning="Where the class has the methods predicted, with_prediction and without_prediction: its own prediction gives its"
    " output, in every order of evaluation, and zeros give the output without one.",
    expected=f"differences up to {TOLERANCE.exact:.0e}",
    compares=True,
)
def prediction(subject: Subject) -> Outcome:
    """The identities that `wfbench ablate` rests on, and that each image has a prediction of its own."""
    if not has_prediction(subject.build(subject.grid)):
        return not_applicable("it has no methods predicted, with_prediction and without_prediction, or predicts nothing")
    distances = {"an output": 0.0, "the output without a prediction": 0.0, "a prediction beside others": 0.0}
    for grid in subject.working(NAIVE_GRIDS) or [subject.grid]:
        layer, x = subject.build(grid, torch.float64), subject.tokens(3, grid)
        for path in paths_of(layer):
            with evaluated_by(layer, path), torch.no_grad():
                own, whole = layer.predicted(x, grid), run(layer, x, grid)  # type: ignore[operator]
                if len(own) != len(x):
                    return fails(f"a prediction of {tuple(own.shape)} for {len(x)} images", "predict for each image: (B, ...)")
                found = {
                    "an output": gap(layer.with_prediction(x, grid, own), whole),  # type: ignore[operator]
                    "the output without a prediction": gap(
                        layer.without_prediction(x, grid),  # type: ignore[operator]
                        layer.with_prediction(x, grid, torch.zeros_like(own)),  # type: ignore[operator]
                    ),
                    "a prediction beside others": gap(layer.predicted(x[1:2], grid), own[1:2]),  # type: ignore[operator]
                }
            distances = {name: max(found[name], worst) for name, worst in distances.items()}
    worst = max(distances, key=lambda name: distances[name])
    where = f" in {worst}" if distances[worst] > subject.exact else ""
    remedy = "the three methods and forward are not of one layer; see mixers.base.PredictingLayer"
    return judged(distances[worst] <= subject.exact, f"{distances[worst]:.1e}{where}", remedy, subject.within)


@check(
    "float32",
    meaning="float32 agrees with float64 for the same weights.",
    expected=f"differences up to {TOLERANCE.float32:.0e}, relative above 1",
    compares=True,
)
def float32(subject: Subject) -> Outcome:
    """On a square and an odd, non-square grid."""
    worst = 0.0
    for grid in subject.working(((4, 4), (5, 7))) or [subject.grid]:
        layer, x = subject.build(grid), subject.tokens(2, grid, torch.float32)
        y = run(layer, x, grid)
        exact = run(in_double(layer), x.double(), grid)
        worst = max(worst, gap(y, exact))
    return judged(worst <= TOLERANCE.float32, f"{worst:.1e}", "something cancels: sum in a better order, or scale first")


@check(
    "half precision",
    meaning="bfloat16 and float16 agree with float64 for the same weights.",
    expected=f"relative error up to {TOLERANCE.bfloat16:.0e} (bfloat16), {TOLERANCE.float16:.0e} (float16)",
    compares=True,
)
def half_precision(subject: Subject) -> Outcome:
    """The norm of the error by the norm of the output, with weights near their initialisation."""
    grid, said_, bad = subject.grid, [], []
    for name, allowed in (("bfloat16", TOLERANCE.bfloat16), ("float16", TOLERANCE.float16)):
        dtype = getattr(torch, name)
        layer, x = subject.build(grid, dtype, noise=0.02), subject.tokens(2, grid, dtype)
        y = run_in_half(layer, x, grid)
        if isinstance(y, RuntimeError):
            said_.append(f"{name}: the CPU has no such operator")
            continue
        error = _relative(y, run(in_double(layer), x.double(), grid))
        said_.append(f"{name} {error:.1e}")
        if not error <= allowed or y.dtype != dtype:
            bad.append(name)
    if all("no such operator" in line for line in said_):
        return not_applicable("; ".join(said_))
    return judged(not bad, "; ".join(said_), f"{', '.join(bad)}: sum and normalise in float32, or scale before the sum")


@check(
    "float16 range",
    meaning="At many tokens nothing overflows in float16: the output is finite and near float64's.",
    expected=f"every output finite, relative error up to {TOLERANCE.float16_range:.0e}",
    compares=True,
    slow=True,
)
def float16_range(subject: Subject) -> Outcome:
    """At 128x128 tokens, or at the largest smaller grid that a CPU does in seconds; and with heads of 64 channels."""
    wide = subject.at(64 * subject.heads)
    if subject.half_error:
        return not_applicable("it raises in half precision: see half precision")
    subjects = [subject, wide] if wide.dim > subject.dim and wide.home is not None else [subject]
    found, remedy = [], "scale before the sum over tokens, or sum in float32"
    for each in subjects:
        grid = _large(each)
        if grid is None:
            return not_applicable(NO_GRIDS)
        at = f"at dim {each.dim}, N = {grid[0] * grid[1]:,}"
        # As it is initialised: beside noisy biases, what a mixer averages over many tokens would vanish.
        layer, x = each.build(grid, torch.float16, noise=0.0), each.tokens(1, grid, torch.float16)
        y = run_in_half(layer, x, grid)
        if isinstance(y, RuntimeError):
            return not_applicable(f"the CPU lacks an operator: {said(y)}")
        wrong = int((~y.isfinite()).sum())
        if wrong:
            return fails(f"{wrong:,} of {y.numel():,} are not finite {at}", remedy)
        error = _relative(y, run(in_double(layer), x.double(), grid))
        found.append(f"relative error {error:.1e} {at}")
        if not error <= TOLERANCE.float16_range:
            return fails(found[-1], remedy)
    return holds("; ".join(found))


def _large(subject: Subject) -> Grid | None:
    """The first of the large square grids that a CPU does in seconds, else the last of them; None if it refuses them."""
    sides = subject.sides(subject.sizes.half)
    try:
        counted = dict(subject.growth()) if len(sides) > 1 else {}
    except Exception:  # what cannot be counted is tried where it is surely cheap
        counted = {}
    for side in sides:
        work = counted.get(side * side)
        cheap = work is not None and work.live < 2**29 and work.macs + 4 * work.elementwise < 1.5e9
        if side == sides[-1] or cheap:
            return side, side
    return None


def _relative(y: Tensor, exact: Tensor) -> float:
    """The norm of the error by the norm of what is exact."""
    return ((y.double() - exact).norm() / exact.norm().clamp_min(1e-30)).item()


@check(
    "state dict",
    meaning="The state dict, and a safetensors file of it, carry all that decides the output to a new instance.",
    expected="loads strictly, then bit-equal",
    compares=True,
)
def state_dict(subject: Subject) -> Outcome:
    """A fresh instance with other weights, after loading, computes the same bits."""
    grid = subject.grid
    layer, x = subject.build(grid), subject.tokens(2, grid, torch.float32)
    expected, state = run(layer, x, grid), layer.state_dict()
    ways = {"the state dict": state, "safetensors": load(save({k: v.contiguous() for k, v in state.items()}))}
    different = []
    for number, (way, weights) in enumerate(ways.items(), start=1):
        fresh = subject.build(grid, other=number)
        fresh.load_state_dict(weights, strict=True)
        y = run(fresh, x, grid)
        if not torch.equal(y, expected):
            different.append(f"through {way}: differs by {gap(y, expected):.1e}")
    remedy = "register every tensor that decides the output as a parameter or a persistent buffer"
    return judged(not different, "; ".join(different) or f"{len(state)} tensors, both ways bit-equal", remedy)


@check(
    "compile",
    meaning="torch.compile takes it in one piece and computes the same.",
    expected="fullgraph, backend aot_eager",
    required=False,
    compares=True,
    slow=True,
)
def compiles(subject: Subject) -> Outcome:
    """No graph break, and the eager result."""
    grid = subject.grid
    layer, x = subject.build(grid, torch.float64), subject.tokens(2, grid)
    torch._dynamo.reset()
    try:
        y = run(torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False), x, grid)  # type: ignore[arg-type]
    except Exception as e:
        return fails(said(e), "a graph break, most often: Python that looks at a tensor's values")
    finally:
        torch._dynamo.reset()
    off = gap(y, run(layer, x, grid))
    return judged(off <= subject.exact, f"one graph, {off:.1e} from eager", "compiled and eager code differ", subject.within)
