"""Tasks cut in the middle: every step once, an even division, nobody waits."""

from hypothesis import given
from hypothesis import strategies as st

from reptile_lib.parallel.pieces import pieces

steps, sizes = st.integers(1, 12), st.integers(1, 9)
more = st.integers(0, 40)  # tasks beyond one a process


@given(more=more, steps=steps, size=sizes)
def test_pieces_are_all_inner_steps_once_and_end_together(
    more: int, steps: int, size: int
) -> None:
    tasks = size + more
    done = [pieces(tasks, steps, rank, size) for rank in range(size)]
    everything = [
        (p.task, step) for part in done for p in part for step in range(p.start, p.stop)
    ]
    expected = [(task, step) for task in range(tasks) for step in range(steps)]
    assert sorted(everything) == expected
    # McNaughton's bound: no schedule can be shorter
    longest = max(sum(p.stop - p.start for p in part) for part in done)
    assert longest == -(-tasks * steps // size)
    assert all(done)  # nobody is idle


@given(more=more, steps=steps, size=sizes)
def test_a_cut_task_is_begun_before_it_is_finished(
    more: int, steps: int, size: int
) -> None:
    tasks = size + more
    # when each step is done, if all processes start together and never wait
    when: dict[tuple[int, int], int] = {}
    for rank in range(size):
        clock = 0
        for piece in pieces(tasks, steps, rank, size):
            for step in range(piece.start, piece.stop):
                when[piece.task, step] = clock
                clock += 1
    for task in range(tasks):
        times = [when[task, step] for step in range(steps)]
        assert times == sorted(set(times))


def test_five_tasks_on_two_processes_by_hand() -> None:
    assert pieces(5, 5, 0, 2) == [(0, 0, 5), (1, 0, 5), (2, 3, 5)]
    assert pieces(5, 5, 1, 2) == [(2, 0, 3), (3, 0, 5), (4, 0, 5)]
