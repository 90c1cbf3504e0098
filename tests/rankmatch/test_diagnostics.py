import numpy as np
import pytest
import torch

from rankmatch.diagnostics import RATIOS, rank_ratios


def random(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_ratios(teacher, student, agents, top_k):
    """Pixel by pixel, as the words say it."""
    weights, agreements = [], []
    for image in range(len(teacher)):
        t, s = (features[image].flatten(1).numpy() for features in (teacher, student))
        chosen = agents[image].numpy()
        for pixel in range(t.shape[1]):
            of_teacher, of_student = t[:, pixel] @ t[:, chosen], s[:, pixel] @ s[:, chosen]
            correlation = np.exp(of_teacher) / np.exp(of_teacher).sum()
            order = np.argsort(-of_teacher)[:top_k]
            weights.append(correlation[order].sum())
            agreements.append(list(order[np.argsort(-of_student[order])]) == list(order))
    return np.mean(weights), np.mean(agreements)


@pytest.mark.parametrize("top_k", [2, 3])
def test_ratios_equal_a_slow_reference(top_k):
    teacher = random((2, 4, 5, 6), 0)
    student = teacher + 0.3 * random((2, 4, 5, 6), 1)
    agents = torch.tensor([[0, 7, 12, 29], [3, 4, 5, 28]])
    weight, agreement = slow_ratios(teacher, student, agents, top_k)
    ratios = rank_ratios(teacher, student, agents, top_k)
    assert ratios["top_k_weight"].item() == pytest.approx(weight)
    assert ratios["order_agreement"].item() == pytest.approx(agreement)
    assert 0 < agreement < 1 and set(ratios) | {"mask_ratio"} == set(RATIOS)


def test_same_features_agree_everywhere():
    features = random((1, 4, 5, 6), 0)
    assert rank_ratios(features, features, torch.tensor([[0, 7, 12]]), 3)["order_agreement"] == 1


def test_agents_without_features_are_counted():
    features = random((2, 4, 5, 6), 0)
    features[0, :, 1, 2] = features[0, :, 4, 4] = 0
    ratios = rank_ratios(features, features, torch.tensor([[8, 28, 0, 1], [8, 28, 0, 1]]), 2)
    assert ratios["zero_agent_share"].item() == pytest.approx(2 / 8)
