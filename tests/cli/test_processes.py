"""Several processes of one command (torchrun): what is refused, and who says what."""

from types import SimpleNamespace

import pytest

from biencoder_ablate.cli.main import _check_processes
from biencoder_ablate.config.schema import ConfigError


@pytest.mark.parametrize("size", [1, 2])
def test_a_parallel_launcher_inside_torchrun_is_refused(monkeypatch, size):
    monkeypatch.setenv("WORLD_SIZE", str(size))
    _check_processes(SimpleNamespace(overrides=["head=none,relu"]))
    parallel = SimpleNamespace(overrides=["head=none,relu", "hydra/launcher=joblib"])
    if size == 1:
        _check_processes(parallel)
        return
    with pytest.raises(ConfigError, match=r"^hydra/launcher=joblib: with torchrun the runs .* without torchrun$"):
        _check_processes(parallel)
