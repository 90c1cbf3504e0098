"""One training step of RankMatch on DeepLabV3+ with ResNet-50: 2 labeled and 2 unlabeled images, 21 classes."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import reference
from benchmarks.harness import Row, Settings, interleaved, peak_mb, plain
from rankmatch.config import (
    BackboneConfig,
    DatasetConfig,
    MethodConfig,
    NumericsConfig,
    OptimisationConfig,
    TrainConfig,
)
from rankmatch.data.views import StrongView, UnlabeledViews, Views
from rankmatch.methods import METHODS
from rankmatch.models import DeepLabV3Plus
from rankmatch.optimisation import autocast, backward, make_optimizer
from rankmatch.step import passes
from rankmatch.trainer import choose_device, make_network

NUM_CLASSES, BATCH = 21, 2
TINY_CROP = 129
FEATURE_SCALE = 0.2
PRODUCT = 2048
"""Rows and columns of the matrix product whose rate is the limit."""


def rows(settings: Settings) -> Iterator[Row]:
    """Measure time in float32 and, where the processor computes in it, bfloat16; then peak memory."""
    crop = TINY_CROP if settings.tiny else 321
    yield _timed("step_fp32", "float32", crop, settings)
    if has_bfloat16():
        yield _timed("step_bf16", "bfloat16", crop, settings)
    else:
        small = _timed("step_bf16", "bfloat16", TINY_CROP // 2 + 1, settings)
        yield replace(small, note=f"crop {TINY_CROP // 2 + 1}: this processor emulates bfloat16; {small.note}")
    for size in (TINY_CROP,) if settings.tiny else (321, 801):
        ours, theirs = (peak_mb("bench_step", "prepare", way, str(size)) for way in ("ours", "reference"))
        yield plain(f"memory_{321 if settings.tiny else size}", ours, theirs, "MB", f"crop {size}, float32")


def has_bfloat16() -> bool:
    """Tell whether the device has instructions for bfloat16."""
    return torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001 (nothing public)


def prepare(way: str, crop: str) -> Callable[[], object]:
    """Prepare a step for `peak_mb`."""
    return {"ours": ours, "reference": theirs}[way](numerics("float32", int(crop)), make_views(int(crop)))


def _timed(name: str, precision: str, crop: int, settings: Settings) -> Row:
    wanted, views = numerics(precision, crop), make_views(crop)
    runs = {"ours": ours(wanted, views), "reference": theirs(wanted, views)}
    first = {way: run() for way, run in runs.items()}  # from the same weights
    off = max(abs(first["ours"][term] / value - 1) for term, value in first["reference"].items())
    with FlopCounterMode(display=False) as counter:
        runs["ours"]()
    size = 256 if settings.tiny else PRODUCT
    matrix = torch.randn(size, size, device=choose_device("auto"), dtype=getattr(torch, precision))
    taken = interleaved(runs | {"product": lambda: matrix @ matrix}, settings.repeats, warm_up=False)
    middle = {way: statistics.median(values) for way, values in taken.items()}
    limit = 2 * size**3 / min(taken["product"])
    ratios = [slow / fast for fast, slow in zip(taken["ours"], taken["reference"], strict=True)]
    gflop = counter.get_total_flops() / 1e9
    return Row(
        name=name,
        ours=middle["ours"],
        reference=middle["reference"],
        unit="s",
        ratio=statistics.median(ratios),
        limit_share=1e9 * gflop / middle["ours"] / limit,
        note=f"losses differ by {off:.1e}; {gflop:.0f} GFLOP, product {limit / 1e9:.0f} GFLOP/s",
    )


def numerics(precision: str, crop: int) -> NumericsConfig:
    """Return the settings: `authors_code`, every pixel confident, as many agents as the grid has room for."""
    return NumericsConfig(
        dataset=DatasetConfig(name="drawn", num_classes=NUM_CLASSES),
        backbone=BackboneConfig(pretrained=False),
        method=MethodConfig(confidence_threshold=0.0, num_agents=min(64, (crop // 16) ** 2)),
        trainer=OptimisationConfig(precision=precision, labeled_batch_size=BATCH, unlabeled_batch_size=BATCH),
    )


def make_views(crop: int, batch: int = BATCH) -> Views:
    """Draw normalised views with structure at several scales, padding and a CutMix box."""
    draws = torch.Generator().manual_seed(0)
    device = choose_device("auto")

    def images() -> Tensor:
        parts = [torch.randn(batch, 3, side, side, generator=draws) for side in (4, 16, crop)]
        return sum(reference.upsample(part, (crop, crop)) for part in parts).to(device)

    def maps(first: int, last: int) -> Tensor:
        inside = torch.zeros(batch, crop, crop, dtype=torch.bool, device=device)
        inside[:, first:last, first:last] = True
        return inside

    weak = images()
    strong = [
        StrongView(
            weak + 0.1 * images(), maps(crop // 8, crop // 2 + number), [torch.Generator() for _ in range(batch)]
        )
        for number in range(2)
    ]
    labels = torch.randint(NUM_CLASSES, (batch, crop, crop), generator=draws).to(device, torch.uint8)
    labels[:, :, crop - 9 :] = 255
    keep = tuple(torch.rand(2 * batch, channels, generator=draws).to(device) < 0.5 for channels in (256, 2048))
    valid, partner_valid = maps(0, crop - 7), maps(0, crop)
    unlabeled = UnlabeledViews(weak, valid, labels.flip(0), images(), partner_valid, strong)
    return Views(images(), labels, unlabeled, (keep[0], keep[1]))


def _same_draws(views: Views) -> None:
    assert views.unlabeled is not None
    for view, strong in enumerate(views.unlabeled.strong):
        for image, generator in enumerate(strong.agent_generators):
            generator.manual_seed(10 * view + image)


def make_ours(device: torch.device, wanted: NumericsConfig | None = None) -> DeepLabV3Plus:
    """Make the network as the trainer makes it, with running statistics and correlations as of a trained one."""
    network = make_network(TrainConfig(numerics=wanted or numerics("float32", TINY_CROP)), device)
    # Fresh features make every correlation 0 or 1 and the rank loss 0; fresh running statistics are of nothing.
    with torch.no_grad():
        network.head.project[1].weight.mul_(FEATURE_SCALE)
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        network.train()(make_views(TINY_CROP).labeled)
        for norm in norms:
            norm.momentum = 0.1
    return network


def make_theirs(device: torch.device) -> reference.DeepLab:
    """Make the textbook network with the same weights."""
    network = reference.DeepLab(NUM_CLASSES).to(device)
    network.load_state_dict(make_ours(device).state_dict())
    return network


def ours(wanted: NumericsConfig, views: Views) -> Callable[[], dict[str, float]]:
    """Make the step as the trainer takes it."""
    device = choose_device("auto")
    network = make_ours(device, wanted).train()
    optimizer = make_optimizer(network, wanted)

    def step() -> dict[str, float]:
        _same_draws(views)
        optimizer.zero_grad(set_to_none=True)
        losses: dict[str, Tensor] = {}
        with autocast(wanted, device):
            for part in passes(network, network, views, wanted):
                backward(part.loss)
                losses |= part.losses
        optimizer.step()
        losses["total"] = METHODS[wanted.method.name].total(losses, wanted.method)
        return {name: loss.item() for name, loss in losses.items()}

    return step


def theirs(wanted: NumericsConfig, views: Views) -> Callable[[], dict[str, float]]:
    """Make the textbook step, from the same weights."""
    device = choose_device("auto")
    network = make_theirs(device).train()
    optimizer = make_optimizer(network, wanted)

    def step() -> dict[str, float]:
        _same_draws(views)
        losses = reference.losses(network, views, wanted.method)
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
        return {name: term.item() for name, term in losses.items()}

    return step
