"""What the worker writes into the shared file, the server's process reads."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from mllama.image_cache.stats import ENCODE_SECONDS, EncodeTimes, ImageCacheStats
from mllama.image_cache.verdict import CheckStage, ImageMode, ImageVerdict
from mllama.runtime.engine_stats import EngineStats
from mllama.runtime.speculation.guess_counts import GuessCounts
from mllama.server.observability.shared_stats import SharedStats


def values_of(stats: SharedStats) -> dict[str, Any]:
    return {
        sample.name: (sample.labels, sample.value)
        for family in stats.collect()
        for sample in family.samples
    }


def test_statistics_and_verdict_cross_the_processes() -> None:
    times = EncodeTimes()
    for seconds in (0.001, 0.2, 0.25, 1000):
        times.add(seconds)
    stats = EngineStats(
        ImageCacheStats(8, 7, 6, 5, 4, 3, 2),
        kv_blocks=20,
        used_kv_blocks=5,
        encode_counts=tuple(times.counts),
        encode_nanoseconds=times.nanoseconds,
        guesses=GuessCounts(3, 12, 7),
    )
    with SharedStats.temporary() as server:
        worker = SharedStats(server.path)
        assert server.read_verdict() == ImageVerdict()
        assert server.read() == EngineStats()
        assert "mllama_gpu_images" not in values_of(server)
        worker.write(stats)
        verdict = ImageVerdict(ImageMode.REFUSED, CheckStage.ZERO_PAGE, 4)
        worker.write_verdict(verdict)
        assert server.read() == stats
        assert server.read_verdict() == verdict
        values = values_of(server)
    assert values["mllama_image_cache_bytes"] == ({}, 8)
    assert values["mllama_image_cache_evictions_total"] == ({}, 2)
    assert values["mllama_kv_cache_usage_perc"] == ({}, 0.25)
    assert values["mllama_image_encode_seconds_count"] == ({}, 4)
    assert values["mllama_image_encode_seconds_sum"] == ({}, 1000.451)
    assert values["mllama_spec_decode_num_drafts_total"] == ({}, 3)
    assert values["mllama_spec_decode_num_draft_tokens_total"] == ({}, 12)
    assert values["mllama_spec_decode_num_accepted_tokens_total"] == ({}, 7)
    labels = {"mode": "refused", "stage": "zero_page"}
    assert values["mllama_gpu_images"] == (labels, 1)


def test_times_are_counted_up_to_their_bounds() -> None:
    times = EncodeTimes()
    for bound in ENCODE_SECONDS:
        times.add(bound)
    assert times.counts == [1] * len(ENCODE_SECONDS) + [0]


def test_a_worker_that_ends_is_down() -> None:
    with SharedStats.temporary() as server:
        assert values_of(server)["mllama_worker_up"] == ({}, 0)
        code = (
            "import sys; from pathlib import Path; "
            "from mllama.server.observability.shared_stats import SharedStats; "
            "SharedStats(Path(sys.argv[1])).start_worker()"
        )
        command = [sys.executable, "-c", code, str(server.path)]
        subprocess.run(command, check=True, timeout=120)
        assert values_of(server)["mllama_worker_up"] == ({}, 0)
        SharedStats(server.path).start_worker()
        assert server.worker_pid == os.getpid()
        assert values_of(server)["mllama_worker_up"] == ({}, 1)


def test_counters_go_on_and_gauges_begin_anew_after_a_worker_has_ended() -> None:
    counts = (0,) * len(ENCODE_SECONDS) + (2,)
    stats = EngineStats(
        ImageCacheStats(8, 7, 6, 5, 4, 3, 2), 20, 5, counts, 10**9, GuessCounts(1, 4, 2)
    )
    with SharedStats.temporary() as server:
        server.write_verdict(ImageVerdict(ImageMode.DIRECT))
        for _ in range(2):
            worker = SharedStats(server.path)
            worker.start_worker()
            worker.write(stats)
            server.worker_ended()
        values = values_of(server)
        assert values["mllama_image_cache_hits_total"] == ({}, 2 * 4)
        assert values["mllama_image_cache_used_bytes"] == ({}, 0)
        assert values["mllama_kv_cache_used_blocks"] == ({}, 0)
        assert values["mllama_image_encode_seconds_count"] == ({}, 2 * 2)
        assert values["mllama_spec_decode_num_draft_tokens_total"] == ({}, 2 * 4)
        assert values["mllama_worker_up"] == ({}, 0)
        assert server.worker_pid is None
        # The device is the same.
        assert server.read_verdict().mode is ImageMode.DIRECT
        SharedStats(server.path).write(stats)
        values = values_of(server)
    assert values["mllama_image_cache_hits_total"] == ({}, 3 * 4)
    assert values["mllama_image_cache_entries"] == ({}, 6)
    assert values["mllama_image_encode_seconds_sum"] == ({}, 3)
