"""Whole steps against a reference that is written from sections 3 to 5 of the specification, with loops and numpy."""

import re
from dataclasses import fields, replace
from functools import partial
from itertools import permutations
from math import factorial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rankmatch import step
from rankmatch.config import (
    AugmentConfig,
    BackboneConfig,
    DatasetConfig,
    MethodConfig,
    NumericsConfig,
    OptimisationConfig,
)
from rankmatch.data.views import StrongView, UnlabeledViews, Views
from rankmatch.distributed import World
from rankmatch.methods import METHODS
from rankmatch.models import build_model
from rankmatch.step import Pass, on_grid, passes

SIZE, STRIDE, CLASSES, AGENTS = 33, 8, 3, 6
PAPER = {"halve_total": False, "epsilon": 0.0, "rank_divide_by_orders": False}


def whole_step(model, network, views, config):
    """Run all passes of a step before any gradient is taken; return them as one."""
    parts = [*passes(model, network, views, config)]
    losses = {name: loss for part in parts for name, loss in part.losses.items()}
    ratios = {name: ratio for part in parts for name, ratio in part.ratios.items()}
    return Pass(sum(part.loss for part in parts), losses, ratios)


class Stub(nn.Module):
    """Logits and positive features of single pixels, among them no ties; it notes in which mode it is called."""

    def __init__(self):
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        self.head = nn.Parameter(torch.randn(CLASSES, 3, generator=draws, dtype=torch.float64))
        self.body = nn.Parameter(torch.randn(5, 3, generator=draws, dtype=torch.float64))
        self.calls = []

    def forward(self, images, perturb=False, keep=None):
        self.calls.append((len(images), self.training, torch.is_grad_enabled()))
        logits = torch.einsum("kc,bchw->bkhw", self.head, images)
        features = torch.einsum("kc,bchw->bkhw", self.body, images[..., ::STRIDE, ::STRIDE])
        features = nn.functional.softplus(features)
        return (logits, self.perturbed(logits, keep), features) if perturb else (logits, features)

    @staticmethod
    def perturbed(logits, keep):
        return logits * keep[0][:, :1, None, None]


def make_views(num=4, num_strong=2, perturb=True):
    draws = torch.Generator().manual_seed(1)
    images = lambda: torch.randn(num, 3, SIZE, SIZE, generator=draws, dtype=torch.float64)  # noqa: E731
    maps = lambda share: torch.rand(num, SIZE, SIZE, generator=draws) < share  # noqa: E731
    boxes = [torch.zeros(num, SIZE, SIZE, dtype=torch.bool) for _ in range(num_strong)]
    for view, box in enumerate(boxes):
        for image in range(num - 1):
            box[image, 3 + 5 * view : 20, 8 : 15 + 4 * image] = True
    strong = [StrongView(images(), box, [torch.Generator().manual_seed(i) for i in range(num)]) for box in boxes]
    labels = torch.randint(CLASSES, (num, SIZE, SIZE), generator=draws).masked_fill(maps(0.1), 255).byte()
    unlabeled = UnlabeledViews(images(), maps(0.9), labels.flip(0), images(), maps(0.8), strong)
    keep = (torch.rand(2 * num, 4, generator=draws) < 0.5,) * 2 if perturb else None
    return Views(images(), labels, unlabeled if num_strong else None, keep)


def views_of(method):
    return make_views(num_strong={"supervised": 0, "fixmatch": 1}.get(method, 2), perturb=method in PERTURBED)


PERTURBED = ("unimatch", "rankmatch")


def numerics(name, **settings):
    known = {"num_agents": AGENTS, "confidence_threshold": 0.6, "top_k": 3}
    return NumericsConfig(
        dataset=DatasetConfig(num_classes=CLASSES),
        backbone=BackboneConfig(name="mobilenet_v2", width=0.25, pretrained=False),
        method=MethodConfig(**known | {"name": name} | settings),
        augment=AugmentConfig(crop_size=SIZE * 2),
    )


