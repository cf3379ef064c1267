"""How a model knows where a token is: the kinds of position, the fixed embedding, and what each needs."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

import mixers
from mixers.base import Grid, at_least_float32
from wfbench.errors import InputError, did_you_mean

#: How a model knows where a token is. "none": not at all, but for what its mixer knows. "learned": an embedding, added
#: once, interpolated at another resolution. "sincos": `sincos_2d`, added once. "rope2d": nothing is added; every active
#: mixer turns its q and k by their place (`mixers.base.rotary_2d`).
Position = Literal["none", "learned", "sincos", "rope2d"]


def sincos_2d(grid: Grid, dim: int, *, like: Tensor, base: float = 10000.0) -> Tensor:
    """The fixed position embedding of a grid: sines and cosines of each token's column and row.

    With ω_k = base^(-k/(C/4)), k < C/4, a token in row i and column j gets, in this order, sin(j ω), cos(j ω), sin(i ω)
    and cos(i ω), C/4 channels each.

    Shapes: result (H·W, C), row by row, in the dtype and on the device of ``like``; 4 divides C.
    Source: MAE (arXiv 2111.06377) and DiT (arXiv 2212.09748), whose code puts the column before the row.
    """
    exact, (h, w) = at_least_float32(like), grid
    speed = base ** (torch.arange(dim // 4, dtype=exact, device=like.device) / (-dim / 4))
    halves = []
    for side, shape in ((w, (1, w, -1)), (h, (h, 1, -1))):
        angle = torch.arange(side, dtype=exact, device=like.device).unsqueeze(1) * speed  # (side, C/4)
        halves.append(torch.cat([angle.sin(), angle.cos()], dim=1).view(shape).expand(h, w, dim // 2))
    return torch.cat(halves, dim=-1).flatten(0, 1).to(like.dtype)


def check_position(pos_embed: str, mixer: str, embed_dim: int) -> None:
    """Refuse a position that the mixer or the width cannot have.

    Raises:
        InputError: for such a position, or an unknown one.
        MixerError: for an unknown mixer.
    """
    mixers.spec(mixer)
    if pos_embed not in get_args(Position):
        raise InputError(
            "unknown position",
            got=f"pos_embed = {pos_embed!r}",
            expected=f"one of {', '.join(get_args(Position))}",
            remedy=did_you_mean(str(pos_embed), get_args(Position)),
        )
    if pos_embed == "sincos" and embed_dim % 4:
        raise InputError(
            "sine and cosine positions need a width that 4 divides",
            got=f"embed_dim = {embed_dim} with pos_embed = 'sincos'",
            expected="a multiple of 4",
            remedy=f"use embed_dim = {embed_dim // 4 * 4 + 4}, or another position",
        )
    if pos_embed == "rope2d" and not mixers.spec(mixer).rotary:
        rotary = [name for name in mixers.names() if mixers.spec(name).rotary]
        raise InputError(
            "rotary position needs a mixer with q and k to turn",
            got=f"pos_embed = 'rope2d' with mixer {mixer!r}",
            expected=f"one of the mixers {', '.join(rotary)}",
            remedy="use one of these, or another position: none, learned, sincos",
        )
