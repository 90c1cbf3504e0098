"""DeepLabV3+: ASPP, decoder and the feature perturbation of UniMatch."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rankmatch.config import ModelConfig
from rankmatch.models.conv3x3 import convolve, speed_up
from rankmatch.models.initialisation import initialise
from rankmatch.models.mobilenet import MobileNetV2
from rankmatch.models.resnet import ResNet
from rankmatch.models.upsampled import add_convolved
from rankmatch.models.xception import Xception
from rankmatch.reach import RATES, unreached_rates

REDUCED_CHANNELS = 48
HEAD_CHANNELS = 256
MOBILENET_HEAD_CHANNELS = 128
DROP_PROBABILITY = 0.5

Images = Float[Tensor, "batch 3 height width"]
Features = Float[Tensor, "batch channels feature_height feature_width"]
Logits = Float[Tensor, "batch classes height width"]
Backbone = ResNet | Xception | MobileNetV2
Keep = tuple[Bool[Tensor, "batch low"], Bool[Tensor, "batch high"]]


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int = 1, dilation: int = 1) -> list[nn.Module]:
    """Return a convolution that keeps the size, its batch norm and its ReLU."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


def resize(values: Float[Tensor, "batch channels _ _"], size: torch.Size) -> Float[Tensor, "batch channels _ _"]:
    """Interpolate bilinearly with aligned corners."""
    return F.interpolate(values, size=size, mode="bilinear", align_corners=True)


class ImagePooling(nn.Module):
    """Give every position the convolved mean over the image."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.gap = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_bn_relu(in_channels, out_channels))

    def forward(self, high: Float[Tensor, "batch high h w"]) -> Float[Tensor, "batch channels h w"]:
        """Return the pooled branch at the size of its input."""
        pooled: Tensor = self.gap(high)
        return pooled.expand(-1, -1, *high.shape[-2:])


class ASPP(nn.Module):
    """Look at high-level features at several rates."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.b0 = nn.Sequential(*conv_bn_relu(in_channels, out_channels))
        self.b1, self.b2, self.b3 = (nn.Sequential(*conv_bn_relu(in_channels, out_channels, 3, rate)) for rate in RATES)
        self.b4 = ImagePooling(in_channels, out_channels)
        self.project = nn.Sequential(*conv_bn_relu(5 * out_channels, out_channels))

    @property
    def dilated(self) -> list[nn.Conv2d]:
        """The convolutions of `RATES`."""
        return [conv for branch in (self.b1, self.b2, self.b3) for conv in branch if isinstance(conv, nn.Conv2d)]

    def forward(self, high: Float[Tensor, "batch high h w"]) -> Float[Tensor, "batch channels h w"]:
        """Return the features that the rank loss uses."""
        branches = [branch(high) for branch in (self.b0, self.b1, self.b2, self.b3, self.b4)]
        features: Tensor = self.project(torch.cat(branches, dim=1))
        return features


