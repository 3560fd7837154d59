"""Options of both commands arrive where they act.

``serve`` runs up to the start of MAX's server, ``generate`` up to the model.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from max.driver import DeviceSpec
from max.pipelines.lib import PIPELINE_REGISTRY, PipelineConfig

from mllama.cli.generate import generate
from mllama.cli.serve import serve
from mllama.config import MllamaConfig
from mllama.demo_model import MODEL_PATH
from mllama.errors import MllamaError
from mllama.hub.options import HubOptions
from mllama.kernels import dispatch
from mllama.launch.defaults import DEFAULT_SPECULATE
from mllama.launch.options import ARCHITECTURES, EngineOptions
from mllama.max_model.draft.settings import DraftSettings
from mllama.max_model.settings import ModelSettings
from mllama.server.listening import bind
from mllama.server.options import ServerOptions
from mllama.server.supervisor.restart_options import RestartOptions
from tests.cli.own_tokenizer import own_tokenizer
from tests.reference.llama import write_llama

Started = Callable[..., Any]

TOOL = {"type": "function", "function": {"name": "look"}}

needs_custom_ops = pytest.mark.skipif(
    dispatch.chosen_kernels() == dispatch.MAX,
    reason="this CPU can't run the custom ops",
)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A copy of the demo model's weights."""
    shutil.copy(MODEL_PATH / "model.safetensors", tmp_path / "other.safetensors")
    return str(tmp_path / "other.safetensors")


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> Started:
    """Runs ``generate`` and returns its arguments of ``LLM`` and of ``chat``."""
    seen: dict[str, Any] = {}

    class Recorded(Exception):
        pass

    class Recorder:
        def __init__(self, model_path: str, **options: Any) -> None:
            seen.update(options, model_path=model_path)

        def __enter__(self) -> Recorder:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def chat(self, messages: Any, **settings: Any) -> Any:
            seen.update(settings)
            raise Recorded

    def run(*args: str, prompt: str | None = "x") -> dict[str, Any]:
        command = [*([] if prompt is None else ["--prompt", prompt]), *args]
        with pytest.raises(Recorded):
            CliRunner().invoke(generate, command, catch_exceptions=False)
        return seen

    monkeypatch.setattr("mllama.llm.LLM", Recorder)
    monkeypatch.setattr("mllama.cli.generate.block_torch", lambda: None)
    return run


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Started:
    """Runs ``serve`` and returns the arguments that it gives to the server."""
    seen: dict[str, Any] = {}
    for name in ("logging", "metrics"):
        monkeypatch.setattr(
            f"mllama.max_compat.server.configure_{name}", lambda _: None
        )
    for name in ("LOGS_ENABLE_COMPONENTS", "HOST", "METRIC_RECORDING_METHOD"):
        monkeypatch.setenv(f"MAX_SERVE_{name}", "")
        monkeypatch.delenv(f"MAX_SERVE_{name}")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    # The tests of this process need torch afterwards, and no worker.
    monkeypatch.setattr("mllama.cli.serve.block_torch", lambda: None)
    monkeypatch.setattr("mllama.cli.serve.prespawn_worker", lambda **_: None)
    monkeypatch.setattr(
        "mllama.server.app.serve",
        lambda settings, args, **more: seen.update(more, settings=settings, args=args),
    )

    # Other tests may use the port.
    monkeypatch.setattr(
        "mllama.server.options.bind", lambda host, port, *option: bind(host, 0, *option)
    )

    def run(*args: str) -> dict[str, Any]:
        seen.clear()
        CliRunner().invoke(serve, [*args], catch_exceptions=False)
        return seen

    return run


