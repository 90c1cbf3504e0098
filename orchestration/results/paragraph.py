"""The methods paragraph of a paper, from the records of a grid's finished runs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields

from orchestration.results import facts
from orchestration.results.facts import Run, by_records, by_rows
from orchestration.results.wording import counted, listed
from orchestration.runs import steps_left_out
from rankmatch.config import AugmentConfig, NumericsConfig
from rankmatch.methods import METHODS, Kind
from rankmatch.unused import unused_settings

_SAID = ("confidence_threshold", "num_agents", "selection", "top_k", "weight_rank", "consistency", "supervised_steps")
"""Settings of methods that have sentences of their own."""
_MODES = {"whole": "on whole images", "sliding": "by sliding windows of the size of a crop"}


def methods_paragraph(runs: Sequence[Run], *, last: bool = False, first_seeds: int = 0) -> str:
    """Describe runs in sentences; if rows differ, say which ones have which value. Leave out what is not known.

    Args:
        runs: Finished runs.
        last: The figures are those of the last epoch instead of the best one.
        first_seeds: With how many seeds entries began that got more adaptively; 0: seeds were not added so.
    """
    when = "after the last epoch" if last else "after the epoch in which it is highest"
    return " ".join(_sentences(runs, when, first_seeds))


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


def _sentences(runs: Sequence[Run], when: str, first_seeds: int) -> Iterator[str]:
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
    if missed := facts.left_out(runs):
        yield f"A step that is not finite is left out, once ({steps_left_out.SETTING}=leave_out): {missed}."
    yield f"Each setting is trained with {facts.seeds(runs)}."
    if first_seeds:
        yield (
            f"Seeds were added adaptively: each setting began with {first_seeds}, and got one more at a time where its "
            "difference to the baseline was not decided; the tests of differences are corrected for these looks."
        )
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
        yield _rank_term(ranking)
    yield from _steps_of_supervised(runs)
    yield f"The preset is {facts.presets_of(runs)}{_other_settings(runs)}."
    if mining := by_rows(runs, _mining, "method.ohem"):
        yield f"The labeled loss is {mining}."
    if mixing := [run for run in looking if run.numerics.augment.cutmix_probability]:
        yield f"The box of CutMix comes from {by_rows(mixing, _partner, 'augment.cutmix_partner')}."
    yield from _other_views(runs)


def _rank_term(runs: Sequence[Run]) -> str:
    varied = [axis for axis in ("method.num_agents", "method.selection") if axis in runs[0].axes]
    agents = by_rows(runs, _agents, varied[0] if varied else "")
    top = by_rows(runs, lambda one: str(one.method.top_k), "method.top_k")
    weight = by_rows(runs, lambda one: f"{one.method.weight_rank:g}", "method.weight_rank")
    term = by_rows(runs, lambda one: one.method.consistency, "method.consistency")
    return f"RankMatch uses {agents}, K = {top}, and the weight {weight} for its consistency term ({term})."


def _agents(numerics: NumericsConfig) -> str:
    selection = numerics.method.selection
    return facts.agents(numerics) + ("" if selection == "all" else f" (selection: {selection.replace('_', ' ')})")


def _steps_of_supervised(runs: Sequence[Run]) -> Iterator[str]:
    labeled = [run for run in runs if "supervised_steps" in METHODS[run.numerics.method.name].settings]
    if labeled:
        yield f"An epoch of supervised training is {by_rows(labeled, _supervised_epoch, 'method.supervised_steps')}."


def _supervised_epoch(numerics: NumericsConfig) -> str:
    is_equal = numerics.method.supervised_steps == "equal"
    return "as many steps as one of the other methods" if is_equal else "one pass over the labeled images"


def _other_settings(runs: Sequence[Run]) -> str:
    """Name what else the methods read: every field that they declare as theirs, so that none is left out."""
    names = {name for run in runs for name in METHODS[run.numerics.method.name].settings}
    told = _named(runs, [f"method.{name}" for name in sorted(names.difference(_SAID))])
    return f"; the losses have {listed(told)}" if told else ""


def _other_views(runs: Sequence[Run]) -> Iterator[str]:
    """Name the fields of the views that are not those of `AugmentConfig`, UniMatch's recipe."""
    usual = AugmentConfig()
    names = [part.name for part in fields(usual) if part.name not in ("crop_size", "cutmix_partner")]
    changed = [name for name in names
               if any(getattr(run.numerics.augment, name) != getattr(usual, name) for run in runs)]  # fmt: skip
    if told := _named(runs, [f"augment.{name}" for name in changed]):
        yield f"The views are those of UniMatch, but with {listed(told)}."


def _named(runs: Sequence[Run], settings: Sequence[str]) -> list[str]:
    """Word the values of some settings, each of the runs that read it."""
    told = []
    for setting in settings:
        if reading := [run for run in runs if setting not in unused_settings(run.numerics)]:
            told.append(f"{setting.partition('.')[2]} = {by_rows(reading, _value_of(setting), setting)}")
    return told


def _value_of(setting: str) -> Callable[[NumericsConfig], str]:
    section, _, name = setting.partition(".")
    return lambda numerics: _text(getattr(getattr(numerics, section), name))


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _mining(numerics: NumericsConfig) -> str:
    method = numerics.method
    if not method.ohem:
        return "cross-entropy over all valid pixels"
    where = "" if method.ohem_scope == "global" else " of each worker"
    return (
        f"cross-entropy over the hard pixels{where} (OHEM: those of a probability of at most "
        f"{method.ohem_threshold:g}, and at least {method.ohem_min_kept_per_image:,} pixels an image)"
    )


def _partner(numerics: NumericsConfig) -> str:
    return {"same_image": "another crop of the same image", "other_image": "another image"}[
        numerics.augment.cutmix_partner
    ]


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
