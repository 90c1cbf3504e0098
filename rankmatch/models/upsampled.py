"""A 3x3 convolution of upsampled features without upsampling them: the same linear map in fewer products.

Interpolation acts on each channel separately, so it commutes with what a tap does at one pixel. Each tap's product is
computed on the small grid; the nine products are then interpolated, shifted and added up, one axis at a time. If
the grid grows fourfold in each direction, this takes about a ninth of the multiplications.
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor


def add_convolved(
    added: Float[Tensor, "batch out height width"],
    features: Float[Tensor, "batch in h w"],
    weight: Float[Tensor, "out in 3 3"],
) -> Float[Tensor, "batch out height width"]:
    """Return `added` plus the zero-padded convolution of the features, interpolated (aligned corners) to its size."""
    batch, out, height, width = added.shape
    rows, columns = (
        _shifted_interpolation(small, large, added.dtype, added.device)
        for small, large in zip(features.shape[2:], (height, width), strict=True)
    )
    pixels = features.permute(0, 2, 3, 1)
    across = []
    for taps in weight.permute(2, 1, 3, 0):  # [in, column, out] of each row of taps
        products = (pixels @ taps.flatten(1)).view(batch * pixels.shape[1], -1, out)  # [batch x h, w x column, out]
        across.append(columns.expand(len(products), -1, -1).bmm(products).view(batch, pixels.shape[1], 1, -1))
    stacked = torch.cat(across, dim=2).flatten(1, 2)  # [batch, h x row, width x out]
    given = added.permute(0, 2, 3, 1).reshape(batch, height, width * out)
    summed = torch.baddbmm(given, rows.expand(batch, -1, -1), stacked)
    return summed.view(batch, height, width, out).permute(0, 3, 1, 2)


@cache
@torch.inference_mode(False)
def _shifted_interpolation(small: int, large: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return [large, small x 3]: the weights of the small grid's tap products for each value of the large grid."""
    places = torch.arange(large, dtype=torch.float64) * ((small - 1) / max(large - 1, 1))
    left = places.floor().long().clamp(max=small - 1)
    share = (places - left)[:, None]
    identity = torch.eye(small, dtype=torch.float64)
    interpolated = (1 - share) * identity[left] + share * identity[(left + 1).clamp(max=small - 1)]
    nothing = interpolated.new_zeros(1, small)
    taps = [torch.cat([nothing, interpolated[:-1]]), interpolated, torch.cat([interpolated[1:], nothing])]
    return torch.stack(taps, dim=2).flatten(1).to(device, dtype)
