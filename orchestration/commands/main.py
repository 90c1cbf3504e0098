"""The command line `rankmatch`, and its command `launch` as the script `orchestration/launch_grid.py`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

import rankmatch
from orchestration.commands import bench, cells, checkup, follow, new, plan, reproduce, results, schema, search
from orchestration.commands.begin import begin
from orchestration.commands.launch_options import (
    ALL_CELLS,
    ClusterOption,
    ConcurrencyOption,
    GridOption,
    JsonOption,
    Overrides,
    PilotOption,
    RunsOption,
    Selection,
    UriOption,
    takes_selection,
)
from orchestration.commands.sections import Sections
from orchestration.launching import page
from orchestration.machine import damage, own_files, terminal
from orchestration.runs.jobs import SchedulerError, SchedulerRefusal

app = typer.Typer(
    cls=Sections, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check, show, pack or convert a data set.")
splits = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Download or draw split lists.")
app.add_typer(data, name="data")
app.add_typer(splits, name="splits")
new.add_to(app, data)
results.add_to(app)
follow.add_to(app)
search.add_to(app)
bench.add_to(app)
checkup.add_to(app)
reproduce.add_to(app)
cells.add_to(app)
page.add_commands(app)
plan.add_to(app)
schema.add_to(app)


def _say_version(asked: bool) -> None:
    if asked:
        print(f"rankmatch {rankmatch.__version__}")  # noqa: T201 (one plain line, for scripts)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """Train the grids of RankMatch and its baselines, follow them, and make tables of them."""


@app.command()
@takes_selection
def launch(
    overrides: Overrides = None,
    grid: GridOption = "",
    cluster: ClusterOption = "local",
    address: Annotated[str, typer.Option(help="HOST:PORT of the Ray for --cluster ray; auto: on this node.")] = "",
    runs: RunsOption = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would run, and about how long.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay until the last cell ends; local, inline and ray always do.")
    ] = False,
    allow_dirty: Annotated[
        bool, typer.Option("--allow-dirty", help="Submit uncommitted code; the difference is stored.")
    ] = False,
    size_from_history: Annotated[
        bool, typer.Option("--size-from-history", help="On Slurm: ask for 1.25 times what finished cells like it took.")
    ] = False,
    as_json: JsonOption = False,
    selection: Selection = ALL_CELLS,
    max_concurrent: ConcurrencyOption = None,
    cpus_per_worker: Annotated[int, typer.Option(min=1, help="CPU cores for each training process.")] = 1,
    gpus_per_worker: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of a GPU for each training process, if there is a GPU.")
    ] = 1.0,
    pilot: PilotOption = False,
    nodes: Annotated[int | None, typer.Option(help="Nodes for --pilot; each must hold the largest cell.")] = None,
    tracking_uri: UriOption = "",
) -> None:
    """Train the cells of a grid that are not trained yet, and print its table."""
    if pilot != (nodes is not None):
        given, lacking = ("--pilot", "--nodes") if pilot else ("--nodes", "--pilot")
        raise ValueError(f"{lacking} must be given with {given}; got {given} alone")
    code = begin(
        terminal.console(stderr=as_json),
        overrides,
        grid=grid,
        cluster=cluster,
        address=address,
        runs=runs,
        dry_run=dry_run,
        as_json=as_json,
        watch=watch,
        allow_dirty=allow_dirty,
        size_from_history=size_from_history,
        selection=selection,
        max_concurrent=max_concurrent,
        num_cpus_per_worker=cpus_per_worker,
        num_gpus_per_worker=gpus_per_worker,
        num_nodes=nodes,
        tracking_uri=tracking_uri,
    )
    raise typer.Exit(code)


NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A data set of experiments/conf/dataset, or a file.")]
SettingsArgument = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="data_root=... split=92")]


@data.command("check")
def check_data(name: NameArgument, settings: SettingsArgument = None) -> None:
    """Open every file in a data set's lists once, and list all faults."""
    from rich.console import Console

    from orchestration.commands import datasets

    datasets.check(name, settings or (), Console())


@data.command("show")
def show_data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set, its file, or the run folder of a cell.")],
    settings: SettingsArgument = None,
    output: Annotated[
        Path | None, typer.Option("--out", "-o", help="The PNG; default: <data set>-<split>.png.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many images of each list at most.")] = 4,
    step: Annotated[int, typer.Option("--step", min=0, help="Which training step, from 0.")] = 0,
) -> None:
    """Draw the crops, labels, weak and strong views and CutMix boxes of a training step."""
    from rich.console import Console

    from orchestration.commands import datasets

    datasets.show(name, settings or (), datasets.Picture(output, count, step), Console())


