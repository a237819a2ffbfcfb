"""`python -m biencoder_ablate.evaluate RUN_DIR …`: a finished run measured another way, and baselines beside it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import torch

    from biencoder_ablate.config import Config
    from biencoder_ablate.data.pairs import Corpus
    from biencoder_ablate.data.texts import TextTable
    from biencoder_ablate.evaluation.measure import SplitCandidates
    from biencoder_ablate.model.restore import Contract, TextEncoder
    from biencoder_ablate.runs.log import RunLog

ALLOWED = (
    "data",
    "data.*",
    "evaluation.*",
    "model.max_tokens",
    "model.name_or_path",
    "model.revision",
    "training.device",
    "training.precision",
    "training.fast",
    "cache_dir",
)
"""What may differ from how the run was trained: how it is measured, and where things are."""
MEASURED = ("val", "test")


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: how it was trained, how it is to be used now, and what it says of itself."""

    path: Path
    trained: Config
    config: Config
    result: Mapping[str, Any]
    trained_on: str | None
    """Fingerprint of the corpus that the run was trained on."""
    contract: Contract


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, keep RUN_DIR/evaluations/NAME.json, print tables or JSON; returns the exit code."""
    parser = _parser()
    try:
        arguments = parser.parse_intermixed_args(argv)
        report = evaluate(arguments.run_dir, arguments.overrides, arguments.baselines, quiet=arguments.json)
        path = keep(arguments.run_dir, report)
        if arguments.json:
            print(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False))
        else:
            from biencoder_ablate.evaluation.reevaluate import describe

            print(f"{describe(report)}\nkept in {path}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="biencoder-ablate-evaluate",
        description="Measure a finished run another way, beside its own figures. Nothing in the run changes but "
        "RUN_DIR/evaluations/, which gets a file.",
        epilog="Example: biencoder-ablate-evaluate logs/runs/NAME evaluation.rerank=all --baselines",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="the directory of a finished run, logs/runs/NAME")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help=f"any of {', '.join(ALLOWED)}")
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="add rows that need no training: TF-IDF cosine, BM25, the untrained encoder's similarity",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")

    def refuse(message: str) -> NoReturn:
        raise ValueError(f"{message}; see --help")

    parser.error = refuse  # type: ignore[method-assign]
    return parser


def evaluate(
    run_dir: str | Path, overrides: Sequence[str], baselines: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Measure val and test with the run's selected model. Raises ValueErrors that name what is wrong.

    Returns `own` (the run's figures), `measured` and, where asked, `baselines`, each with figures by split as in
    result.json; `notes` says what a reader must know to compare them.
    """
    run = open_run(run_dir, overrides)
    if not os.access(run.path, os.W_OK):
        raise PermissionError(f"{run_dir}: cannot be written to, and evaluations/ belongs there; copy the run first")
    from biencoder_ablate.data.load import load_corpus
    from biencoder_ablate.data.texts import build_table
    from biencoder_ablate.evaluation.fast_scoring import fast_scorer, plain_scorer
    from biencoder_ablate.evaluation.reevaluate import measured_figures
    from biencoder_ablate.files import finite
    from biencoder_ablate.model.restore import restore_biencoder
    from biencoder_ablate.runs.log import RunLog

    log = RunLog(None, quiet)
    corpus = load_corpus(run.config.data)
    table = build_table(corpus)
    splits, notes = _splits(run, corpus, table)
    started = time.perf_counter()
    h = hidden_of_corpus(run, table, log)
    model = restore_biencoder(run.contract).to(h.device)
    r = model.retrieval(h).detach()
    seconds = {"encoding": time.perf_counter() - started}
    started = time.perf_counter()
    asked = run.config.evaluation
    score = (fast_scorer if run.config.training.fast else plain_scorer)(model, h, r)
    measured = measured_figures(splits, model, h, r, score, asked.rerank, asked.source)
    seconds["ranking"] = time.perf_counter() - started
    report: dict[str, Any] = {
        "run": run.path.resolve().name,
        "best_epoch": run.result["best_epoch"],
        "overrides": list(overrides),
        "evaluation": vars(asked) | {"max_tokens": run.config.model.max_tokens},
        "data": {"name": corpus.name, "fingerprint": corpus.fingerprint},
        "device": str(h.device),
        "precision": _device_and_precision(run)[1],
        "notes": notes,
        "own": {"rerank": run.trained.evaluation.rerank, **{name: run.result[name] for name in MEASURED}},
        "measured": measured,
    }
    if baselines:
        started = time.perf_counter()
        report["baselines"] = _baselines(run, table, splits, h, notes, log)
        seconds["baselines"] = time.perf_counter() - started
    return finite(report | {"seconds": seconds})


