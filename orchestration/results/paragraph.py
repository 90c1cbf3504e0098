"""The methods paragraph of a paper, from the records of a grid's finished runs."""

from collections.abc import Callable, Iterator, Sequence

from orchestration.results import facts
from orchestration.results.facts import Run, by_records, by_rows
from orchestration.results.wording import counted, listed
from rankmatch.methods import METHODS, Kind

_MODES = {"whole": "on whole images", "sliding": "by sliding windows of the size of a crop"}


def methods_paragraph(runs: Sequence[Run], *, last: bool = False) -> str:
    """Describe runs in sentences; if rows differ, say which ones have which value. Leave out what is not known.

    Args:
        runs: Finished runs.
        last: The figures are those of the last epoch instead of the best one.
    """
    return " ".join(_sentences(runs, "after the last epoch" if last else "after the epoch in which it is highest"))


def missing(runs: Sequence[Run]) -> list[str]:
    """Name facts that belong in a paper but were not recorded, one line each."""
    wanted: dict[str, Callable[[Run], object]] = {
        "the commit of the code": facts.code_of,
        "the hash of requirements.lock": lambda run: run.provenance.get("lock_sha256"),
        "the hardware": facts.hardware_of,
        "GPU-hours": lambda run: run.record["gpu_duration_s"] is not None,
    }
    lines = []
    for name, of in wanted.items():
        number = sum(not of(run) for run in runs)
        reasons = dict.fromkeys(str(run.provenance.get("commit_unknown", "")) for run in runs if not of(run))
        why = listed([reason for reason in reasons if reason]) if of is facts.code_of else ""
        lines += (
            [f"{name}, of {number} of {counted(len(runs), 'run')}" + (f" ({why})" if why else "")] if number else []
        )
    return lines


def _sentences(runs: Sequence[Run], when: str) -> Iterator[str]:
    yield (
        f"Each model is a DeepLabV3+ on {by_rows(runs, facts.backbone, 'backbone')} whose backbone starts from "
        f"{facts.settings(runs)['backbone starts from']}."
    )
    yield f"The data set is {facts.settings(runs)['data set']}; the labeled images are those of split {_splits(runs)}."
    if all(run.num_labels is not None for run in runs):
        yield f"That is {by_records(runs, lambda run: counted(run.num_labels or 0, 'labeled image'))}."
    yield from _methods(runs)
    yield (
        f"We use {by_rows(runs, facts.optimizer)}. The learning rate of the backbone starts at "
        f"{by_rows(runs, facts.rate, 'trainer.learning_rate')} and that of the other layers at "
        f"{facts.settings(runs)['learning rate of other layers']}; both decay by a polynomial schedule with power "
        f"{by_rows(runs, lambda one: f'{one.trainer.poly_power:g}')}."
    )
    yield f"Each step takes {by_rows(runs, facts.batch)}, in crops of {by_rows(runs, facts.crop, 'augment.crop_size')}."
    epochs = by_rows(runs, lambda one: counted(one.trainer.epochs, "epoch"), "trainer.epochs")
    yield f"A run lasts {epochs} and takes {facts.steps(runs)}."
    yield f"Each setting is trained with {facts.seeds(runs)}."
    mode = by_rows(runs, lambda one: _MODES[one.evaluation.mode])
    yield f"We report the mIoU on the validation images, predicted {mode}, {when}."
    yield from _costs(runs)


def _splits(runs: Sequence[Run]) -> str:
    return by_rows(runs, lambda one: one.split, "split")


def _methods(runs: Sequence[Run]) -> Iterator[str]:
    names = list(dict.fromkeys(run.numerics.method.name for run in runs))
    words = [METHODS[name].title for name in names]
    yield f"We compare {listed(words)}." if len(words) > 1 else f"The method is {words[0]}."
    looking = [run for run in runs if METHODS[run.numerics.method.name].sees_unlabeled]
    if looking:
        threshold = by_rows(looking, lambda one: f"{one.method.confidence_threshold:g}", "method.confidence_threshold")
        yield f"Pseudo-labels count where their confidence is at least {threshold}."
    ranking = [run for run in runs if METHODS[run.numerics.method.name].has(Kind.RANK)]
    if ranking:
        agents = by_rows(ranking, lambda one: str(one.method.num_agents), "method.num_agents")
        kind = by_rows(ranking, lambda one: one.method.selection.replace("_", " "), "method.selection")
        top = by_rows(ranking, lambda one: str(one.method.top_k), "method.top_k")
        weight = by_rows(ranking, lambda one: f"{one.method.weight_rank:g}", "method.weight_rank")
        term = by_rows(ranking, lambda one: one.method.consistency, "method.consistency")
        yield (
            f"RankMatch uses {agents} agents (selection: {kind}), K = {top}, and the weight {weight} for its "
            f"consistency term ({term})."
        )


def _costs(runs: Sequence[Run]) -> Iterator[str]:
    gpu, wall = facts.summed(runs, "gpu_duration_s"), facts.summed(runs, "duration_s")
    spent = f"{facts.hours(gpu)} GPU-hours" if gpu else facts.duration(wall) if wall and gpu is not None else ""
    hardware = by_records(runs, facts.hardware_of)
    precision = by_rows(runs, lambda one: one.trainer.precision, "trainer.precision")
    torch = by_records(runs, lambda run: str(run.provenance.get("torch") or ""))
    if spent:
        yield f"The {counted(len(runs), 'run')} took {spent} in all{f', on {hardware}' if hardware else ''}."
    yield f"They were computed in {precision}{f' with PyTorch {torch}' if torch else ''}."
    if code := by_records([run for run in runs if facts.code_of(run)], facts.code_of):
        yield f"The code is that of commit {code}."
