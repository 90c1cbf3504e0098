"""The command line `rankmatch`, and its `launch` alone as `orchestration/launch_grid.py`."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestration import cli_bench, cli_new, cli_results, cli_slurm, cli_tune, damage, page, terminal
from orchestration.schedulers import SchedulerError, SchedulerRefusal

if TYPE_CHECKING:
    from orchestration.launch_plan import Options

DEFAULT_GRID = "demo"

GridOption = Annotated[
    str, typer.Option("--grid", help="A grid by name (experiments/grids, or launched into --runs), or a YAML file.")
]
RunsOption = Annotated[Path, typer.Option("--runs", help="Where run folders go.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Changes to the grid: dataset=camvid split=[11,23] trainer.epochs=5. A list makes an axis.",
    ),
]
ClusterOption = Annotated[
    str,
    typer.Option(
        "--cluster", help="Where cells run: local (a private Ray), inline, ray, slurm, or a site's YAML file."
    ),
]
ConcurrencyOption = Annotated[
    int | None, typer.Option("--max-concurrent", min=1, help="Cells at a time; default: as many as the machine holds.")
]
BudgetOption = Annotated[float | None, typer.Option(min=0, help="Refuse a plan that is estimated to take more.")]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at a data set.")
splits = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Bring or draw split lists.")
app.add_typer(data, name="data")
app.add_typer(splits, name="splits")
cli_new.add_to(app, data)
cli_results.add_to(app)
cli_slurm.add_to(app)
cli_tune.add_to(app)
cli_bench.add_to(app)
page.add_commands(app)


@app.command()
def launch(
    overrides: Overrides = None,
    grid: GridOption = DEFAULT_GRID,
    cluster: ClusterOption = "local",
    address: Annotated[str, typer.Option(help="HOST:PORT of the Ray of --cluster ray; auto: that of this node.")] = "",
    runs: RunsOption = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run, and about how long.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow until the last cell ends; local, inline and ray always do.")
    ] = False,
    allow_dirty: Annotated[
        bool, typer.Option("--allow-dirty", help="Submit code that is not committed; its difference is stored.")
    ] = False,
    budget_gpu_hours: BudgetOption = None,
    max_concurrent: ConcurrencyOption = None,
    cpus_per_worker: Annotated[int, typer.Option(min=1, help="CPU cores for each training process.")] = 1,
    gpus_per_worker: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of a GPU for each training process, where there is one.")
    ] = 1.0,
    pilot: Annotated[
        bool, typer.Option("--pilot", help="On Slurm: jobs lend --nodes to one Ray, which gives the cells to them.")
    ] = False,
    nodes: Annotated[int | None, typer.Option(help="Nodes of --pilot; each holds the largest cell.")] = None,
    tracking_uri: Annotated[
        str, typer.Option(help="MLflow store; default: MLFLOW_TRACKING_URI, else SQLite in the runs folder.")
    ] = "",
) -> None:
    """Train the cells of a grid that are not trained yet, and end with its table."""
    if pilot != (nodes is not None):
        given, lacking = ("--pilot", "--nodes") if pilot else ("--nodes", "--pilot")
        raise ValueError(f"{lacking} must be given with {given}; got {given} alone")
    options = _options(
        overrides,
        grid=grid,
        cluster=cluster,
        address=address,
        runs=runs,
        dry_run=dry_run,
        watch=watch,
        allow_dirty=allow_dirty,
        budget_gpu_hours=budget_gpu_hours,
        max_concurrent=max_concurrent,
        num_cpus_per_worker=cpus_per_worker,
        num_gpus_per_worker=gpus_per_worker,
        num_nodes=nodes,
        tracking_uri=tracking_uri,
    )
    raise typer.Exit(_begin(options))


def _options(overrides: Sequence[str] | None, **settings: Any) -> "Options":  # noqa: ANN401 (as Options takes them)
    """Divide the words of the command line into those of the grid and those of the site."""
    from orchestration.launch_plan import Options

    of_site = [word for word in overrides or () if word.startswith("cluster.")]
    of_grid = [word for word in overrides or () if word not in of_site]
    return Options(overrides=of_grid, cluster_settings=of_site, **settings)


def _begin(options: "Options") -> int:
    from orchestration import launch
    from orchestration.launch_plan import FOLLOWED_CLUSTERS
    from orchestration.on_slurm import campaign

    begin = launch.launch if options.cluster in FOLLOWED_CLUSTERS else campaign.launch_on_slurm
    return begin(options, terminal.console())


@app.command()
def plan(
    overrides: Overrides = None,
    grid: GridOption = DEFAULT_GRID,
    cluster: ClusterOption = "local",
    runs: RunsOption = Path("runs"),
    budget_gpu_hours: BudgetOption = None,
    max_concurrent: ConcurrencyOption = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Play the launch through on a pool of GPUs; what follows is for that.")
    ] = False,
    gpus: Annotated[int | None, typer.Option(help="GPUs of the pool.")] = None,
    mtbf_hours: Annotated[
        float | None, typer.Option(help="Mean time between failures of one GPU in use; default: none fails.")
    ] = None,
    preempt_hours: Annotated[
        float | None, typer.Option(help="Mean time that a job runs before it is preempted; default: none is.")
    ] = None,
    queue_min: Annotated[float | None, typer.Option(help="Minutes that each attempt waits; default: none.")] = None,
    checkpoint_min: Annotated[
        float | None, typer.Option(help="Minutes between checkpoints; default: as each cell is configured.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the draws of what happens; default: 0.")] = None,
) -> None:
    """Say what a launch would run, resume and keep, and about how long it would take; needs no data."""
    settings = {
        "num_gpus": gpus, "mtbf_hours": mtbf_hours, "preempt_hours": preempt_hours,
        "queue_min": queue_min, "checkpoint_min": checkpoint_min, "seed": seed,
    }  # fmt: skip
    given = {name: value for name, value in settings.items() if value is not None}
    if simulate:
        _simulate(grid, overrides or (), runs, given)
        return
    if given:
        name = next(iter(given)).removeprefix("num_").replace("_", "-")
        raise ValueError(f"--simulate must be given with --{name}; got --{name} alone")
    options = _options(
        overrides,
        grid=grid,
        cluster=cluster,
        runs=runs,
        dry_run=True,
        scripts=False,
        budget_gpu_hours=budget_gpu_hours,
        max_concurrent=max_concurrent,
    )
    raise typer.Exit(_begin(options))


def _simulate(grid: str, overrides: Sequence[str], runs: Path, settings: dict[str, Any]) -> None:
    if "num_gpus" not in settings:
        raise ValueError("--gpus must be given with --simulate; got none")
    from rich.console import Console

    from orchestration.launch_plan import Options, simulate_launch
    from orchestration.simulate import Pool

    checkpoint_min = settings.pop("checkpoint_min", None)
    options = Options(grid=grid, overrides=overrides, cluster="slurm", runs=runs)  # each worker has a GPU
    simulate_launch(options, Pool(**settings), checkpoint_min, Console())


NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A data set of experiments/conf/dataset, or a file.")]
SettingsArgument = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="data_root=... split=92")]


@data.command("check")
def check_data(name: NameArgument, settings: SettingsArgument = None) -> None:
    """Open every file of a data set's lists once and list all that is wrong with them."""
    from rich.console import Console

    from orchestration import datasets

    datasets.check(name, settings or (), Console())


