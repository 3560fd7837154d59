"""Processes prepare images, and one that dies costs no other image."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from mllama.config import MllamaVisionConfig
from mllama.errors import EngineUnavailableError, ImageDecodeError, ImageError
from mllama.images import preparation, worker_process
from mllama.images.load import load_image, open_image
from mllama.images.preparation import MemoryLimit, WorkerProcesses, prepare_image
from mllama.images.preprocess import ImageProcessor
from mllama.images.worker_loop import NICENESS
from mllama.images.worker_process import WorkerProcess
from mllama.utils.fork_server import fork_server_pid
from mllama.utils.stuck_processes import StuckLimits
from tests.images.damaged import damaged_tiff
from tests.processes import is_running
from tests.utils.threads import no_threads

PROCESSOR = ImageProcessor(
    {}, MllamaVisionConfig.from_dict({"image_size": 56, "patch_size": 14})
)
HOLD = 1.0
"""Seconds in which another image would begin, if it could."""


def png(color: int = 0, size: tuple[int, int] = (90, 70)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (color, 0, 0)).save(file, "PNG")
    return file.getvalue()


# In place of image processors: what a process computes is the test's business.


def hold(image: Image.Image) -> Any:
    begin = time.monotonic()
    time.sleep(HOLD)
    return begin, time.monotonic()


def die(image: Image.Image) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)


def die_if_red(image: Image.Image) -> Any:
    return die(image) if image.getpixel((0, 0)) == (255, 0, 0) else os.getpid()


def environment(image: Image.Image) -> Any:
    parent = Path(f"/proc/{os.getppid()}")
    return {
        "torch": sys.modules.get("torch"),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "server": parent.joinpath("cmdline").read_text(),
        "server's files": parent.joinpath("maps").read_text(),
    }


def targets_of_stderr(image: Image.Image) -> Any:
    descriptors = Path("/proc/self/fd")
    return [
        str(descriptors.joinpath(str(each)).readlink())
        for each in (2, sys.stderr.fileno())
    ]


def compute(image: Image.Image) -> Any:
    while True:
        pass


def hold_and_compute(image: Image.Image) -> Any:
    begin = time.monotonic()
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    time.sleep(0.6)
    return begin, time.monotonic()


def wait_for_ever(image: Image.Image) -> Any:
    time.sleep(3600)


def initialize() -> None:
    os.environ["INITIAL"] = "1"


def variable(image: Image.Image) -> Any:
    return os.environ.get("INITIAL")


def prepare(content: bytes, processor: Any = PROCESSOR) -> Future[Any]:
    return prepare_image(content, processor)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerProcesses]:
    """Two processes that prepare the images of the test."""
    used = WorkerProcesses(2)
    monkeypatch.setattr(preparation, "_processes", used)
    preparation._threads.cache_clear()
    yield used
    preparation._threads.cache_clear()
    for process in used.all:
        process.close()


@pytest.fixture
def process() -> Iterator[WorkerProcess]:
    started = WorkerProcess()
    yield started
    started.close()


def test_a_process_makes_the_tiles_that_a_thread_makes(
    processes: WorkerProcesses,
) -> None:
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    )
    file = io.BytesIO()
    picture.save(file, "PNG")
    wanted = PROCESSOR(picture)
    tiles = prepare(file.getvalue()).result()
    assert any(process.pid for process in processes.all)
    assert tiles.pixel_values.flags.writeable
    np.testing.assert_array_equal(tiles.pixel_values, wanted.pixel_values)
    assert (tiles.hash, tiles.aspect_ratio_id, tiles.num_tiles) == (
        wanted.hash,
        wanted.aspect_ratio_id,
        wanted.num_tiles,
    )


def test_pictures_and_open_files_are_prepared_in_this_process(
    processes: WorkerProcesses,
) -> None:
    wanted = PROCESSOR(open_image(png()).decode()).hash
    for image in (open_image(png()), Image.open(io.BytesIO(png()))):
        assert prepare_image(image, PROCESSOR).result().hash == wanted
    assert [process.pid for process in processes.all] == [None, None]


def test_what_libraries_write_to_stderr_is_dropped(
    process: WorkerProcess, capfd: pytest.CaptureFixture[str]
) -> None:
    # In a process that drops nothing, libtiff says what is wrong.
    with contextlib.suppress(ImageError):
        load_image(damaged_tiff())
    assert "table" in capfd.readouterr().err
    descriptor, stderr = process.prepare(png(), targets_of_stderr)  # type: ignore[arg-type, misc]
    assert descriptor == os.devnull
    assert stderr != os.devnull


def test_a_process_is_initialized() -> None:
    process = WorkerProcess(initialize)
    try:
        assert process.prepare(png(), variable) == "1"  # type: ignore[arg-type]
    finally:
        process.close()


def test_errors_are_those_of_loading(processes: WorkerProcesses) -> None:
    with pytest.raises(ImageError, match="not an image"):
        prepare(b"text").result()
    with pytest.raises(ImageDecodeError, match=r"can't be decoded: .*truncated"):
        prepare(png(size=(500, 500))[:-400]).result()


def test_an_image_that_ends_its_process_is_an_error_of_that_image_only(
    processes: WorkerProcesses,
) -> None:
    futures = [
        prepare(png(255 if number in (1, 4) else number), die_if_red)
        for number in range(8)
    ]
    for number, future in enumerate(futures):
        if number in (1, 4):
            with pytest.raises(ImageDecodeError, match=r"died \(exit code -11\)"):
                future.result()
        else:
            assert future.result() != os.getpid()
    assert prepare(png()).result().num_tiles == 4


def test_a_killed_process_is_an_error_of_its_image_only(
    processes: WorkerProcesses,
) -> None:
    held = [prepare(png(), hold) for _ in range(3)]
    wait_until(lambda: all(process.pid for process in processes.all))
    time.sleep(HOLD / 3)
    os.kill(processes.all[0].pid or 0, signal.SIGKILL)
    errors = [future.exception() for future in held]
    assert sorted(map(type, errors), key=str) == [
        type(None),
        type(None),
        ImageDecodeError,
    ]


def test_a_process_that_dies_between_images_is_replaced(process: WorkerProcess) -> None:
    first = process.prepare(png(), PROCESSOR)
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid))
    assert process.prepare(png(), PROCESSOR).hash == first.hash
    assert process.pid != pid


def test_an_image_that_comes_before_a_death_is_seen_gets_a_new_process(
    process: WorkerProcess,
) -> None:
    first = process.prepare(png(), PROCESSOR)
    pid = process.pid
    assert pid is not None
    # It is still there, but the image is the last thing that it reads.
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as thread:
        second = thread.submit(process.prepare, png(), PROCESSOR)
        time.sleep(HOLD / 3)
        os.kill(pid, signal.SIGKILL)
        assert second.result().hash == first.hash
    assert process.pid != pid


@pytest.mark.parametrize("padding", [0, 4 << 20], ids=["waits", "writes"])
def test_a_process_that_is_stopped_is_replaced(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch, padding: int
) -> None:
    first = process.prepare(png(), PROCESSOR)
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(worker_process, "STUCK", StuckLimits(stopped=0.3, look=0.05))
    # What follows the picture isn't read, and more than the connection takes.
    assert process.prepare(png() + bytes(padding), PROCESSOR).hash == first.hash
    assert process.pid != pid
    assert not is_running(pid)


def test_an_image_that_takes_too_much_of_a_processor_is_refused_once() -> None:
    process = WorkerProcess(cpu_seconds=0.3)
    try:
        first = process.prepare(png(), PROCESSOR)
        pid = process.pid
        before = time.monotonic()
        with pytest.raises(
            ImageError, match=r"more than 0\.3 s of a processor"
        ) as error:
            process.prepare(png(), compute)  # type: ignore[arg-type]
        # Another process isn't tried.
        assert not isinstance(error.value, ImageDecodeError)
        assert process.pid is None
        assert time.monotonic() - before < 30
        assert process.prepare(png(), PROCESSOR).hash == first.hash
        assert process.pid != pid
    finally:
        process.close()


def test_an_image_may_take_longer_on_a_busy_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the processor's time counts, of each image for itself."""
    monkeypatch.setattr(worker_process, "STUCK", StuckLimits(look=0.05))
    process = WorkerProcess(cpu_seconds=0.5)
    try:
        for _ in range(4):
            begin, end = process.prepare(png(), hold_and_compute)  # type: ignore[arg-type, misc]
            assert end - begin > 0.5
    finally:
        process.close()


