"""The views of a step, made on the training device: strong views, CutMix boxes and all other draws of the step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from rankmatch.config import NumericsConfig
from rankmatch.data.loaders import Batch
from rankmatch.data.photometric import Window, distort, draw_view
from rankmatch.data.transforms import draw_box, normalise_
from rankmatch.distributed import Purpose, generator, to_device
from rankmatch.methods import METHODS
from rankmatch.models.deeplabv3plus import DROP_PROBABILITY

_VIEW = (Purpose.VIEW_1, Purpose.VIEW_2)
_PARTNER_VIEW = (Purpose.PARTNER_VIEW_1, Purpose.PARTNER_VIEW_2)
_BOX = (Purpose.BOX_1, Purpose.BOX_2)
_AGENT = (Purpose.AGENT_1, Purpose.AGENT_2)

Images = Float[Tensor, "batch 3 height width"]
Maps = Bool[Tensor, "batch height width"]
Keep = tuple[Bool[Tensor, "both low"], Bool[Tensor, "both high"]]


@dataclass(slots=True)
class StrongView:
    """One strong view of the unlabeled images."""

    images: Images
    """Normalised, the partner's strong view pasted inside `box`."""
    box: Maps
    agent_generators: list[torch.Generator]
    """One per image; it draws the first agent."""


@dataclass(slots=True)
class UnlabeledViews:
    """The views of the unlabeled images, for the semi-supervised methods."""

    weak: Images
    valid: Maps
    """False on the padding."""
    truth: UInt8[Tensor, "batch height width"]
    """True classes for figures, never for a loss; 255 where none is known."""
    partner: Images
    partner_valid: Maps
    strong: list[StrongView]


@dataclass(slots=True)
class Views:
    """Everything that one step shows the network; images are normalised."""

    labeled: Images
    labels: UInt8[Tensor, "batch height width"]
    unlabeled: UnlabeledViews | None = None
    keep: Keep | None = field(default=None)
    """Channels that the feature perturbation keeps, for labeled and then weak images."""


class ViewMaker:
    """Make the views of a step; all draws are functions of (seed, epoch, position, purpose)."""

    def __init__(self, numerics: NumericsConfig, channels: tuple[int, int], device: torch.device) -> None:
        """`channels` are the numbers of low- and high-level channels of the network."""
        self.numerics, self.channels, self.device = numerics, channels, device

    def make(self, batch: Batch, epoch: int) -> Views:
        """Turn a batch of uint8 crops into the views of its step."""
        method = METHODS[self.numerics.method.name]
        views = Views(labeled=self._normalised(batch.labeled), labels=self._move(batch.labels))
        if method.sees_unlabeled:
            views.unlabeled = self._unlabeled(batch, epoch, method.num_strong_views)
        if method.perturbs_features:
            views.keep = self._keep(batch, epoch)
        return views

    def _unlabeled(self, batch: Batch, epoch: int, num_views: int) -> UnlabeledViews:
        assert batch.weak is not None and batch.partner is not None
        assert batch.valid is not None and batch.partner_valid is not None and batch.truth is not None
        weak, partner = self._unit(batch.weak), self._unit(batch.partner)
        strong = [self._strong(weak, partner, batch.positions, epoch, number) for number in range(num_views)]
        return UnlabeledViews(
            weak=normalise_(weak),
            valid=self._move(batch.valid),
            truth=self._move(batch.truth),
            partner=normalise_(partner),
            partner_valid=self._move(batch.partner_valid),
            strong=strong,
        )

    def _strong(self, weak: Images, partner: Images, positions: list[int], epoch: int, number: int) -> StrongView:
        augment = self.numerics.augment
        images = weak.clone()
        self._distort(images, epoch, positions, _VIEW[number])
        drawn = [draw_box(augment.crop_size, augment, g) for g in self._generators(epoch, positions, _BOX[number])]
        windows = {place: window for place, window in enumerate(drawn) if window is not None}
        self._paste(images, partner, epoch, positions, number, windows)
        boxes = torch.zeros(len(positions), *images.shape[2:], dtype=torch.bool)
        for place, window in windows.items():
            boxes[place][window] = True
        return StrongView(
            images=normalise_(images),
            box=self._move(boxes),
            agent_generators=self._generators(epoch, positions, _AGENT[number]),
        )

    def _paste(
        self,
        images: Images,
        partner: Images,
        epoch: int,
        positions: list[int],
        number: int,
        windows: Mapping[int, Window],
    ) -> None:
        """Paste the partners' strong views into the windows; only the pixels inside a window are computed."""
        if not windows:
            return
        pasted = partner.index_select(0, self._move(torch.tensor(list(windows))))
        chosen = [positions[place] for place in windows]
        self._distort(pasted, epoch, chosen, _PARTNER_VIEW[number], list(windows.values()))
        for image, (place, window) in zip(pasted, windows.items(), strict=True):
            images[(place, ..., *window)] = image[(..., *window)]

    def _distort(
        self,
        images: Images,
        epoch: int,
        positions: Sequence[int],
        purpose: Purpose,
        windows: Sequence[Window] | None = None,
    ) -> None:
        draws = [draw_view(self.numerics.augment, g) for g in self._generators(epoch, positions, purpose)]
        distort(images, draws, windows)

    def _keep(self, batch: Batch, epoch: int) -> Keep:
        low, high = (
            self._kept_channels(epoch, batch, channels, purposes)
            for channels, purposes in zip(
                self.channels,
                ((Purpose.LABELED_KEEP_LOW, Purpose.KEEP_LOW), (Purpose.LABELED_KEEP_HIGH, Purpose.KEEP_HIGH)),
                strict=True,
            )
        )
        return low, high

    def _kept_channels(self, epoch: int, batch: Batch, channels: int, purposes: tuple[Purpose, Purpose]) -> Tensor:
        generators = [
            *self._generators(epoch, batch.labeled_positions, purposes[0]),
            *self._generators(epoch, batch.positions, purposes[1]),
        ]
        draws = torch.stack([torch.rand(channels, generator=draw) for draw in generators])
        return self._move(draws < 1 - DROP_PROBABILITY)

    def _generators(self, epoch: int, positions: Sequence[int], purpose: Purpose) -> list[torch.Generator]:
        return [generator(self.numerics.seed, epoch, position, purpose) for position in positions]

    def _normalised(self, images: UInt8[Tensor, "batch 3 height width"]) -> Images:
        return normalise_(self._unit(images))

    def _unit(self, images: UInt8[Tensor, "batch 3 height width"]) -> Images:
        return self._move(images).to(torch.get_default_dtype()).div_(255)

    def _move(self, tensor: Tensor) -> Tensor:
        return to_device(tensor, self.device)
