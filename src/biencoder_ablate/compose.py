"""From a command line to checked configs, with Hydra doing the composing. Loads no torch.

Whatever is wrong with an override ends in a ConfigError that names the key, the value and what would do.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from biencoder_ablate.command import refuse_in_one_line
from biencoder_ablate.config import Config, ConfigError, check, schema_keys
from biencoder_ablate.runs.trackers import check_option, choose_trackers

CONFIG_NAME = "config"
SCHEMA_NAME = "biencoder_ablate_schema"


def conf_directory() -> Path:
    """The Hydra tree: inside the installed package, or at the top of the source tree it runs from."""
    package = Path(__file__).resolve().parent
    for place in (package / "conf", package.parents[1] / "conf"):
        if (place / f"{CONFIG_NAME}.yaml").is_file():
            return place
    raise ConfigError(f"no conf/{CONFIG_NAME}.yaml beside {package}; install the package again")


def register_schema() -> None:
    """Let Hydra check keys and types against the dataclasses."""
    ConfigStore.instance().store(name=SCHEMA_NAME, node=Config)


@dataclass(frozen=True)
class Command:
    """A command line understood: Hydra's engine, the composed `hydra` settings, and the jobs' overrides."""

    hydra: Any
    config_name: str
    base: DictConfig
    """The config with `hydra` in it and without the swept values."""
    multirun: bool
    jobs: list[list[str]]
    overrides: list[str]
    _by_choice: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config of one job, equal to Hydra's own.

        Jobs of a sweep mostly differ in values, which Hydra sets last, in order, on what the groups make up: so
        that part is composed once for each choice of groups, and the values are set on copies of it.
        """
        parsed = _parse(self.hydra, list(overrides))
        options = [override for override in parsed if not override.is_hydra_override()]
        is_group = self.hydra.config_loader.repository.group_exists
        values = [override for override in options if not is_group(override.key_or_group)]
        chosen = tuple(override.input_line or "" for override in parsed if override not in values)
        if chosen not in self._by_choice:
            self._by_choice[chosen] = _compose(self.hydra, self.config_name, list(chosen), RunMode.RUN)
        return _with_values(self._by_choice[chosen], values, options)

    def compose_sweep(self, more: Sequence[str]) -> DictConfig:
        """The sweep's own config, from which launchers compose each job's."""
        overrides = [*self.overrides, *more, "hydra.mode=MULTIRUN"]
        return _compose(self.hydra, self.config_name, overrides, RunMode.MULTIRUN)


def parse_arguments(argv: Sequence[str]) -> Namespace:
    """Hydra's options and the overrides. Raises ConfigError where Hydra would print its usage."""
    parser = get_args_parser()
    refuse_in_one_line(parser)
    return parser.parse_args(argv)


def check_question(argv: Sequence[str]) -> None:
    """Refuse a --cfg, --help or --info that Hydra would answer with lines of its own. Raises ConfigError."""
    arguments = parse_arguments(argv)
    if arguments.multirun and not arguments.help and (arguments.cfg or arguments.info):
        raise ConfigError("-m: --cfg and --info show one job; leave it out, and give each key one value")
    if arguments.shell_completion or not (arguments.overrides or arguments.config_dir or arguments.config_name):
        return
    with understood(arguments) as command:
        if arguments.resolve:
            to_config(command.base, checked=False)


@contextlib.contextmanager
def understood(arguments: Namespace) -> Iterator[Command]:
    """Parse and expand a command line (of Hydra's argument parser). Raises ConfigError."""
    with _engine(arguments.config_dir) as hydra:
        name = arguments.config_name or CONFIG_NAME
        overrides = _parse(hydra, arguments.overrides)
        _check_overrides(hydra, overrides)
        base = _compose(hydra, name, arguments.overrides, RunMode.MULTIRUN)
        multirun = arguments.multirun or base.hydra.mode == RunMode.MULTIRUN
        jobs = [list(arguments.overrides)]
        if multirun:
            asked = {override.get_key_element() for override in overrides}
            preset = (base.hydra.sweeper.get("params") or {}).items()
            params = [f"{key}={value}" for key, value in preset if key not in asked]
            jobs = _expand(hydra, params + arguments.overrides)
        else:
            swept = [override.input_line for override in overrides if override.is_sweep_override()]
            if swept:
                raise ConfigError(f"{swept[0]}: several values need -m (a sweep)")
        try:
            yield Command(hydra, name, base, multirun, jobs, list(arguments.overrides))
        except InterpolationResolutionError as error:
            raise _explained(error, arguments.overrides) from error


def load_config(overrides: Sequence[str]) -> Config:
    """The checked config of one command line, for the entry points that train nothing. Raises ConfigError."""
    with _engine(None) as hydra:
        _check_overrides(hydra, _parse(hydra, list(overrides)))
        composed = _compose(hydra, CONFIG_NAME, list(overrides), RunMode.RUN)
        try:
            return to_config(composed)
        except InterpolationResolutionError as error:
            raise _explained(error, overrides) from error


def to_config(composed: DictConfig, checked: bool = True) -> Config:
    """A composed config as dataclasses; keys that the schema does not have are refused."""
    try:
        plain = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(plain, dict)
        plain.pop("hydra", None)
        if OmegaConf.get_type(composed) is Config:  # Hydra has held every key and type against the schema
            config = _as_dataclass(Config, plain)
        else:
            config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), plain))
    except InterpolationResolutionError:
        raise
    except OmegaConfBaseException as error:
        raise _explained(error, []) from error
    assert isinstance(config, Config)
    if checked:
        check(config)
        choose_trackers(config.tracker)
    return config


