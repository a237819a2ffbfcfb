"""One run, from its config to its result: plan, skip or resume, train epoch by epoch, select, record."""

from __future__ import annotations

import contextlib
import json
import os
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
from biencoder_ablate.evaluation.pair_scores import pair_scorer
from biencoder_ablate.evaluation.protocols import final_rankings, point_records, split_metrics
from biencoder_ablate.model.biencoder import Embeddings
from biencoder_ablate.model.saved import ModelSpec, save_model
from biencoder_ablate.runs.directory import (
    RunBusy,
    RunDirectory,
    forget_old,
    lies_locked,
    locked,
    refuse_links,
    start_over,
)
from biencoder_ablate.runs.records import Record, build_manifest, epoch_line, select_epoch, write_metrics
from biencoder_ablate.runs.trackers import TrackedRun, Trackers
from biencoder_ablate.training import summary
from biencoder_ablate.training.alive import costs_result, parts_result
from biencoder_ablate.training.checkpoint import (
    BackgroundWriter,
    DamagedCheckpoint,
    RunState,
    load_best,
    load_checkpoint,
    remove_checkpoint,
    save_checkpoint,
    snapshot,
    trained_state,
)
from biencoder_ablate.training.loop import (
    StepRecords,
    check_trained,
    embed,
    make_optimizer,
    measure_all,
    train_epoch,
)
from biencoder_ablate.training.plan import Components, RunPlan, build_components, make_plan
from biencoder_ablate.utils.console import RunLog, format_error
from biencoder_ablate.utils.deterministic import deterministic_kernels
from biencoder_ablate.utils.distributed import World, losses_explained, process_group, world_from_environment
from biencoder_ablate.utils.files import read_json, remove, remove_parts, write_json, write_text, yaml_string


@dataclass(frozen=True)
class RunOutcome:
    """What became of a run: its directory and what its result.json says."""

    directory: RunDirectory
    result: dict[str, Any]


class OutOfMemory(RuntimeError):
    """The device, or the machine, has no room for what the run asks for."""


def run_experiment(
    config: Config,
    composed: str,
    overrides: list[str],
    quiet: bool = False,
    bars: bool | None = None,
) -> RunOutcome:
    """Train and evaluate one config, or report a run that has finished already.

    A `quiet` run says on the screen nothing of what is in its train.log; `bars`: whether it shows progress bars there,
    as a rule where it is not quiet.

    `composed` is the config as YAML and `overrides` the command line, both kept with the run. Of several processes
    rank 0 alone locks and writes, and has the result. Raises ValueError for what the user can mend and RunBusy when
    another process works in the directory; any other failure is noted in train.log and result.json before it is raised.
    """
    world = world_from_environment()
    plan = make_plan(config)
    run = RunDirectory(plan.directory)
    quiet = quiet or not world.is_main
    with process_group(world, plan.device):
        trackers = Trackers(make_trackers(config.tracker) if world.is_main else {})
        finished = world.broadcast(run.read_finished())
        if finished is not None and not config.rerun:
            RunLog(None, quiet).say(f"{summary.finished_line(run, finished)}, already; rerun=true starts over")
            if world.is_main:
                _drop_leftovers(run)
            return RunOutcome(run, finished)

        if not world.is_main:
            with _errors_explained(plan):
                return RunOutcome(run, _train(plan, run, RunLog(None, quiet), world, trackers))
        with locked(run.path):
            if config.rerun:
                start_over(run)
            log = _open_run(plan, run, composed, overrides, RunLog(run.log, quiet, bars))
            try:
                with _errors_explained(plan):
                    result = _train(plan, run, log, world, trackers)
            except Exception as error:
                _note_failure(run, log, error)
                raise
            except BaseException:
                # Ctrl-C and signals: the last finished epoch stands.
                with contextlib.suppress(OSError):
                    log.note("interrupted; the same command goes on from what was finished")
                raise
            finally:
                # Of a run that has finished its trackers have been told already.
                trackers.finish(None)
            forget_old(run)
        return RunOutcome(run, result)


