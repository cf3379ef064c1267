"""Profiling: mixers × resolutions, each cell a row, with exponents and crossovers beside them."""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mixers import MixerError
from wfbench import models, records
from wfbench.errors import InputError
from wfbench.measure import PROTOCOL, FlopCount, Timed, crossover, is_out_of_memory, local_exponents, time_interleaved
from wfbench.models import VisionTransformer
from wfbench.records import AnyRow, CrossoverRow, Environment, ProfileRow, ScalingRow
from wfbench.tasks.common import try_count

BASELINE = "softmax"
#: What is counted is what is timed: the evaluation path that runs.
PATH = "auto"


@dataclass(frozen=True)
class ProfileRequest:
    """What to measure: a model with each mixer at each resolution (sides in pixels), in inference.

    ``local_conv`` and ``pos_embed`` hold for every mixer; None is what the model's preset has.
    """

    model: str = "vit-tiny"
    mixers: tuple[str, ...] = ("softmax", "linear", "weightformer")
    resolutions: tuple[int, ...] = (224, 448, 672, 896)
    batch: int = 1
    rounds: int = 10
    order_seed: int = 0
    device: str = "cpu"
    local_conv: str | None = None
    pos_embed: str | None = None

    @property
    def overrides(self) -> dict[str, Any]:
        """What differs from the preset, as keyword arguments of `wfbench.models.create`."""
        chosen = {"local_conv": self.local_conv, "pos_embed": self.pos_embed}
        return {key: value for key, value in chosen.items() if value is not None}


@dataclass
class _Cell:
    mixer: str
    resolution: int
    model: VisionTransformer | None = None
    count: FlopCount | None = None
    count_error: str | None = None
    failure: Timed | None = None

    @property
    def key(self) -> str:
        return f"{self.mixer} at {self.resolution} px"


def profile(request: ProfileRequest, told: Callable[[str], None] = lambda line: None) -> list[AnyRow]:
    """Measure the request.

    Args:
        request: what to measure.
        told: hears of each cell that is done with a stage.

    Returns:
        A row for every cell, failed ones included; then the local exponents; then the crossovers against softmax.

    Raises:
        InputError, MixerError: for a model, mixer or resolution that cannot be; nothing has been measured then.
    """
    cells = [_Cell(m, r) for m in dict.fromkeys(request.mixers) for r in sorted(set(request.resolutions))]
    _check(request)
    environment, began = records.environment(request.device), records.now()
    for cell in cells:
        _build(cell, request)
        told(f"{cell.key}: built and counted")
    device = torch.device(request.device)
    calls = {c.key: _call(c.model, request.batch, device) for c in cells if c.model is not None}
    timed = time_interleaved(
        calls, rounds=request.rounds, order_seed=request.order_seed, done=lambda key, stage: told(f"{key}: {stage}")
    )
    session = uuid.uuid4().hex[:12]
    rows = [_row(cell, cell.failure or timed[cell.key], request, session, environment, began) for cell in cells]
    return [*rows, *_scaling(rows), *_crossovers(rows)]


def _check(request: ProfileRequest) -> None:
    for name, value in (
        ("--resolution", min(request.resolutions, default=0)),
        ("--batch", request.batch),
        ("--rounds", request.rounds),
    ):
        if value < 1:
            raise InputError(f"{name} must be positive", got=value, expected="1 or more")
    for mixer in request.mixers:
        models.configure(request.model, mixer, **request.overrides)
    for resolution in request.resolutions:  # one cheap layer finds what is wrong with the model or the resolution
        with torch.device("meta"):
            models.create(request.model, request.mixers[0], resolution, depth=1, **request.overrides)


def _build(cell: _Cell, request: ProfileRequest) -> None:
    torch.manual_seed(0)
    try:
        model = models.create(request.model, cell.mixer, cell.resolution, **request.overrides).eval()
        shape = (request.batch, model.config.in_channels, cell.resolution, cell.resolution)
        cell.count, cell.count_error = try_count(model, shape, PATH)
        cell.model = model.to(request.device)
    except (InputError, MixerError):
        raise
    except Exception as e:  # a cell that cannot be built is a row that says so
        status = "oom" if is_out_of_memory(e) else "error"
        cell.failure = Timed(status, f"{type(e).__name__}: {' '.join(str(e).split())[:300]}")


