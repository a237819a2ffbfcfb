"""One run, from its config to its result: plan, skip or resume, train epoch by epoch, select, record."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import traceback
from dataclasses import asdict, dataclass
from typing import Any

import torch

from biencoder_ablate.config import Config
from biencoder_ablate.evaluation import records as evaluation_records
from biencoder_ablate.evaluation.reevaluate import final_rankings
from biencoder_ablate.files import explained, remove_parts, write_json, write_text, yaml_string
from biencoder_ablate.model.save import save_model
from biencoder_ablate.runs import directory as run_files
from biencoder_ablate.runs.directory import RunDirectory
from biencoder_ablate.runs.log import RunLog
from biencoder_ablate.runs.manifest import build_manifest
from biencoder_ablate.runs.records import HEADER, Record, epoch_line, write_metrics
from biencoder_ablate.runs.trackers import TrackedRun, Trackers, choose_trackers
from biencoder_ablate.training import summary
from biencoder_ablate.training.assemble import Parts, Plan, build_parts, make_plan
from biencoder_ablate.training.checkpoint import (
    Progress,
    load_best,
    load_checkpoint,
    remove_checkpoint,
    save_checkpoint,
    trained_state,
)
from biencoder_ablate.training.loop import (
    Embeddings,
    check_finite,
    embed,
    make_optimizer,
    measure_all,
    pair_scorer,
    train_epoch,
)
from biencoder_ablate.training.processes import World, joined, world_from_environment


@dataclass(frozen=True)
class Outcome:
    """What became of a run: its directory and what its result.json says."""

    directory: RunDirectory
    result: dict[str, Any]
    skipped: bool


def run_experiment(config: Config, composed: str, overrides: list[str], quiet: bool = False) -> Outcome:
    """Train and evaluate one config, or report a run that has finished already.

    `composed` is the config as YAML and `overrides` the command line, both kept with the run. Raises
    ValueError for what the user can mend and RunBusy when another process works in the directory; any other
    failure is noted in train.log and result.json before it is raised.
    """
    world = world_from_environment()
    plan = make_plan(config)
    with joined(world, plan.device):
        return _run_as(world, plan, composed, overrides, quiet or not world.is_main)


def _run_as(world: World, plan: Plan, composed: str, overrides: list[str], quiet: bool) -> Outcome:
    """The run of one process of the world; rank 0 alone locks and writes."""
    config = plan.config
    run = RunDirectory(plan.directory)
    trackers = choose_trackers(config.tracker) if world.is_main else Trackers()
    done = world.agree(run.read_result())
    if done is not None and done.get("status") == "finished" and (not config.rerun):
        RunLog(None, quiet).say(summary.finished_already(run, done))
        if world.is_main:
            _drop_leftovers(run)
        return Outcome(run, done, skipped=True)
    if not world.is_main:
        return Outcome(run, _train(plan, run, RunLog(None, quiet), world, trackers), skipped=False)
    with run_files.locked(run.path):
        if config.rerun:
            run_files.start_over(run)
        log = _open_run(plan, run, composed, overrides, quiet)
        try:
            result = _train(plan, run, log, world, trackers)
        except Exception as error:
            _note_failure(run, log, error)
            raise
        except BaseException:  # Ctrl-C and signals: the last finished epoch stands
            with contextlib.suppress(OSError):
                log.note("interrupted; the same command goes on from the last finished epoch")
            raise
        finally:
            trackers.finish(None)  # nothing where the run has finished
        run_files.forget_old(run)
    return Outcome(run, result, skipped=False)


def _drop_leftovers(run: RunDirectory) -> None:
    """A run that was killed after its result was written still has its checkpoint, and what rerun=true kept aside."""
    if run.checkpoint.exists() or run.aside.exists():
        with contextlib.suppress(run_files.RunBusy), run_files.locked(run.path):
            remove_checkpoint(run.checkpoint)
            run_files.forget_old(run)


def _note_failure(run: RunDirectory, log: RunLog, error: Exception) -> None:
    """Say in the run's own files why it failed, as far as the disk, which may be what failed, takes it."""
    with contextlib.suppress(OSError):
        log.note(traceback.format_exc())
    why = explained(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError):
        write_json(run.result, {"status": "failed", "name": run.name, "error": why})


def _open_run(plan: Plan, run: RunDirectory, composed: str, overrides: list[str], quiet: bool) -> RunLog:
    """Make the directory and write what was asked and what with, before the first step."""
    (run.path / ".hydra").mkdir(parents=True, exist_ok=True)
    remove_parts(run.path)
    write_text(run.path / ".hydra" / "config.yaml", composed)
    listed = "".join(f"- {yaml_string(override)}\n" for override in overrides)
    write_text(run.path / ".hydra" / "overrides.yaml", listed or "[]\n")
    manifest = build_manifest(run.name, str(plan.device), plan.precision, torch.get_num_threads(), plan.determined_by)
    write_json(run.path / "manifest.json", manifest)
    run.result.unlink(missing_ok=True)
    log = RunLog(run.log, quiet)
    log.say(summary.first_lines(plan, run))
    return log


