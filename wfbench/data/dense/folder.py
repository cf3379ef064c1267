"""Images and masks in folders: an image and the index PNG of the same stem."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wfbench.data.image_files import files_below
from wfbench.data.listing import Entry, image_entries, json_entry
from wfbench.data.splits import Files
from wfbench.data.what_counts import READ, check_passed_over, is_hidden, looks_like_a_picture
from wfbench.errors import InputError
from wfbench.recipe import DenseDataSection


@dataclass(frozen=True)
class _Layout:
    masks: str
    parts: Mapping[str, str]
    classes: str


_LAYOUTS = {
    "plain": _Layout("masks", {"train": "train", "val": "val"}, "classes.txt"),
    "ade20k": _Layout("annotations", {"train": "training", "val": "validation"}, "objectInfo150.txt"),
}


class MaskedFiles:
    """A split of image files with a mask for each.

    Args:
        images: their paths.
        masks: of each image its mask's.
        root: the folder that names in a `Listing` are relative to.
        classes: how many.
        ignore_index: the class number of a pixel without a label, in the files too.
        reduce_zero_label: 0 in a file is no label, and k is class k - 1.
    """

    def __init__(
        self,
        images: Sequence[Path],
        masks: Sequence[Path],
        root: Path,
        *,
        classes: int,
        ignore_index: int,
        reduce_zero_label: bool,
    ) -> None:
        self.images, self.masks = (
            Files([path.relative_to(root).as_posix() for path in paths], [0] * len(paths), root) for paths in (images, masks)
        )
        self.root, self.classes, self.ignore_index, self.reduce_zero_label = root, classes, ignore_index, reduce_zero_label

    def __len__(self) -> int:
        return len(self.images)

    def load(self, i: int, size: tuple[int, int], *, seed: int, epoch: int) -> tuple[Image.Image, np.ndarray]:
        """Image and mask (H, W) of the image's own size, whatever ``size``, ``seed`` and ``epoch``.

        Raises:
            InputError: for a mask that is no index PNG, has another size than its image, or an index out of range.
            `splits.UNREADABLE`: for a file that cannot be decoded.
        """
        image = self.images.load(i)
        indices = self._indices(i)
        if indices.shape != (image.height, image.width):
            raise InputError(
                "a mask has another size than its image",
                got=f"{self.masks.label(i)}: {indices.shape[1]}x{indices.shape[0]} pixels",
                expected=f"{image.width}x{image.height}, as {self.images.label(i)}",
                remedy="resize the mask by nearest, or put the image back that it belongs to",
            )
        return image, self._classes(indices, i)

    def label(self, i: int) -> str:
        """What to call the ``i``-th image."""
        return self.images.label(i)

    def entries(self) -> tuple[Entry, ...]:
        """Images and masks by name and size, some of each also by hash; and how indices are read."""
        return (
            *image_entries(self.images.names, self.root),
            *image_entries(self.masks.names, self.root),
            json_entry("(labels)", {"ignore_index": self.ignore_index, "reduce_zero_label": self.reduce_zero_label}),
        )

    def _indices(self, i: int) -> np.ndarray:
        """The numbers in the i-th mask's file (H, W), 8 bits."""
        image = Image.open(io.BytesIO(self.masks.read(i)))
        kind = image.tile[0][3] if image.format == "PNG" and image.tile else None
        if kind not in ("1", "P", "P;1", "P;2", "P;4", "L"):
            raise InputError(
                "a mask is no picture of class numbers",
                got=f"{self.masks.label(i)}: {image.format} of mode {image.mode}",
                expected="a PNG with a palette, or grey of 8 bits (or 1)",
                remedy="write the class number of each pixel, without colours or compression with loss",
            )
        return np.asarray(image).astype(np.uint8)

    def _classes(self, indices: np.ndarray, i: int) -> np.ndarray:
        """From the numbers in a file to classes."""
        first = 1 if self.reduce_zero_label else 0
        none = (self.ignore_index, 0) if self.reduce_zero_label else (self.ignore_index,)
        unlabelled = np.isin(indices, none)
        wrong = ~unlabelled & (indices >= self.classes + first)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise InputError(
                "a mask holds an index out of range",
                got=f"{self.masks.label(i)}: {indices[row, column]} at column {column}, row {row}",
                expected=f"{first} to {self.classes - 1 + first}, for {self.classes} classes; "
                f"{' or '.join(map(str, none))} for no label",
                remedy="check the list of classes, data.dense.ignore_index and data.dense.reduce_zero_label",
            )
        return np.where(unlabelled, self.ignore_index, indices - np.uint8(first)).astype(np.uint8)


