"""From a command line to checked configs, with Hydra doing the composing. Loads no torch.

Whatever is wrong with an override ends in a ConfigError that names the key, the value and what would do. The one name
from Hydra's inside that this program needs is imported here, in `Command.context`.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from biencoder_ablate.config.kept import escape
from biencoder_ablate.config.overrides import (
    EXTRAS,
    check_extra,
    check_hydra,
    check_overlays,
    check_overrides,
    explain_hydra_error,
    format_hydra_error,
    list_groups,
)
from biencoder_ablate.config.registry import check_corpus, make_trackers
from biencoder_ablate.config.schema import Config, ConfigError, check
from biencoder_ablate.utils.command import raise_usage_errors
from biencoder_ablate.utils.console import format_error
from biencoder_ablate.utils.files import check_yaml, expand_user, read_regular

CONFIG_NAME = "config"
SCHEMA_NAME = "biencoder_ablate_schema"


def conf_directory() -> Path:
    """The Hydra tree: inside the installed package, or at the top of the source tree it runs from."""
    package = Path(__file__).resolve().parents[1]
    for place in (package / "conf", package.parents[1] / "conf"):
        if (place / f"{CONFIG_NAME}.yaml").is_file():
            return place
    raise ConfigError(f"no conf/{CONFIG_NAME}.yaml beside {package}; install the package again")


def register_schema() -> None:
    """Let Hydra check keys and types against the dataclasses; once a process, since making a schema of them takes it a
    tenth of composing."""
    store = ConfigStore.instance()
    if f"{SCHEMA_NAME}.yaml" not in store.repo:
        store.store(name=SCHEMA_NAME, node=Config)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Hydra's options and the overrides. Raises ConfigError where Hydra would print its usage, or do nothing."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("overrides", nargs="*", default=[])
    for flags in (["--help", "-h"], ["--hydra-help"], ["--multirun", "-m"], ["--run", "-r"], ["--resolve"]):
        parser.add_argument(*flags, action="store_true")
    parser.add_argument("--shell-completion", "-sc", action="store_true")
    parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    views = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=views)
    for flags in (["--package", "-p"], ["--config-name", "-cn"], ["--config-dir", "-cd"]):
        parser.add_argument(*flags)
    parser.add_argument("--config-path", "-cp")
    parser.add_argument("--experimental-rerun")
    raise_usage_errors(parser, ConfigError)
    arguments = parser.parse_intermixed_args(argv)
    if arguments.config_path is not None:
        raise ConfigError(
            f"--config-path={arguments.config_path}: the tree of settings is this program's own; "
            "give --config-dir=DIR to add yours to it"
        )
    if arguments.experimental_rerun is not None:
        raise ConfigError(
            f"--experimental-rerun={arguments.experimental_rerun}: give the run's command again, which "
            "goes on with it; rerun=true starts it over"
        )
    return arguments


def is_hydra_query(arguments: argparse.Namespace) -> bool:
    """Whether the command only asks something that Hydra itself answers."""
    return bool(arguments.help or arguments.hydra_help or arguments.shell_completion or arguments.cfg or arguments.info)


def check_hydra_query(arguments: argparse.Namespace) -> None:
    """Refuse a --cfg, --help or --info that Hydra would answer with lines of its own. Raises ConfigError."""
    if arguments.multirun and not arguments.help and (arguments.cfg or arguments.info):
        raise ConfigError("-m: --cfg and --info show one job; leave it out, and give each key one value")
    if arguments.shell_completion or not (arguments.overrides or arguments.config_dir or arguments.config_name):
        return
    with compose_command(arguments) as command:
        if arguments.resolve:
            to_config(command.base, checked=False)


@dataclass(frozen=True)
class Command:
    """A command line, what was typed, and the config `base` that it composes to.

    `base` has Hydra's own settings in it, and for swept keys the value that they have without a sweep.
    """

    loader: ConfigLoader
    base: DictConfig
    multirun: bool
    overrides: list[str]

    @property
    def sweeper(self) -> str:
        """The class of Hydra's sweeper, without its package."""
        return str(self.base.hydra.sweeper._target_).rpartition(".")[2]

    @property
    def logs(self) -> bool:
        """Whether hydra/job_logging was given: Python's logging is left alone otherwise."""
        return OmegaConf.select(self.base, "hydra.job_logging.root.handlers") is not None

    def task_overrides(self) -> list[str]:
        """The overrides that are not Hydra's own, as they were given."""
        return unresolved(self.base.hydra.overrides.task)

    def jobs(self) -> list[list[str]]:
        """The overrides of every job: of a plain sweep all combinations, those of one key after another.

        Raises ConfigError for values that only a search can choose among, and for a key with no value.
        """
        parsed = _parse(self.loader, self.task_overrides())
        given = {override.get_key_element() for override in parsed}

        # hydra.sweeper.params, from a config file, hold for the keys that the command line leaves out.
        preset: Any = OmegaConf.to_container(self.base.hydra.sweeper.get("params") or OmegaConf.create(), resolve=False)
        added = [f"{key}={value}" for key, value in preset.items() if key not in given]

        # Of a key that is given twice the last counts, at the place of the first, as Hydra's own sweeper has it.
        choices: dict[str, list[str]] = {}
        for override in [*_parse(self.loader, added), *parsed]:
            if not override.is_sweep_override():
                # Hydra writes ${seed} as $\{seed\}, which means the same and which nobody would recognise.
                is_interpolated = "${" in (override.input_line or "")
                values = [override.get_value_string() if is_interpolated else override.get_value_element_as_str()]
            elif override.is_discrete_sweep():
                values = list(override.sweep_string_iterator())
            else:
                raise ConfigError(
                    f"{override.input_line}: an interval is for a search, hydra/sweeper=optuna; "
                    "must be values with commas, range(…) or glob(…)"
                )
            if not values:
                raise ConfigError(f"{override.input_line}: has no values")
            key = override.get_key_element()
            choices[key] = [f"{key}={value}" for value in values]
        return [list(job) for job in itertools.product(*choices.values())]

    def configs(self, jobs: Sequence[Sequence[str]], checked: bool = True) -> list[Config]:
        """The config of every job. Raises ConfigError for the first that is wrong.

        Hydra takes 50 ms for one, most of it to merge the files that the groups name. Jobs of a sweep mostly differ in
        values alone, which Hydra sets last and in order: so each choice of groups is composed once, and a job's values
        are set on a copy of that.
        """
        groups = list_groups(self.loader)
        composed: dict[tuple[str, ...], DictConfig] = {}
        configs = []
        for job in jobs:
            parsed = _parse(self.loader, list(job))
            check_overlays(self.loader, parsed)
            values = [override for override in parsed if override.key_or_group not in groups]
            if not all(override.type == OverrideType.CHANGE and override.package is None for override in values):
                values = []  # a key that is added or taken out: Hydra composes the whole job

            group_choices = tuple(override.input_line or "" for override in parsed if override not in values)
            if group_choices not in composed:
                overrides = [*self.base.hydra.overrides.hydra, *group_choices]
                name = self.base.hydra.job.config_name
                composed[group_choices] = _compose(self.loader, name, overrides, RunMode.RUN)

            config = copy.deepcopy(composed[group_choices])
            try:
                for override in values:
                    OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
            except OmegaConfBaseException as error:
                raise explain_hydra_error(error, job) from error
            configs.append(to_config(config, checked))
        return configs

    def in_directory(self, sweep: Path) -> DictConfig:
        """The sweep's own config, from which launchers compose each job's; it and they know the sweep's directory."""
        config = copy.deepcopy(self.base)
        with read_write(config), open_dict(config):
            config.hydra.sweep.dir = str(sweep)
            config.hydra.overrides.hydra.append("hydra.sweep.dir='{}'".format(str(sweep).replace("'", "\\'")))
        return config

    def context(self) -> HydraContext:
        """What Hydra's launchers and `run_job` are given; the user's hydra.callbacks are made here."""
        # Private, but HydraContext, which every launcher asks for, holds one, and Hydra's engine, which alone makes
        # them, composes the config once more and prints failures its own way.
        from hydra._internal.callbacks import Callbacks

        try:
            return HydraContext(config_loader=self.loader, callbacks=Callbacks(self.base))
        except HydraException as error:
            raise ConfigError(f"hydra.callbacks: {format_hydra_error(error)}") from error


