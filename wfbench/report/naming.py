"""What a table is called: the settings that its lines share, as a title and as a file name; the same settings as raw cells."""

from __future__ import annotations

import re
from collections.abc import Sequence

from wfbench.analysis.lines import Key
from wfbench.report.words import pixels, plural


def flat(key: Key) -> dict[str, object]:
    """The fields of a key as raw cells."""
    fields = key._asdict()
    size = fields.pop("image_size", None)
    return fields if size is None else {**fields, **height_width(size)}


def height_width(size: tuple[int, int]) -> dict[str, int]:
    """A size as raw cells."""
    return {"height": size[0], "width": size[1]}


def title_of(keys: Sequence[Key]) -> str:
    """The keys of one table in words."""
    return ", ".join(filter(None, _labels(keys)))


def suffixes(tables_keys: Sequence[Sequence[Key]]) -> list[str]:
    """One file suffix per table, made of the fields in which the tables differ; empty for a single table."""
    labels = [_labels(keys) for keys in tables_keys]
    differing = [len(set(column)) > 1 for column in zip(*labels, strict=True)]
    found: list[str] = []
    for words in labels:
        parts = [slug(word) for word, differs in zip(words, differing, strict=True) if differs]
        stem = "".join(f"-{part}" for part in parts if part)
        suffix, count = stem, 1
        while suffix in found:  # names that differ only in characters that a file name is spared
            count += 1
            suffix = f"{stem}-{count}"
        found.append(suffix)
    return found


def differing(key: Key, among: Sequence[Key], fields: Sequence[str]) -> list[str]:
    """Those of the fields in which the keys are not all alike, in words, as one of them has them."""
    own, others = key._asdict(), [other._asdict() for other in among]
    return [_label(name, own[name]) for name in fields if name in own and len({other[name] for other in others}) > 1]


def _labels(keys: Sequence[Key]) -> list[str]:
    """The fields of a table's key in words; where one table has several keys, all their values."""
    fields = [key._asdict() for key in keys]
    return ["/".join(dict.fromkeys(_label(name, entry[name]) for entry in fields)) for name in fields[0]]


def _label(field: str, value: object) -> str:
    """One field of a key in words; empty where the usual value needs none."""
    if value is None:
        return ""
    if field == "downsample":
        return f"latents of 1/{value} of the side" if value != 1 else ""
    if field == "compiled":
        return "compiled" if value else "not compiled"
    if field in ("tf32", "channels_last"):
        return {"tf32": "TF32", "channels_last": "channels last"}[field] if value else ""
    if field == "measured_to":
        return f"from cells up to {value} tokens"
    if field == "token_budget":
        return f"batches of {value} tokens"
    if field in ("mean", "std") and isinstance(value, tuple):
        return f"{field} {' '.join(f'{part:g}' for part in value)}"
    if field == "slide":
        return f"windows every {value:.3g} of a side"
    if isinstance(value, tuple):
        return f"{pixels(value)} px"
    words = {"infer": "inference", "train": "training step"} if field == "mode" else {}
    text = words.get(str(value), str(value))
    if field in ("epochs", "threads") and isinstance(value, int):
        return plural(value, field.removesuffix("s"))
    return {"recipe": f"recipe {text}", "batch": f"batch {text}", "path": f"{text} path"}.get(field, text)


def slug(text: str) -> str:
    """The text as a part of a file name."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:40].rstrip("-.")
