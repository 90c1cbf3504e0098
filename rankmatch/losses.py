"""Cross-entropy, OHEM, pseudo-label and rank consistency losses, as sums and counts, and as means.

A `*_sum` returns one worker's part of a global mean: the sum over its pixels, and the number of pixels to divide by.
"""

from collections.abc import Callable
from math import factorial

import torch
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor
from torch.nn import functional

from rankmatch.agents import Generators, correlation_logits, select, widen
from rankmatch.checks import in_range, one_of
from rankmatch.config import CONSISTENCIES, IGNORE_INDEX
from rankmatch.plackett_luce import divergence_from_logits, enumerated_divergence

SumAndCount = tuple[Float[Tensor, ""], Int64[Tensor, ""]]
Gather = Callable[[Tensor], Tensor]


def mean_of(sum_and_count: SumAndCount) -> Float[Tensor, ""]:
    """Return the mean, or 0 if nothing was counted."""
    total, count = sum_and_count
    return total / count.clamp(min=1)


def cross_entropy_sum(
    logits: Float[Tensor, "batch classes height width"],
    labels: Integer[Tensor, "batch height width"],
    ignore_index: int = IGNORE_INDEX,
) -> SumAndCount:
    """Return the cross-entropy over the pixels with a label, and their number."""
    return _pixel_entropy(logits, labels, ignore_index).sum(), (labels != ignore_index).sum()


def consistency_sum(
    logits: Float[Tensor, "batch classes height width"],
    pseudo_labels: Integer[Tensor, "batch height width"],
    confidence: Float[Tensor, "batch height width"],
    valid: Bool[Tensor, "batch height width"],
    threshold: float,
) -> SumAndCount:
    """Return the cross-entropy over the confident valid pixels, and the number of *all* valid pixels."""
    counted = valid & (confidence >= threshold)
    entropy = _pixel_entropy(logits, pseudo_labels, IGNORE_INDEX)
    return entropy.masked_fill(~counted, 0.0).sum(), valid.sum()


def ohem_sum(
    logits: Float[Tensor, "batch classes height width"],
    labels: Integer[Tensor, "batch height width"],
    threshold: float,
    min_kept: int,
    ignore_index: int = IGNORE_INDEX,
    gather: Gather | None = None,
) -> SumAndCount:
    """Return the cross-entropy over the hard pixels, and their number.

    A pixel is hard if the probability of its true class is at most the larger of `threshold` and the `min_kept`-th
    smallest such probability. Ignored pixels have probability 1 in that ordering, so with fewer than `min_kept` valid
    pixels all of these are kept. `min_kept` = 0 gives plain cross-entropy.

    Args:
        logits: Of this worker's images.
        labels: Of this worker's images.
        threshold: A probability.
        min_kept: For all images whose probabilities `gather` joins.
        ignore_index: The label that marks a pixel without one.
        gather: Joins the workers' vectors of probabilities; None: only this worker's images count.
    """
    valid = labels != ignore_index
    entropy = _pixel_entropy(logits, labels, ignore_index)
    if min_kept > 0:
        probabilities = (-entropy.detach()).exp()
        ordered = probabilities.flatten() if gather is None else gather(probabilities.flatten())
        # Not kthvalue(), which has no deterministic form on a GPU.
        limit = ordered.sort().values[min(min_kept, ordered.numel()) - 1].clamp(min=threshold)
        valid = valid & (probabilities <= limit)
    return entropy.masked_fill(~valid, 0.0).sum(), valid.sum()