@pytest.mark.parametrize(
    ("args", "name", "value", "default"),
    [
        (["--model-path", "DIR"], "model_path", "DIR", str(MODEL_PATH)),
        (["--weight-path", "a"], "weight_path", ("a",), ()),
        (["--force-download"], "force_download", True, False),
        (["--trust-remote-code"], "trust_remote_code", True, False),
        (["--devices", "gpu-1"], "devices", "gpu-1", None),
        (["--num-threads", "1"], "num_threads", 1, None),
        (
            ["--quantization-encoding", "q4_0"],
            "quantization_encoding",
            "q4_0",
            None,
        ),
        (["--vision-encoding", "int8"], "vision_encoding", "int8", None),
        (["--image-cache-encoding", "int8"], "image_cache_encoding", "int8", "auto"),
        (["--kv-cache-encoding", "int8"], "kv_cache_encoding", "int8", "auto"),
        (["--max-length", "99"], "max_length", 99, None),
        (["--max-batch-size", "3"], "max_batch_size", 3, 1),
        (["--max-ce-batch-size", "2"], "max_ce_batch_size", 2, 32),
        (["--enable-overlap-scheduler"], "enable_overlap_scheduler", True, False),
        (["--device-graph-capture"], "device_graph_capture", True, False),
        (["--greedy-on-gpu"], "greedy_on_gpu", True, False),
        (["--speculate", "lookup"], "speculate", "lookup", None),
        (["--draft-model-path", "d"], "draft_model_path", "d", None),
        (["--draft-model-revision", "v1"], "draft_model_revision", "v1", None),
        (["--max-new-tokens", "7"], "max_new_tokens", 7, -1),
        (["--top-k", "5"], "top_k", 5, None),
        (["--n", "3"], "n", 3, 1),
        (["--min-tokens", "3"], "min_tokens", 3, 0),
        (["--stop", "a", "--stop", "b"], "stop", ("a", "b"), ()),
        (["--stop-token-id", "4"], "stop_token_ids", (4,), ()),
        (
            ["--logit-bias", "4=-1.5", "--logit-bias", "5=2"],
            "logit_bias",
            {4: -1.5, 5: 2},
            {},
        ),
        (["--ignore-eos"], "ignore_eos", True, False),
        (["--logprobs", "0"], "logprobs", 0, None),
        (["--repetition-penalty", "1.5"], "repetition_penalty", 1.5, None),
        (["--tools", json.dumps([TOOL])], "tools", [TOOL], None),
        (
            ["--chat-template-kwargs", '{"a": [1]}'],
            "chat_template_kwargs",
            {"a": [1]},
            None,
        ),
        (["--add-generation-prompt"], "add_generation_prompt", True, None),
        (["--no-add-generation-prompt"], "add_generation_prompt", False, None),
    ],
)
def test_generate_passes_options_to_the_model(
    generated: Started, args: list[str], name: str, value: Any, default: Any
) -> None:
    assert generated()[name] == default
    assert generated(*args)[name] == value


def test_generate_reads_plain_data_from_a_file(
    generated: Started, tmp_path: Path
) -> None:
    file = tmp_path / "tools.json"
    file.write_text(json.dumps([TOOL]), encoding="utf-8-sig")
    assert generated("--tools", str(file))["tools"] == [TOOL]


def test_generate_goes_on_with_the_last_of_its_messages(
    generated: Started, tmp_path: Path
) -> None:
    assert generated()["continue_final_message"] is False
    file = tmp_path / "chat.json"
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Oh"},
    ]
    file.write_text(json.dumps(messages))
    options = ["--messages", str(file), "--continue-final-message"]
    assert generated(*options, prompt=None)["continue_final_message"] is True


@pytest.mark.parametrize(
    ("option", "read", "value"),
    [
        ({"max_length": 512}, lambda args: args.max_length, 512),
        ({"max_batch_size": 3}, lambda args: args.runtime.max_batch_size, 3),
        ({"trust_remote_code": True}, lambda args: args.trust_remote_code, True),
        (
            {"quantization_encoding": "q6_k"},
            lambda args: args.quantization_encoding,
            "q6_k",
        ),
    ],
)
def test_the_engine_passes_options_to_max(
    option: dict[str, Any], read: Callable[[Any], Any], value: Any
) -> None:
    options = EngineOptions(devices="cpu", **option)
    files = options.resolve().ensure_quantized(quiet=True)
    assert read(options.pipeline_args(files)) == value
    plain = EngineOptions(devices="cpu")
    assert read(plain.pipeline_args(plain.resolve())) != value


