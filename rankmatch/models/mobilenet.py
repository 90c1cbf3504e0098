"""MobileNetV2 (torchvision's) with a dilated end."""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

LOW_BLOCK = 3
NUM_USED = 18  # features[18] widens for the ImageNet classifier and is not used
STRIDED_BLOCKS = {16: (14,), 8: (7, 14)}


def dilate(block: nn.Module, dilation: int) -> None:
    """Set stride 1 and a dilation on the depthwise convolution of an inverted residual."""
    (conv,) = (module for module in block.modules() if isinstance(module, nn.Conv2d) and module.groups > 1)
    conv.stride = (1, 1)
    conv.dilation = conv.padding = (dilation, dilation)


class MobileNetV2(nn.Sequential):
    """Return the output of block 3 (stride 4) and of block 17 (at the output stride)."""

    def __init__(self, output_stride: int, width: float) -> None:
        blocks = list(mobilenet_v2(width_mult=width).features)[:NUM_USED]
        super().__init__(*blocks)
        self.low_channels: int = blocks[LOW_BLOCK].out_channels
        self.high_channels: int = blocks[-1].out_channels
        dilation = 1
        # As in the ResNet: a block that loses its stride keeps the previous dilation, later ones double it.
        for start, end in pairwise((*STRIDED_BLOCKS[output_stride], NUM_USED)):
            dilate(blocks[start], dilation)
            dilation *= 2
            for block in blocks[start + 1 : end]:
                dilate(block, dilation)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch low low_height low_width"], Float[Tensor, "batch high high_height high_width"]]:
        """Return low- and high-level features."""
        low = high = images
        for index, block in enumerate(self):
            high = block(high)
            if index == LOW_BLOCK:
                low = high
        return low, high
