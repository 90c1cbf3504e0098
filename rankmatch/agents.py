"""Agents: the pixels of an image with which all its pixels are compared, and the correlations with them.

The method here, in `plackett_luce` and in `losses` is from RankMatch, CVPR 2024, pages 3391-3401.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from rankmatch.checks import in_range, one_of
from rankmatch.distributed import to_device

Generators = torch.Generator | Sequence[torch.Generator]


def widen(values: Tensor) -> Tensor:
    """Return the values in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@torch.no_grad()
def select_agents(
    features: Float[Tensor, "batch channels height width"],
    num_agents: int,
    *,
    first: Int64[Tensor, " batch"] | None = None,
    generator: Generators | None = None,
    valid: Bool[Tensor, "batch height width"] | None = None,
) -> Int64[Tensor, "batch agents"]:
    """Pick pixels greedily: each time the pixel whose largest absolute cosine to the picked ones is smallest.

    Returns flat positions in picking order, without repetition; ties go to the lower position. An image's agents do not
    depend on the other images of the batch. All-zero features have cosine 0 to everything.

    Args:
        features: Teacher features at any scale.
        num_agents: At most height x width.
        first: Flat position of each image's first agent.
        generator: Draws the first agents if `first` is not given; one, or one per image.
        valid: Where agents may be. In an image with fewer valid pixels than agents, all of these are picked, then
            others by the same rule, so that each image has the same number.

    Raises:
        ValueError: There are fewer pixels than agents, or neither `first` nor `generator` is given.
    """
    _check_count(features, num_agents)
    if first is None:
        first = place_first(
            to_device(_uniform(generator, len(features), 1)[:, 0], features.device), _flat_valid(features, valid)
        )
    cosines_with = _cosine_finder(features)
    images = torch.arange(len(features), device=features.device)
    largest = widen(features).new_zeros(features.flatten(2).shape[::2])
    # Added to a cosine, 2 ranks a pixel after all valid ones, and infinity excludes it.
    handicap = torch.zeros_like(largest).masked_fill_(~_flat_valid(features, valid), 2.0)
    picked = [first]
    for _ in range(num_agents - 1):
        largest = torch.maximum(largest, cosines_with(picked[-1]).abs())
        handicap[images, picked[-1]] = torch.inf
        picked.append((largest + handicap).argmin(dim=1))
    return torch.stack(picked, dim=1)


def select(
    selection: str,
    features: Float[Tensor, "batch channels height width"],
    num_agents: int,
    *,
    first: Int64[Tensor, " batch"] | None = None,
    generator: Generators | None = None,
    valid: Bool[Tensor, "batch height width"] | None = None,
) -> Int64[Tensor, "batch agents"]:
    """Pick agents by the method of one row of the paper's Table 5.

    `all` takes every pixel, valid or not, and ignores `num_agents`; only `random` needs a generator as well as `first`.

    Raises:
        ValueError: The selection is unknown, or as in `select_agents`.
    """
    one_of("selection", selection, _SELECTIONS)
    return _SELECTIONS[selection](features, num_agents, first=first, generator=generator, valid=valid)


def place_first(draws: Float[Tensor, " batch"], valid: Bool[Tensor, "batch positions"]) -> Int64[Tensor, " batch"]:
    """Turn one uniform draw in [0, 1) per image into a valid position; any position if an image has no valid pixel."""
    candidates = valid | ~valid.any(dim=1, keepdim=True)
    counts = candidates.cumsum(dim=1)
    chosen = (draws.double() * counts[:, -1]).long()  # less than the count: the product is never rounded up to it
    return torch.searchsorted(counts, chosen[:, None] + 1)[:, 0]


def correlation_logits(
    features: Float[Tensor, "batch channels height width"], indices: Int64[Tensor, "batch agents"]
) -> Float[Tensor, "batch positions agents"]:
    """Return the dot products of every pixel with its image's agents: log-correlations, up to a shift for each pixel.

    At least float32, even under autocast. The gradient flows through both factors.
    """
    pixels = widen(features).flatten(2)
    agents = pixels.gather(2, indices[:, None].expand(-1, pixels.shape[1], -1))
    with torch.autocast(features.device.type, enabled=False):
        return pixels.transpose(1, 2) @ agents