def open_run(run_dir: str | Path, overrides: Sequence[str]) -> FinishedRun:
    """The finished run in `run_dir`, its config changed by the overrides. Raises ConfigError."""
    from omegaconf import OmegaConf

    from biencoder_ablate.compose import to_config
    from biencoder_ablate.config import ConfigError, check
    from biencoder_ablate.files import read_json
    from biencoder_ablate.model.restore import read_contract

    path = Path(run_dir).expanduser()
    result, manifest = read_json(path / "result.json"), read_json(path / "manifest.json")
    if not isinstance(result, dict):
        raise ConfigError(f"{run_dir}: no result.json there; must be the directory of a finished run, logs/runs/NAME")
    if result.get("status") != "finished":
        raise ConfigError(
            f"{run_dir}: this run has not finished (status {result.get('status')}); the command that "
            "started it goes on with it"
        )
    how = path / ".hydra" / "config.yaml"
    if not how.is_file():
        raise ConfigError(f"{how}: no such file; it says how the run was trained")
    if not (path / "model").is_dir():
        raise ConfigError(
            f"{path / 'model'}: no such directory; train the run again with training.save_model=true rerun=true"
        )
    composed = OmegaConf.load(how)
    trained = to_config(composed, checked=False)  # type: ignore[arg-type]
    config = to_config(_overridden(composed, overrides), checked=False)
    check(config)
    trained_on = (manifest or {}).get("determined_by", {}).get("data")
    return FinishedRun(path, trained, config, result, trained_on, read_contract(path / "model"))


def _overridden(composed: Any, overrides: Sequence[str]) -> Any:
    """A run's composed config with changes. Hydra reads the overrides; only keys of ALLOWED are taken."""
    from omegaconf import OmegaConf

    from biencoder_ablate.compose import understood
    from biencoder_ablate.config import ConfigError, DataConfig, schema_keys

    leaves = [key for key, _ in schema_keys()]
    keys = [override.split("=", 1)[0].lstrip("+") for override in overrides]
    with understood(
        argparse.Namespace(config_dir=None, config_name=None, multirun=False, overrides=list(overrides))
    ) as command:
        for key, override in zip(keys, overrides, strict=True):
            if key not in ALLOWED and f"{key.split('.')[0]}.*" not in ALLOWED:
                raise ConfigError(
                    f"{override}: a finished run is measured, not trained anew; only {', '.join(ALLOWED)} can be given"
                )
        new = command.compose(command.jobs[0])
    if "data" in keys:  # another corpus: nothing of how the run's own was read holds for it
        composed = OmegaConf.merge(composed, {"data": OmegaConf.structured(DataConfig)})
        keys += [key for key in leaves if key.startswith("data.")]
    changed = OmegaConf.create({})
    for key in leaves:
        if key in keys:
            OmegaConf.update(changed, key, OmegaConf.select(new, key), force_add=True)
    return OmegaConf.merge(composed, changed)


def _splits(run: FinishedRun, corpus: Corpus, table: TextTable) -> tuple[dict[str, SplitCandidates], list[str]]:
    """Val and test with their candidates, and what must be said of them.

    On another corpus than the run's, clean figures also leave out what the model has seen: for val the training
    split that the run had, for test its val as well.
    """
    from biencoder_ablate.data.load import load_corpus
    from biencoder_ablate.evaluation.measure import prepare
    from biencoder_ablate.evaluation.reevaluate import leave_out_seen

    notes = list(corpus.notes)
    arrays = {name: table.splits[name] for name in MEASURED}
    if corpus.fingerprint == run.trained_on:
        return {name: prepare(split) for name, split in arrays.items()}, notes
    notes.append("not the corpus, or not the part of it, that the run's own figures are of")
    try:
        published = load_corpus(run.trained.data).published
    except (ValueError, OSError) as error:
        notes.append(f"clean figures do not leave out texts that the run was trained on: its corpus is gone ({error})")
    else:
        seen = {"val": published["train"], "test": published["train"] | published["val"]}
        arrays = {name: leave_out_seen(split, seen[name]) for name, split in arrays.items()}
    return {name: prepare(split) for name, split in arrays.items()}, notes


def _baselines(
    run: FinishedRun,
    table: TextTable,
    splits: Mapping[str, SplitCandidates],
    h: torch.Tensor,
    notes: list[str],
    log: RunLog,
) -> dict[str, Any]:
    """Figures that need no training. Without the untrained encoder its rows are missing, and `notes` says why."""
    from biencoder_ablate.evaluation.reevaluate import encoder_figures, lexical_figures

    found = lexical_figures(table.texts, splits)
    try:
        untrained = hidden_of_corpus(as_untrained(run), table, log) if run.contract.copied else h
    except (ValueError, OSError) as error:
        notes.append(f"no figures of the untrained encoder: {error}")
        return found
    return found | encoder_figures(untrained, splits)


def as_untrained(run: FinishedRun) -> FinishedRun:
    """The run as if its encoder had been frozen: with the encoder that it started from."""
    return replace(run, contract=replace(run.contract, copied=False))