@contextlib.contextmanager
def compose_command(arguments: argparse.Namespace) -> Iterator[Command]:
    """Compose a command line, of `parse_arguments`. Raises ConfigError, also for a `${…}` that is resolved inside."""
    with _loader(arguments.config_dir) as loader:
        given = list(arguments.overrides)
        parsed = _parse(loader, given)
        check_overrides(loader, parsed)
        check_overlays(loader, parsed)
        overrides = given + ["hydra.mode=MULTIRUN"] * arguments.multirun
        swept = [override.input_line or "" for override in parsed if override.is_sweep_override()]
        name = arguments.config_name or CONFIG_NAME
        # Composed for many jobs, a group with several values is left out, and none that is missing is noticed.
        base = _compose(loader, name, overrides, RunMode.MULTIRUN if swept else RunMode.RUN)
        check_hydra(base)
        multirun = base.hydra.mode == RunMode.MULTIRUN
        if swept and not multirun:
            key, _, value = swept[0].partition("=")
            hint = "" if key in list_groups(loader) or '"' in value else f", or quotes: '{key}=\"{value}\"'"
            raise ConfigError(f"{swept[0]}: several values need -m (a sweep){hint}")
        if multirun and _lacks_fold(base, given):
            # The fold changes last, since the jobs of one fold have their data in common.
            given.insert(0, f"data.fold={','.join(map(str, range(base.data.folds)))}")
            base = _compose(loader, name, [*given, "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
        if not multirun:
            base.hydra.mode = RunMode.RUN
        command = Command(loader, base, multirun, given)
        if base.hydra.verbose is not False and not command.logs:
            raise ConfigError(f"hydra.verbose={base.hydra.verbose}: nothing is logged; add hydra/job_logging=stdout")
        try:
            yield command
        except InterpolationResolutionError as error:
            raise explain_hydra_error(error, given) from error


def _lacks_fold(base: DictConfig, overrides: Sequence[str]) -> bool:
    """Whether a sweep is a cross-validation that says no fold, and so has all of them. A search is given one."""
    is_plain = str(base.hydra.sweeper._target_).endswith("BasicSweeper")
    has_folds = base.data.folds is not None and base.data.fold is None
    return is_plain and has_folds and not any(item.startswith("data.fold=") for item in overrides)


def load_config(overrides: Sequence[str]) -> Config:
    """The checked config of one command line, for the entry points that train nothing. Raises ConfigError."""
    arguments = argparse.Namespace(overrides=list(overrides), config_dir=None, config_name=None, multirun=False)
    with compose_command(arguments) as command:
        return to_config(command.base)


def to_config(composed: DictConfig, checked: bool = True) -> Config:
    """A composed config as dataclasses; keys that the schema does not have are refused."""
    try:
        plain = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(plain, dict)
        plain.pop("hydra", None)
        if OmegaConf.get_type(composed) is Config:  # Hydra has held every key and type against the schema
            config = _as_dataclass(Config, plain)
        else:
            config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), escape(plain)))
    except InterpolationResolutionError:
        raise
    except OmegaConfBaseException as error:
        raise explain_hydra_error(error, []) from error
    assert isinstance(config, Config)
    if checked:
        check(config)
        check_corpus(config.data)
        make_trackers(config.tracker)
    return config


