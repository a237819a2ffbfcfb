"""The encoder of a finished run, taken by other runs instead of the pretrained one: fine-tuned once, asked often.

Found by what a run has left on disk, and with nothing of other rooms of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biencoder_ablate.config import Config, ConfigError, cache_directory
from biencoder_ablate.files import read_json
from biencoder_ablate.model.encoder import ModelSource
from biencoder_ablate.model.saved import encoder_source, read_contract
from biencoder_ablate.runs.directory import RunDirectory, find_run
from biencoder_ablate.runs.identity import name_without_seed
from biencoder_ablate.runs.status import SweepDirectory


@dataclass(frozen=True)
class FineTuned:
    """An encoder that a finished run trained: its files, what determined that run, and the run's directory."""

    source: ModelSource
    determined_by: Mapping[str, Any]
    run: Path

    def identity(self, seed: int) -> dict[str, Any]:
        """What it adds to what determines a run with this seed: the run it comes from, which of their seeds it has
        where that is another, and its weights."""
        own = self.determined_by["seed"]
        other = {} if own == seed else {"seed": own}
        return {"run": name_without_seed(self.determined_by), **other, "weights": self.source.fingerprint}


def find_finetuned(config: Config, pretrained: ModelSource) -> FineTuned | None:
    """The encoder that model.finetuned asks for: a run's, or that of a sweep's run with the seed of the config.

    None where nothing is asked for. Raises ConfigError where there is no such encoder, or where it was trained from
    another than `pretrained` or reads texts in another way than the config says.
    """
    given = config.model.finetuned
    if given is None:
        return None
    said = f"model.finetuned={given}"
    path = find_run(given if "/" in given else Path(config.logs_dir) / given, sweeps=True)
    if SweepDirectory(path).runs_list.is_file():
        path = _of_seed(SweepDirectory(path), config.seed, said)
    elif RunDirectory(path).read_finished() is None:
        raise ConfigError(
            f"{said}: {path} is no finished run and no sweep; must be one that trained its encoder, as this makes: "
            "python -m biencoder_ablate -m experiment=arguana head=none data.path=… seed=0,1,2 sweep_name=finetuned"
        )
    determined_by, contract = _determined_by(path, said), read_contract(path / "model")
    if not contract.copied:
        raise ConfigError(f"{said}: the encoder of {path} was frozen; must be a run that trained it")
    if contract.encoder_fingerprint != pretrained.fingerprint:
        raise ConfigError(
            f"{said}: was trained from {contract.encoder_name}, and not from model.name_or_path="
            f"{config.model.name_or_path or 'null'}; must be the same, for the figures of the pretrained encoder"
        )
    for key in ("pooling", "point_prompt", "candidate_prompt"):
        own, asked = getattr(contract, key), getattr(config.model, key)
        if own != asked:
            raise ConfigError(f"model.{key}={asked}: {said} was trained with {own}; must be that")
    source = encoder_source(path / "model", contract, config.model, cache_directory(config))
    return FineTuned(source, determined_by, path)


def _determined_by(run: Path, said: str) -> Mapping[str, Any]:
    """What determined a finished run."""
    manifest = read_json(run / "manifest.json")
    if not isinstance(manifest, dict) or "determined_by" not in manifest:
        raise ConfigError(f"{said}: {run / 'manifest.json'} cannot be read; train that run again with rerun=true")
    found: Mapping[str, Any] = manifest["determined_by"]
    return found


def _of_seed(sweep: SweepDirectory, seed: int, said: str) -> Path:
    """The one finished run with this seed among a sweep's."""
    by_seed: dict[int, list[Path]] = {}
    for job in sweep.read()["jobs"]:
        run = (sweep.path / job["directory"]).resolve()
        if RunDirectory(run).read_finished() is not None:
            by_seed.setdefault(_determined_by(run, said)["seed"], []).append(run)
    found = by_seed.get(seed, [])
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(sorted(run.name for run in found))
        raise ConfigError(f"{said}: this sweep has {len(found)} finished runs with seed {seed} ({names}); name one run")
    seeds = ", ".join(map(str, sorted(by_seed))) or "none"
    raise ConfigError(f"{said}: this sweep has no finished run with seed {seed} (finished: {seeds}); must have it")
