"""What makes an epoch vain is told once, with figures: after a third of a run that should learn something."""

import math
import warnings

import pytest
import torch

import rankmatch
from rankmatch.epoch_warnings import EpochWarnings, moved_by

EVEN = torch.tensor([500.0, 300.0, 200.0])


@pytest.fixture
def told(tiny_config):
    """Return what is told of an epoch of a run of nine."""

    def tell(row=None, counts=None, moved=math.nan, epoch=3, epochs=9, before=None, **settings):
        of_run = before or EpochWarnings(tiny_config(epochs=epochs, **settings).numerics, ["sky", "road"])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            of_run.tell(epoch, row or {}, counts or {}, moved)
        return [str(warning.message) for warning in caught]

    return tell


def test_class_that_no_labeled_crop_shows_is_named(told):
    assert told(counts={"labels": EVEN}) == []
    (said,) = told(counts={"labels": torch.tensor([5.0, 0.0, 0.0])})
    assert said.startswith("epoch 3: no labeled crop showed road, class 2 (") and "split 2" in said


def test_pseudo_labels_of_one_class_are_told_where_labels_are_of_several(told):
    collapsed = torch.tensor([9995.0, 5.0, 0.0])
    (said,) = told(counts={"labels": EVEN, "pseudo_labels": collapsed})
    assert "99.95% of the confident pixels have the pseudo-label sky, but only 50.0% of the labeled pixels" in said
    assert told(counts={"labels": torch.tensor([9960.0, 30.0, 10.0]), "pseudo_labels": collapsed}) == []
    assert told(counts={"labels": EVEN, "pseudo_labels": torch.tensor([980.0, 20.0, 0.0])}) == []


def test_epoch_without_a_confident_pixel_has_not_collapsed(told):
    assert told(counts={"labels": EVEN, "pseudo_labels": torch.zeros(3)}) == []


def test_agents_without_features_are_told_if_they_count(told):
    (said,) = told({"zero_agent_share": 0.995})
    assert "99.5% of the agents have features that are all zero" in said
    assert told({"zero_agent_share": 0.9}) == [] == told({"zero_agent_share": 1.0}, weight_rank=0.0)


def test_learning_rate_that_moves_nothing_is_told_from_the_first_epoch_to_half_of_the_run(told):
    (said,) = told(moved=3e-9, epoch=1)
    assert "changed by 3e-09 of their size in the whole epoch: trainer.learning_rate=0.01 does nothing" in said
    assert len(told(moved=3e-9, epoch=4)) == len(told(moved=3e-9, epoch=1, epochs=1)) == 1
    assert told(moved=3e-9, epoch=5) == told(moved=0.02, epoch=1) == []


def test_beginnings_and_trials_are_told_nothing_of_classes(told):
    counts = {"labels": torch.tensor([5.0, 0.0, 0.0])}
    assert told(counts=counts, epoch=2) == told(counts=counts, epoch=2, epochs=2) == []


def test_each_thing_is_told_once(told, tiny_config):
    of_run = EpochWarnings(tiny_config(epochs=9).numerics, [])
    counts = {"labels": torch.tensor([5.0, 0.0, 0.0])}
    assert [len(told(counts=counts, epoch=epoch, before=of_run)) for epoch in (3, 4)] == [1, 0]


def test_change_is_relative_to_the_size():
    assert moved_by(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])) == pytest.approx(0.1)


def test_training_with_too_small_a_rate_is_told_so_and_one_with_a_sound_one_is_not(tiny_config, tmp_path):
    config = tiny_config("supervised", epochs=1)
    rankmatch.fit(config, tmp_path / "sound", lambda *row: None)  # a warning would be an error
    config.numerics.trainer.learning_rate = 1e-9
    with pytest.warns(UserWarning, match="epoch 1: the weights of the last layer changed by .* does nothing"):
        rankmatch.fit(config, tmp_path / "small", lambda *row: None)


def test_classes_of_a_training_are_counted_and_kept_in_its_checkpoints(tiny_config, tmp_path):
    config = tiny_config(epochs=1, confidence_threshold=0.0)
    asked = iter(range(100))
    rankmatch.fit(config, tmp_path, lambda *row: None, should_stop=lambda: next(asked) >= 3)
    counts = rankmatch.checkpoint.load(rankmatch.checkpoint.newest(tmp_path))["class_counts"]
    points = 3 * 2 * 9 * 9  # of three steps of two crops of 33, every fourth row and column
    assert counts["labels"].sum() <= points and (counts["labels"] > 0).all()
    assert 0 < counts["pseudo_labels"].sum() <= points
