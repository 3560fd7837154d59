"""The model's configuration for MAX, resolved against the pipeline's options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from max.dtype import DType
from max.graph import DeviceRef
from max.nn.kv_cache import KVCacheParamInterface, MHAKVCacheParams
from max.pipelines.kv_cache import cache_dtype_for_encoding
from max.pipelines.lib import KVCacheConfig, MAXModelConfig, PipelineConfig
from transformers import AutoConfig
from typing_extensions import Self

from mllama.config import MllamaConfig
from mllama.config.sharding import check_shards
from mllama.errors import ConfigError
from mllama.kernels.ops.attention import PAGE_SIZE, stored_head_dim
from mllama.max_compat.model import (
    ArchConfigWithKVCache,
    ArchConfigWithStoredKVParams,
    SupportedEncoding,
    select_quantization_encoding,
    supported_encoding_dtype,
)
from mllama.max_model.settings import ModelSettings
from mllama.nn.layers.image_cache_inputs import image_cache_dtype, image_cache_params
from mllama.weights.quantization_plan import GGUF_ENCODINGS


@dataclass(kw_only=True)
class MllamaArchConfig(ArchConfigWithStoredKVParams, ArchConfigWithKVCache):
    """The resolved configuration that the graphs are built from.

    Attributes:
        model: The checkpoint's configuration.
        dtype: Data type of activations, and of weights that are not quantized.
        devices: The devices of the model; several divide its heads.
        max_seq_len: Maximum length of a sequence, prompt and answer, in tokens.
        kv_params: The paged KV cache, with one layer for each self-attention layer.
            Its ``head_dim`` includes the scale of a head in int8.
        image_cache_params: The image cache, with one layer for each cross-attention
            layer.
        int8_vision: Whether the vision encoder and projector run in int8.
    """

    DEFAULT_ENCODING: ClassVar[SupportedEncoding] = "float32"
    SUPPORTED_ENCODINGS: ClassVar[set[SupportedEncoding]] = {
        "float32",
        "bfloat16",
        *GGUF_ENCODINGS,
    }

    model: MllamaConfig
    dtype: DType
    devices: list[DeviceRef]
    max_seq_len: int
    kv_params: KVCacheParamInterface
    image_cache_params: MHAKVCacheParams
    int8_vision: bool = False

    @classmethod
    def initialize(
        cls,
        pipeline_config: PipelineConfig,
        model_config: MAXModelConfig | None = None,
        *,
        max_seq_len: int,
    ) -> Self:
        """Reads the checkpoint's configuration and resolves encoding and devices.

        Raises:
            ConfigError: If the configuration contradicts itself, or if the devices
                can't share the model.
        """
        model_config = model_config or pipeline_config.model
        settings = ModelSettings.from_max(model_config)
        encoding = select_quantization_encoding(model_config, cls.DEFAULT_ENCODING)
        if settings.bfloat16_on_cpu:
            encoding = "bfloat16"
        is_gguf = encoding in GGUF_ENCODINGS
        dtype = _activation_dtype(encoding)
        devices = [
            DeviceRef(spec.device_type, spec.id) for spec in model_config.device_specs
        ]
        model = MllamaConfig.from_dict(model_config.huggingface_config.to_dict())
        check_shards(model, len(devices))
        if is_gguf and len(devices) > 1:
            raise ConfigError(
                f"weights in {encoding} run on one device, not on {len(devices)}"
            )
        if model_config.data_parallel_degree > 1:
            raise ConfigError(
                "several devices share one model here; leave --data-parallel-degree out"
            )
        return cls(
            model=model,
            dtype=dtype,
            devices=devices,
            max_seq_len=max_seq_len,
            kv_params=cls.construct_kv_params(
                huggingface_config=model_config.huggingface_config,
                pipeline_config=pipeline_config,
                devices=devices,
                kv_cache_config=model_config.kv_cache,
                cache_dtype=cache_dtype_for_encoding(
                    encoding, model_config.kv_cache.kv_cache_format
                ),
            ),
            image_cache_params=_image_cache_params(
                model,
                dtype,
                devices,
                is_gguf=is_gguf,
                requested=settings.image_cache_encoding,
            ),
            int8_vision=settings.int8_vision,
        )

    @classmethod
    def construct_kv_params(
        cls,
        huggingface_config: AutoConfig,
        pipeline_config: PipelineConfig,
        devices: list[DeviceRef],
        kv_cache_config: KVCacheConfig,
        cache_dtype: DType,
        *,
        allow_kv_head_replication: bool = False,
    ) -> KVCacheParamInterface:
        """Returns the KV cache, which has no cross-attention layers.

        Raises:
            ConfigError: If its encoding needs pages of another size.
        """
        settings = ModelSettings.from_max(pipeline_config.model)
        if settings.bfloat16_on_cpu:
            cache_dtype = cache_dtype_for_encoding(
                "bfloat16", kv_cache_config.kv_cache_format
            )
        if settings.kv_cache_encoding is not None:
            cache_dtype = DType[settings.kv_cache_encoding]
            if kv_cache_config.kv_cache_page_size != PAGE_SIZE:
                raise ConfigError(
                    f"a KV cache in {cache_dtype.name} has pages of {PAGE_SIZE} "
                    f"tokens, not of {kv_cache_config.kv_cache_page_size}; leave "
                    "--kv-cache-page-size out"
                )
        return _kv_params(
            MllamaConfig.from_dict(huggingface_config.to_dict()),
            kv_cache_config,
            cache_dtype,
            devices,
            allow_kv_head_replication=allow_kv_head_replication,
            data_parallel_degree=pipeline_config.model.data_parallel_degree,
        )

    @classmethod
    def for_graphs(
        cls,
        model: MllamaConfig,
        encoding: SupportedEncoding,
        devices: list[DeviceRef],
        *,
        int8_vision: bool = False,
        image_cache_encoding: str | None = None,
        kv_cache_encoding: str | None = None,
    ) -> Self:
        """Returns the configuration that default options resolve to.

        Graphs that are compiled ahead of time for another machine are built from it.

        Args:
            model: The checkpoint's configuration.
            encoding: The encoding of the weights.
            devices: The devices that share the model.
            int8_vision: Whether the vision encoder and projector run in int8.
            image_cache_encoding: The encoding of the image cache; None chooses by the
                weights.
            kv_cache_encoding: The encoding of the KV cache; None is the data type of
                the activations.

        Raises:
            ConfigError: If the devices can't share the model.
        """
        check_shards(model, len(devices))
        is_gguf = encoding in GGUF_ENCODINGS
        dtype = _activation_dtype(encoding)
        cache_config = KVCacheConfig()
        cache_dtype = cache_dtype_for_encoding(encoding, cache_config.kv_cache_format)
        if kv_cache_encoding is not None:
            cache_dtype = DType[kv_cache_encoding]
        return cls(
            model=model,
            dtype=dtype,
            devices=devices,
            max_seq_len=model.text_config.max_position_embeddings,
            kv_params=_kv_params(model, cache_config, cache_dtype, devices),
            image_cache_params=_image_cache_params(
                model,
                dtype,
                devices,
                is_gguf=is_gguf,
                requested=image_cache_encoding,
            ),
            int8_vision=int8_vision,
        )

    @classmethod
    def calculate_max_seq_len(
        cls, huggingface_config: AutoConfig, model_config: MAXModelConfig
    ) -> int:
        """Returns the user's ``--max-length``, bounded by the model's own limit.

        Raises:
            ValueError: If the user's length exceeds the model's limit.
        """
        return super().calculate_max_seq_len(
            huggingface_config.text_config, model_config
        )


def _activation_dtype(encoding: SupportedEncoding) -> DType:
    """Returns the dtype of activations; GGUF blocks are multiplied with float32."""
    if encoding in GGUF_ENCODINGS:
        return DType.float32
    return supported_encoding_dtype(encoding)


def _image_cache_params(
    model: MllamaConfig,
    dtype: DType,
    devices: list[DeviceRef],
    *,
    is_gguf: bool,
    requested: str | None,
) -> MHAKVCacheParams:
    cache_dtype = image_cache_dtype(
        model,
        dtype,
        devices[0],
        is_gguf=is_gguf,
        requested=None if requested is None else DType[requested],
    )
    return image_cache_params(model, cache_dtype, devices)


def _kv_params(
    model: MllamaConfig,
    kv_cache_config: KVCacheConfig,
    dtype: DType,
    devices: list[DeviceRef],
    **options: Any,
) -> KVCacheParamInterface:
    text = model.text_config
    return kv_cache_config.to_params(
        dtype=dtype,
        n_kv_heads=text.num_key_value_heads,
        head_dim=stored_head_dim(text.head_dim, dtype),
        num_layers=text.num_hidden_layers - len(text.cross_attention_layers),
        devices=devices,
        **options,
    )