class DeepLabV3Plus(nn.Module):
    """Segment images; parameter names are those of the public checkpoints."""

    def __init__(self, backbone: Backbone, num_classes: int, channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = ASPP(backbone.high_channels, channels)
        self.reduce = nn.Sequential(*conv_bn_relu(backbone.low_channels, REDUCED_CHANNELS))
        self.fuse = nn.Sequential(
            *conv_bn_relu(channels + REDUCED_CHANNELS, channels, 3), *conv_bn_relu(channels, channels, 3)
        )
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    @property
    def low_channels(self) -> int:
        """Return the number of low-level channels, to which the first of `keep` refers."""
        return self.backbone.low_channels

    @property
    def high_channels(self) -> int:
        """Return the number of high-level channels, to which the second of `keep` refers."""
        return self.backbone.high_channels

    def forward(
        self, images: Images, perturb: bool = False, keep: Keep | None = None
    ) -> tuple[Logits, Features] | tuple[Logits, Logits, Features]:
        """Return logits, with `perturb` also those of perturbed features, and the ASPP output.

        Args:
            images: normalised images.
            perturb: decode the backbone's features once more with dropped channels (UniMatch's perturbation).
            keep: the low- and high-level channels that stay; None draws them from the global generator.
        """
        low, high = self.backbone(images)
        if not perturb:
            return self.decode(low, high, images.shape[-2:])
        dropped_low, dropped_high = drop_channels(low, high, keep)
        # One batch, as in UniMatch: during training the batch norms see both halves together.
        both, features = self.decode(torch.cat([low, dropped_low]), torch.cat([high, dropped_high]), images.shape[-2:])
        logits, perturbed_logits = both.chunk(2)
        return logits, perturbed_logits, features[: len(images)]

    def decode(
        self,
        low: Float[Tensor, "batch low low_height low_width"],
        high: Float[Tensor, "batch high feature_height feature_width"],
        size: torch.Size,
    ) -> tuple[Float[Tensor, "batch classes _ _"], Features]:
        """Return logits at the given size and the ASPP output."""
        features: Tensor = self.head(high)
        return resize(self.classifier(self._fused(self.reduce(low), features)), size), features

    def _fused(
        self, low: Float[Tensor, "batch reduced height width"], features: Features
    ) -> Float[Tensor, "batch channels height width"]:
        if low.device.type != "cpu":  # not measured elsewhere
            convolved = self.fuse[0](torch.cat([low, resize(features, low.shape[-2:])], dim=1))
        else:
            weight = self.fuse[0].weight
            assert isinstance(weight, Tensor)
            of_low, of_features = weight.tensor_split([low.shape[1]], dim=1)
            convolved = add_convolved(convolve(low, of_low), features, of_features)
        fused: Tensor = self.fuse[1:](convolved)
        return fused


def drop_channels(
    low: Float[Tensor, "batch low low_height low_width"],
    high: Float[Tensor, "batch high high_height high_width"],
    keep: Keep | None,
) -> tuple[Float[Tensor, "batch low low_height low_width"], Float[Tensor, "batch high high_height high_width"]]:
    """Zero the channels that are not kept and scale the others, as channel dropout does."""
    if keep is None:
        return F.dropout2d(low, DROP_PROBABILITY), F.dropout2d(high, DROP_PROBABILITY)
    scale = 1 / (1 - DROP_PROBABILITY)
    low_factor, high_factor = (kept.to(low.dtype)[:, :, None, None] * scale for kept in keep)
    return low * low_factor, high * high_factor


def build_model(model_config: ModelConfig, generator: torch.Generator | None = None) -> DeepLabV3Plus:
    """Build the network with fresh parameters, drawn from the generator (PyTorch's global one if None)."""
    model = outline(model_config)  # so that construction itself draws nothing
    model.to_empty(device="cpu")
    initialise(model, model.backbone, generator)
    return speed_up(model)


@torch.no_grad()
def silence_unreached(model: DeepLabV3Plus, grid_size: int) -> None:
    """Set those taps of the ASPP to zero that no position of a square feature grid reaches.

    Such a grid never trains them, so they stay at zero, and a larger one meets them as padding, which they were to it.
    """
    unreached = unreached_rates(grid_size)
    for conv in model.head.dilated:
        if conv.dilation[0] in unreached:
            centre = conv.weight[..., 1, 1].clone()
            conv.weight.zero_()
            conv.weight[..., 1, 1] = centre


def outline(model_config: ModelConfig) -> DeepLabV3Plus:
    """Build the network without values: only names and shapes."""
    with torch.device("meta"):
        backbone, channels = _backbone(model_config)
        return DeepLabV3Plus(backbone, model_config.num_classes, channels)


def _backbone(model_config: ModelConfig) -> tuple[Backbone, int]:
    """Return the backbone and the number of channels of its head."""
    if model_config.backbone == "mobilenet_v2":
        channels = round(MOBILENET_HEAD_CHANNELS * model_config.width / 8) * 8
        return MobileNetV2(model_config.output_stride, model_config.width), channels
    if model_config.backbone == "xception":
        return Xception(model_config.output_stride), HEAD_CHANNELS
    return ResNet(model_config.backbone, model_config.output_stride), HEAD_CHANNELS
