"""What makes a probe's accuracy mean something: that nothing leaks to a local model, and which layers mix far tokens."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mixers.base import Grid
from wfbench.data.probes.dataset import Condition, ProbeDataset, ProbeSplit, one_hot
from wfbench.data.probes.probe import IGNORE, Canvases
from wfbench.data.reading import Key
from wfbench.errors import InputError
from wfbench.models import DenseModel, create_dense
from wfbench.models.skeleton import Block
from wfbench.records import LeakCheck

#: Canvases of training that the local readouts are fitted to, and as many that they are tried on; so many are drawn at once.
_CANVASES, _AT_ONCE = 4096, 256
#: Questions of held-out canvases that they are fitted to.
_HELD_OUT = 2048
#: Ridge of the linear readout, beside one-hot inputs.
_RIDGE = 1.0
#: A table of two symbols and an answer may have so many entries; of a larger one the pairs that do occur are numbered.
_ENTRIES = 2**20
#: Of the places near an asked token that ever differ, the readout of pairs looks at so many, the nearest first.
_PLACES = 50
#: Probability with which binomials at the floor stay within their bounds, all of them.
_SURE = 0.999


class _Questions(NamedTuple):
    """Asked tokens, with what stands near them.

    Shapes: near (n, places · planes), the nearest first, 0 for nothing and k for a plane's k-th symbol; answers (n,).
    """

    near: np.ndarray
    answers: np.ndarray


@functools.lru_cache(maxsize=8)
def check_leak(dataset: ProbeDataset, depth: int) -> LeakCheck:
    """Whether a model that sees only near tokens can know a probe's answers.

    On canvases of training, and on held-out ones of the last level on the last grid: a network of convolutions must have a
    gradient of 0 from what the answers depend on, and of two readouts of what stands near an asked token neither may beat the
    floor. One is linear; the other knows the most frequent answer for each pair of symbols at two places.

    Args:
        dataset: the probe.
        depth: of the model, whose local convolutions reach so many tokens.

    Raises:
        InputError: where no question of training is out of a local model's reach.
    """
    from scipy import stats  # takes longer to import than a small run takes to train

    last = dataset.drawn - 1
    parts = (
        (dataset.train, [(0, i) for i in range(2 * _CANVASES)], 2**31, dataset.conditions[: dataset.trained], _CANVASES),
        (dataset.val, [(0, i) for i in dataset.indices(last)], 0, dataset.conditions[last : last + 1], _HELD_OUT),
    )
    sure = 1 - (1 - _SURE) / (2 * len(parts))
    gradient, found = 0.0, []
    for split, keys, seed, conditions, number in parts:
        fit = _questions(split, keys[: len(keys) // 2], seed, depth, -(-2 * number // len(keys)))
        test = _questions(split, keys[len(keys) // 2 :], seed, depth, 1)
        if not len(fit.answers) or not len(test.answers):
            if split is dataset.train:
                raise _nothing_to_check(split)
            continue
        gradient = max(gradient, local_gradient(split, keys, seed, depth))
        floor = _chance(split, conditions)
        bound = float(stats.binom.ppf(sure, len(test.answers), floor)) / len(test.answers)
        for readout in (_linear_readout, _pair_readout):
            accuracy = readout(fit, test, dataset.probe.answers)
            found.append(LeakCheck(gradient=0.0, readout=accuracy, floor=floor, bound=bound))
    worst = max(found, key=lambda one: one.readout - one.bound)
    return worst.model_copy(update={"gradient": gradient})


def local_gradient(split: ProbeSplit, keys: Sequence[Key], seed: int, depth: int) -> float:
    """The largest derivative of an asked token's logits by what its answer depends on, of a network of convolutions.

    A random network of ``depth`` layers with a 3×3 convolution each, in float64, on the first canvas of ``keys`` with a
    question that is checked. It is exactly 0 if no answer can be reached.
    """
    grid, probe = split.grid_of(list(keys)), split.probe
    model = create_dense(
        "vit-tiny",
        "static",
        grid,
        num_classes=probe.answers,
        seed=0,
        patch_size=1,
        in_channels=sum(probe.planes),
        embed_dim=16,
        depth=depth,
        num_heads=1,
        pos_embed="none",
        local_conv="dwc",
    )
    return source_gradient(model, split, keys, seed)


def source_gradient(model: DenseModel, split: ProbeSplit, keys: Sequence[Key], seed: int) -> float:
    """The largest derivative of an asked token's logits by what its answer depends on, in float64.

    On the first canvas of ``keys`` with a question that is checked. It is exactly 0 if no answer can be reached.
    """
    grid, probe = split.grid_of(list(keys)), split.probe
    layout, model = split.layout(grid), copy.deepcopy(model).cpu().double().eval()
    canvas = next(
        Canvases(drawn.planes[first : first + 1], drawn.labels[first : first + 1])
        for drawn, checked in _drawn(split, keys, seed)
        for first in np.flatnonzero((checked != IGNORE).any(1))[:1]
    )
    x = one_hot(canvas, probe.planes, grid)[0].double().requires_grad_()
    logits = model(x).flatten(2)  # (1, answers, N)
    worst = 0.0
    for asked, sources in probe.sources(canvas, layout):
        (gradient,) = torch.autograd.grad(logits[:, :, torch.as_tensor(asked)].square().sum(), x, retain_graph=True)
        worst = max(worst, float(gradient.flatten(2)[:, :, torch.as_tensor(sources)].abs().max()))
    return worst


def _nothing_to_check(split: ProbeSplit) -> InputError:
    return InputError(
        "no question is out of a local model's reach, so nothing can be checked",
        got=f"{split.section.name} at levels {', '.join(f'{level:g}' for level in split.section.levels)}; local layers see "
        f"{split.section.gap} tokens far",
        expected="a level with questions farther away",
        remedy="set data.probe.levels to higher ones too",
    )


def _chance(split: ProbeSplit, conditions: Sequence[Condition]) -> float:
    """What a local model may reach where it can only guess, the mean over conditions."""
    return float(np.mean([split.probe.floors(c.level, split.layout(c.grid)).chance for c in conditions]))


def _drawn(split: ProbeSplit, keys: Sequence[Key], seed: int) -> Iterator[tuple[Canvases, np.ndarray]]:
    """Canvases, some at a time, with the labels of their questions that a local model can but guess."""
    layout = split.layout(split.grid_of(list(keys)))
    for first in range(0, len(keys), _AT_ONCE):
        canvases = split.canvases(list(keys[first : first + _AT_ONCE]), seed)
        yield canvases, split.probe.checked(canvases, layout)


def _questions(split: ProbeSplit, keys: Sequence[Key], seed: int, reach: int, each: int) -> _Questions:
    """At most ``each`` checked questions of each canvas, with what stands within ``reach`` of them.

    Those of one canvas are not independent: where readouts are tried, there is one of each.
    """
    if not keys:
        return _Questions(np.zeros((0, 0), np.int64), np.zeros(0, np.int64))
    h, w = split.grid_of(list(keys))
    side, count = np.arange(2 * reach + 1), 0
    nearest = np.maximum(*np.abs(np.meshgrid(side - reach, side - reach))).ravel().argsort(kind="stable")
    near: list[np.ndarray] = []
    answers: list[np.ndarray] = []
    for canvases, checked in _drawn(split, keys, seed):
        planes = canvases.planes.reshape(len(checked), -1, h, w)
        shape = (-1, len(nearest), planes.shape[1])
        padded = np.pad(planes, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
        asked = [np.flatnonzero(row != IGNORE) for row in checked]
        chosen = [
            (row, places[(count + row + k) % len(places)])
            for row, places in enumerate(asked)
            for k in range(min(each, len(places)))
        ]
        count += len(checked)
        rows, tokens = np.array(chosen, dtype=np.int64).reshape(-1, 2).T
        down, across = (tokens // w)[:, None] + side, (tokens % w)[:, None] + side
        found = padded[rows[:, None, None], :, down[:, :, None], across[:, None, :]]  # (n, side, side, planes)
        near.append(found.reshape(shape)[:, nearest].reshape(-1, shape[1] * shape[2]))
        answers.append(checked[rows, tokens])
    return _Questions(np.concatenate(near), np.concatenate(answers))


def _linear_readout(fit: _Questions, test: _Questions, answers: int) -> float:
    """The accuracy of a linear readout of the symbols near, one-hot, fitted by ridge regression."""
    occurring = [(place, symbol) for place, column in enumerate(fit.near.T) for symbol in np.unique(column) if symbol]

    def features(found: _Questions) -> Tensor:
        columns = [found.near[:, place] == symbol for place, symbol in occurring]
        return torch.from_numpy(np.stack([*columns, np.ones(len(found.near), bool)], axis=1).astype(np.float32))

    x = features(fit)
    y = torch.nn.functional.one_hot(torch.from_numpy(fit.answers), answers).float()
    weights = torch.linalg.solve(x.T @ x + _RIDGE * torch.eye(x.shape[1]), x.T @ y)
    return float(((features(test) @ weights).argmax(1).numpy() == test.answers).mean())


def _pair_readout(fit: _Questions, test: _Questions, answers: int) -> float:
    """The accuracy of a table: for each pair of symbols at two places near, the most frequent answer.

    Whatever two symbols tell together, it finds: a sum modulo their number, or whether they are the same. The places are those
    whose table, of one half of what is fitted, is right most often in the other half; both may be one.
    """
    varying = np.flatnonzero((fit.near != fit.near[:1]).any(0))[:_PLACES]
    pairs = list(itertools.combinations_with_replacement(varying.tolist(), 2)) or [(0, 0)]  # the latter where nothing differs
    half = len(fit.answers) // 2
    halves = [_Questions(fit.near[part], fit.answers[part]) for part in (slice(0, half), slice(half, None))]
    best = max(pairs, key=lambda pair: _table(halves[0], halves[1], pair, answers))
    return _table(fit, test, best, answers)


def _table(fit: _Questions, test: _Questions, pair: tuple[int, int], answers: int) -> float:
    """How often the most frequent answer in ``fit`` for the symbols at two places is right in ``test``."""
    both = np.concatenate([fit.near[:, list(pair)], test.near[:, list(pair)]])
    codes = both[:, 0] * (int(both[:, 1].max()) + 1) + both[:, 1]
    if (int(codes.max()) + 1) * answers > _ENTRIES:
        codes = np.unique(codes, return_inverse=True)[1]
    counts = np.bincount(codes[: len(fit.answers)] * answers + fit.answers, minlength=(int(codes.max()) + 1) * answers)
    said = counts.reshape(-1, answers).argmax(1)
    return float((said[codes[len(fit.answers) :]] == test.answers).mean())


def global_layers(model: DenseModel, grid: Grid) -> int:
    """How many of a model's layers make a token's output depend on far tokens, further than a 3×3 convolution sees.

    By the derivatives of the outputs of a token in a corner and one in the middle by all others, on a random input (seed 0).
    """
    generator = torch.Generator().manual_seed(0)
    backbone = model.backbone.eval()
    dtype = next(backbone.parameters()).dtype
    x = torch.randn(1, grid[0] * grid[1], backbone.embed_dim, generator=generator, dtype=dtype)
    places = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1]))
    number = 0
    for block in backbone.blocks:
        assert isinstance(block, Block)
        tokens = x.clone().requires_grad_()
        with torch.enable_grad():
            outputs = block(tokens, grid)[0]
            is_far = False
            for asked in (len(places) - 1, grid[0] // 2 * grid[1] + grid[1] // 2):
                (gradient,) = torch.autograd.grad(outputs[asked].square().sum(), tokens, retain_graph=True)
                beyond = (places - places[asked]).abs().amax(1) > 1
                is_far |= bool((gradient[0, beyond] != 0).any())
        number += is_far
    return number
