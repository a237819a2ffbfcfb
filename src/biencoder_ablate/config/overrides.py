"""Overrides that are refused, and Hydra's errors, in one line each: key, value, what would do. Loads no torch."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import ChoiceSweep, Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from biencoder_ablate.config.registry import check_option
from biencoder_ablate.config.schema import ConfigError, is_word_for_null, schema_keys
from biencoder_ablate.utils.files import flatten

EXTRAS = {
    ("hydra/launcher", "joblib"): ("joblib", "hydra_joblib_launcher"),
    ("hydra/launcher", "slurm"): ("slurm", "hydra_submitit_launcher"),
    ("hydra/launcher", "submitit_slurm"): ("slurm", "hydra_submitit_launcher"),
    ("hydra/sweeper", "optuna"): ("optuna", "hydra_optuna_sweeper"),
}
"""What choices that other packages bring need: our extra, and the plugin in it."""

_SEVERAL = ("tracker",)
"""Groups that take several choices at once, in a list; in others the last would silently win."""

_ELSEWHERE = {
    "lr": ["training.learning_rate", "training.head_learning_rate"],
    "logger": ["tracker"],
    "n_epochs": ["training.epochs"],
    "bs": ["training.batch_size"],
}
"""What keys are called here that go by another name elsewhere."""

_OVERLAY = "without"
"""The group whose choices are compared by name, each with the settings that make it what it is called."""

_PROMPTS = ("model.point_prompt", "model.candidate_prompt")
"""Keys that take any text, in which a word for null would be put before every text."""

_LOGS_DIR = "a run is kept in logs_dir/runs/NAME; give logs_dir=DIR instead"
_OURS = {
    "run.dir": (".", _LOGS_DIR),
    "sweep.dir": (".", "a sweep is kept in logs_dir/sweeps/NAME; give logs_dir=DIR or sweep_name=NAME instead"),
    "sweep.subdir": (".", _LOGS_DIR),
    "output_subdir": (None, "what was asked is kept in the run's own .hydra; leave it out"),
    "job.chdir": (False, "the working directory stays as it is; give logs_dir=DIR to have runs elsewhere"),
}
"""Hydra's settings for what this program does itself: the only value that is accepted, and what to give instead."""


def list_groups(loader: ConfigLoader) -> list[str]:
    """The groups of choices."""
    return _list(loader, "", ObjectType.GROUP)


def list_choices(loader: ConfigLoader, group: str) -> list[str]:
    """What a group offers, in alphabetical order."""
    return _list(loader, group, ObjectType.CONFIG)


def _list(loader: ConfigLoader, group: str, kind: ObjectType) -> list[str]:
    # As the loader's own get_group_options does, which copies all that it has loaded first, the schema included.
    names: set[str] = set()
    for source in loader.get_sources():
        if source.is_group(group):
            names.update(source.list(group, results_filter=kind))
    return sorted(names)


def check_overrides(loader: ConfigLoader, overrides: list[Override]) -> None:
    """Refuse unknown keys and choices before Hydra does: our messages say what would be valid."""
    groups = [group for group in list_groups(loader) if group != "hydra"]
    keys = dict(schema_keys())
    for override in overrides:
        key, line = override.key_or_group, override.input_line or ""
        if key.startswith("hydra."):
            continue
        if key in _PROMPTS:
            _check_prompt(key, override)
        if override.is_delete() and not key.startswith("hydra/"):
            options = f"one of {', '.join(list_choices(loader, key))}" if key in groups else "a value"
            raise ConfigError(f"{line}: {key} cannot be left out; give it {options} instead")
        if key in groups or (key.startswith("hydra/") and not override.is_delete()):
            _check_choice(loader, key, override)
        elif key.startswith("tracker."):
            _, name, option = f"{key}..".split(".")[:3]
            check_option(name, option, line)
        elif not _is_key(key, keys):
            # Ours of the same last word first, then what it is called elsewhere, then what looks alike.
            last = key.rpartition(".")[2]
            similar = [name for name in keys if name.rpartition(".")[2] == last] + _ELSEWHERE.get(last, [])
            similar = similar or difflib.get_close_matches(key, [*keys, *groups], n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(similar)}?" if similar else "see --cfg job for all keys"
            raise ConfigError(f"{line}: there is no key {key}; {hint}")


