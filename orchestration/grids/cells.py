"""Cells: the settings of one grid point composed by Hydra into a checked configuration, with signature and names."""

import re
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from orchestration.grids import own_dataset
from orchestration.grids.identity import identity, signature
from orchestration.grids.own_dataset import OwnDataset, is_own
from orchestration.grids.places import Places
from orchestration.grids.values import GROUPS, Node, as_shown, check_key, flatten, near_matches, read_value
from orchestration.machine import yaml_text
from orchestration.runs.folders import cell_name
from rankmatch.config import NumericsConfig, TrainConfig, scaled_rate, short_names
from rankmatch.hashing import sha256_of

MAX_SLUG_LENGTH = 80
NAMES = ("dataset", "backbone", "method", "split", "seed")
"""The columns that identify a run across all grids; each is also a key of the grammar."""
SETTINGS = {
    "crop_size": ("augment", "crop_size"),
    "batch_size": ("trainer", "labeled_batch_size"),
    "unlabeled_batch_size": ("trainer", "unlabeled_batch_size"),
}
"""Numbers for the methods section of a paper, by their columns in results; the learning rate is one more."""
_SETTING_LINES = {name: f"\n    {field}: " for name, (_, field) in SETTINGS.items()}
_RATE_LINES = [f"\n    {field}: " for field in ("learning_rate", "labeled_batch_size", "reference_batch_size")]
_NAME_LINES = [f"\n  {key}: " if key in ("split", "seed") else f"\n  {key}:\n    name: " for key in NAMES]
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the C version is ten times as fast
CLASS_NAMES = "execution.class_names"
WEIGHTS, WEIGHTS_SHA256 = "execution.backbone.weights", "numerics.backbone.weights_sha256"


@dataclass(frozen=True, slots=True)
class Cell:
    """A point of a grid, seed included: one model to train."""

    config: TrainConfig
    axes: dict[str, str]
    """The varied keys in the grid's order, with their values as text: `{"method": "rankmatch", "split": "1_16"}`."""
    also: tuple[dict[str, str], ...] = ()
    """Other points of the grid that it stands for; they differ from it only in unused settings."""
    signature: str = field(init=False)
    slug: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "signature", signature(self.config.numerics))
        object.__setattr__(self, "slug", _slug(self.config.numerics, self.axes))

    @property
    def identity(self) -> str:
        """The key shared by all runs that must get the same numbers."""
        return identity(self.config.numerics)

    @property
    def folder_name(self) -> str:
        """The name for a new run folder of this cell."""
        return cell_name(self.signature, self.slug)


def compose(settings: Mapping[str, Any], places: Places | None = None) -> TrainConfig:
    """Compose a configuration from group choices and fields (short names, values of the fields' types).

    `{backbone}` in the path of the weights stands for the backbone's name, so that one grid can have several. What
    `places` name takes precedence over the settings.

    Raises:
        ValueError: If a key, a choice or a value is not allowed, or the weights' file does not exist.
    """
    for key in settings:
        check_key(key)
    choices = tuple((group, _choice(group, settings[group])) for group in GROUPS if group in settings)
    names = short_names_once()
    chosen = {names[key]: value for key, value in settings.items() if key not in GROUPS}
    flat = _composed(experiments_folder() / "conf", choices) | chosen
    flat |= places.fields_of(flat) if places else {}
    flat[WEIGHTS] = flat[WEIGHTS].replace("{backbone}", flat["numerics.backbone.name"])
    said_by = places.source if places and flat[WEIGHTS] in places.weights.values() else ""
    flat[WEIGHTS_SHA256] = _sha256_of_weights(flat[WEIGHTS], said_by) if flat[WEIGHTS] else ""
    return _config(flat)


