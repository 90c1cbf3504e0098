"""The configuration of a training run: `numerics` decides the numbers, `execution` where and how they are computed.

Everything in `NumericsConfig` is part of a run's identity; nothing in `ExecutionConfig` is. All checks are here, so a
bad value is refused wherever the configuration comes from. A field that is added later has
`metadata={"neutral": value}`, the value that reproduces the old behaviour; with that value the field is left out of the
identity.
"""

from dataclasses import dataclass, field, fields, is_dataclass

from rankmatch.checks import in_float32, in_range, one_of
from rankmatch.execution import ExecutionConfig
from rankmatch.methods import METHODS, Kind

BACKBONES = ("resnet50", "resnet101", "xception", "mobilenet_v2")
SELECTIONS = ("orthogonal", "random", "top_n", "all")
CONSISTENCIES = ("rank", "l2", "ce", "kl")
HELD_OUT_FROM = ("unlabeled", "labeled")
UNREACHED_TAPS = ("random", "zero")
IGNORE_INDEX = 255


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """The network: DeepLabV3+ on a backbone (ALGORITHM section 1 of the specification; paper, section 4.1)."""

    backbone: str = "resnet50"
    num_classes: int = 21
    output_stride: int = 16
    width: float = 1.0
    """Factor on the channels of MobileNetV2 and its head; the other backbones have one width only."""

    def __post_init__(self) -> None:
        one_of("backbone.name", self.backbone, BACKBONES)
        in_range("dataset.num_classes", self.num_classes, 2, IGNORE_INDEX)
        one_of("backbone.output_stride", self.output_stride, (8, 16))
        in_range("backbone.width", self.width, 0.1, 4)
        if self.backbone != "mobilenet_v2" and self.width != 1.0:
            raise ValueError(f"backbone.width must be 1.0 for {self.backbone}; got {self.width!r}")


@dataclass(kw_only=True, slots=True)
class SceneConfig:
    """The drawn scenes of the embedded data set; other data sets ignore it."""

    num_train: int = 200
    num_val: int = 48
    size: int = 160
    """Height and width in pixels."""
    seed: int = 0

    def __post_init__(self) -> None:
        in_range("dataset.scenes.num_train", self.num_train, 2)
        in_range("dataset.scenes.num_val", self.num_val, 1)
        in_range("dataset.scenes.size", self.size, 32, 4096)
        in_range("dataset.scenes.seed", self.seed, 0)

    def num_labeled(self, split: str) -> int:
        """Return how many labeled scenes a split has.

        Raises:
            ValueError: The split is not a number, or there are fewer scenes.
        """
        if split not in map(str, range(1, self.num_train + 1)):
            raise ValueError(
                f"split must be how many of the drawn scenes are labeled, 1 to {self.num_train}; got {split!r}"
            )
        return int(split)


@dataclass(kw_only=True, slots=True)
class DatasetConfig:
    """What the labels of a data set mean; the paths of its files are in `ExecutionConfig`."""

    name: str = "synthetic"
    """`synthetic` (drawn scenes), or any name: a folder of images with split lists."""
    num_classes: int = 6
    label_map: dict[int, int] = field(default_factory=dict)
    """Label values that are read as other ones; 255 means ignored: `{11: 255}`."""
    colours: list[list[int]] = field(default_factory=list, metadata={"neutral": []})
    """[red, green, blue] of the label values 0, 1, ... if labels are colour images; `label_map` can join two into one
    class."""
    image_bits: int = field(default=0, metadata={"neutral": 0})
    """How many bits of 16-bit images carry values (12 for many cameras and scanners); the upper 8 of them are kept.
    0: all 16, and data whose values need far fewer are refused."""
    scenes: SceneConfig = field(default_factory=SceneConfig)

    def __post_init__(self) -> None:
        in_range("dataset.num_classes", self.num_classes, 2, IGNORE_INDEX)
        if self.image_bits:
            in_range("dataset.image_bits (0: all 16)", self.image_bits, 8, 16)
        for value, target in self.label_map.items():
            in_range("dataset.label_map (a value)", value, 0, 255)
            if target != IGNORE_INDEX:
                in_range(f"dataset.label_map[{value}]", target, 0, self.num_classes - 1)
        for place, colour in enumerate(self.colours):
            if len(colour) != 3 or not all(0 <= part <= 255 for part in colour) or colour in self.colours[:place]:
                raise ValueError(
                    f"dataset.colours[{place}] must be three numbers from 0 to 255 that are not there yet; got {colour}"
                )


