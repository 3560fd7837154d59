"""``mllama serve`` on a CPU that stands in for a GPU, with a fault from a variable."""

from __future__ import annotations

import os
from typing import Any

import pytest

from mllama.cli.main import main
from mllama.runtime import pipeline
from mllama.runtime.gpu_self_check import GpuSelfCheck
from mllama.server import app
from mllama.server.worker_pipeline import WorkerPipelineFactory
from tests.runtime import gpu_faults

FAULT = "TEST_GPU_FAULT"
"""The environment variable that names a fault of :mod:`tests.runtime.gpu_faults`."""

RECORDS = "TEST_GPU_RECORDS"
"""The environment variable that names the directory to record the verdict in."""


class CheckedPipelineFactory(WorkerPipelineFactory):
    """Builds, in the worker, a pipeline with a fault that is checked as on a GPU."""

    def __call__(self) -> Any:
        """Builds the pipeline."""
        patch = pytest.MonkeyPatch()
        gpu_faults.give_scratch_pages(patch)
        patch.setattr(pipeline, "is_on_host", lambda checked: False)
        run, record = GpuSelfCheck.run, pipeline.record_verdict

        def run_with_fault(self: GpuSelfCheck) -> Any:
            gpu_faults.inject(patch, self, getattr(gpu_faults, os.environ[FAULT]))
            return run(self)

        def record_elsewhere(*arguments: Any) -> None:
            with pytest.MonkeyPatch.context() as elsewhere:
                elsewhere.setenv("MLLAMA_CACHE", os.environ[RECORDS])
                record(*arguments)

        patch.setattr(GpuSelfCheck, "run", run_with_fault)
        patch.setattr(pipeline, "record_verdict", record_elsewhere)
        return super().__call__()


if __name__ == "__main__":
    import tests.server.checked_server as module  # the worker imports it by this name
    from mllama.max_model.image_limits import ImageLimits

    check_count = ImageLimits.check_count

    def check_as_on_a_gpu(self: ImageLimits, images: int) -> None:
        self._is_on_gpu = True
        check_count(self, images)

    ImageLimits.check_count = check_as_on_a_gpu  # type: ignore[method-assign]
    app.WorkerPipelineFactory = module.CheckedPipelineFactory  # type: ignore[misc]
    main()
