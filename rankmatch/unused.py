"""Which settings of a run have no effect, because its method, its data set or another setting ignores them."""

from collections.abc import Iterator
from dataclasses import fields

from rankmatch.config import NumericsConfig, SceneConfig
from rankmatch.methods import METHODS

_OF_STRONG_VIEWS = (
    "jitter_probability", "brightness", "contrast", "saturation", "hue", "gray_probability", "blur_probability",
    "min_sigma", "max_sigma", "cutmix_probability", "min_box_area", "max_box_area", "min_box_aspect", "cutmix_partner",
)  # fmt: skip
_OF_OHEM = ("ohem_threshold", "ohem_min_kept_per_image", "ohem_scope")
_OF_FILES = ("colours", "image_bits")


def unused_settings(numerics: NumericsConfig) -> frozenset[str]:
    """Return the fields that change no number of a run, as `section.field`; undeclared fields are not among them."""
    return frozenset(_unused(numerics))


def _unused(numerics: NumericsConfig) -> Iterator[str]:
    settings, method = numerics.method, METHODS[numerics.method.name]
    of_others = {name for other in METHODS.values() for name in other.settings} - method.settings
    yield from (f"method.{name}" for name in of_others)
    if not settings.ohem:
        yield from (f"method.{name}" for name in _OF_OHEM)
    if not method.sees_unlabeled:
        yield from (f"augment.{name}" for name in _OF_STRONG_VIEWS)
    if not counts_unlabeled(numerics):
        yield "trainer.unlabeled_batch_size"
    if numerics.dataset.name == "synthetic":
        yield from (f"dataset.{name}" for name in _OF_FILES)
    else:
        yield from (f"dataset.scenes.{part.name}" for part in fields(SceneConfig))
    if not numerics.evaluation.held_out:
        yield "evaluation.held_out_from"


def counts_unlabeled(numerics: NumericsConfig) -> bool:
    """Return whether a run reads the unlabeled list or depends on its length."""
    return METHODS[numerics.method.name].sees_unlabeled or numerics.method.supervised_steps == "equal"