def _as_dataclass(schema: Any, values: dict[Any, Any]) -> Any:
    """Values that Hydra has held against the schema as its dataclasses, without checking all of them again."""
    assert set(values) == {item.name for item in fields(schema)}, (schema, sorted(values))
    keywords = {}
    for item in fields(schema):
        value = values[item.name]
        is_group = is_dataclass(item.default_factory)
        keywords[item.name] = _as_dataclass(item.default_factory, value) if is_group else value
    return schema(**keywords)


def unresolved(overrides: Any) -> list[str]:
    """The overrides in a composed config, with `${seed}` as it was given.

    Taken out one by one it would be resolved: in a sweep with the seed that the config has without the sweep.
    """
    plain: Any = OmegaConf.to_container(overrides, resolve=False)
    return [str(override) for override in plain]


def without_hydra(composed: DictConfig) -> str:
    """A composed config as YAML, without Hydra's own settings: what the run is told, so that it can be used where an
    environment variable of its `${…}` is another, or none. A tracker's settings, which may hold a key, stay as given.
    """
    plain: Any = OmegaConf.to_container(composed, resolve=False)
    values: Any = OmegaConf.to_container(composed, resolve=True)
    kept = {key: plain[key] if key == "tracker" else escape(values[key]) for key in plain if key != "hydra"}
    return OmegaConf.to_yaml(OmegaConf.create(kept))


