"""What every test needs before it starts, and the demo model."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from mllama import LLM
from mllama.batch.inputs.parquet import load_pyarrow
from mllama.utils.child_processes import restore_child_environment

load_pyarrow()

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell's background jobs ignore Ctrl-C, and so would the programs of tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)

COMPILING_FOLDERS = {
    "clients",
    "end_to_end",
    "examples",
    "faults",
    "kernels",
    "llm",
    "packaging",
    "parity",
    "scheduling",
    "server",
}
"""Folders whose tests need compiled graphs or the engine, with few exceptions."""

COMPILING_FILES = {
    "benchmarks/test_gpu_fault.py",
    "benchmarks/test_gpu_fault_search.py",
    "cli/test_demo.py",
    "cli/test_generate.py",
    "cluster/test_served.py",
    "demo/test_accuracy.py",
    "engine/test_device_check.py",
    # The quantizer is a graph too.
    "hub/test_content_key.py",
    "launch/test_lora_files.py",
    "max_model/draft/test_model.py",
    "runtime/test_gpu_self_check.py",
    "weights/gguf/test_interrupted_writing.py",
    "weights/gguf/test_writing.py",
    # Each test starts a whole program, which imports MAX for seconds.
    "cli/test_bad_input.py",
    "hub/test_commands.py",
}
"""Files of other folders whose tests do, or start whole programs."""

COMPILING_FIXTURES = {"llm"}
"""Fixtures that need compiled graphs, wherever they are used."""

GRAPHLESS_FILES = {
    "kernels/test_dispatch.py",
    "server/test_max_engine_client.py",
    "server/test_health_routes.py",
    "server/test_openapi.py",
    "server/test_clients.py",
    "server/test_routes.py",
    "server/test_detached_strings.py",
    "server/test_worker_prespawn.py",
}
"""The exceptions."""

GRAPHLESS_FOLDERS = (
    "server/batches/",
    "server/dialects/",
    "server/fuzzing/",
    "server/observability/",
    "server/soak/",
    "server/supervisor/",
)
"""Folders within those folders that are exceptions too."""

LONG_SECONDS = 2 * 3600
"""When a test that takes long is given up."""

BATCH = 4
"""Requests that the demo model of :func:`llm` works on together."""

# Two processes share the cores: how long an example takes says nothing.  And a version
# that passes should pass again; `make test-long` looks for new examples.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("exploring", deadline=None)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds an option to run any test as on a GPU whose first images are wrong."""
    parser.addoption(
        "--sacrificial-image",
        action="store_true",
        help="give each run of the vision graph in this process a sacrificial image",
    )


@pytest.fixture(scope="session", autouse=True)
def sacrificial_image(pytestconfig: pytest.Config) -> Iterator[None]:
    """Applies the option."""
    if not pytestconfig.getoption("sacrificial_image"):
        yield
        return
    from mllama.image_cache.encoder_runner import ImageEncoderRunner
    from tests.runtime.gpu_faults import give_scratch_pages

    initialize = ImageEncoderRunner.__init__

    def sacrificial(self: Any, *arguments: Any) -> None:
        initialize(self, *arguments)
        self.is_sacrificial = True

    with pytest.MonkeyPatch.context() as patch:
        give_scratch_pages(patch)
        patch.setattr(ImageEncoderRunner, "__init__", sacrificial)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that ``make test-fast`` leaves out, before -m selects."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(LONG_SECONDS))
        if _compiles(item):
            item.add_marker(pytest.mark.compiles)


def _compiles(item: pytest.Item) -> bool:
    path = item.path.relative_to(Path(__file__).parent)
    if not COMPILING_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
        return True
    if path.as_posix() in GRAPHLESS_FILES or path.as_posix().startswith(
        GRAPHLESS_FOLDERS
    ):
        return False
    return path.parts[0] in COMPILING_FOLDERS or path.as_posix() in COMPILING_FILES


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Keeps child Pythons in the virtual environment; some tests import MAX alone."""
    restore_child_environment()


@pytest.fixture(scope="session")
def llm() -> Iterator[LLM]:
    """The demo model, loaded once by each process that runs tests."""
    with LLM(devices="cpu", max_batch_size=BATCH) as model:
        yield model