def probabilities(logits):
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def pixel_entropy(logits, labels):
    """-log of the true class's probability, and 0 where the label is 255."""
    inside = np.where(labels == 255, 0, labels)
    chosen = np.take_along_axis(probabilities(logits), inside[:, None].astype(int), 1)[:, 0]
    return np.where(labels == 255, 0.0, -np.log(chosen))


def slow_labeled(logits, labels, method):
    entropy, valid = pixel_entropy(logits, labels), labels != 255
    if not method.ohem:
        return entropy[valid].sum() / valid.sum()
    chosen, min_kept = np.exp(-entropy), method.ohem_min_kept_per_image * len(labels)
    if min_kept > 0 and valid.sum() >= min_kept:
        # an ignored pixel has entropy 0 and with it probability 1, and takes part in the order
        valid &= chosen <= max(method.ohem_threshold, np.sort(chosen.flatten())[min_kept - 1])
    return entropy[valid].sum() / valid.sum()


def slow_consistency(logits, label, confidence, valid, threshold):
    return pixel_entropy(logits, label)[valid & (confidence >= threshold)].sum() / valid.sum()


def slow_agents(pixels, first, num, allowed):
    unit = pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-12)
    picked = [first]
    while len(picked) < num:
        rest = [i for i in allowed if i not in picked]
        picked.append(min(rest, key=lambda i: max(abs(unit[i] @ unit[j]) for j in picked)))
    return picked


def slow_order(c, order, epsilon):
    return np.prod([c[order[i]] / (sum(c[j] for j in order[i:]) + epsilon) for i in range(len(order))])


def slow_pixel(c_teacher, c_student, method):
    if method.consistency != "rank":
        return {
            "l2": ((c_teacher - c_student) ** 2).sum(),
            "ce": -(c_teacher * np.log(c_student)).sum(),
            "kl": (c_teacher * np.log(c_teacher / c_student)).sum(),
        }[method.consistency]
    total, ranked = 0.0, np.argsort(-c_teacher)[: method.top_k]
    for order in permutations(ranked):
        p, q = (slow_order(c, order, method.epsilon) for c in (c_teacher, c_student))
        total += p * (np.log(p) - np.log(q + method.epsilon)) if p else 0.0
    return total / (factorial(method.top_k) if method.rank_divide_by_orders else 1)


def slow_rank(teacher, student, valid, method):
    """Teacher and student features [B, C, h, w] and the valid grid points; image i draws with seed i."""
    values = []
    for image in range(len(teacher)):
        t, s = (features[image].reshape(features.shape[1], -1).T for features in (teacher, student))
        allowed = np.flatnonzero(valid[image]) if method.rank_ignores_padding else np.arange(len(t))
        draw = torch.rand(1, generator=torch.Generator().manual_seed(image), dtype=torch.float64).item()
        agents = slow_agents(t, allowed[int(draw * len(allowed))], method.num_agents, allowed)
        correlations = [probabilities(f @ f[agents].T) for f in (t, s)]
        values += [slow_pixel(correlations[0][pixel], correlations[1][pixel], method) for pixel in allowed]
    return np.mean(values)


def slow_step(stub, views, method):
    """All unweighted terms and the total."""
    run = lambda images: [part.detach().numpy() for part in stub(images)]  # noqa: E731
    terms = {"x": slow_labeled(run(views.labeled)[0], views.labels.numpy(), method)}
    if views.unlabeled is None:
        return terms, terms["x"]
    threshold, unlabeled = method.confidence_threshold, views.unlabeled
    weak, partner = run(unlabeled.weak), run(unlabeled.partner)
    says = lambda logits: (probabilities(logits).argmax(1), probabilities(logits).max(1))  # noqa: E731
    own = (*says(weak[0]), unlabeled.valid.numpy())
    other = (*says(partner[0]), unlabeled.partner_valid.numpy())
    if method.name in PERTURBED:
        keep = tuple(part[len(views.labeled) :] for part in views.keep)
        perturbed = stub.perturbed(torch.from_numpy(weak[0]), keep)
        terms["fp"] = slow_consistency(perturbed.numpy(), *own, threshold)
    for number, strong in enumerate(unlabeled.strong, 1):
        box, logits_features = strong.box.numpy(), run(strong.images)
        mixed = [np.where(box, theirs, ours) for theirs, ours in zip(other, own, strict=True)]
        terms[f"s{number}"] = slow_consistency(logits_features[0], *mixed, threshold)
        if method.name == "rankmatch":
            grid = box[:, None, ::STRIDE, ::STRIDE]
            teacher = np.where(grid, partner[1], weak[1])
            valid = mixed[2][:, ::STRIDE, ::STRIDE]
            terms[f"rank{number}"] = slow_rank(teacher, logits_features[1], valid, method)
    return terms, slow_total(terms, method)


