from itertools import permutations
from math import factorial

import numpy as np
import pytest
import torch
from torch.nn import functional

from rankmatch.agents import correlation_logits, select, select_agents
from rankmatch.losses import (
    consistency_sum,
    cross_entropy_sum,
    mean_of,
    ohem_cross_entropy,
    ohem_sum,
    rank_consistency,
    rank_consistency_sum,
)

CASES = ["a", "b", "c", "hot", "relu"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def feature_pair(batch=2, channels=6, height=4, width=5):
    return [torch.randn(batch, channels, height, width, generator=seeded(i), dtype=torch.float64) for i in (1, 2)]


def logits_and_labels(ignored=0.2, classes=5, batch=2):
    logits = torch.randn(batch, classes, 8, 8, generator=seeded(), dtype=torch.float64) * 2
    labels = torch.randint(classes, (batch, 8, 8), generator=seeded(1))
    return logits, labels.masked_fill(torch.rand(batch, 8, 8, generator=seeded(2)) < ignored, 255)


def correlations(features, indices):
    pixels = features.flatten(1).T.numpy()
    dots = pixels @ pixels[indices].T
    exp = np.exp(dots - dots.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def slow_divergence(teacher, student, top_k):
    ranked = np.argsort(-teacher)[:top_k]
    total = 0.0
    for order in permutations(ranked):
        stages = [
            [scores[order[i]] / sum(scores[list(order[i:])]) for i in range(top_k)] for scores in (teacher, student)
        ]
        total += np.prod(stages[0]) * np.log(np.prod(stages[0]) / np.prod(stages[1]))
    return total


def slow_rank_consistency(teacher, student, indices, top_k, valid=None):
    values = []
    for image in range(len(teacher)):
        pair = [correlations(features[image], indices[image]) for features in (teacher, student)]
        counted = range(len(pair[0])) if valid is None else valid[image].flatten().nonzero().flatten().tolist()
        values += [slow_divergence(pair[0][pixel], pair[1][pixel], top_k) for pixel in counted]
    return np.mean(values)


def slow_ohem(logits, labels, threshold, min_kept):
    probabilities, entropies = [], []
    for row, label in zip(logits.movedim(1, -1).reshape(-1, logits.shape[1]), labels.flatten().tolist(), strict=True):
        if label != 255:
            probabilities.append(row.softmax(0)[label].item())
            entropies.append(-row.log_softmax(0)[label].item())
    if len(probabilities) < min_kept or min_kept == 0:
        return np.mean(entropies)
    limit = max(threshold, sorted(probabilities)[min_kept - 1])
    return np.mean([entropy for p, entropy in zip(probabilities, entropies, strict=True) if p <= limit])


def golden_loss(golden, case, epsilon, **settings):
    teacher, student = (torch.from_numpy(golden[f"agents_{case}_{who}"]).double() for who in ("features", "student"))
    teacher.requires_grad_()
    student.requires_grad_()
    first = torch.from_numpy(golden[f"agents_{case}_first"])
    num_agents = int(golden[f"agents_{case}_num"])
    loss = rank_consistency(teacher, student, num_agents=num_agents, top_k=4, epsilon=epsilon, first=first, **settings)
    loss.backward()
    assert teacher.grad is None
    return loss.item(), student.grad.numpy()


@pytest.mark.parametrize("case", CASES)
def test_rank_loss_and_gradient_with_epsilon_equal_the_reference(golden, case):
    value, gradient = golden_loss(golden, case, 1e-10, divide_by_orders=True)
    reference = golden[f"loss_{case}_grad"]
    assert value == pytest.approx(golden[f"loss_{case}_mean"].item(), rel=1e-6)
    assert np.abs(gradient - reference).max() <= 1e-6 * np.abs(reference).max()


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_exact_rank_loss_and_gradient_equal_the_reference(golden, case):
    value, gradient = golden_loss(golden, case, 0.0)
    reference = 24 * golden[f"loss_{case}_grad"]
    assert value == pytest.approx(24 * golden[f"loss_{case}_mean"].item(), rel=1e-6)
    assert np.abs(gradient - reference).max() <= 1e-6 * np.abs(reference).max()


@pytest.mark.parametrize("case", ["hot", "relu"])
def test_exact_rank_loss_is_larger_where_the_correlations_are_saturated(golden, case):
    value, _ = golden_loss(golden, case, 0.0)
    assert 1.015 < value / (24 * golden[f"loss_{case}_mean"].item()) < 1.2


@pytest.mark.parametrize("kept", ["0", "1", "2", "3"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_ohem_and_gradient_equal_the_reference(golden, kept, dtype):
    logits = torch.from_numpy(golden[f"ohem{kept}_logits"]).double().requires_grad_()
    labels = torch.from_numpy(golden[f"ohem{kept}_target"]).to(dtype)
    threshold, min_kept = golden[f"ohem{kept}_thresh_minkept"]
    loss = ohem_cross_entropy(logits, labels, threshold=float(threshold), min_kept=int(min_kept))
    loss.backward()
    reference = golden[f"ohem{kept}_grad"]
    assert loss.item() == pytest.approx(golden[f"ohem{kept}_loss"].item(), rel=1e-6)
    assert np.abs(logits.grad.numpy() - reference).max() <= 1e-6 * np.abs(reference).max()


@pytest.mark.parametrize("top_k", [2, 4])
def test_rank_loss_is_the_mean_divergence_over_pixels_and_images(top_k):
    teacher, student = feature_pair()
    first = torch.tensor([3, 8])
    indices = select_agents(teacher, 7, first=first)
    expected = slow_rank_consistency(teacher, student, indices, top_k)
    for epsilon in (0.0, 1e-300):
        loss = rank_consistency(teacher, student, num_agents=7, top_k=top_k, epsilon=epsilon, first=first)
        assert loss.item() == pytest.approx(expected, rel=1e-9)
        divided = rank_consistency(
            teacher, student, num_agents=7, top_k=top_k, epsilon=epsilon, first=first, divide_by_orders=True
        )
        assert divided.item() == pytest.approx(expected / factorial(top_k), rel=1e-9)


@pytest.mark.parametrize("selection", ["orthogonal", "random", "top_n", "all"])
def test_agents_are_selected_from_the_teacher(selection):
    teacher, student = feature_pair()
    indices = select(selection, teacher, 7, generator=seeded(5))
    settings = {"num_agents": 7, "top_k": 3}
    loss = rank_consistency(teacher, student, **settings, selection=selection, generator=seeded(5))
    assert loss.item() == pytest.approx(slow_rank_consistency(teacher, student, indices, 3), rel=1e-9)
    assert rank_consistency(teacher, student, **settings, indices=indices).item() == loss.item()


def test_padding_counts_neither_in_the_mean_nor_as_agent():
    teacher, student = feature_pair()
    valid = torch.zeros(2, 4, 5, dtype=torch.bool)
    valid[0, :3, :3] = valid[1, :2] = True
    first = torch.tensor([0, 1])
    loss = rank_consistency(teacher, student, num_agents=6, top_k=3, first=first, valid=valid)
    indices = select_agents(teacher, 6, first=first, valid=valid)
    assert loss.item() == pytest.approx(slow_rank_consistency(teacher, student, indices, 3, valid), rel=1e-9)
    other = [features.masked_fill(~valid[:, None], 9.0) for features in (teacher, student)]
    assert rank_consistency(*other, num_agents=6, top_k=3, first=first, valid=valid).item() == pytest.approx(
        loss.item()
    )


def test_rank_loss_of_padding_alone_is_zero():
    teacher, student = feature_pair()
    student.requires_grad_()
    valid = torch.zeros(2, 4, 5, dtype=torch.bool)
    loss = rank_consistency(teacher, student, num_agents=6, top_k=3, generator=seeded(), valid=valid)
    loss.backward()
    assert loss.item() == 0
    assert (student.grad == 0).all()


def test_worker_sums_and_counts_make_the_global_mean():
    teacher, student = feature_pair(batch=3)
    valid = torch.rand(3, 4, 5, generator=seeded()) < 0.7
    indices = select_agents(teacher, 6, first=torch.tensor([0, 1, 2]))
    parts = [
        rank_consistency_sum(
            *(correlation_logits(features[rows], indices[rows]) for features in (teacher, student)),
            top_k=3,
            valid=valid[rows],
        )
        for rows in (slice(0, 1), slice(1, 3))
    ]
    total, count = (sum(values) for values in zip(*parts, strict=True))
    whole = rank_consistency(teacher, student, num_agents=6, top_k=3, valid=valid, indices=indices)
    assert count == valid.sum()
    assert (total / count).item() == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.parametrize("consistency", ["l2", "ce", "kl"])
def test_other_consistencies_sum_over_the_agents(consistency):
    teacher, student = feature_pair()
    indices = select_agents(teacher, 7, first=torch.tensor([3, 8]))
    t, s = (np.stack([correlations(f[i], indices[i]) for i in range(2)]) for f in (teacher, student))
    expected = {"l2": (t - s) ** 2, "ce": -t * np.log(s), "kl": t * np.log(t / s)}[consistency].sum(-1).mean()
    loss = rank_consistency(teacher, student, num_agents=7, top_k=4, indices=indices, consistency=consistency)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_rank_loss_of_equal_features_is_zero_without_gradient():
    teacher, _ = feature_pair()
    student = teacher.clone().requires_grad_()
    loss = rank_consistency(teacher, student, num_agents=7, top_k=4, generator=seeded())
    loss.backward()
    assert loss.item() == 0
    assert student.grad.abs().max() < 1e-15


@pytest.mark.parametrize("epsilon", [0.0, 1e-10])
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_rank_loss_and_gradient_stay_finite_in_float32(epsilon, scale):
    teacher, student = (features.float() * scale for features in feature_pair(channels=64))
    student.requires_grad_()
    loss = rank_consistency(teacher, student, num_agents=12, top_k=4, epsilon=epsilon, generator=seeded())
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_rank_loss_is_float32_inside_autocast_and_from_bfloat16():
    teacher, student = (features.bfloat16() for features in feature_pair())
    settings = {"num_agents": 7, "top_k": 4, "first": torch.tensor([0, 1])}
    plain = rank_consistency(teacher.float(), student.float(), **settings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = rank_consistency(teacher, student, **settings)
    assert loss.dtype == torch.float32
    assert loss.item() == plain.item()


def test_bad_settings_of_the_rank_loss_are_refused():
    teacher, student = feature_pair()
    settings = {"num_agents": 5, "top_k": 4, "generator": seeded()}
    with pytest.raises(ValueError, match="top_k must be from 1 to 5; got 6"):
        rank_consistency(teacher, student, **settings | {"top_k": 6})
    with pytest.raises(ValueError, match="from 1 to 6; got 7"):
        rank_consistency(teacher, student, **settings | {"num_agents": 9, "top_k": 7, "epsilon": 1e-10})
    with pytest.raises(ValueError, match="num_agents must be from 1 to 20; got 21"):
        rank_consistency(teacher, student, **settings | {"num_agents": 21})
    with pytest.raises(ValueError, match="consistency must be one of rank, l2, ce, kl; got 'mse'"):
        rank_consistency(teacher, student, **settings, consistency="mse")
    with pytest.raises(ValueError, match="selection must be one of"):
        rank_consistency(teacher, student, **settings, selection="best")


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_cross_entropy_sum_over_count_is_the_mean(dtype):
    logits, labels = logits_and_labels()
    total, count = cross_entropy_sum(logits, labels.to(dtype))
    assert count == (labels != 255).sum()
    assert (total / count).item() == pytest.approx(functional.cross_entropy(logits, labels, ignore_index=255).item())


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_consistency_sums_confident_valid_pixels_and_counts_all_valid_ones(threshold):
    logits, labels = logits_and_labels(ignored=0)
    confidence = torch.rand(2, 8, 8, generator=seeded(3)).round(decimals=1)
    valid = torch.rand(2, 8, 8, generator=seeded(4)) < 0.7
    entropy = -logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
    pixels = [(b, y, x) for b in range(2) for y in range(8) for x in range(8) if valid[b, y, x]]
    expected = sum(entropy[pixel].item() for pixel in pixels if confidence[pixel] >= threshold)
    total, count = consistency_sum(logits, labels, confidence, valid, threshold)
    assert count == len(pixels)
    assert total.item() == pytest.approx(expected)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.7])
@pytest.mark.parametrize("min_kept", [0, 1, 20, 90, 500])
def test_ohem_keeps_the_hard_pixels(threshold, min_kept):
    logits, labels = logits_and_labels()
    loss = ohem_cross_entropy(logits, labels, threshold=threshold, min_kept=min_kept)
    assert loss.item() == pytest.approx(slow_ohem(logits, labels, threshold, min_kept), rel=1e-12)


def test_ohem_threshold_is_taken_over_the_gathered_workers():
    logits, labels = logits_and_labels(batch=4)
    halves = [(logits[:2], labels[:2]), (logits[2:], labels[2:])]
    vectors = []
    for half in halves:
        ohem_sum(*half, 0.1, 60, gather=lambda vector: vectors.append(vector) or vector)
    parts = [ohem_sum(*half, 0.1, 60, gather=lambda _: torch.cat(vectors)) for half in halves]
    total, count = (sum(values) for values in zip(*parts, strict=True))
    assert (total / count).item() == pytest.approx(slow_ohem(logits, labels, 0.1, 60), rel=1e-12)


def test_losses_of_unlabeled_images_are_zero_with_zero_gradient():
    logits, labels = logits_and_labels()
    logits.requires_grad_()
    nothing = torch.full_like(labels, 255)
    loss = mean_of(cross_entropy_sum(logits, nothing)) + ohem_cross_entropy(logits, nothing, threshold=0.7, min_kept=9)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_losses_of_half_precision_logits_are_float32():
    logits, labels = logits_and_labels()
    total, _ = cross_entropy_sum(logits.bfloat16(), labels)
    assert total.dtype == torch.float32
