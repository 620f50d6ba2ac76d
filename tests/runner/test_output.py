"""What a run prints and logs: kept, told, bounded, and kept apart from everybody else's."""

from __future__ import annotations

import contextvars
import logging
import sys

import pytest

from scheduler_service.context import Stopping
from scheduler_service.model import State
from scheduler_service.runner.output import LINE_BYTES, LINES_AT_ONCE, Output, enter_output, install
from tests.runner.conftest import Bench


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Written:
    def __init__(self, limit: int = 100) -> None:
        self.lines: list[str] = []
        self.clock = FakeClock()
        self.output = Output(limit, self.lines.append, self.clock)


def test_lines_are_logged_as_they_end():
    written = Written()
    for part in (b"on", b"e\ntw", b"o\n", b"\n", b"thr", b"ee"):
        written.output.write(part)
    assert written.lines == ["one", "two", ""]
    assert written.output.close() == ("one\ntwo\n\nthree", False)
    assert written.lines == ["one", "two", "", "three"]


def test_a_carriage_return_at_the_end_of_a_line_is_not_logged():
    written = Written()
    written.output.write(b"one\r\ntwo\r\n")
    assert written.lines == ["one", "two"]
    assert written.output.close()[0] == "one\r\ntwo\r\n"


def test_a_character_may_arrive_in_two_parts():
    written = Written()
    written.output.write("é".encode()[:1])
    written.output.write("é\n".encode()[1:])
    assert written.lines == ["é"]
    assert written.output.close() == ("é\n", False)


@pytest.mark.parametrize("size", [1, 7, 99, 100, 101, 250, 5000])
def test_the_last_bytes_are_kept_however_they_arrive(size: int):
    data = bytes(ord("a") + i % 26 for i in range(5000))
    written = Written(limit=100)
    for start in range(0, len(data), size):
        written.output.write(data[start : start + size])
    assert written.output.close() == (data[-100:].decode(), True)


def test_exactly_as_much_as_is_kept_is_not_truncated():
    written = Written(limit=100)
    written.output.write(b"x" * 100)
    assert written.output.close() == ("x" * 100, False)


def test_the_cut_does_not_leave_half_a_character():
    written = Written(limit=3)
    written.output.write("aéé".encode())  # five bytes; the third from the end is the second half of é
    assert written.output.close() == ("é", True)


def test_nothing_is_kept_with_a_limit_of_zero():
    written = Written(limit=0)
    written.output.write(b"one\n")
    assert written.lines == ["one"]
    assert written.output.close() == ("", True)


def test_an_overlong_line_is_logged_in_part_and_once():
    written = Written(limit=10)
    for _ in range(10):
        written.output.write(b"x" * LINE_BYTES)
    written.output.write(b"\nnext\n")
    assert written.lines == ["x" * LINE_BYTES + " …", "next"]


def test_an_overlong_line_in_one_piece_is_logged_in_part():
    written = Written()
    written.output.write(b"x" * 3 * LINE_BYTES + b"\nnext\n")
    assert [len(line) for line in written.lines] == [LINE_BYTES + 2, 4]


def test_of_a_flood_the_first_lines_are_logged_and_the_rest_is_counted():
    written = Written()
    for number in range(10_000):
        written.output.write(b"%d\n" % number)
    assert written.lines == [str(number) for number in range(LINES_AT_ONCE)]
    written.clock.now += 2.0
    written.output.write(b"later\n")
    assert written.lines[LINES_AT_ONCE:] == ["… 9500 more lines, not logged: over 100 a second", "later"]


def test_a_flood_in_one_piece_is_counted_too():
    written = Written()
    written.output.write(b"x\n" * 10_000 + b"the end")
    written.output.close()
    assert written.lines[LINES_AT_ONCE:] == ["the end", "… 9500 more lines, not logged: over 100 a second"]


def test_after_a_flood_a_seconds_worth_is_logged_at_once():
    written = Written()
    written.output.write(b"x\n" * 1000)
    written.clock.now += 1.0
    written.output.write(b"y\n" * 1000)
    assert written.lines.count("y") == 100


def test_after_its_end_nothing_is_taken():
    written = Written()
    written.output.write(b"one\n")
    written.output.close()
    written.output.write(b"two\n")
    assert written.lines == ["one"]
    assert written.output.close()[0] == ""


def test_a_log_that_prints_does_not_log_its_own_print():
    outputs: list[Output] = []
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        outputs[0].write(b"from the log\n")

    outputs.append(Output(100, log, FakeClock()))
    outputs[0].write(b"one\n")
    assert lines == ["one"]
    assert outputs[0].close()[0] == "one\nfrom the log\n"


# --- callables


def test_prints_of_a_function_are_kept_and_told(bench: Bench):
    outcome = bench.function(
        """
        import sys
        def main():
            print("to stdout")
            print("to stderr", file=sys.stderr)
            sys.stdout.writelines(["a", "b", chr(10)])
            sys.stdout.buffer.write(b"bytes" + bytes([10, 255, 10]))
            sys.stdout.flush()
            print("odd: " + chr(0xdcff))
            return sys.stdout.isatty(), sys.stdout.write("four")
        """
    )
    lines = ["to stdout", "to stderr", "ab", "bytes", "\N{REPLACEMENT CHARACTER}", "odd: \\udcff", "four"]
    assert outcome.result == "(False, 4)"
    assert outcome.output == "\n".join(lines)
    assert bench.told.lines() == lines


