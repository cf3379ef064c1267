"""Checks of what a mixer computes: contract, images apart, determinism, gradients, dtypes, weights that travel."""

from __future__ import annotations

import math

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError

from mixers.base import Grid, evaluated_by, has_prediction
from wfbench.tasks.verify.judge import Outcome, check, fails, holds, judged, not_applicable, said
from wfbench.tasks.verify.subject import HOMES, NO_GRIDS, TOLERANCE, Subject, gap, gradients, in_double, paths_of, run, shown

NAIVE_GRIDS: tuple[Grid, ...] = ((4, 4), (5, 7), (2, 3), (7, 2))
BATCH_GRIDS: tuple[Grid, ...] = ((4, 4), (5, 7), (4, 6))
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
        return [] if str(wide.dim) in str(e) else [f"at dim {wide.dim}: {said(e)}"]
    except Exception as e:
        return [f"at dim {wide.dim}: {said(e)}"]
    expected = (2, grid[0] * grid[1], wide.out_dim)
    return [] if tuple(y.shape) == expected else [f"at dim {wide.dim}: shape {tuple(y.shape)} instead of {expected}"]


@check(
    "batch independence",
    meaning="Each image gives alone what it gives in a batch, and a neighbour full of NaN does it no harm.",
    expected=f"differences up to {TOLERANCE.exact:.0e}",
    compares=True,
)
def batch_independence(subject: Subject) -> Outcome:
    """f(X)[i] against f(X[i:i+1]), in evaluation and in training, and beside a poisoned image."""
    worst, notes = 0.0, []
    grids = subject.working(BATCH_GRIDS) or [subject.grid]
    for grid, prefix in [*((grid, 0) for grid in grids), *((grid, 1) for grid in grids[:1] if subject.takes_prefix)]:
        layer, x = _without_dropout(subject.build(grid, torch.float64)), subject.tokens(5, grid, prefix=prefix)
        for mode in (False, True):
            layer.train(mode)
            if mode and not torch.equal(run(layer, x, grid), run(layer, x, grid)):
                notes.append("random in training, so judged in evaluation only")
                continue
            whole = run(layer, x, grid)
            alone = torch.cat([run(layer, x[i : i + 1], grid) for i in range(len(x))])
            worst = max(worst, gap(whole, alone))
        layer.eval()
        poisoned = x.clone()
        poisoned[1] = math.nan
        beside = gap(run(layer, poisoned, grid)[::2], run(layer, x, grid)[::2])
        if beside > TOLERANCE.exact:
            notes.append(f"an image of NaN changes its neighbours at {shown(grid)}")
            worst = max(worst, beside)
    remedy = "mix over tokens and channels only; look at every reshape that touches the batch"
    return judged(worst <= TOLERANCE.exact, "; ".join([f"{worst:.1e}", *dict.fromkeys(notes)]), remedy)


def _without_dropout(layer: nn.Module) -> nn.Module:
    for module in layer.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return layer


@check(
    "determinism",
    meaning="In evaluation the same input gives the same bits, whatever came between, and torch's random state is left alone.",
    expected="bit-equal",
)
def determinism(subject: Subject) -> Outcome:
    """f(X) twice, then again after another input, and after eval(); and the global generator."""
    grid = subject.grid
    layer, x = subject.build(grid), subject.tokens(2, grid, torch.float32)
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
    remedy = "switch dropout and noise off with self.training; keep no state between calls; seed a generator of your own"
    return judged(not different, "; ".join(different) or f"{len(cases)} calls bit-equal", remedy)


@check(
    "gradients",
    meaning="A gradient reaches the input and every parameter.",
    expected="every one finite and not all zero",
)
def every_gradient(subject: Subject) -> Outcome:
    """Names the parameters that get none."""
    grid = subject.grid
    found = gradients(subject.build(grid, torch.float64), subject.tokens(2, grid), grid)
    del found["the output"]
    dead = [name for name, g in found.items() if g is None or not g.abs().max() > 0]
    broken = [f"{name} (not finite)" for name, g in found.items() if g is not None and not g.isfinite().all()]
    wrong = [*(f"none for {name}" for name in dead), *broken]
    remedy = "use the parameter or remove it (a fixed tensor is a buffer), and do not detach"
    return judged(not wrong, ", ".join(wrong) or f"the input and {len(found) - 1} of {len(found) - 1} parameters", remedy)


@check(
    "gradcheck",
    meaning="The gradients are those of the function, by finite differences in float64.",
    expected="torch.autograd.gradcheck, fast mode",
    compares=True,
)
def gradcheck(subject: Subject) -> Outcome:
    """Input and parameters."""
    grid = subject.working(GRADCHECK_GRIDS)[0]
    layer, x = subject.build(grid, torch.float64), subject.tokens(2, grid).requires_grad_()
    values = {name: p.detach().clone().requires_grad_() for name, p in layer.named_parameters() if p.requires_grad}

    def function(x: Tensor, *given: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(values, given, strict=True)), (x.clone(), grid))

    try:
        # Tighter than the default, under which a gradient that is 1 % wrong passes.
        torch.autograd.gradcheck(function, (x, *values.values()), fast_mode=True, atol=1e-8, rtol=1e-5)
    except GradcheckError as e:
        return fails(said(e), "compute in the input's dtype throughout, and do not detach; a custom backward may be wrong")
    return holds(f"agrees at {shown(grid)}")


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
    measured = f"{worst:.1e}{f' in {where}' if worst > TOLERANCE.exact else ''}, over {len(grids)} grids"
    return judged(worst <= TOLERANCE.exact, measured, "one of the two forms is wrong")


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
    where = f" in {worst}" if distances[worst] > TOLERANCE.exact else ""
    remedy = "the three methods and forward are not of one layer; see mixers.base.PredictingLayer"
    return judged(distances[worst] <= TOLERANCE.exact, f"{distances[worst]:.1e}{where}", remedy)


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
        y = _run_in_half(layer, x, grid)
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
)
def float16_range(subject: Subject) -> Outcome:
    """At 128x128 tokens, or at the largest smaller grid that a CPU does in seconds; and with heads of 64 channels."""
    wide = subject.at(64 * subject.heads)
    subjects = [subject, wide] if wide.dim > subject.dim and wide.home is not None else [subject]
    found, remedy = [], "scale before the sum over tokens, or sum in float32"
    for each in subjects:
        grid = _large(each)
        if grid is None:
            return not_applicable(NO_GRIDS)
        at = f"at dim {each.dim}, N = {grid[0] * grid[1]:,}"
        # As it is initialised: beside noisy biases, what a mixer averages over many tokens would vanish.
        layer, x = each.build(grid, torch.float16, noise=0.0), each.tokens(1, grid, torch.float16)
        y = _run_in_half(layer, x, grid)
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
        cheap = work is not None and work.live < 2**29 and work.macs + 4 * work.elementwise < 4e9
        if side == sides[-1] or cheap:
            return side, side
    return None


def _run_in_half(layer: nn.Module, x: Tensor, grid: Grid) -> Tensor | RuntimeError:
    """The output, or the error where an operator does not exist for half precision here, which is no fault of the mixer."""
    words = ("not implemented for", "unsupported dtype", "expected both inputs to be half")
    try:
        return run(layer, x, grid)
    except RuntimeError as e:
        if isinstance(e, NotImplementedError) or any(word in str(e).lower() for word in words):
            return e
        raise


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
    return judged(off <= TOLERANCE.exact, f"one graph, {off:.1e} from eager", "compiled and eager code differ")