def _call(model: VisionTransformer, batch: int, device: torch.device) -> Callable[[], object]:
    shape = (batch, model.config.in_channels, *model.config.image_size)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)

    @torch.inference_mode()
    def forward() -> torch.Tensor:
        return model(x)

    return forward


def _row(cell: _Cell, timed: Timed, request: ProfileRequest, session: str, environment: Environment, began: str) -> ProfileRow:
    quartiles = statistics.quantiles(timed.samples, method="inclusive") if len(timed.samples) > 1 else timed.samples * 3
    config = models.configure(request.model, cell.mixer, **request.overrides)
    return ProfileRow(
        environment=environment,
        created=began,
        session=session,
        model=request.model,
        mixer=cell.mixer,
        local_conv=config.local_conv,
        pos_embed=config.pos_embed,
        resolution=(cell.resolution, cell.resolution),
        tokens=(cell.resolution // config.patch_size) ** 2,
        batch=request.batch,
        mode="infer",
        dtype="float32",
        sdpa_backend="chosen by PyTorch",
        path=PATH,
        protocol=PROTOCOL,
        order_seed=request.order_seed,
        status=timed.status,
        message=timed.message,
        parameters=None if cell.model is None else sum(p.numel() for p in cell.model.parameters()),
        macs=None if cell.count is None else cell.count.macs,
        elementwise=None if cell.count is None else cell.count.elementwise,
        counted_by=() if cell.count is None else tuple(sorted(cell.count.counts)),
        macs_error=cell.count_error,
        samples=tuple(timed.samples),
        median=quartiles[1] if timed.samples else None,
        p25=quartiles[0] if timed.samples else None,
        p75=quartiles[2] if timed.samples else None,
    )


def _scaling(rows: Sequence[ProfileRow]) -> list[ScalingRow]:
    """Of the rows of one request: their factors are the same."""
    result = []
    for mixer in dict.fromkeys(row.mixer for row in rows):
        done = [row for row in rows if row.mixer == mixer and row.median is not None]
        for low, high in zip(done, done[1:], strict=False):
            tokens = (low.tokens, high.tokens)
            macs = None if low.macs is None or high.macs is None else local_exponents(tokens, (low.macs, high.macs))[0]
            result.append(
                ScalingRow(
                    environment=high.environment,
                    created=high.created,
                    session=high.session,
                    model=high.model,
                    mixer=mixer,
                    local_conv=high.local_conv,
                    pos_embed=high.pos_embed,
                    low=low.resolution,
                    high=high.resolution,
                    tokens=tokens,
                    latency_exponent=local_exponents(tokens, (low.median or 0.0, high.median or 0.0))[0],
                    macs_exponent=macs,
                )
            )
    return result


def _crossovers(rows: Sequence[ProfileRow]) -> list[CrossoverRow]:
    """Against the baseline, over the resolutions at which both were measured; at least two are needed."""
    base = {row.tokens: row for row in rows if row.mixer == BASELINE and row.median is not None}
    result = []
    for mixer in dict.fromkeys(row.mixer for row in rows if row.mixer != BASELINE):
        common = [row for row in rows if row.mixer == mixer and row.median is not None and row.tokens in base]
        if len(common) < 2:
            continue
        tokens = [row.tokens for row in common]
        found = crossover(tokens, [row.median or 0.0 for row in common], [base[n].median or 0.0 for n in tokens])
        pixels_per_token = common[0].resolution[0] / tokens[0] ** 0.5
        result.append(
            CrossoverRow(
                environment=common[0].environment,
                created=common[0].created,
                session=common[0].session,
                model=common[0].model,
                mixer=mixer,
                local_conv=common[0].local_conv,
                pos_embed=common[0].pos_embed,
                baseline=BASELINE,
                verdict=found.verdict,
                side=None if found.tokens is None else found.tokens**0.5 * pixels_per_token,
                smallest_side=common[0].resolution[0],
                largest_side=common[-1].resolution[0],
            )
        )
    return result
