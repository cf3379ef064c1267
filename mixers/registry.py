"""Names to mixers: registration, look-up, construction, and the way from and to the authors' parameter names."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

from torch import Tensor, nn

from mixers.base import Grid, Linear, MixerError, MixerSpec
from mixers.options import AuthorOptions, Option, split_options, with_options
from mixers.outside import entry_points, load_class, load_entry_point

_SPECS: dict[str, MixerSpec] = {}
_TOKEN_LAYERS: dict[str, type[nn.Module]] = {}
_FFN_LAYERS: dict[str, type[nn.Module]] = {"linear": Linear}
_OUTSIDE: dict[tuple[str, type[nn.Module]], MixerSpec] = {}

#: Arguments of a layer that the skeleton gives it.
_NOT_OPTIONS = ("dim", "in_features", "out_features", "num_heads", "grid", "layer")

_Layer = TypeVar("_Layer", bound=type[nn.Module])


def token_layer(name: str) -> Callable[[_Layer], _Layer]:
    """Class decorator: make a layer available to the token-mixer slot under ``name``."""
    return _enter(_TOKEN_LAYERS, name)


def ffn_layer(name: str) -> Callable[[_Layer], _Layer]:
    """Class decorator: make a layer available to the FFN-input slot under ``name``."""
    return _enter(_FFN_LAYERS, name)


def _enter(table: dict[str, type[nn.Module]], name: str) -> Callable[[_Layer], _Layer]:
    def decorate(cls: _Layer) -> _Layer:
        if name in table:
            raise MixerError(
                "layer name taken",
                got=f"{name!r}, which is {table[name].__qualname__} already",
                expected="a new name",
                remedy="choose another name",
            )
        table[name] = cls
        return cls

    return decorate


def register_spec(spec: MixerSpec) -> None:
    """Register a mixer whose layers are registered on their own.

    Raises:
        MixerError: if the name is taken.
    """
    if spec.name in _SPECS:
        raise MixerError(
            "mixer name taken", got=f"{spec.name!r} a second time", expected="a new name", remedy="rename one of the two"
        )
    _SPECS[spec.name] = spec


def register(spec: MixerSpec) -> Callable[[_Layer], _Layer]:
    """Class decorator: register a mixer and, under ``spec.token``, the class as its token layer."""

    def decorate(cls: _Layer) -> _Layer:
        assert isinstance(spec.token, str)
        register_spec(spec)
        return token_layer(spec.token)(cls)

    return decorate


def names() -> list[str]:
    """The registered mixers, and those of installed entry points, in alphabetical order."""
    return sorted({*_SPECS, *(point.name for point in entry_points())})


def spec(name: str) -> MixerSpec:
    """The description of a mixer: a registered name, an installed entry point, ``path/to/file.py:ClassName``, or
    ``package.module:ClassName``; each with options in brackets, if any (see `mixers.options`).

    Raises:
        MixerError: for an unknown name (suggesting near ones and listing all), a missing file, module or class, for what
            does not import, and for options that the mixer does not have.
    """
    mixer, options = split_options(name)
    return _with_options(_plain_spec(mixer), name, options) if options else _plain_spec(mixer)


def _plain_spec(name: str) -> MixerSpec:
    if name in _SPECS:
        return _SPECS[name]
    if ":" in name:
        return _outside(name, load_class(name))
    for point in entry_points():
        if point.name == name:
            return _outside(name, load_entry_point(point))
    near = difflib.get_close_matches(name, names(), n=3)
    raise MixerError(
        "unknown mixer",
        got=repr(name),
        expected=f"one of {', '.join(names())}, or path/to/file.py:ClassName, or package.module:ClassName",
        remedy=f"did you mean {' or '.join(near)}?" if near else "see wfbench mixers, or name a file and its class",
    )


def _with_options(plain: MixerSpec, name: str, options: Mapping[str, Option]) -> MixerSpec:
    """A spec whose layers have options: those of the token layer, else of the FFN-input layer.

    What it declares of its symmetry holds for the options that it has by itself, or as a set for those it names.
    """
    token = _TOKEN_LAYERS[plain.token] if isinstance(plain.token, str) else plain.token
    by_layer = {layer: _options_of(layer) for layer in (token, _FFN_LAYERS[plain.ffn_in])}
    token_options, ffn_options = dict(plain.token_options), dict(plain.ffn_options)
    for key, value in options.items():
        if key in by_layer[token]:
            token_options[key] = value
        elif key in by_layer[_FFN_LAYERS[plain.ffn_in]]:
            ffn_options[key] = value
        else:
            raise _unknown_option(plain.name, key, [own for layer in by_layer.values() for own in layer])
    # Rotation by place makes a set's function one of the grid, whatever else is off; without positions, any grid will do.
    is_set = plain.as_set is not None and plain.as_set.items() <= options.items() and not options.get("rope", False)
    layout: Literal["set"] | None = "set" if is_set else None
    doubling = plain.doubling if is_set else None
    return dataclasses.replace(
        plain,
        name=with_options(split_options(name)[0], options),
        token_options=token_options,
        ffn_options=ffn_options,
        layout=layout,
        as_set=None,
        doubling=doubling,
        needs_grid=plain.needs_grid and bool(options.get("pos", True)),
    )


def layers(name: str) -> list[type[nn.Module]]:
    """The classes of a mixer's layers: token and FFN-input layer of active layers, and those that stand in the others.

    Raises:
        MixerError: as `spec`.
    """
    chosen = spec(name)
    tokens = [chosen.token, chosen.off_token or chosen.token]
    return [
        *(_TOKEN_LAYERS[layer] if isinstance(layer, str) else layer for layer in tokens),
        *(_FFN_LAYERS[layer] for layer in (chosen.ffn_in, chosen.off_ffn_in)),
    ]


def defaults(name: str) -> dict[str, object]:
    """The options of a mixer, as its name may carry them, each with its value in this mixer; None where it must be given.

    Raises:
        MixerError: as `spec`.
    """
    chosen, (token, _, ffn_in, _) = spec(name), layers(name)
    found: dict[str, object] = {}
    for layer, own in ((ffn_in, chosen.ffn_options), (token, chosen.token_options)):
        parameters = inspect.signature(layer).parameters
        for option in _options_of(layer):
            default = parameters[option].default
            found[option] = own.get(option, None if default is inspect.Parameter.empty else default)
    return found


def create(
    name: str,
    dim: int,
    *,
    num_heads: int | None = None,
    grid: Grid | None = None,
    active: bool = True,
    layer: int = 0,
    **options: object,
) -> nn.Module:
    """The token mixer of an active layer (or, with ``active=False``, what stands in for it in the other layers).

    Args:
        name: as for `spec`.
        dim: C, the channels of the tokens.
        num_heads: heads, for a mixer that has them; others ignore the number.
        grid: (H, W) of the tokens, for a mixer whose parameters depend on it; others ignore it.
        active: whether the layer is one that carries the mixer (see `MixerSpec.active`).
        layer: how many layers of the model before this one hold the same, for a mixer that differs from layer to layer (a
            window that is shifted in every second one); others ignore it.
        options: the mixer's own typed options.

    Returns:
        A module with ``forward(x: (B, N, C), grid: (H, W)) -> (B, N, C)``.

    Raises:
        MixerError: for an unknown mixer or option, or heads that do not divide ``dim``.
    """
    chosen = spec(name)
    token = chosen.token if active else chosen.off_token
    if token is None:
        raise MixerError(
            f"mixer {name!r} is active in every layer: it has no layer for the others",
            got="active = False",
            expected="active = True",
            remedy="let every layer carry it (every = 1), or choose another mixer",
        )
    cls = _TOKEN_LAYERS[token] if isinstance(token, str) else token
    own = chosen.token_options if active else {}
    return _build(name, cls, (dim,), {"num_heads": num_heads, "grid": grid, "layer": layer}, {**own, **options})


def create_ffn_in(
    name: str,
    in_features: int,
    out_features: int,
    *,
    num_heads: int | None = None,
    grid: Grid | None = None,
    active: bool = True,
    **options: object,
) -> nn.Module:
    """The FFN's first layer in an active layer: a plain Linear unless the mixer says otherwise.

    Args:
        name: as for `spec`.
        in_features: C.
        out_features: D.
        num_heads: heads, for a layer that has them.
        grid: (H, W) of the tokens, for a layer whose parameters depend on it.
        active: whether the layer is one that carries the mixer.
        options: the layer's own typed options.

    Returns:
        A module with ``forward(x: (B, N, C), grid: (H, W)) -> (B, N, D)``.

    Raises:
        MixerError: for an unknown mixer or option.
    """
    chosen = spec(name)
    cls = _FFN_LAYERS[chosen.ffn_in if active else chosen.off_ffn_in]
    own = chosen.ffn_options if active else {}
    return _build(name, cls, (in_features, out_features), {"num_heads": num_heads, "grid": grid}, {**own, **options})


def from_reference(
    name: str,
    state_dict: Mapping[str, Tensor],
    *,
    slot: str = "token",
    num_heads: int | None = None,
    grid: Grid | None = None,
    layer: int = 0,
    options: Mapping[str, object] | None = None,
) -> nn.Module:
    """The module that `create` (slot "token") or `create_ffn_in` (slot "ffn_in") makes, with its authors' weights.

    Args:
        name: a mixer whose layer knows its authors' parameter names.
        state_dict: the weights under those names; they decide the dimensions and the dtype.
        slot: "token" or "ffn_in".
        num_heads: heads, which no weight tells.
        grid: (H, W), which no weight tells.
        layer: as for `create`.
        options: what the authors' constructor was called with and no weight tells, under the authors' names; the values may
            be strings, as the metadata of a safetensors file has them.

    Raises:
        MixerError: for a slot or a mixer without reference names, for missing or unexpected weights, and for an option that
            the layer does not know, or cannot have.
    """
    chosen = spec(name)
    if slot not in ("token", "ffn_in"):
        raise MixerError("unknown slot", got=repr(slot), expected="'token' or 'ffn_in'", remedy="choose one of the two")
    filling = chosen.token if slot == "token" else chosen.ffn_in
    table = _TOKEN_LAYERS if slot == "token" else _FFN_LAYERS
    cls = table[filling] if isinstance(filling, str) else filling
    known: Mapping[str, str] | None = getattr(cls, "reference_names", None)
    if known is None:
        raise MixerError(
            f"mixer {name!r} has no parameter names of its authors for slot {slot!r}",
            got=cls.__qualname__,
            expected="a layer with reference_names",
            remedy="load the weights under the names that the layer itself has",
        )
    unexpected = sorted(set(state_dict) - set(known))
    if unexpected:
        raise MixerError(
            f"weights do not fit {name!r}",
            got=f"unexpected {unexpected}",
            expected=f"some of {sorted(known)}",
            remedy="leave them out, or choose the mixer that they are of",
        )
    try:
        arguments = dict(cls.reference_arguments(state_dict))  # type: ignore[attr-defined]
    except KeyError as e:
        raise MixerError(
            f"weights do not fit {name!r}",
            got=f"{sorted(state_dict)}, missing {e}",
            expected=f"some of {sorted(known)}",
            remedy="load all weights of the layer",
        ) from e
    arguments |= _of_the_authors(name, cls, options or {})
    chosen_options = chosen.token_options if slot == "token" else chosen.ffn_options
    module = _build(name, cls, (), {"num_heads": num_heads, "grid": grid, "layer": layer}, {**chosen_options, **arguments})
    if getattr(module, "reference_names", None) is None:
        raise MixerError(
            f"mixer {name!r} is a reconstruction",
            got=f"options {dict(chosen_options)}",
            expected="options for which parameter names of its authors are known",
            remedy="load the weights under the names that the layer itself has",
        )
    parameters = dict(module.named_parameters())
    surplus = sorted(ref for ref in state_dict if known[ref] not in parameters)
    if surplus:
        raise MixerError(
            f"weights do not fit {name!r}",
            got=f"unexpected {surplus} with {arguments | dict(options or {})}",
            expected=f"some of {sorted(ref for ref in known if known[ref] in parameters)}",
            remedy="leave them out, or give the options that they were made with",
        )
    missing = sorted(ref for ref, own in known.items() if own in parameters and ref not in state_dict)
    if missing:
        raise MixerError(
            f"weights do not fit {name!r}",
            got=f"{sorted(state_dict)}, missing {missing}",
            expected="a weight for each parameter of the layer",
            remedy="load all weights of the layer, or give the options that they were made with",
        )
    module.to(next(iter(state_dict.values())).dtype)
    own = module.state_dict()
    misshapen = [
        f"{ref} {tuple(t.shape)} for {tuple(own[known[ref]].shape)}"
        for ref, t in state_dict.items()
        if t.shape != own[known[ref]].shape
    ]
    if misshapen:
        raise MixerError(
            f"weights do not fit {name!r}",
            got=", ".join(misshapen),
            expected="the shapes of the layer",
            remedy="give the dimensions and options that the weights were made with",
        )
    module.load_state_dict({known[ref]: tensor for ref, tensor in state_dict.items()})
    return module


def _of_the_authors(name: str, cls: type[nn.Module], options: Mapping[str, object]) -> dict[str, object]:
    """Constructor arguments from the authors' options."""
    given = AuthorOptions(name, options)
    arguments: dict[str, object] = cls.reference_options(given) if hasattr(cls, "reference_options") else {}
    given.check_all_read()
    return arguments


