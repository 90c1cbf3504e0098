"""What a launch has to know of a site: the fields of `experiments/conf/cluster/*.yaml`, checked here."""

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from orchestration.grids import site_places
from orchestration.grids.cells import experiments_folder
from orchestration.grids.places import SECTIONS, Places
from orchestration.grids.values import near_matches, parse, read_scalar
from orchestration.machine import yaml_text
from orchestration.mirror.store_uri import seen_from, without_password
from orchestration.on_slurm.durations import to_minutes
from rankmatch.checks import in_range, one_of

CONTAINERS = ("", "apptainer", "pyxis")
MEM_FLAGS = ("mem", "mem-per-cpu", "mem-per-gpu", "none")
GPU_FLAGS = ("", "gpus-per-node", "gres", "none")
RESERVED = frozenset({"array", "clusters", "dependency", "error", "help", "job-name", "open-mode", "output", "parsable",
                      "test-only", "usage", "version", "wait", "wrap"})  # fmt: skip
"""Flags of sbatch by which jobs are found, follow each other and are heard of."""
PREFIX = "cluster."
SCHEDULERS = ("slurm", "local", "ray", "inline")
_WITHOUT_SLURM = frozenset({"scheduler", "address", "tracking_uri", *SECTIONS})
_FLAG = re.compile(r"[a-z][a-z0-9-]*")
_DURATIONS = ("time_min", "max_time_min", "controller_time_min")
_NOTHING = ("~", "null", "Null", "NULL")
"""How YAML writes that there is no value."""


@dataclass(kw_only=True, slots=True)
class ClusterConfig:
    """A site; empty or 0 leaves a setting to Slurm."""

    scheduler: str = "slurm"
    """What starts cells: `slurm`; `local`, a private Ray; `ray`, an existing one; `inline`, this process. Without Slurm
    a site has no more than this, `address`, `tracking_uri`, data and weights."""
    address: str = ""
    """Of the existing Ray, `HOST:PORT` or `auto`."""
    data_root: dict[str, str] = field(default_factory=dict)
    """Folders of the data sets, by their names or files; relative to the site's file."""
    split_root: dict[str, str] = field(default_factory=dict)
    data_store: dict[str, str] = field(default_factory=dict)
    """The same for split lists and packed data."""
    weights: dict[str, str] = field(default_factory=dict)
    """ImageNet files, by the names of the backbones."""
    tracking_uri: str = ""
    """The MLflow store, without a password."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    reservation: str = ""
    wckey: str = ""
    exclude: str = ""
    """Nodes that get no job."""
    extra: dict[str, str] = field(default_factory=dict)
    """More sbatch flags by their long names: `{nice: "100"}`; `true` for one without a value. One that the launch sets
    itself is replaced by it (`mem-per-cpu: 4G` instead of `mem`); `false` leaves it out. Sizes, as `cpus-per-task`, are
    those of the jobs that train; to `exclude` come the nodes that a cell keeps away from."""
    controller_extra: dict[str, str] = field(default_factory=dict)
    """The same for controllers and for the heads of pilots, over `extra`."""
    srun_args: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    """Loaded in each job."""
    setup: list[str] = field(default_factory=list)
    """Shell lines that each job starts with; `set -e` and traps on EXIT are theirs alone."""
    environment: dict[str, str] = field(default_factory=dict)
    container: str = ""
    """`apptainer` or `pyxis`, with `image`."""
    image: str = ""
    container_args: list[str] = field(default_factory=list)
    """More words for `apptainer exec`, or for srun with pyxis."""
    python: str = ""
    """The Python of the jobs; empty: the one that launches, in a container `python`."""
    gpus_per_node: int = 8
    """How many of a cell's workers go to one node."""
    gpu_type: str = ""
    gpu_flag: str = ""
    """How GPUs are asked for: `gpus-per-node`, `gres`, or `none` where Slurm knows no GPUs. Empty: `gres` with a
    `gpu_type`, else `gpus-per-node`."""
    cpus_per_worker: int = 4
    mem_gb_per_worker: float = 16.0
    mem_flag: str = "mem"
    """How memory is asked for: `mem` of a node, `mem-per-cpu`, `mem-per-gpu`, or `none` where the site refuses that."""
    time_min: int = 0
    """Time limit of a job in minutes, or as Slurm writes it, `1-12:00:00`; 0: `time_factor` times the estimate of its
    cell, at most the partition's limit."""
    time_factor: float = 2.0
    max_time_min: int = 0
    """No job asks for more; 0: the partition's limit. A cell that takes longer resumes in a further job."""
    signal_before_s: int = 120
    """How long before its time limit a job is told to write its checkpoint."""
    max_submit: int = 0
    """No more jobs of a launch are in the queue at a time; the rest follows when these have ended. 0: as many as
    account and qos allow (MaxSubmitJobs), where the site says it."""
    requeue: bool = True
    """False where the site refuses requeueing: a new job takes over."""
    controller: bool = True
    """Small jobs submit what is tried again, and in the end write the table. False where nodes must not submit."""
    controller_partition: str = ""
    controller_time_min: int = 10
    controller_every_min: int = 10
    """So often one looks while cells train; a job that fails, or is among the last, calls one at once."""
    mail_user: str = ""
    """Is mailed when the first cell begins, when one fails for good, and when all is done; by Slurm, when a controller
    itself fails."""
    mail_server: str = "localhost"
    """Takes the mail of jobs, `host` or `host:port`."""
    notify_command: list[str] = field(default_factory=list)
    """Run at these times with a line of text as its last word. The address in the variable RANKMATCH_WEBHOOK, which is
    a secret and stands in no file, gets the line too."""

    def __post_init__(self) -> None:
        one_of("cluster.container", self.container, CONTAINERS)
        one_of("cluster.scheduler", self.scheduler, SCHEDULERS)
        _check_without_slurm(self)
        if without_password(self.tracking_uri) != self.tracking_uri:
            raise ValueError(
                "cluster.tracking_uri must hold no password; give it in MLFLOW_TRACKING_USERNAME and "
                f"MLFLOW_TRACKING_PASSWORD; got {without_password(self.tracking_uri)!r} with one"
            )
        one_of("cluster.mem_flag", self.mem_flag, MEM_FLAGS)
        one_of("cluster.gpu_flag", self.gpu_flag, GPU_FLAGS)
        if bool(self.container) != bool(self.image):
            raise ValueError(f"cluster.image must be given with cluster.container and not without; got {self.image!r}")
        for name, low in (("gpus_per_node", 1), ("cpus_per_worker", 1), ("mem_gb_per_worker", 0.1), ("time_min", 0),
                          ("time_factor", 1), ("max_time_min", 0), ("signal_before_s", 1), ("max_submit", 0),
                          ("controller_time_min", 1), ("controller_every_min", 1)):  # fmt: skip
            in_range(PREFIX + name, getattr(self, name), low)
        for name in ("partition", "account", "qos", "constraint", "reservation", "wckey", "exclude", "gpu_type",
                     "controller_partition"):  # fmt: skip
            _one_line(name, getattr(self, name))
        for name in ("extra", "controller_extra"):
            setattr(self, name, _flags(name, getattr(self, name)))


