"""Gradients against finite differences, tensor by tensor: fast, and it can say which gradient is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mixers.base import Grid

_WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}


class _Widened(TorchDispatchMode):
    """Whatever is asked for in float32 is made in float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") in _WIDER:
            kwargs["dtype"] = _WIDER[kwargs["dtype"]]
        return func(*args, **kwargs)


@contextmanager
def widened() -> Iterator[None]:
    """Let what a layer does in float32 be done in float64: the same function, without the rounding."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widened():
            yield
    finally:
        torch.set_default_dtype(before)


def wrong_gradients(
    layer: nn.Module, x: Tensor, grid: Grid, *, step: float = 1e-6, least: float = 1e-7, relative: float = 1e-5
) -> list[str]:
    """What is wrong with the gradients of the input and of each parameter; an empty list where they are right.

    The output is weighted by random numbers of its own, and each tensor is moved along one random direction of length 1: a
    central difference of two forward passes for each tensor, against one backward pass for all.

    Args:
        layer: in float64.
        x: tokens (B, N, C).
        grid: theirs.
        step: how far each tensor is moved, both ways.
        least: a difference so small is none.
        relative: nor is one so small by the derivative.
    """
    values = {name: p.detach() for name, p in layer.named_parameters() if p.requires_grad}
    given = {"the input": x.detach()} | values
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        y = layer(x.clone(), grid)
        weight = torch.randn(y.shape, dtype=y.dtype, generator=generator) / max(1, y.numel()) ** 0.5

    def value(tensors: Mapping[str, Tensor]) -> Tensor:
        own = {name: t for name, t in tensors.items() if name != "the input"}
        z = torch.func.functional_call(layer, own, (tensors["the input"].clone(), grid))
        return (z.to(torch.float64) * weight).sum()

    def analytic() -> list[Tensor | None]:
        moving = {name: t.clone().requires_grad_() for name, t in given.items()}
        out = value(moving)
        if not out.requires_grad:
            return [None] * len(given)
        return list(torch.autograd.grad(out, list(moving.values()), allow_unused=True))

    first, again = analytic(), analytic()
    wrong = []
    for (name, tensor), gradient, repeated in zip(given.items(), first, again, strict=True):
        if gradient is not None and repeated is not None and not torch.equal(gradient, repeated):
            wrong.append(f"the gradient of {name} is another at the second backward pass")
        direction = torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator)
        direction /= direction.norm().clamp_min(1e-30)
        with torch.no_grad():
            ahead, behind = (value(given | {name: tensor + sign * step * direction}).item() for sign in (1, -1))
        measured = (ahead - behind) / (2 * step)
        claimed = 0.0 if gradient is None else (gradient.conj() * direction).sum().real.item()
        if not abs(measured - claimed) <= least + relative * abs(measured):
            wrong.append(f"along a direction of {name} the derivative is {measured:.6g}, and the gradient says {claimed:.6g}")
    return wrong
