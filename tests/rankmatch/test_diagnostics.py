import warnings
from itertools import permutations

import numpy as np
import pytest
import torch

from rankmatch.agents import correlation_logits
from rankmatch.diagnostics import RATIOS, pooled, pseudo_label_ratios, rank_ratios, warn_of_rank_term


def random(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quotient(ratio):
    return (ratio[0] / ratio[1]).item()


def ratios_of(teacher, student, agents, top_k, valid=None):
    return rank_ratios(correlation_logits(teacher, agents), correlation_logits(student, agents), top_k, valid)


def slow_ratios(teacher, student, agents, top_k, valid):
    """Pixel by pixel, as the words say it."""
    weights, agreements = [], []
    for image in range(len(teacher)):
        t, s = (features[image].flatten(1).numpy() for features in (teacher, student))
        chosen = agents[image].numpy()
        for pixel in valid[image].flatten().nonzero().flatten().tolist():
            of_teacher, of_student = t[:, pixel] @ t[:, chosen], s[:, pixel] @ s[:, chosen]
            correlation = np.exp(of_teacher) / np.exp(of_teacher).sum()
            order = np.argsort(-of_teacher)[:top_k]
            weights.append(correlation[order].sum())
            agreements.append(list(order[np.argsort(-of_student[order])]) == list(order))
    return np.mean(weights), np.mean(agreements)


@pytest.mark.parametrize("ignores_padding", [False, True])
@pytest.mark.parametrize("top_k", [2, 3])
def test_rank_ratios_equal_a_slow_reference(top_k, ignores_padding):
    teacher = random((2, 4, 5, 6), 0)
    student = teacher + 0.3 * random((2, 4, 5, 6), 1)
    agents = torch.tensor([[0, 7, 12, 29], [3, 4, 5, 28]])
    valid = random((2, 5, 6), 2) < 0.5 if ignores_padding else torch.ones(2, 5, 6, dtype=torch.bool)
    weight, agreement = slow_ratios(teacher, student, agents, top_k, valid)
    ratios = ratios_of(teacher, student, agents, top_k, valid if ignores_padding else None)
    assert quotient(ratios["top_k_weight"]) == pytest.approx(weight)
    assert quotient(ratios["order_agreement"]) == pytest.approx(agreement)
    assert 0 < agreement < 1
    assert ratios["order_agreement"][1] == valid.sum()


def test_same_features_agree_everywhere_and_a_tie_is_no_order():
    features, agents = random((1, 4, 5, 6), 0), torch.tensor([[0, 7, 12]])
    assert quotient(ratios_of(features, features, agents, 3)["order_agreement"]) == 1
    assert quotient(ratios_of(features, torch.zeros_like(features), agents, 3)["order_agreement"]) == 0


def test_order_mass_is_the_sum_over_orders_and_falls_with_the_teachers_scores():
    features, agents = random((1, 4, 5, 6), 0), torch.tensor([[0, 7, 12, 20]])

    def mass(scale, epsilon):
        correlations = correlation_logits(scale * features, agents)
        return quotient(rank_ratios(correlations, correlations, 3, None, epsilon)["order_mass"])

    assert mass(1, 0) == mass(30, 0) == 1
    assert mass(1, 1e-10) == pytest.approx(1, abs=1e-6)
    scores = correlation_logits(features, agents).softmax(-1).topk(3).values
    slow = [
        sum(a / (a + b + c + 0.1) * b / (b + c + 0.1) * c / (c + 0.1) for a, b, c in permutations(pixel))
        for pixel in scores[0].tolist()
    ]
    assert mass(1, 0.1) == pytest.approx(np.mean(slow))
    assert mass(30, 1e-10) < 0.01


def test_rank_term_without_effect_is_warned_of_with_epoch_and_figure():
    with pytest.warns(UserWarning, match=r"epoch 3: the rank term is dead: .* sum to 0.002 in place of 1"):
        warn_of_rank_term({"order_mass": 0.002}, 0.1, 3)


def test_rank_loss_that_may_be_below_zero_is_warned_of_once():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for epoch, mass in enumerate((0.257, 0.5, 0.79), 1):
            warn_of_rank_term({"order_mass": mass}, 0.1, epoch)
    assert ["may be below 0" in str(each.message) for each in said] == [True]


def test_rank_term_that_is_a_divergence_or_does_not_count_is_not_warned_of():
    for row, weight in (({}, 0.1), ({"order_mass": None}, 0.1), ({"order_mass": 0.9}, 0.1), ({"order_mass": 0.0}, 0.0)):
        warn_of_rank_term(row, weight, 1)  # a warning would be an error


def test_orders_have_no_mass_where_the_loss_compares_none():
    features, agents = random((1, 4, 5, 6), 0), torch.tensor([[0, 7, 12, 20]])
    correlations = correlation_logits(30 * features, agents)
    assert set(rank_ratios(correlations, correlations, 3, None, None)) == {
        "zero_agent_share", "top_k_weight", "order_agreement"
    }  # fmt: skip


def test_agents_without_features_are_counted():
    features = random((2, 4, 5, 6), 0)
    features[0, :, 1, 2] = features[0, :, 4, 4] = 0
    ratios = ratios_of(features, features, torch.tensor([[8, 28, 0, 1], [8, 28, 0, 1]]), 2)
    assert ratios["zero_agent_share"] == (2, 8)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.1])
def test_pseudo_label_ratios_count_pixel_by_pixel(threshold):
    draws = np.random.default_rng(0)
    labels, truth = (draws.integers(0, 3, (2, 4, 5)) for _ in range(2))
    truth[draws.random((2, 4, 5)) < 0.3] = 255
    confidence, valid = draws.random((2, 4, 5)).round(1), draws.random((2, 4, 5)) < 0.8
    confident = [place for place in np.ndindex(2, 4, 5) if valid[place] and confidence[place] >= threshold]
    known = [place for place in confident if truth[place] != 255]
    right = [place for place in known if truth[place] == labels[place]]
    tensors = map(torch.from_numpy, (labels, confidence, valid, truth.astype(np.uint8)))
    assert pseudo_label_ratios(*tensors, threshold) == {
        "mask_ratio": (len(confident), valid.sum()),
        "pseudo_label_accuracy": (len(right), len(known)),
    }


def test_pooled_views_add_sums_and_counts_and_all_names_are_known():
    features, agents = random((1, 4, 5, 6), 0), torch.tensor([[0, 7, 12]])
    one = ratios_of(features, features, agents, 3)
    both = pooled([one, one])
    assert all(both[name] == (2 * one[name][0], 2 * one[name][1]) for name in one)
    assert {"mask_ratio", "pseudo_label_accuracy", *one} == set(RATIOS)
    assert pooled([]) == {}
