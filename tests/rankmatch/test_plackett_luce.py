from itertools import permutations
from math import log

import numpy as np
import pytest
import torch

from rankmatch.plackett_luce import (
    divergence,
    divergence_from_logits,
    enumerated_divergence,
    order_probabilities,
)


def positive_scores(*shape, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * spread).exp()


def slow_probabilities(scores, epsilon=0.0):
    probabilities = []
    for order in permutations(scores.tolist()):
        probability = 1.0
        for stage in range(len(order)):
            probability *= order[stage] / (sum(order[stage:]) + epsilon)
        probabilities.append(probability)
    return np.array(probabilities)


def slow_divergence(teacher, student):
    expected, found = slow_probabilities(teacher), slow_probabilities(student)
    return (expected * (np.log(expected) - np.log(found))).sum()


@pytest.mark.parametrize("ranked", [3, 4])
def test_order_probabilities_equal_the_reference(golden, ranked):
    teacher, student = (torch.from_numpy(golden[f"pl_{who}_{ranked}"]) for who in ("teacher", "student"))
    top = teacher.topk(ranked, dim=-1).indices
    for who, scores in (("teacher", teacher), ("student", student)):
        found = order_probabilities(scores.gather(-1, top), epsilon=1e-10)
        np.testing.assert_allclose(found.numpy(), golden[f"pl_rank_{who}_{ranked}"], rtol=1e-6)


@pytest.mark.parametrize("ranked", [3, 4])
def test_both_divergences_equal_the_one_of_the_reference_probabilities(golden, ranked):
    teacher, student = (torch.from_numpy(golden[f"pl_{who}_{ranked}"]) for who in ("teacher", "student"))
    expected, found = (golden[f"pl_rank_{who}_{ranked}"] for who in ("teacher", "student"))
    reference = (expected * np.log(expected / found)).sum(-1)
    top = teacher.topk(ranked, dim=-1).indices
    scores = teacher.gather(-1, top), student.gather(-1, top)
    np.testing.assert_allclose(divergence(*scores).numpy(), reference, rtol=1e-6)
    np.testing.assert_allclose(enumerated_divergence(*scores, 1e-10).numpy(), reference, rtol=1e-6)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("ranked", [1, 2, 3, 5])
def test_order_probabilities_are_products_of_stages(ranked, epsilon):
    scores = positive_scores(ranked)
    np.testing.assert_allclose(order_probabilities(scores, epsilon).numpy(), slow_probabilities(scores, epsilon))


def test_order_probabilities_sum_to_one_at_any_scale():
    scores = positive_scores(3, 5, 4)
    found = order_probabilities(scores)
    torch.testing.assert_close(found.sum(-1), torch.ones(3, 5, dtype=torch.float64))
    torch.testing.assert_close(order_probabilities(scores * 1e-200), found)


@pytest.mark.parametrize("ranked", [1, 2, 3, 4, 5, 6, 7])
def test_divergence_equals_enumeration(ranked):
    teacher, student = positive_scores(ranked), positive_scores(ranked, seed=1, spread=2)
    expected = slow_divergence(teacher, student)
    assert divergence(teacher, student).item() == pytest.approx(expected, rel=1e-10, abs=1e-15)


def test_divergence_of_eight_equals_enumeration():
    teacher, student = positive_scores(8), positive_scores(8, seed=1)
    expected, found = order_probabilities(teacher), order_probabilities(student)
    assert found.shape == (40320,)
    enumerated = (expected * (expected.log() - found.log())).sum().item()
    assert divergence(teacher, student).item() == pytest.approx(enumerated, rel=1e-10)


@pytest.mark.parametrize("ranked", [2, 4, 6])
def test_enumerated_divergence_is_the_exact_one_for_a_small_epsilon(ranked):
    teacher, student = positive_scores(4, 3, ranked), positive_scores(4, 3, ranked, seed=1)
    torch.testing.assert_close(enumerated_divergence(teacher, student, 1e-300), divergence(teacher, student))


