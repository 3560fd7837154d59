"""The vision side of a model on a device, run on pictures of noise.

Runner, storage and probe are the package's own.  What stands in for the compiled graph
keeps what went in and came out, and can change how it is run.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from max.driver import Buffer, Device
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import DeviceRef, Shape
from max.graph.weights import WeightData, load_weights

from benchmarks.gpu_fault import selection
from benchmarks.gpu_fault.graphs import ProbeGraphs, arch_config, model_config
from benchmarks.gpu_fault.variants import Variant, build
from mllama.demo_model import MODEL_PATH
from mllama.image_cache.encoder_runner import ImageEncoderRunner
from mllama.image_cache.storage import ImageCacheStorage
from mllama.image_cache.uploads import Uploads
from mllama.images.preprocess import ImageProcessor
from mllama.max_model.memory_planner import pages_per_image, self_check_pages
from mllama.max_model.weight_adapters import (
    canonical_state_dict,
    image_encoder_weights,
)
from mllama.runtime.image_probe import ImageProbe, NoisePicture, noise_picture
from mllama.weights.names import expected_tensors

INPUTS = {
    "pixel_values": 0,
    "ids": 2,
    "real_patches": 3,
    "padding_patches": 4,
    "cache_lengths": 6,
    "lookup_table": 7,
    "patch_offsets": 11,
}
"""The uploaded inputs of the vision graph, by their index."""


class RecordedUploads(Uploads):
    """Uploads that are known by their copies on the device."""

    def __init__(self, device: Device) -> None:
        super().__init__([device])
        self._arrays: list[tuple[Buffer, npt.NDArray[Any]]] = []

    def copy(self, array: np.ndarray, device: Device) -> Buffer:
        """Uploads an array, and keeps another copy of it on the host."""
        buffer = super().copy(array, device)
        self._arrays.append((buffer, array.copy()))
        return buffer

    def original(self, buffer: Buffer) -> npt.NDArray[Any]:
        """Returns the array that was uploaded to a buffer."""
        return next(array for copy, array in self._arrays if copy is buffer)


class DroppedUploads(Uploads):
    """Uploads that nothing keeps, as when the fault was seen."""

    def keep(self, *used: Any) -> None:
        """Keeps nothing."""


class ObservedGraph:
    """A loaded graph whose runs can be looked at.

    Args:
        graph: The loaded graph.
        device: Its device.
        change: Changes the inputs before a run.
        synchronizes: Whether to wait for the device before and after a run.
        keeps: Whether inputs and outputs of the last run are kept.

    Attributes:
        inputs: The inputs of the last run.
        outputs: Its outputs.
    """

    def __init__(
        self,
        graph: Any,
        device: Device,
        *,
        change: Callable[[list[Any]], list[Any]] = lambda inputs: inputs,
        synchronizes: bool = False,
        keeps: bool = True,
    ) -> None:
        self.graph = graph
        self._device = device
        self._change = change
        self._synchronizes = synchronizes
        self._keeps = keeps
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def execute(self, *inputs: Any) -> Any:
        """Runs the graph."""
        changed = self._change(list(inputs))
        if self._synchronizes:
            self.wait()
        outputs = self.graph.execute(*changed)
        if self._synchronizes:
            self.wait()
        if self._keeps:
            self.inputs, self.outputs = changed, list(outputs)
        return outputs

    def wait(self) -> None:
        """Waits until the device has finished."""
        self._device.synchronize()


class VisionSide:
    """The vision side of a model.

    Args:
        device: The device.
        graphs: Its compiled graphs.
        model: ``demo``, or ``11b`` with random weights.
    """

    def __init__(
        self, device: Device, graphs: ProbeGraphs, model: str = "demo"
    ) -> None:
        self.device = device
        self.graphs = graphs
        self.model = model
        self.config = arch_config(model_config(model), DeviceRef.from_device(device))
        self.vision = self.config.model.vision_config

    @cached_property
    def session(self) -> InferenceSession:
        """Returns MAX's session, which takes the process's settings for debugging."""
        return InferenceSession(devices=[self.device])

    @cached_property
    def storage(self) -> ImageCacheStorage:
        """Returns an image cache with room for three pictures and a sacrificial one."""
        per_image = pages_per_image(self.config)
        return ImageCacheStorage(
            self.config.image_cache_params,
            [self.device],
            self_check_pages(per_image),
            per_image + 1,
        )

    @cached_property
    def _weights(self) -> Mapping[str, WeightData]:
        if self.model != "demo":
            return RandomTensors(self.config.model)
        files = sorted(MODEL_PATH.glob("*.safetensors"))
        return canonical_state_dict(dict(load_weights(files).items()))

    def load(self, name: str) -> Any:
        """Loads a graph with its weights.

        Args:
            name: One of :data:`~benchmarks.gpu_fault.graphs.GRAPHS`.
        """
        compiled = self.graphs.compiled(self.session, self.config, name)
        if name == "T7":
            return self.session.init(
                compiled, weights_registry=selection.weights(self.config.devices[0])
            )
        network = build(self.config, Variant(name))
        network.load_state_dict(
            image_encoder_weights(
                self._weights,
                self.config.model,
                list(network.raw_state_dict()),
                self.config.dtype,
            ),
            weight_alignment=1,
        )
        return self.session.init(compiled, weights_registry=network.state_dict())

    def probe(self, graph: Any, uploads: Uploads | None = None) -> ImageProbe:
        """Returns a probe that runs a graph and downloads all that it stored.

        Args:
            graph: A loaded graph, or what stands in for one.
            uploads: Copies the inputs to the device.
        """
        self.storage.uploads = uploads or Uploads([self.device])
        source: dict[str, Any] = {}
        if self.model == "demo":
            processor = ImageProcessor.from_pretrained(MODEL_PATH, self.vision)
        else:
            processor = ImageProcessor(source, self.vision)
        runner = ImageEncoderRunner(
            self.vision, processor.pixel_table, self.storage, graph, []
        )
        pages = self.storage.blocks.num_pages
        return ImageProbe(runner, self.storage, self.vision, sampled_pages=pages)

    def pictures(self, letters: str, num_tiles: int) -> list[NoisePicture]:
        """Returns pictures, of which equal letters are equal in separate arrays."""
        return [
            noise_picture(self.vision, num_tiles, ord(letter) - ord("A"))
            for letter in letters
        ]


def token_rows(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Returns stored keys and values as ``[tokens, all]``.

    Args:
        values: ``[2, layers, tokens, kv heads, head dim]``.
    """
    return np.ascontiguousarray(np.moveaxis(values, 2, 0)).reshape(values.shape[2], -1)


class RandomTensors(Mapping[str, WeightData]):
    """Random tensors of a model in float32, made when they are read.

    Gates are far from zero, and norms and biases vary, so that all have an effect.

    Args:
        config: The model.
    """

    def __init__(self, config: Any) -> None:
        self._shapes = expected_tensors(config)

    def __getitem__(self, name: str) -> WeightData:
        shape = self._shapes[name]
        generator = np.random.default_rng(zlib.crc32(name.encode()))
        values = generator.standard_normal(shape, dtype=np.float32)
        last = name.rpartition(".")[2]
        if "gate" in last:
            values[:] = 0.7
        elif "norm" in name:
            values = values * np.float32(0.2) + np.float32(last == "weight")
        elif last == "bias":
            values *= np.float32(0.1)
        elif "embedding" in name and "patch" not in name:
            values *= np.float32(0.5)
        else:
            values /= np.float32(np.sqrt(np.prod(shape[1:])))
        return WeightData(values, name, DType.float32, Shape(shape))

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)
