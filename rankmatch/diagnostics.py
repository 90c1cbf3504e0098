"""Figures that tell how a step of RankMatch went; none of them touches a loss."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rankmatch.agents import correlation_logits

RATIOS = ("mask_ratio", "zero_agent_share", "top_k_weight", "order_agreement")
"""All that is logged beside the losses, between 0 and 1; `mask_ratio` is the share of confident among valid pixels."""


@torch.no_grad()
def rank_ratios(
    teacher_features: Float[Tensor, "batch channels height width"],
    student_features: Float[Tensor, "batch channels height width"],
    agents: Int64[Tensor, "batch agents"],
    top_k: int,
) -> dict[str, Float[Tensor, ""]]:
    """Return what the paper argues with about one strong view, means over pixels and images.

    `zero_agent_share`: agents whose teacher features are all zero, which are picked first and tell nothing.
    `top_k_weight`: the teacher's correlation with its K ranked agents, of 1 in all.
    `order_agreement`: pixels at which the student holds the K ranked agents in the teacher's order.
    """
    picked = teacher_features.flatten(2).gather(2, agents[:, None].expand(-1, teacher_features.shape[1], -1))
    teacher = correlation_logits(teacher_features, agents)
    student = correlation_logits(student_features, agents)
    ranked = teacher.topk(top_k, dim=-1).indices
    in_teachers_order = student.gather(-1, ranked)
    agrees = (in_teachers_order[..., :-1] > in_teachers_order[..., 1:]).all(dim=-1)
    return {
        "zero_agent_share": (picked == 0).all(dim=1).float().mean(),
        "top_k_weight": teacher.softmax(dim=-1).gather(-1, ranked).sum(dim=-1).mean(),
        "order_agreement": agrees.float().mean(),
    }