def check_overlays(loader: ConfigLoader, overrides: list[Override]) -> None:
    """Refuse values on the command line that overrule what a part taken out (without=…) is there to set.

    The run would be named and reported as one without that part, and have it. Raises ConfigError.
    """
    typed = {override.key_or_group: override for override in overrides if not override.is_sweep_override()}
    if _OVERLAY not in typed:
        return
    choice = typed[_OVERLAY].get_value_element_as_str()
    name = f"{_OVERLAY}/{choice}"
    source = next((source for source in loader.get_sources() if source.is_config(name)), None)
    if source is None:
        return
    overlay = source.load_config(name)
    content: Any = OmegaConf.to_container(overlay.config, resolve=False)
    defaults = content.pop("defaults", None) or []
    settings = flatten(content)
    for default in defaults:
        for group, option in default.items() if isinstance(default, dict) else ():
            settings[group.removeprefix("override ").lstrip("/")] = option
    for key, value in settings.items():
        override = typed.get(key)
        if override is not None and override.value() != value:
            raise ConfigError(
                f"{override.input_line}: overrules {_OVERLAY}={choice}, which sets {key}={value}; leave one of them out"
            )


def _check_prompt(key: str, override: Override) -> None:
    """Refuse None, none, False … as a prompt, unless it is quoted in the override, in each value of a sweep."""
    # As they were given: a quoted value is a QuotedString in a sweep, and has its quotes in Hydra's text.
    value = override.value()
    items = value.list if isinstance(value, ChoiceSweep) else [override.get_value_element_as_str()]
    for item in items:
        if isinstance(item, str | bool) and is_word_for_null(item):
            raise ConfigError(
                f"{key}={item}: must be null, or {dict(schema_keys())[key].removeprefix('null, or ')}; "
                f"quote it twice if the word is meant: '{key}=\"{item}\"'"
            )


def _is_key(key: str, keys: Mapping[str, str]) -> bool:
    """Whether the schema has this key, keys below it, or a mapping that takes any."""
    is_open = key.startswith(("head.options.", "loss.options.", "data.options."))
    return is_open or key in keys or any(name.startswith(f"{key}.") for name in keys)


def _check_choice(loader: ConfigLoader, group: str, override: Override) -> None:
    """Refuse what a group does not offer. Raises ConfigError."""
    if override.is_sweep_override():
        values = list(override.sweep_string_iterator())
    else:
        values = [override.get_value_element_as_str()]
    options = list_choices(loader, group)
    for value in values:
        is_list = group in _SEVERAL and value.startswith("[")
        for choice in value[1:-1].split(",") if is_list else [value]:
            check_extra(group, choice)
            if choice not in options:
                raise ConfigError(f"{group}={choice}: must be one of {', '.join(options)}")


def check_extra(group: str, choice: str) -> None:
    """Refuse a choice whose package is not there, naming our extra. Raises ConfigError."""
    if (group, choice) not in EXTRAS:
        return
    extra, plugin = EXTRAS[group, choice]
    try:
        is_installed = importlib.util.find_spec(f"hydra_plugins.{plugin}") is not None
    except ModuleNotFoundError:  # no plugin of Hydra's at all
        is_installed = False
    if not is_installed:
        raise ConfigError(f"{group}={choice}: needs the extra {extra}: pip install 'biencoder-ablate[{extra}]'")


def check_hydra(base: DictConfig) -> None:
    """Refuse settings of Hydra's that would be taken and ignored. Raises ConfigError."""
    for key, (neutral, remedy) in _OURS.items():
        value = OmegaConf.select(base.hydra, key)
        if value not in (neutral, None):
            raise ConfigError(f"hydra.{key}={value}: {remedy}")


def explain_hydra_error(error: BaseException, overrides: Sequence[str]) -> ConfigError:
    """One line from Hydra's or OmegaConf's error: the key, the value, and what the schema says is valid."""
    unresolved = next((line for line in overrides if "${" in line), None)
    if isinstance(error, InterpolationResolutionError) and unresolved is not None:
        return ConfigError(f"{unresolved}: {str(error).splitlines()[0]}; must be a value, or ${{…}} that names one")

    # Hydra wraps OmegaConf's errors in its own; the one inside knows which key it is about.
    cause: BaseException | None = error
    while cause is not None and not getattr(cause, "full_key", None):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return ConfigError(format_hydra_error(error))

    key = str(getattr(cause, "full_key", ""))
    if key.startswith("tracker."):
        name = key.split(".")[1]
        line = next((line for line in overrides if line.startswith(f"tracker.{name}")), f"tracker.{name}")
        return ConfigError(f"{line}: that tracker is not chosen; choose it with tracker={name}")
    line = next((line for line in overrides if line.lstrip("+~").startswith(f"{key}=")), key)
    valid = dict(schema_keys()).get(key)
    if valid is not None:
        return ConfigError(f"{line}: must be {valid}")
    return ConfigError(f"{line}: {str(cause).splitlines()[0]}; see --cfg job for all keys")


def format_hydra_error(error: BaseException) -> str:
    """What Hydra or a plugin of it says, in one line, without the lists that follow."""
    message = str(error).partition("Config search path:")[0].partition("\nfull_key:")[0]
    return " ".join(line.strip() for line in message.splitlines() if line.strip())
