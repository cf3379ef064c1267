"""The decoder of DPT, by segmentation-models-pytorch, on a ViT of any grid."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import Grid
from wfbench.errors import InputError
from wfbench.models.vit import VisionTransformer
from wfbench.models.vit_config import ViTConfig

#: The coarsest of the decoder's four maps has one place for so many pixels of a side.
COARSEST = 32
STAGES = 4
#: The most groups of channels of a GroupNorm.
_GROUPS = 32


class DPTDecoder(nn.Module):
    """The maps after four blocks, brought to strides 4, 8, 16 and 32, fused from coarse to fine, and brought to the pixels.

    The blocks are those that segmentation-models-pytorch takes, at equal distances, the last one included. Where the coarse
    map does not fit the image (its sides are no multiples of 32), the token maps are continued by their last row and column,
    and the logits cut to the image. A class token is read with each map ("cat").

    Shapes: four maps (B, C, H/p, W/p), p a power of two, to logits (B, classes, H, W).
    Source: DPT (arXiv 2103.13413); segmentation-models-pytorch's modules and initialisation, at its defaults, but for the norm.

    Args:
        config: of the backbone.
        num_classes: of the logits.
        norm: "group": GroupNorm of 32 groups stands where segmentation-models-pytorch has BatchNorm, so that an image's logits
            depend on no other image: not on the parts of a batch, and not on the processes. "batch": its BatchNorm, as it is,
            to be compared with it; the bench trains none.

    Raises:
        InputError: without the package, for a patch size that is no power of two, or fewer than four blocks.
    """

    def __init__(self, config: ViTConfig, num_classes: int, norm: Literal["group", "batch"] = "group") -> None:
        super().__init__()
        try:
            from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
            from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder as Decoder
            from segmentation_models_pytorch.decoders.dpt.decoder import DPTSegmentationHead as Head
        except ImportError as e:
            raise InputError(
                "the decoder dpt needs segmentation-models-pytorch",
                got=str(e),
                expected="the extra `segmentation`",
                remedy="pip install 'wfbench[segmentation]', or use decoder linear",
            ) from e
        p, depth = config.patch_size, config.depth
        if p & (p - 1) or depth < STAGES:
            raise InputError(
                "the decoder dpt cannot read this model",
                got=f"patch_size = {p}, depth = {depth}",
                expected=f"a patch size that is a power of two, and {STAGES} blocks or more",
                remedy="change these, or use decoder linear",
            )
        self.patch = p
        self.indices = [int(depth / STAGES * (stage + 1)) - 1 for stage in range(STAGES)]
        self.fuse = Decoder(
            encoder_out_channels=[config.embed_dim] * STAGES,
            encoder_output_strides=[p] * STAGES,
            encoder_has_prefix_tokens=config.class_token,
            readout="cat" if config.class_token else "ignore",
        )
        self.head = Head(in_channels=self.fuse.fusion_blocks[0].project.out_channels, out_channels=num_classes)
        initialize_decoder(self.fuse)
        initialize_head(self.head)
        if norm == "group":
            _without_batch_norm(self)

    def read(self, backbone: VisionTransformer, images: Tensor) -> list[Any]:
        """The maps after four blocks; of a model with a class token, pairs of map and class token."""
        return backbone.forward_intermediates(images, self.indices, return_prefix_tokens=True, intermediates_only=True)

    def forward(self, features: list[Any], image_size: Grid) -> Tensor:
        """Four maps (B, C, H/p, W/p), each alone or with a class token (B, 1, C), to logits (B, classes, H, W)."""
        pairs = [(f, None) if isinstance(f, Tensor) else f for f in features]
        maps, prefix = [f for f, _ in pairs], [token for _, token in pairs]
        h, w = self._padded(image_size)
        rows, columns = h - maps[0].shape[2], w - maps[0].shape[3]
        if rows or columns:
            maps = [F.pad(f, (0, columns, 0, rows), mode="replicate") for f in maps]
        return self.head(self.fuse(maps, prefix))[:, :, : image_size[0], : image_size[1]]

    def _padded(self, image_size: Grid) -> Grid:
        """The grid of the token maps, continued to whole places of the coarsest map."""
        h, w = (-(-side // COARSEST) * COARSEST // self.patch for side in image_size)
        return (h, w) if self.patch <= COARSEST else (image_size[0] // self.patch, image_size[1] // self.patch)

    def declared_macs(self, image_size: Grid, batch: int) -> dict[str, int]:
        """MACs of the decoder's modules for the whole batch, by closed forms: each weight, once for each place it works at."""
        h, w = self._padded(image_size)
        n, counts = h * w, {}

        def at(places: int, *layers: nn.Module) -> int:
            weighted = [layer for layer in layers if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
            return batch * places * sum(layer.weight.numel() for layer in weighted)

        pixels = n * self.patch**2
        for i in range(STAGES):
            places = pixels // (4 << i) ** 2  # of the stage's map
            read, block = self.fuse.projection_blocks[i], self.fuse.reassemble_blocks[i]
            # A transposed convolution works at the places that it reads, any other at those that it gives.
            resized = n if isinstance(block.upsample, nn.ConvTranspose2d) else places
            counts[f"fuse.projection_blocks.{i}"] = at(n, *read.modules())
            counts[f"fuse.reassemble_blocks.{i}"] = (
                at(n, block.project_to_out_channel) + at(resized, block.upsample) + at(places, block.project_to_feature_dim)
            )
            # Fused from the coarsest: the block of this stage is the i-th from the end, and projects at twice the resolution.
            fusion = self.fuse.fusion_blocks[STAGES - 1 - i]
            units = [*fusion.residual_conv_block1.modules(), *fusion.residual_conv_block2.modules()]
            counts[f"fuse.fusion_blocks.{STAGES - 1 - i}"] = at(places, *units) + at(4 * places, fusion.project)
        return counts | {"head": at(pixels // 4, *self.head.modules())}


def _without_batch_norm(module: nn.Module) -> None:
    """Put a fresh GroupNorm, of as many groups as divide its channels, up to `_GROUPS`, in the place of every BatchNorm."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(math.gcd(_GROUPS, child.num_features), child.num_features))
        else:
            _without_batch_norm(child)
