"""3x3 convolutions whose weight's gradient is fast on a CPU, dilated or not."""

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

MAX_PADDING = 1.15
"""How much larger a padded image may be for the padding to be multiplied too."""

Images = Float[Tensor, "batch in height width"]
Outputs = Float[Tensor, "batch out height width"]
Weight = Float[Tensor, "out in 3 3"]


class Conv3x3(nn.Conv2d):
    """A convolution of stride 1 that keeps the size, without bias and groups.

    On a CPU its weight's gradient is one matrix product a tap. The library's is several times slower in channels_last
    where the grid is large, and multiplies the padding that dilated taps see, which it does not elsewhere. The same
    function up to the order of summation.
    """

    def forward(self, input: Images) -> Outputs:
        """Convolve."""
        if input.device.type != "cpu" or not (torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(input)
        return convolve(input, self.weight, self.dilation[0])


def convolve(images: Images, weight: Weight, dilation: int = 1) -> Outputs:
    """Convolve so that the size stays, with this module's gradient."""
    dtype = images.dtype
    if torch.is_autocast_enabled("cpu"):  # what the library's convolution is given there
        dtype = torch.get_autocast_dtype("cpu")
    convolved: Tensor = _Convolution.apply(images.to(dtype), weight.to(dtype), dilation)
    return convolved


Network = TypeVar("Network", bound=nn.Module)


def speed_up(model: Network) -> Network:
    """Turn every convolution for which it is possible into a `Conv3x3` with the same parameters."""
    for module in model.modules():
        if type(module) is nn.Conv2d and _fits(module):
            module.__class__ = Conv3x3
    return model


def _fits(conv: nn.Conv2d) -> bool:
    plain = conv.kernel_size == (3, 3) and conv.stride == (1, 1) and conv.groups == 1 and conv.bias is None
    return plain and conv.padding == conv.dilation and conv.dilation[0] == conv.dilation[1]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, dilation: int) -> Tensor:  # noqa: ANN401 (autograd's)
        ctx.save_for_backward(images, weight)
        ctx.dilation = dilation
        return F.conv2d(images, weight, padding=dilation, dilation=dilation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # noqa: ANN401
        images, weight = ctx.saved_tensors
        needs_images, needs_weight, _ = ctx.needs_input_grad
        for_images = images_gradient(gradients[0], images, weight, ctx.dilation) if needs_images else None
        for_weight = weight_gradient(gradients[0], images, ctx.dilation) if needs_weight else None
        return for_images, for_weight, None


def images_gradient(gradient: Outputs, images: Images, weight: Weight, dilation: int) -> Images:
    """Return the gradient with respect to the input, by the library."""
    pair = [dilation, dilation]
    parts = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, [1, 1], pair, pair, False, [0, 0], 1, [True, False, False]
    )
    found: Tensor = parts[0]
    return found


def weight_gradient(gradient: Outputs, images: Images, dilation: int) -> Weight:
    """Return the gradient with respect to the weight, one matrix product per tap."""
    height, width = images.shape[2:]
    is_small = (height + 2 * dilation) * (width + 2 * dilation) <= MAX_PADDING * height * width
    pairs = (_on_padded if is_small else _on_parts)(gradient.permute(0, 2, 3, 1), images.permute(0, 2, 3, 1), dilation)
    taps = images.new_zeros(gradient.shape[1], 3, 3, images.shape[1])
    for row, column, given, seen in pairs:
        torch.mm(given.T, seen, out=taps[:, row, column])
    return taps.permute(0, 3, 1, 2)


Pairs = Iterator[tuple[int, int, Tensor, Tensor]]


def _on_padded(gradient: Tensor, images: Tensor, dilation: int) -> Pairs:
    """Pair gradients and pixels for each tap, including padding: views of two padded copies, shifted by the tap."""
    padded = F.pad(images, (0, 0, dilation, dilation, dilation, dilation)).flatten(0, 2)
    given = F.pad(gradient, (0, 0, 0, 2 * dilation, 0, 2 * dilation)).flatten(0, 2)
    for row in range(3):
        for column in range(3):
            offset = dilation * (row * (images.shape[2] + 2 * dilation) + column)
            yield row, column, given[: len(given) - offset], padded[offset:]


def _on_parts(gradient: Tensor, images: Tensor, dilation: int) -> Pairs:
    """Pair gradients and pixels for each tap on the part of the grid where it sees no padding."""
    for row, out_rows, in_rows in _seen(images.shape[1], dilation):
        for column, out_columns, in_columns in _seen(images.shape[2], dilation):
            given, seen = gradient[:, out_rows, out_columns], images[:, in_rows, in_columns]
            yield row, column, given.flatten(0, 2), seen.flatten(0, 2)


def _seen(size: int, dilation: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield the taps along one axis that see any input, with the outputs they add to and the inputs they see."""
    for tap, shift in enumerate((-dilation, 0, dilation)):
        if abs(shift) < size:
            yield tap, slice(max(0, -shift), size - max(0, shift)), slice(max(0, shift), size + min(0, shift))