def slow_total(t, method):
    if method.name == "fixmatch":
        return (t["x"] + t["s1"]) / (2 if method.halve_total else 1)
    base = t["x"] + 0.25 * t["s1"] + 0.25 * t["s2"] + 0.5 * t["fp"]
    base = base / 2 if method.halve_total else base
    return base + 0.1 * (t["rank1"] + t["rank2"]) / 2 if method.name == "rankmatch" else base


STEPS = [
    *((name, {"halve_total": halve}) for name in ("supervised", "fixmatch", "unimatch") for halve in (True, False)),
    *(("rankmatch", settings) for settings in ({}, PAPER, {"top_k": 4, "rank_ignores_padding": True})),
    *(("rankmatch", PAPER | {"consistency": name}) for name in ("l2", "ce", "kl")),
    *(("unimatch", {"ohem": True, "ohem_min_kept_per_image": kept}) for kept in (0, 300, 850, 1000)),
    ("fixmatch", {"confidence_threshold": 0.0}),
]


@pytest.mark.parametrize(("method", "settings"), STEPS)
def test_step_equals_the_slow_reference(method, settings):
    config, stub = numerics(method, **settings), Stub()
    expected, total = slow_step(stub, views_of(method), config.method)
    losses = whole_step(stub, stub, views_of(method), config)
    assert {name: term.item() for name, term in losses.losses.items()} == pytest.approx(expected, rel=1e-9)
    assert losses.loss.item() == pytest.approx(total, rel=1e-9)
    assert all(term > 0 for term in expected.values())


def test_partner_is_predicted_in_eval_mode_without_gradient_and_all_else_is_trained():
    stub = Stub()
    whole_step(stub, stub, views_of("rankmatch"), numerics("rankmatch"))
    assert stub.calls == [(4, False, False), (8, True, True), (8, True, True)]
    assert stub.training


def test_teacher_gets_no_gradient():
    """Where the strong views show nothing, the unlabeled terms move no weight through the weak ones."""
    views, stub = views_of("rankmatch"), Stub()
    views.labels.fill_(255)
    views.keep = tuple(torch.zeros_like(part) for part in views.keep)
    for strong in views.unlabeled.strong:
        strong.images.zero_()
    whole_step(stub, stub, views, numerics("rankmatch")).loss.backward()
    assert stub.head.grad.abs().max() == stub.body.grad.abs().max() == 0


def test_gradient_taken_in_parts_is_that_of_the_total():
    """The weak pass is through with its gradient before the strong one begins; the figures are the same bit for bit."""
    config, whole, parted = numerics("rankmatch"), Stub(), Stub()
    losses = whole_step(whole, whole, views_of("rankmatch"), config)
    losses.loss.backward()
    calls, found = [], {}
    for part in passes(parted, parted, views_of("rankmatch"), config):
        calls.append(len(parted.calls))
        part.loss.backward()
        found |= part.losses
    assert calls == [2, 3]  # the partner's and the weak pass, then the strong one
    assert found == losses.losses
    total = METHODS["rankmatch"].total(found, config.method)
    assert total.item() == pytest.approx(losses.loss.item(), rel=1e-12) and not total.requires_grad
    assert torch.equal(parted.head.grad, whole.head.grad) and torch.equal(parted.body.grad, whole.body.grad)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gradient_reaches_every_weight_after_the_pass_without_gradient(precision):
    """Autocast keeps its copies of the weights: those of the partner's pass must not serve the training passes."""
    config = numerics("rankmatch", confidence_threshold=0.0)
    network = build_model(config.model, generator=torch.Generator().manual_seed(0))
    views = float32(make_views(num=2))
    channels = (network.low_channels, network.high_channels)
    views.keep = tuple(torch.ones(4, num, dtype=torch.bool) for num in channels)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        losses = whole_step(network, network, views, config)
    losses.loss.backward()
    assert not [name for name, weight in network.named_parameters() if weight.grad is None]
    assert sum(weight.grad.abs().max() > 0 for weight in network.parameters()) > 0.9 * len([*network.parameters()])


