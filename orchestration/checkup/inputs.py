"""The MLflow store, and the data and weights of a site and of a grid."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestration.checkup.finding import Finding, fault, good, note
from orchestration.grids import inputs, launched
from orchestration.grids.cells import choices_of, compose_untrained
from orchestration.grids.places import BY_DATASET, Places
from orchestration.mirror.grid_mirror import tracking_uri
from orchestration.mirror.mlflow_store import Store, StoreError
from orchestration.mirror.store_uri import is_written_by_jobs, sqlite_file_of, without_password

_MEND = "correct the site's file, or put the data there"


def store(runs: Path, of_site: str = "") -> Iterator[Finding]:
    """Check the store that launches write; a missing one is not created."""
    uri = tracking_uri(of_site, runs)
    shown = without_password(uri)
    file = sqlite_file_of(uri)
    if file is not None and not file.exists():
        yield good("MLflow", f"the first launch makes {file}")
        return
    try:
        Store(uri).experiments("rankmatch.runs", "")
    except (StoreError, ValueError) as error:
        yield fault(
            "MLflow",
            f"{shown} does not answer as it should: {error}",
            "the mirror alone: cells train without it, and `rankmatch sync` writes them later",
            f"start it, or correct {'tracking_uri of the site' if of_site else 'MLFLOW_TRACKING_URI'}, and "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
        return
    yield good("MLflow", f"{shown}, written by {'each job' if is_written_by_jobs(uri) else 'the launch alone'}")


def of_site(places: Places) -> Iterator[Finding]:
    """Check the data sets and the weights that a site names, as far as it takes no opening of every image."""
    for section in BY_DATASET:
        for name, path in places.section(section).items():
            yield _of_folder(section, name, Path(path))
    for name, path in places.data_root.items():
        if Path(path).is_dir() and name in choices_of("dataset"):  # of one's own data sets only the folder is known
            yield _of_lists(name, path, places)
    for name, path in places.weights.items():
        yield _of_weights(name, Path(path))


def _of_folder(section: str, name: str, path: Path) -> Finding:
    subject = f"{section} of {name}"
    if path.is_dir() and os.access(path, os.R_OK | os.X_OK):
        return good(subject, f"{path} is there")
    what = "cannot be read by this user" if path.exists() else "is not there"
    return fault(subject, f"{path} {what}", f"launches with dataset={name}", _MEND)


def _of_lists(name: str, path: str, places: Places) -> Finding:
    from rankmatch.data.splits import split_names, split_root  # torch takes seconds to import

    subject = f"split lists of {name}"
    given = {"data_root": path, **({"split_root": places.split_root[name]} if name in places.split_root else {})}
    try:
        folder = split_root(compose_untrained(name, given))
    except ValueError as error:
        return note(subject, str(error), "rankmatch splits download or draw, or split_root in the site's file")
    return good(subject, f"{', '.join(split_names(folder)) or 'none'} in {folder}")


def _of_weights(backbone: str, path: Path) -> Finding:
    from rankmatch.models.weights import check_backbone

    subject = f"weights of {backbone}"
    if not path.is_file():
        return fault(subject, f"there is no file {path}", f"launches with backbone={backbone}", _MEND)
    try:
        check_backbone(compose_untrained("synthetic", {"backbone": backbone}).numerics.model, path)
    except (OSError, ValueError) as error:
        return fault(
            subject, str(error), f"launches with backbone={backbone}", "name the ImageNet file of this backbone"
        )
    return good(subject, f"{path} fits")


def of_grid(name: str, settings: Sequence[str], runs: Path, places: Places | None = None) -> Iterator[Finding]:
    """Check the folders and files that the cells of a grid name; a launched grid is known by its name."""
    try:
        loaded = launched.load(name, settings, runs, site=places)
    except (OSError, ValueError) as error:
        yield fault(f"grid {name}", str(error), "its launch", "see the reason")
        return
    if missing := inputs.missing_inputs_of(loaded.cells):
        for line in missing:
            yield fault(
                f"grid {loaded.name}",
                line,
                "its launch",
                "give it on the command line, or in the site's or the grid's file",
            )
    else:
        yield good(f"grid {loaded.name}", f"data and weights of its {len(loaded.cells)} cells are there")
        yield note(
            f"grid {loaded.name}", "whether the files can be read is seen by a launch, or `rankmatch data check`"
        )