@data.command("show")
def show_data(
    name: NameArgument,
    settings: SettingsArgument = None,
    output: Annotated[
        Path | None, typer.Option("--out", "-o", help="The PNG; default: <data set>-<split>.png.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many images of each list at most.")] = 4,
) -> None:
    """Draw crops, labels, weak and strong views and CutMix as a first step is trained on them, to look before it is."""
    from rich.console import Console

    from orchestration import datasets

    datasets.show(name, settings or (), output, count, Console())


@data.command("pack")
def pack_data(
    name: NameArgument,
    settings: SettingsArgument = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Gets the shards; default: packed-decoded or -encoded below data_root.")
    ] = None,
    encoded: Annotated[bool, typer.Option("--encoded", help="Keep the bytes of the files instead of pixels.")] = False,
) -> None:
    """Pack images and labels for faster reading (data_store=FOLDER); what is packed already is kept."""
    from rich.console import Console

    from orchestration import datasets

    datasets.pack(name, settings or (), to, "encoded" if encoded else "decoded", Console())


@data.command("convert")
def convert_data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="cityscapes: label ids to train ids.")],
    root: Annotated[Path, typer.Argument(metavar="FOLDER", exists=True, file_okay=False)],
) -> None:
    """Write the labels that the lists name, *_labelTrainIds.png, beside those of the archive, *_labelIds.png."""
    from rich.console import Console

    from orchestration import datasets

    datasets.convert(name, root, Console())


