"""Batches as pure functions of their position: resumable at any step, equal for any number of workers."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from rankmatch.config import NumericsConfig, TrainConfig
from rankmatch.data.catalog import Dataset, Sample, labeled_pair, truth_of
from rankmatch.data.splits import Splits
from rankmatch.data.transforms import crop_view, eval_view
from rankmatch.data.workers import Batches, Sent, options, sent
from rankmatch.distributed import Purpose, generator
from rankmatch.execution import TrainerExecution
from rankmatch.methods import METHODS
from rankmatch.unused import counts_unlabeled

Crop = tuple[Tensor, Tensor, Tensor]
"""Image, label and valid, as `crop_view` returns them."""


_LISTS = {
    Purpose.LABELED_GEOMETRY: ("labeled", "labeled"),
    Purpose.GEOMETRY: ("unlabeled", "unlabeled"),
    Purpose.PARTNER_GEOMETRY: ("partners", "unlabeled"),
}
"""What the crops of each purpose are called, and the list that they are from."""


class _Key(NamedTuple):
    """One crop: which sample, and the position in the epoch's global order that keys its randomness."""

    purpose: Purpose
    epoch: int
    position: int
    place: int
    """The sample's index in its list."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One worker's share of a step, on the CPU; the unlabeled tensors are None in a supervised run."""

    labeled: UInt8[Tensor, "labeled 3 size size"]
    labels: UInt8[Tensor, "labeled size size"]
    weak: UInt8[Tensor, "unlabeled 3 size size"] | None
    valid: Bool[Tensor, "unlabeled size size"] | None
    truth: UInt8[Tensor, "unlabeled size size"] | None
    """The labels of the weak crops, for figures only; 255 where none is known."""
    partner: UInt8[Tensor, "unlabeled 3 size size"] | None
    partner_valid: Bool[Tensor, "unlabeled size size"] | None
    labeled_positions: list[int]
    """Global positions in the epoch, which key the randomness."""
    positions: list[int]

    def pin_memory(self) -> "Batch":
        """Copy the tensors to page-locked memory (torch's loader calls this)."""
        changes: dict[str, Any] = {}
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, Tensor):
                changes[part.name] = value.pin_memory()
        return replace(self, **changes)