def _flags(name: str, given: Mapping[str, str]) -> dict[str, str]:
    """Return flags by sbatch's names for them, and refuse those by which the launch knows its jobs."""
    flags = {}
    for key, value in given.items():
        flag = key.strip().lstrip("-").replace("_", "-").lower()
        if not _FLAG.fullmatch(flag):
            raise ValueError(f"{PREFIX}{name} must map long names of sbatch flags to values; got {key!r}")
        if flag in RESERVED:
            raise ValueError(f"{PREFIX}{name} must not have {flag!r}: launches need it for themselves")
        if flag in flags:
            raise ValueError(f"{PREFIX}{name} must have {flag!r} once; it has it twice")
        _one_line(f"{name} {key}", value)
        flags[flag] = value
    return flags


def _one_line(name: str, value: str) -> None:
    """Refuse a line end, which would end the line of the batch script and start a command."""
    if "\n" in value or "\r" in value:
        raise ValueError(f"{PREFIX}{name} must be one line; got {value!r}")


def _check_without_slurm(site: ClusterConfig) -> None:
    """Refuse what only jobs of Slurm read, and an address where no existing Ray is used."""
    if site.address and site.scheduler != "ray":
        raise ValueError(f"{PREFIX}address must be given with scheduler: ray; got it with {site.scheduler}")
    if site.scheduler == "slurm":
        return
    for part in fields(site):
        default = part.default_factory() if part.default_factory is not MISSING else part.default
        if part.name not in _WITHOUT_SLURM and getattr(site, part.name) != default:
            raise ValueError(
                f"{PREFIX}{part.name} must be given with scheduler: slurm; {site.scheduler} reads only "
                f"{', '.join(sorted(_WITHOUT_SLURM))}"
            )


def places_of(site: ClusterConfig, source: str = "the site") -> Places:
    """Return where a site keeps data and weights."""
    return site_places.read({name: getattr(site, name) for name in SECTIONS}, source)


def is_file(name: str) -> bool:
    """Return whether `--cluster` names a site's file."""
    return name.endswith((".yaml", ".yml"))


