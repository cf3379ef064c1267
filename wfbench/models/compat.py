"""Weights under other names: those of the WeightFormer and DiT releases, and timm's for DeiT."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

import mixers
from mixers.base import Grid
from wfbench.errors import InputError
from wfbench.models.dit import DiT
from wfbench.models.schedule import mixers_of
from wfbench.models.skeleton import Block, patch_grid
from wfbench.models.vit import VisionTransformer

#: Mixers whose models have been released under names of their own.
_RELEASED = ("softmax", "static", "weightformer")
_OWN_NAMES = "use the names of model.state_dict(), or create the model with one of these mixers"
#: What wrappers put before the names of all weights.
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_RELEASE = {"mixer": "dwc", "fc1": "linear1", "fc2": "linear2"}
_TIMM = {"mixer": "attn", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}


def load_released(model: VisionTransformer | DiT, state_dict: Mapping[str, Tensor], *, grid: Grid | None = None) -> None:
    """Load weights under the names of the WeightFormer or DiT release, or of timm's DeiT, into a model.

    A learned position embedding of another grid is interpolated as timm does it (bicubic, antialiased); of a fixed one
    the model keeps its own. Everything else must fit exactly; nothing is loaded unless all of it does.

    Args:
        model: whose weights are replaced.
        state_dict: the weights.
        grid: rows and columns of tokens that they were made for. None: a square, where their number is one.

    Raises:
        InputError: naming the missing, unexpected or misshapen weights; for weights that depend on the grid, if theirs
            cannot be told, or is another and they cannot be interpolated.
    """
    _load(model, released_names(model), _without_prefix(state_dict), grid)


def load_initial(
    model: VisionTransformer | DiT,
    state_dict: Mapping[str, Tensor],
    *,
    fresh_head: bool = False,
    grid: Grid | None = None,
) -> None:
    """Load weights to begin from: under our own names, or those of `load_released`, told by the names themselves.

    Args:
        model: whose weights are replaced.
        state_dict: of a run of this package, of the WeightFormer release, or of timm's DeiT.
        fresh_head: leave the model's head as it is, whatever the weights have.
        grid: as of `load_released`.

    Raises:
        InputError: as `load_released`.
    """
    state = _without_prefix(state_dict)
    head = {key: value for key, value in model.state_dict().items() if key.startswith("head.")}
    if fresh_head:
        state = {key: value for key, value in state.items() if not key.startswith("head.")} | head
    own = {key: key for key in model.state_dict()}
    # Weights that fit neither are refused under the names that they resemble most.
    names = own
    if set(state) != set(own) and model.config.mixer in _RELEASED and model.config.between is None:
        released = released_names(model)
        names = max(own, released, key=lambda known: len(set(state) & set(known.values())))
    _load(model, names, state, grid)


def _without_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without what a wrapper puts before every name: DistributedDataParallel, torch.compile, a trainer's model."""
    state = dict(state_dict)
    while prefix := next((p for p in _WRAPPERS if state and all(key.startswith(p) for key in state)), None):
        warnings.warn(f"the names of the weights all begin with {prefix!r}, which is left out", stacklevel=3)
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _load(model: VisionTransformer | DiT, names: Mapping[str, str], state: Mapping[str, Tensor], grid: Grid | None) -> None:
    """Load weights that ``names`` calls by other names."""
    own = model.state_dict()
    missing = sorted(theirs for theirs in names.values() if theirs not in state)
    unexpected = sorted(set(state) - set(names.values()))
    if missing or unexpected:
        raise InputError(
            "weights of another model",
            got=f"missing {_some(missing)}; unexpected {_some(unexpected)}",
            expected=f"the {len(names)} weights of {type(model).__name__} with mixer {model.config.mixer!r}",
            remedy="create the model these weights were trained with (preset, mixer, every, depth, class_token, pos_embed)",
        )
    loaded = {ours: state[theirs] for ours, theirs in names.items()}
    built = patch_grid(model.config.image_size, model.config.patch_size)
    if model.pos_embed is not None and model.config.pos_embed == "sincos":
        same = built[0] == built[1] if grid is None else tuple(grid) == built
        if not same or loaded["pos_embed"].shape != model.pos_embed.shape:
            loaded["pos_embed"] = own["pos_embed"]
    elif model.pos_embed is not None:
        theirs = grid or _square(loaded["pos_embed"].shape[1] - model.num_prefix_tokens, built)
        loaded["pos_embed"] = resample_abs_pos_embed(
            loaded["pos_embed"], list(built), list(theirs), num_prefix_tokens=model.num_prefix_tokens
        )
    bound = [name for name in mixers_of(model.config) if mixers.spec(name).needs_grid]
    if bound and (built[0] != built[1] if grid is None else tuple(grid) != built):
        raise InputError(
            "weights of a mixer that is made for one grid",
            got=f"mixer {bound[0]!r} with weights for {'a grid that they do not tell' if grid is None else _grid(grid)}",
            expected=f"weights for {_grid(built)}",
            remedy="create the model at the image_size that the weights were trained at"
            + ("; to say their grid: load_initial(..., grid=(rows, columns))" if grid is None else ""),
        )
    misshapen = [
        f"{names[key]} {tuple(tensor.shape)} for {tuple(own[key].shape)}"
        for key, tensor in loaded.items()
        if tensor.shape != own[key].shape
    ]
    if misshapen:
        raise InputError(
            "weights of another size",
            got=_some(misshapen),
            expected="the shapes of the model",
            remedy="create the model with the embed_dim, patch_size, in_channels and num_classes of the weights, or for other "
            "classes, model.init_head=fresh",
        )
    model.load_state_dict(loaded)


