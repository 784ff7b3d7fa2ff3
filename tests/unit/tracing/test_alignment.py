"""Files of several processes, starts and hosts on one time: the run's own."""

from darts_async.tracing.alignment import Start, offsets_us
from darts_async.tracing.records import VERSION, VIRTUAL, FileOpened


def opened(clock: str, clock_s: float, wall_s: float) -> FileOpened:
    return FileOpened(VERSION, clock, clock_s, wall_s, 1 << 20)


def test_processes_of_a_machine_differ_by_their_common_clock():
    """The time of day of the later one was read late: only the first one's counts."""
    files = [opened("host", 100.0, 1000.0), opened("host", 102.5, 1002.7)]
    assert offsets_us(files, [Start(began_at=998.0)]) == [2_000_000, 4_500_000]


def test_a_run_that_goes_on_after_a_pause_has_no_gap():
    """It had lasted 50 s and was taken up a day later, after a restart of the machine."""
    starts = [Start(began_at=1000.0, wall_s=50.0), Start(began_at=90_000.0, wall_s=7.0)]
    files = [opened("boot-1", 500.0, 1001.0), opened("boot-2", 5.0, 90_001.5), opened("boot-2", 6.0, 90_002.5)]
    assert offsets_us(files, starts) == [1_000_000, 51_500_000, 52_500_000]


def test_another_host_is_laid_by_its_time_of_day():
    files = [opened("here", 100.0, 1000.0), opened("there", 7.0, 1030.0)]
    assert offsets_us(files, [Start(began_at=999.0)]) == [1_000_000, 31_000_000]


def test_without_a_word_of_the_launcher_the_first_file_is_the_beginning():
    files = [opened("host", 102.0, 1002.0), opened("host", 100.0, 1000.0)]
    assert offsets_us(files, []) == [2_000_000, 0]


def test_a_clock_that_was_set_back_never_gives_a_time_before_the_run():
    assert offsets_us([opened("host", 1.0, 900.0)], [Start(began_at=1000.0)]) == [0]


def test_virtual_time_is_the_run_s_own():
    assert offsets_us([opened(VIRTUAL, 0.0, 0.0)], [Start(began_at=1e9, wall_s=3.0)]) == [0]
