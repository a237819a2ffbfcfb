"""What can be chosen by name: heads, losses, corpora and trackers, ours and those of other installed packages.

Another package adds one by an entry point in its pyproject.toml, under the group `biencoder_ablate.KIND`:

    [project.entry-points."biencoder_ablate.heads"]
    mine = "my_package.heads:MyHead"

Nothing is imported before it is chosen. Imports nothing but the standard library.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from biencoder_ablate.config.schema import ConfigError, DataConfig

BUILT_IN: dict[str, dict[str, str]] = {
    "heads": {
        "linear": "biencoder_ablate.model.heads:LinearHead",
        "bilinear": "biencoder_ablate.model.heads:BilinearHead",
        "mlp": "biencoder_ablate.model.heads:MlpHead",
    },
    "losses": {
        "study": "biencoder_ablate.training.losses:StudyLoss",
        "contrastive": "biencoder_ablate.training.losses:ContrastiveLoss",
    },
    "corpora": {
        "sample": "biencoder_ablate.data.readers:read_sample",
        "arguana": "biencoder_ablate.data.readers:read_arguana",
        "pairs": "biencoder_ablate.data.readers:read_pairs",
        "beir": "biencoder_ablate.data.beir:read_beir",
        "hub": "biencoder_ablate.data.hub:read_hub",
    },
    "trackers": {
        "tensorboard": "biencoder_ablate.runs.trackers:TensorBoard",
        "wandb": "biencoder_ablate.runs.trackers:Wandb",
        "mlflow": "biencoder_ablate.runs.trackers:Mlflow",
    },
}
"""By kind and name, where the thing is: MODULE:NAME."""

DRAWS_SPLITS = ("sample", "pairs", "hub")
"""Readers that draw train, val and test themselves where the data do not say."""


@functools.cache
def _places(kind: str) -> dict[str, str]:
    """Ours first: another package cannot take a name of ours away."""
    found = {point.name: point.value for point in metadata.entry_points(group=f"biencoder_ablate.{kind}")}
    return found | BUILT_IN[kind]


def names(kind: str) -> list[str]:
    """What can be chosen of a kind ("heads", "losses", "corpora" or "trackers"), ours first."""
    return list(dict.fromkeys([*BUILT_IN[kind], *sorted(_places(kind))]))


def find(kind: str, name: str, key: str) -> Any:
    """The class or function of this name. Raises ConfigError, naming `key`, where there is none or it cannot be had."""
    place = _places(kind).get(name)
    if place is None:
        raise ConfigError(
            f"{key}={name}: must be one of {', '.join(names(kind))}, or a name that an installed package registers "
            f"under biencoder_ablate.{kind}"
        )
    module, _, attribute = place.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{key}={name}: {place} cannot be imported ({error})") from error


def check(kind: str, group: str, name: str, options: Mapping[str, Any], num_leading: int = 0) -> Any:
    """The registered class, once it is known to take the keywords `options`, which are keys of the config's `group`.

    Its first `num_leading` parameters are not the config's. Raises ConfigError for a name that is not there and for a
    keyword that the class does not take.
    """
    wanted = find(kind, name, f"{group}.name")
    parameters = list(inspect.signature(wanted).parameters.values())[num_leading:]
    taken = [parameter.name for parameter in parameters]
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    for option, value in options.items():
        if option not in taken and not takes_any:
            takes = f"takes {', '.join(taken)}" if taken else "takes none"
            raise ConfigError(f"{group}.{option}={value}: not a key of {group}={name}, which {takes}; must be null")
    return wanted


def make(kind: str, group: str, name: str, options: Mapping[str, Any], *leading: Any) -> Any:
    """The registered class called with `leading` and the keywords `options`. Raises ConfigError, as `check` does."""
    return check(kind, group, name, options, len(leading))(*leading, **options)


def check_corpus(settings: DataConfig) -> None:
    """Refuse what the reader cannot take, before anything is read: every job of a sweep is so checked beforehand.

    Raises ConfigError: there is no such reader, or its own `check`, if it has one (see `checked_by`), refuses.
    """
    check = getattr(find("corpora", settings.name, "data.name"), "check", None)
    if settings.folds is not None and settings.name not in DRAWS_SPLITS:
        raise ConfigError(
            f"data.folds={settings.folds}: is for {', '.join(DRAWS_SPLITS)}, whose splits may be drawn; "
            f"data={settings.name} comes split"
        )
    if check is not None:
        check(settings)


def check_option(name: str, option: str, line: str) -> None:
    """Refuse an option, given in `line`, that the tracker does not have. Raises ConfigError."""
    known = inspect.signature(find("trackers", name, "tracker")).parameters
    if option not in known:
        options = ", ".join(f"tracker.{name}.{option}" for option in known) or "left out: the tracker has no options"
        raise ConfigError(f"{line}: there is no such option; must be {options}")


def make_trackers(options: Mapping[str, Any]) -> dict[str, Any]:
    """The trackers of a config's `tracker` by name, from each one's options.

    Raises ConfigError for an unknown name or option, for a value that a tracker refuses, and for a missing extra.
    """
    trackers = {}
    for name, given in options.items():
        key = f"tracker.{name}"
        kind = find("trackers", name, "tracker")
        if not isinstance(given, Mapping):
            raise ConfigError(f"{key}={given}: must be a mapping of the tracker's options; {{}} for none")
        for option, value in given.items():
            check_option(name, str(option), line=f"{key}.{option}={value}")
        missing = [module for module in kind.needs if importlib.util.find_spec(module) is None]
        if missing:
            extra = f"the extra {name}: pip install 'biencoder-ablate[{name}]'"
            remedy = extra if name in BUILT_IN["trackers"] else f"pip install {' '.join(missing)}"
            raise ConfigError(f"tracker={name}: {', '.join(missing)} is not installed; needs {remedy}")
        trackers[name] = kind(**given)
    return trackers