def to_released(model: VisionTransformer | DiT, grads: bool = False) -> dict[str, Tensor]:
    """The model's weights (or, with ``grads``, the gradients of those that are trained) under the release's (or timm's) names.

    Raises:
        InputError: if the model's mixer has no released names, or a gradient was never computed.
    """
    parameters = dict(model.named_parameters())
    result = {}
    for ours, theirs in released_names(model).items():
        if grads and not parameters[ours].requires_grad:
            continue
        value = parameters[ours].grad if grads else parameters[ours].detach()
        if value is None:
            raise InputError(
                "no gradient",
                got=theirs,
                expected="a gradient of each weight that is trained",
                remedy="run backward() before asking for gradients",
            )
        result[theirs] = value.clone()
    return result


def released_names(model: VisionTransformer | DiT) -> dict[str, str]:
    """Our parameter names and, for each, the release's: timm's, and DiT's, for softmax attention, WeightFormer's otherwise.

    Raises:
        InputError: if a layer in a slot has no names of its authors.
    """
    between = model.config.between
    if model.config.mixer not in _RELEASED or between is not None:
        got = f"mixer {model.config.mixer!r}" + ("" if between is None else f" with {between!r} between its layers")
        raise InputError(
            "no released names", got=got, expected=f"one of {', '.join(_RELEASED)}, by its own schedule", remedy=_OWN_NAMES
        )
    parts = _TIMM if model.config.mixer == "softmax" else _RELEASE
    names = {}
    for ours in model.state_dict():
        if not ours.startswith("blocks."):
            names[ours] = ours
            continue
        _, index, slot, rest = ours.split(".", 3)
        if slot not in parts:
            names[ours] = ours
            continue
        block = model.blocks[int(index)]
        assert isinstance(block, Block)
        names[ours] = f"blocks.{index}.{parts[slot]}.{_authors_name(getattr(block, slot), rest, model.config.mixer)}"
    return names


def _authors_name(layer: nn.Module, own: str, mixer: str) -> str:
    known: Mapping[str, str] | None = getattr(layer, "reference_names", None)
    if known is None:
        if isinstance(layer, nn.Linear):
            return own
        raise InputError(
            "no released names",
            got=f"mixer {mixer!r} ({type(layer).__name__})",
            expected="softmax, static or weightformer",
            remedy=_OWN_NAMES,
        )
    return next(theirs for theirs, ours in known.items() if ours == own)


def _square(tokens: int, built: Grid) -> Grid:
    """The square grid of a position embedding that does not tell its own; 4x4 and 2x8 have as many positions."""
    side = math.isqrt(max(tokens, 0))
    as_many = tokens == built[0] * built[1]
    if tokens <= 0 or side * side != tokens or (as_many and built[0] != built[1]):
        raise InputError(
            "cannot tell the grid of the position embedding",
            got=f"pos_embed with {tokens} positions for a model of {_grid(built)}",
            expected="the positions of a square grid for a model of a square, or a grid beside the weights",
            remedy="files that `wfbench train` writes say their grid; for others, load_initial(..., grid=(rows, columns))",
        )
    return side, side


def _grid(grid: Grid) -> str:
    return f"a grid of {grid[0]}x{grid[1]}"


def _some(items: list[str], most: int = 6) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return (", ".join(items[:most]) or "nothing") + more