def compose_untrained(dataset: str, settings: Mapping[str, Any]) -> TrainConfig:
    """Compose a configuration that only describes a data set or a model, not its training.

    Unless the settings name a method, it is one that reads all three lists and sets no condition on the crop.

    Raises:
        ValueError: As `compose` does.
    """
    return compose({"dataset": dataset, "method": "fixmatch", "backbone.pretrained": False, **settings})


def changed(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    """Return a copy of a composed configuration with other values of some fields (short names).

    Raises:
        ValueError: If a key or a value is not allowed. Choices of groups are not, because they need a new composition.
    """
    names = short_names_once()
    for key in settings:
        check_key(key)
        if key in GROUPS:
            raise ValueError(f"{key} cannot be chosen for a model whose run folder says it; single fields can be set")
    return _config(flatten(asdict(config)) | {names[key]: value for key, value in settings.items()})


def at_places(config: TrainConfig, places: Places) -> TrainConfig:
    """Return a composed configuration with the places of its data; those of weights only if these are the same."""
    flat = flatten(asdict(config))
    given = places.fields_of(flat)
    path = given.get(WEIGHTS, "")
    if path and not (Path(path).is_file() and _sha256_of_weights(path) == flat[WEIGHTS_SHA256]):
        del given[WEIGHTS]
    return _config(flat | given) if given else config


short_names_once = cache(short_names)


@cache
def experiments_folder() -> Path:
    """Return the folder of configurations, grids and published numbers: in the checkout, else the installed one."""
    package = Path(__file__).resolve().parents[1]
    for found in (package.parent / "experiments", package / "experiments"):
        if (found / "conf").is_dir():
            return found
    raise ValueError(f"the folder experiments must stand beside {package} or in it; it is in neither place")


def choices_of(group: str) -> list[str]:
    """Return the choices of a group."""
    return sorted(path.stem for path in (experiments_folder() / "conf" / group).glob("*.yaml"))


def check_choice(group: str, choice: object) -> None:
    """Refuse an unknown choice of a group; a data set can also be the user's own YAML file.

    Raises:
        ValueError: The choice is unknown; the message lists the choices.
    """
    if not is_own(group, choice) and choice not in choices_of(group):
        raise ValueError(f"{group} must be one of {', '.join(choices_of(group))}; got {choice!r}")


def _choice(group: str, choice: Any) -> Any:  # noqa: ANN401 (a name, or what it stands for)
    return own_dataset.read(choice) if is_own(group, choice) and isinstance(choice, str) else choice


@lru_cache(maxsize=256)
def _composed(conf: Path, choices: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    from hydra import compose as hydra_compose  # Hydra takes a third of a second to import
    from hydra import initialize
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for group, choice in choices:
        check_choice(group, choice)
    store, root = ConfigStore.instance(), yaml_text.read(conf / "config.yaml")
    store.store(name="schema", node=TrainConfig)
    store.store(name="config", node=root)
    for group, name, values in _values_of(conf, root["defaults"], dict(choices)):
        tree = OmegaConf.create()
        for full, value in values.items():
            OmegaConf.update(tree, full, value, force_add=True)
        store.store(group=group, name=name, node=tree, package="_global_")
    try:
        with initialize(config_path=None, version_base="1.3"):  # all files are in the store
            composed = hydra_compose("config", [f"{group}={_hydras_name(choice)}" for group, choice in choices])
            return flatten(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"{conf}: {' '.join(str(error).split())}") from error


def _values_of(conf: Path, defaults: list[Any], choices: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Return the fields set by the choices, and the default choices of the other groups, with group and name."""
    chosen = {group: choice for entry in defaults if isinstance(entry, dict) for group, choice in entry.items()}
    chosen |= choices
    for key, choice in chosen.items():
        group = key.removeprefix("optional ")
        if isinstance(choice, OwnDataset):
            yield group, choice.hydras_name, _values_of_own(choice)
            continue
        name = re.sub(r"\$\{(\w+)\}", lambda found: str(chosen[found[1]]), choice)
        path = conf / group / f"{name}.yaml"
        if path.is_file():
            yield group, name, _read_choice(path)


def _hydras_name(choice: Any) -> str:  # noqa: ANN401 (a name, or what it stands for)
    return choice.hydras_name if isinstance(choice, OwnDataset) else str(choice)


def _values_of_own(own: OwnDataset) -> dict[str, Any]:
    try:
        given = _given_fields(own.fields)
        name = given.get("numerics.dataset.name")
        if name in (None, "", "synthetic"):
            raise ValueError(f"numerics.dataset.name must be a name of the data set's own; got {name!r}")
        return {full: _read_checked(_short_of_full()[full], node) for full, node in given.items()}
    except ValueError as error:
        raise ValueError(f"{own.place or own.name}: {error}") from error


def _read_choice(path: Path) -> dict[str, Any]:
    """Read a choice's file into values by full field names; its paths are relative to it."""
    try:
        given = _given_fields(yaml_text.read(path))
        folder = path.resolve().parent
        return {full: _read_checked(_short_of_full()[full], node, folder) for full, node in given.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_checked(short: str, node: Node, folder: Path | None = None) -> Any:  # noqa: ANN401
    check_key(short)
    return read_value(short, node, folder)


def _config(flat: Mapping[str, Any]) -> TrainConfig:
    config: TrainConfig = _build(flat, TrainConfig, "")
    return config


def _build(flat: Mapping[str, Any], section: Any, prefix: str) -> Any:  # noqa: ANN401
    values = {}
    for name, full, inner in _named_parts(section, prefix):
        if inner:
            values[name] = _build(flat, inner, f"{full}.")
        else:
            value = flat[full]
            values[name] = copy(value) if isinstance(value, list | dict) else value  # no two cells share a list
    return section(**values)


@cache
def _named_parts(section: Any, prefix: str) -> list[tuple[str, str, Any]]:  # noqa: ANN401
    return [(name, prefix + name, inner) for name, inner in _parts(section)]


@cache
def _parts(section: Any) -> list[tuple[str, Any]]:  # noqa: ANN401
    factories = [(part.name, part.default_factory) for part in fields(section)]
    return [(name, factory if is_dataclass(factory) else None) for name, factory in factories]


@cache
def _sha256_of_weights(path: str, said_by: str = "") -> str:
    if not Path(path).is_file():
        which = f", which {said_by} names" if said_by else ""
        raise ValueError(f"backbone.weights must be a file; there is none at {path!r}{which}")
    return sha256_of(Path(path))


def _slug(numerics: NumericsConfig, axes: Mapping[str, str]) -> str:
    named = axes or {"method": numerics.method.name, "split": numerics.split, "seed": str(numerics.seed)}
    slug = "-".join(_slug_part(key, text) for key, text in named.items())
    return re.sub(r"[^A-Za-z0-9._-]+", "_", slug)[:MAX_SLUG_LENGTH]


def _slug_part(key: str, text: str) -> str:
    if key == "seed":
        return f"s{text}"
    field_name, text = key.rpartition(".")[2], as_shown(key, text)
    return text if key in GROUPS or key == "split" or field_name == "name" else f"{field_name}_{text}"


def to_yaml(config: TrainConfig, *, whole: bool = False) -> str:
    """Write a configuration as YAML; `from_yaml` reads back an equal one.

    Unless it is to be `whole`, fields at their neutral value are left out, so that versions without these read it too.
    """
    return str(
        yaml.dump(asdict(config) if whole else _written(config), Dumper=_DUMPER, sort_keys=False, allow_unicode=True)
    )


def _written(section: Any) -> dict[str, Any]:  # noqa: ANN401 (any section)
    given = [(part, getattr(section, part.name)) for part in fields(section)]
    return {
        part.name: _written(value) if is_dataclass(value) else value
        for part, value in given
        if "neutral" not in part.metadata or value != part.metadata["neutral"]
    }


def names_in(text: str) -> dict[str, str]:
    """Read `NAMES` from the output of `to_yaml` without parsing the rest, which would take milliseconds.

    Raises:
        ValueError: The text is incomplete.
    """
    ends = [_end_of(line, text) for line in _NAME_LINES]
    return {key: _scalar(text[end : text.find("\n", end)]) for key, end in zip(NAMES, ends, strict=True)}


def _end_of(line: str, text: str) -> int:
    start = text.find(line)
    if start < 0:
        raise ValueError(f"a configuration must have the field {' '.join(line.split())}; it has not")
    return start + len(line)


def settings_in(text: str) -> dict[str, float]:
    """Read what `settings_of` returns from the output of `to_yaml`, like `names_in`."""
    found = {name: _number_behind(line, text) for name, line in _SETTING_LINES.items()}
    return found | {"learning_rate": scaled_rate(*(_number_behind(line, text) for line in _RATE_LINES))}


def _number_behind(line: str, text: str) -> float:
    end = _end_of(line, text)
    return float(text[end : text.find("\n", end)])


def settings_of(config: TrainConfig) -> dict[str, float]:
    """Return `SETTINGS` of a configuration, and the learning rate that it trains with, scaled to the batch."""
    found = {name: getattr(getattr(config.numerics, section), field) for name, (section, field) in SETTINGS.items()}
    return found | {"learning_rate": config.numerics.trainer.scaled_rate}


@cache
def _scalar(text: str) -> str:
    return str(yaml_text.parse(text))


def from_yaml(text: str) -> TrainConfig:
    """Read a configuration; a field added after the text was written gets its neutral value.

    Raises:
        ValueError: If the text is not a mapping, a field is unknown or missing, or a value is not allowed.
    """
    given = _given_fields(yaml_text.parse(text))
    values = {full: _read_field(full, short, given) for full, short in _short_of_full().items()}
    values[CLASS_NAMES] = _told_apart(values[CLASS_NAMES])
    return _config(values)


def _told_apart(names: list[str]) -> list[str]:
    """Number repeated names: earlier versions allowed a run to have the same one twice."""
    return [
        f"{name} {place}" if name in names[:place] or not name.strip() else name for place, name in enumerate(names)
    ]


@cache
def _short_of_full() -> dict[str, str]:
    return {full: short for short, full in short_names_once().items()}


@cache
def _sections() -> frozenset[str]:
    """Return the full names of the mappings that hold fields."""
    inner = (full.rsplit(".", num)[0] for full in _short_of_full() for num in range(1, full.count(".") + 1))
    return frozenset(inner)


def _given_fields(tree: Any) -> dict[str, Any]:  # noqa: ANN401 (what a file held)
    """Return the fields in a configuration by their full names, all values still text."""
    if not isinstance(tree, dict):
        raise ValueError(f"a configuration must be a mapping; got {tree!r}")
    given = flatten(tree)
    for full, node in given.items():
        if full in _sections():
            raise ValueError(f"{full} must be a mapping of fields; got {node!r}")
        if full not in _short_of_full():
            near = near_matches(full, _short_of_full())
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"unknown field {full!r}{hint}")
    return given


def _read_field(full: str, short: str, given: Mapping[str, Any]) -> Any:  # noqa: ANN401
    if full not in given:
        return _value_of_a_younger_field(full)
    return given[full] if full == WEIGHTS_SHA256 else read_value(short, given[full])


def _value_of_a_younger_field(full: str) -> Any:  # noqa: ANN401
    section: Any = TrainConfig
    *path, name = full.split(".")
    for step in path:
        section = dict(_parts(section))[step]
    part = next(part for part in fields(section) if part.name == name)
    if "neutral" in part.metadata:
        return part.metadata["neutral"]
    if path[0] == "numerics":
        raise ValueError(f"field {full} is missing")
    return part.default if part.default_factory is MISSING else part.default_factory()
