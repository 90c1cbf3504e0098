"""supervised | fixmatch | unimatch | rankmatch: a step's views -> named losses (specification, section 3).

The teacher is the weak branch of the same network, without gradient; there is no moving average.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rankmatch.agents import correlation_logits, select, widen
from rankmatch.config import MethodConfig, NumericsConfig
from rankmatch.data.views import StrongView, UnlabeledViews, Views
from rankmatch.diagnostics import Ratio, pooled, pseudo_label_ratios, rank_ratios
from rankmatch.distributed import gather_over_workers, sum_over_workers, world
from rankmatch.losses import SumAndCount, consistency_sum, cross_entropy_sum, ohem_sum, rank_consistency_sum


@dataclass(slots=True)
class Losses:
    """What one step yields on one worker."""

    total: Float[Tensor, ""]
    """Its mean over the workers is the loss of the global batch; ready for `backward`, unless that was done."""
    terms: dict[str, Tensor]
    """The unweighted terms by name, without gradient."""
    ratios: dict[str, Ratio] = field(default_factory=dict)
    """This worker's part in the figures of `diagnostics`."""


@dataclass(slots=True)
class Teacher:
    """What a weak view says about every pixel, without gradient."""

    label: Int64[Tensor, "batch height width"]
    confidence: Float[Tensor, "batch height width"]
    valid: Bool[Tensor, "batch height width"]
    features: Float[Tensor, "batch channels grid grid"]

    def mixed(self, partner: "Teacher", box: Bool[Tensor, "batch height width"]) -> "Teacher":
        """Take the partner's values inside the boxes."""
        grid = on_grid(box, self.features.shape[-1])
        return Teacher(
            label=torch.where(box, partner.label, self.label),
            confidence=torch.where(box, partner.confidence, self.confidence),
            valid=torch.where(box, partner.valid, self.valid),
            features=torch.where(grid[:, None], partner.features, self.features),
        )


def step_losses(
    model: nn.Module,
    network: nn.Module,
    views: Views,
    numerics: NumericsConfig,
    *,
    backward: Callable[[Tensor], None] | None = None,
) -> Losses:
    """Run a training step forward.

    Args:
        model: The network as it is trained: wrapped, where several workers share the step.
        network: The bare network, for the passes without gradient.
        views: From `ViewMaker`.
        numerics: Names the method and its settings.
        backward: Gets the parts of the total, each before the next pass begins, so that what a pass keeps for its
            gradient is free by then. None: the total has the gradient of all.
    """
    method = numerics.method
    if views.unlabeled is None:
        terms = _spent(_means({"x": _labeled(model(views.labeled)[0], views, method)}, method), method, backward)
        return Losses(terms["x"], _detached(terms))
    partner = _partner_teacher(network, views.unlabeled)
    with nullcontext() if backward is None else _unsynchronised(model):
        terms, teacher = _weak_terms(model, views, views.unlabeled, method)
        terms = _spent(terms, method, backward)
    strong_terms, rank_figures = _strong_terms(model, views.unlabeled, teacher, partner, method)
    terms |= _spent(strong_terms, method, backward)
    ratios = pseudo_label_ratios(
        teacher.label, teacher.confidence, teacher.valid, views.unlabeled.truth, method.confidence_threshold
    )
    return Losses(total_loss(terms, method), _detached(terms), ratios | pooled(rank_figures))


def _spent(
    terms: dict[str, Tensor], method: MethodConfig, backward: Callable[[Tensor], None] | None
) -> dict[str, Tensor]:
    """Take the gradient of the terms' part in the total, if that is to be done now."""
    if backward is None:
        return terms
    backward(total_loss(terms, method))
    return _detached(terms)


def _unsynchronised(model: nn.Module) -> AbstractContextManager[None]:
    """Leave the exchange of gradients to the last pass of a step."""
    if isinstance(model, DistributedDataParallel):
        context: AbstractContextManager[None] = model.no_sync()
        return context
    return nullcontext()


def _weak_terms(
    model: nn.Module, views: Views, unlabeled: UnlabeledViews, method: MethodConfig
) -> tuple[dict[str, Tensor], Teacher]:
    labeled_logits, perturbed_logits, teacher = _weak_pass(model, views, unlabeled)
    sums = {"x": _labeled(labeled_logits, views, method)}
    if perturbed_logits is not None:
        sums["fp"] = _consistency(perturbed_logits, teacher, method)
    return _means(sums, method), teacher


def _strong_terms(
    model: nn.Module, unlabeled: UnlabeledViews, teacher: Teacher, partner: Teacher, method: MethodConfig
) -> tuple[dict[str, Tensor], list[dict[str, Ratio]]]:
    strong_logits, strong_features = model(torch.cat([strong.images for strong in unlabeled.strong]))
    sums, rank_figures = {}, []
    per_view = zip(unlabeled.strong, strong_logits.split(len(unlabeled.weak)),
                   strong_features.split(len(unlabeled.weak)), strict=True)  # fmt: skip
    for number, (strong, logits, features) in enumerate(per_view, start=1):
        mixed = teacher.mixed(partner, strong.box)
        sums[f"s{number}"] = _consistency(logits, mixed, method)
        if method.name == "rankmatch":
            sums[f"rank{number}"], figures = _rank(mixed, features, strong, method)
            rank_figures.append(figures)
    return _means(sums, method), rank_figures


