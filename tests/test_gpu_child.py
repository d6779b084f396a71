"""Work in processes of its own (tools/gpu_child.py): what hangs or dies costs itself alone."""

from __future__ import annotations

import os
import signal
import time

import gpu_child
import pytest

SILENT = 4.0


def work(jobs):
    """In the child: what a job says, or twice its number."""
    print("not a result")
    for job in jobs:
        if job.get("does") == "hang":
            time.sleep(1000)
        if job.get("does") == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if job.get("does") == "raise":
            raise RuntimeError("an illegal address")
        if job.get("does") == "stop":
            return
        yield {"process": os.getpid(), "twice": 2 * job["number"]}


def done(jobs, **options):
    return list(gpu_child.results(work, jobs, SILENT, **options))


def test_one_child_does_all_work_that_goes_well():
    found = done([{"number": n} for n in range(3)])
    assert [(job["number"], result["twice"], why) for job, result, why in found] == [(n, 2 * n, None) for n in range(3)]
    assert len({result["process"] for _, result, _ in found} - {os.getpid()}) == 1


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        pytest.param("hang", "nothing was heard of it for 4 s", marks=pytest.mark.slow),
        ("die", "it was ended by SIGKILL"),
        ("raise", "it failed: RuntimeError: an illegal address"),
        ("stop", "it ended before it was done"),
    ],
)
def test_a_job_that_fails_costs_itself_and_the_next_child_goes_on(does, reason):
    found = done([{"number": 1}, {"number": 2, "does": does}, {"number": 3}])
    (_, first, _), (job, nothing, why), (_, last, fine) = found
    assert (job["number"], nothing, why, fine) == (2, None, reason, None)
    assert (first["twice"], last["twice"]) == (2, 6)
    assert first["process"] != last["process"]
    with pytest.raises(ProcessLookupError):
        os.kill(first["process"], 0)  # killed, and gone


def test_what_a_failure_spoils_is_not_tried():
    jobs = [{"number": n, "kind": n % 2, **({"does": "die"} if n == 1 else {})} for n in range(5)]
    found = done(jobs, spoils=lambda failed, job: failed["kind"] == job["kind"])
    assert [job["number"] for job, _, _ in found] == [0, 1, 2, 4]
    assert [job["number"] for job, _, why in found if why] == [1]


def test_when_the_time_is_over_nobody_is_to_blame():
    start = time.monotonic()
    jobs = [{"number": 1}, {"number": 2, "does": "hang"}, {"number": 3}]
    found = list(gpu_child.results(work, jobs, 60, until=start + 1.5))
    assert [(result["twice"], why) for _, result, why in found] == [(2, None)]
    assert time.monotonic() < start + 30
    assert list(gpu_child.results(work, jobs, 60, until=start)) == []


def test_a_child_does_not_outlive_those_who_no_longer_listen():
    running = gpu_child.results(work, [{"number": 1}, {"number": 2, "does": "hang"}], 60)
    process = next(running)[1]["process"]
    running.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
