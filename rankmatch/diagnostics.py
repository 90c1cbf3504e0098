"""Diagnostic figures of a step, beside its losses; none of them affects a loss.

Each is a share between 0 and 1, given as the sum and the count of one worker. The figure of a step over all
workers, or of an epoch, is the sum of the sums divided by the sum of the counts.
"""

import warnings
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor

from rankmatch.config import IGNORE_INDEX
from rankmatch.plackett_luce import order_probabilities

Ratio = tuple[Tensor, Tensor]
RATIOS = ("mask_ratio", "pseudo_label_accuracy", "zero_agent_share", "top_k_weight", "order_mass", "order_agreement")
"""The names in rows, of the figures here and no others."""
LABELS, PSEUDO_LABELS = "labels", "pseudo_labels"
"""What the points of each class are counted of: labeled crops, confident pixels of weak views."""
COUNTED_EVERY = 4
"""In rows and columns: a sixteenth of the work tells a class that is never there, or one that is everywhere."""

DEAD_ORDER_MASS, LOW_ORDER_MASS = 0.01, 0.8
"""Below the first, the rank term has no effect; below the second, its mean over pixels can fall to -0.18 and lower."""


def warn_of_rank_term(row: Mapping[str, float | None], weight: float, epoch: int) -> None:
    """Warn if an epoch's row shows that the rank term has no effect, or is no divergence, and so can be below 0.

    Python prints the second warning once, as its text does not change from epoch to epoch.
    """
    mass = row.get("order_mass")
    if mass is None or weight == 0 or mass >= LOW_ORDER_MASS:
        return
    if mass < DEAD_ORDER_MASS:
        fault = (
            f"epoch {epoch}: the rank term is dead: the teacher's probabilities of all orders sum to {mass:.2g} in "
            "place of 1 (order_mass), since its scores are small against method.epsilon"
        )
    else:
        fault = (
            f"the teacher's probabilities of all orders sum to less than {LOW_ORDER_MASS} in place of 1 (order_mass), "
            "since some of its scores are small against method.epsilon: the rank loss weighs less, and may be below 0, "
            "which does not mean that the student is right"
        )
    warnings.warn(f"{fault}; method.epsilon=0 is the exact divergence", stacklevel=3)


@torch.no_grad()
def pseudo_label_ratios(
    pseudo_labels: Int64[Tensor, "batch height width"],
    confidence: Float[Tensor, "batch height width"],
    valid: Bool[Tensor, "batch height width"],
    truth: Integer[Tensor, "batch height width"],
    threshold: float,
) -> dict[str, Ratio]:
    """Return figures about a weak view's pseudo-labels, before CutMix.

    `mask_ratio`: the share of valid pixels that are confident.
    `pseudo_label_accuracy`: the share of right ones among confident valid pixels with a known class (`truth` not 255).
    """
    confident = valid & (confidence >= threshold)
    known = confident & (truth != IGNORE_INDEX)
    right = known & (pseudo_labels == truth)
    return {"mask_ratio": (confident.sum(), valid.sum()), "pseudo_label_accuracy": (right.sum(), known.sum())}


@torch.no_grad()
def class_counts(
    classes: Integer[Tensor, "batch height width"], counted: Bool[Tensor, "batch height width"], num_classes: int
) -> Int64[Tensor, " classes"]:
    """Count the points of each class on a grid of every fourth row and column; waits for nothing, as bincount would."""
    classes, counted = (part[:, ::COUNTED_EVERY, ::COUNTED_EVERY].flatten().long() for part in (classes, counted))
    found = torch.zeros(num_classes, dtype=torch.int64, device=classes.device)
    return found.scatter_add_(0, classes.clamp(max=num_classes - 1), counted)  # whole numbers: the order is the same


@torch.no_grad()
def rank_ratios(
    teacher: Float[Tensor, "batch positions agents"],
    student: Float[Tensor, "batch positions agents"],
    top_k: int,
    valid: Bool[Tensor, "batch height width"] | None = None,
    epsilon: float | None = 0.0,
) -> dict[str, Ratio]:
    """Return figures that the paper's argument rests on, for one strong view, from the loss's `correlation_logits`.

    They are about ranks also where the loss is not.

    `zero_agent_share`: the share of agents whose teacher features are all zero; these are picked first and carry no
    information.
    `top_k_weight`: the share of the teacher's correlation (1 in total) on its K ranked agents, mean over pixels.
    `order_mass`: the sum of the teacher's probabilities of all K! orders, mean over pixels. It is 1 if `epsilon` is 0.
    With the authors' epsilon in the denominators it falls to 0 as the teacher saturates, and the rank term with it.
    Left out where the loss compares no orders.
    `order_agreement`: the share of pixels where student and teacher order these K agents alike, at all K places and
    without ties; by chance it would be 1 / K!.

    Args:
        teacher: Of the mixed weak view.
        student: Of the strong view, with the agents at the same positions.
        top_k: K.
        valid: The pixels of the loss; None: all.
        epsilon: As in the loss; None: the loss compares no orders.
    """
    ranked = teacher.topk(top_k, dim=-1).indices
    in_teachers_order = student.gather(-1, ranked)
    agrees = (in_teachers_order[..., :-1] > in_teachers_order[..., 1:]).all(dim=-1)
    scores = teacher.softmax(dim=-1).gather(-1, ranked)
    weight = scores.sum(dim=-1)
    counted = torch.ones_like(agrees) if valid is None else valid.flatten(1)
    # An agent is a pixel too, and its product with itself is 0 only for zero features.
    is_zero = (teacher == 0).all(dim=1)
    ratios = {
        "zero_agent_share": (is_zero.sum(), is_zero.new_ones(is_zero.shape).sum()),
        "top_k_weight": (weight.masked_fill(~counted, 0.0).sum(), counted.sum()),
    }
    if epsilon is not None:
        mass = order_probabilities(scores, epsilon).sum(dim=-1) if epsilon else torch.ones_like(weight)
        ratios["order_mass"] = mass.masked_fill(~counted, 0.0).sum(), counted.sum()
    return ratios | {"order_agreement": ((agrees & counted).sum(), counted.sum())}


def pooled(parts: Sequence[dict[str, Ratio]]) -> dict[str, Ratio]:
    """Add up the figures of several views, by name."""
    names = parts[0] if parts else ()
    return {
        name: (
            torch.stack([part[name][0] for part in parts]).sum(),
            torch.stack([part[name][1] for part in parts]).sum(),
        )
        for name in names
    }
