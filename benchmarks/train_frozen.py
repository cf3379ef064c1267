"""Train the two frozen classifiers that ship for a data set: the extractor of proxy-FD, and the judge of classes.

    python benchmarks/train_frozen.py                            # the digits: a minute on a CPU core

Each is trained on the training images alone, shifted by up to one pixel, for a fixed number of steps; then its accuracy on the
held-out images is printed, and its SHA-256, which belongs into `wfbench.diffusion.frozen`. They were trained once: files that
another machine makes differ in rounding, have another hash, and make scores that compare with nobody's.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from wfbench.data import Split, open_dataset
from wfbench.diffusion.frozen import DIRECTORY, FROZEN, Role
from wfbench.recipe import DataSection

STEPS, BATCH, RATE = 3000, 128, 2e-3
SEEDS: dict[Role, int] = {"extractor": 1, "judge": 2}


def images_of(split: Split) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) from -1 to 1, and classes (N)."""
    arrays = np.stack([np.asarray(split.load(i)) for i in range(len(split))])
    images = torch.from_numpy(arrays).float() / 127.5 - 1
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2), torch.tensor(split.targets)


def shifted(images: Tensor, draw: torch.Generator) -> Tensor:
    """Each image moved by -1, 0 or 1 pixels along both sides; black comes in."""
    height, width = images.shape[2:]
    padded = F.pad(images, (1, 1, 1, 1), value=-1)
    corners = torch.randint(3, (len(images), 2), generator=draw).tolist()
    return torch.stack([image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, corners, strict=True)])


def train(key: str, role: Role, images: Tensor, classes: Tensor) -> torch.nn.Module:
    """A network, trained."""
    torch.manual_seed(SEEDS[role])
    draw = torch.Generator().manual_seed(SEEDS[role])
    network = FROZEN[key].network(role)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (BATCH,), generator=draw)
        loss = F.cross_entropy(network(shifted(images[chosen], draw)), classes[chosen], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def main() -> None:
    """Train both networks of a data set, write them, and print what they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--key", default="digits", choices=FROZEN)
    parser.add_argument("--data", type=str, default=None, help="where the images are, but for the digits")
    parser.add_argument("--out", type=Path, default=DIRECTORY)
    given = parser.parse_args()
    dataset = open_dataset(DataSection(source=given.key, path=given.data))
    if dataset.name != FROZEN[given.key].dataset:
        raise SystemExit(f"these are {dataset.name}, and the networks are of {FROZEN[given.key].dataset}")
    images, classes = images_of(dataset.train)
    held_out, right = images_of(dataset.val)
    given.out.mkdir(parents=True, exist_ok=True)
    for role in SEEDS:
        network = train(given.key, role, images, classes)
        path = given.out / f"{given.key}-{role}.safetensors"
        save_file(network.state_dict(), path)
        with torch.no_grad():
            accuracy = (network(held_out).argmax(dim=1) == right).double().mean().item()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{path.name}: {100 * accuracy:.2f} % of {len(right)} held-out images, {path.stat().st_size} bytes, {digest}")


if __name__ == "__main__":
    main()
