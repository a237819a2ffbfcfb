"""One run, from its config to its result: plan, skip or resume, train epoch by epoch, select, record."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import torch

from biencoder_ablate.config.registry import make_trackers
from biencoder_ablate.config.schema import Config, cache_directory
from biencoder_ablate.data.text_cache import cache_texts
from biencoder_ablate.encoder.device import training_bytes
from biencoder_ablate.encoder.texts import Hidden
from biencoder_ablate.evaluation.baselines import (
    MEASURED,
    Baselines,
    corpus_baselines,
    in_order,
    known_baselines,
    pretrained_baseline,
)
from biencoder_ablate.evaluation.protocols import final_rankings, point_records, split_metrics
from biencoder_ablate.model.biencoder import Embeddings
from biencoder_ablate.model.saved import ModelSpec, save_model
from biencoder_ablate.runs import directory as run_files
from biencoder_ablate.runs.directory import RunDirectory
from biencoder_ablate.runs.records import Record, build_manifest, epoch_line, write_metrics
from biencoder_ablate.runs.trackers import TrackedRun, Trackers
from biencoder_ablate.training import summary
from biencoder_ablate.training.checkpoint import (
    BackgroundWriter,
    RunState,
    load_best,
    load_checkpoint,
    remove_checkpoint,
    save_checkpoint,
    snapshot,
    trained_state,
)
from biencoder_ablate.training.loop import check_trained, embed, make_optimizer, measure_all, scorer_of, train_epoch
from biencoder_ablate.training.plan import Components, RunPlan, build_components, make_plan
from biencoder_ablate.utils.console import RunLog
from biencoder_ablate.utils.distributed import World, process_group, world_from_environment
from biencoder_ablate.utils.files import explained, read_json, remove_parts, write_json, write_text, yaml_string


@dataclass(frozen=True)
class Outcome:
    """What became of a run: its directory and what its result.json says."""

    directory: RunDirectory
    result: dict[str, Any]


def run_experiment(config: Config, composed: str, overrides: list[str], quiet: bool = False) -> Outcome:
    """Train and evaluate one config, or report a run that has finished already.

    `composed` is the config as YAML and `overrides` the command line, both kept with the run. Raises
    ValueError for what the user can mend and RunBusy when another process works in the directory; any other
    failure is noted in train.log and result.json before it is raised.
    """
    world = world_from_environment()
    plan = make_plan(config)
    with process_group(world, plan.device):
        return _run_as(world, plan, composed, overrides, quiet or not world.is_main)


def _run_as(world: World, plan: RunPlan, composed: str, overrides: list[str], quiet: bool) -> Outcome:
    """The run of one process of the world; rank 0 alone locks and writes."""
    config = plan.config
    run = RunDirectory(plan.directory)
    trackers = Trackers(make_trackers(config.tracker) if world.is_main else {})
    done = world.broadcast(run.read_finished())
    if done is not None and not config.rerun:
        RunLog(None, quiet).say(f"{summary.finished_line(run, done)}, already; rerun=true starts over")
        if world.is_main:
            _drop_leftovers(run)
        return Outcome(run, done)
    if not world.is_main:
        with memory_explained(plan):
            return Outcome(run, _train(plan, run, RunLog(None, quiet), world, trackers))
    with run_files.locked(run.path):
        if config.rerun:
            run_files.start_over(run)
        log = _open_run(plan, run, composed, overrides, quiet)
        try:
            with memory_explained(plan):
                result = _train(plan, run, log, world, trackers)
        except Exception as error:
            _note_failure(run, log, error)
            raise
        except BaseException:  # Ctrl-C and signals: the last finished epoch stands
            with contextlib.suppress(OSError):
                log.note("interrupted; the same command goes on from what was finished")
            raise
        finally:
            trackers.finish(None)  # nothing where the run has finished
        run_files.forget_old(run)
    return Outcome(run, result)


class OutOfMemory(RuntimeError):
    """The device, or the machine, has no room for what the run asks for."""


@contextlib.contextmanager
def memory_explained(plan: RunPlan) -> Iterator[None]:
    """Raise OutOfMemory, which says what to change, where torch or Python says that memory is out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        of_host = isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
        if not of_host and not isinstance(error, torch.OutOfMemoryError):
            raise
        raise OutOfMemory(_what_to_lower(plan, torch.device("cpu") if of_host else plan.device)) from error


