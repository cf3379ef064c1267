"""What makes a probe's accuracy mean something: that nothing leaks to a local model, and which layers mix far tokens."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from mixers.base import Grid
from wfbench.data.probes.dataset import ProbeSplit, one_hot
from wfbench.data.probes.probe import IGNORE, Canvases
from wfbench.errors import InputError
from wfbench.models import DenseModel, create_dense
from wfbench.models.skeleton import Block
from wfbench.records import LeakCheck

#: Canvases that the local readout is fitted to, and as many that it is tried on.
_CANVASES = 4096
#: Ridge of the readout, beside one-hot inputs.
_RIDGE = 1.0
#: Probability with which a binomial at the floor stays within the bound.
_SURE = 0.999


@functools.lru_cache(maxsize=8)
def check_leak(split: ProbeSplit, depth: int) -> LeakCheck:
    """Whether a model that sees only near tokens can know a probe's answers.

    Args:
        split: of training.
        depth: of the model, whose local convolutions reach so many tokens.

    Raises:
        InputError: where no question is out of a local model's reach.
    """
    from scipy import stats  # takes longer to import than a small run takes to train

    readout, floor, number = _local_readout(split, depth)
    bound = float(stats.binom.ppf(_SURE, number, floor)) / number
    return LeakCheck(gradient=local_gradient(split, depth), readout=readout, floor=floor, bound=bound)


def local_gradient(split: ProbeSplit, depth: int) -> float:
    """The largest derivative of an asked token's logits by what its answer depends on, of a network of convolutions.

    A random network of ``depth`` layers with a 3×3 convolution each, in float64, on the first canvas with a question that is
    checked. It is exactly 0 if no answer can be reached.
    """
    layout, probe = split.layout(split.grid), split.probe
    model = create_dense(
        "vit-tiny",
        "static",
        split.grid,
        num_classes=probe.answers,
        seed=0,
        patch_size=1,
        in_channels=sum(probe.planes),
        embed_dim=16,
        depth=depth,
        num_heads=1,
        pos_embed="none",
        local_conv="dwc",
    ).double()
    drawn = split.canvases([(0, i) for i in range(_CANVASES)])
    first = int((probe.checked(drawn, layout) != IGNORE).any(1).argmax())
    canvas = Canvases(drawn.planes[first : first + 1], drawn.labels[first : first + 1])
    x = one_hot(canvas, probe.planes, split.grid)[0].double().requires_grad_()
    logits = model(x).flatten(2)  # (1, answers, N)
    worst = 0.0
    for asked, sources in probe.sources(canvas, layout):
        (gradient,) = torch.autograd.grad(logits[:, :, torch.as_tensor(asked)].square().sum(), x, retain_graph=True)
        worst = max(worst, float(gradient.flatten(2)[:, :, torch.as_tensor(sources)].abs().max()))
    return worst


def _local_readout(split: ProbeSplit, depth: int) -> tuple[float, float, int]:
    """A linear readout of the window around an asked token: its accuracy, the local floor, and the canvases it was tried on.

    One asked token of each canvas, of those that are checked: those of one canvas are not independent. Of them a local model
    can only guess.
    """
    layout, probe = split.layout(split.grid), split.probe
    canvases = split.canvases([(0, i) for i in range(2 * _CANVASES)], seed=2**31)
    checked = probe.checked(canvases, layout)
    if not (checked != IGNORE).any():
        raise InputError(
            "no question is out of a local model's reach, so nothing can be checked",
            got=f"{split.section.name} at levels {', '.join(f'{level:g}' for level in split.section.levels)}; local layers see "
            f"{layout.gap} tokens far",
            expected="a level with questions farther away",
            remedy="set data.probe.levels to higher ones too",
        )
    canvases = Canvases(*(rows[some] for some in [(checked != IGNORE).any(1)] for rows in (canvases.planes, checked)))
    inputs, labels = one_hot(canvases, probe.planes, split.grid)
    asked = np.array([np.flatnonzero(row != IGNORE)[i % (row != IGNORE).sum()] for i, row in enumerate(canvases.labels)])
    x = _windows(inputs, torch.as_tensor(asked), depth)
    y = labels.flatten(1)[torch.arange(len(asked)), torch.as_tensor(asked)]
    fit, test = slice(0, len(asked) // 2), slice(len(asked) // 2, None)
    ridge = x[fit].T @ x[fit] + _RIDGE * torch.eye(x.shape[1])
    weights = torch.linalg.solve(ridge, x[fit].T @ torch.nn.functional.one_hot(y[fit], probe.answers).float())
    right = (x[test] @ weights).argmax(1) == y[test]
    floor = float(np.mean([probe.floors(level, layout).chance for level in split.section.levels]))
    return float(right.float().mean()), floor, len(right)


def _windows(inputs: Tensor, asked: Tensor, reach: int) -> Tensor:
    """What stands within ``reach`` of an asked token of each canvas: (B, features that are ever there, and a constant)."""
    b, channels, h, w = inputs.shape
    padded = torch.nn.functional.pad(inputs, (reach,) * 4)
    rows, columns = asked // w, asked % w
    side = torch.arange(2 * reach + 1)
    found = padded[
        torch.arange(b)[:, None, None], :, (rows[:, None] + side)[:, :, None], (columns[:, None] + side)[:, None, :]
    ]  # (B, side, side, channels)
    flat = found.reshape(b, -1)
    return torch.cat([flat[:, flat.any(0)], torch.ones(b, 1)], dim=1)


def global_layers(model: DenseModel, grid: Grid) -> int:
    """How many of a model's layers make a token's output depend on far tokens, further than a 3×3 convolution sees.

    By the derivative of the last token's output by the first token's input, on a random input (seed 0).
    """
    generator = torch.Generator().manual_seed(0)
    backbone = model.backbone.eval()
    dtype = next(backbone.parameters()).dtype
    x = torch.randn(1, grid[0] * grid[1], backbone.embed_dim, generator=generator, dtype=dtype)
    number = 0
    for block in backbone.blocks:
        assert isinstance(block, Block)
        tokens = x.clone().requires_grad_()
        with torch.enable_grad():
            last = block(tokens, grid)[:, -1]
            (gradient,) = torch.autograd.grad(last.square().sum(), tokens)
        number += bool(gradient[:, 0].abs().max() > 0)
    return number