def total_loss(terms: Mapping[str, Float[Tensor, ""]], method: MethodConfig) -> Float[Tensor, ""]:
    """Weigh the terms of a method (the paper's total; the authors' code with `halve_total`); one not given is 0."""
    if method.name == "supervised":
        return terms["x"]
    terms = defaultdict[str, Any](float, terms)
    total: Tensor
    if method.name == "fixmatch":
        total = terms["x"] + terms["s1"]
    else:
        total = terms["x"] + method.weight_s1 * terms["s1"] + method.weight_s2 * terms["s2"]
        total = total + method.weight_fp * terms["fp"]
    if method.halve_total:
        total = total / 2
    if method.name == "rankmatch":
        total = total + method.weight_rank * (terms["rank1"] + terms["rank2"]) / 2
    return total


def on_grid(maps: Bool[Tensor, "batch size size"], grid_size: int) -> Bool[Tensor, "batch grid grid"]:
    """Sample maps of the crop at the points of the feature grid, whose corners are those of the crop.

    Where the crop is output stride x k + 1 the points are pixels, and mixing there equals mixing at full resolution;
    for any other crop each point takes the nearest pixel.
    """
    points = torch.linspace(0, maps.shape[-1] - 1, grid_size, device=maps.device).round().long()
    return maps[:, points][:, :, points]


def _partner_teacher(network: nn.Module, unlabeled: UnlabeledViews) -> Teacher:
    """Predict the CutMix partners in eval mode, as UniMatch does."""
    network.eval()
    with torch.no_grad():
        logits, features = network(unlabeled.partner)
    network.train()
    return _teacher(logits, features, unlabeled.partner_valid)


def _weak_pass(model: nn.Module, views: Views, unlabeled: UnlabeledViews) -> tuple[Tensor, Tensor | None, Teacher]:
    """Forward labeled and weak images together; return labeled logits, perturbed weak logits and the teacher."""
    images, sizes = torch.cat([views.labeled, unlabeled.weak]), [len(views.labeled), len(unlabeled.weak)]
    perturbed = None
    if views.keep is None:
        logits, features = model(images)
    else:
        logits, perturbed, features = model(images, perturb=True, keep=views.keep)
        perturbed = perturbed.split(sizes)[1]
    # split(), whose gradient is one concatenation; that of a slice is a full tensor of zeros and an addition.
    labeled, weak = logits.split(sizes)
    return labeled, perturbed, _teacher(weak.detach(), features[sizes[0] :].detach(), unlabeled.valid)


def _teacher(logits: Tensor, features: Tensor, valid: Tensor) -> Teacher:
    confidence, label = widen(logits).softmax(dim=1).max(dim=1)
    return Teacher(label=label, confidence=confidence, valid=valid, features=features)


def _labeled(logits: Tensor, views: Views, method: MethodConfig) -> SumAndCount:
    if not method.ohem:
        return cross_entropy_sum(logits, views.labels)
    everywhere = method.ohem_scope == "global"
    num_images = len(views.labels) * (world().size if everywhere else 1)
    min_kept = num_images * method.ohem_min_kept_per_image
    gather = gather_over_workers if everywhere else None
    return ohem_sum(logits, views.labels, method.ohem_threshold, min_kept, gather=gather)


def _consistency(logits: Tensor, teacher: Teacher, method: MethodConfig) -> SumAndCount:
    return consistency_sum(logits, teacher.label, teacher.confidence, teacher.valid, method.confidence_threshold)


def _rank(
    teacher: Teacher, student_features: Tensor, strong: StrongView, method: MethodConfig
) -> tuple[SumAndCount, dict[str, Ratio]]:
    valid = on_grid(teacher.valid, teacher.features.shape[-1]) if method.rank_ignores_padding else None
    agents = select(
        method.selection, teacher.features, method.num_agents, generator=strong.agent_generators, valid=valid
    )
    correlations = correlation_logits(teacher.features, agents), correlation_logits(student_features, agents)
    sum_and_count = rank_consistency_sum(
        *correlations,
        top_k=method.top_k,
        epsilon=method.epsilon,
        valid=valid,
        divide_by_orders=method.rank_divide_by_orders,
        consistency=method.consistency,
    )
    return sum_and_count, rank_ratios(*correlations, method.top_k, valid, method.epsilon)


def _means(sums: dict[str, SumAndCount], method: MethodConfig) -> dict[str, Tensor]:
    """Divide every sum by its count: over all workers, or over this one alone (`normalise`)."""
    counts = torch.stack([count for _, count in sums.values()])
    scale = 1
    if method.normalise == "global":
        counts, scale = sum_over_workers(counts), world().size
    pairs = zip(sums.items(), counts.clamp(min=1), strict=True)
    return {name: scale * total / count for (name, (total, _)), count in pairs}


def _detached(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: term.detach() for name, term in terms.items()}
