"""The Plackett-Luce distribution over the orders of K agents, and the divergence between two of them."""

from functools import cache, reduce
from itertools import accumulate, combinations, permutations
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rankmatch.agents import widen
from rankmatch.checks import in_range

MAX_EXACT = 8
MAX_ENUMERATED = 6


def order_probabilities(scores: Float[Tensor, "*batch ranked"], epsilon: float = 0.0) -> Float[Tensor, "*batch orders"]:
    """Return the probability of each order, orders as `itertools.permutations` gives them.

    Args:
        scores: Positive; at any scale if `epsilon` is 0.
        epsilon: Added to each denominator, 1e-10 in the authors' code.

    Raises:
        ValueError: More than 8 scores.
    """
    _check_ranked(scores, MAX_EXACT)
    # Unrolled: on a GPU cumsum() has no deterministic form, and prod() waits in its backward pass to look for zeros.
    last_first = widen(scores)[..., _orders(scores.shape[-1], scores.device)].flip(-1).unbind(-1)
    left = accumulate(last_first, torch.add)
    return reduce(torch.mul, [drawn / (rest + epsilon) for drawn, rest in zip(last_first, left, strict=True)])


def divergence(
    teacher: Float[Tensor, "*batch ranked"], student: Float[Tensor, "*batch ranked"]
) -> Float[Tensor, "*batch"]:
    """Return the exact KL(teacher || student) of the orders' distributions, from positive scores at any scale."""
    return divergence_from_logits(widen(teacher).log(), widen(student).log())


def divergence_from_logits(
    teacher: Float[Tensor, "*batch ranked"], student: Float[Tensor, "*batch ranked"]
) -> Float[Tensor, "*batch"]:
    """Return the exact KL(teacher || student) of the orders' distributions, from log-scores.

    An order is drawn stage by stage. So the divergence is a sum over the subsets of two or more agents that can remain
    at a stage: the teacher's probability that they remain, times the divergence of the next draw. These are 2^K terms,
    not K!. Nothing underflows, and the gradient with respect to a student's log-score is between -K and K.

    Raises:
        ValueError: More than 8 log-scores.
    """
    _check_ranked(teacher, MAX_EXACT)
    table = _subsets(teacher.shape[-1], teacher.device)
    teacher_log, student_log = (_next_draw(widen(scores), table.members) for scores in (teacher, student))
    draws = teacher_log.exp()
    # Outside a subset both logarithms are -inf: their difference is set to 0, which also keeps NaN out of the gradient.
    gains = (teacher_log - student_log).masked_fill(~table.members, 0.0)
    return (_remaining(draws, table) * (draws * gains).sum(-1)).sum(-1)


def enumerated_divergence(
    teacher_scores: Float[Tensor, "*batch ranked"], student_scores: Float[Tensor, "*batch ranked"], epsilon: float
) -> Float[Tensor, "*batch"]:
    """Return the authors' divergence, the sum over orders of P_t (log P_t - log(P_s + epsilon)).

    Epsilon is also in the denominators of both P, so they no longer sum to 1 unless the remaining scores are large
    against it. The value is then no divergence: it can be above or below the exact one, and below 0. If the teacher's
    P sum to m (`order_mass` in diagnostics.py), it can fall to m log(m), at worst to -1/e, and nears 0 with m, whatever
    the student predicts. No order costs more than -log(epsilon), and an order that is impossible for the student gets
    no gradient.

    Args:
        teacher_scores: Correlations with the ranked agents, after a softmax over all agents: their scale matters.
        student_scores: The same for the student.
        epsilon: 1e-10 in the authors' code. Below 1e-19 its gradient can overflow in float32.

    Raises:
        ValueError: More than 6 scores, or an epsilon that is 0 in their precision, which makes 0 / 0 of them.
    """
    _check_ranked(teacher_scores, MAX_ENUMERATED)
    precision = torch.finfo(widen(student_scores).dtype)
    in_range(f"epsilon (of {precision.dtype} scores)", epsilon, precision.tiny * precision.eps, precision.max)
    expected = order_probabilities(teacher_scores, epsilon)
    found = order_probabilities(student_scores, epsilon)
    return (torch.xlogy(expected, expected) - expected * (found + epsilon).log()).sum(-1)


class _Subsets(NamedTuple):
    """The subsets of two or more of K agents, largest first."""

    members: Tensor  # [subsets, K], boolean
    sizes: tuple[int, ...]  # number of subsets with K agents, K - 1, ..., 2
    sources: tuple[
        Tensor, ...
    ]  # of each size but the first [subsets, left out]: (larger subset, agent) pairs, flat in their size


# Also where an evaluation calls first: a tensor made in inference mode could not serve a backward pass later.
@cache
@torch.inference_mode(False)
def _subsets(ranked: int, device: torch.device) -> _Subsets:
    levels = [list(combinations(range(ranked), size)) for size in range(ranked, 1, -1)]
    members = torch.zeros(sum(map(len, levels)), ranked, dtype=torch.bool)
    for row, subset in enumerate(subset for level in levels for subset in level):
        members[row, list(subset)] = True
    sources = []
    for larger, level in zip(levels, levels[1:], strict=False):
        row_of = {subset: row for row, subset in enumerate(larger)}
        missing = [[agent for agent in range(ranked) if agent not in subset] for subset in level]
        pairs = [
            [row_of[tuple(sorted((*subset, agent)))] * ranked + agent for agent in agents]
            for subset, agents in zip(level, missing, strict=True)
        ]
        sources.append(torch.tensor(pairs, device=device))
    return _Subsets(members.to(device), tuple(map(len, levels)), tuple(sources))


@cache
@torch.inference_mode(False)
def _orders(ranked: int, device: torch.device) -> Tensor:
    return torch.tensor(list(permutations(range(ranked))), device=device)


def _next_draw(log_scores: Tensor, members: Tensor) -> Tensor:
    """Return the log-probabilities of the next draw in each subset, -inf outside it."""
    return log_scores.unsqueeze(-2).masked_fill(~members, -torch.inf).log_softmax(-1)


def _remaining(draws: Tensor, table: _Subsets) -> Tensor:
    """Return for each subset the probability that exactly its agents remain at its stage."""
    levels = torch.split(draws, list(table.sizes), dim=-2)
    reached = [draws.new_ones((*draws.shape[:-2], 1))]
    for level, source in zip(levels, table.sources, strict=False):
        moves = (reached[-1].unsqueeze(-1) * level).flatten(-2)
        reached.append(moves[..., source].sum(-1))
    return torch.cat(reached, dim=-1)


def _check_ranked(scores: Tensor, most: int) -> None:
    in_range("the number of ranked agents", scores.shape[-1], 1, most)
