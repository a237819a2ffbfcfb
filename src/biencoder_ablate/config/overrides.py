"""What a command line may not say, in one line each: the key, the value found, and what would do. Loads no torch."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from biencoder_ablate.config.registry import check_option
from biencoder_ablate.config.schema import ConfigError, schema_keys

EXTRAS = {
    ("hydra/launcher", "joblib"): ("joblib", "hydra_joblib_launcher"),
    ("hydra/launcher", "slurm"): ("slurm", "hydra_submitit_launcher"),
    ("hydra/launcher", "submitit_slurm"): ("slurm", "hydra_submitit_launcher"),
    ("hydra/sweeper", "optuna"): ("optuna", "hydra_optuna_sweeper"),
}
"""What choices that other packages bring need: our extra, and the plugin in it."""

_SEVERAL = ("tracker",)
"""Groups of which several choices may be made at once, in a list: of the others the last would silently win."""

_ELSEWHERE = {
    "lr": ["training.learning_rate", "training.head_learning_rate"],
    "logger": ["tracker"],
    "n_epochs": ["training.epochs"],
    "bs": ["training.batch_size"],
}
"""What keys are called here that go by another name elsewhere."""

_LOGS_DIR = "a run is kept in logs_dir/runs/NAME; give logs_dir=DIR instead"
_OURS = {
    "run.dir": (".", _LOGS_DIR),
    "sweep.dir": (".", "a sweep is kept in logs_dir/sweeps/NAME; give logs_dir=DIR or sweep_name=NAME instead"),
    "sweep.subdir": (".", _LOGS_DIR),
    "output_subdir": (None, "what was asked is kept in the run's own .hydra; leave it out"),
    "job.chdir": (False, "the working directory stays as it is; give logs_dir=DIR to have runs elsewhere"),
}
"""Hydra's settings for what is this program's business: the only value that means anything here, and what would do."""


def check_overrides(loader: ConfigLoader, overrides: list[Override]) -> None:
    """Refuse unknown keys and choices before Hydra does: our messages say what would be valid."""
    groups = [group for group in loader.list_groups("") if group != "hydra"]
    keys = dict(schema_keys())
    for override in overrides:
        key, line = override.key_or_group, override.input_line or ""
        if key.startswith("hydra."):
            continue
        if override.is_delete() and not key.startswith("hydra/"):
            options = f"one of {', '.join(loader.get_group_options(key))}" if key in groups else "a value"
            raise ConfigError(f"{line}: {key} cannot be left out; give it {options} instead")
        open_keys = ("head.options.", "loss.options.", "data.options.")
        if key in groups or (key.startswith("hydra/") and not override.is_delete()):
            _check_choice(loader, key, override)
        elif key.startswith("tracker."):
            _, name, option = f"{key}..".split(".")[:3]
            check_option(name, option, line)
        elif key not in keys and not key.startswith(open_keys) and not any(name.startswith(f"{key}.") for name in keys):
            last = key.rpartition(".")[2]
            near = [name for name in keys if name.rpartition(".")[2] == last] + _ELSEWHERE.get(last, [])
            near = near or difflib.get_close_matches(key, [*keys, *groups], n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else "see --cfg job for all keys"
            raise ConfigError(f"{line}: there is no key {key}; {hint}")


def _check_choice(loader: ConfigLoader, group: str, override: Override) -> None:
    """One choice, several in a sweep, or several at once in a list. Raises ConfigError."""
    several = override.is_sweep_override()
    chosen = override.sweep_string_iterator() if several else [override.get_value_element_as_str()]
    options = loader.get_group_options(group)
    for value in chosen:
        for choice in value[1:-1].split(",") if group in _SEVERAL and value.startswith("[") else [value]:
            check_extra(group, choice)
            if choice not in options:
                raise ConfigError(f"{group}={choice}: must be one of {', '.join(options)}")


def check_extra(group: str, choice: str) -> None:
    """Refuse a choice whose package is not there, naming our extra. Raises ConfigError."""
    extra, plugin = EXTRAS.get((group, choice), ("", ""))
    try:
        found = not extra or importlib.util.find_spec(f"hydra_plugins.{plugin}") is not None
    except ModuleNotFoundError:  # no plugin at all
        found = False
    if not found:
        raise ConfigError(f"{group}={choice}: needs the extra {extra}: pip install 'biencoder-ablate[{extra}]'")


def check_hydra(base: DictConfig) -> None:
    """Refuse settings of Hydra's that would be taken and ignored. Raises ConfigError."""
    for key, (neutral, remedy) in _OURS.items():
        value = OmegaConf.select(base.hydra, key)
        if value not in (neutral, None):
            raise ConfigError(f"hydra.{key}={value}: {remedy}")


def explained(error: BaseException, overrides: Sequence[str]) -> ConfigError:
    """One line from Hydra's or OmegaConf's error: the key, the value, and what the schema says is valid."""
    unresolved = next((line for line in overrides if "${" in line), None)
    if isinstance(error, InterpolationResolutionError) and unresolved is not None:
        return ConfigError(f"{unresolved}: {str(error).splitlines()[0]}; must be a value, or ${{…}} that names one")
    cause: BaseException | None = error
    while cause is not None:
        key = getattr(cause, "full_key", None)
        if key:
            break
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        valid = dict(schema_keys()).get(str(key))
        asked = next((line for line in overrides if line.lstrip("+~").startswith(f"{key}=")), None)
        if valid is not None:
            return ConfigError(f"{asked or key}: must be {valid}")
        if str(key).startswith("tracker."):
            name = str(key).split(".")[1]
            asked = next((line for line in overrides if line.startswith(f"tracker.{name}")), f"tracker.{name}")
            return ConfigError(f"{asked}: that tracker is not chosen; choose it with tracker={name}")
        return ConfigError(f"{asked or key}: {str(cause).splitlines()[0]}; see --cfg job for all keys")
    return ConfigError(one_line(error))


def one_line(error: BaseException) -> str:
    """The first lines of what Hydra says, as one, without the lists that follow."""
    message = str(error).partition("Config search path:")[0].partition("\nfull_key:")[0]
    return " ".join(line.strip() for line in message.splitlines() if line.strip())