GPU_OPTIONS = {
    "enable_overlap_scheduler": lambda args: args.runtime.enable_overlap_scheduler,
    "device_graph_capture": lambda args: args.runtime.device_graph_capture,
    "greedy_on_gpu": lambda args: ModelSettings.from_max(args).greedy_on_gpu,
}


@pytest.mark.parametrize("name", GPU_OPTIONS)
def test_options_for_gpus_reach_max_and_are_off_by_default(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = EngineOptions(devices="cpu").resolve()
    monkeypatch.setattr(
        "mllama.launch.options.find_devices", lambda _: [DeviceSpec.accelerator()]
    )
    options: dict[str, Any] = {name: True}
    read = GPU_OPTIONS[name]
    assert read(EngineOptions(**options).pipeline_args(files)) is True
    assert read(EngineOptions().pipeline_args(files)) is False


@pytest.mark.parametrize("name", GPU_OPTIONS)
def test_options_for_gpus_are_refused_on_a_cpu(served: Started, name: str) -> None:
    option = f"--{name.replace('_', '-')}"
    message = f"{option} is for GPUs, and the model would run on the CPU"
    with pytest.raises(MllamaError, match=message):
        served("--devices", "cpu", option)
    options: dict[str, Any] = {name: True}
    with pytest.raises(MllamaError, match=message):
        EngineOptions(devices="cpu", **options).resolve()


def test_guesses_are_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def setting(**options: Any) -> str:
        args = EngineOptions(**options).pipeline_args(files)
        return ModelSettings.from_max(args).speculate

    files = EngineOptions(devices="cpu", speculate="lookup").resolve()
    assert setting(devices="cpu", speculate="lookup") == "lookup"
    assert setting(devices="cpu", speculate="off") == "off"
    assert setting(devices="cpu") == DEFAULT_SPECULATE["cpu"]
    monkeypatch.setattr(
        "mllama.launch.options.find_devices", lambda _: [DeviceSpec.accelerator()]
    )
    assert setting() == setting(speculate="off") == "off"
    message = "--speculate lookup is for CPUs, and the model would run on a GPU"
    with pytest.raises(MllamaError, match=message):
        EngineOptions(speculate="lookup").resolve()


def test_a_draft_model_and_its_guesses_come_together() -> None:
    with pytest.raises(MllamaError, match="--speculate draft needs --draft-model-path"):
        EngineOptions(devices="cpu", speculate="draft").resolve()
    for speculate in (None, "off", "lookup"):
        with pytest.raises(MllamaError, match="--draft-model-path is for --speculate"):
            EngineOptions(
                devices="cpu", speculate=speculate, draft_model_path="d"
            ).resolve()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "is for a draft model of the hub, and there is no --draft-model-path"),
        (
            {"draft_model_path": "/models/draft", "speculate": "draft"},
            "/models/draft is on this machine; --draft-model-revision is for",
        ),
        (
            {"draft_model_path": "ollama:llama3.2:1b", "speculate": "draft"},
            "ollama:llama3.2:1b is on this machine; --draft-model-revision is for",
        ),
    ],
)
def test_a_revision_needs_a_draft_model_of_the_hub(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(MllamaError, match=message) as error:
        EngineOptions(devices="cpu", draft_model_revision="v1", **options).resolve()
    assert "\n" not in str(error.value)


def test_a_draft_model_reaches_max(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "draft", seed=1)
    options = EngineOptions(
        devices="cpu", speculate="draft", draft_model_path=folder, max_length=2048
    )
    files = options.resolve()
    draft = ModelSettings.from_max(options.pipeline_args(files)).draft
    assert draft == DraftSettings(
        directory=folder,
        weight_path=(folder / "model.safetensors",),
        encoding="float32",
    )
    assert "draft model: weights in float32 (as in the checkpoint): " in (
        "\n".join(files.lines())
    )


def test_a_draft_model_counts_where_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_llama(tmp_path / "draft", seed=1)
    options = EngineOptions(devices="cpu", speculate="draft", draft_model_path=folder)
    files = options.resolve()
    assert files.draft is not None
    memory = files.weights_bytes + files.draft.weights_bytes // 2
    monkeypatch.setattr("mllama.launch.resolve.host_memory_limit", lambda: memory)
    with pytest.raises(MllamaError, match="leave --draft-model-path out"):
        options.resolve()


def test_what_guesses_is_named() -> None:
    message = "speculate must be one of off, lookup.*, not 'sideways'"
    with pytest.raises(MllamaError, match=message):
        EngineOptions(devices="cpu", speculate="sideways").resolve()


@pytest.mark.parametrize(
    ("option", "needed"),
    [
        ("--debug-verify-replay", "--device-graph-capture"),
        ("--disable-overlap", "--device-graph-capture or --enable-overlap-scheduler"),
    ],
)
def test_options_that_need_another_are_refused_alone(
    served: Started, option: str, needed: str
) -> None:
    with pytest.raises(MllamaError, match=f"{option} has no effect without {needed}$"):
        served("--devices", "cpu", option)


def test_the_engine_takes_other_weight_files(weights: str) -> None:
    options = EngineOptions(devices="cpu", weight_path=[weights])
    assert list(map(str, options.resolve().weight_path)) == [weights]


def test_max_length_sizes_the_kv_cache() -> None:
    def cache(max_length: int | None) -> tuple[int, int]:
        options = EngineOptions(devices="cpu", max_batch_size=2, max_length=max_length)
        config = PipelineConfig.from_args(options.pipeline_args(options.resolve()))
        plan = PIPELINE_REGISTRY.retrieve_factory(config).memory_plan
        return plan.planned_max_length, plan.available_cache_memory

    whole, whole_bytes = cache(None)
    length, length_bytes = cache(512)
    assert (whole, length) == (4096, 512)
    assert length_bytes < whole_bytes / 4


def test_serve_has_the_documented_defaults(served: Started) -> None:
    started = served("--devices", "cpu")
    args = started["args"]
    assert args.model_path == str(MODEL_PATH)
    assert args.served_model_name == "mllama-demo"
    assert args.runtime.max_batch_size == 1
    assert args.runtime.top_k == 1
    assert (args.trust_remote_code, args.max_length) == (False, None)
    assert (started["max_ce_batch_size"], started["max_new_tokens"]) == (32, None)
    assert (started["settings"].host, started["settings"].port) == ("127.0.0.1", 8000)


def test_serve_passes_options_to_max(
    served: Started, tmp_path: Path, weights: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(MODEL_PATH, model)
    started = served(
        *("--devices", "cpu", "--model-path", str(model), "--weight-path", weights),
        *("--max-batch-size", "3", "--max-ce-batch-size", "2", "--max-length", "512"),
        *("--max-new-tokens", "7", "--top-k", "5", "--trust-remote-code"),
        *("--quantization-encoding", "bfloat16", "--port", "8123"),
    )
    args = started["args"]
    assert args.model_path == str(model)
    assert list(map(str, args.weight_path)) == [weights]
    assert args.runtime.max_batch_size == 3
    assert args.runtime.top_k == 5
    assert args.max_length == 512
    assert args.trust_remote_code
    assert ModelSettings.from_max(args).bfloat16_on_cpu
    assert [spec.device_type for spec in args.device_specs] == ["cpu"]
    assert (started["max_ce_batch_size"], started["max_new_tokens"]) == (2, 7)
    assert started["settings"].port == 8123


def test_what_is_watched_reaches_the_server(
    served: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    def style(*args: str) -> tuple[str, str | None, bool]:
        monkeypatch.setattr("sys.stderr", sys.__stderr__)
        started = served("--devices", "cpu", *args)
        look = started["options"].log_style
        return look.format, look.prefix, started["settings"].structured_logging

    monkeypatch.delenv("MODULAR_STRUCTURED_LOGGING", raising=False)
    assert style() == ("text", None, False)
    assert style("--log-format", "json", "--log-prefix", "a") == ("json", "a", True)
    # MAX's variable has the same effect, and the option wins.
    monkeypatch.setenv("MODULAR_STRUCTURED_LOGGING", "1")
    assert style() == ("json", None, True)
    assert style("--log-format", "text") == ("text", None, False)

    options = served("--devices", "cpu")["options"]
    assert (options.metrics_port, options.logs_requests) == (None, True)
    started = served("--devices", "cpu", "--metrics-port", "0", "--no-access-log")
    options = started["options"]
    assert (options.metrics_port, options.logs_requests) == (0, False)
    assert len(started["sockets"].metrics) == 1


@pytest.mark.parametrize(
    ("args", "port"),
    [
        ([], 8000),
        (["--ollama"], 11434),
        (["--ollama", "--port", "8123"], 8123),
        (["--port", "8123"], 8123),
    ],
)
def test_ollamas_port_is_taken_unless_another_is_named(
    served: Started, monkeypatch: pytest.MonkeyPatch, args: list[str], port: int
) -> None:
    monkeypatch.setattr(ServerOptions, "bound", lambda _: contextlib.nullcontext(()))
    assert served("--devices", "cpu", *args)["settings"].port == port


def test_ollamas_port_has_precedence_over_the_environment(
    served: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ServerOptions, "bound", lambda _: contextlib.nullcontext(()))
    monkeypatch.setenv("MAX_SERVE_PORT", "8123")
    assert served("--devices", "cpu")["settings"].port == 8123
    assert served("--devices", "cpu", "--ollama")["settings"].port == 11434


def test_ollamas_port_and_a_unix_socket_exclude_each_other(served: Started) -> None:
    with pytest.raises(MllamaError, match="--uds and --ollama can't be combined"):
        served("--devices", "cpu", "--ollama", "--uds", "socket")


def test_clients_are_told_what_is_served(served: Started) -> None:
    description = served("--devices", "cpu")["description"]
    weights = MODEL_PATH / "model.safetensors"
    assert description.size == weights.stat().st_size
    assert description.file_format == "safetensors"
    assert description.config == MllamaConfig.from_path(MODEL_PATH)
    assert len(description.digest) == 64
    assert not description.is_on_gpu
    assert description.stored is None


@pytest.mark.parametrize(
    ("args", "enabled"),
    [
        ([], True),
        (["--no-enable-in-flight-batching"], False),
        (["--enable-in-flight-batching"], True),
    ],
)
def test_serve_batches_in_flight_unless_told_otherwise(
    served: Started, args: list[str], enabled: bool
) -> None:
    started = served("--devices", "cpu", *args)
    assert started["args"].runtime.enable_in_flight_batching == enabled


def test_serve_adds_custom_architectures_and_names_the_model(served: Started) -> None:
    args = served(
        *("--devices", "cpu", "--served-model-name", "mine"),
        *("--custom-architectures", "other"),
    )["args"]
    assert args.served_model_name == "mine"
    assert list(args.runtime.custom_architectures) == [ARCHITECTURES, "other"]


def test_serve_says_how_it_can_be_reached(
    served: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLAMA_API_KEY", "two")
    monkeypatch.setenv("MLLAMA_ADMIN_KEY", "root")
    file = tmp_path / "keys"
    file.write_text("three\n")
    options: ServerOptions = served(
        *("--devices", "cpu", "--host", "0.0.0.0", "--port", "8123"),
        *("--api-key", "one", "--api-key-file", str(file)),
        *("--cors-origin", "https://a.example/", "--cors-origin", "null"),
        *("--allowed-host", "llama", "--root-path", "/llama"),
    )["options"]
    assert (options.host, options.port) == ("0.0.0.0", 8123)
    assert options.api_keys == ("one", "two", "three")
    assert options.admin_keys == ("root",)
    assert options.origins == ("https://a.example", "null")
    assert options.allowed_hosts == ("llama",)
    assert options.root_path == "/llama"
    assert not options.is_local
    options = served("--devices", "cpu", "--uds", "socket")["options"]
    assert (options.uds, options.is_local) == ("socket", True)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--uds", "socket", "--port", "8000"], "--uds and --port"),
        (["--cors-origin", "example.org"], "--cors-origin must be like"),
        (["--root-path", "llama"], "--root-path must begin with a slash"),
        (["--ssl-keyfile", "key.pem"], "without --ssl-certfile"),
        (["--ssl-certfile", "missing.pem"], "certificate in missing.pem"),
        (["--api-key", "a b"], "printable ASCII"),
        (["--api-key-file", "missing"], "--api-key-file missing can't be read"),
    ],
)
def test_serve_refuses_what_can_not_be_meant(
    served: Started, args: list[str], says: str
) -> None:
    with pytest.raises(MllamaError, match=says):
        served("--devices", "cpu", *args)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[HubOptions]:
    """What the hub is asked for the model's files, which are not found."""
    asked: list[HubOptions] = []

    def record(*args: Any, hub: HubOptions, **settings: Any) -> None:
        asked.append(hub)
        raise MllamaError("recorded")

    monkeypatch.setattr("mllama.launch.options.resolve_model_files", record)
    return asked


def test_serve_passes_the_revisions_to_the_hub(
    served: Started, asked: list[HubOptions]
) -> None:
    with pytest.raises(MllamaError, match="recorded"):
        served(
            *("--devices", "cpu", "--model-path", "owner/name"),
            *("--huggingface-model-revision", "v1"),
            *("--huggingface-weight-revision", "v2", "--force-download"),
        )
    assert asked == [HubOptions("v1", "v2", force_download=True)]


@pytest.mark.parametrize(
    ("model", "draft", "forced"),
    [
        ("/models/llama", "owner/draft", False),
        ("/models/llama", "owner/draft/model.gguf", False),
        ("/models/llama", "/models/draft", True),
        ("owner/name", "owner/draft", True),
    ],
)
def test_a_download_may_be_forced_for_a_draft_model_alone(
    served: Started, asked: list[HubOptions], model: str, draft: str, forced: bool
) -> None:
    with pytest.raises(MllamaError, match="recorded"):
        served(
            *("--devices", "cpu", "--model-path", model, "--speculate", "draft"),
            *("--draft-model-path", draft, "--force-download"),
        )
    assert asked == [HubOptions(force_download=forced)]


def test_serve_compiles_in_the_background_unless_told_otherwise(
    served: Started,
) -> None:
    def compiles(*args: str) -> bool:
        model = PipelineConfig.from_args(served(*args)["args"]).model
        compiled = ModelSettings.from_max(model).compiled
        return compiled is not None and compiled.compile_in_background

    assert compiles("--devices", "cpu")
    assert not compiles("--devices", "cpu", "--no-background-compilation")


def test_generate_and_llm_compile_nothing_in_the_background() -> None:
    compiled = EngineOptions(devices="cpu").resolve().compiled
    assert compiled is not None
    assert not compiled.compile_in_background


@needs_custom_ops
def test_both_pass_on_the_vision_encoding(served: Started) -> None:
    args = served("--devices", "cpu", "--vision-encoding", "int8")["args"]
    assert ModelSettings.from_max(args).int8_vision
    options = EngineOptions(devices="cpu", vision_encoding="int8")
    engine_args = options.pipeline_args(options.resolve())
    assert ModelSettings.from_max(engine_args).int8_vision
    with pytest.raises(MllamaError, match="in int8, not 'int4'"):
        served("--devices", "cpu", "--vision-encoding", "int4")


@needs_custom_ops
@pytest.mark.parametrize("name", ["image_cache_encoding", "kv_cache_encoding"])
def test_both_pass_on_the_encoding_of_a_cache(served: Started, name: str) -> None:
    option = f"--{name.replace('_', '-')}"
    args = served("--devices", "cpu", option, "int8")["args"]
    assert getattr(ModelSettings.from_max(args), name) == "int8"
    options = EngineOptions(devices="cpu", **{name: "int8"})
    engine_args = options.pipeline_args(options.resolve())
    assert getattr(ModelSettings.from_max(engine_args), name) == "int8"
    with pytest.raises(MllamaError, match="not 'int4'"):
        EngineOptions(devices="cpu", **{name: "int4"}).resolve()


def test_a_config_file_sets_options_and_the_command_line_wins(
    served: Started, tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_SERVE_PORT", "8001")
    monkeypatch.setenv("MAX_SERVE_MAX_QUEUE_SIZE", "77")
    file = tmp_path / "options.yaml"
    file.write_text(
        f"""
model:
  model-path: {MODEL_PATH}
  max_length: 512
device_specs: cpu
runtime:
  max_batch_size: 3
  enable_prefix_caching: false
max-new-tokens: 7
weight_path: {weights}
port: 8123
"""
    )
    started = served("--config-file", str(file), "--max-batch-size", "2")
    args, settings = started["args"], started["settings"]
    assert args.runtime.max_batch_size == 2
    assert (args.max_length, started["max_new_tokens"]) == (512, 7)
    assert list(map(str, args.weight_path)) == [weights]
    assert args.served_model_name == MODEL_PATH.name
    assert settings.port == 8123
    assert started["options"].overload.max_queue_size == 77
    assert not args.kv_cache.enable_prefix_caching


def test_how_workers_are_replaced_reaches_the_server(served: Started) -> None:
    assert served("--devices", "cpu")["options"].restarts == RestartOptions()
    options = ["--no-standby-worker", "--max-worker-restarts", "3"]
    restarts = served("--devices", "cpu", *options)["options"].restarts
    assert (restarts.keeps_standby, restarts.most_restarts) == (False, 3)
    with pytest.raises(MllamaError, match="--max-worker-restarts must be at least 0"):
        served("--devices", "cpu", "--max-worker-restarts", "-1")


@pytest.mark.parametrize(
    ("args", "variables", "size"),
    [
        ((), {}, 512),
        (("--max-queue-size", "0"), {}, 0),
        (("--max-pending-requests", "7"), {}, 7),
        ((), {"MAX_QUEUE_SIZE": "8"}, 8),
        ((), {"MAX_PENDING_REQUESTS": "9"}, 9),
        (("--max-queue-size", "10"), {"MAX_QUEUE_SIZE": "8"}, 10),
        (("--max-queue-size", "8"), {"MAX_PENDING_REQUESTS": "8"}, 8),
    ],
)
def test_whichever_option_bounds_the_queue(
    served: Started,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    variables: dict[str, str],
    size: int,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"MAX_SERVE_{name}", value)
    started = served("--devices", "cpu", *args)
    assert started["options"].overload.max_queue_size == size
    settings = started["settings"]
    # MAX's queues behind this one are never full.
    assert settings.max_queue_size is settings.max_pending_requests is None


def test_options_bound_how_long_requests_wait_and_are_waited_for(
    served: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = served("--devices", "cpu")["options"].overload
    assert (started.max_time_to_first_token, started.shutdown_timeout) == (None, 25)
    options = ("--max-time-to-first-token", "1.5", "--shutdown-timeout", "0")
    started = served("--devices", "cpu", *options)["options"].overload
    assert (started.max_time_to_first_token, started.shutdown_timeout) == (1.5, 0)
    monkeypatch.setenv("MAX_SERVE_GRACEFUL_SHUTDOWN_TIMEOUT_S", "9")
    assert served("--devices", "cpu")["options"].overload.shutdown_timeout == 9
    for option, value in (("max-time-to-first-token", "0"), ("shutdown-timeout", "-1")):
        with pytest.raises(MllamaError, match=f"--{option} must be"):
            served("--devices", "cpu", f"--{option}", value)


def test_two_bounds_of_the_queue_are_refused(
    served: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_SERVE_MAX_PENDING_REQUESTS", "9")
    with pytest.raises(MllamaError, match="bound the same queue"):
        served("--devices", "cpu", "--max-queue-size", "8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("max_lenght: 5", "names 'max_lenght', which is not an option"),
        ("model:\n  color: red", "names 'color', which is not an option"),
        ("max_length: 5\nmodel: {max-length: 6}", "names 'max-length' twice"),
        ("max_length: [5, 6]", "max_length takes one value, not a list"),
        ("max_length: 999999999", "999999999"),
        ("model_path: /nowhere", "/nowhere is neither"),
        ("num_threads: 0", "--num-threads must be from 1 to"),
        ("enable_lora: true", "one adapter with --lora-path"),
        ("max_queue_size_tg: 5", "has --max-batch-size and --max-queue-size"),
        ("tool_call_policy: force_unconstrained", "where `tool_choice` or `strict`"),
        ("enable_structured_output: true", "keeps answers to formats"),
        ("max_new_tokens: 0", "must be -1 or at least 1"),
        ("- 5", "must contain options and their values"),
        ("{", "is not YAML"),
    ],
)
def test_a_bad_config_file_is_refused(
    served: Started, tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(content)
    with pytest.raises(MllamaError, match=message):
        served("--devices", "cpu", "--config-file", str(file))


@pytest.mark.parametrize(
    ("name", "form"), [("llama", "llama3_json"), ("pythonic", "pythonic")]
)
def test_the_form_of_calls_reaches_the_server(
    served: Started, name: str, form: str
) -> None:
    assert served("--devices", "cpu", "--tool-parser", name)["tool_parser"] == form
    assert EngineOptions(tool_parser=name).tool_form == form


def test_an_unknown_form_of_calls_is_refused() -> None:
    done = CliRunner().invoke(serve, ["--devices", "cpu", "--tool-parser", "hermes"])
    assert done.exit_code == 2
    assert "'hermes' is not one of 'auto', 'llama3_json'" in done.output
    with pytest.raises(MllamaError, match="tool_parser must be one of auto, llama3_"):
        EngineOptions(tool_parser="hermes", devices="cpu").resolve()


def test_both_refuse_a_tokenizer_with_code_of_its_own(
    served: Started, tmp_path: Path
) -> None:
    model = own_tokenizer(tmp_path)
    with pytest.raises(MllamaError, match="only with --trust-remote-code"):
        served("--devices", "cpu", "--model-path", str(model))
    with pytest.raises(MllamaError, match="only with --trust-remote-code"):
        EngineOptions(model_path=model, devices="cpu").resolve()


def test_batches_reach_the_server(served: Started, tmp_path: Path) -> None:
    pytest.importorskip("python_multipart")
    assert served("--devices", "cpu")["options"].batches is None
    folder = tmp_path / "batches"
    options = ["--batch-dir", str(folder), "--batch-max-file-size", "5MiB"]
    options += ["--batch-max-lines", "7", "--batch-max-files", "8"]
    options += ["--batch-max-disk", "1GB"]
    batches = served("--devices", "cpu", *options)["options"].batches
    assert batches.directory == folder
    assert batches.max_file_bytes == 5 * 2**20
    assert (batches.max_lines, batches.max_files) == (7, 8)
    assert batches.max_disk_bytes == 10**9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-max-lines", "5"], "no effect without --batch-dir"),
        (["--batch-dir", "x", "--batch-max-disk", "much"], "must be a size such as"),
        (["--batch-dir", "x", "--batch-max-disk", "1MiB"], "must not be less"),
        (["--batch-dir", __file__], "is not a folder"),
    ],
)
def test_impossible_batches_are_refused(
    served: Started, options: list[str], message: str
) -> None:
    with pytest.raises(MllamaError, match=message):
        served("--devices", "cpu", *options)
