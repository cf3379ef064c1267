"""Weights under other names: those of the WeightFormer and DiT releases, and timm's for DeiT."""

from __future__ import annotations

import math
from collections.abc import Mapping

from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from wfbench.errors import InputError
from wfbench.models.dit import DiT
from wfbench.models.skeleton import Block
from wfbench.models.vit import VisionTransformer

#: Mixers whose models have been released under names of their own.
_RELEASED = ("softmax", "static", "weightformer")
_RELEASE = {"mixer": "dwc", "fc1": "linear1", "fc2": "linear2"}
_TIMM = {"mixer": "attn", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}


def load_released(model: VisionTransformer | DiT, state_dict: Mapping[str, Tensor]) -> None:
    """Load weights under the names of the WeightFormer or DiT release, or of timm's DeiT, into a model.

    A learned position embedding of another resolution is interpolated as timm does it (bicubic, antialiased); of a fixed one
    the model keeps its own. Everything else must fit exactly; nothing is loaded unless all of it does.

    Raises:
        InputError: naming the missing, unexpected or misshapen weights.
    """
    _load(model, released_names(model), dict(state_dict))


def load_initial(model: VisionTransformer | DiT, state_dict: Mapping[str, Tensor], *, fresh_head: bool = False) -> None:
    """Load weights to begin from: under our own names, or those of `load_released`, told by the names themselves.

    Args:
        model: whose weights are replaced.
        state_dict: of a run of this package, of the WeightFormer release, or of timm's DeiT.
        fresh_head: leave the model's head as it is, whatever the weights have.

    Raises:
        InputError: as `load_released`.
    """
    state, head = dict(state_dict), {key: value for key, value in model.state_dict().items() if key.startswith("head.")}
    if fresh_head:
        state = {key: value for key, value in state.items() if not key.startswith("head.")} | head
    own = {key: key for key in model.state_dict()}
    # Weights that fit neither are refused under the names that they resemble most.
    names = own
    if set(state) != set(own) and model.config.mixer in _RELEASED and model.config.between is None:
        released = released_names(model)
        names = max(own, released, key=lambda known: len(set(state) & set(known.values())))
    _load(model, names, state)


def _load(model: VisionTransformer | DiT, names: Mapping[str, str], state: Mapping[str, Tensor]) -> None:
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
    if model.pos_embed is not None and loaded["pos_embed"].shape[1] != model.pos_embed.shape[1]:
        fixed = model.config.pos_embed == "sincos"
        loaded["pos_embed"] = own["pos_embed"] if fixed else _resampled(model, loaded["pos_embed"])
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
            raise InputError("no gradient", got=theirs, remedy="run backward() before asking for gradients")
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
        raise InputError("no released names", got=got, expected=f"one of {', '.join(_RELEASED)}, by its own schedule")
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
            "no released names", got=f"mixer {mixer!r} ({type(layer).__name__})", expected="softmax, static or weightformer"
        )
    return next(theirs for theirs, ours in known.items() if ours == own)


def _resampled(model: VisionTransformer | DiT, pos_embed: Tensor) -> Tensor:
    """Interpolate a position embedding of a square grid; the weights do not tell any other grid."""
    tokens = pos_embed.shape[1] - model.num_prefix_tokens
    side = math.isqrt(max(tokens, 0))
    if not tokens > 0 or side * side != tokens:
        raise InputError(
            "cannot tell the grid of the position embedding",
            got=f"pos_embed with {tokens} positions, which no square grid has",
            expected="the positions of a square grid, or of the model's own",
            remedy="create the model at the image_size the weights were trained at",
        )
    grid = [side // model.config.patch_size for side in model.config.image_size]
    return resample_abs_pos_embed(pos_embed, grid, num_prefix_tokens=model.num_prefix_tokens)


def _some(items: list[str], most: int = 6) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return (", ".join(items[:most]) or "nothing") + more
