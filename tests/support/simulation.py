"""The simulation scripts as modules, so that tests can repeat a small part of what they print."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from support.helpers import REPOSITORY


def load_script(name: str) -> ModuleType:
    """scripts/NAME.py, loaded once; scripts may import each other."""
    if name in sys.modules:
        return sys.modules[name]
    folder = REPOSITORY / "scripts"
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
