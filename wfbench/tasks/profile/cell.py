"""One cell of a profile: one model with one mixer at one resolution, and how it is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from wfbench import models
from wfbench.analysis.lines import scheduled
from wfbench.diffusion import denoising_loss
from wfbench.models import AnyModel, Config, DenseModel, DiT

#: The backends of scaled_dot_product_attention that exist on a device, under the names that rows give them.
BACKENDS = {
    "cpu": ("flash", "math"),
    "cuda": ("flash", "efficient", "cudnn", "math"),
}
AUTO = "chosen by PyTorch"
_KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
#: Batches of one compiled model: a throughput doubles the batch, and 64 doublings are more than any memory holds.
MOST_SHAPES = 64
#: From inputs, what goes beside them and the targets, to the call that is timed.
Work = Callable[[torch.Tensor, list[torch.Tensor], torch.Tensor], Callable[[], object]]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Cell:
    """What is measured; it can be written as JSON and made again in another process.

    ``resolution`` is a side of the image in pixels, ``downsample`` how many of them are one of the model's input, along a
    side: 8 where a DiT works on latents. ``overrides`` are keyword arguments of `wfbench.models.create`; ``variant`` says in
    words what they change beside the factors. ``named_model`` is what rows call the model; with a ``decoder`` it predicts
    a class at every pixel, on a backbone that is trained or ``frozen``. ``backend`` is a name of `BACKENDS`, which is then
    forced, or `AUTO`.
    """

    model: str
    mixer: str
    resolution: int
    batch: int
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)
    variant: str = ""
    backend: str = AUTO
    mode: Literal["infer", "train"] = "infer"
    dtype: str = "float32"
    compiled: bool = False
    channels_last: bool = False
    device: str = "cpu"
    downsample: int = 1
    named_model: str = ""
    decoder: str | None = None
    frozen: bool = False

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """What tells it from the other cells of a session."""
        return scheduled(self.config), self.variant, self.backend, self.resolution, self.batch

    @property
    def name(self) -> str:
        """In words, for people."""
        backend = "" if self.backend == AUTO else f"[{self.backend}]"
        parts = filter(None, [scheduled(self.config), self.variant, backend])
        return f"{' '.join(parts)} at {self.resolution} px"

    @cached_property
    def config(self) -> Config:
        """The model's configuration."""
        return models.configure(self.model, self.mixer, self.resolution // self.downsample, **self.overrides)

    @property
    def tokens(self) -> int:
        """N of one image."""
        return (self.config.image_size[0] // self.config.patch_size) ** 2

    @property
    def dtype_label(self) -> str:
        """As rows name it: weights are cast in inference; in training they stay float32 and the step runs under autocast."""
        return f"{self.dtype} autocast" if self.mode == "train" and self.dtype != "float32" else self.dtype

    def build(self) -> AnyModel:
        """The model, as it is created, with the same weights every time."""
        torch.manual_seed(0)
        if self.decoder is not None:
            return models.create_dense(
                self.model, self.mixer, self.resolution, decoder=self.decoder, frozen=self.frozen, **self.overrides
            )
        return models.create(self.model, self.mixer, self.resolution // self.downsample, **self.overrides)

    def call(self) -> Callable[[], object]:
        """What is timed: one forward pass, or one training step, of the whole batch on the device."""
        return self.calls()(self.batch)

    def calls(self) -> Callable[[int], Callable[[], object]]:
        """The same for batches of any size, which share one model (and optimiser): from a batch to its call."""
        model = self.build()
        model.to(self.device)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        work = self._training(model.train()) if self.mode == "train" else self._inference(model.eval())

        def of_batch(batch: int) -> Callable[[], object]:
            generator = torch.Generator().manual_seed(0)
            x, *more = (t.to(self.device) for t in model.example_inputs(batch, generator=generator))
            dense = isinstance(model, DenseModel)
            classes = model.num_classes if isinstance(model, DenseModel) else model.config.num_classes
            places = model.config.image_size if dense else ()
            targets = torch.randint(max(1, classes), (batch, *places), generator=generator).to(self.device)
            if self.channels_last:
                x = x.to(memory_format=torch.channels_last)
            return work(x, more, targets)

        return of_batch

    def _inference(self, model: AnyModel) -> Work:
        model.to(DTYPES[self.dtype])
        run = self._compiled(model)

        def of_inputs(x: torch.Tensor, more: list[torch.Tensor], targets: torch.Tensor) -> Callable[[], object]:
            x = x.to(DTYPES[self.dtype])

            @torch.inference_mode()
            def forward() -> object:
                with self._attention():
                    return run(x, *more)

            return forward

        return of_inputs

    def _training(self, model: AnyModel) -> Work:
        """Forward, cross-entropy (of a DiT, its own loss), backward, AdamW."""
        run = self._compiled(model)
        denoising = denoising_loss(model.null_class) if isinstance(model, DiT) else None
        draws = torch.Generator(self.device).manual_seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        scaler = torch.amp.GradScaler(self.device, enabled=self.dtype == "float16")
        mixed = self.dtype != "float32"

        def of_inputs(x: torch.Tensor, more: list[torch.Tensor], targets: torch.Tensor) -> Callable[[], object]:
            def step() -> object:
                optimizer.zero_grad(set_to_none=True)
                with self._attention(), torch.autocast(self.device, DTYPES[self.dtype], enabled=mixed):
                    loss = denoising(run, x, targets, draws) if denoising else F.cross_entropy(run(x), targets)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                return loss

            return step

        return of_inputs

    def _compiled(self, model: AnyModel) -> torch.nn.Module:
        """The model, or what the compiler makes of it for each shape apart; what it made for other models is forgotten."""
        if not self.compiled:
            return model
        torch.compiler.reset()
        torch._dynamo.config.recompile_limit = MOST_SHAPES  # beyond its limit it would run uncompiled, and not say so
        compiled: torch.nn.Module = torch.compile(model, dynamic=False)  # type: ignore[assignment]
        return compiled

    def _attention(self) -> AbstractContextManager[object]:
        return nullcontext() if self.backend == AUTO else sdpa_kernel(_KERNELS[self.backend])