@contextlib.contextmanager
def _loader(config_dir: str | None) -> Iterator[ConfigLoader]:
    """Hydra over our conf/ tree, and over the user's --config-dir before it."""
    register_schema()
    before: list[str] = []
    if config_dir is not None:
        directory = expand_user(config_dir, "--config-dir").resolve()
        if not directory.is_dir():
            raise ConfigError(f"--config-dir={config_dir}: no such directory")
        _check_aliases(directory)
        before.append(f"file://{directory}")

        class ConfigDirectory(SearchPathPlugin):
            """Hydra makes this itself and keeps the class for good: hence the list, empty once the command is over."""

            def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
                for place in before:
                    search_path.prepend("command-line", place)

        Plugins.instance().register(ConfigDirectory)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_directory()), job_name="biencoder_ablate", version_base="1.3"):
            yield GlobalHydra.instance().config_loader()
    finally:
        before.clear()


def _check_aliases(directory: Path) -> None:
    """Refuse YAML whose aliases come to more than any config holds, before anyone writes them out."""
    for file in directory.rglob("*.yaml"):
        is_hidden = any(part.startswith(".") for part in file.relative_to(directory).parts)
        try:
            content = b"" if is_hidden else read_regular(file)
            if b"*" in content:
                check_yaml(content)
        except yaml.YAMLError:
            continue  # said where it is read, if it is
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{file}: cannot be read as YAML ({format_error(error, brief=True)})") from error


def _parse(loader: ConfigLoader, overrides: list[str]) -> list[Override]:
    parsed = []
    parser = OverridesParser.create(config_loader=loader)
    for override in overrides:
        try:
            parsed += parser.parse_overrides([override])
        except HydraException as error:
            # Hydra's message ends with the reason, below a line that marks the place and above one that says "See".
            lines = [line.strip(" ^") for line in str(error).splitlines() if not line.startswith("See ")]
            reason = [line for line in lines if line][-1]
            key, _, value = override.partition("=")
            hint = f"; quote the value: '{key}=\"{value}\"'" if value and '"' not in value else ""
            if not value and override.isalpha():
                hint = "; the commands are audit, evaluate, export, report, retrieve and runs, as the first word"
            raise ConfigError(f"{override}: cannot be read as key=value ({reason}){hint}") from error
    return parsed


def _compose(loader: ConfigLoader, name: str, overrides: list[str], mode: RunMode) -> DictConfig:
    validate = mode == RunMode.MULTIRUN
    try:
        return loader.load_configuration(name, overrides, run_mode=mode, validate_sweep_overrides=validate)
    except (HydraException, OmegaConfBaseException) as error:
        for group, choice in EXTRAS:  # a preset may ask for one that is not there
            if f"{group}/{choice}" in str(error):
                check_extra(group, choice)
        raise explain_hydra_error(error, overrides) from error
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = f"{mark.name}, line {mark.line + 1}" if mark is not None else f"config {name}"
        reason = getattr(error, "problem", None) or format_error(error, brief=True)
        raise ConfigError(f"{place}: cannot be read as YAML ({reason})") from error
