"""Work in asyncio's threads."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextvars import ContextVar

import pytest

from mllama.errors import EngineUnavailableError
from mllama.utils.threads import in_thread
from tests.utils.threads import no_threads


def test_work_has_the_context_of_whoever_asks() -> None:
    variable: ContextVar[str] = ContextVar("variable")

    async def main() -> str:
        variable.set("value")
        return await in_thread(variable.get)

    assert asyncio.run(main()) == "value"


def test_an_error_of_the_work_stays_what_it_is() -> None:
    def fail() -> None:
        raise RuntimeError("can't start new thread")

    with pytest.raises(RuntimeError, match="can't start") as raised:
        asyncio.run(in_thread(fail))
    assert not isinstance(raised.value, EngineUnavailableError)


def test_work_for_which_there_is_no_thread_is_refused_and_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Work:
        def __call__(self) -> None:
            raise AssertionError

    async def main() -> None:
        work = Work()
        forgotten = weakref.ref(work)
        with no_threads(monkeypatch), pytest.raises(EngineUnavailableError):
            await in_thread(work)
        del work
        gc.collect()
        assert forgotten() is None
        assert await in_thread(lambda: 1) == 1

    asyncio.run(main())
