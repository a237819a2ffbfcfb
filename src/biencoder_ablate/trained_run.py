"""A finished run opened again: how it was trained, how it is to be used now, and its encoder, ready for texts.

B of any texts, H pooled width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from biencoder_ablate.command import ALLOWED
from biencoder_ablate.compose import parse_arguments, to_config, understood
from biencoder_ablate.config import Config, ConfigError, DataConfig, cache_directory, check, schema_keys
from biencoder_ablate.data.index import TextIndex
from biencoder_ablate.files import read_json
from biencoder_ablate.model.biencoder import BiEncoder
from biencoder_ablate.model.device import choose_device, choose_precision
from biencoder_ablate.model.encoder import ModelSource
from biencoder_ablate.model.saved import Contract, encoder_source, read_contract, restore_biencoder
from biencoder_ablate.model.texts import Hidden, Reading, TextEncoder, open_encoder, roles_of
from biencoder_ablate.runs.directory import find_run
from biencoder_ablate.runs.records import RunLog
from biencoder_ablate.training.assemble import features_of, points_of, reading_of


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: how it was trained, how it is to be used now, and what it says of itself."""

    path: Path
    trained: Config
    config: Config
    result: Mapping[str, Any]
    trained_on: str | None
    """Fingerprint of the corpus that the run was trained on."""
    contract: Contract

    @property
    def name(self) -> str:
        """What the run is called, wherever its directory lies."""
        return str(self.result.get("name") or self.path.resolve().name)

    @property
    def reading(self) -> Reading:
        """How the encoder reads texts now."""
        device = choose_device(self.config.training.device)
        precision = choose_precision(self.config.training.precision, device, cache_directory(self.config))
        reading = reading_of(self.config, device, precision)
        contract = self.contract
        return replace(
            reading,
            pooling=contract.pooling,
            point_prompt=contract.point_prompt,
            candidate_prompt=contract.candidate_prompt,
        )

    def as_pretrained(self) -> TrainedRun:
        """The run as if its encoder had been frozen: with the encoder that it started from."""
        return replace(self, contract=replace(self.contract, copied=False))

    def source(self) -> ModelSource:
        """The encoder's files. Raises ConfigError where they are gone or have changed."""
        return encoder_source(self.path / "model", self.contract, self.config.model, cache_directory(self.config))

    def encoder(self) -> TextEncoder:
        """The run's encoder, ready for texts. Raises ConfigError as `source`."""
        return open_encoder(self.source(), self.reading)

    def features(self, texts: Sequence[str], log: RunLog) -> torch.Tensor:
        """Pooled outputs h (B, H) of texts, prompts in them, kept in the cache. Raises ConfigError as `source`."""
        return features_of(self.source(), self.reading, texts, cache_directory(self.config), log)

    def hidden(self, index: TextIndex, log: RunLog) -> Hidden:
        """h of a corpus's texts, kept likewise."""
        roles = roles_of(index.texts, points_of(index), self.reading)
        return roles.of(self.features(roles.strings, log))

    def biencoder(self) -> BiEncoder:
        """The trained projections and head, on the device, in eval mode."""
        return restore_biencoder(self.path / "model", self.contract).to(self.reading.device)


def open_run(run_dir: str | Path, overrides: Sequence[str]) -> TrainedRun:
    """The finished run that `run_dir` names (`find_run`), its config changed by the overrides. Raises ConfigError."""
    path = find_run(run_dir)
    result, manifest = read_json(path / "result.json"), read_json(path / "manifest.json")
    if not isinstance(result, dict):
        raise ConfigError(
            f"{run_dir}: no result.json there; must be the directory of a finished run, logs/runs/NAME, "
            "its name, or latest"
        )
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
    # Composing what overrides there are takes Hydra a fifth of a second.
    config = to_config(_overridden(composed, overrides), checked=False) if overrides else trained
    check(config)
    trained_on = (manifest or {}).get("determined_by", {}).get("data")
    return TrainedRun(path, trained, config, result, trained_on, read_contract(path / "model"))


def _overridden(composed: Any, overrides: Sequence[str]) -> Any:
    """A run's composed config with changes. Hydra reads the overrides; only keys of ALLOWED are taken."""
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
