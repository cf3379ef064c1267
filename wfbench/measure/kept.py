"""What layers keep for themselves beside parameters and buffers: tables made at the first call, tensors in plain attributes.

A count runs a model on another device. It must find such tensors there, and leave none of its own behind.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

#: What is looked into no further.
_CLOSED = (nn.Module, torch.dtype, torch.device, torch.Generator, type, types.FunctionType, types.MethodType, types.ModuleType)
_DEEPEST = 6


@contextlib.contextmanager
def put_back(model: nn.Module, device: str, *, weights: bool = False) -> Iterator[None]:
    """For a while, the tensors that the model's layers keep for themselves are on this device; then all is as it was.

    Attributes, lists, dicts and plain objects are followed; parameters and buffers go along with ``weights`` only. What a layer
    made, replaced or registered in between is forgotten, hooks too.
    """
    undo: list[Callable[[], None]] = []
    seen: set[int] = set()
    try:
        for module in model.modules():
            _remember(vars(module), undo)
            for name, value in list(vars(module).items()):
                if name in ("_parameters", "_buffers", "_modules") or "_hooks" in name:
                    if isinstance(value, dict):
                        _remember(value, undo)
                    if weights and name in ("_parameters", "_buffers"):
                        value.update({key: _weight(t, device) for key, t in value.items() if t is not None})
                else:
                    vars(module)[name] = _moved(value, device, undo, seen, 0)
        yield
    finally:
        for step in reversed(undo):
            step()


def _weight(tensor: Tensor, device: str) -> Tensor:
    if tensor.device.type == device:
        return tensor
    moved = _on(tensor, device)
    return nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved


def _on(tensor: Tensor, device: str) -> Tensor:
    """The tensor on a device; zeros for one of which there is only the shape."""
    return torch.zeros_like(tensor, device=device) if tensor.is_meta and device != "meta" else tensor.detach().to(device)


def _remember(values: dict[Any, Any], undo: list[Callable[[], None]]) -> None:
    saved = list(values.items())

    def restore() -> None:
        values.clear()
        values.update(saved)

    undo.append(restore)


def _moved(value: Any, device: str, undo: list[Callable[[], None]], seen: set[int], depth: int) -> Any:
    """The value with its tensors on the device; containers stay the same objects, and are remembered."""
    if isinstance(value, Tensor):
        return value if isinstance(value, nn.Parameter) else _on(value, device)
    if depth > _DEEPEST or isinstance(value, _CLOSED) or id(value) in seen:
        return value
    if isinstance(value, tuple):
        moved = [_moved(x, device, undo, seen, depth + 1) for x in value]
        if all(a is b for a, b in zip(moved, value, strict=True)):
            return value
        return type(value)(*moved) if hasattr(value, "_fields") else tuple(moved)
    if isinstance(value, list):
        seen.add(id(value))
        saved = list(value)
        undo.append(lambda: value.__setitem__(slice(None), saved))
        value[:] = [_moved(x, device, undo, seen, depth + 1) for x in value]
    elif isinstance(value, dict):
        seen.add(id(value))
        _remember(value, undo)
        for key, x in list(value.items()):
            value[key] = _moved(x, device, undo, seen, depth + 1)
    elif hasattr(value, "__dict__") and not type(value).__module__.startswith(("torch._C", "torch.utils", "builtins")):
        seen.add(id(value))
        _remember(vars(value), undo)
        for key, x in list(vars(value).items()):
            vars(value)[key] = _moved(x, device, undo, seen, depth + 1)
    return value
