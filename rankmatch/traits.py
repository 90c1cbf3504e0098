"""What each method is made of: its views of the unlabeled images, and the settings that are its own.

The one declaration that views, losses, costs and identities of runs follow.
"""

from dataclasses import dataclass

_UNLABELED = ("confidence_threshold", "halve_total")
_TWO_VIEWS = ("weight_s1", "weight_s2", "weight_fp")
_RANK = ("weight_rank", "num_agents", "top_k", "selection", "consistency", "epsilon", "rank_divide_by_orders",
         "rank_ignores_padding")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Traits:
    """A method."""

    num_strong_views: int
    """Of each unlabeled image, beside the weak one; 0: it sees labeled images alone."""
    is_perturbed: bool
    """Whether the weak view passes the network a second time with perturbed features."""
    settings: tuple[str, ...]
    """The fields of `MethodConfig` that it reads and another method does not; all methods read the rest."""

    @property
    def sees_unlabeled(self) -> bool:
        """Whether its losses have a part of the unlabeled images."""
        return self.num_strong_views > 0


TRAITS = {
    "supervised": Traits(0, is_perturbed=False, settings=("supervised_steps",)),
    "fixmatch": Traits(1, is_perturbed=False, settings=_UNLABELED),
    "unimatch": Traits(2, is_perturbed=True, settings=_UNLABELED + _TWO_VIEWS),
    "rankmatch": Traits(2, is_perturbed=True, settings=_UNLABELED + _TWO_VIEWS + _RANK),
}