def to_reference(module: nn.Module, grads: bool = False) -> dict[str, Tensor]:
    """The module's weights (or, with ``grads``, their gradients) under the authors' parameter names.

    Raises:
        MixerError: if the module knows no such names, or a gradient is asked for that was never computed.
    """
    known: Mapping[str, str] | None = getattr(module, "reference_names", None)
    if known is None:
        raise MixerError(
            f"{type(module).__qualname__} has no parameter names of its authors",
            got="no reference_names",
            expected="a layer that declares them",
            remedy="use its state_dict()",
        )
    own = dict(module.named_parameters())
    result = {}
    for ref, name in known.items():
        if name not in own:
            continue
        value = own[name].grad if grads else own[name].detach()
        if value is None:
            raise MixerError(
                f"no gradient for {ref!r}",
                got="None",
                expected="a gradient of each parameter",
                remedy="run backward() before asking for gradients",
            )
        result[ref] = value.clone()
    return result


def _build(
    name: str, cls: type[nn.Module], positional: tuple[int, ...], offered: Mapping[str, object], options: Mapping[str, object]
) -> nn.Module:
    """Call ``cls``; an option it does not have is an error, an offer it does not take is not."""
    signature = inspect.signature(cls)
    accepted = [p.name for p in signature.parameters.values() if p.kind is not p.POSITIONAL_ONLY][len(positional) :]
    own = [a for a in accepted if a not in offered]
    unknown = sorted(set(options) - set(own))
    if unknown:
        raise _unknown_option(name, unknown[0], own)
    taken = {key: value for key, value in offered.items() if key in accepted}
    return cls(*positional, **taken, **options)