def test_enumerated_divergence_adds_epsilon_to_denominators_and_inside_the_logarithm():
    teacher, student, epsilon = positive_scores(4), positive_scores(4, seed=1), 1e-2
    expected, found = (slow_probabilities(scores, epsilon) for scores in (teacher, student))
    value = (expected * (np.log(expected) - np.log(found + epsilon))).sum()
    assert enumerated_divergence(teacher, student, epsilon).item() == pytest.approx(value, rel=1e-12)


def test_divergence_is_zero_for_proportional_scores_and_positive_otherwise():
    scores = positive_scores(50, 5)
    torch.testing.assert_close(divergence(scores, 7 * scores), torch.zeros(50, dtype=torch.float64))
    assert (divergence(scores, positive_scores(50, 5, seed=1)) > 0).all()


def test_divergence_does_not_depend_on_scale_or_numbering():
    teacher, student = positive_scores(50, 5), positive_scores(50, 5, seed=1)
    value, turn = divergence(teacher, student), [3, 0, 4, 1, 2]
    torch.testing.assert_close(divergence(1e-200 * teacher, 1e200 * student), value)
    torch.testing.assert_close(divergence(teacher[:, turn], student[:, turn]), value)
    torch.testing.assert_close(divergence_from_logits(teacher.log() - 700, student.log() + 30), value)


@pytest.mark.parametrize("ranked", [2, 4])
def test_gradients_of_both_arguments_are_the_numerical_ones(ranked):
    logits = [positive_scores(3, ranked, seed=seed).log().requires_grad_() for seed in (0, 1)]
    assert torch.autograd.gradcheck(divergence_from_logits, logits)
    student = logits[1].detach().exp().requires_grad_()
    teacher = logits[0].detach().exp()
    assert torch.autograd.gradcheck(lambda scores: enumerated_divergence(teacher, scores, 1e-3), student)


@pytest.mark.parametrize("spread", [1, 30, 1e3, 1e6])
@pytest.mark.parametrize("ranked", [4, 8])
def test_gradient_stays_between_minus_k_and_k_at_extreme_logits(ranked, spread):
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(200, ranked, generator=generator) * spread for _ in range(2))
    student.requires_grad_()
    value = divergence_from_logits(teacher, student)
    value.sum().backward()
    assert value.isfinite().all()
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() <= ranked - 1 + 1e-4
    assert student.grad.abs().max() > 0.5


def test_reversed_ranks_at_extreme_logits_cost_their_gaps():
    teacher = torch.tensor([0.0, -1000.0, -2000.0, -3000.0])
    assert divergence_from_logits(teacher, teacher.flip(0)).item() == pytest.approx(6000)
    assert divergence_from_logits(teacher, teacher).item() == 0


def test_float32_is_as_good_as_float64_where_the_scores_are_saturated():
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(100, 4, generator=generator) * 40 for _ in range(2))
    exact = divergence_from_logits(teacher.double(), student.double())
    torch.testing.assert_close(divergence_from_logits(teacher, student).double(), exact, rtol=1e-5, atol=1e-5)


def test_half_precision_is_widened():
    scores = positive_scores(5, 4).bfloat16()
    assert divergence(scores, scores).dtype == torch.float32
    assert order_probabilities(scores).dtype == torch.float32


def test_enumerated_divergence_is_capped_where_the_exact_one_grows():
    teacher = torch.tensor([1.0, 1e-4, 1e-8])
    student = teacher.flip(0).requires_grad_()
    value = enumerated_divergence(teacher, student, 1e-10)
    value.backward()
    assert 20 < value.item() <= -log(1e-10) < divergence(teacher, student).item()
    assert student.grad.isfinite().all()