def test_a_process_that_waits_for_ever_is_ended(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "STUCK", StuckLimits(idle=1, look=0.05))
    with pytest.raises(ImageDecodeError, match="died"):
        process.prepare(png(), wait_for_ever)  # type: ignore[arg-type]


def test_a_stopped_fork_server_is_replaced(
    process: WorkerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    first = process.prepare(png(), PROCESSOR)
    stopped = fork_server_pid()
    assert stopped is not None
    os.kill(stopped, signal.SIGSTOP)
    process.close()
    try:
        with ThreadPoolExecutor(1) as thread:
            others = [WorkerProcess() for _ in range(3)]
            for each in (process, *others):
                again = thread.submit(each.prepare, png(), PROCESSOR).result(60)
                assert again.hash == first.hash
                each.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(stopped, signal.SIGCONT)
    assert fork_server_pid() != stopped
    assert caplog.text.count("was stuck and was killed") == 1


def test_a_program_ends_with_a_stopped_fork_server(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, time\n"
        "from mllama.images.worker_process import WorkerProcess\n"
        "from mllama.utils.fork_server import fork_server_pid\n"
        "from mllama.utils.process_activity import process_activity\n"
        "if __name__ == '__main__':\n"
        "    WorkerProcess().start()\n"
        "    os.kill(fork_server_pid(), signal.SIGSTOP)\n"
        "    while not process_activity(fork_server_pid()).is_stopped:\n"
        "        time.sleep(0.01)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, str(script)], env=environment, timeout=60)
    assert ended.returncode == 0


def test_processes_that_start_together_share_the_next_fork_server() -> None:
    used = [WorkerProcess() for _ in range(4)]
    used[0].prepare(png(), PROCESSOR)
    stopped = fork_server_pid()
    assert stopped is not None
    os.kill(stopped, signal.SIGSTOP)
    with ThreadPoolExecutor(4) as threads:
        hashes = {
            tiles.hash
            for tiles in threads.map(lambda each: each.prepare(png(), PROCESSOR), used)
        }
    assert len(hashes) == 1
    for each in used:
        each.close()


def test_a_stopped_process_can_be_ended(process: WorkerProcess) -> None:
    process.start()
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    process.close()
    assert not is_running(pid)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EMFILE, "Too many open files"), EOFError("unexpected EOF")],
    ids=["no descriptors", "no fork server"],
)
def test_a_system_without_room_for_a_process_is_no_fault_of_the_image(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(self: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(ForkServerProcess, "start", fail)
        with pytest.raises(EngineUnavailableError, match="at the moment"):
            process.prepare(png(), PROCESSOR)
    assert process.prepare(png(), PROCESSOR).num_tiles == 4


def test_a_system_without_a_thread_for_the_watch_is_no_fault_of_the_image(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert process.prepare(png(), PROCESSOR).num_tiles == 4
    pid = process.pid
    with (
        no_threads(monkeypatch),
        pytest.raises(EngineUnavailableError, match="at the moment"),
    ):
        process.prepare(png(), PROCESSOR)
    assert process.prepare(png(), PROCESSOR).num_tiles == 4
    assert process.pid == pid


@pytest.mark.parametrize("part", [0.3, 0.99])
def test_what_a_damaged_picture_took_is_given_back(
    process: WorkerProcess, part: float
) -> None:
    side = 2500
    file = io.BytesIO()
    Image.effect_noise((side, side), 50).convert("RGB").save(file, "PNG")
    content = file.getvalue()
    process.prepare(png(), PROCESSOR)

    def private_bytes() -> int:
        return int(psutil.Process(process.pid).memory_full_info().uss)

    before = private_bytes()
    for _ in range(3):
        with contextlib.suppress(ImageError):
            process.prepare(content[: int(part * len(content))], PROCESSOR)
    # A picture of this size takes 25 MB, and several are needed at a time.
    assert private_bytes() < before + side * side * 4


def test_processes_share_the_imports_and_give_way(process: WorkerProcess) -> None:
    found: Any = process.prepare(png(), environment)  # type: ignore[arg-type]
    assert found["torch"] is None
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert found["priority"] == min(own + NICENESS, 19)
    if sys.platform == "linux":
        assert "forkserver" in found["server"]
        assert "_imaging" in found["server's files"], "Pillow is imported only once"


def test_processes_wait_for_memory(
    processes: WorkerProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overlap() -> bool:
        times = [future.result() for future in [prepare(png(), hold) for _ in "ab"]]
        (_, end), (begin, _) = sorted(times)
        return bool(begin < end)

    for process in processes.all:
        process.prepare(png(), hold)  # type: ignore[arg-type]  # imports this module
    assert overlap()
    size = open_image(png()).decoded_bytes
    monkeypatch.setattr(preparation, "_decoded_pixels", MemoryLimit(2 * size - 1))
    assert not overlap()


def test_an_image_that_waits_can_be_cancelled(processes: WorkerProcesses) -> None:
    held = [prepare(png(), hold) for _ in processes.all]
    waiting = prepare(png(), die)
    assert waiting.cancel()
    for future in held:
        future.result()
    with pytest.raises(CancelledError):
        waiting.result()
    assert all(process.start() for process in processes.all)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_one_that_started_them(
    ending: signal.Signals, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import time\n"
        "from mllama.images import preparation\n"
        "if __name__ == '__main__':\n"
        "    preparation.start_worker_processes()\n"
        "    all = preparation._processes.all\n"
        "    while not all[0].pid:\n"
        "        time.sleep(0.01)\n"
        "    print(all[0].pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    ) as program:
        assert program.stdout is not None
        pid = int(program.stdout.readline())
        assert is_running(pid)
        # Like Ctrl-C in a terminal, which reaches all.
        if ending == signal.SIGINT:
            os.killpg(program.pid, ending)
        else:
            program.send_signal(ending)
        program.wait(30)
    wait_until(lambda: not is_running(pid))


def wait_until(condition: Any) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
