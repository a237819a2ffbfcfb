"""The settings that a run has kept in its .hydra/config.yaml, read without asking this machine for anything.

A logs directory may come from someone else. `${seed}`, another key of the same file, is filled in; what a resolver
would have to look up, as `${oc.env:TOKEN}` an environment variable, stays the text that it is. Loads no torch.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from biencoder_ablate.utils.files import Damaged, load_yaml

_OTHER_KEY = re.compile(r"\$\{\.*[\w-]+(\.[\w-]+|\[[\w-]+\])*\}")
"""`${seed}`, `${data.path}`, `${.name}`: of OmegaConf's grammar what names another key and no more."""


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a run's config file as plain values. Raises OSError where there is none, and Damaged."""
    return fill_in(path, load_yaml(path))


def fill_in(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings, of the file `path`, with the values of the keys that they name. Raises Damaged."""
    try:
        filled: Any = OmegaConf.to_container(OmegaConf.create(_without_resolvers(settings)), resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise Damaged(path, f"has a ${{…}} that cannot be filled in ({str(error).splitlines()[0]})") from error
    assert isinstance(filled, dict)
    return filled


def escape(value: Any) -> Any:
    """A value, at any depth, written so that OmegaConf reads it as it stands, `${…}` included."""
    if isinstance(value, dict):
        return {key: escape(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [escape(item) for item in value]
    # Of backslashes before ${ each pair is one, and one more makes the rest a text.
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _without_resolvers(value: Any) -> Any:
    """A value, at any depth, with the texts escaped that name more than other keys."""
    if isinstance(value, dict):
        return {key: _without_resolvers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_resolvers(item) for item in value]
    if isinstance(value, str) and "${" in _OTHER_KEY.sub("", value):
        return re.sub(r"(\\*)\$\{", lambda found: found[0] if len(found[1]) % 2 else f"{found[1]}\\${{", value)
    return value
