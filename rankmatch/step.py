"""The forward passes of a training step: views -> the losses of a method (specification, section 3).

The teacher is the weak branch of the same network, without gradient; there is no moving average.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rankmatch.agents import correlation_logits, select, widen
from rankmatch.config import IGNORE_INDEX, MethodConfig, NumericsConfig
from rankmatch.data.views import StrongView, UnlabeledViews, Views
from rankmatch.diagnostics import (
    LABELS,
    PSEUDO_LABELS,
    Ratio,
    class_counts,
    pooled,
    pseudo_label_ratios,
    rank_ratios,
)
from rankmatch.distributed import gather_over_workers, sum_over_workers, world
from rankmatch.losses import SumAndCount, consistency_sum, cross_entropy_sum, ohem_sum, rank_consistency_sum
from rankmatch.methods import METHODS, Kind


@dataclass(slots=True)
class Pass:
    """The result of one forward pass of a step on one worker."""

    loss: Float[Tensor, ""]
    """Its part in the total, ready for `backward`. The mean over the workers of the sum over the passes is the loss of
    the global batch."""
    losses: dict[str, Float[Tensor, ""]]
    """The unweighted losses by name, without gradient."""
    ratios: dict[str, Ratio] = field(default_factory=dict)
    """This worker's part of the figures of `diagnostics`."""
    class_counts: dict[str, Int64[Tensor, " classes"]] = field(default_factory=dict)
    """Points of each class on this worker, by what is counted."""


@dataclass(slots=True)
class Teacher:
    """The teacher's output for every pixel of a weak view, without gradient."""

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


def passes(model: nn.Module, network: nn.Module, views: Views, numerics: NumericsConfig) -> Iterator[Pass]:
    """Run the forward passes of a training step, one at a time.

    Call `backward` on a pass before you ask for the next one, so that the memory kept for its gradient is free by then.

    Args:
        model: The network as it is trained: wrapped if several workers share the step.
        network: The bare network, for the pass without gradient.
        views: From `ViewMaker`.
        numerics: Names the method and its settings.
    """
    settings, unlabeled, num_classes = numerics.method, views.unlabeled, numerics.dataset.num_classes
    counts = {LABELS: class_counts(views.labels, views.labels != IGNORE_INDEX, num_classes)}
    if unlabeled is None:
        yield _pass({Kind.LABELED.value: _labeled(model(views.labeled)[0], views, settings)}, {}, settings, counts)
        return
    partner = _partner_teacher(network, unlabeled)
    with _unsynchronised(model):
        sums, teacher = _weak_losses(model, views, unlabeled, settings)
        is_confident = teacher.valid & (teacher.confidence >= settings.confidence_threshold)
        counts[PSEUDO_LABELS] = class_counts(teacher.label, is_confident, num_classes)
        yield _pass(sums, _pseudo_label_ratios(teacher, unlabeled, settings), settings, counts)
    yield _pass(*_strong_losses(model, unlabeled, teacher, partner, settings), settings)


def _pass(
    sums: dict[str, SumAndCount],
    ratios: dict[str, Ratio],
    settings: MethodConfig,
    counts: dict[str, Tensor] | None = None,
) -> Pass:
    losses = _means(sums, settings)
    part = METHODS[settings.name].part_of_total(losses, settings)
    return Pass(part, {name: loss.detach() for name, loss in losses.items()}, ratios, counts or {})


def _unsynchronised(model: nn.Module) -> AbstractContextManager[None]:
    """Delay the exchange of gradients between workers until the last pass of a step."""
    if isinstance(model, DistributedDataParallel):
        context: AbstractContextManager[None] = model.no_sync()
        return context
    return nullcontext()


def _weak_losses(
    model: nn.Module, views: Views, unlabeled: UnlabeledViews, settings: MethodConfig
) -> tuple[dict[str, SumAndCount], Teacher]:
    labeled_logits, perturbed_logits, teacher = _weak_pass(model, views, unlabeled)
    sums: dict[str, SumAndCount] = {Kind.LABELED.value: _labeled(labeled_logits, views, settings)}
    if perturbed_logits is not None:
        sums[Kind.PERTURBED.value] = _consistency(perturbed_logits, teacher, settings)
    return sums, teacher