def float32(views):
    for part in (views, views.unlabeled, *views.unlabeled.strong):
        for name in (f.name for f in fields(part)):
            value = getattr(part, name)
            if isinstance(value, Tensor) and value.dtype == torch.float64:
                setattr(part, name, value.float())
    return views


class TwoWorkers:
    """Stands in for the process group: each worker's step is run twice, the second time with what both gave."""

    def __init__(self, monkeypatch):
        self.given, self.answers, self.rank = [[], []], [], 0
        monkeypatch.setattr(step, "world", lambda: World(rank=self.rank, size=2))
        monkeypatch.setattr(step, "sum_over_workers", lambda values: self._answer(values, torch.add))
        monkeypatch.setattr(step, "gather_over_workers", lambda values: self._answer(values, self._joined))

    @staticmethod
    def _joined(first, second):
        return torch.cat([first, second])

    def _answer(self, values, combine):
        turn = len(self.given[self.rank])
        self.given[self.rank].append((values, combine))
        return self.answers[turn] if self.answers else combine(values, values)

    def totals(self, step):
        while True:
            results = []
            for self.rank in (0, 1):
                self.given[self.rank] = []
                results.append(step(self.rank).loss.item())
            answers = [combine(a, b) for (a, combine), (b, _) in zip(*self.given, strict=True)]
            same = len(answers) == len(self.answers) and all(map(torch.equal, answers, self.answers))
            if same:
                return results
            self.answers = answers


def half_of(views, rank):
    rows = slice(2 * rank, 2 * rank + 2)
    cut = lambda part: {f.name: getattr(part, f.name)[rows] for f in fields(part)}  # noqa: E731
    whole = views.unlabeled
    strong = [StrongView(**cut(view)) for view in whole.strong]
    parts = {f.name: getattr(whole, f.name)[rows] for f in fields(whole) if f.name != "strong"}
    keep = tuple(torch.cat([part[:4][rows], part[4:][rows]]) for part in views.keep)
    return Views(views.labeled[rows], views.labels[rows], UnlabeledViews(**parts, strong=strong), keep)


OHEM = {"ohem": True, "ohem_min_kept_per_image": 300, "ohem_threshold": 0.1}


@pytest.mark.parametrize("settings", [{}, OHEM])
def test_mean_over_global_workers_is_the_loss_of_the_global_batch(settings, monkeypatch):
    config, stub = numerics("rankmatch", rank_ignores_padding=True, **settings), Stub()
    whole = whole_step(stub, stub, views_of("rankmatch"), config).loss.item()
    group = TwoWorkers(monkeypatch)
    totals = group.totals(lambda rank: whole_step(stub, stub, half_of(views_of("rankmatch"), rank), config))
    assert sum(totals) / 2 == pytest.approx(whole, rel=1e-12)
    assert group.answers


@pytest.mark.parametrize("settings", [{}, OHEM])
def test_worker_of_its_own_has_the_loss_of_its_own_batch(settings, monkeypatch):
    alone = {"normalise": "worker", "ohem_scope": "worker"}
    config, stub = numerics("rankmatch", rank_ignores_padding=True, **settings, **alone), Stub()
    step = lambda rank: whole_step(stub, stub, half_of(views_of("rankmatch"), rank), config)  # noqa: E731
    expected = [step(rank).loss.item() for rank in (0, 1)]
    whole = whole_step(stub, stub, views_of("rankmatch"), config).loss.item()
    group = TwoWorkers(monkeypatch)
    assert group.totals(step) == pytest.approx(expected, rel=1e-12)
    assert not group.answers
    assert sum(expected) / 2 != pytest.approx(whole, rel=1e-6)