@data.command("pack")
def pack_data(
    name: NameArgument,
    settings: SettingsArgument = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Folder for shards; default: packed-decoded or -encoded below data_root."),
    ] = None,
    encoded: Annotated[bool, typer.Option("--encoded", help="Store the files' bytes instead of pixels.")] = False,
) -> None:
    """Pack images and labels for faster reading (data_store=FOLDER); files that are packed already are kept."""
    from rich.console import Console

    from orchestration.commands import datasets

    datasets.pack(name, settings or (), to, "encoded" if encoded else "decoded", Console())


@data.command("convert")
def convert_data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="cityscapes: label ids to train ids.")],
    root: Annotated[Path, typer.Argument(metavar="FOLDER", exists=True, file_okay=False)],
) -> None:
    """Convert the archive's labels (*_labelIds.png) to those in the lists (*_labelTrainIds.png), beside them."""
    from rich.console import Console

    from orchestration.commands import datasets

    datasets.convert(name, root, Console())


@splits.command()
def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="pascal, cityscapes or coco.")],
    to: Annotated[Path, typer.Option("--to", help="Folder for <split>/labeled.txt, ... (a split_root).")],
    checkout: Annotated[
        Path | None, typer.Option("--from", help="Take them from a checkout of the repository instead of the network.")
    ] = None,
    base_url: Annotated[str, typer.Option(help="URL of a mirror of the repositories.")] = "",
) -> None:
    """Download the paper's split lists and verify them; correct existing ones are kept."""
    from rich.console import Console

    from orchestration.commands import datasets

    datasets.download(name, to, checkout, base_url, Console())


@splits.command()
def draw(
    name: NameArgument,
    count: Annotated[list[int], typer.Option("--count", min=1, help="How many images are labeled; can be repeated.")],
    settings: SettingsArgument = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    balanced: Annotated[bool, typer.Option("--balanced", help="Balance how many images show each class.")] = False,
    val: Annotated[int, typer.Option(min=0, help="Also draw a val.txt with this many images.")] = 0,
    contiguous: Annotated[
        bool,
        typer.Option("--contiguous", help="For stacks: take consecutive images for val.txt, as neighbours look alike."),
    ] = False,
    gap: Annotated[
        int | None,
        typer.Option(min=0, help="Slices beside those of val.txt to leave out; with --contiguous: 1."),
    ] = None,
) -> None:
    """Draw new lists from train.txt, or from all files that match image_pattern; larger lists contain smaller ones."""
    from rich.console import Console

    from orchestration.commands import datasets

    wanted = datasets.ValDraw(val, contiguous, int(contiguous) if gap is None else gap)
    datasets.draw(name, count, settings or (), seed, balanced, wanted, Console())


CheckpointOption = Annotated[
    Path, typer.Option("--checkpoint", help="best.pt, checkpoints/step_<k>, or a published file.")
]
DatasetOption = Annotated[
    str, typer.Option("--dataset", help="From experiments/conf/dataset; default: that of the checkpoint's run folder.")
]
NestOption = Annotated[
    str,
    typer.Option("--nest", metavar="NAME", help="Which of several state dicts to use: model_ema."),
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
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers here, as fractions.")] = None,
) -> None:
    """Score a trained model on the validation list: IoU of every class, and their mean."""
    from rich.console import Console

    from orchestration.results import score

    score.evaluate(score.Source(checkpoint, dataset, settings or (), device, nest), Console(), json_file)


@app.command()
def predict(
    checkpoint: CheckpointOption,
    images: Annotated[list[Path], typer.Argument(help="Images, and folders of images.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for labels/, overlays/ and, if requested, probabilities/.")
    ],
    dataset: DatasetOption = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="backbone=resnet101 evaluation.mode=sliding")
    ] = None,
    nest: NestOption = "",
    device: DeviceOption = "auto",
    batch: Annotated[int, typer.Option(min=1, help="How many images of the same size pass the network together.")] = 8,
    overlay: Annotated[bool, typer.Option(help="Also blend each image with its labels.")] = True,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write [classes, height, width] as float16, <name>.npy.")
    ] = False,
    original_values: Annotated[
        bool, typer.Option("--original-values", help="Write labels in the data set's own form, before its label_map.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
) -> None:
    """Predict the labels of images of any size with a trained model, and write them as palette PNGs."""
    from rich.console import Console

    from orchestration.results import score

    source = score.Source(checkpoint, dataset, settings or (), device, nest)
    score.predict(
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
    """Run a command; an error that the user can fix ends in one message and exit code 2, without a traceback."""
    terminal.take_any_character()
    damage.show_plainly()
    try:
        command()
    except OSError as error:
        sys.stderr.write(f"error: {own_files.said(error)}\n")
        sys.exit(2)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except SchedulerRefusal as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except SchedulerError as error:
        sys.stderr.write(f"error: {error}\nWhat was finished is kept; the same command resumes.\n")
        sys.exit(1)


def main() -> None:
    """Run the command `rankmatch`."""
    guarded(app)


def launch_main() -> None:
    """Run `launch` as a program of its own."""
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    single.command()(launch)
    guarded(single)
