"""How a run is carried out and where its files are: settings that change none of its numbers.

Part of `rankmatch.config.TrainConfig`; never part of a run's identity.
"""

from dataclasses import dataclass, field

from rankmatch.checks import in_range, one_of


@dataclass(kw_only=True, slots=True)
class BackboneFiles:
    """Files of the backbone; their content, not their path, is part of the identity."""

    weights: str = ""
    """Path of an ImageNet file."""


@dataclass(kw_only=True, slots=True)
class TrainerExecution:
    """Workers, device and how often things are written."""

    num_workers: int = 1
    """Processes that train one cell together (the world size)."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU if there is one."""
    num_threads: int = 0
    """Threads of a worker's tensor operations; 0: as many as the scheduler grants."""
    num_data_workers: int = -1
    """Processes that load images for one worker; 0 loads in the worker itself, and -1 does so on a CPU: on a GPU, it
    is one less than the CPUs that the scheduler grants the worker."""
    data_wait_min: float = 30.0
    """Minutes to wait for one batch of the data workers before the run fails."""
    hang_min: float = field(default=15.0, metadata={"neutral": 15.0})
    """Minutes without a sign of life (a step, an image of an evaluation, a checkpoint) after which a training counts as
    hung and is ended, or ten times the median step where that is longer; before the first step four times as many; 0:
    never."""
    checkpoint_every_min: float = 10.0
    """Minutes between checkpoints within an epoch; one is written after every epoch anyway."""
    num_checkpoints: int = 2
    """How many of the newest checkpoints are kept during the training."""
    keep_checkpoints: int = 0
    """How many of them stay after the training; the weights of the best epoch always stay."""
    log_every_steps: int = 10
    pseudo_label_accuracy: bool = True
    """Read existing labels in the unlabeled list, to log how many pseudo-labels are right."""

    def __post_init__(self) -> None:
        in_range("trainer.num_workers", self.num_workers, 1)
        one_of("trainer.device", self.device, ("auto", "cpu", "cuda"))
        in_range("trainer.num_threads", self.num_threads, 0)
        in_range("trainer.num_data_workers", self.num_data_workers, -1)
        in_range("trainer.data_wait_min", self.data_wait_min, 0)
        in_range("trainer.hang_min", self.hang_min, 0)
        in_range("trainer.checkpoint_every_min", self.checkpoint_every_min, 0)
        in_range("trainer.num_checkpoints", self.num_checkpoints, 1)
        in_range("trainer.keep_checkpoints", self.keep_checkpoints, 0)
        if self.keep_checkpoints > self.num_checkpoints:
            raise ValueError(
                f"trainer.keep_checkpoints must be at most trainer.num_checkpoints={self.num_checkpoints}; "
                f"got {self.keep_checkpoints}"
            )
        in_range("trainer.log_every_steps", self.log_every_steps, 1)


@dataclass(kw_only=True, slots=True)
class TrackingExecution:
    """What is recorded beside the curves of a run."""

    num_samples: int = 4
    """Validation images that are drawn with label and prediction at the end (`samples.png`, `pictures`); 0: none."""
    system_every_s: float = 30.0
    """Seconds between measurements of what a training process uses of its machine; 0: none."""
    step_points: int = 1000
    """Maximum number of points of a curve over steps in MLflow; the run folder keeps all rows. 0: none."""
    model: str = "reference"
    """The best weights in MLflow: `reference` (their path and hash), `copy`, `none`."""
    max_model_mb: float = 1000.0
    """A larger file is referenced instead of copied."""

    def __post_init__(self) -> None:
        in_range("tracking.num_samples", self.num_samples, 0, 100)
        in_range("tracking.system_every_s", self.system_every_s, 0)
        in_range("tracking.step_points", self.step_points, 0)
        one_of("tracking.model", self.model, ("reference", "copy", "none"))
        in_range("tracking.max_model_mb", self.max_model_mb, 0)


@dataclass(kw_only=True, slots=True)
class ExecutionConfig:
    """Where the files are and how the run is carried out; never part of the identity."""

    data_root: str = ""
    """Folder to which the paths in the split lists are relative; unused by drawn scenes."""
    split_root: str = ""
    """Folder of the split lists; empty: `<data_root>/splits`, else `<data_root>/../splits/<dataset.name>`."""
    image_pattern: str = ""
    """Pattern for list lines with a name only: `images/{}.jpg` below `data_root`."""
    label_pattern: str = ""
    """The same for labels: `labels/{}.png`."""
    data_store: str = ""
    """Folder written by `rankmatch data pack`; images and labels are read from it instead of from their files."""
    stage_data_store: bool = False
    """Copy the store to the node's disk first: to `$SLURM_TMPDIR`, else `$TMPDIR`."""
    class_names: list[str] = field(default_factory=list)
    backbone: BackboneFiles = field(default_factory=BackboneFiles)
    trainer: TrainerExecution = field(default_factory=TrainerExecution)
    tracking: TrackingExecution = field(default_factory=TrackingExecution)

    def __post_init__(self) -> None:
        for name, pattern in (("image_pattern", self.image_pattern), ("label_pattern", self.label_pattern)):
            if pattern and pattern.count("{}") != 1:
                raise ValueError(f"{name} must hold one {{}}, the place of the name; got {pattern!r}")
        if self.label_pattern and not self.image_pattern:
            raise ValueError("image_pattern must be given with label_pattern; got none")
        if self.stage_data_store and not self.data_store:
            raise ValueError("data_store must be given with stage_data_store; got none")
