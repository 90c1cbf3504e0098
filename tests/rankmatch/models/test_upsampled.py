import pytest
import torch
from torch.nn import functional as F

from rankmatch.models.upsampled import add_convolved


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("small", "large"), [((3, 3), (9, 9)), ((6, 6), (21, 21)), ((5, 7), (18, 26)), ((1, 4), (2, 13)), ((4, 4), (4, 4))]
)
def test_sum_and_gradients_are_those_of_upsampling_and_then_convolving(small, large, layout):
    draws = torch.Generator().manual_seed(0)
    shapes = (2, 4, *large), (2, 5, *small), (4, 5, 3, 3)
    given = [torch.randn(shape, generator=draws, dtype=torch.float64) for shape in shapes]
    added, features, weight = (part.contiguous(memory_format=layout).requires_grad_() for part in given)
    output = add_convolved(added, features, weight)
    upsampled = F.interpolate(features, size=large, mode="bilinear", align_corners=True)
    expected = added + F.conv2d(upsampled, weight, padding=1)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    factors = torch.randn(output.shape, generator=draws, dtype=torch.float64)
    found = torch.autograd.grad(output, (added, features, weight), factors)
    wanted = torch.autograd.grad(expected, (added, features, weight), factors)
    for gradient, wanted_gradient in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, wanted_gradient, rtol=0, atol=1e-12)


def test_output_of_channels_last_features_is_channels_last():
    added, features = (torch.zeros(2, 4, side, side).to(memory_format=torch.channels_last) for side in (9, 3))
    assert add_convolved(added, features, torch.zeros(4, 4, 3, 3)).is_contiguous(memory_format=torch.channels_last)