def _options_of(cls: type[nn.Module]) -> list[str]:
    """What may be chosen of a layer, beside its dimensions and what the skeleton offers."""
    named = [p.name for p in inspect.signature(cls).parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return [name for name in named if name not in _NOT_OPTIONS]


def _unknown_option(name: str, option: str, known: Sequence[str]) -> MixerError:
    near = difflib.get_close_matches(option, known, n=1)
    return MixerError(
        f"unknown option for mixer {name!r}",
        got=repr(option),
        expected=f"one of {', '.join(known)}" if known else "no option, it has none",
        remedy=f"did you mean {near[0]!r}?" if near else "choose one of these" if known else "leave it out",
    )


def _outside(name: str, cls: type[nn.Module]) -> MixerSpec:
    """The spec of a class from outside the package: its own ``spec`` attribute, or what can be said without one."""
    key = name, cls
    if key not in _OUTSIDE:
        _OUTSIDE[key] = _outside_spec(name, cls)
    return _OUTSIDE[key]


def _outside_spec(name: str, cls: type[nn.Module]) -> MixerSpec:
    own = getattr(cls, "spec", None)
    if isinstance(own, MixerSpec):
        for table, layer in ((_FFN_LAYERS, own.ffn_in), (_FFN_LAYERS, own.off_ffn_in), (_TOKEN_LAYERS, own.off_token)):
            if layer is not None and layer not in table:
                raise MixerError(
                    f"unknown layer in the spec of {name!r}",
                    got=repr(layer),
                    expected=f"one of {', '.join(sorted(table))}",
                    remedy="choose one of these",
                )
        # In its own body a class cannot name itself; and the name of a layer that is registered here would not mean it.
        return dataclasses.replace(own, token=cls)
    return MixerSpec(
        name=name,
        token=cls,
        complexity="undeclared",
        formula=(inspect.getdoc(cls) or "undeclared").splitlines()[0],
        source="outside the package",
        status="unverified",
    )
