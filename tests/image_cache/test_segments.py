"""Segments give every token the images that the reference's mask lets it see."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mllama.image_cache.segments import image_runs, segments


def seen_by(positions: list[int], token: int) -> list[int]:
    """Returns the images of the last run before a token, computed for each token."""
    before = [i for i, position in enumerate(positions) if position <= token]
    seen: list[int] = []
    for index in reversed(before):
        if seen and positions[seen[0]] != positions[index] + 1:
            break
        seen.insert(0, index)
    return seen


@given(st.sets(st.integers(0, 30), max_size=8), st.data())
def test_every_token_sees_the_run_that_most_recently_precedes_it(
    places: set[int], data: st.DataObject
) -> None:
    positions = sorted(places)
    start = data.draw(st.integers(0, 35))
    end = data.draw(st.integers(start + 1, 36))
    expected_start = start
    for segment in segments(positions, start, end):
        assert segment.start == expected_start
        for token in range(segment.start, segment.end):
            run = list(segment.run)[: segment.images_seen]
            assert run == seen_by(positions, token)
        expected_start = segment.end
    assert expected_start == end


@given(st.sets(st.integers(0, 30), max_size=8), st.integers(1, 7))
def test_tokens_see_the_same_images_however_the_prompt_is_chunked(
    places: set[int], chunk: int
) -> None:
    positions = sorted(places)

    def per_token(size: int) -> list[tuple[range, int]]:
        return [
            (segment.run, segment.images_seen)
            for start in range(0, 36, size)
            for segment in segments(positions, start, min(start + size, 36))
            for _ in range(segment.length)
        ]

    assert per_token(chunk) == per_token(36)


def test_only_adjacent_placeholders_form_a_run() -> None:
    assert image_runs([1, 2, 5, 7, 8, 9]) == [range(0, 2), range(2, 3), range(3, 6)]
