"""Two small frozen classifiers for each data set that has them, which ship with the package: an extractor and a judge.

The extractor's features make the proxy-FD; the judge, of another architecture and seed, says which class a sample shows. Both
were trained once, on the training images alone, by ``benchmarks/train_frozen.py``; a score says the SHA-256 of the one that it
came from, so that scores of different ones are never compared.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from wfbench.errors import InputError

Role = Literal["extractor", "judge"]
#: Where they lie.
DIRECTORY = Path(__file__).parent / "weights"


class Extractor(nn.Module):
    """Three convolutions, the last two of stride 2, and the mean over places: 64 features and the logits.

    Shapes: images (B, channels, H, W) from -1 to 1; features (B, 64); logits (B, classes).
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, classes)

    def features(self, images: Tensor) -> Tensor:
        """What the head sees."""
        return self.body(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        return self.head(self.features(images))


class Judge(nn.Module):
    """Two larger convolutions with max-pooling, and a Linear of every place: another architecture than the extractor's.

    Shapes: images (B, channels, H, W) from -1 to 1, of the side that it was made for; logits (B, classes).
    """

    def __init__(self, channels: int, classes: int, side: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 24, 5, padding=2), nn.GELU(), nn.MaxPool2d(2), nn.Conv2d(24, 48, 3, padding=1), nn.GELU()
        )
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(48 * (side // 4) ** 2, classes)

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        return self.head(self.pool(self.body(images)).flatten(1))


@dataclass(frozen=True)
class Frozen:
    """Where a data set's networks come from.

    Attributes:
        dataset: its name, which says how it was split: the networks know the training images.
        channels: of the images.
        side: of the images, in pixels.
        classes: how many.
        sha256: of the file of each network.
    """

    dataset: str
    channels: int
    side: int
    classes: int
    sha256: MappingProxyType[Role, str]

    def network(self, role: Role) -> nn.Module:
        """A fresh network of that role."""
        if role == "extractor":
            return Extractor(self.channels, self.classes)
        return Judge(self.channels, self.classes, self.side)


FROZEN: MappingProxyType[str, Frozen] = MappingProxyType(
    {
        "digits": Frozen(
            dataset="digits (20% held out by split seed 0)",
            channels=1,
            side=8,
            classes=10,
            sha256=MappingProxyType(
                {
                    "extractor": "af78ac117a64cef66b294e08916e8af3ab9e4a5e10d707934ef04949bba480cf",
                    "judge": "adeb063e9144d94d11ff7d724543a58e9277120beb7d6d96cd3126d20c50ce65",
                }
            ),
        )
    }
)


def of_dataset(name: str, side: int) -> str | None:
    """The networks for a data set by its name, and the side of its images; None if none ship for it."""
    return next((key for key, known in FROZEN.items() if (known.dataset, known.side) == (name, side)), None)


def load(key: str, role: Role) -> nn.Module:
    """A network of `FROZEN`, in evaluation mode and frozen.

    Raises:
        InputError: if its file is not the one that the package was made with.
    """
    known, path = FROZEN[key], DIRECTORY / f"{key}-{role}.safetensors"
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
    if found != known.sha256[role]:
        raise InputError(
            f"the {role} for {key} is not the package's",
            got=f"{path}: {found[:12]}",
            expected=f"SHA-256 {known.sha256[role][:12]}…",
            remedy="install wfbench again",
        )
    network = known.network(role)
    network.load_state_dict(load_file(path))
    return network.eval().requires_grad_(False)


@torch.no_grad()
def features_of(network: Extractor, images: Tensor, batch: int = 512) -> Tensor:
    """Features (N, 64) of images (N, C, H, W) from -1 to 1, float64 on the CPU."""
    return torch.cat([network.features(part).double() for part in images.split(batch)])
