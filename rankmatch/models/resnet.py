"""ResNet-50 and -101 with a deep stem and a dilated end."""

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
STEM_CHANNELS = 128


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Return a padded 3x3 convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def stage(
    in_channels: int, width: int, num_blocks: int, *, stride: int = 1, dilations: tuple[int, int] = (1, 1)
) -> nn.Module:
    """Return one stage of bottlenecks.

    Args:
        in_channels: channels that enter.
        width: channels inside a bottleneck; four times as many leave.
        num_blocks: number of bottlenecks.
        stride: stride of the first bottleneck.
        dilations: dilation of the first bottleneck and of the others.
    """
    out_channels = width * Bottleneck.expansion
    shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
    first, others = dilations
    blocks = [Bottleneck(in_channels, width, stride, shortcut, dilation=first)]
    blocks += [Bottleneck(out_channels, width, dilation=others) for _ in range(num_blocks - 1)]
    return nn.Sequential(*blocks)


class ResNet(nn.Module):
    """Return the output of the first stage (stride 4) and of the last one (at the output stride)."""

    low_channels = 256
    high_channels = 2048

    def __init__(self, name: str, output_stride: int) -> None:
        super().__init__()
        blocks = BLOCKS[name]
        self.conv1 = nn.Sequential(
            conv3x3(3, 64, stride=2),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            conv3x3(64, 64),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            conv3x3(64, STEM_CHANNELS),
        )
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        # A stage that loses its stride keeps the previous dilation in its first block, and doubles it after that.
        self.layer1 = stage(STEM_CHANNELS, 64, blocks[0])
        self.layer2 = stage(256, 128, blocks[1], stride=2)
        if output_stride == 16:
            self.layer3 = stage(512, 256, blocks[2], stride=2)
            self.layer4 = stage(1024, 512, blocks[3], dilations=(1, 2))
        else:
            self.layer3 = stage(512, 256, blocks[2], dilations=(1, 2))
            self.layer4 = stage(1024, 512, blocks[3], dilations=(2, 4))

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch low low_height low_width"], Float[Tensor, "batch high high_height high_width"]]:
        """Return low- and high-level features."""
        low = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))
        return low, self.layer4(self.layer3(self.layer2(low)))