def _as_dataclass(schema: Any, values: dict[Any, Any]) -> Any:
    kinds: dict[str, Any] = {item.name: item.default_factory for item in fields(schema)}
    assert set(values) == set(kinds), (schema, sorted(values))
    return schema(
        **{
            name: _as_dataclass(kinds[name], value) if is_dataclass(kinds[name]) else value
            for name, value in values.items()
        }
    )


@contextlib.contextmanager
def _engine(config_dir: str | None) -> Iterator[Any]:
    """Hydra over our conf/ tree, and over the user's --config-dir before it."""
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path

    version.setbase("1.3")
    register_schema()
    search_path = create_config_search_path(str(conf_directory()))
    if config_dir is not None:
        directory = Path(config_dir).expanduser().resolve()
        if not directory.is_dir():
            raise ConfigError(f"--config-dir={config_dir}: no such directory")
        search_path.prepend("command-line", f"file://{directory}")
    GlobalHydra.instance().clear()
    try:
        yield Hydra.create_main_hydra2(task_name="biencoder_ablate", config_search_path=search_path)
    finally:
        GlobalHydra.instance().clear()


def _parse(hydra: Any, overrides: list[str]) -> list[Override]:
    parsed = []
    parser = OverridesParser.create(config_loader=hydra.config_loader)
    for override in overrides:
        try:
            parsed += parser.parse_overrides([override])
        except HydraException as error:
            said = [line.strip(" ^") for line in str(error).splitlines() if not line.startswith("See ")]
            reason = [line for line in said if line][-1]
            raise ConfigError(f"{override}: cannot be read as key=value ({reason})") from error
    return parsed


def _expand(hydra: Any, overrides: list[str]) -> list[list[str]]:
    """Every combination of the swept values, as Hydra's basic sweeper orders them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    try:
        return BasicSweeper.split_arguments(_parse(hydra, overrides), max_batch_size=None)[0]
    except HydraException as error:
        raise ConfigError(str(error)) from error


def _check_overrides(hydra: Any, overrides: list[Override]) -> None:
    """Refuse unknown keys and choices before Hydra does: our messages say what would be valid."""
    groups = [group for group in hydra.config_loader.list_groups("") if group != "hydra"]
    keys = dict(schema_keys())
    for override in overrides:
        key, line = override.key_or_group, override.input_line or ""
        if key.startswith(("hydra.", "hydra/")):
            continue
        if override.is_delete():
            options = f"one of {', '.join(hydra.config_loader.get_group_options(key))}" if key in groups else "a value"
            raise ConfigError(f"{line}: {key} cannot be left out; give it {options} instead")
        if key in groups:
            _check_choice(hydra, key, override)
        elif key.startswith("tracker."):
            _, name, option = f"{key}..".split(".")[:3]
            check_option(name, option, line)
        elif key not in keys and not any(name.startswith(f"{key}.") for name in keys):
            near = [name for name in keys if name.rpartition(".")[2] == key.rpartition(".")[2]]
            near = near or difflib.get_close_matches(key, [*keys, *groups], n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else "see --cfg job for all keys"
            raise ConfigError(f"{line}: there is no key {key}; {hint}")


def _check_choice(hydra: Any, group: str, override: Override) -> None:
    options = hydra.config_loader.get_group_options(group)
    chosen = (
        list(override.sweep_string_iterator())
        if override.is_sweep_override()
        else [override.get_value_element_as_str()]
    )
    value = override.value()
    if group == "tracker" and isinstance(value, list):  # several at once
        chosen = [str(each) for each in value]
    for value in chosen:
        if value not in options:
            raise ConfigError(f"{group}={value}: must be one of {', '.join(options)}")


def _compose(hydra: Any, name: str, overrides: list[str], mode: RunMode) -> DictConfig:
    try:
        return hydra.compose_config(
            config_name=name,
            overrides=overrides,
            run_mode=mode,
            from_shell=True,
            with_log_configuration=False,
            validate_sweep_overrides=False,
        )
    except (HydraException, OmegaConfBaseException) as error:
        raise _explained(error, overrides) from error


def _with_values(composed: DictConfig, values: list[Override], options: list[Override]) -> DictConfig:
    """A copy of a composed config with values set as Hydra sets them; `options` are all that was asked, for its record.

    Raises ConfigError.
    """
    config = copy.deepcopy(composed)
    try:
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
    except (HydraException, OmegaConfBaseException) as error:
        raise _explained(error, [override.input_line or "" for override in values]) from error
    job = config.hydra.job
    config.hydra.overrides.task = [override.input_line for override in options]
    job.override_dirname = get_overrides_dirname(options, **job.config.override_dirname)
    return config


def without_hydra(composed: DictConfig) -> str:
    """A composed config as YAML, without Hydra's own settings."""
    plain = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(plain, dict)
    plain.pop("hydra", None)
    return OmegaConf.to_yaml(OmegaConf.create(plain))


def _explained(error: BaseException, overrides: Sequence[str]) -> ConfigError:
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
    message = str(error).partition("Config search path:")[0]
    return ConfigError(" ".join(line.strip() for line in message.splitlines() if line.strip()))