def ohem_cross_entropy(
    logits: Float[Tensor, "batch classes height width"],
    labels: Integer[Tensor, "batch height width"],
    *,
    threshold: float,
    min_kept: int,
    ignore_index: int = IGNORE_INDEX,
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy over the hard pixels, see `ohem_sum`."""
    return mean_of(ohem_sum(logits, labels, threshold, min_kept, ignore_index))


def rank_consistency(
    teacher_features: Float[Tensor, "batch channels height width"],
    student_features: Float[Tensor, "batch channels height width"],
    *,
    num_agents: int,
    top_k: int,
    epsilon: float = 0.0,
    first: Int64[Tensor, " batch"] | None = None,
    generator: Generators | None = None,
    selection: str = "orthogonal",
    valid: Bool[Tensor, "batch height width"] | None = None,
    divide_by_orders: bool = False,
    consistency: str = "rank",
    indices: Int64[Tensor, "batch agents"] | None = None,
) -> Float[Tensor, ""]:
    """Return how far the student's correlations with the agents are from the teacher's, a mean over pixels and images.

    The paper's reduction: the sum over orders, not their mean. No gradient reaches the teacher.

    Args:
        teacher_features: Of the weak view, mixed like the strong view.
        student_features: Of the strong view.
        num_agents: N, ignored if `selection` is `all` or `indices` are given.
        top_k: K, the number of agents ranked at a pixel: those with which the teacher correlates most.
        epsilon: 0 is the exact divergence; 1e-10 the authors', see `enumerated_divergence`.
        first: See `select_agents`.
        generator: See `select_agents`.
        selection: `orthogonal`, `random`, `top_n` or `all`.
        valid: Pixels that can be agents and count in the mean; None: all, as in the authors' code.
        divide_by_orders: Also divide the divergence of ranks by K!, as the authors do.
        consistency: `rank`, or one of Table 6 on the correlations, summed over agents: `l2` (squared), `ce`, `kl`.
        indices: Agents that were already picked, instead of the arguments of `select_agents`.

    Raises:
        ValueError: A setting is out of range, see also `select_agents`.
    """
    one_of("consistency", consistency, CONSISTENCIES)
    if indices is None:
        indices = select(selection, teacher_features, num_agents, first=first, generator=generator, valid=valid)
    sum_and_count = rank_consistency_sum(
        correlation_logits(teacher_features.detach(), indices),
        correlation_logits(student_features, indices),
        top_k=top_k,
        epsilon=epsilon,
        valid=valid,
        divide_by_orders=divide_by_orders,
        consistency=consistency,
    )
    return mean_of(sum_and_count)


def rank_consistency_sum(
    teacher: Float[Tensor, "batch positions agents"],
    student: Float[Tensor, "batch positions agents"],
    *,
    top_k: int,
    epsilon: float = 0.0,
    valid: Bool[Tensor, "batch height width"] | None = None,
    divide_by_orders: bool = False,
    consistency: str = "rank",
) -> SumAndCount:
    """Return the sum that `rank_consistency` is the mean of, and the number of valid pixels.

    Both arguments are `correlation_logits`; the teacher's are without gradient.

    Raises:
        ValueError: `top_k` exceeds the number of agents, or what the form of the divergence allows.
    """
    if consistency == "rank":
        pixels = _rank_divergence(teacher, student, top_k, epsilon)
        pixels = pixels / factorial(top_k) if divide_by_orders else pixels
    else:
        pixels = _CORRELATION_LOSSES[consistency](teacher.log_softmax(-1), student.log_softmax(-1))
    counted = torch.ones_like(pixels, dtype=torch.bool) if valid is None else valid.flatten(1)
    return pixels.masked_fill(~counted, 0.0).sum(), counted.sum()


def _rank_divergence(teacher: Tensor, student: Tensor, top_k: int, epsilon: float) -> Tensor:
    in_range("top_k", top_k, 1, teacher.shape[-1])
    ranked = teacher.topk(top_k, dim=-1).indices
    if epsilon == 0:  # the normaliser over all agents cancels in each stage
        return divergence_from_logits(teacher.gather(-1, ranked), student.gather(-1, ranked))
    teacher_scores, student_scores = (logits.softmax(-1).gather(-1, ranked) for logits in (teacher, student))
    return enumerated_divergence(teacher_scores, student_scores, epsilon)


def _squared_distance(teacher_log: Tensor, student_log: Tensor) -> Tensor:
    return (teacher_log.exp() - student_log.exp()).square().sum(-1)


def _correlation_entropy(teacher_log: Tensor, student_log: Tensor) -> Tensor:
    return -(teacher_log.exp() * student_log).sum(-1)


def _correlation_divergence(teacher_log: Tensor, student_log: Tensor) -> Tensor:
    return (teacher_log.exp() * (teacher_log - student_log)).sum(-1)


_CORRELATION_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": _squared_distance,
    "ce": _correlation_entropy,
    "kl": _correlation_divergence,
}


def _pixel_entropy(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    # As rows of classes, the layout of logits in channels_last; along another dimension they would be copied.
    rows = widen(logits).permute(0, 2, 3, 1).flatten(0, 2)
    entropy = functional.cross_entropy(rows, labels.long().flatten(), ignore_index=ignore_index, reduction="none")
    return entropy.view(labels.shape)