@contextlib.contextmanager
def _errors_explained(plan: RunPlan) -> Iterator[None]:
    """What training and its collectives run in: errors of torch's that the user can do something about in one line."""
    kernels = deterministic_kernels(plan.config.training.deterministic, plan.device)
    with losses_explained(), memory_explained(plan), kernels:
        yield


@contextlib.contextmanager
def memory_explained(plan: RunPlan) -> Iterator[None]:
    """Raise OutOfMemory, which says what to change, where torch or Python says that memory is out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On a CPU torch raises a plain RuntimeError.
        of_host = isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
        if not of_host and not isinstance(error, torch.OutOfMemoryError):
            raise
        device = torch.device("cpu") if of_host else plan.device
        raise OutOfMemory(_what_to_lower(plan, device)) from error


def _what_to_lower(plan: RunPlan, device: torch.device) -> str:
    """The message of OutOfMemory: where it was out, what a step asks for at most, which key to lower and to what."""
    config = plan.config
    training = config.training
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    message = f"out of memory on {device}, which has {memory / 1e9:.3g} GB"
    batch_size = max(1, training.batch_size // 2)

    shape = read_json(plan.source.directory / "config.json")
    if not training.freeze_encoder and shape is not None:
        # A float32 weight has a gradient and Adam's two moments beside it, of 4 bytes each.
        num_weights = (plan.source.directory / "model.safetensors").stat().st_size / 4
        of_weights = 16 * num_weights
        num_tokens = (2 + config.negatives.per_pair) * config.model.max_tokens
        of_a_token = training_bytes(SimpleNamespace(**shape), plan.precision)
        of_a_pair = num_tokens * of_a_token
        needed = of_weights + training.batch_size * of_a_pair
        message += (
            f"; a step of {training.batch_size} pairs asks for up to {needed / 1e9:.3g} GB, "
            f"{of_a_token / 1e3:.0f} kB a token"
        )
        if training.micro_batch is None:
            return f"{message}; add training.micro_batch=auto: the same run then goes on after its last finished epoch"
        fits = int((0.8 * memory - of_weights) / of_a_pair)
        batch_size = min(max(1, fits), batch_size)
    return (
        f"{message}; free some of it and the same command goes on, or try training.batch_size={batch_size}, "
        "which is another run"
    )


def _drop_leftovers(run: RunDirectory) -> None:
    """A run that was killed after its result was written still has its checkpoint, what rerun=true kept aside, and its
    lock's files, which go with the lock."""
    if run.checkpoint.exists() or run.aside.exists() or lies_locked(run.path):
        with contextlib.suppress(RunBusy), locked(run.path):
            remove_checkpoint(run.checkpoint)
            forget_old(run)


def _note_failure(run: RunDirectory, log: RunLog, error: Exception) -> None:
    """Say in the run's own files why it failed, as far as the disk, which may be what failed, takes it."""
    with contextlib.suppress(OSError):
        log.note(traceback.format_exc())
    why = format_error(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError):
        write_json(run.result, {"status": "failed", "name": run.name, "error": why})


def _open_run(plan: RunPlan, run: RunDirectory, composed: str, overrides: list[str], log: RunLog) -> RunLog:
    """Make the directory and write the config and the manifest, before the first step."""
    refuse_links(run.path)
    hydra = run.path / ".hydra"
    hydra.mkdir(parents=True, exist_ok=True)
    remove_parts(run.path)
    write_text(hydra / "config.yaml", composed)
    listed = "".join(f"- {yaml_string(override)}\n" for override in overrides)
    write_text(hydra / "overrides.yaml", listed or "[]\n")
    manifest = build_manifest(
        run.name,
        str(plan.device),
        plan.precision,
        torch.get_num_threads(),
        plan.determined_by,
        world_from_environment().size,
        plan.config.training.deterministic,
    )
    write_json(run.path / "manifest.json", manifest)
    # A failure of an earlier attempt is no longer the run's result.
    run.result.unlink(missing_ok=True)
    log.say(summary.first_lines(plan, run))
    return log


