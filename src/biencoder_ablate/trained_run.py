"""A finished run opened again: how it was trained, how it is to be used now, and its encoder, ready for texts.

T texts of a corpus, B of any texts, H pooled width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from biencoder_ablate.config import Config
    from biencoder_ablate.data.index import TextIndex
    from biencoder_ablate.model.restore import Contract, TextEncoder
    from biencoder_ablate.runs.records import RunLog

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

    from biencoder_ablate.compose import parse_arguments, understood
    from biencoder_ablate.config import ConfigError, DataConfig, schema_keys

    leaves = [key for key, _ in schema_keys()]
    keys = [override.split("=", 1)[0].lstrip("+") for override in overrides]
    with understood(parse_arguments(list(overrides))) as command:
        for key, override in zip(keys, overrides, strict=True):
            if key not in ALLOWED and f"{key.split('.')[0]}.*" not in ALLOWED:
                raise ConfigError(
                    f"{override}: a finished run is measured, not trained anew; only {', '.join(ALLOWED)} can be given"
                )
        new = command.base
    if "data" in keys:  # another corpus: nothing of how the run's own was read holds for it
        composed = OmegaConf.merge(composed, {"data": OmegaConf.structured(DataConfig)})
        keys += [key for key in leaves if key.startswith("data.")]
    changed = OmegaConf.create({})
    for key in leaves:
        if key in keys:
            OmegaConf.update(changed, key, OmegaConf.select(new, key), force_add=True)
    return OmegaConf.merge(composed, changed)


def as_untrained(run: FinishedRun) -> FinishedRun:
    """The run as if its encoder had been frozen: with the encoder that it started from."""
    return replace(run, contract=replace(run.contract, copied=False))


def hidden_of_corpus(run: FinishedRun, table: TextIndex, log: RunLog) -> torch.Tensor:
    """Pooled outputs h (T, H) of a corpus's strings by the run's encoder.

    A frozen encoder's are the features that training keeps in the cache; others are kept there likewise. Raises
    ConfigError where the encoder is gone or has changed.
    """
    from biencoder_ablate.model.restore import encoder_directory
    from biencoder_ablate.training.assemble import build_parts, make_plan
    from biencoder_ablate.training.processes import World

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
    from biencoder_ablate.data.index import fingerprint_texts
    from biencoder_ablate.model.restore import encoder_fingerprint
    from biencoder_ablate.model.texts import features_path, load_features, save_features
    from biencoder_ablate.runs.records import progress_bar

    contract, config = run.contract, run.config
    device, precision = device_and_precision(run)
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
        with progress_bar("encoding", len(texts), "text", log.quiet) as bar:
            features = encoder(texts, bar.update).cpu().numpy()
        save_features(path, features)
    return torch.from_numpy(features).to(device)


def open_encoder(run: FinishedRun, log: RunLog) -> TextEncoder:
    """The run's encoder, ready for texts. Raises ConfigError where it is gone or has changed."""
    from biencoder_ablate.model.restore import TextEncoder, encoder_directory, load_restored_encoder
    from biencoder_ablate.training.assemble import EVAL_TOKEN_BUDGET

    model = run.config.model
    device, precision = device_and_precision(run)
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


def device_and_precision(run: FinishedRun) -> tuple[torch.device, str]:
    """Where and in which precision the run is to be used now."""
    from biencoder_ablate.model.device import choose_device, choose_precision

    device = choose_device(run.config.training.device)
    return device, choose_precision(run.config.training.precision, device)


def _build_again(run: FinishedRun, log: RunLog) -> tuple[Any, Any]:
    """(encoder, tokenizer) of model=tiny as the run had them at its start: from its training texts and its seed."""
    from biencoder_ablate.config import ConfigError
    from biencoder_ablate.training.assemble import build_parts, make_plan
    from biencoder_ablate.training.processes import World

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
