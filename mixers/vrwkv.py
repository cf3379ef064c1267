"""Vision-RWKV: weighted means of all tokens, by keys and by the distance along the row order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import (
    Grid,
    MixerError,
    MixerSpec,
    at_least_float32,
    check_path,
    check_tokens,
    init_linear_,
    to_map,
    to_tokens,
    without_autocast,
)
from mixers.options import AuthorOptions
from mixers.registry import register

#: Tokens of a chunk, and chunks of a chunk of chunks.
CHUNK = 8
#: The key of what is not there: its weight is 0, and so is its gradient.
ABSENT = -1e30


def in_chunks(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (B, N, C) in chunks, (B, T, c, C), filled up with tokens that are not there."""
    missing = (0, 0, 0, -int(k.shape[1]) % CHUNK)  # a tracer's sizes are tensors
    return F.pad(k, missing, value=ABSENT).unflatten(1, (-1, CHUNK)), F.pad(v, missing).unflatten(1, (-1, CHUNK))


def merged(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Many tokens as one: log Σ eᵏ, and the mean of v with weights eᵏ; over the second but last dimension."""
    return k.logsumexp(dim=-2), (k.softmax(dim=-2) * v).sum(dim=-2)


def earlier(tokens: tuple[Tensor, Tensor], w: Tensor) -> tuple[Tensor, Tensor]:
    """For each token t one token that stands for all earlier ones, as t sees them: log Σ e^Lₜᵢ and the mean of vᵢ, i < t.

    Lₜᵢ = kᵢ − (t − i − 1) w. Tokens merge to chunks, and what comes before each chunk is the same task for the chunks, whose
    distances are c times as long.

    Shapes: k, v and both results (B, N, C); w (C).
    """
    k, v = tokens
    n = int(k.shape[1])
    if n == 1:
        return torch.full_like(k, ABSENT), torch.zeros_like(v)
    keys, values = in_chunks(k, v)  # (B, T, c, C)
    place = torch.arange(CHUNK, dtype=w.dtype, device=w.device)
    whole = merged(keys - (CHUNK - 1 - place).unsqueeze(1) * w, values)  # (B, T, C) each: the chunks, from their ends
    before_k, before_v = earlier(whole, CHUNK * w)
    distance = (place.unsqueeze(1) - place - 1).unsqueeze(2)  # (c, c, 1), of t and i
    seen = torch.where(distance >= 0, keys.unsqueeze(2) - distance * w, ABSENT)  # (B, T, c, c, C)
    outside = before_k.unsqueeze(2) - place.unsqueeze(1) * w  # (B, T, c, C)
    read_k, read_v = merged(
        torch.cat([seen, outside.unsqueeze(3)], dim=3),
        torch.cat([values.unsqueeze(2).expand_as(seen), before_v[:, :, None, None].expand(-1, -1, CHUNK, -1, -1)], dim=3),
    )
    return read_k.flatten(1, 2)[:, :n], read_v.flatten(1, 2)[:, :n]


def bi_wkv(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """yₜ = Σᵢ e^Lₜᵢ vᵢ / Σᵢ e^Lₜᵢ, channel by channel: Lₜᵢ = kᵢ − (|t − i| − 1) w, and kₜ + u for the token itself.

    Each token reads its chunk one by one, and what comes before and after the chunk as one token each (`earlier`). Every step
    is a mean with weights of a softmax, so that nothing overflows, whatever the sign of w.

    Shapes: w, u (C); k, v and the result (B, N, C). Cost: elementwise, O(NC c), without a MAC; memory O(NC c).
    """
    n = int(k.shape[1])
    keys, values = in_chunks(k, v)  # (B, T, c, C)
    place = torch.arange(CHUNK, dtype=w.dtype, device=w.device)
    after = (CHUNK - 1 - place).unsqueeze(1) * w  # (c, C): from a token to the end of its chunk
    before = place.unsqueeze(1) * w
    past = earlier(merged(keys - after, values), CHUNK * w)  # key and value, (B, T, C)
    key, value = merged(keys - before, values)
    turned = key.flip(1), value.flip(1)
    future = [t.flip(1) for t in earlier(turned, CHUNK * w)]
    distance = (place.unsqueeze(1) - place).abs().unsqueeze(2)  # (c, c, 1)
    bonus = torch.where(distance == 0, u, (1 - distance) * w)  # (c, c, C)
    seen = torch.cat(
        [
            keys.unsqueeze(2) + bonus,
            (past[0].unsqueeze(2) - before).unsqueeze(3),
            (future[0].unsqueeze(2) - after).unsqueeze(3),
        ],
        dim=3,
    )
    every = torch.cat([values, past[1].unsqueeze(2), future[1].unsqueeze(2)], dim=2)  # (B, T, c + 2, C)
    y = (seen.softmax(dim=3) * every.unsqueeze(2)).sum(dim=3)  # (B, T, c, C)
    return y.flatten(1, 2)[:, :n]


def bi_wkv_elementwise(n: int, dim: int) -> tuple[int, int]:
    """Elementwise operations of `bi_wkv` for each image of n tokens, and those that the images share."""
    c, padded = CHUNK, -(-n // CHUNK) * CHUNK
    each, shared = _earlier_elementwise(padded // c, dim)
    merging = 2 * 12 * padded  # the shift of the keys, a log-sum-exp, a softmax, a weighted sum
    reading = padded * (c + 2) + 7 * padded * (c + 2)  # keys; softmax, product, sum
    return 2 * each + dim * (merging + reading), 2 * shared + dim * (2 * c + 2 + 2 * c * c) + c + 4 * c * c


def _earlier_elementwise(n: int, dim: int) -> tuple[int, int]:
    """The same of `earlier`."""
    if n == 1:
        return 0, 0
    c, padded = CHUNK, -(-n // CHUNK) * CHUNK
    each, shared = _earlier_elementwise(padded // c, dim)
    reading = 2 * padded * c + padded + 11 * padded * (c + 1)
    return each + dim * (12 * padded + reading), shared + dim * (2 * c + 1 + c * c) + c + 3 * c * c


def naive_bi_wkv(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same as `bi_wkv`, by the N×N weights of each channel: the naive reference, O(N²)."""
    n, rows = k.shape[1], []
    for t in range(n):
        steps = torch.tensor([[abs(t - i) - 1.0] for i in range(n)], dtype=k.dtype, device=k.device)
        row = k - steps * w
        rows.append(torch.cat([row[:, :t], k[:, t : t + 1] + u, row[:, t + 1 :]], dim=1))
    weights = torch.stack(rows, dim=1)  # (B, t, i, C)
    weights = (weights - weights.logsumexp(dim=2, keepdim=True)).exp()
    return torch.einsum("btic,bic->btc", weights, v)


def q_shift(x: Tensor, grid: Grid, pixels: int) -> Tensor:
    """Quarters of the channels from the left, right, upper and lower neighbour, zeros beyond the border; the rest stays."""
    maps, quarter = to_map(x, grid), int(x.shape[2]) // 4
    down, along = (min(pixels, side) for side in grid)
    left, right, upper, lower, rest = maps.split([quarter] * 4 + [int(x.shape[2]) - 4 * quarter], dim=1)
    moved = [
        F.pad(part, sides)  # a negative side is cut off
        for part, sides in (
            (left, (along, -along, 0, 0)),
            (right, (-along, along, 0, 0)),
            (upper, (0, 0, down, -down)),
            (lower, (0, 0, -down, down)),
        )
    ]
    return to_tokens(torch.cat([*moved, rest], dim=1))


def naive_q_shift(x: Tensor, grid: Grid, pixels: int) -> Tensor:
    """The same as `q_shift`, token by token."""
    (h, w), quarter, rows = grid, x.shape[2] // 4, []
    for n in range(h * w):
        row, column = divmod(n, w)
        parts = []
        for i, (down, along) in enumerate(((0, -pixels), (0, pixels), (-pixels, 0), (pixels, 0))):
            there = 0 <= row + down < h and 0 <= column + along < w
            part = x[:, (row + down) * w + column + along if there else n, i * quarter : (i + 1) * quarter]
            parts.append(part if there else torch.zeros_like(part))
        rows.append(torch.cat([*parts, x[:, n, 4 * quarter :]], dim=1))
    return torch.stack(rows, dim=1)


_MIXES = ("spatial_mix_k", "spatial_mix_v", "spatial_mix_r")


@register(
    MixerSpec(
        name="vrwkv",
        token="bidirectional-weighted-key-value",
        complexity="linear",
        formula="σ(r) ⊙ Σᵢ e^(kᵢ − (|t−i|−1) w/N) vᵢ / Σᵢ …, bonus u/N for the token itself; q-shift before k, v, r",
        source="Duan et al. 2024 (Vision-RWKV), arXiv 2403.02308",
        status="certain",
        layout="grid",
    )
)
class VRWKV(nn.Module):
    """Y = (σ(r) ⊙ y) Wₒ, yₜ = Σᵢ e^Lₜᵢ vᵢ / Σᵢ e^Lₜᵢ by channel, Lₜᵢ = kᵢ − (|t − i| − 1) w/N, and kₜ + u/N where i = t.

    k = X_k W_k, v = X_v W_v, r = X_r W_r, where X_k = μ_k X + (1 − μ_k) shift(X), and X_v, X_r likewise. The shift takes a
    quarter of the channels each from the left, right, upper and lower neighbour. w and u are learned, one for each channel,
    w of either sign; distances are along the row order.

    Shapes: X, Y, k, v, r, y (B, N, C) on a grid H×W, N = H·W; w, u, μ (C).
    Cost: time 4NC² MACs, and elementwise about 141NC for the core with chunks of 8 tokens, and 9NC, 5NC more with key_norm;
    memory O(NC), about 10 numbers for each of k.
    Source: Duan et al. 2024 (Vision-RWKV, arXiv 2403.02308), the spatial mix and equations of Bi-WKV.
    Status: certain for the paper's formula (golden files of the authors' module around its N×N sum; chunks equal that sum).
    The start is a reconstruction, which no golden file holds: w, u and μ as a first layer of RWKV (arXiv 2305.13048) has
    them, in every layer, since no layer knows how many there are; Linears as the bench's.
    Deviations: the released CUDA kernel differs from the paper's formula by some per cent (it weights tokens by chunk); this
    is the formula, without the kernel's 1e-6 in the denominator. ``shift`` is how many tokens away a neighbour is; ``local``
    turns the shift off, as does ``shift=0``: there are no μ then. ``gate`` off leaves out r, NC² MACs and 4NC elementwise
    (2NC without a shift). 16-bit keys and values are weighted in 32 bits.

    Raises:
        MixerError: if ``shift`` is negative.
    """

    reference_names: ClassVar[Mapping[str, str]] = {
        "key.weight": "key.weight",
        "value.weight": "value.weight",
        "receptance.weight": "receptance.weight",
        "output.weight": "proj.weight",
        **{name: name for name in ("spatial_decay", "spatial_first", *_MIXES, "key_norm.weight", "key_norm.bias")},
    }

    def __init__(self, dim: int, *, shift: int = 1, local: bool = True, key_norm: bool = False, gate: bool = True) -> None:
        super().__init__()
        if shift < 0:
            raise MixerError(
                "a shift by fewer than no tokens", got=f"shift = {shift}", expected="0 or more", remedy="use 1, or local=False"
            )
        self.shift = shift if local else 0
        key, value, receptance, proj = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        init_linear_(key, value, receptance, proj)
        self.key, self.value, self.receptance, self.proj = key, value, receptance if gate else None, proj
        channel = torch.arange(dim, dtype=torch.float32)
        self.spatial_decay = nn.Parameter(8 * (channel / max(1, dim - 1)) ** 0.7 - 5)
        self.spatial_first = nn.Parameter(torch.full((dim,), 0.3).log() + ((channel + 1) % 3 - 1) / 2)
        if self.shift:
            for name, power in zip(self._mixes, (1.0, 1.0, 0.5), strict=False):
                self.register_parameter(name, nn.Parameter((channel / dim).pow(power).reshape(1, 1, dim)))
        self.key_norm = nn.LayerNorm(dim) if key_norm else None

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the reference names."""
        return {
            "dim": state["output.weight"].shape[0],
            "local": any(name in state for name in _MIXES),
            "gate": "receptance.weight" in state or _MIXES[2] in state,
            "key_norm": any(name.startswith("key_norm") for name in state),
        }

    @classmethod
    def reference_options(cls, options: AuthorOptions) -> dict[str, object]:
        """What the authors call these options; the shift by quarters is the only one."""
        options.expect(channel_gamma=0.25)
        found = {"shift": options.read("shift_pixel"), "key_norm": options.read("key_norm")}
        return {key: value for key, value in found.items() if value is not None}

    @property
    def _mixes(self) -> tuple[str, ...]:
        """The names of the μ: those of k and v, and that of r where there is a gate."""
        return _MIXES if self.receptance is not None else _MIXES[:2]

    def _mix(self, x: Tensor, grid: Grid, naive: bool) -> Tensor:
        check_tokens(x, grid)
        n, exact = grid[0] * grid[1], at_least_float32(x)
        inputs = [x, x, x]
        if self.shift:
            shifted = (naive_q_shift if naive else q_shift)(x, grid, self.shift)
            difference = x - shifted
            inputs = [shifted + getattr(self, name) * difference for name in self._mixes]
        k, v = self.key(inputs[0]), self.value(inputs[1])
        with without_autocast(x):
            w, u = (t.to(exact) / n for t in (self.spatial_decay, self.spatial_first))
            y = (naive_bi_wkv if naive else bi_wkv)(w, u, k.to(exact), v.to(exact))
        y = y.to(v.dtype)
        if self.key_norm is not None:
            y = self.key_norm(y)
        return self.proj(y if self.receptance is None else self.receptance(inputs[2]).sigmoid() * y)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        return self._mix(x, grid, naive=False)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """By the N×N weights of each channel, and neighbours token by token."""
        return self._mix(x, grid, naive=True)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch: the Linears."""
        check_path(path)
        return (4 if self.receptance is not None else 3) * batch * grid[0] * grid[1] * self.proj.in_features**2

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch; the images share distances, w and u."""
        n, c = grid[0] * grid[1], self.proj.in_features
        each, shared = bi_wkv_elementwise(n, c)
        gate = 2 if self.receptance is not None else 0  # σ(r) and its product
        mixes = 1 + 2 * len(self._mixes) if self.shift else 0
        around = mixes + (5 if self.key_norm is not None else 0) + gate
        return batch * (each + n * c * around) + shared + 2 * c
