"""Several workers to one run: what is refused, what is counted, and what their end means."""

from __future__ import annotations

import pytest
from tests.kernel.jobs.rooms import Rooms

from modelworks.contract.capability import Resources
from modelworks.contract.errors import Cancelled, InvalidData, InvalidRequest, MissingExtra, Unavailable
from modelworks.kernel.jobs import gang, service

WORKERS = {"workers": 2}


def test_workers_only_share_a_training_that_is_made_for_it(rooms: Rooms) -> None:
    with pytest.raises(InvalidRequest, match="cannot be shared by 2 workers") as refused:
        rooms.submit(resources=WORKERS)
    assert refused.value.param == "resources.workers"
    with pytest.raises(InvalidRequest, match="whole accelerators"):
        rooms.submit(task="toy-together", resources={"workers": 2, "gpu": 0.5})


def test_the_places_of_all_workers_are_counted(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ray itself is not needed to count.
    monkeypatch.setattr(service, "find_spec", lambda name: object())
    with pytest.raises(InvalidRequest, match="needs 6 cores; runs may occupy 4") as refused:
        rooms.submit(task="toy-together", resources={"workers": 3, "cpu": 2})
    assert refused.value.error_code == "exceeds_capacity"
    assert Resources(cpu=2, memory_bytes=3, gpu=1, workers=4).total == Resources(cpu=8, memory_bytes=12, gpu=4)


def test_without_ray_a_sentence_names_the_extra(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as refused:
        rooms.submit(task="toy-together", resources=WORKERS)
    assert "modelworks[cluster]" in (refused.value.hint or "")


def test_what_the_end_of_the_workers_means() -> None:
    judge = gang._judge
    judge(None, None)
    fault = InvalidData("A bad word.", hint="Take it out.").to_wire()
    failed = {"kind": "failed", "rank": 1, "error": fault, "traceback": "Traceback …"}
    with pytest.raises(InvalidData, match="A bad word"):
        judge(failed, RuntimeError("worker 1: …"))
    with pytest.raises(Cancelled):
        judge({"kind": "cancelled"}, None)
    # A worker that vanished says nothing; its neighbours only that they cannot reach it.
    for outcome in (None, failed | {"kind": "lost"}):
        with pytest.raises(Unavailable) as lost:
            judge(outcome, RuntimeError("the actor died"))
        assert (lost.value.error_code, lost.value.retryable, lost.value.status >= 502) == ("worker_lost", True, True)


def test_an_error_of_ones_own_is_told_from_a_neighbour_that_went_away() -> None:
    import torch

    gone = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:525] Connection closed by peer [127.0.0.1]:22")
    assert gang.is_lost_neighbour(gone)
    assert gang.is_lost_neighbour(torch.distributed.DistNetworkError("reset"))
    assert not gang.is_lost_neighbour(RuntimeError("shape mismatch"))
    assert not gang.is_lost_neighbour(InvalidData("gloom"))