@dataclass(kw_only=True, slots=True)
class BackboneConfig:
    """The backbone and its initial weights."""

    name: str = "resnet50"
    output_stride: int = 16
    width: float = 1.0
    pretrained: bool = True
    """Start from the file `backbone.weights` (its hash is `weights_sha256`); false: from random weights."""
    weights_sha256: str = ""
    """Computed from the file when the configuration is built; never set by hand."""
    weights_nest: str = field(default="", metadata={"neutral": ""})
    """Which of several state dicts in the file to use, `model_ema` for example; empty: the only one."""

    unreached_taps: str = field(default="random", metadata={"neutral": "random"})
    """Initial and lasting values of those taps of the ASPP that the feature grid of a crop does not reach
    (`rankmatch.reach`): `random`, as the authors' code has it, or `zero`."""

    def __post_init__(self) -> None:
        one_of("backbone.unreached_taps", self.unreached_taps, UNREACHED_TAPS)
        if not self.pretrained and self.weights_nest:
            raise ValueError("backbone.weights_nest must not be given when backbone.pretrained is false")
        if not self.pretrained and self.weights_sha256:
            raise ValueError("backbone.weights must not be given when backbone.pretrained is false")


@dataclass(kw_only=True, slots=True)
class MethodConfig:
    """The losses of a method and their weights (paper, section 3; `authors_code` values by default)."""

    name: str = "rankmatch"
    confidence_threshold: float = 0.95
    weight_s1: float = 0.25
    weight_s2: float = 0.25
    weight_fp: float = 0.5
    weight_rank: float = 0.1
    halve_total: bool = True
    """Divide labeled + unlabeled terms by two, as the authors' code does but the paper does not."""
    num_agents: int = 64
    top_k: int = 4
    selection: str = "orthogonal"
    consistency: str = "rank"
    epsilon: float = 1e-10
    """Added inside the logarithm and to the denominators of the authors' divergence; 0 gives the exact one. Below 1e-19
    gradients can overflow."""
    rank_divide_by_orders: bool = True
    """Also divide the divergence by K!, the number of orders, as the authors' reduction does."""
    rank_ignores_padding: bool = False
    """Exclude padded positions from the rank loss and from the agents; the authors include them."""
    supervised_steps: str = "authors"
    """`authors`: an epoch of `supervised` is one pass over the labeled list; `equal`: as many steps as the others."""
    ohem: bool = False
    ohem_threshold: float = 0.7
    ohem_min_kept_per_image: int = 100_000
    ohem_scope: str = "global"
    """`global`: hard pixels are chosen over all workers; `worker`: each worker chooses its own, as the authors do."""
    normalise: str = "global"
    """`global`: divide sums over all workers by counts over all workers; `worker`: each worker by its own count."""
    num_normalisers: int = field(default=1, metadata={"neutral": 1})
    """How many workers divide or choose separately: `trainer.num_workers` if a setting is `worker`, else 1."""

    def __post_init__(self) -> None:
        one_of("method.name", self.name, tuple(METHODS))
        one_of("method.selection", self.selection, SELECTIONS)
        one_of("method.consistency", self.consistency, CONSISTENCIES)
        one_of("method.supervised_steps", self.supervised_steps, ("equal", "authors"))
        one_of("method.ohem_scope", self.ohem_scope, ("global", "worker"))
        one_of("method.normalise", self.normalise, ("global", "worker"))
        in_range("method.confidence_threshold", self.confidence_threshold, 0, 1)
        for name in ("weight_s1", "weight_s2", "weight_fp", "weight_rank", "epsilon"):
            in_range(f"method.{name}", getattr(self, name), 0)
            in_float32(f"method.{name}", getattr(self, name))
        in_range("method.ohem_min_kept_per_image", self.ohem_min_kept_per_image, 0)
        in_range("method.ohem_threshold", self.ohem_threshold, 0, 1)
        in_range("method.top_k", self.top_k, 2, 6 if self.epsilon else 8)
        in_range("method.num_agents", self.num_agents, self.top_k)