@torch.no_grad()
def _select_random(
    features: Tensor, num_agents: int, *, first: Tensor | None, generator: Generators | None, valid: Tensor | None
) -> Tensor:
    _check_count(features, num_agents)
    draws = to_device(_uniform(generator, len(features), features[0, 0].numel()), features.device)
    if first is not None:
        draws.scatter_(1, first[:, None], -1.0)
    return _smallest(draws, num_agents, _flat_valid(features, valid), first)


@torch.no_grad()
def _select_top_n(
    features: Tensor, num_agents: int, *, first: Tensor | None, generator: Generators | None, valid: Tensor | None
) -> Tensor:
    _check_count(features, num_agents)
    rows = _flat_valid(features, valid)
    attention = torch.stack([_cosines(image) for image in features]).softmax(dim=2)
    return _smallest(-(attention * rows[:, :, None]).sum(dim=1), num_agents, rows, None)


def _select_all(
    features: Tensor, num_agents: int, *, first: Tensor | None, generator: Generators | None, valid: Tensor | None
) -> Tensor:
    positions = torch.arange(features[0, 0].numel(), device=features.device)
    return positions.expand(len(features), -1)


_SELECTIONS: dict[str, Callable[..., Tensor]] = {
    "orthogonal": select_agents,
    "random": _select_random,
    "top_n": _select_top_n,
    "all": _select_all,
}


def _check_count(features: Tensor, num_agents: int) -> None:
    in_range("num_agents", num_agents, 1, features.shape[2] * features.shape[3])


def _flat_valid(features: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return features.new_ones(1, dtype=torch.bool).expand(len(features), features[0, 0].numel())
    return valid.flatten(1)


def _uniform(generator: Generators | None, batch: int, count: int) -> Tensor:
    if generator is None:
        raise ValueError("generator must be a torch.Generator, or one per image, where agents are drawn; got None")
    if isinstance(generator, torch.Generator):
        return torch.rand(batch, count, generator=generator, device=generator.device, dtype=torch.float64)
    assert len(generator) == batch, "one generator per image"
    return torch.cat([_uniform(one, 1, count) for one in generator])


def _cosine_finder(features: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function from one position per image [B] to the cosines of all pixels with it [B, positions].

    A GPU, where starting small operations is slow, computes all cosines at once; a CPU only those requested.
    """
    return _cosines_as_asked(features) if features.device.type == "cpu" else _cosines_at_once(features)


def _cosines_as_asked(features: Tensor) -> Callable[[Tensor], Tensor]:
    units = [_unit_rows(image) for image in features]
    return lambda at: torch.stack([_product(unit, unit[p]) for unit, p in zip(units, at.tolist(), strict=True)])


def _cosines_at_once(features: Tensor) -> Callable[[Tensor], Tensor]:
    cosines = torch.stack([_cosines(image) for image in features])
    images = torch.arange(len(features), device=features.device)
    return lambda at: cosines[images, at]


def _cosines(image: Tensor) -> Tensor:
    # One image at a time: a batched product may round differently in a batch of another size.
    unit = _unit_rows(image)
    return _product(unit, unit.T)


def _product(left: Tensor, right: Tensor) -> Tensor:
    with torch.autocast(left.device.type, enabled=False):
        return left @ right


def _unit_rows(image: Tensor) -> Tensor:
    """Return the pixels of one image as unit vectors [positions, C]."""
    return functional.normalize(widen(image).flatten(1).T.contiguous(), dim=1)


def _smallest(scores: Tensor, count: int, valid: Tensor, first: Tensor | None) -> Tensor:
    order = scores.argsort(dim=1, stable=True)
    late = ~valid.gather(1, order)
    if first is not None:
        late &= order != first[:, None]
    return order.gather(1, late.int().argsort(dim=1, stable=True))[:, :count]
