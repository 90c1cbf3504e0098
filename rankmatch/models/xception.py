"""Xception-65 with a dilated end (Chen et al. 2018, the DeepLabV3+ paper)."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

MIDDLE_CHANNELS = 728
NUM_MIDDLE_BLOCKS = 16
BN_MOMENTUM = 0.0003

Images = Float[Tensor, "batch channels height width"]
Outputs = Float[Tensor, "batch _ _ _"]


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm with the slow momentum of the published network."""
    return nn.BatchNorm2d(channels, momentum=BN_MOMENTUM)


class SeparableConv(nn.Module):
    """Convolve each channel separately, then mix them; a batch norm after both."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1, relu_first: bool = True
    ) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, stride, dilation, dilation, groups=in_channels, bias=False
        )
        self.bn1 = batch_norm(in_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = batch_norm(out_channels)
        self.relu_first = relu_first

    def forward(self, images: Images) -> Outputs:
        """Rectify before, or (`relu_first` false) after each batch norm."""
        inner: Tensor = self.bn1(self.depthwise(F.relu(images) if self.relu_first else images))
        outer: Tensor = self.bn2(self.pointwise(inner if self.relu_first else F.relu(inner, inplace=True)))
        return outer if self.relu_first else F.relu(outer, inplace=True)


class Block(nn.Module):
    """Three separable convolutions and a shortcut, which is convolved where the size changes.

    Args:
        in_channels: channels that enter.
        out_channels: channels after each of the three.
        stride: of the last of the three and of the shortcut.
        dilation: of all three.
    """

    def __init__(
        self, in_channels: int, out_channels: tuple[int, int, int], stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        first, second, third = out_channels
        self.has_skip = (in_channels, stride) != (third, 1)
        if self.has_skip:
            self.skip = nn.Conv2d(in_channels, third, 1, stride, bias=False)
            self.skipbn = batch_norm(third)
        self.sepconv1 = SeparableConv(in_channels, first, dilation=dilation)
        self.sepconv2 = SeparableConv(first, second, dilation=dilation)
        self.sepconv3 = SeparableConv(second, third, stride=stride, dilation=dilation)

    def forward(self, images: Images) -> tuple[Outputs, Outputs]:
        """Return the output of the second separable convolution and that of the block."""
        # As published: the ReLU before the first convolution works in place, so that an identity shortcut adds
        # the rectified input; a convolved one was taken before.
        shortcut = self.skipbn(self.skip(images)) if self.has_skip else F.relu(images)
        inner = self.sepconv2(self.sepconv1(images))
        return inner, self.sepconv3(inner) + shortcut


class Xception(nn.Module):
    """Return block 2's features before its stride (stride 4) and the output of the last convolution."""

    low_channels = 256
    high_channels = 2048

    def __init__(self, output_stride: int) -> None:
        super().__init__()
        # At 16 nothing is dilated, as published; at 8 block 3 loses its stride and everything after it is dilated.
        stride, dilation = (2, 1) if output_stride == 16 else (1, 2)
        self.conv1 = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self.bn1 = batch_norm(32)
        self.conv2 = nn.Conv2d(32, 64, 3, 1, 1, bias=False)
        self.bn2 = batch_norm(64)
        self.block1 = Block(64, (128, 128, 128), stride=2)
        self.block2 = Block(128, (256, 256, 256), stride=2)
        self.block3 = Block(256, (MIDDLE_CHANNELS,) * 3, stride=stride)
        for number in range(4, 4 + NUM_MIDDLE_BLOCKS):
            self.add_module(f"block{number}", Block(MIDDLE_CHANNELS, (MIDDLE_CHANNELS,) * 3, dilation=dilation))
        self.block20 = Block(MIDDLE_CHANNELS, (MIDDLE_CHANNELS, 1024, 1024), dilation=dilation)
        self.conv3 = SeparableConv(1024, 1536, dilation=dilation, relu_first=False)
        self.conv4 = SeparableConv(1536, 1536, dilation=dilation, relu_first=False)
        self.conv5 = SeparableConv(1536, 2048, dilation=dilation, relu_first=False)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch low low_height low_width"], Float[Tensor, "batch high high_height high_width"]]:
        """Return low- and high-level features."""
        values = F.relu(self.bn1(self.conv1(images)), inplace=True)
        values = F.relu(self.bn2(self.conv2(values)), inplace=True)
        _, values = self.block1(values)
        low, values = self.block2(values)
        for number in range(3, 21):
            _, values = self.get_submodule(f"block{number}")(values)
        return low, self.conv5(self.conv4(self.conv3(values)))
