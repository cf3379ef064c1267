"""Dense prediction: a ViT as backbone, and a decoder from its tokens to logits at every pixel."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import Grid, init_linear_
from wfbench.errors import InputError, did_you_mean
from wfbench.models.dpt import DPTDecoder
from wfbench.models.draws import draw_by_name
from wfbench.models.presets import configure, create
from wfbench.models.vit import VisionTransformer
from wfbench.models.vit_config import ViTConfig

#: "linear": a Linear at every token. "dpt": the dense prediction transformer of segmentation-models-pytorch.
DecoderName = Literal["linear", "dpt"]


class LinearDecoder(nn.Module):
    """Linear at every token, then bilinear interpolation of the logits to the pixels (``align_corners=False``).

    The cleanest for comparing mixers: all that tells one place from another comes from the backbone.

    Shapes: tokens (B, N, C), row by row, to logits (B, classes, H, W); N = HW/p².
    Cost: NC·classes MACs; the interpolation is elementwise work, 4 per logit.
    """

    def __init__(self, dim: int, num_classes: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.head = nn.Linear(dim, num_classes)
        init_linear_(self.head)

    def read(self, backbone: VisionTransformer, images: Tensor) -> Tensor:
        """The normalised tokens of the grid, (B, N, C)."""
        return backbone(images)

    def forward(self, tokens: Tensor, image_size: Grid) -> Tensor:
        """Tokens (B, N, C) to logits (B, classes, H, W)."""
        grid = (image_size[0] // self.patch, image_size[1] // self.patch)
        logits = self.head(tokens).transpose(1, 2).unflatten(2, grid)  # (B, classes, H/p, W/p)
        return F.interpolate(logits, size=image_size, mode="bilinear", align_corners=False)

    def declared_macs(self, image_size: Grid, batch: int) -> dict[str, int]:
        """NC·classes for each image."""
        n = image_size[0] // self.patch * (image_size[1] // self.patch)
        return {"head": batch * n * self.head.in_features * self.head.out_features}


Decoder = LinearDecoder | DPTDecoder


class DenseModel(nn.Module):
    """Images (B, in_channels, H, W), any H and W that the patch divides, to logits at every pixel (B, num_classes, H, W).

    Args:
        backbone: a ViT without a head; its parameters are under ``backbone.``.
        decoder: what reads the backbone; its parameters are under ``decoder.``.
        num_classes: of the logits.
        frozen: the backbone's parameters take no gradient, and it stays as in evaluation whatever `train` says, so that the
            decoder alone is trained (a probe).
    """

    def __init__(self, backbone: VisionTransformer, decoder: Decoder, num_classes: int, frozen: bool = False) -> None:
        super().__init__()
        self.backbone, self.decoder = backbone, decoder
        self.num_classes, self.frozen = num_classes, frozen
        if isinstance(decoder, DPTDecoder):
            backbone.norm.requires_grad_(False)  # dpt reads the blocks before it, and several processes wait for every gradient
        if frozen:
            backbone.requires_grad_(False)
            backbone.eval()

    @property
    def config(self) -> ViTConfig:
        """The backbone's."""
        return self.backbone.config

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) to logits (B, num_classes, H, W)."""
        return self.decoder(self.decoder.read(self.backbone, images), (int(images.shape[2]), int(images.shape[3])))

    def train(self, mode: bool = True) -> DenseModel:
        """As of any module, but that a frozen backbone stays in evaluation."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def example_inputs(
        self, batch: int, image_size: Grid | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """A random image batch to measure with."""
        return self.backbone.example_inputs(batch, image_size, generator)

    def declared_macs(self, image_size: Grid, batch: int = 1, path: str = "released") -> dict[str, int]:
        """MACs of every module for the whole batch, by closed forms alone; their sum is the model's.

        Raises:
            InputError: if the mixer declares none, or the patch does not divide the image.
        """
        backbone = self.backbone.declared_macs(image_size, batch, path)
        decoder = self.decoder.declared_macs(image_size, batch)
        return {f"backbone.{k}": v for k, v in backbone.items()} | {f"decoder.{k}": v for k, v in decoder.items()}

    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed although they have more than one dimension (timm's convention)."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Layer groups for layer-wise learning-rate decay (timm's convention): the backbone's own, and the decoder as last.

        So a parameter of the backbone has the rate that it has in a classifier, and the decoder that of a classifier's head.
        """
        return {
            "stem": r"^backbone\.(?:cls_token|pos_embed|patch_embed|init_norm)",
            "blocks": [(r"^backbone\.blocks\.(\d+)", None), (r"^backbone\.norm", (99999,))],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.backbone.set_grad_checkpointing(enable)


def create_dense(
    name: str,
    mixer: str | None = None,
    image_size: int | Grid | None = None,
    *,
    num_classes: int,
    decoder: str = "linear",
    frozen: bool = False,
    seed: int | None = None,
    **overrides: object,
) -> DenseModel:
    """Build a model of dense prediction: a ViT by name and a decoder.

    Args:
        name: a preset ``vit-*`` or ``weightformer-*``.
        mixer: any mixer; None for the preset's own.
        image_size: side of the images, or (height, width), in pixels, that the backbone is built for.
        num_classes: of the logits at every pixel.
        decoder: "linear", or "dpt", which needs the extra ``segmentation``.
        frozen: train the decoder alone, see `DenseModel`.
        seed: each initial value follows from it and the parameter's name, in the backbone as in `create`, so that it begins
            as the classifier of this seed does; None: from PyTorch's random state, in the order of construction.
        overrides: those of `create` for a classifier, but ``pool``.

    Returns:
        A `DenseModel`, with the ViT as ``backbone``. Weights of a classifier are loaded with
        ``load_initial(model.backbone, weights, fresh_head=True)``.

    Raises:
        InputError: for a preset that is no ViT, an unknown decoder or override, values that do not go together, or a decoder
            whose package is missing.
        MixerError: for an unknown mixer, or heads that do not divide the dimension.
    """
    config = configure(name, mixer, image_size, 0, **overrides)
    if not isinstance(config, ViTConfig):
        raise InputError(
            "dense prediction needs a ViT",
            got=f"model {name!r}, a denoiser",
            expected="a preset vit-* or weightformer-*",
            remedy="take another model: model.name=vit-tiny",
        )
    if decoder not in get_args(DecoderName):
        raise InputError(
            "unknown decoder",
            got=repr(decoder),
            expected=" or ".join(get_args(DecoderName)),
            remedy=did_you_mean(decoder, get_args(DecoderName)),
        )
    if "pool" in overrides or num_classes < 1:
        raise InputError(
            "impossible model of dense prediction",
            got=f"pool = {config.pool!r}, num_classes = {num_classes}",
            expected="no pool, since the decoder reads every token, and 1 class or more",
            remedy="leave pool out, and count the classes of the masks, the background too if it is one",
        )

    def build_decoder() -> Decoder:
        if decoder == "dpt":
            return DPTDecoder(config, num_classes)
        return LinearDecoder(config.embed_dim, num_classes, config.patch_size)

    backbone = create(name, mixer, image_size, 0, seed=seed, **overrides | {"pool": "none"})
    head = build_decoder() if seed is None else draw_by_name(seed, build_decoder)
    return DenseModel(backbone, head, num_classes, frozen)
