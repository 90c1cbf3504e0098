import numpy as np
import pytest
import torch

from rankmatch.agents import (
    _cosines_as_asked,
    _cosines_at_once,
    correlation_logits,
    place_first,
    select,
    select_agents,
)

CASES = ["a", "b", "c", "hot", "relu"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_features(batch=2, channels=6, height=5, width=7, seed=0):
    return torch.randn(batch, channels, height, width, generator=seeded(seed), dtype=torch.float64)


def slow_agents(image, num_agents, first, allowed=None):
    pixels = image.flatten(1).T.numpy()
    cosine = lambda i, j: abs(pixels[i] @ pixels[j]) / (np.linalg.norm(pixels[i]) * np.linalg.norm(pixels[j]))  # noqa: E731
    picked = [first]
    while len(picked) < num_agents:
        rest = [i for i in (range(len(pixels)) if allowed is None else allowed) if i not in picked]
        picked.append(min(rest, key=lambda i: max(cosine(i, j) for j in picked)))
    return picked


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_agents_equal_the_reference(golden, case, dtype):
    features = torch.from_numpy(golden[f"agents_{case}_features"]).to(dtype)
    first = torch.from_numpy(golden[f"agents_{case}_first"])
    picked = select_agents(features, int(golden[f"agents_{case}_num"]), first=first)
    assert (picked[:, 0] == first).all()
    assert (picked.sort(dim=1).values.numpy() == golden[f"agents_{case}_index_sorted"]).all()


def test_picking_order_is_greedy_in_the_largest_absolute_cosine():
    features = random_features()
    picked = select_agents(features, 12, first=torch.tensor([3, 30]))
    assert picked.tolist() == [slow_agents(features[0], 12, 3), slow_agents(features[1], 12, 30)]


def test_scale_of_a_feature_does_not_count():
    features, scale = random_features(), torch.rand(2, 1, 5, 7, generator=seeded(1)) * 100 + 0.01
    first = torch.tensor([0, 1])
    assert (select_agents(features, 20, first=first) == select_agents(features * scale, 20, first=first)).all()


def test_all_pixels_are_picked_once_even_when_they_are_equal():
    picked = select_agents(torch.ones(1, 3, 4, 4), 16, first=torch.tensor([5]))
    assert picked[0].tolist() == [5, 0, 1, 2, 3, 4, *range(6, 16)]


def test_agents_of_an_image_do_not_depend_on_the_batch():
    features = random_features(batch=5, channels=64, height=17, width=13).float()
    first = torch.tensor([3, 1, 4, 1, 5])
    together = select_agents(features, 40, first=first)
    for i in range(5):
        assert (select_agents(features[i : i + 1], 40, first=first[i : i + 1]) == together[i]).all()
    channels_last = features.to(memory_format=torch.channels_last)
    assert (select_agents(channels_last, 40, first=first) == together).all()


def test_cosines_that_a_gpu_computes_at_once_are_those_that_a_cpu_computes_when_asked():
    features, at = random_features(batch=3), torch.tensor([34, 0, 8])
    at_once, as_asked = _cosines_at_once(features)(at), _cosines_as_asked(features)(at)
    assert at_once.shape == (3, 35)
    torch.testing.assert_close(at_once, as_asked)


def test_zero_features_are_picked_first():
    features = random_features(batch=1)
    features[..., 2, 3] = features[..., 4, 4] = 0
    assert select_agents(features, 4, first=torch.tensor([0]))[0, 1:3].tolist() == [17, 32]


def test_padding_is_not_picked():
    features, valid = random_features(), torch.zeros(2, 5, 7, dtype=torch.bool)
    valid[:, :4, :3] = True
    allowed = valid[0].flatten().nonzero().flatten().tolist()
    picked = select_agents(features, 9, first=torch.tensor([1, 7]), valid=valid)
    assert picked.tolist() == [slow_agents(features[i], 9, first, allowed) for i, first in enumerate([1, 7])]
    drawn = select_agents(features, 9, generator=seeded(), valid=valid)
    assert set(drawn.flatten().tolist()) <= set(allowed)


def test_padding_that_is_orthogonal_to_all_comes_after_valid_pixels_that_are_equal():
    features, valid = torch.zeros(1, 2, 1, 4), torch.tensor([[[False, True, True, True]]])
    features[0, 0, 0, 1:] = 1
    assert select_agents(features, 3, first=torch.tensor([1]), valid=valid).tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("selection", ["orthogonal", "random", "top_n"])
def test_padding_is_picked_only_after_the_last_valid_pixel(selection):
    valid = torch.zeros(2, 5, 7, dtype=torch.bool)
    valid[0, 1, 1:4] = True
    picked = select(selection, random_features(), 6, generator=seeded(), valid=valid)
    assert sorted(picked[0, :3].tolist()) == [8, 9, 10]
    assert all(len(set(row)) == 6 for row in picked.tolist())


@pytest.mark.parametrize("selection", ["orthogonal", "random"])
def test_first_agent_that_is_given_comes_first_even_in_padding(selection):
    valid = torch.zeros(2, 5, 7, dtype=torch.bool)
    valid[:, 1, 1:4] = True
    picked = select(selection, random_features(), 4, first=torch.tensor([30, 9]), generator=seeded(), valid=valid)
    assert picked[:, 0].tolist() == [30, 9]
    assert sorted(picked[0, 1:].tolist()) == [8, 9, 10]
    assert sorted(picked[1, :3].tolist()) == [8, 9, 10]


def test_first_agent_is_uniform_over_the_valid_pixels():
    valid = torch.tensor([[False, True, False, True, True, False]])
    draws = torch.arange(300, dtype=torch.float64) / 300
    placed = place_first(draws, valid.expand(300, -1))
    assert placed.bincount(minlength=6).tolist() == [0, 100, 0, 100, 100, 0]
    assert place_first(torch.tensor([0.999999]), torch.zeros(1, 6, dtype=torch.bool)).tolist() == [5]
    largest = torch.tensor([1 - 2.0**-53], dtype=torch.float64)
    for count in (1, 2, 3, 5, 1023, 1024, 1025):
        assert place_first(largest, torch.ones(1, count, dtype=torch.bool)).tolist() == [count - 1]


def test_generators_of_single_images_give_the_same_agents_in_any_batch():
    features = random_features(batch=3)
    for selection in ("orthogonal", "random"):
        together = select(selection, features, 8, generator=[seeded(i) for i in range(3)])
        alone = [select(selection, features[i : i + 1], 8, generator=seeded(i)) for i in range(3)]
        assert (together == torch.cat(alone)).all()


def test_draws_are_those_of_float64_whatever_the_features_are():
    """Draws in float32 would be other agents from the same seed."""
    features, expected = random_features().float(), torch.rand(2, 35, generator=seeded(), dtype=torch.float64)
    assert select("random", features, 35, generator=seeded()).tolist() == expected.argsort(dim=1).tolist()
    first = torch.rand(2, 1, generator=seeded(), dtype=torch.float64)[:, 0]
    expected_first = place_first(first, torch.ones(2, 35, dtype=torch.bool))
    assert (select_agents(features, 3, generator=seeded())[:, 0] == expected_first).all()


def test_random_agents_are_distinct_and_uniform():
    features = torch.zeros(4000, 1, 2, 3)
    picked = select("random", features, 2, generator=seeded())
    assert (picked[:, 0] != picked[:, 1]).all()
    assert (picked.flatten().bincount(minlength=6) / 4000 - 1 / 3).abs().max() < 0.03
    first = torch.full((4000,), 4)
    picked = select("random", features, 2, first=first, generator=seeded())
    assert (picked[:, 0] == 4).all()
    assert set(picked[:, 1].tolist()) == {0, 1, 2, 3, 5}


def test_top_n_agents_have_the_largest_column_sums():
    features = random_features(batch=1)
    unit = torch.nn.functional.normalize(features[0].flatten(1), dim=0).T.numpy()
    weights = np.exp(unit @ unit.T)
    sums = (weights / weights.sum(axis=1, keepdims=True)).sum(axis=0)
    assert select("top_n", features, 10)[0].tolist() == np.argsort(-sums)[:10].tolist()


def test_top_n_agents_of_equal_pixels_are_the_lowest_positions_and_valid_ones_first():
    """So many that a sort which need not keep the order of equal ones does not."""
    features, valid = torch.ones(1, 1, 40, 40), torch.zeros(1, 40, 40, dtype=torch.bool)
    assert select("top_n", features, 1600)[0].tolist() == [*range(1600)]
    valid[:, ::2] = True
    positions = torch.arange(1600).view(40, 40)
    expected = [*positions[::2].flatten().tolist(), *positions[1::2].flatten().tolist()]
    assert select("top_n", features, 1600, valid=valid)[0].tolist() == expected


def test_all_takes_every_pixel():
    assert select("all", random_features(), 3).tolist() == [list(range(35))] * 2
    assert select("all", random_features(batch=1, channels=1), 3).tolist() == [list(range(35))]
    assert select("all", random_features().to("meta"), 3).device.type == "meta"


def test_correlation_logits_are_raw_dot_products_also_in_autocast():
    features = random_features().float()
    indices = torch.tensor([[0, 34, 8], [1, 2, 3]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = correlation_logits(features, indices)
    pixels = features.flatten(2)
    expected = torch.einsum("bcp,bca->bpa", pixels, torch.stack([pixels[i][:, indices[i]] for i in range(2)]))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected)


def test_gradient_flows_through_pixels_and_agents():
    features = random_features(height=2, width=2).requires_grad_()
    indices = torch.tensor([[0, 3], [1, 2]])
    assert torch.autograd.gradcheck(lambda f: correlation_logits(f, indices), features)


@pytest.mark.parametrize("selection", ["orthogonal", "random", "top_n"])
@pytest.mark.parametrize("num_agents", [0, 36])
def test_more_agents_than_pixels_are_refused(selection, num_agents):
    with pytest.raises(ValueError, match=f"num_agents must be from 1 to 35; got {num_agents}"):
        select(selection, random_features(), num_agents, generator=seeded())


def test_drawing_without_a_generator_is_refused():
    with pytest.raises(ValueError, match="generator must be"):
        select_agents(random_features(), 3)
    with pytest.raises(ValueError, match="generator must be"):
        select("random", random_features(), 3, first=torch.tensor([0, 0]))


def test_unknown_selection_is_refused():
    with pytest.raises(ValueError, match="^selection must be one of orthogonal, random, top_n, all; got 'best'$"):
        select("best", random_features(), 3)
