"""Codecs: between pictures and what a diffusion model sees of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from wfbench import files
from wfbench.errors import InputError


class Codec(Protocol):
    """Pictures in [−1, 1], (B, C, H, W), to latents (B, c, H/f, W/f) and back.

    Attributes:
        name: of the kind.
        channels: c.
        downsample: f.
        scale: by which it multiplies what its network calls a latent, after it has taken ``shift`` away.
        shift: of its network's latents; 0 for most.
        digest: SHA-256 of its file of weights; "" if it has none.
    """

    name: str
    channels: int
    downsample: int
    scale: float
    shift: float
    digest: str

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior of the latents, already scaled for the model."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of scaled latents, around [−1, 1]."""
        ...


class PixelCodec:
    """The identity: the model sees the picture itself."""

    name = "pixel"

    def __init__(self, channels: int = 3) -> None:
        self.channels, self.downsample, self.scale, self.shift, self.digest = channels, 1, 1.0, 0.0, ""

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The pictures, exactly."""
        return images, torch.zeros_like(images)

    def decode(self, latents: Tensor) -> Tensor:
        """The latents."""
        return latents


class VAECodec:
    """A diffusers `AutoencoderKL` from a local directory; nothing is downloaded, and nothing is unpickled.

    Latents are those of its network minus the autoencoder's ``shift_factor`` (0 for most), times its ``scaling_factor``
    (0.18215 for Stable Diffusion's), which brings them to a standard deviation near 1.

    Args:
        directory: with ``config.json`` and ``diffusion_pytorch_model.safetensors``, as ``save_pretrained`` writes them.
        device: where it works, in float32.

    Raises:
        InputError: if the directory holds no such autoencoder, or one whose latents are scaled channel by channel.
    """

    name = "vae"

    def __init__(self, directory: str | Path, device: torch.device | str = "cpu") -> None:
        directory = Path(directory)
        weights = directory / "diffusion_pytorch_model.safetensors"
        lacking = [file.name for file in (directory / "config.json", weights) if not file.is_file()]
        if lacking:
            raise InputError(
                "no autoencoder there",
                got=f"{directory} without {' and '.join(lacking)}",
                expected="a directory of diffusers' AutoencoderKL",
                remedy="fetch stabilityai/sd-vae-ft-mse (or -ema) yourself, and give the directory; nothing is downloaded",
            )
        from diffusers import AutoencoderKL

        try:
            vae: Any = AutoencoderKL.from_pretrained(str(directory), local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, RuntimeError) as e:
            raise InputError(
                "the autoencoder cannot be loaded",
                got=f"{directory}: {' '.join(str(e).split())[:300]}",
                expected="a directory of diffusers' AutoencoderKL",
                remedy="fetch its config.json and diffusion_pytorch_model.safetensors again, both of one autoencoder",
            ) from e
        self.vae = vae.to(device).eval().requires_grad_(False)
        self.device = device
        by_channel = [name for name in ("latents_mean", "latents_std") if vae.config.get(name) is not None]
        if by_channel:
            raise InputError(
                "the autoencoder scales its latents channel by channel",
                got=f"{directory}: {' and '.join(by_channel)} in config.json",
                expected="scaling_factor, and perhaps shift_factor, alone",
                remedy="take an autoencoder without them, such as stabilityai/sd-vae-ft-mse",
            )
        self.scale, self.shift = float(vae.config.scaling_factor), float(vae.config.get("shift_factor") or 0.0)
        self.channels = int(vae.config.latent_channels)
        self.downsample = 2 ** (len(vae.config.block_out_channels) - 1)
        self.digest = files.sha256(weights)

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior, scaled."""
        posterior = self.vae.encode(images.to(self.device)).latent_dist
        return (posterior.mean - self.shift) * self.scale, posterior.std * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of scaled latents."""
        return self.vae.decode(latents.to(self.device) / self.scale + self.shift).sample