@dataclass(kw_only=True, slots=True)
class AugmentConfig:
    """Weak and strong views (paper, section 4.1; UniMatch's recipe)."""

    crop_size: int = 321
    min_scale: float = 0.5
    max_scale: float = 2.0
    flip_probability: float = 0.5
    jitter_probability: float = 0.8
    brightness: float = 0.5
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.25
    gray_probability: float = 0.2
    blur_probability: float = 0.5
    min_sigma: float = 0.1
    max_sigma: float = 2.0
    cutmix_probability: float = 0.5
    min_box_area: float = 0.02
    max_box_area: float = 0.4
    min_box_aspect: float = 0.3
    cutmix_partner: str = "same_image"
    """`same_image`: the partner is another crop of the same image, as in the authors' code; or `other_image`."""

    def __post_init__(self) -> None:
        in_range("augment.crop_size", self.crop_size, 33, 4096)
        in_range("augment.min_scale", self.min_scale, 0.05)
        in_range("augment.max_scale", self.max_scale, self.min_scale)
        for name in ("flip", "jitter", "gray", "blur", "cutmix"):
            in_range(f"augment.{name}_probability", getattr(self, f"{name}_probability"), 0, 1)
        for name in ("brightness", "contrast", "saturation"):
            in_range(f"augment.{name}", getattr(self, name), 0, 1)
        in_range("augment.hue", self.hue, 0, 0.5)
        in_range("augment.min_sigma", self.min_sigma, 0.01)
        in_range("augment.max_sigma", self.max_sigma, self.min_sigma)
        in_float32("augment.max_scale", self.max_scale)
        in_float32("augment.max_sigma", self.max_sigma)
        in_range("augment.min_box_area", self.min_box_area, 0.0001, 1)
        in_range("augment.max_box_area", self.max_box_area, self.min_box_area, 1)
        in_range("augment.min_box_aspect", self.min_box_aspect, 0.01, 1)
        one_of("augment.cutmix_partner", self.cutmix_partner, ("same_image", "other_image"))


def scaled_rate(learning_rate: float, labeled_batch_size: float, reference_batch_size: float) -> float:
    """Return the initial learning rate of the backbone that is trained with."""
    return learning_rate * labeled_batch_size / reference_batch_size


@dataclass(kw_only=True, slots=True)
class OptimisationConfig:
    """How long and how fast: SGD with momentum under a poly schedule."""

    epochs: int = 80
    labeled_batch_size: int = 8
    """Labeled images per step, over all workers."""
    unlabeled_batch_size: int = 8
    """Unlabeled images per step, over all workers."""
    learning_rate: float = 0.001
    """Of the backbone, for `reference_batch_size` labeled images per step; scaled linearly to `labeled_batch_size`."""
    reference_batch_size: int = 8
    head_lr_multiplier: float = 10.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    poly_power: float = 0.9
    learning_rate_lag: int = field(default=0, metadata={"neutral": 0})
    """How many steps the schedule lags. 1: each step uses the rate of the previous one, as in the authors' code, which
    sets the rate after the optimizer's step from that step's number (so its first two steps use the same rate)."""
    precision: str = "float32"
    """`bfloat16`: autocast; the rank loss stays in float32."""
    when_not_finite: str = field(default="stop", metadata={"neutral": "stop"})
    """What follows a step whose loss or weights are not finite. `stop`: the run fails. `leave_out`: once, it returns to
    its last checkpoint and makes no update at this step."""
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "labeled_batch_size", "unlabeled_batch_size", "reference_batch_size"):
            in_range(f"trainer.{name}", getattr(self, name), 1)
        in_range("trainer.learning_rate", self.learning_rate, 1e-12, 100)
        in_range("trainer.momentum", self.momentum, 0, 1)
        for name in ("head_lr_multiplier", "weight_decay", "poly_power"):
            in_range(f"trainer.{name}", getattr(self, name), 0)
            in_float32(f"trainer.{name}", getattr(self, name))
        in_range("trainer.learning_rate_lag", self.learning_rate_lag, 0)
        one_of("trainer.precision", self.precision, ("float32", "bfloat16"))
        one_of("trainer.when_not_finite", self.when_not_finite, ("stop", "leave_out"))

    @property
    def scaled_rate(self) -> float:
        """The initial learning rate of the backbone, after scaling to the batch."""
        return scaled_rate(self.learning_rate, self.labeled_batch_size, self.reference_batch_size)


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """How a network is evaluated, and on which images."""

    mode: str = "whole"
    """`whole` image, or `sliding` windows of the crop size with step int(crop * 2/3)."""
    absent_classes: str = "skip"
    """Classes that occur in no validation label: left out of the mean, or counted as 0 (`zero`, as the authors do)."""
    held_out: float = field(default=0.0, metadata={"neutral": 0.0})
    """Share of a training list that is evaluated on instead of the validation list, and not trained on; 0: none."""
    held_out_from: str = field(default="unlabeled", metadata={"neutral": "unlabeled"})
    """The list to draw it from: `unlabeled` (those of its images that have a label) or `labeled`."""

    def __post_init__(self) -> None:
        one_of("evaluation.mode", self.mode, ("whole", "sliding"))
        one_of("evaluation.absent_classes", self.absent_classes, ("skip", "zero"))
        one_of("evaluation.held_out_from", self.held_out_from, HELD_OUT_FROM)
        if not 0 <= self.held_out < 1:
            raise ValueError(f"evaluation.held_out must be at least 0 and below 1; got {self.held_out!r}")

    def num_held_out(self, num_images: int) -> int:
        """Return how many of `num_images` are held out: at least one if `held_out` is above 0."""
        return max(1, round(self.held_out * num_images)) if self.held_out else 0