class TrainLoader:
    """The batches of one worker's share of every step.

    Raises:
        ValueError: A batch is larger than the list that an epoch passes over.
    """

    def __init__(
        self,
        config: TrainConfig,
        splits: Splits,
        dataset: Dataset,
        *,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        trainer = config.numerics.trainer
        assert trainer.labeled_batch_size % world_size == 0 and trainer.unlabeled_batch_size % world_size == 0
        self.steps_per_epoch = _steps_per_epoch(config.numerics, splits)
        self._keys = _StepKeys(config.numerics, splits, self.steps_per_epoch, rank, world_size)
        self._loader = DataLoader(
            _Crops(config, splits, dataset),
            batch_sampler=self._keys,
            collate_fn=_collate_and_send,
            pin_memory=pin_memory,
            **options(config.execution.trainer.num_data_workers),
        )
        self._wait_min = config.execution.trainer.data_wait_min
        self._splits, self._numerics, self._world_size = splits, config.numerics, world_size

    def images(self, epoch: int, step: int, rank: int = 0) -> dict[str, dict[int, str]]:
        """Return the images that a worker sees in one step of an epoch, by kind and position in the epoch's order."""
        keys = _StepKeys(self._numerics, self._splits, self.steps_per_epoch, rank, self._world_size)
        keys.epoch, keys.first_step = epoch, step
        found: dict[str, dict[int, str]] = {kind: {} for kind, _ in _LISTS.values()}
        for key in next(iter(keys)):
            kind, samples = _LISTS[key.purpose]
            found[kind][key.position] = getattr(self._splits, samples)[key.place].image
        return found

    def epoch(self, epoch: int, first_step: int = 0, should_stop: Callable[[], bool] = lambda: False) -> Batches[Batch]:
        """Iterate over the batches of an epoch from a step on; ends an earlier iterator that is still open.

        `should_stop` is polled while waiting for a batch of the data workers; true ends the iteration early.
        """
        assert 0 <= first_step <= self.steps_per_epoch
        self._keys.epoch, self._keys.first_step = epoch, first_step
        return Batches(self._loader, self._wait_min, should_stop)


def val_loader(
    splits: Splits,
    dataset: Dataset,
    *,
    rank: int = 0,
    world_size: int = 1,
    trainer: TrainerExecution | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Batches[tuple[Float[Tensor, "1 3 height width"], UInt8[Tensor, "1 height width"]]]:
    """Load this worker's share of the validation list; over all workers each image comes exactly once.

    Without `trainer` the images are loaded in this process. `should_stop` is as in `TrainLoader.epoch`.
    """
    views = _EvalViews(splits.val[rank::world_size], dataset)
    settings = trainer or TrainerExecution(num_data_workers=0)
    loader = DataLoader(views, batch_size=1, collate_fn=_send_views, **options(settings.num_data_workers))
    return Batches(loader, settings.data_wait_min, should_stop)


def _steps_per_epoch(numerics: NumericsConfig, splits: Splits) -> int:
    kind = "unlabeled" if counts_unlabeled(numerics) else "labeled"
    num_samples, batch_size = len(getattr(splits, kind)), getattr(numerics.trainer, f"{kind}_batch_size")
    if num_samples < batch_size:
        raise ValueError(
            f"trainer.{kind}_batch_size must be at most {num_samples}, the {kind} images of split {numerics.split}; "
            f"got {batch_size}"
        )
    return int(num_samples // batch_size)


class _StepKeys:
    """The keys of every step of an epoch, for one worker."""

    def __init__(self, numerics: NumericsConfig, splits: Splits, num_steps: int, rank: int, world_size: int) -> None:
        self.epoch = 0
        self.first_step = 0
        self._numerics = numerics
        self._num_steps = num_steps
        self._num_labeled, self._num_unlabeled = len(splits.labeled), len(splits.unlabeled)
        self._rank, self._world_size = rank, world_size

    def __len__(self) -> int:
        return self._num_steps - self.first_step

    def __iter__(self) -> Iterator[list[_Key]]:
        return self._steps(self.epoch, self.first_step)  # bound now, though a generator starts later

    def _steps(self, epoch: int, first_step: int) -> Iterator[list[_Key]]:
        trainer = self._numerics.trainer
        labeled = self._labeled_order(epoch)
        unlabeled, partners = self._unlabeled_orders(epoch)
        for step in range(first_step, self._num_steps):
            positions = self._share(step, trainer.labeled_batch_size)
            keys = [_Key(Purpose.LABELED_GEOMETRY, epoch, position, labeled[position]) for position in positions]
            if unlabeled:
                positions = self._share(step, trainer.unlabeled_batch_size)
                keys += [_Key(Purpose.GEOMETRY, epoch, position, unlabeled[position]) for position in positions]
                keys += [_Key(Purpose.PARTNER_GEOMETRY, epoch, position, partners[position]) for position in positions]
            yield keys

    def _share(self, step: int, batch_size: int) -> range:
        num = batch_size // self._world_size
        first = step * batch_size + self._rank * num
        return range(first, first + num)

    def _order(self, num: int, epoch: int, number: int, purpose: Purpose) -> list[int]:
        draws = generator(self._numerics.seed, epoch, number, purpose)
        order: list[int] = torch.randperm(num, generator=draws).tolist()
        return order

    def _labeled_order(self, epoch: int) -> list[int]:
        num = self._num_labeled
        num_passes = -(-self._num_steps * self._numerics.trainer.labeled_batch_size // num)
        passes = [self._order(num, epoch, number, Purpose.LABELED_ORDER) for number in range(num_passes)]
        return [index for order in passes for index in order]

    def _unlabeled_orders(self, epoch: int) -> tuple[list[int], list[int]]:
        if not METHODS[self._numerics.method.name].sees_unlabeled:
            return [], []
        order = self._order(self._num_unlabeled, epoch, 0, Purpose.UNLABELED_ORDER)
        if self._numerics.augment.cutmix_partner == "same_image":
            return order, order
        return order, self._order(self._num_unlabeled, epoch, 0, Purpose.PARTNER_ORDER)


class _Crops(TorchDataset[tuple[_Key, Crop]]):
    """One training crop for a key."""

    def __init__(self, config: TrainConfig, splits: Splits, dataset: Dataset) -> None:
        self._seed, self._augment = config.numerics.seed, config.numerics.augment
        self._splits, self._dataset = splits, dataset
        self._reads_truth = config.execution.trainer.pseudo_label_accuracy
        self._has_warned = False

    def __getitems__(self, keys: list[_Key]) -> list[tuple[_Key, Crop]]:
        """Crop a whole batch, as torch's loader asks for it; an image and its partner crop are decoded once."""
        read = cache(self._unlabeled_image)
        return [(key, self._crop(key, read)) for key in keys]

    def _crop(self, key: _Key, read: Callable[[int], Image.Image]) -> Crop:
        draws = generator(self._seed, key.epoch, key.position, key.purpose)
        if key.purpose is Purpose.LABELED_GEOMETRY:
            image, label = labeled_pair(self._dataset, self._splits.labeled[key.place])
            return crop_view(image, label, self._augment, draws)
        image = read(key.place)
        truth = self._truth(self._splits.unlabeled[key.place], image) if key.purpose is Purpose.GEOMETRY else None
        return crop_view(image, truth, self._augment, draws)

    def _unlabeled_image(self, place: int) -> Image.Image:
        return self._dataset.image(self._splits.unlabeled[place])

    def _truth(self, sample: Sample, image: Image.Image) -> Image.Image | None:
        """Read a label that only figures need; a bad one does not stop the run."""
        if not self._reads_truth:
            return None
        try:
            return truth_of(self._dataset, sample, image)
        except ValueError as error:
            if not self._has_warned:
                self._has_warned = True
                warnings.warn(
                    f"{sample.origin}: {error}; pseudo_label_accuracy counts neither it nor others like it",
                    stacklevel=2,
                )
            return None


class _EvalViews(TorchDataset[tuple[Tensor, Tensor]]):
    def __init__(self, samples: list[Sample], dataset: Dataset) -> None:
        self._samples, self._dataset = samples, dataset

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return eval_view(*labeled_pair(self._dataset, self._samples[index]))


def _collate(items: list[tuple[_Key, Crop]]) -> Batch:
    def of(purpose: Purpose) -> list[tuple[_Key, Crop]]:
        return [item for item in items if item[0].purpose is purpose]

    def stack(chosen: list[tuple[_Key, Crop]], part: int) -> Tensor:
        return torch.stack([crop[part] for _, crop in chosen])

    labeled, weak, partner = of(Purpose.LABELED_GEOMETRY), of(Purpose.GEOMETRY), of(Purpose.PARTNER_GEOMETRY)
    return Batch(
        labeled=stack(labeled, 0),
        labels=stack(labeled, 1),
        weak=stack(weak, 0) if weak else None,
        valid=stack(weak, 2) if weak else None,
        truth=stack(weak, 1) if weak else None,
        partner=stack(partner, 0) if partner else None,
        partner_valid=stack(partner, 2) if partner else None,
        labeled_positions=[key.position for key, _ in labeled],
        positions=[key.position for key, _ in weak],
    )


def _collate_and_send(items: list[tuple[_Key, Crop]]) -> Batch | Sent:
    return sent(_collate(items))


def _send_views(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor] | Sent:
    images, labels = zip(*items, strict=True)
    return sent((torch.stack(images), torch.stack(labels)))