def test_enumerated_divergence_lies_above_or_below_the_exact_one_and_is_0_for_a_saturated_teacher():
    generator = torch.Generator().manual_seed(0)
    pairs = [(torch.randn(64, generator=generator) * 12, torch.randn(64, generator=generator) * 12) for _ in range(200)]
    above = below = 0
    for teacher, student in pairs:
        top = teacher.topk(4).indices
        scores = [values.double().softmax(-1)[top] for values in (teacher, student)]
        enumerated, exact = enumerated_divergence(*scores, 1e-10).item(), divergence(*scores).item()
        above, below = above + (enumerated > exact * 1.01), below + (enumerated < exact * 0.99)
    assert above > 0 and below > 0
    saturated = torch.tensor([1.0, 1e-30, 1e-31, 1e-32], dtype=torch.float64)
    assert abs(enumerated_divergence(saturated, saturated.flip(0), 1e-10).item()) < 1e-9
    assert divergence(saturated, saturated.flip(0)).item() > 60
    assert order_probabilities(saturated, 1e-10).sum().item() < 1e-9


def test_tables_made_in_inference_mode_serve_a_backward_pass():
    teacher, student = positive_scores(7), positive_scores(7, seed=1)
    with torch.inference_mode():
        divergence(teacher, student)
    divergence(teacher, student.requires_grad_()).backward()
    assert student.grad.isfinite().all()


def test_too_many_ranks_are_refused():
    seven, nine = positive_scores(7), positive_scores(9)
    with pytest.raises(ValueError, match="from 1 to 6; got 7"):
        enumerated_divergence(seven, seven, 1e-10)
    with pytest.raises(ValueError, match="from 1 to 8; got 9"):
        divergence(nine, nine)
    with pytest.raises(ValueError, match="from 1 to 8; got 9"):
        order_probabilities(nine)


def test_enumerated_divergence_falls_below_zero_but_not_below_what_the_teachers_mass_allows():
    teacher, student = torch.zeros(8), torch.zeros(8)
    teacher[0], student[0] = 23.0, 6.0
    ranked = [logits.softmax(-1)[:4] for logits in (teacher, student)]
    mass = order_probabilities(ranked[0], 1e-10).sum().item()
    value = enumerated_divergence(*ranked, 1e-10).item()
    assert mass == pytest.approx(0.257, abs=1e-3) and value == pytest.approx(-0.347, abs=1e-3)
    assert divergence(*ranked).item() == pytest.approx(0.0074, abs=1e-4)
    for seed in range(20):
        scores = [(12 * torch.randn(500, 8, generator=torch.Generator().manual_seed(n))).softmax(-1)[:, :4].double()
                  for n in (seed, 100 + seed)]  # fmt: skip
        masses = order_probabilities(scores[0], 1e-10).sum(-1)
        values = enumerated_divergence(*scores, 1e-10)
        assert (values >= torch.xlogy(masses, masses) - 1e-8).all()
        assert values.mean() >= torch.xlogy(masses.mean(), masses.mean()) - 1e-8 >= -1 / np.e - 2e-8


def test_epsilon_that_the_precision_of_the_scores_rounds_to_zero_is_refused():
    scores = positive_scores(4)
    assert enumerated_divergence(scores, scores, 1e-46).isfinite()
    for epsilon in (0.0, 1e-46, 1e39):
        with pytest.raises(ValueError, match=r"epsilon \(of float32 scores\) must be from 1.4\S+ to 3.4\S+; got"):
            enumerated_divergence(scores.float(), scores.float(), epsilon)


def test_smallest_epsilon_has_finite_gradients_from_saturated_scores():
    for epsilon, is_finite in ((1e-19, True), (1e-20, False)):
        student = torch.tensor([200.0, 200.0, 200.0, 0.0], requires_grad=True)
        enumerated_divergence(torch.full((4,), 0.25), student.softmax(-1), epsilon).backward()
        assert bool(student.grad.isfinite().all()) is is_finite
