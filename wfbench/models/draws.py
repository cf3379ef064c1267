"""Initial values that follow from a parameter's name, so that what two models share begins equal, bit for bit."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Model = TypeVar("Model", bound=nn.Module)

#: Who owns each random draw of a construction, call by call: a parameter's name, or "" where no parameter keeps it.
_Owners = list[list[str]]

#: Python frames that PyTorch puts between an operator and the code that calls it.
_WRAPPERS = ("torch._dynamo.eval_frame", "torch._compile", "torch.utils._device", "torch.overrides")
_MOST_BUILDS = 4


def key_of(*parts: int | str) -> int:
    """A seed from 0 to 2⁶³ - 1 that follows from ``parts`` alone, by SHA-256."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def draw_by_name(seed: int, build: Callable[[], Model]) -> Model:
    """Build a model whose random initial values follow from (``seed``, name of the parameter or buffer).

    Two models that have a parameter of the same name, shape and initialiser begin with the same values of it, whatever else
    they are made of. The distributions stay those of the constructors: these run as they are, and only the random numbers
    that they get are chosen. Nothing needs to be declared, and any code in plain PyTorch will do: `torch.nn.init`, in-place
    draws into a slice, `torch.randn` whose result is decomposed before it becomes a parameter.

    The model is built twice. The first time, every operator is watched, to find which parameter each random number ends up
    in. The second time, the generator is seeded before each draw by the seed, the name of that parameter, and how many draws
    it had before. A draw that ends up in several parameters belongs to the first of them. Draws that a later fill overwrites
    count for nothing.

    Args:
        seed: of all values.
        build: makes the model, the same one each time, and has no other effect.

    Returns:
        The model, on PyTorch's default device. It is built on the CPU, so its values are the same on every device. PyTorch's
        random state is afterwards as it was. Draws of numpy and of Python's `random` are not covered.
    """
    owners: _Owners = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(_MOST_BUILDS):
            with torch.device("cpu"), _Construction(seed, owners) as construction:
                model = build()
            found = construction.owners(model)
            if construction.agrees_with(found):
                break
            owners = found
        else:
            warnings.warn(
                f"{type(model).__name__}: the order of its random draws depends on the numbers drawn, so its initial values "
                "follow from the seed, but are not all shared with other models; draw inside a function of its own",
                stacklevel=2,
            )
    return model.to(torch.get_default_device())


class _Construction(TorchDispatchMode):
    """Sees every operator while a model is built: seeds each random one, and follows where its numbers go.

    Draws are grouped by call: those that one execution of a Python function makes in a row. An initialiser that draws again
    and again until it likes the numbers, as PyTorch's `trunc_normal_` does, may so draw more or less often from one build to
    the next, and the calls that follow it are still recognised.
    """

    def __init__(self, seed: int, owners: _Owners) -> None:
        super().__init__()
        self.seed, self.expected = seed, owners
        self.calls: list[list[int]] = []  # the numbers of the draws of each call
        self.used: list[str] = []  # by number of the draw, whose it was taken to be
        self._count: Counter[str] = Counter()
        self._frame: FrameType | None = None
        # The draws that the numbers in a storage come from. A weak reference keeps the address from being used again.
        self._sources: dict[StorageWeakRef, frozenset[int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        random = torch.Tag.nondeterministic_seeded in func.tags
        drawn = frozenset([self._draw(sys._getframe(1))]) if random else frozenset[int]()
        written = _written(func, args, given)
        result = func(*args, **given)
        inputs = list(_tensors_in((args, given)))
        fills = bool(written) and (random or func.overloadpacket in _FILLS)
        sources = drawn.union(*(self.sources(t) for t in inputs if not (fills and any(t is w for w in written))))
        for tensor in written:
            whole = fills and tensor.numel() * tensor.element_size() >= tensor.untyped_storage().nbytes()
            self._sources[_storage(tensor)] = sources if whole else sources | self.sources(tensor)
        known = {_storage(tensor) for tensor in inputs}
        for tensor in _tensors_in(result):
            if _storage(tensor) not in known:
                self._sources[_storage(tensor)] = sources
        return result

    def __exit__(self, *error: Any) -> None:
        self._frame = None
        super().__exit__(*error)

    def sources(self, tensor: Tensor) -> frozenset[int]:
        """The numbers of the draws that a tensor's values come from."""
        return self._sources.get(_storage(tensor), frozenset())

    def owners(self, model: nn.Module) -> _Owners:
        """Who owns each draw, now that names are known."""
        names: dict[int, str] = {}
        for name, tensor in _named_tensors(model):
            for draw in self.sources(tensor):
                names.setdefault(draw, name)
        return [[names.get(draw, "") for draw in call] for call in self.calls]

    def agrees_with(self, owners: _Owners) -> bool:
        """Whether every draw that a parameter keeps was seeded as its own."""
        found = [name for call in owners for name in call]
        return all(name in ("", used) for name, used in zip(found, self.used, strict=True))

    def _draw(self, frame: FrameType | None) -> int:
        """Seed the next draw, made by the code in ``frame``; its number."""
        while frame is not None and frame.f_globals.get("__name__") in _WRAPPERS:
            frame = frame.f_back
        if frame is not self._frame or not self.calls:
            self.calls.append([])
            self._frame = frame
        number, place = len(self.used), len(self.calls) - 1
        expected = self.expected[place] if place < len(self.expected) else [""]
        owner = expected[min(len(self.calls[place]), len(expected) - 1)]
        torch.default_generator.manual_seed(key_of(self.seed, owner, self._count[owner]))
        self._count[owner] += 1
        self.calls[place].append(number)
        self.used.append(owner)
        return number


#: Operators in place that leave nothing of what was there; random ones do so too.
_FILLS = (torch.ops.aten.fill_, torch.ops.aten.zero_, torch.ops.aten.copy_)


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that an operator changes in place."""
    values = []
    for k, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            values.append(args[k] if k < len(args) else kwargs.get(argument.name))
    return list(_tensors_in(values))


def _tensors_in(values: Any) -> Iterator[Tensor]:
    return (t for t in tree_leaves(values) if isinstance(t, Tensor) and t.layout == torch.strided)


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers, and tensors that are plain attributes of a module, under their full names."""
    yield from model.named_parameters()
    yield from model.named_buffers()
    for prefix, module in model.named_modules():
        yield from ((f"{prefix}.{name}", t) for name, t in vars(module).items() if isinstance(t, Tensor))
