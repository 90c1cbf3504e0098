"""What a training ends with; without torch, which takes seconds to import."""

from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class FitResult:
    """The state of a run when `fit` returns; mIoU and IoU are fractions, epochs count from 1."""

    finished: bool = False
    """False: stopped on request, with a checkpoint to resume from."""
    step: int = 0
    num_steps: int = 0
    epoch: int = 0
    num_epochs: int = 0
    best_miou: float = -1.0
    best_epoch: int = 0
    last_miou: float = -1.0
    best_class_iou: list[float | None] = field(default_factory=list)
    last_class_iou: list[float | None] = field(default_factory=list)
    num_present_classes: int = 0
    steps_left_out: list[int] = field(default_factory=list)
    """Steps without an update, because it had not been finite (`trainer.when_not_finite`)."""