def test_prints_of_others_pass_untouched(bench: Bench, capsys: pytest.CaptureFixture[str]):
    bench.write(
        """
        def main(run: "RunContext"):
            print("inside")
            run.stopping.wait()
        """
    )
    stop = Stopping()
    running = bench.start(stop, run="tidy:main")
    bench.told.wait_for("run_output")
    print("outside")
    sys.stderr.write("outside too\n")
    stop.set()
    assert running.outcome().output == "inside\n"
    assert capsys.readouterr() == ("outside\n", "outside too\n")


def test_two_runs_at_once_do_not_mix_their_output(bench: Bench):
    bench.write(
        """
        import threading
        barrier = threading.Barrier(2)
        def main(word):
            for _ in range(100):
                barrier.wait(20)
                print(word)
        """
    )
    runs = [bench.start(Stopping(), run="tidy:main", args=(word,)) for word in ("one", "two")]
    assert [run.outcome().output for run in runs] == ["one\n" * 100, "two\n" * 100]


def test_threads_that_have_the_context_print_for_the_run(bench: Bench, capsys: pytest.CaptureFixture[str]):
    outcome = bench.function(
        """
        import asyncio, contextvars, threading
        from scheduler_service.context import current_run
        async def main():
            await asyncio.to_thread(lambda: print("to_thread", current_run().job))
            for target in (contextvars.copy_context().run, lambda function, *rest: function(*rest)):
                thread = threading.Thread(target=target, args=(print, "a thread"))
                thread.start()
                thread.join()
        """
    )
    assert outcome.output == "to_thread tidy\na thread\n"
    assert capsys.readouterr().out == "a thread\n"


def test_what_a_thread_prints_after_its_run_goes_to_the_service(bench: Bench, capsys: pytest.CaptureFixture[str]):
    outcome = bench.function(
        """
        import contextvars, threading
        go, thread = threading.Event(), None
        def late():
            go.wait()
            print("late")
        def main():
            global thread
            thread = threading.Thread(target=contextvars.copy_context().run, args=(late,))
            thread.start()
            print("in time")
        """
    )
    module = sys.modules["jobs.tidy"]
    module.go.set()
    module.thread.join()
    assert outcome.output == "in time\n"
    assert capsys.readouterr().out == "late\n"


def test_log_records_of_a_function_are_kept(bench: Bench):
    outcome = bench.function(
        """
        import logging
        def main():
            logging.getLogger("tidy").warning("removed %d files", 3)
            try:
                1 / 0
            except ZeroDivisionError:
                logging.exception("but")
        """
    )
    lines = outcome.output.splitlines()
    assert lines[:3] == ["WARNING tidy: removed 3 files", "ERROR root: but", "Traceback (most recent call last):"]
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert bench.told.lines() == []  # they go to the log as records, with their own level and logger


def test_a_mistake_in_a_log_call_is_not_the_end_of_the_run(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own handlers raise
    outcome = bench.function("import logging\ndef main():\n    logging.warning('%d', 'three')")
    assert outcome.state is State.SUCCEEDED
    assert "Logging error" in outcome.output


def test_what_a_module_prints_while_it_loads_belongs_to_the_run(bench: Bench):
    assert bench.function("print('loading')\ndef main(): print('running')").output == "loading\nrunning\n"


def test_a_function_may_close_or_replace_its_streams(bench: Bench, capsys: pytest.CaptureFixture[str]):
    source = """
        import contextlib, io, sys
        def main():
            text = io.StringIO()
            with contextlib.redirect_stdout(text):
                print("caught")
            sys.stdout.close()
            print("still there", text.getvalue(), end="")
            sys.stdout = io.StringIO()
        """
    kept = sys.stdout
    try:
        assert bench.function(source).output == "still there caught\n"
        bench.write("def main(): print('next')", "following")
        assert bench.run(run="following:main").output == "next\n"
    finally:
        sys.stdout = kept
    print("outside")
    assert capsys.readouterr().out == "outside\n"


def test_ten_megabytes_of_prints_stay_bounded(bench: Bench):
    outcome = bench.function("def main():\n    for number in range(100_000):\n        print(f'{number:099}')")
    assert outcome.truncated
    assert len(outcome.output) == 64 * 1024
    assert outcome.output.endswith(f"{99_999:099}\n")
    assert len(bench.told.lines()) < 2000


def test_ten_megabytes_without_a_line_end_stay_bounded(bench: Bench):
    outcome = bench.function("def main():\n    for _ in range(1000):\n        print('x' * 10_000, end='')")
    assert len(outcome.output) == 64 * 1024
    assert [len(line) for line in bench.told.lines()] == [LINE_BYTES + 2]


def test_installing_twice_routes_once(capsys: pytest.CaptureFixture[str]):
    install()
    first = sys.stdout
    install()
    assert sys.stdout is first
    assert len([handler for handler in logging.getLogger().handlers if type(handler).__name__ == "_KeepRecords"]) == 1


def test_a_routed_stream_is_a_stream_like_the_one_it_stands_for():
    install()
    assert sys.stdout.encoding
    assert sys.stderr.errors
    with pytest.raises(TypeError):
        contextvars.copy_context().run(_print_bytes)


def _print_bytes() -> None:
    enter_output(Written().output)
    sys.stdout.write(b"bytes")  # type: ignore[arg-type]  # the mistake of a job