def open_folder(
    root: Path, dense: DenseDataSection, *, pass_over: bool = False, value_range: tuple[float, float] | None = None
) -> tuple[tuple[str, ...], MaskedFiles, MaskedFiles, tuple[str, ...]]:
    """Classes, training and held-out split, and what was passed over. Names are read; images and masks are not.

    Raises:
        InputError: for a missing folder or list of classes, fewer than two classes, one that is named twice, an
            ``ignore_index`` that is a class in the files, or an image without a mask or the other way round.
    """
    layout = _LAYOUTS[dense.layout]
    names = _class_names(root / layout.classes, dense.layout)
    reduce = dense.layout == "ade20k" if dense.reduce_zero_label is None else dense.reduce_zero_label
    if reduce and dense.ignore_index <= len(names):
        raise InputError(
            "ignore_index is a class in the masks",
            got=f"data.dense.ignore_index = {dense.ignore_index}; with reduce_zero_label, classes are 1 to {len(names)} there",
            expected=f"{len(names) + 1} to 255; 0 is no label anyway",
            remedy="set data.dense.ignore_index; of more than 254 classes, none can be ignored but by 0",
        )
    folders = [(root / "images" / part, root / layout.masks / part) for part in (layout.parts["train"], layout.parts["val"])]
    pairs = [_pairs(*both) for both in folders]
    over = check_passed_over((name for _, _, others in pairs for name in others), pass_over)
    train, val = (
        MaskedFiles(
            images,
            masks,
            root,
            classes=len(names),
            ignore_index=dense.ignore_index,
            reduce_zero_label=reduce,
        )
        for images, masks, _ in pairs
    )
    train.images.value_range = val.images.value_range = value_range
    return names, train, val, over


def _class_names(path: Path, layout: str) -> tuple[str, ...]:
    """A name on each line; of ADE20K's objectInfo150.txt, the last column of each line but the first."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(
            "no list of classes",
            got=f"{path}: {getattr(e, 'strerror', None) or e}",
            expected="a name on each line" if layout == "plain" else "the table that was released with the images",
            remedy="check --data and data.dense.layout",
        ) from e
    found = tuple(lines) if layout == "plain" else tuple(line.split("\t")[-1].strip() for line in lines[1:])
    if len(found) < 2:
        raise InputError(
            "the list of classes is too short",
            got=f"{path}: {len(found)} {'name' if found else 'names'}",
            expected="two classes or more, a name on each line",
            remedy="name every class, the background too if it is one",
        )
    twice = [name for name in dict.fromkeys(found) if found.count(name) > 1]
    if twice:
        raise InputError(
            "a class is named twice",
            got=f"{path}: {', '.join(map(repr, twice[:6]))}",
            expected="another name for each class",
            remedy="rename one of them",
        )
    return found


def _pairs(images: Path, masks: Path) -> tuple[list[Path], list[Path], list[str]]:
    """Images and masks with the same stem, in the order of their names; and pictures that are neither."""
    (pictures, no_pictures), (drawn, no_masks) = _by_stem(images, READ), _by_stem(masks, {"png"})
    found = pictures, drawn
    odd = sorted(found[0].keys() ^ found[1].keys())
    if odd or not found[0]:
        named = [f"{stem} (no {'mask' if stem in found[0] else 'image'})" for stem in odd[:6]]
        raise InputError(
            "images and masks do not fit together",
            got=f"{len(found[0]):,} images in {images}, {len(found[1]):,} masks in {masks}; "
            f"unpaired: {', '.join(named) or 'none'}{f' and {len(odd) - 6:,} more' if len(odd) > 6 else ''}",
            expected=f"for each image a mask of the same name with the ending .png ({masks / (odd or ['NAME'])[0]}.png)",
            remedy="check --data and data.dense.layout",
        )
    stems = sorted(found[0])
    return [found[0][stem] for stem in stems], [found[1][stem] for stem in stems], no_pictures + no_masks


def _by_stem(folder: Path, endings: Collection[str]) -> tuple[dict[str, Path], list[str]]:
    found: dict[str, Path] = {}
    over: list[str] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if is_hidden(path.name):
            continue
        if path.is_dir():  # images are not looked for there, so none may be there unseen
            below = (name for names in files_below(folder, path.name) for name in names)
            over += [str(folder / name) for name in below if looks_like_a_picture(name)]
            continue
        if not looks_like_a_picture(path.name):
            continue
        if path.suffix.lower().removeprefix(".") not in endings:
            over.append(str(path))
            continue
        if path.stem in found:
            raise InputError(
                "two files have one name",
                got=f"{found[path.stem]} and {path.name}",
                expected="names that differ before the ending",
                remedy="rename or remove one of them",
            )
        found[path.stem] = path
    return found, over