def hidden_of_corpus(run: FinishedRun, table: TextTable, log: RunLog) -> torch.Tensor:
    """Pooled outputs h (T, H) of a corpus's strings by the run's encoder.

    A frozen encoder's are the features that training keeps in the cache; others are kept there likewise. Raises
    ConfigError where the encoder is gone or has changed.
    """
    from biencoder_ablate.model.restore import encoder_directory
    from biencoder_ablate.training.build import build_parts, make_plan
    from biencoder_ablate.training.distributed import World

    config = run.config
    if run.contract.copied or run.contract.built:
        return hidden_of_texts(run, table.texts, log)
    encoder_directory(run.contract, config.model.name_or_path, config.model.revision)
    frozen = replace(
        config, model=replace(config.model, dropout=None), training=replace(config.training, freeze_encoder=True)
    )
    return build_parts(make_plan(frozen), log, World()).task.texts.all_hidden()


def hidden_of_texts(run: FinishedRun, texts: Sequence[str], log: RunLog) -> torch.Tensor:
    """Pooled outputs h (B, H) of any texts by the run's encoder, kept in the cache. Raises ConfigError as above."""
    import torch

    from biencoder_ablate.config import cache_directory
    from biencoder_ablate.data.texts import fingerprint_texts
    from biencoder_ablate.model.restore import encoder_fingerprint
    from biencoder_ablate.model.text_source import features_path, load_features, save_features
    from biencoder_ablate.runs.log import progress

    contract, config = run.contract, run.config
    device, precision = _device_and_precision(run)
    built_from = f"{run.trained_on} {run.trained.seed}" if contract.built and not contract.copied else ""
    path = features_path(
        cache_directory(config),
        "restored",
        encoder_fingerprint(contract),
        built_from,
        fingerprint_texts(tuple(texts)),
        contract.pooling,
        config.model.max_tokens,
        precision,
        int(config.training.fast),
    )
    features = load_features(path)
    if features is None:
        encoder = open_encoder(run, log)
        with progress("encoding", len(texts), "text", log.quiet) as bar:
            features = encoder(texts, bar.update).cpu().numpy()
        save_features(path, features)
    return torch.from_numpy(features).to(device)


def open_encoder(run: FinishedRun, log: RunLog) -> TextEncoder:
    """The run's encoder, ready for texts. Raises ConfigError where it is gone or has changed."""
    from biencoder_ablate.model.restore import TextEncoder, encoder_directory, load_restored_encoder
    from biencoder_ablate.training.build import EVAL_TOKEN_BUDGET

    model = run.config.model
    device, precision = _device_and_precision(run)
    directory = encoder_directory(run.contract, model.name_or_path, model.revision)
    module, tokenizer = (
        _build_again(run, log)
        if directory is None
        else load_restored_encoder(run.contract, directory, model.max_tokens)
    )
    return TextEncoder(
        module.to(device).eval(),
        tokenizer,
        run.contract.pooling,
        model.max_tokens,
        device,
        precision,
        EVAL_TOKEN_BUDGET[device.type],
        run.config.training.fast,
    )


def _device_and_precision(run: FinishedRun) -> tuple[torch.device, str]:
    from biencoder_ablate.model.device import choose_device, choose_precision

    device = choose_device(run.config.training.device)
    return device, choose_precision(run.config.training.precision, device)


def _build_again(run: FinishedRun, log: RunLog) -> tuple[Any, Any]:
    """(encoder, tokenizer) of model=tiny as the run had them at its start: from its training texts and its seed."""
    from biencoder_ablate.config import ConfigError
    from biencoder_ablate.training.build import build_parts, make_plan
    from biencoder_ablate.training.distributed import World

    config = replace(run.config, data=run.trained.data, training=replace(run.config.training, freeze_encoder=False))
    plan = make_plan(config)
    if plan.corpus.fingerprint != run.trained_on:
        raise ConfigError(
            f"data.path={config.data.path}: the corpus has changed since the run, and model=tiny learns "
            "its vocabulary from it; bring back the corpus as it was, or train the run again"
        )
    parts = build_parts(plan, log, World())
    assert parts.encoder is not None
    return parts.encoder, parts.tokenizer


def keep(run_dir: str | Path, report: Mapping[str, Any]) -> Path:
    """Write the report to RUN_DIR/evaluations/, whole, named by what was measured; the same again replaces it."""
    from biencoder_ablate.files import write_json
    from biencoder_ablate.runs.naming import short_hash

    measured = {key: report[key] for key in ("evaluation", "data", "precision")}
    rows = "_baselines" if "baselines" in report else ""
    name = f"{report['data']['name']}_rerank{report['evaluation']['rerank']}{rows}_{short_hash(measured)}.json"
    path = Path(run_dir).expanduser() / "evaluations" / name
    path.parent.mkdir(exist_ok=True)
    write_json(path, report)
    return path


if __name__ == "__main__":
    sys.exit(main())
