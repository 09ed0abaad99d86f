"""What the benchmarks share: programs are measured in pairs, each time in the other order, so that
whatever else the machine does meets all of them; and medians, ranges and ratios of that are printed.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "integration"))

from harness.run import as_user, environment  # noqa: E402

PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)
ASK_EVERY = 0.005  # seconds
BLOCK_OF_RUSAGE = 512
IDLE_ENOUGH = 0.8
PATIENCE = 20  # half seconds


# --- data ---


CREATE_TABLES = """
DO $$
BEGIN
    FOR i IN 1..{count} LOOP
        EXECUTE format('CREATE TABLE t%s {content}', i);
        IF i % 1000 = 0 THEN COMMIT; END IF;
    END LOOP;
END
$$
"""


def create_tables(server, count, content):
    """Small ones, t1 and so on; `content` is what follows the name, without quotes."""
    server.sql(CREATE_TABLES.format(count=count, content=content), timeout=3600)


# --- before a run ---


def settle(drop_caches=False):
    """What the last run has left to be written must not be written during the next one, and what
    else the machine has to do had better be over.
    """
    os.sync()
    if drop_caches:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    for _ in range(PATIENCE):
        idle_before, all_before = processor_time()
        time.sleep(0.5)
        idle, everything = processor_time()
        if idle - idle_before > IDLE_ENOUGH * (everything - all_before):
            break


def processor_time():
    """The time of all processors since boot: idle, and altogether."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    ticks = [int(field) for field in fields]
    return ticks[3] + ticks[4], sum(ticks)


# --- a run ---


class PeakMemory(threading.Thread):
    """The most memory that a process has at once, asked from time to time: what the kernel counts
    at its end (ru_maxrss) begins with what the process had that it was forked from.
    """

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.mebibytes = 0.0
        self._status = Path(f"/proc/{pid}/status")
        self.start()

    def run(self):
        while match := PEAK.search(self._text()):
            self.mebibytes = int(match[1]) / 1024
            time.sleep(ASK_EVERY)

    def _text(self):
        """Empty, or without a line of its memory, when it has ended."""
        try:
            return self._status.read_text()
        except OSError:
            return ""


def measured(command, env=None):
    """Runs a command to its end: its seconds, CPU seconds and megabytes written, those of its
    children included, and its peak memory in MiB.
    """
    with tempfile.TemporaryFile() as errors, open(os.devnull, "wb") as nowhere:
        started = time.monotonic()
        process = subprocess.Popen([str(word) for word in command], env=environment(env),
                                   stdout=nowhere, stderr=errors, **as_user(None))
        memory = PeakMemory(process.pid)
        _pid, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if status != 0:
            errors.seek(0)
            raise SystemExit(f"{command}: status {process.returncode}: {errors.read().decode()}")
    memory.join()
    return {
        "seconds": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": memory.mebibytes,
        "written": usage.ru_oublock * BLOCK_OF_RUSAGE / 1e6,
    }


def in_turns(programs, pairs, measure):
    """Measures each program `pairs` times, each time in the other order: {name: [numbers]}."""
    runs = {name: [] for name in programs}
    for pair in range(pairs):
        for name in reversed(programs) if pair % 2 else programs:
            runs[name].append(measure(programs[name]))
    return runs


# --- the report ---


def report(title, runs, names, gigabytes=None):
    """The median and range of each number for each program, the CPU seconds per gigabyte, and the
    median ratios to ours in the pairs.
    """
    print(f"  {title}")
    for number, label in names.items():
        columns = [f"    {label:20}"]
        for name, results in runs.items():
            values = [result[number] for result in results]
            spread = f"({min(values):.4g}-{max(values):.4g})"
            columns.append(f"{name} {statistics.median(values):7.4g} {spread:15}")
            if number == "cpu" and gigabytes:
                columns.append(f"{statistics.median(values) / gigabytes:5.2f} per GB ")
        for name in runs:
            if name != "pgstow" and any(result[number] for result in runs[name]):
                columns.append(f"pgstow / {name} {median_ratio(runs, name, number):.2f}")
        print(" ".join(columns).rstrip(), flush=True)


def median_ratio(runs, name, number):
    pairs = zip(runs["pgstow"], runs[name])
    return statistics.median(ours[number] / max(theirs[number], 1e-9) for ours, theirs in pairs)