@dataclass(kw_only=True, slots=True)
class NumericsConfig:
    """Everything that decides the trained numbers."""

    seed: int = 0
    split: str = "4"
    """Which images are labeled; always text, so that 1_16 stays 1_16."""
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    trainer: OptimisationConfig = field(default_factory=OptimisationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        in_range("seed", self.seed, 0, 2**31 - 1)
        if not self.split or "/" in self.split or self.split.startswith("."):
            raise ValueError(f"split must be the name of a folder of split lists; got {self.split!r}")
        _ = self.model  # the network's own checks
        self._check_agents()
        self._check_batches()

    @property
    def model(self) -> ModelConfig:
        """The network that these numerics train."""
        return ModelConfig(
            backbone=self.backbone.name,
            num_classes=self.dataset.num_classes,
            output_stride=self.backbone.output_stride,
            width=self.backbone.width,
        )

    @property
    def feature_size(self) -> int:
        """Height and width of the feature grid of a crop."""
        return -(-self.augment.crop_size // self.backbone.output_stride)

    def _check_agents(self) -> None:
        num_pixels = self.feature_size**2
        if METHODS[self.method.name].has(Kind.RANK) and self.method.num_agents > num_pixels:
            raise ValueError(
                f"method.num_agents must be at most {num_pixels}, the pixels of the {self.feature_size}x"
                f"{self.feature_size} feature grid of crop {self.augment.crop_size}; got {self.method.num_agents}"
            )

    def _check_batches(self) -> None:
        """Refuse steps that give a batch norm a single value: the pooled branch of the head has one per image."""
        name, sizes = self.method.name, self.trainer
        num_views = METHODS[name].num_strong_views  # which pass the network together; the weak one with the labeled
        if num_views == 0:
            in_range(f"trainer.labeled_batch_size (method {name})", sizes.labeled_batch_size, 2)
        if num_views == 1:
            in_range(f"trainer.unlabeled_batch_size (method {name})", sizes.unlabeled_batch_size, 2)


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """One training run."""

    numerics: NumericsConfig = field(default_factory=NumericsConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)

    def __post_init__(self) -> None:
        numerics, workers = self.numerics, self.execution.trainer.num_workers
        for name in ("labeled_batch_size", "unlabeled_batch_size"):
            size = getattr(numerics.trainer, name)
            if size % workers:
                raise ValueError(f"trainer.{name} must be a multiple of trainer.num_workers={workers}; got {size}")
        own = "worker" in (numerics.method.normalise, numerics.method.ohem_scope)
        if numerics.method.num_normalisers != (workers if own else 1):
            raise ValueError(
                f"method.num_normalisers must be {workers if own else 1} with trainer.num_workers={workers}, "
                f"method.normalise={numerics.method.normalise} and method.ohem_scope={numerics.method.ohem_scope}; "
                f"got {numerics.method.num_normalisers}"
            )
        if self.execution.data_store and numerics.dataset.name == "synthetic":
            raise ValueError(f"data_store must be empty for drawn scenes; got {self.execution.data_store!r}")
        names = self.execution.class_names
        if names and len(names) != numerics.dataset.num_classes:
            raise ValueError(
                f"class_names must hold dataset.num_classes={numerics.dataset.num_classes} names; got {len(names)}"
            )
        for place, name in enumerate(names):
            if not name.strip() or name in names[:place]:
                raise ValueError(f"class_names must be names that differ, since curves bear them; got {name!r} again")


def short_names() -> dict[str, str]:
    """Map the names a user types (`trainer.epochs`) to their full ones (`numerics.trainer.epochs`)."""
    leaves = [name for part in fields(TrainConfig) for name in _leaves(part.name, part.default_factory)]
    return {name.partition(".")[2]: name for name in leaves}


def _leaves(prefix: str, section: object) -> list[str]:
    if not is_dataclass(section):
        return [prefix]
    return [name for part in fields(section) for name in _leaves(f"{prefix}.{part.name}", part.default_factory)]