# --- training ---


def _train(plan: RunPlan, run: RunDirectory, log: RunLog, world: World, trackers: Trackers) -> dict[str, Any]:
    """The epochs, then the selected one measured and written. Returns the result (on rank 0)."""
    started = time.perf_counter()
    world.broadcast(None)  # rank 0 has locked and opened the directory
    components = build_components(plan, log, world)
    log.say(summary.before_training(components, plan))
    context = components.context
    training = plan.config.training
    optimizer = make_optimizer(context.model, plan.config) if training.epochs > 0 else None

    # Go on from the last finished epoch, if there is one.
    checkpoint, damage = None, None
    try:
        select = plan.config.evaluation.select
        checkpoint = load_checkpoint(run.checkpoint, context.model, optimizer, select)
    except DamagedCheckpoint as error:
        damage = str(error)
    world.broadcast(None)  # every process has read the checkpoint before rank 0 writes the next
    if damage is not None:
        log.say(f"warning: {run.checkpoint} is damaged ({damage}); starting over from the beginning")
        if world.is_main:
            remove_checkpoint(run.checkpoint)
    state = checkpoint or RunState()
    if checkpoint is not None:
        log.say(f"going on after epoch {state.next_epoch - 1}, the last finished one")
        if world.is_main:
            write_metrics(run.path, state.records)

    baselines, pretrained = _baselines(plan, components, state, log, world)
    resumed = checkpoint is not None
    trackers.start(TrackedRun(run.name, run.path, asdict(plan.config), state.step, resumed), log.say)
    show_clean = _clean_differs(plan)
    log.say(epoch_line(None, show_clean))

    def commit(embeddings: Embeddings, epoch: int, trained: Record, steps: StepRecords) -> None:
        """An epoch is finished once its checkpoint is on disk; the metrics files and trackers follow from it."""
        started = time.perf_counter()
        measured = world.broadcast(measure_all(context, embeddings) if world.is_main else None)
        # The record before training also has what a run's metrics are read beside.
        if epoch < 0 and world.is_main:
            for name, metrics in baselines["pretrained"].items():
                for key in ("top1", "top1_clean", "recall@10"):
                    measured[f"pretrained/{name}/{key}"] = metrics[key]
        seconds = time.perf_counter() - started
        state.records.append({"epoch": epoch, **trained, **measured, "eval_seconds": seconds})
        state.best_epoch = select_epoch(state.records, plan.config.evaluation.select)
        if not world.is_main:
            return

        # Written from a copy, while the next epoch goes on.
        saved = None if optimizer is None else snapshot(context.model, optimizer, state)
        records, step = list(state.records), state.step

        def write() -> None:
            if saved is not None:
                save_checkpoint(run.checkpoint, saved)
            write_metrics(run.path, records)
            log.say(epoch_line(records[-1], show_clean))
            trackers.epoch(step, records[-1], steps)

        if saved is None:
            write()
        else:
            writer.start(write)

    with BackgroundWriter() as writer:
        embeddings = embed(context, pretrained if plan.finetuned is None else None)
        if state.next_epoch < 0:
            commit(embeddings, -1, {}, [])
        patience = training.epochs if training.patience is None else training.patience
        while state.next_epoch < training.epochs and state.epochs_since_best < patience:
            assert optimizer is not None
            epoch = state.next_epoch
            trained = train_epoch(context, optimizer, epoch, state.step, embeddings)
            state.step = trained.step
            embeddings = embed(context)
            check_trained(embeddings, epoch)
            commit(embeddings, epoch, trained.record, trained.steps)
    world.broadcast(None)  # rank 0 has written the best weights

    if state.epochs_since_best:
        load_best(run.checkpoint, state, context.model)
        embeddings = embed(context)
    world.broadcast(None)  # every process has read the best weights before rank 0 drops the checkpoint
    if not world.is_main:
        return {}
    result = _finish(plan, run, log, components, state, embeddings, baselines, time.perf_counter() - started)
    trackers.finish(result)
    return result