def load(name: str, settings: Iterable[str] = ()) -> ClusterConfig:
    """Read a site of `experiments/conf/cluster` by name, or a YAML file, with changes such as `cluster.partition=gpu`.

    Raises:
        ValueError: Naming the field, its value and what is allowed.
    """
    path = Path(name) if is_file(name) else experiments_folder() / "conf" / "cluster" / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(
            f"--cluster must be one of local, inline, ray, {', '.join(names())}, or a YAML file; got {name!r}"
        )
    values = yaml_text.read(path)
    if is_file(name) and not path.read_text(encoding="utf-8").strip():
        raise ValueError(f"{path} must describe a site; it is empty, as after a `rankmatch site detect` that failed")
    try:
        if not isinstance(values, dict):
            raise ValueError(f"a site must be a mapping of fields; got {values!r}")
        values = {key: _checked(key, value) for key, value in values.items()}
        told = {key: values[key] for key in SECTIONS if key in values}
        values |= site_places.absolute(told, path.resolve().parent)
        site_places.read({key: values[key] for key in told}, str(path))
        if "tracking_uri" in values:
            values["tracking_uri"] = seen_from(values["tracking_uri"], path.resolve().parent)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return from_values(values, settings)


def from_values(values: Mapping[str, Any], settings: Iterable[str] = ()) -> ClusterConfig:
    """Build a checked site from fields, given as text or typed, with changes such as `cluster.partition=gpu`.

    Raises:
        ValueError: Naming the field, its value and what is allowed.
    """
    values, given = dict(values), set[str]()
    for setting in settings:
        key, mark, text = setting.removeprefix(PREFIX).partition("=")
        if not mark:
            raise ValueError(f"a setting of the site must be {PREFIX}field=value; got {setting!r}")
        if key in given:
            raise ValueError(f"{PREFIX}{key} must be given once; it is given twice")
        given.add(key)
        values[key] = parse(f"{PREFIX}{key}", text) if get_origin(_kind(key)) else text
    return ClusterConfig(**{key: _checked(key, value) for key, value in values.items()})


def names() -> list[str]:
    """Return the sites of `experiments/conf/cluster`."""
    return sorted(path.stem for path in (experiments_folder() / "conf" / "cluster").glob("*.yaml"))


def _kind(key: str) -> Any:  # noqa: ANN401 (a type)
    if key not in _kinds():
        known = [part.name for part in fields(ClusterConfig)]
        near = near_matches(key, known)
        hint = f"did you mean {PREFIX}{near[0]}?" if near else f"known are {', '.join(known)}"
        raise ValueError(f"unknown key '{PREFIX}{key}'; {hint}")
    return _kinds()[key]


@cache
def _kinds() -> dict[str, Any]:
    return get_type_hints(ClusterConfig)


def _checked(key: str, value: Any) -> Any:  # noqa: ANN401 (text, or as a campaign's file gives it)
    kind, name = _kind(key), f"{PREFIX}{key}"
    if value in _NOTHING:
        raise ValueError(f"{name} must have a value; without one leave its line out; got {value!r}")
    if get_origin(kind) is dict and isinstance(value, dict) and all(isinstance(inner, str) for inner in value.values()):
        return dict(value)
    if get_origin(kind) is list and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    if key in _DURATIONS and isinstance(value, str):
        return _minutes(name, value)
    if get_origin(kind) is None and isinstance(value, str):
        return read_scalar(name, kind, value)
    if kind is float and type(value) is int:
        return float(value)
    if get_origin(kind) is None and type(value) is kind:
        return value
    wanted = {dict: "a mapping of names to texts", list: "a list of texts"}.get(get_origin(kind)) or kind.__name__
    raise ValueError(f"{name} must be {wanted}; got {value!r}")


def _minutes(name: str, text: str) -> int:
    try:
        return int(text) if text.startswith("-") else to_minutes(text)  # the sign of a number is checked later
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def shell_setup(cluster: ClusterConfig, environment: dict[str, str]) -> list[str]:
    """Return the shell lines with which a job starts; every value is quoted."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in {**cluster.environment, **environment}.items()]
    modules = [f"module load {shlex.quote(name)}" for name in cluster.modules]
    return [*modules, *exports, *cluster.setup]


def python_command(cluster: ClusterConfig, python: str) -> str:
    """Return the shell words that start Python in a job, inside the container if there is one."""
    inside = cluster.python or ("python" if cluster.container else python)
    if cluster.container != "apptainer":
        return shlex.quote(inside)
    return shlex.join(["apptainer", "exec", *cluster.container_args, cluster.image, inside])


def srun_words(cluster: ClusterConfig) -> list[str]:
    """Return the words for srun: a node that fails ends the job, and with pyxis the container is srun's."""
    words = ["--kill-on-bad-exit=1", *cluster.srun_args]
    if cluster.container == "pyxis":
        words += [f"--container-image={cluster.image}", *cluster.container_args]
    return words
