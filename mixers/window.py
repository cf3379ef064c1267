"""Window attention (Swin): softmax attention inside windows of the grid, which every second layer shifts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import Grid, MixerError, MixerSpec, check_path, check_tokens, heads_of, init_linear_
from mixers.options import AuthorOptions
from mixers.registry import register


def regions(side: int, window: int, shift: int) -> list[int]:
    """Which tokens of a padded, rolled side may attend to one another, by number: the last ``shift`` come from the start."""
    if not shift:
        return [0] * side
    return [0] * (side - window) + [1] * (window - shift) + [2] * shift


def parted(padded: Grid, window: Grid, shift: Grid, device: torch.device) -> Tensor:
    """Which pairs of tokens of a window the shift has brought together, though they are far apart on the grid.

    Shapes: (n, L, L), n windows of L tokens, row by row both. Cost: one comparison for each pair of a window's rows and of
    its columns, and one operation for each pair of its tokens.
    """
    apart = []
    for side, length, by in zip(padded, window, shift, strict=True):
        number = torch.tensor(regions(side, length, by), device=device).unflatten(0, (-1, length))
        apart.append(number[:, :, None] != number[:, None, :])  # (windows along the axis, length, length)
    rows, columns = apart[0][:, None, :, None, :, None], apart[1][None, :, None, :, None, :]
    return (rows | columns).flatten(4, 5).flatten(2, 3).flatten(0, 1)


def pair(what: str, value: object) -> Grid:
    """Rows and columns, of one number for both or of two, or of a text of two such as "(3, 4)"; of a window also "3x4".

    Raises:
        MixerError: for anything else. A shift is not read from "0x2", which is the number two to whoever reads options.
    """
    if isinstance(value, str):
        words = value.split("x") if what == "window" and "x" in value else value.strip("()[] ").split(",")
        if all(n.strip().isdecimal() for n in words):
            value = tuple(map(int, words)) * (2 if len(words) == 1 else 1)
    numbers = value if isinstance(value, (tuple, list)) else (value, value)
    if len(numbers) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers):
        raise MixerError(
            f"not a {what}",
            got=f"{what} = {value!r}",
            expected="a whole number of tokens, or a pair of them for rows and columns",
            remedy=f"write {what}={7 if what == 'window' else 3}",
        )
    return numbers[0], numbers[1]


@register(
    MixerSpec(
        name="window",
        token="window-attention",
        complexity="linear",
        formula="softmax(QKᵀ/√d + P) V inside windows of 7×7, shifted by 3 in every second layer; P relative position",
        source="Liu et al. 2021 (Swin Transformer), arXiv 2103.14030",
        status="certain",
        layout="grid",
    )
)
class WindowAttention(nn.Module):
    """O = softmax(Q Kᵀ / √d + P) V, per head and window, with X → (Q, K, V) and O → Y by a Linear each.

    The grid is cut into windows of w×w tokens, and tokens attend inside their own. With a shift s, the grid is first rolled
    by s rows up and s columns to the left, all around, and rolled back at the end; tokens that only the rolling has
    brought into one window do not attend to one another. P is a learned number for each head and each difference of
    places. A side of at most w tokens has one window of its own length and no shift. A grid that w does not divide is
    filled up at the bottom and on the right with tokens of zero, after the rolling.

    Shapes: X, Y (B, N, C) on a grid H×W, N = H·W; Q, K, V, O (B, n, h, L, d), n windows of L = w² tokens, d = C/h; the
    table of P ((2w − 1)², h), row difference first, of query less key.
    Cost: time 4MC² + 2MLC MACs, M = nL tokens with those of the filling; 6hML + 6MC elementwise with P or a shift, 5hML +
    6MC without; a shift ML + hML more for its mask and the comparisons of rows and columns, for all images together;
    memory O(M(C + hL)).
    Source: Liu et al. 2021 (Swin Transformer, arXiv 2103.14030), section 3.2.
    Status: certain (golden files of timm's Swin, outputs and gradients; equals softmax attention under an explicit mask).
    Deviations: as in timm, the filling takes part: its tokens have the biases for q, k and v, and tokens attend to them
    unless the shift's mask separates them; and as the filling comes after the rolling, rows that were rolled around are not
    separated from the last ones before them. On grids that w divides there is none of this. Separated pairs have weight
    zero; the authors' code subtracts 100 from the score. The table is that of the constructor's window on every grid, and a
    shorter side uses its middle part, where timm makes a smaller table: give ``from_reference`` the window of such weights,
    ``window_used``, in rows and columns (timm's ``window_size`` after construction). ``shift`` None is w // 2 in every second
    layer and 0 in the others. Either may be two numbers, for rows and columns: ``window=3x4``; the table then has
    (2·3 − 1)(2·4 − 1) rows.
    ``bias`` turns P off. Swin's stages, which merge tokens, are not in the skeleton that all mixers share.

    Raises:
        MixerError: if the heads do not divide the dimension, ``window`` is less than 1, or ``shift`` not in 0 to w − 1, or
            either is neither one number nor two.
    """

    #: The authors' parameter names are ours.
    reference_names: ClassVar[Mapping[str, str]] = {
        name: name for name in ("qkv.weight", "qkv.bias", "proj.weight", "proj.bias", "relative_position_bias_table")
    }

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int | None = None,
        grid: Grid | None = None,
        layer: int = 0,
        qkv_bias: bool = True,
        window: int | str | Grid = 7,
        shift: int | Grid | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        sides = pair("window", window)
        half = (sides[0] // 2, sides[1] // 2) if layer % 2 else (0, 0)
        shifts = half if shift is None else pair("shift", shift)
        if min(sides) < 1:
            raise MixerError(
                "a window holds no token", got=f"window = {window}", expected="at least 1", remedy="use 7, for example"
            )
        if not all(0 <= by < side for by, side in zip(shifts, sides, strict=True)):
            most = " and ".join(str(side - 1) for side in dict.fromkeys(sides))
            raise MixerError(
                "the shift is not shorter than the window",
                got=f"shift = {shift} for window = {window}",
                expected=f"0 to {most}",
                remedy="leave shift out: half the window in every second layer",
            )
        self.num_heads, self.window, self.shift = heads_of(dim, num_heads), sides, shifts
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        init_linear_(self.qkv, self.proj)
        places = (2 * sides[0] - 1) * (2 * sides[1] - 1)
        table = nn.init.trunc_normal_(torch.empty(places, self.num_heads), std=0.02) if bias else None
        self.relative_position_bias_table = None if table is None else nn.Parameter(table)

    def no_weight_decay(self) -> set[str]:
        """The table, as in the authors' training and in timm."""
        return set() if self.relative_position_bias_table is None else {"relative_position_bias_table"}

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the authors' names."""
        found: dict[str, object] = {"dim": state["proj.weight"].shape[0], "qkv_bias": "qkv.bias" in state}
        if "relative_position_bias_table" in state:
            rows = state["relative_position_bias_table"].shape[0]
            if math.isqrt(rows) ** 2 == rows:
                found["window"] = (math.isqrt(rows) + 1) // 2
        return found

    @classmethod
    def reference_options(cls, options: AuthorOptions) -> dict[str, object]:
        """Constructor arguments from the authors' options, or timm's; a table is that of the window that was used."""
        options.expect(mask_value=-100)
        given = {name: options.read(name) for name in ("window", "shift", "qkv_bias")}
        for name in ("window", "shift"):
            timms = options.read(f"{name}_size")
            if None not in (timms, given[name]) and pair(name, timms) != pair(name, given[name]):
                raise MixerError(
                    f"two numbers for the {name}",
                    got=f"{name} = {given[name]}, {name}_size = {timms}",
                    expected="one of the two",
                    remedy=f"leave {name}_size out",
                )
            given[name] = given[name] if timms is None else timms
        for name in ("window", "shift"):
            used = options.read(f"{name}_used")
            if used is None:
                continue
            if isinstance(used, str) and all(n.isdecimal() for n in used.split("x")):
                used = tuple(map(int, used.split("x")))  # but for "0x2", which has been read as 2: the same where it is used
            if given[name] is not None and any(a > b for a, b in zip(pair(name, used), pair(name, given[name]), strict=True)):
                raise MixerError(
                    f"a larger {name} was used than there was",
                    got=f"{name}_used = {used} for {name} = {given[name]}",
                    expected=f"at most {given[name]}",
                    remedy="leave one of them out",
                )
            given[name] = used
        return {name: value for name, value in given.items() if value is not None}

    def _cut(self, grid: Grid) -> tuple[Grid, Grid, Grid]:
        """Window, shift, and sides with the filling."""
        (h, w), most = grid, self.window
        window = min(h, most[0]), min(w, most[1])
        shift = (self.shift[0] if h > most[0] else 0), (self.shift[1] if w > most[1] else 0)
        return window, shift, (-(-h // window[0]) * window[0], -(-w // window[1]) * window[1])

    def _positions(self, window: Grid) -> Tensor | None:
        """P for all pairs of a window's tokens, (h, L, L); no operation but moves."""
        if self.relative_position_bias_table is None:
            return None
        (rows, columns), (h, w) = self.window, window
        table = self.relative_position_bias_table.unflatten(0, (2 * rows - 1, -1))[
            rows - h : rows + h - 1, columns - w : columns + w - 1
        ]
        # Row i + j of the table is for a query in row i and a key in row h − 1 − j.
        pairs = table.unfold(0, h, 1).unfold(1, w, 1).flip(-2, -1)  # (h, w, heads, h, w)
        return pairs.permute(2, 0, 1, 3, 4).flatten(3, 4).flatten(1, 2)

    def _scores(self, window: Grid, shift: Grid, padded: Grid, like: Tensor) -> Tensor | None:
        """What is added to the scores: P, and −∞ where the shift separates tokens; (1 or n, h, L, L), or None for nothing."""
        positions = self._positions(window)
        if not any(shift):
            return None if positions is None else positions.unsqueeze(0).to(like.dtype)
        if positions is None:
            length = window[0] * window[1]
            positions = like.new_zeros(self.num_heads, length, length)
        apart = parted(padded, window, shift, like.device).unsqueeze(1)  # (n, 1, L, L)
        return positions.to(like.dtype).masked_fill(apart, -math.inf)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        check_tokens(x, grid)
        (b, _, c), (window, shift, padded) = x.shape, self._cut(grid)
        cells, length = (padded[0] // window[0], padded[1] // window[1]), window[0] * window[1]
        x = x.unflatten(1, grid)  # (B, H, W, C)
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), dims=(1, 2))
        if padded != grid:
            x = F.pad(x, (0, 0, 0, padded[1] - grid[1], 0, padded[0] - grid[0]))
        x = x.unflatten(2, (cells[1], -1)).unflatten(1, (cells[0], -1)).transpose(2, 3)  # (B, rows, columns, wₕ, w_w, C)
        q, k, v = self.qkv(x.reshape(b, -1, length, c)).unflatten(3, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        scores = self._scores(window, shift, padded, q)
        # Windows that differ in their mask stand side by side as heads do; others stand apart as images do.
        side_by_side = (b, -1) if scores is not None and len(scores) > 1 else (-1, self.num_heads)
        mask = None if scores is None else scores.reshape(1, -1, length, length)
        q, k, v = (t.reshape(*side_by_side, length, c // self.num_heads) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        y = y.reshape(b, -1, self.num_heads, length, c // self.num_heads).transpose(2, 3).flatten(3)  # (B, n, L, C)
        y = self.proj(y).reshape(b, *cells, *window, c).transpose(2, 3).reshape(b, *padded, c)[:, : grid[0], : grid[1]]
        if any(shift):
            y = y.roll(shift, dims=(1, 2))
        return y.flatten(1, 2)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """By weights among all tokens and all of the filling, which are zero between windows and between regions."""
        check_tokens(x, grid)
        (h, w), (window, shift, padded), zero = grid, self._cut(grid), torch.zeros_like(x[:, 0])
        places = list(itertools.product(range(padded[0]), range(padded[1])))
        sources = [((i + shift[0]) % h * w + (j + shift[1]) % w) if i < h and j < w else None for i, j in places]
        moved = torch.stack([zero if source is None else x[:, source] for source in sources], dim=1)  # (B, M, C)
        q, k, v = (t.unflatten(2, (self.num_heads, -1)) for t in self.qkv(moved).chunk(3, dim=-1))
        scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / q.shape[-1] ** 0.5
        of_row, of_column = (regions(*axis) for axis in zip(padded, window, shift, strict=True))
        groups = [(i // window[0], j // window[1], of_row[i], of_column[j]) for i, j in places]
        together = torch.tensor([[a == b for b in groups] for a in groups], device=x.device)
        if self.relative_position_bias_table is not None:
            down, along = (side - 1 for side in self.window)  # the difference that is furthest negative has number 0
            steps = [[(i - s, j - t) for s, t in places] for i, j in places]
            steps = [[(dy, dx) if abs(dy) <= down and abs(dx) <= along else (0, 0) for dy, dx in row] for row in steps]
            rows = [[(dy + down) * (2 * along + 1) + dx + along for dy, dx in row] for row in steps]
            scores = scores + self.relative_position_bias_table[torch.tensor(rows, device=x.device)].permute(2, 0, 1)
        weights = scores.exp() * together
        y = self.proj(torch.einsum("bhnm,bmhd->bnhd", weights / weights.sum(dim=-1, keepdim=True), v).flatten(2))
        return torch.stack([y[:, sources.index(n)] for n in range(h * w)], dim=1)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch, of the filling too: projections, scores and values."""
        check_path(path)
        window, _, padded = self._cut(grid)
        m, c = padded[0] * padded[1], self.proj.in_features
        return batch * m * (4 * c * c + 2 * window[0] * window[1] * c)

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch; the mask of a shift is shared by the images."""
        window, shift, padded = self._cut(grid)
        m, c, pairs = padded[0] * padded[1], self.proj.in_features, math.prod(padded) * math.prod(window)
        biases = m * c * (4 if self.qkv.bias is not None else 1)
        added = self.relative_position_bias_table is not None or any(shift)
        attention = (5 + added) * self.num_heads * pairs + 2 * m * c  # the softmax, what is added, scaling q and k
        sides = sum(side * length for side, length in zip(padded, window, strict=True))
        mask = sides + (1 + self.num_heads) * pairs if any(shift) else 0
        return batch * (biases + attention) + mask