def _clean_differs(plan: RunPlan) -> bool:
    """Whether clean metrics can be other than the official ones: they leave out a candidate or a pair."""
    tasks = [plan.data.splits[name] for name in MEASURED]
    return any(len(task.clean_differs) or not task.split.clean.all() for task in tasks)


def _baselines(
    plan: RunPlan, components: Components, state: RunState, log: RunLog, world: World
) -> tuple[Baselines, Hidden | None]:
    """What needs no training (on rank 0), and h of the pretrained encoder where the run begins with it."""
    cache = cache_directory(plan.config)
    known = world.broadcast(known_baselines(cache, plan.determined_by) if world.is_main else None)
    begins = state.next_epoch <= 0
    hidden = components.pretrained() if begins or "pretrained" not in known else None
    if world.is_main:
        data = plan.data
        if not {"chance", "pretrained"} <= set(known):
            log.say("measuring what needs no training (BM25, TF-IDF, the pretrained encoder), once for this corpus")
            # For the corpus's reports.
            cache_texts(cache, data.fingerprint, data.corpus)
        known |= corpus_baselines(cache, data.fingerprint, data.index.texts, data.splits)
        if hidden is not None:
            known |= pretrained_baseline(cache, plan.determined_by, hidden, data.splits)
    return known, hidden if begins else None


# --- the result ---


def _finish(
    plan: RunPlan,
    run: RunDirectory,
    log: RunLog,
    components: Components,
    state: RunState,
    embeddings: Embeddings,
    baselines: Baselines,
    seconds: float,
) -> dict[str, Any]:
    """Measure the selected epoch in full, write rankings, model and result, and drop the checkpoint."""
    config = plan.config
    context = components.context
    encoder = components.encoder

    # Val and test under every candidate set.
    score = pair_scorer(context.model, embeddings, config.training.fast)
    metrics = {}
    rankings = {}
    lines = []
    for name in MEASURED:
        rankings[name] = final_rankings(context.splits[name], embeddings, score, config.evaluation.rerank)
        metrics[name] = split_metrics(rankings[name])
        for record in point_records(rankings[name]):
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_text(run.path / "rankings.jsonl", "".join(lines))

    # Records begin with that of epoch −1.
    best = -1 if state.best_epoch is None else state.best_epoch
    result = {
        "status": "finished",
        "name": run.name,
        "best_epoch": best,
        "select": config.evaluation.select,
        "selected": state.records[best + 1],
        "final": state.records[-1],
        "initial": state.records[0],
        **metrics,
        "baselines": in_order(baselines),
        "trained_weights": sum(value.numel() for value in context.model.parameters()),
        "parts": parts_result(context, embeddings, rankings, state.records, best),
        "costs": costs_result(context),
        "seconds": seconds,
    }
    if config.training.save_model:
        # The encoder is saved where this run has trained it, copied where another one has, and else only named.
        trained = None if encoder is None else (encoder.module, encoder.tokenizer)
        copied = plan.finetuned.source.directory if plan.finetuned is not None and encoder is None else None
        model = config.model
        spec = ModelSpec(
            encoder_name=plan.pretrained.name,
            encoder_fingerprint=plan.pretrained.fingerprint,
            copied=trained is not None or copied is not None,
            pooling=model.pooling,
            max_tokens=model.max_tokens,
            architecture=context.model.architecture,
            point_prompt=model.point_prompt,
            candidate_prompt=model.candidate_prompt,
        )
        save_model(run.model, spec, trained_state(context.model), trained, copied)
    else:
        with contextlib.suppress(OSError):
            remove(run.model)
    log.say(summary.last_lines(run, result, config, state.records))
    # The result comes last: with it the run has finished.
    write_json(run.result, result)
    remove_checkpoint(run.checkpoint)
    return result
