"""Tables show medians, ranges, failures and verdicts."""

from __future__ import annotations

import pytest

from benchmarks.compare.documents import BEGIN, END, with_measured
from benchmarks.compare.report import (
    ceilings_table,
    measured_table,
    summary,
    table,
    targets_table,
)
from benchmarks.compare.results import Results


def results(form: str = "AVX-512") -> Results:
    found = Results(
        date="2026-11-25T01:02:03+00:00",
        command="python -m benchmarks.compare",
        machine={
            "cores": 2,
            "cpu": "a CPU",
            "memory_gib": 24,
            "threads": 2,
            "form": form,
        },
        engines={"mllama": {"mllama": "0.1.0", "max": "26.7.0", "threads": 2}},
    )
    for value in (2.0, 1.0, 4.0):
        found.add("vision_4_tiles", "mllama", value)
        found.add("vision_4_tiles", "transformers", 2 * value)
        found.add("read_bandwidth", "machine", 10 * value)
    found.add("decode_image", "mllama", 0.0125)
    found.fail("decode_image", "mistralrs", "max_image_tiles must be set!")
    found.fail("growth of layers", "mllama", "no room")
    return found


def test_tables_are_aligned_markdown() -> None:
    assert table(["a", "bb"], [["ccc", "d"]]).splitlines() == [
        "| a   | bb |",
        "|-----|----|",
        "| ccc | d  |",
    ]


def test_cells_have_the_median_the_range_and_the_number_of_samples() -> None:
    text = measured_table([results()])
    assert "2.00 (1.00-4.00, 3)" in text
    assert "4.00 (2.00-8.00, 3)" in text
    assert "12.5 (12.5-12.5, 1)" in text
    assert "failed: max_image_tiles must be set!" in text


def test_ceilings_are_in_the_order_of_measuring() -> None:
    assert "20.0, 10.0, 40.0" in ceilings_table([results()])


def test_targets_show_pass_or_not_measured() -> None:
    text = targets_table([results()], "ac")
    passed = next(
        line for line in text.splitlines() if "4 valid tiles, float32" in line
    )
    assert "2.00 x" in passed
    assert "PASS" in passed
    assert text.count("PASS") == 1
    assert "not measured" in text
    assert "8 streams" not in text


def test_runs_stand_side_by_side() -> None:
    avx2 = results("AVX2")
    avx2.add("vision_4_tiles", "8bit", 1.0)
    runs = [avx2, results()]
    measured = measured_table(runs).splitlines()
    assert [name.strip() for name in measured[0].split("|")[-3:-1]] == [
        "AVX2",
        "AVX-512",
    ]
    eight_bit = next(line for line in measured if "| 8bit " in line)
    assert "1.00 (1.00-1.00, 1)" in eight_bit.split("|")[-3]
    assert not eight_bit.split("|")[-2].strip()
    of_avx2 = "at least 1.25 x float32-exact"
    (row,) = [line for line in targets_table(runs, "a").splitlines() if of_avx2 in line]
    assert [cell.strip() for cell in row.split("|")[-3:-1]] == ["2.00 x, PASS", ""]
    assert of_avx2 not in targets_table(runs[1:], "a")
    text = summary(runs, "a")
    assert text.count("26.7.0") == 2
    assert text.count("no room") == 1


def test_our_engines_come_first() -> None:
    run = results()
    for engine in ("ik_llama_cpp", "demo", "8bit", "mllama", "llama_cpp"):
        run.add("decode_text", engine, 1.0)
    table_of_d = [
        line.split("|")[4].strip() for line in measured_table([run]).splitlines()
    ]
    start = table_of_d.index("demo")
    assert table_of_d[start : start + 5] == [
        "demo",
        "mllama",
        "8bit",
        "llama_cpp",
        "ik_llama_cpp",
    ]


def test_a_summary_has_the_machine_versions_command_and_failures() -> None:
    text = summary([results()], "abcdefg")
    for part in (
        "2026-11-25 01:02 UTC",
        "2 cores of a CPU",
        "max 26.7.0",
        "`python -m benchmarks.compare`",
        "What failed:",
        "- growth of layers, mllama: no room",
    ):
        assert part in text


def test_the_measured_part_of_a_document_is_replaced() -> None:
    document = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = with_measured(document, "new\n")
    assert once == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert with_measured(once, "new") == once


@pytest.mark.parametrize("document", ["", BEGIN, END, f"{END}{BEGIN}"])
def test_a_document_without_both_markers_is_rejected(document: str) -> None:
    with pytest.raises(ValueError, match="measured"):
        with_measured(document, "new")