def _strong_losses(
    model: nn.Module, unlabeled: UnlabeledViews, teacher: Teacher, partner: Teacher, settings: MethodConfig
) -> tuple[dict[str, SumAndCount], dict[str, Ratio]]:
    all_logits, all_features = model(torch.cat([strong.images for strong in unlabeled.strong]))
    sums: dict[str, SumAndCount] = {}
    ratios = []
    size = len(unlabeled.weak)
    views = zip(unlabeled.strong, all_logits.split(size), all_features.split(size), strict=True)
    for number, (strong, logits, features) in enumerate(views, start=1):
        mixed = teacher.mixed(partner, strong.box)
        sums[f"{Kind.STRONG}{number}"] = _consistency(logits, mixed, settings)
        if METHODS[settings.name].has(Kind.RANK):
            sums[f"{Kind.RANK}{number}"], figures = _rank(mixed, features, strong, settings)
            ratios.append(figures)
    return sums, pooled(ratios)


def on_grid(maps: Bool[Tensor, "batch size size"], grid_size: int) -> Bool[Tensor, "batch grid grid"]:
    """Sample maps of the crop at the points of the feature grid, whose corners are those of the crop.

    If the crop is output stride x k + 1, the points are pixels, and mixing there equals mixing at full resolution.
    For other crops each point takes the nearest pixel.
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


def _labeled(logits: Tensor, views: Views, settings: MethodConfig) -> SumAndCount:
    if not settings.ohem:
        return cross_entropy_sum(logits, views.labels)
    everywhere = settings.ohem_scope == "global"
    num_images = len(views.labels) * (world().size if everywhere else 1)
    min_kept = num_images * settings.ohem_min_kept_per_image
    gather = gather_over_workers if everywhere else None
    return ohem_sum(logits, views.labels, settings.ohem_threshold, min_kept, gather=gather)


def _pseudo_label_ratios(teacher: Teacher, unlabeled: UnlabeledViews, settings: MethodConfig) -> dict[str, Ratio]:
    return pseudo_label_ratios(
        teacher.label, teacher.confidence, teacher.valid, unlabeled.truth, settings.confidence_threshold
    )


def _consistency(logits: Tensor, teacher: Teacher, settings: MethodConfig) -> SumAndCount:
    return consistency_sum(logits, teacher.label, teacher.confidence, teacher.valid, settings.confidence_threshold)


def _rank(
    teacher: Teacher, student_features: Tensor, strong: StrongView, settings: MethodConfig
) -> tuple[SumAndCount, dict[str, Ratio]]:
    valid = on_grid(teacher.valid, teacher.features.shape[-1]) if settings.rank_ignores_padding else None
    agents = select(
        settings.selection, teacher.features, settings.num_agents, generator=strong.agent_generators, valid=valid
    )
    correlations = correlation_logits(teacher.features, agents), correlation_logits(student_features, agents)
    sum_and_count = rank_consistency_sum(
        *correlations,
        top_k=settings.top_k,
        epsilon=settings.epsilon,
        valid=valid,
        divide_by_orders=settings.rank_divide_by_orders,
        consistency=settings.consistency,
    )
    epsilon = settings.epsilon if settings.consistency == "rank" else None
    return sum_and_count, rank_ratios(*correlations, settings.top_k, valid, epsilon)


def _means(sums: dict[str, SumAndCount], settings: MethodConfig) -> dict[str, Tensor]:
    """Divide every sum by its count: over all workers, or over this worker only (`normalise`)."""
    counts = torch.stack([count for _, count in sums.values()])
    scale = 1
    if settings.normalise == "global":
        counts, scale = sum_over_workers(counts), world().size
    pairs = zip(sums.items(), counts.clamp(min=1), strict=True)
    return {name: scale * total / count for (name, (total, _)), count in pairs}