@splits.command()
def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="pascal, cityscapes or coco.")],
    to: Annotated[Path, typer.Option("--to", help="Gets <split>/labeled.txt, ... : a split_root.")],
    checkout: Annotated[
        Path | None, typer.Option("--from", help="Take them from a checkout of the repository instead of the network.")
    ] = None,
    base_url: Annotated[str, typer.Option(help="Where the repositories are mirrored.")] = "",
) -> None:
    """Bring the split lists of the paper and verify them; what is there and right is kept."""
    from rich.console import Console

    from orchestration import datasets

    datasets.download(name, to, checkout, base_url, Console())


@splits.command()
def draw(
    name: NameArgument,
    count: Annotated[list[int], typer.Option("--count", min=1, help="How many images are labeled; several times.")],
    settings: SettingsArgument = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Show every class in as equal numbers of images.")
    ] = False,
    val: Annotated[int, typer.Option(min=0, help="Draw a val.txt of so many images too.")] = 0,
    contiguous: Annotated[
        bool,
        typer.Option("--contiguous", help="Of stacks: those of val.txt follow each other, as neighbours are alike."),
    ] = False,
    gap: Annotated[
        int | None, typer.Option(min=0, help="Slices beside those of val.txt that are in no list; --contiguous: 1.")
    ] = None,
) -> None:
    """Draw new lists from train.txt, or from all files of image_pattern: a larger one holds the smaller ones."""
    from rich.console import Console

    from orchestration import datasets

    wanted = datasets.ValDraw(val, contiguous, int(contiguous) if gap is None else gap)
    datasets.draw(name, count, settings or (), seed, balanced, wanted, Console())


CheckpointOption = Annotated[
    Path, typer.Option("--checkpoint", help="best.pt, checkpoints/step_<k>, or a published file.")
]
DatasetOption = Annotated[
    str, typer.Option("--dataset", help="Of experiments/conf/dataset; default: what the checkpoint's run folder says.")
]
NestOption = Annotated[
    str, typer.Option("--nest", metavar="NAME", help="Of a file with several state dicts, the one meant: model_ema.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, or auto.")]


@app.command()
def evaluate(
    checkpoint: CheckpointOption,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="data_root=... backbone=resnet101 evaluation.mode=sliding"),
    ] = None,
    dataset: DatasetOption = "",
    nest: NestOption = "",
    device: DeviceOption = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers here too, as fractions.")] = None,
) -> None:
    """Score a trained model on the validation list: IoU of every class, and their mean."""
    from rich.console import Console

    from orchestration import trained

    trained.evaluate(trained.Source(checkpoint, dataset, settings or (), device, nest), Console(), json_file)


@app.command()
def predict(
    checkpoint: CheckpointOption,
    images: Annotated[list[Path], typer.Argument(help="Images, and folders of images.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Gets labels/, overlays/ and, if asked for, probabilities/.")
    ],
    dataset: DatasetOption = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="backbone=resnet101 evaluation.mode=sliding")
    ] = None,
    nest: NestOption = "",
    device: DeviceOption = "auto",
    batch: Annotated[int, typer.Option(min=1, help="Images of one size that go through the network together.")] = 8,
    overlay: Annotated[bool, typer.Option(help="Also blend each image with its labels.")] = True,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write [classes, height, width] as float16, <name>.npy.")
    ] = False,
    original_values: Annotated[
        bool, typer.Option("--original-values", help="Write labels as the data set has them, before its label_map.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that are there.")] = False,
) -> None:
    """Write the labels that a trained model gives to images of any size, as palette PNGs."""
    from rich.console import Console

    from orchestration import trained

    source = trained.Source(checkpoint, dataset, settings or (), device, nest)
    trained.predict(
        source,
        images,
        out,
        Console(),
        batch_size=batch,
        overlays=overlay,
        overwrite=overwrite,
        probabilities=probabilities,
        original_values=original_values,
    )


def guarded(command: Callable[[], object]) -> None:
    """Run a command; what the user can mend ends in one message and exit code 2, without a traceback."""
    terminal.take_any_character()
    damage.show_plainly()
    try:
        command()
    except OSError as error:
        sys.stderr.write(f"error: {f'{error.filename}: {error.strerror}' if error.filename else error}\n")
        sys.exit(2)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except SchedulerRefusal as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except SchedulerError as error:
        sys.stderr.write(f"error: {error}\nWhat was finished is kept; the same command goes on.\n")
        sys.exit(1)


def main() -> None:
    """Run the command `rankmatch`."""
    guarded(app)


def launch_main() -> None:
    """Run `launch` as a program of its own."""
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    single.command()(launch)
    guarded(single)
