"""Coverage leaves no code point out."""

from hypothesis import given
from hypothesis import strategies as st

from services.extractor.domain.chunk import ChunkRow, ChunkState
from services.extractor.domain.coverage import OUTSIDE, Coverage, CoverageState, ranges


def _chunk(index: int, start: int, end: int, state: ChunkState = ChunkState.DONE) -> ChunkRow:
    return ChunkRow(index=index, start=start, end=end, content_hash=b"", state=state)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 50)), max_size=20), st.integers(0, 9))
def test_ranges_tile_the_text(gaps_and_lengths: list[tuple[int, int]], rest: int) -> None:
    chunks: list[ChunkRow] = []
    position = 0
    for index, (gap, length) in enumerate(gaps_and_lengths):
        start = position + gap
        position = start + length
        chunks.append(_chunk(index, start, position))
    text_length = position + rest

    found = list(ranges(chunks, text_length=text_length))

    assert sum(each.end - each.start for each in found) == text_length
    assert [each.start for each in found[1:]] == [each.end for each in found[:-1]]
    assert not found or (found[0].start, found[-1].end) == (0, text_length)


def test_every_state_of_a_chunk_is_told() -> None:
    chunks = [_chunk(n, n * 10, n * 10 + 10, state) for n, state in enumerate(ChunkState)]

    states = [each.state for each in ranges(chunks, text_length=40)]

    assert states == [CoverageState.PENDING, CoverageState.EXTRACTED, CoverageState.EMPTY, CoverageState.FAILED]


def test_text_between_chunks_is_skipped_and_says_so() -> None:
    (gap,) = [each for each in ranges([_chunk(0, 2, 5)], text_length=5) if each.chunk_index == OUTSIDE]

    assert (gap.start, gap.end, gap.state) == (0, 2, CoverageState.SKIPPED)
    assert gap.message


def test_a_text_without_chunks_is_pending_as_a_whole() -> None:
    (whole,) = ranges([], text_length=7)

    assert (whole.start, whole.end, whole.state) == (0, 7, CoverageState.PENDING)


def test_the_share_counts_what_was_read() -> None:
    chunks = [_chunk(0, 0, 6), _chunk(1, 6, 8, ChunkState.EMPTY), _chunk(2, 8, 10, ChunkState.FAILED)]

    coverage = Coverage(source_version=1, text_length=10, ranges=tuple(ranges(chunks, text_length=10)), duration=None)

    assert coverage.covered_share == 0.8
    assert Coverage(source_version=1, text_length=0, ranges=(), duration=None).covered_share == 1.0
