"""What biencoder_ablate gives a sweeper of Hydra's for a launcher. Hydra takes launchers from this package alone."""

from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class BatchLauncher(Launcher):
    """Hands each batch of jobs to the function that the sweeper was given as its task, which launches them itself."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.launch_batch = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        returned: Sequence[JobReturn] = self.launch_batch(job_overrides)
        return returned
