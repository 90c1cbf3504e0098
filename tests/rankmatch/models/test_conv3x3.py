import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rankmatch.config import ModelConfig
from rankmatch.models import build_model
from rankmatch.models.conv3x3 import Conv3x3


def make(dilation, size, layout=torch.contiguous_format, dtype=torch.float64):
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(2, 5, *size, generator=draws, dtype=dtype).contiguous(memory_format=layout)
    conv = Conv3x3(5, 4, 3, padding=dilation, dilation=dilation, bias=False).to(dtype)
    with torch.no_grad():
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=draws, dtype=dtype))
    return images.requires_grad_(), conv.to(memory_format=layout)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(3, 3), (6, 7), (13, 9), (33, 41)])
@pytest.mark.parametrize("dilation", [1, 2, 6, 12, 18])
def test_output_and_gradients_are_those_of_the_library_convolution(dilation, size, layout):
    images, conv = make(dilation, size, layout)
    output = conv(images)
    expected = F.conv2d(images, conv.weight, padding=dilation, dilation=dilation)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.autograd.grad(output, (images, conv.weight), weights)
    wanted = torch.autograd.grad(expected, (images, conv.weight), weights)
    for gradient, wanted_gradient in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, wanted_gradient, rtol=0, atol=1e-12)


def test_in_autocast_it_computes_in_the_precision_of_a_library_convolution():
    images, conv = make(6, (9, 9), torch.channels_last, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output, expected = conv(images), F.conv2d(images, conv.weight, padding=6, dilation=6)
    assert output.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    found = torch.autograd.grad(output.float().square().sum(), (images, conv.weight))
    wanted = torch.autograd.grad(expected.float().square().sum(), (images, conv.weight))
    for gradient, wanted_gradient in zip(found, wanted, strict=True):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, wanted_gradient, rtol=0.02, atol=0.5)


def test_convolutions_of_the_network_are_replaced_where_the_form_allows():
    model = build_model(ModelConfig())
    kinds = {name: type(module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    ours = [name for name, kind in kinds.items() if kind is Conv3x3]
    assert len(ours) == 2 + (3 + 3 + 5 + 3) + 3 + 2  # stem, bottlenecks without stride, ASPP, decoder
    assert {"head.b3.0", "fuse.0", "fuse.3", "backbone.layer4.2.conv2"} <= set(ours)


def test_gradient_that_nobody_wants_is_not_computed():
    images, conv = make(6, (9, 9))
    (weight,) = torch.autograd.grad(conv(images.detach()).sum(), (conv.weight,))
    conv.weight.requires_grad_(False)
    assert weight.shape == (4, 5, 3, 3)
    assert conv(images).grad_fn.name() == "ConvolutionBackward0"
