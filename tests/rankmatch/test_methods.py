"""The declarations of methods: what follows from their terms, and what a total refuses."""

import pytest
import torch

from rankmatch.config import MethodConfig
from rankmatch.methods import METHODS


def losses_of(*names):
    return {name: torch.tensor(2.0**place) for place, name in enumerate(names)}


@pytest.mark.parametrize(
    ("name", "num_views", "perturbs", "names"),
    [
        ("supervised", 0, False, {"x"}),
        ("fixmatch", 1, False, {"x", "s1"}),
        ("unimatch", 2, True, {"x", "s1", "s2", "fp"}),
        ("rankmatch", 2, True, {"x", "s1", "s2", "fp", "rank1", "rank2"}),
    ],
)
def test_views_and_losses_follow_from_the_terms(name, num_views, perturbs, names):
    method = METHODS[name]
    assert (method.num_strong_views, method.sees_unlabeled) == (num_views, num_views > 0)
    assert method.perturbs_features == perturbs
    assert {each for term in method.terms for each in term.names} == names


def test_total_is_that_of_the_paper_and_halved_that_of_the_authors_code():
    losses = losses_of("x", "s1", "s2", "fp", "rank1", "rank2")  # 1, 2, 4, 8, 16, 32
    weights = {"weight_s1": 0.25, "weight_s2": 0.5, "weight_fp": 2.0, "weight_rank": 0.125}
    unlabeled, rank = 1 + 0.5 + 2 + 16, 0.125 * (16 + 32) / 2
    total = METHODS["rankmatch"].total
    assert total(losses, MethodConfig(**weights, halve_total=False)).item() == unlabeled + rank
    assert total(losses, MethodConfig(**weights, halve_total=True)).item() == unlabeled / 2 + rank


def test_parts_of_a_total_add_up_to_it():
    settings, method = MethodConfig(), METHODS["rankmatch"]
    losses = losses_of("x", "fp", "s1", "rank1", "s2", "rank2")
    weak = {name: losses.pop(name) for name in ("x", "fp")}
    parts = method.part_of_total(weak, settings) + method.part_of_total(losses, settings)
    assert parts.item() == pytest.approx(method.total(weak | losses, settings).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("x", "s1"), "losses must be fp, s1, s2, x; got s1, x"),
        (("x", "s1", "s2", "fp", "rank1"), "losses must be fp, s1, s2, x; got fp, rank1, s1, s2, x"),
    ],
)
def test_missing_and_unknown_losses_are_refused(names, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        METHODS["unimatch"].total(losses_of(*names), MethodConfig(name="unimatch"))


def test_part_with_a_loss_of_one_view_of_two_is_refused():
    with pytest.raises(ValueError, match="losses must be rank1, rank2; got rank1"):
        METHODS["rankmatch"].part_of_total(losses_of("rank1"), MethodConfig())