def _what_to_lower(plan: RunPlan, device: torch.device) -> str:
    """The message of OutOfMemory: where it was out, what a step asks for at most, which key to lower and to what."""
    config, training = plan.config, plan.config.training
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    said = f"out of memory on {device}, which has {memory / 1e9:.3g} GB"
    shape = read_json(plan.source.directory / "config.json")
    lower = f"training.batch_size={max(1, training.batch_size // 2)}"
    if not training.freeze_encoder and shape is not None:
        weights = 16 * (plan.source.directory / "model.safetensors").stat().st_size / 4  # with gradients and moments
        num_tokens = (2 + config.negatives.per_pair) * config.model.max_tokens
        a_pair = num_tokens * training_bytes(SimpleNamespace(**shape), plan.precision)
        needed = f"{(weights + training.batch_size * a_pair) / 1e9:.3g} GB, {a_pair / num_tokens / 1e3:.0f} kB a token"
        said += f"; a step of {training.batch_size} pairs asks for up to {needed}"
        if training.micro_batch is None:
            return f"{said}; add training.micro_batch=auto: the same run then goes on after its last finished epoch"
        fits = int((0.8 * memory - weights) / a_pair)
        lower = f"training.batch_size={min(max(1, fits), max(1, training.batch_size // 2))}"
    return f"{said}; free some of it and the same command goes on, or try {lower}, which is another run"


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


def _open_run(plan: RunPlan, run: RunDirectory, composed: str, overrides: list[str], quiet: bool) -> RunLog:
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


def _train(plan: RunPlan, run: RunDirectory, log: RunLog, world: World, trackers: Trackers) -> dict[str, Any]:
    """The epochs, then the selected one measured and written. Returns the result (on rank 0)."""
    started = time.perf_counter()
    world.broadcast(None)  # rank 0 has locked and opened the directory
    parts = build_components(plan, log, world)
    log.say(summary.before_training(parts, plan))
    trainee, training = parts.trainee, plan.config.training
    optimizer = make_optimizer(trainee.model, plan.config) if training.epochs > 0 else None
    found = load_checkpoint(run.checkpoint, trainee.model, optimizer)
    world.broadcast(None)  # every process has read the checkpoint before rank 0 writes the next
    reached = found or RunState()
    if found is not None:
        log.say(f"going on after epoch {reached.next_epoch - 1}, the last finished one")
        if world.is_main:
            write_metrics(run.path, reached.records)
    baselines, pretrained = _baselines(plan, parts, reached, log, world)
    trackers.start(TrackedRun(run.name, run.path, asdict(plan.config), reached.step, found is not None), log.say)
    leaks = any(
        len(plan.data.splits[name].clean_differs) or not plan.data.index.splits[name].clean.all() for name in MEASURED
    )
    log.say(epoch_line(None, leaks))

    def commit(embeddings: Embeddings, epoch: int, trained: Record, steps: list[tuple[int, Record]]) -> None:
        """An epoch is finished once its checkpoint is on disk; the metrics files and trackers follow from it."""
        started = time.perf_counter()
        values = world.broadcast(measure_all(trainee, embeddings) if world.is_main else None)
        if epoch < 0 and world.is_main:  # to read the others beside
            for name, figures in baselines["pretrained"].items():
                values |= {f"pretrained/{name}/{key}": figures[key] for key in ("top1", "top1_clean", "recall@10")}
        record = {"epoch": epoch, **trained, **values, "eval_seconds": time.perf_counter() - started}
        is_best = epoch >= 0 and selects(record, reached, plan.config.evaluation.select)
        if is_best:
            reached.best_epoch = epoch
        reached.records.append(record)
        if not world.is_main:
            return
        if optimizer is None:
            follow(list(reached.records), reached.step, steps)
            return
        state = snapshot(trainee.model, optimizer, reached)

        def write() -> None:
            save_checkpoint(run.checkpoint, state)
            follow(state["records"], state["step"], steps)

        writer.start(write)

    def follow(records: list[Record], step: int, steps: list[tuple[int, Record]]) -> None:
        write_metrics(run.path, records)
        log.say(epoch_line(records[-1], leaks))
        trackers.epoch(step, records[-1], steps)

    with BackgroundWriter() as writer:
        embeddings = embed(trainee, pretrained if plan.finetuned is None else None)
        if reached.next_epoch < 0:
            commit(embeddings, -1, {}, [])
        while reached.next_epoch < training.epochs and not _out_of_patience(reached, training.patience):
            assert optimizer is not None
            epoch = reached.next_epoch
            trained = train_epoch(trainee, optimizer, epoch, reached.step, embeddings)
            reached.step = trained.step
            embeddings = embed(trainee)
            check_trained(embeddings, epoch)
            commit(embeddings, epoch, trained.record, trained.steps)
    world.broadcast(None)  # rank 0 has written the best weights
    if reached.best_epoch is not None and reached.best_epoch != reached.next_epoch - 1:
        load_best(run.checkpoint, reached, trainee.model)
        embeddings = embed(trainee)
    world.broadcast(None)  # every process has read the best weights before rank 0 drops the checkpoint
    if not world.is_main:
        return {}
    result = _finish(plan, run, log, parts, reached, embeddings, baselines, time.perf_counter() - started)
    trackers.finish(result)
    return result


