"""Drop-path and dropout that follow from (seed, epoch, step, layer, sample), whatever else draws."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import timm.layers
import torch
from torch import Tensor, nn

from wfbench.models import key_of
from wfbench.models.skeleton import Block

_WORD = 2**32 - 1


class TrainingDraws:
    """What the layers of a model draw in training, as a function of (seed, epoch, step, layer's name, sample).

    Two models trained from one seed drop the same samples in every layer that both have. Neither other layers nor passes
    of fewer samples, several processes, gradient checkpointing or a resume change that.

    - `timm.layers.DropPath`, `nn.Dropout`, `nn.Dropout1d`, `2d` and `3d`, wherever they are in the model, get masks that
      depend on the sample's place in the whole batch. They are computed, the same on every device, and not drawn from
      PyTorch's random state. Dropout of an input whose first dimension is no multiple of the batch is as under the next point.
    - All else that draws in one of a Block's two slots (functional dropout, attention's, noise) finds PyTorch's random state
      seeded by the slot's name and the place of the pass's first sample. It is the same after a resume and in other layers'
      company, but another one in passes of other samples.
    - What draws outside the slots, and under `torch.compile` all that the first point does not name, finds it seeded once for
      each pass.

    Args:
        model: its layers of the kinds above take their masks from here; they stay the same modules otherwise.
        seed: the run's.
    """

    def __init__(self, model: nn.Module, seed: int) -> None:
        self.seed = seed
        for module in model.modules():
            if type(module) in _OWN:
                module.__class__ = _OWN[type(module)]  # so that its parent, its attributes and its hooks stay as they are
        self.layers: list[tuple[str, Any]] = [
            (name, m) for name, m in model.named_modules() if isinstance(m, tuple(_OWN.values()))
        ]
        self._pass: tuple[int, int, int] | None = None  # epoch, step, first sample
        self._device = torch.device("cpu")
        for name, module in model.named_modules():
            if isinstance(module, Block):
                for slot in ("mixer", "fc1"):
                    layer = module.get_submodule(slot)
                    layer.register_forward_pre_hook(functools.partial(self._seed_slot, f"{name}.{slot}"))

    @contextmanager
    def of_pass(self, epoch: int, step: int, places: Sequence[int], device: torch.device) -> Iterator[None]:
        """The draws of one forward and backward pass; PyTorch's random states are afterwards as they were.

        Args:
            epoch: from 0.
            step: within the epoch, from 0.
            places: of the pass's samples in the batch of all processes.
            device: that the pass runs on.
        """
        before = torch.get_rng_state()
        on_device = torch.get_device_module(device).get_rng_state() if device.type != "cpu" else None
        self._pass, self._device = (epoch, step, places[0]), device
        self._seed_all("")
        layers = [(name, layer) for name, layer in self.layers if _rate(layer)]
        words = [key_of(self.seed, epoch, step, name) & _WORD for name, _ in layers]
        samples = _scramble(_scramble(torch.tensor(places)) ^ torch.tensor(words, dtype=torch.int64).unsqueeze(1))
        if device.type == "cuda":
            samples = samples.pin_memory()  # so that the copy waits for nothing
        for (_, layer), row in zip(layers, samples.to(device, non_blocking=True), strict=True):
            layer.samples = row
        try:
            yield
        finally:
            for _, layer in layers:
                layer.samples = None
            self._pass = None
            torch.set_rng_state(before)
            if on_device is not None:
                torch.get_device_module(device).set_rng_state(on_device)

    def _seed_slot(self, name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not torch.compiler.is_compiling() and self._pass is not None and module.training:
            self._seed_all(name)

    def _seed_all(self, name: str) -> None:
        assert self._pass is not None
        key = key_of(self.seed, *self._pass, name)
        torch.default_generator.manual_seed(key)
        if self._device.type != "cpu":
            torch.get_device_module(self._device).manual_seed(key)


class DropPath(timm.layers.DropPath):
    """timm's, of the samples that ``samples`` decides, a word of 32 bits for each; None: drawn as timm does. x (k·B, …)."""

    samples: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if not self.training or not self.drop_prob or (samples := self.samples) is None or not _by_sample(x, samples):
            return super().forward(x)
        return x * _mask(x, samples, 1, self.drop_prob, self.scale_by_keep)


class Dropout(nn.Dropout):
    """PyTorch's, of the elements that ``samples`` decides: x (k·B, …), the k parts of a sample one after the other."""

    samples: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if not self.training or (samples := self.samples) is None or not _by_sample(x, samples):
            return super().forward(x)
        mask = _mask(x, samples, x.ndim, self.p)
        return x.mul_(mask) if self.inplace else x * mask


class _ChannelDropout(nn.modules.dropout._DropoutNd):
    """Drops whole channels of x (k·B, C, …), of ``ndim`` dimensions."""

    samples: Tensor | None = None
    ndim: int

    def forward(self, x: Tensor) -> Tensor:
        samples = self.samples
        if not self.training or samples is None or x.ndim != self.ndim or not _by_sample(x, samples):
            return super().forward(x)
        mask = _mask(x, samples, 2, self.p)
        return x.mul_(mask) if self.inplace else x * mask


class Dropout1d(_ChannelDropout, nn.Dropout1d):
    """PyTorch's, of the channels that ``samples`` decides: x (k·B, C, L)."""

    ndim = 3


class Dropout2d(_ChannelDropout, nn.Dropout2d):
    """PyTorch's, of the channels that ``samples`` decides: x (k·B, C, H, W)."""

    ndim = 4


class Dropout3d(_ChannelDropout, nn.Dropout3d):
    """PyTorch's, of the channels that ``samples`` decides: x (k·B, C, D, H, W)."""

    ndim = 5


_OWN: dict[type[nn.Module], Any] = {
    timm.layers.DropPath: DropPath,
    nn.Dropout: Dropout,
    nn.Dropout1d: Dropout1d,
    nn.Dropout2d: Dropout2d,
    nn.Dropout3d: Dropout3d,
}


def _rate(layer: Any) -> float:
    return float((layer.drop_prob if isinstance(layer, DropPath) else layer.p) or 0.0)


def _by_sample(x: Tensor, samples: Tensor) -> bool:
    return x.ndim > 0 and x.shape[0] > 0 and x.shape[0] % len(samples) == 0


def _mask(x: Tensor, samples: Tensor, dims: int, rate: float, scaled: bool = True) -> Tensor:
    """What x is multiplied by: 0 with probability ``rate``, else 1 / (1 - rate), or 1 if it is not ``scaled``.

    Shapes: x (k·B, …); samples (B); result that of x, with 1 for all but its first ``dims`` dimensions.
    """
    shape = x.shape[:dims]
    each, words = math.prod(shape) // len(samples), samples.unsqueeze(1)  # uniform from 0 to 2³² - 1
    if each > 1:
        words = _scramble(words ^ _scramble(torch.arange(each, device=x.device)))
    kept = (words >= round(rate * 2**32)).to(x.dtype).view(*shape, *[1] * (x.ndim - dims))
    return kept / (1 - rate) if scaled and rate < 1 else kept


def _scramble(x: Tensor) -> Tensor:
    """32-bit words, in int64, to as many others that look independent of them; no product leaves 63 bits.

    Source: the integer hash of two rounds with the least bias that is known, https://github.com/skeeto/hash-prospector.
    """
    x = (x ^ (x >> 16)) * 0x21F0AAAD & _WORD
    x = (x ^ (x >> 15)) * 0x735A2D97 & _WORD
    return x ^ (x >> 15)
