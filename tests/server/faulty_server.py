"""``mllama serve`` whose model fails on every image of one color."""

from __future__ import annotations

from typing import Any

import numpy as np

from mllama.cli.main import main
from mllama.image_cache.encoder_runner import ImageEncoderRunner
from mllama.server import app
from mllama.server.worker_pipeline import WorkerPipelineFactory

WHITE_MEAN = 240
"""The pixels of a white image have a mean above this."""


class FaultyPipelineFactory(WorkerPipelineFactory):
    """Builds, in the worker, a pipeline that fails on white images."""

    def __call__(self) -> Any:
        """Builds the pipeline."""
        encode = ImageEncoderRunner._encode

        def failing(self: Any, images: Any, tiles: int) -> None:
            if any(np.mean(image.pixel_values) > WHITE_MEAN for image in images):
                raise RuntimeError("this image is too bright")
            encode(self, images, tiles)

        ImageEncoderRunner._encode = failing  # type: ignore[method-assign]
        return super().__call__()


if __name__ == "__main__":
    import tests.server.faulty_server as module  # the worker imports it by this name

    app.WorkerPipelineFactory = module.FaultyPipelineFactory  # type: ignore[misc]
    main()