def _baselines(
    plan: RunPlan, parts: Components, reached: RunState, log: RunLog, world: World
) -> tuple[Baselines, Hidden | None]:
    """What needs no training (on rank 0), and h of the pretrained encoder where the run begins with it."""
    cache = cache_directory(plan.config)
    known = world.broadcast(known_baselines(cache, plan.determined_by) if world.is_main else None)
    hidden = parts.pretrained() if reached.next_epoch <= 0 or "pretrained" not in known else None
    if world.is_main:
        if not {"chance", "pretrained"} <= set(known):
            log.say("measuring what needs no training (BM25, TF-IDF, the pretrained encoder), once for this corpus")
            cache_texts(cache, plan.data.fingerprint, plan.data.corpus)  # for its reports
        data, splits = plan.data, plan.data.splits
        known |= corpus_baselines(cache, data.fingerprint, data.index.texts, splits)
        if hidden is not None:
            known |= pretrained_baseline(cache, plan.determined_by, hidden, splits)
    return known, hidden if reached.next_epoch <= 0 else None


def selects(record: Record, reached: RunState, select: str) -> bool:
    """Whether a new epoch's record has the best val figure so far, the first staying on a tie; with `last`, always.

    Without points that count in clean figures, the official one decides.
    """
    if select == "last":
        return True

    def figure(of: Record) -> float:
        value = of[f"val/{select}"]
        return of["val/top1"] if value is None or math.isnan(value) else value

    best = next((row for row in reached.records if row["epoch"] == reached.best_epoch), None)
    return best is None or figure(record) > figure(best)


def _out_of_patience(reached: RunState, patience: int | None) -> bool:
    if patience is None or reached.best_epoch is None:
        return False
    return reached.next_epoch - 1 - reached.best_epoch >= patience


def _finish(
    plan: RunPlan,
    run: RunDirectory,
    log: RunLog,
    parts: Components,
    reached: RunState,
    embeddings: Embeddings,
    baselines: Baselines,
    seconds: float,
) -> dict[str, Any]:
    """Measure the selected epoch in full, write records, model and result, and drop the checkpoint."""
    figures = write_rankings(run, parts, embeddings, plan.config.evaluation.rerank)
    best = reached.best_epoch if reached.best_epoch is not None else -1
    by_epoch = {record["epoch"]: record for record in reached.records}
    result = {
        "status": "finished",
        "name": run.name,
        "best_epoch": best,
        "selected": by_epoch[best],
        "final": reached.records[-1],
        "initial": by_epoch[-1],
        "val": figures["val"],
        "test": figures["test"],
        "baselines": in_order(baselines),
        "trained_weights": sum(value.numel() for value in parts.trainee.model.parameters()),
        "seconds": seconds,
    }
    if plan.config.training.save_model:
        state, encoder = trained_state(parts.trainee.model), parts.encoder
        copied = plan.finetuned.source.directory if plan.finetuned is not None and encoder is None else None
        trained = None if encoder is None else (encoder.module, encoder.tokenizer)
        save_model(run.model, model_spec_of(plan, parts), state, trained, copied)
    else:
        shutil.rmtree(run.model, ignore_errors=True)
    log.say(summary.last_lines(run, result, plan.config, reached.records))
    write_json(run.result, result)
    remove_checkpoint(run.checkpoint)
    return result


def model_spec_of(plan: RunPlan, parts: Components) -> ModelSpec:
    """What a user of the weights must know: the encoder, its pooling and lengths, and what is built on it."""
    model, source = plan.config.model, plan.pretrained
    return ModelSpec(
        source.name,
        source.fingerprint,
        parts.encoder is not None or plan.finetuned is not None,
        model.pooling,
        model.max_tokens,
        parts.trainee.model.architecture,
        point_prompt=model.point_prompt,
        candidate_prompt=model.candidate_prompt,
    )


def write_rankings(run: RunDirectory, parts: Components, embeddings: Embeddings, rerank: int | str) -> dict[str, Any]:
    """Rank val and test under every candidate set, write rankings.jsonl, and return the figures by split."""
    trainee = parts.trainee
    lines, figures = [], {}
    score = scorer_of(trainee, embeddings)
    for name in MEASURED:
        rankings = final_rankings(trainee.splits[name], embeddings, score, rerank)
        figures[name] = split_metrics(rankings)
        lines += [json.dumps(record, ensure_ascii=False) for record in point_records(rankings)]
    write_text(run.path / "rankings.jsonl", "".join(f"{line}\n" for line in lines))
    return figures
