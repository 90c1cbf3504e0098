"""Which settings of a run have no effect, because its method, its data set or another setting ignores them."""

from collections.abc import Iterator
from dataclasses import fields

from rankmatch.config import AugmentConfig, MethodConfig, NumericsConfig, SceneConfig
from rankmatch.methods import METHODS, SETTINGS, Kind
from rankmatch.reach import unreached_rates

_OF_STRONG_VIEWS = {
    "jitter_probability": ("brightness", "contrast", "saturation", "hue"),
    "gray_probability": (),
    "blur_probability": ("min_sigma", "max_sigma"),
    "cutmix_probability": ("min_box_area", "max_box_area", "min_box_aspect", "cutmix_partner"),
}
"""How likely each operation is, and what is read where it may happen."""
_OF_OHEM = ("ohem_threshold", "ohem_min_kept_per_image", "ohem_scope")
_OF_ORDERS = ("top_k", "epsilon", "rank_divide_by_orders")
"""Fields of the rank term that only `consistency: rank` reads."""
_OF_FILES = ("colours", "image_bits")


def unused_settings(numerics: NumericsConfig) -> frozenset[str]:
    """Return the fields that change no weight and no score of a run, as `section.field`.

    They may change what is only shown: `loss_rank<n>` of a term whose weight is 0, or, of a rank term that does not
    compare orders, its diagnostics of K agents. Undeclared fields are not among them.
    """
    return frozenset(_unused(numerics))


def _unused(numerics: NumericsConfig) -> Iterator[str]:
    settings, method = numerics.method, METHODS[numerics.method.name]
    of_others = {name for other in METHODS.values() for name in other.settings} - method.settings
    yield from (f"method.{name}" for name in of_others)
    if method.has(Kind.RANK):
        yield from (f"method.{name}" for name in _unused_by_rank_term(settings))
    if not settings.ohem:
        yield from (f"method.{name}" for name in _OF_OHEM)
    elif settings.ohem_min_kept_per_image == 0:  # all pixels are kept
        yield from ("method.ohem_threshold", "method.ohem_scope")
    yield from (f"augment.{name}" for name in _unused_by_views(numerics.augment, method.num_strong_views))
    if not unreached_rates(numerics.feature_size):
        yield "backbone.unreached_taps"
    if not counts_unlabeled(numerics):
        yield "trainer.unlabeled_batch_size"
    if numerics.dataset.name == "synthetic":
        yield from (f"dataset.{name}" for name in _OF_FILES)
    else:
        yield from (f"dataset.scenes.{part.name}" for part in fields(SceneConfig))
    if not numerics.evaluation.held_out:
        yield "evaluation.held_out_from"


def _unused_by_rank_term(settings: MethodConfig) -> Iterator[str]:
    if settings.weight_rank == 0:
        yield from SETTINGS[Kind.RANK]
    if settings.consistency != "rank":
        yield from _OF_ORDERS
    if settings.selection == "all":
        yield "num_agents"


def _unused_by_views(augment: AugmentConfig, num_strong_views: int) -> Iterator[str]:
    for probability, others in _OF_STRONG_VIEWS.items():
        if num_strong_views == 0:
            yield probability
        if num_strong_views == 0 or getattr(augment, probability) == 0:
            yield from others


def counts_unlabeled(numerics: NumericsConfig) -> bool:
    """Return whether a run reads the unlabeled list or depends on its length."""
    return METHODS[numerics.method.name].sees_unlabeled or numerics.method.supervised_steps == "equal"