def _train(plan: Plan, run: RunDirectory, log: RunLog, world: World, trackers: Trackers) -> dict[str, Any]:
    """The epochs, then the selected one measured and written. Returns the result (on rank 0)."""
    started = time.perf_counter()
    world.agree(None)  # rank 0 has locked and opened the directory
    parts = build_parts(plan, log, world)
    log.say(summary.before_training(parts))
    task, recipe = parts.task, parts.recipe
    optimizer = make_optimizer(task.model, recipe, plan.config.training.fast) if recipe.epochs > 0 else None
    found = load_checkpoint(run.checkpoint, task.model, optimizer)
    world.agree(None)  # every process has read the checkpoint before rank 0 writes the next
    progress = found or Progress()
    if found is not None:
        log.say(f"going on after epoch {progress.next_epoch - 1}, the last finished one")
        if world.is_main:
            write_metrics(run.path, progress.records)
    trackers.start(TrackedRun(run.name, run.path, asdict(plan.config), progress.step, found is not None), log.say)
    log.say(HEADER)
    is_untrained = progress.next_epoch <= 0
    embeddings = embed(task, parts.untrained() if is_untrained and parts.untrained is not None else None)
    if progress.next_epoch < 0:
        record = _measured(parts, embeddings, -1, {})
        _commit(run, log, parts, optimizer, progress, record, trackers)
    while progress.next_epoch < recipe.epochs and not _out_of_patience(progress, recipe.patience):
        assert optimizer is not None
        epoch = progress.next_epoch
        trained, progress.step = train_epoch(task, recipe, optimizer, epoch, progress.step, embeddings, trackers)
        embeddings = embed(task)
        check_finite(embeddings, epoch)
        _commit(run, log, parts, optimizer, progress, _measured(parts, embeddings, epoch, trained), trackers)
    if progress.best_epoch is not None and progress.best_epoch != progress.next_epoch - 1:
        load_best(run.checkpoint, progress, task.model)
        embeddings = embed(task)
    world.agree(None)  # every process has read the best weights before rank 0 drops the checkpoint
    if not world.is_main:
        return {}
    result = _finish(plan, run, log, parts, progress, embeddings, time.perf_counter() - started)
    trackers.finish(result)
    return result


def _measured(parts: Parts, embeddings: Embeddings, epoch: int, trained: Record) -> Record:
    started = time.perf_counter()
    world = parts.task.world
    values = world.agree(measure_all(parts.task, parts.recipe, embeddings) if world.is_main else None)
    return {"epoch": epoch, **trained, **values, "eval_seconds": time.perf_counter() - started}


def _commit(
    run: RunDirectory,
    log: RunLog,
    parts: Parts,
    optimizer: torch.optim.Optimizer | None,
    progress: Progress,
    record: Record,
    trackers: Trackers,
) -> None:
    """An epoch is finished once its checkpoint is on disk; the metrics files follow from it."""
    best = progress.best_epoch
    best_top1 = next((row["val/top1"] for row in progress.records if row["epoch"] == best), -1.0)
    is_best = record["epoch"] >= 0 and record["val/top1"] > best_top1
    if is_best:
        progress.best_epoch = record["epoch"]
    progress.records.append(record)
    if not parts.task.world.is_main:
        return
    if parts.recipe.epochs > 0:
        state = trained_state(parts.task.model) if is_best else None
        save_checkpoint(run.checkpoint, parts.task.model, optimizer, progress, state)
    write_metrics(run.path, progress.records)
    log.say(epoch_line(record))
    trackers.epoch(progress.step, record)


def _out_of_patience(progress: Progress, patience: int | None) -> bool:
    if patience is None or progress.best_epoch is None:
        return False
    return progress.next_epoch - 1 - progress.best_epoch >= patience


def _finish(
    plan: Plan, run: RunDirectory, log: RunLog, parts: Parts, progress: Progress, embeddings: Embeddings, seconds: float
) -> dict[str, Any]:
    """Measure the selected epoch in full, write records, model and result, and drop the checkpoint."""
    figures = write_rankings(run, parts, embeddings, plan.config.evaluation.rerank)
    best = progress.best_epoch if progress.best_epoch is not None else -1
    by_epoch = {record["epoch"]: record for record in progress.records}
    result = {
        "status": "finished",
        "name": run.name,
        "best_epoch": best,
        "selected": by_epoch[best],
        "final": progress.records[-1],
        "initial": by_epoch[-1],
        "val": figures["val"],
        "test": figures["test"],
        "seconds": seconds,
    }
    if plan.config.training.save_model:
        task = parts.task
        contract = contract_of(plan.config, plan.source.name, plan.source.fingerprint, parts.pooled_dim)
        save_model(run.model, trained_state(task.model), parts.encoder, parts.tokenizer, contract)
    else:
        shutil.rmtree(run.model, ignore_errors=True)
    log.say(summary.last_lines(run, result))
    write_json(run.result, result)
    remove_checkpoint(run.checkpoint)
    return result


def contract_of(config: Config, model_name: str, model_fingerprint: str, pooled_dim: int) -> dict[str, Any]:
    """What a user of the weights must know: the encoder, its pooling and lengths, the shapes and the head."""
    return {
        "encoder": {
            "name": model_name,
            "fingerprint": model_fingerprint,
            "copied": not config.training.freeze_encoder,
            "pooling": config.model.pooling,
            "max_tokens": config.model.max_tokens,
            "width": pooled_dim,
        },
        "retrieval_dim": config.model.retrieval_dim,
        "fusion": config.fusion.name,
        "head": vars(config.head),
    }


def write_rankings(run: RunDirectory, parts: Parts, embeddings: Embeddings, rerank: int | str) -> dict[str, Any]:
    """Rank val and test under every candidate set, write rankings.jsonl, and return the figures by split."""
    task = parts.task
    lines, figures = [], {}
    score = pair_scorer(task, embeddings)
    for name in ("val", "test"):
        rankings = final_rankings(task.splits[name], task.model, embeddings.h, embeddings.r, score, rerank)
        figures[name] = evaluation_records.split_figures(rankings)
        lines += [json.dumps(record, ensure_ascii=False) for record in evaluation_records.point_records(rankings)]
    write_text(run.path / "rankings.jsonl", "".join(f"{line}\n" for line in lines))
    return figures