def test_ohem_threshold_of_a_worker_is_not_that_of_all(monkeypatch):
    stub, config = Stub(), numerics("unimatch", **OHEM, ohem_scope="worker")

    def step(method, rank):
        return whole_step(stub, stub, half_of(views_of("unimatch"), rank), replace(config, method=method))

    own = TwoWorkers(monkeypatch).totals(partial(step, config.method))
    every = TwoWorkers(monkeypatch).totals(partial(step, replace(config.method, ohem_scope="global")))
    assert sum(own) != pytest.approx(sum(every), rel=1e-6)


@pytest.mark.parametrize(("size", "stride"), [(33, 16), (65, 16), (65, 8)])
def test_mixing_on_the_grid_equals_mixing_at_full_resolution(size, stride):
    draws, grid = torch.Generator().manual_seed(0), (size - 1) // stride + 1
    first, second = (torch.randn(2, 3, grid, grid, generator=draws, dtype=torch.float64) for _ in range(2))
    box = torch.rand(2, size, size, generator=draws) < 0.5
    resize = lambda maps, to: nn.functional.interpolate(maps, (to, to), mode="bilinear", align_corners=True)  # noqa: E731
    full = resize(torch.where(box[:, None], resize(second, size), resize(first, size)), grid)
    assert torch.equal(on_grid(box, grid), box[:, ::stride, ::stride])
    torch.testing.assert_close(torch.where(on_grid(box, grid)[:, None], second, first), full)


def test_grid_points_of_any_other_crop_take_the_nearest_pixel():
    box = torch.zeros(1, 40, 40, dtype=torch.bool)
    box[0, 19:21, 39] = True  # corners 0, 19.5 and 39: round half to even gives 20
    assert on_grid(box, 3)[0].tolist() == [[False] * 3, [False, False, True], [False] * 3]


@pytest.mark.parametrize(("epsilon", "most"), [(0.0, 8), (1e-10, 6)])
def test_exact_divergence_ranks_more_agents_than_the_enumerated_one(epsilon, most):
    MethodConfig(epsilon=epsilon, top_k=most)
    with pytest.raises(ValueError, match=f"method.top_k must be from 2 to {most}; got {most + 1}"):
        MethodConfig(epsilon=epsilon, top_k=most + 1)


@pytest.mark.parametrize("value", [1e-46, 1e39, float("inf")])
@pytest.mark.parametrize(
    ("section", "name"),
    [
        (MethodConfig, "epsilon"),
        (MethodConfig, "weight_rank"),
        (AugmentConfig, "max_scale"),
        (AugmentConfig, "max_sigma"),
        (OptimisationConfig, "weight_decay"),
        (OptimisationConfig, "head_lr_multiplier"),
    ],
)
def test_number_that_float32_does_not_hold_is_refused(section, name, value):
    with pytest.raises(
        ValueError,
        match=rf"\.{name} must be (at least|0 or a number that float32 holds)\b.*; got {re.escape(str(value))}",
    ):
        section(**{name: value})


@pytest.mark.parametrize("selection", ["orthogonal", "random", "top_n", "all"])
@pytest.mark.parametrize("consistency", ["rank", "l2", "ce", "kl"])
def test_every_selection_goes_with_every_consistency(selection, consistency):
    stub = Stub()
    config = numerics("rankmatch", **PAPER | {"selection": selection, "consistency": consistency, "top_k": 6})
    losses = whole_step(stub, stub, views_of("rankmatch"), config)
    losses.loss.backward()
    assert stub.body.grad.isfinite().all() and stub.body.grad.abs().max() > 0
    count = 2 * 4 * (25 if selection == "all" else AGENTS)
    assert losses.ratios["zero_agent_share"][1] == count
