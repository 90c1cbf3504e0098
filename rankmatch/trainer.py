"""`fit`: the one training loop, for every method and any number of workers."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rankmatch import NUMERICS, bad_steps, checkpoint, samples, scores
from rankmatch.bad_steps import BadStep, FiniteWatch, NonFiniteLossError, StepToLeaveOutError
from rankmatch.config import TrainConfig
from rankmatch.data.catalog import open_dataset
from rankmatch.data.loaders import Batch, TrainLoader, val_loader
from rankmatch.data.splits import read_splits
from rankmatch.data.views import ViewMaker
from rankmatch.diagnostics import Ratio
from rankmatch.distributed import sum_over_workers, world
from rankmatch.epoch_figures import EpochFigures, quotients, row_name, summed, without_steps
from rankmatch.epoch_warnings import EpochWarnings, last_layer, moved_by
from rankmatch.evaluation import Evaluation, EvaluationStopped, evaluate
from rankmatch.fit_result import FitResult as FitResult
from rankmatch.memory import keep_freed_memory
from rankmatch.methods import METHODS
from rankmatch.network import choose_device as choose_device
from rankmatch.network import make_network as make_network
from rankmatch.optimisation import autocast, backward, make_optimizer, set_learning_rate
from rankmatch.resume import best_with, check_same_run
from rankmatch.step import passes

Report = Callable[[int, Mapping[str, float | None]], None]
"""Takes the index of the last step done (from 0) and a row of numbers; a row with `epoch` sums up that epoch."""


def fit(
    config: TrainConfig,
    run_dir: Path,
    report: Report,
    *,
    resume_from: Path | None = None,
    should_stop: Callable[[], bool] | None = None,
    before_checkpoint: Callable[[], None] | None = None,
    left_out: Collection[int] = (),
) -> FitResult:
    """Train one model, on every worker of a process group or on a single process.

    Args:
        config: The run.
        run_dir: Gets `checkpoints/step_<k>`, `best.pt` and, at the end, `evaluation.json`, `samples.png`, `pictures`.
        report: Called on rank 0 only.
        resume_from: A checkpoint to resume from; None: the newest in `run_dir`, else the beginning.
        should_stop: Polled at step edges (with several workers, every `log_every_steps`) and between the images of an
            evaluation, which is then repeated by the next run; true ends the run with a checkpoint. It is polled while
            waiting for data as well, where true ends the run of a single worker alone.
        before_checkpoint: Called on rank 0 before each checkpoint. All reported rows must be on the disk when it
            returns, because a run that resumes from the checkpoint only reports later steps.
        left_out: Steps that an earlier call with `trainer.when_not_finite=leave_out` ended at, to go on without them.

    Raises:
        ValueError: Bad data or settings, or a checkpoint of another configuration.
        NonFiniteLossError: The loss, or a weight, became NaN or infinite; `bad_step.json` in `run_dir` says at which
            step. A `StepToLeaveOutError` asks for another call with that step in `left_out`.
    """
    if world().size != config.execution.trainer.num_workers:
        raise ValueError(
            f"trainer.num_workers must be {world().size}, the processes of the group; "
            f"got {config.execution.trainer.num_workers}"
        )
    keep_freed_memory()
    run_dir.mkdir(parents=True, exist_ok=True)
    run = _Run(config, run_dir, report, should_stop or (lambda: False), before_checkpoint or (lambda: None))
    run.left_out = frozenset(left_out)
    run.restore(resume_from or checkpoint.newest(run_dir))
    return run.train()


class _Run:
    """One process's part of a run, and the state that a checkpoint holds."""

    def __init__(
        self,
        config: TrainConfig,
        run_dir: Path,
        report: Report,
        should_stop: Callable[[], bool],
        before_checkpoint: Callable[[], None],
    ) -> None:
        self.config, self.numerics, self.settings = config, config.numerics, config.execution.trainer
        self.run_dir, self.report, self.should_stop = run_dir, report, should_stop
        self.before_checkpoint = before_checkpoint
        self.world = world()
        self.device = choose_device(self.settings.device)
        self.splits, self.dataset = read_splits(config), open_dataset(config)
        self.loader = TrainLoader(
            config,
            self.splits,
            self.dataset,
            rank=self.world.rank,
            world_size=self.world.size,
            pin_memory=self.device.type == "cuda",
        )
        self.network = make_network(config, self.device)
        self.model = self._trainable(self.network)
        self.optimizer = make_optimizer(self.network, self.numerics)
        channels = (self.network.low_channels, self.network.high_channels)
        self.views = ViewMaker(self.numerics, channels, self.device)
        epochs = self.numerics.trainer.epochs
        self.result = FitResult(num_epochs=epochs, num_steps=epochs * self.loader.steps_per_epoch)
        self.best: checkpoint.Best | None = None
        self.counts: scores.Counts | None = None
        """Counts of the evaluation at the best epoch."""
        self.figures = EpochFigures()
        self.left_out: frozenset[int] = frozenset()
        self.finite = FiniteWatch(self.network, self.device)
        self.warnings = EpochWarnings(self.numerics, config.execution.class_names)
        self.weights_before: Tensor | None = None
        """Of the last layer, before an epoch that is trained as a whole by this process."""
        self.saved_at = time.monotonic()

    def train(self) -> FitResult:
        """Train from the current state to the end, or until told to stop."""
        while self.result.epoch < self.result.num_epochs:
            started = time.monotonic()
            if not (self._train_epoch() and self._end_epoch(time.monotonic() - started)):
                self._save()
                return self.result
        self._draw_samples()
        self.result.finished = True
        return self.result

    def restore(self, path: Path | None) -> None:
        """Load a checkpoint's state, if there is one."""
        if path is None:
            if self.world.rank == 0:
                checkpoint.show_best(None, self.run_dir)
            return
        state = checkpoint.load(path)
        check_same_run(path, state, self.numerics, self.result.num_steps)
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.result = FitResult(**state["result"])
        self.counts = state.get("counts")  # which earlier versions did not keep
        kept = (state["totals"], state.get("class_counts", {}))  # which earlier versions did not keep
        self.figures = EpochFigures(*({name: sums.to(self.device) for name, sums in one.items()} for one in kept))
        steps_per_epoch = self.loader.steps_per_epoch
        self.best, weights = best_with(path, self.result.best_epoch, self.result.best_miou, steps_per_epoch)
        if self.world.rank == 0:
            checkpoint.show_best(weights, self.run_dir)

    def _trainable(self, network: nn.Module) -> nn.Module:
        if self.numerics.trainer.compile:
            network = torch.compile(network)  # type: ignore[assignment]
        if self.world.size == 1:
            return network
        # Batch-norm buffers are equal on all workers already, by synchronised statistics.
        return DistributedDataParallel(network, forward_sync_buffers=False)

    def _train_epoch(self) -> bool:
        """Run the remaining steps of the epoch; return false if told to stop before its end."""
        self.network.train()
        first_step = self.result.step - self.result.epoch * self.loader.steps_per_epoch
        self.weights_before = last_layer(self.network) if first_step == 0 else None
        batches = self.loader.epoch(self.result.epoch, first_step, self._stops_alone)
        for batch in batches:
            if self._stop_agreed():
                return False
            self._save_if_due()
            if self.result.step in self.left_out:
                self.result.steps_left_out.append(self.result.step)
                self.result.step += 1
                continue
            schedule = self.numerics.trainer
            rate = set_learning_rate(
                self.optimizer,
                self.result.step,
                self.result.num_steps,
                schedule.poly_power,
                schedule.learning_rate_lag,
            )
            figures = self._step(batch)
            self.result.step += 1
            if (self.result.step - 1) % self.settings.log_every_steps == 0:
                self._report_step(figures, rate)
        return not batches.stopped

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step; return its figures over all workers, [sum, count] by name, which count for the epoch too."""
        views = self.views.make(batch, self.result.epoch)
        self.optimizer.zero_grad(set_to_none=True)
        losses: dict[str, Tensor] = {}
        ratios: dict[str, Ratio] = {}
        counts: dict[str, Tensor] = {}
        with autocast(self.numerics, self.device):
            for part in passes(self.model, self.network, views, self.numerics):
                backward(part.loss)
                losses |= part.losses
                ratios |= part.ratios
                counts |= part.class_counts
        self.optimizer.step()
        total = METHODS[self.numerics.method.name].total(losses, self.numerics.method)
        step = summed({"loss": total, **losses}, ratios, counts)
        of_losses = {row_name(name): step.pairs[name] for name in ("loss", *losses)}
        self.finite.note(self.result.step, of_losses, step.bad_workers)
        self.figures.add(step)
        return step.pairs

    def _report_step(self, figures: dict[str, Tensor], rate: float) -> None:
        self._check_finite()
        row = quotients(figures)
        if self.world.rank == 0:
            self.report(self.result.step - 1, {**row, "learning_rate": rate})

    def _check_finite(self) -> None:
        """Raise if a step since the last look was not finite; called where the device is waited for anyway."""
        if (bad := self.finite.found()) is None:
            return
        self.before_checkpoint()  # nothing is written once a newer attempt exists
        is_first = not self.left_out and not self.result.steps_left_out
        may_leave_out = self.numerics.trainer.when_not_finite == "leave_out" and is_first
        what = bad.in_words(self.result.num_steps)
        try:
            path = self._write_bad_step(bad, may_leave_out)
        except OSError as error:  # the next attempt would not know, and come to this step again
            where = "its images could not be written down" + (", so it cannot be left out" if may_leave_out else "")
            why = f"{where}: {error.strerror or error}"
            raise NonFiniteLossError(f"{what}; {why}") from None  # a cause would make it a failure of the disk
        kind = StepToLeaveOutError if may_leave_out else NonFiniteLossError
        raise kind(f"{what}; its images are in {path}")

    def _write_bad_step(self, bad: BadStep, leave_out: bool) -> Path:
        """Write what it takes to look at it again; return where that is."""
        epoch, step = divmod(bad.step, self.loader.steps_per_epoch)
        place = {"num_steps": self.result.num_steps, "seed": self.numerics.seed, "epoch": epoch, "step_of_epoch": step}
        images = [self.loader.images(epoch, step, worker) for worker in range(self.world.size)]
        return bad_steps.write(self.run_dir, bad, place=place, leave_out=leave_out, images=images)

    def _end_epoch(self, duration_s: float) -> bool:
        """Evaluate, report and save; return false if stopped during the evaluation, which must then be repeated."""
        self._check_finite()
        row = quotients(self.figures.totals) or without_steps(METHODS[self.numerics.method.name])
        if self.world.rank == 0:
            self.warnings.tell(self.result.epoch + 1, row, self.figures.class_counts, self._moved())
        started = time.monotonic()
        try:
            evaluation = self._evaluate()
        except EvaluationStopped:
            return False
        self.result.epoch += 1
        is_best = self._note(evaluation)
        self.figures = EpochFigures()
        row |= {
            "epoch": self.result.epoch,
            "num_epochs": self.result.num_epochs,
            "num_steps": self.result.num_steps,
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "miou": self.result.last_miou,
            "best_miou": self.result.best_miou,
            "duration_s": duration_s,
            "evaluation_s": time.monotonic() - started,
        }
        row |= {f"class_iou_{c}": iou for c, iou in enumerate(self.result.last_class_iou) if iou is not None}
        if self.world.rank == 0:
            self.report(self.result.step - 1, row)
        self._save(is_best=is_best)
        return True

    def _moved(self) -> float:
        """Return by how much the epoch changed the last layer, relative to its size; NaN if that is not known."""
        before = self.weights_before
        return float("nan") if before is None else moved_by(before, last_layer(self.network))

    def _val_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        loader = val_loader(
            self.splits,
            self.dataset,
            rank=self.world.rank,
            world_size=self.world.size,
            trainer=self.settings,
            should_stop=self._stops_alone,
        )
        yield from loader
        if loader.stopped:
            raise EvaluationStopped

    def _evaluate(self) -> Evaluation:
        with autocast(self.numerics, self.device):
            return evaluate(
                self.network,
                self._val_batches(),
                num_classes=self.numerics.dataset.num_classes,
                device=self.device,
                mode=self.numerics.evaluation.mode,
                crop_size=self.numerics.augment.crop_size,
                absent_classes=self.numerics.evaluation.absent_classes,
                reduce=sum_over_workers if self.world.size > 1 else None,
                should_stop=self.should_stop,
            )

    def _draw_samples(self) -> None:
        if self.world.rank == 0:
            with autocast(self.numerics, self.device):
                samples.leave(self.run_dir, self.config, self.network, self.splits, self.dataset, self.device)
            scores.write(self.run_dir, self.counts, self.result.best_epoch)

    def _note(self, evaluation: Evaluation) -> bool:
        """Record an epoch's figures; return true if it is the best so far."""
        result = self.result
        class_iou = [None if iou != iou else iou for iou in evaluation.class_iou.tolist()]
        result.last_miou = evaluation.miou(self.numerics.evaluation.absent_classes)
        result.last_class_iou = class_iou
        result.num_present_classes = int(evaluation.present.sum())
        if not result.last_miou > result.best_miou:
            return False
        result.best_miou, result.best_epoch, result.best_class_iou = result.last_miou, result.epoch, class_iou
        self.best = checkpoint.Best(result.epoch, result.step, result.best_miou)
        self.counts = scores.of(evaluation)
        return True

    def _stop_agreed(self) -> bool:
        """Return whether to stop; several workers agree at intervals, so that none waits for one that left."""
        if self.world.size == 1:
            return self.should_stop()
        if self.result.step % self.settings.log_every_steps:
            return False
        votes = torch.tensor([float(self.should_stop())], device=self.device)
        return bool(sum_over_workers(votes) > 0)

    def _stops_alone(self) -> bool:
        """Return whether to stop while waiting for data; one of several workers asks too, but cannot leave by itself.

        To ask is the sign of life by which a wait is told from a training that hangs.
        """
        should_stop = self.should_stop()
        return should_stop and self.world.size == 1

    def _save_if_due(self) -> None:
        if time.monotonic() - self.saved_at > 60 * self.settings.checkpoint_every_min:
            self._save()

    def _save(self, *, is_best: bool = False) -> None:
        """Write a checkpoint; `is_best` stores the current weights as the best ones, right after their epoch."""
        self.saved_at = time.monotonic()
        self._check_finite()  # never save a broken network: every later attempt would resume from it
        if self.world.rank != 0:
            return
        self.before_checkpoint()
        weights = self.network.state_dict()
        state = {
            "version": NUMERICS,
            "numerics": asdict(self.numerics),
            "model": weights,
            "optimizer": self.optimizer.state_dict(),
            "result": asdict(self.result),
            "totals": self.figures.totals,
            "class_counts": self.figures.class_counts,
            "counts": self.counts,
        }
        path = checkpoint.save(
            self.run_dir,
            self.result.step,
            state,
            self.settings.num_checkpoints,
            best=self.best,
            weights=weights if is_best else None,
            is_evaluated=self.result.step < (self.result.epoch + 1) * self.loader.steps_per_epoch,
        )
        self.best = checkpoint.best_in(path)
