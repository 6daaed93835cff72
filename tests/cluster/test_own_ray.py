"""Several workers to one run on this machine: the attempt has a Ray of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.jobs import rooms as jobs_rooms
from tests.kernel.jobs.rooms import TOY, Rooms, make_rooms

from modelworks.kernel.base.database import Base, Database
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import discovery
from modelworks.kernel.jobs.folder import AttemptFolder

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.thorough]


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rooms]:
    """Rooms with the local executor."""
    pytest.importorskip("ray", reason="needs Ray (extra cluster)")
    monkeypatch.setattr(jobs_rooms, "PATIENCE_S", 240.0)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(TOY), os.environ.get("PYTHONPATH")])))
    monkeypatch.syspath_prepend(str(TOY))
    discovery.refresh()
    settings = Settings(home=tmp_path / "home", slots_cpu=4, slots_memory_bytes=8 << 30)
    settings.prepare_home()
    db = Database(settings.effective_database_url)
    Base.metadata.create_all(db.engine)
    yield make_rooms(settings, db)
    db.dispose()
    discovery.refresh()


def test_two_workers_share_a_run_and_the_error_of_one_is_its_error(rooms: Rooms) -> None:
    run = rooms.submit(
        task="toy-together", inputs={"train": rooms.dataset()}, params={"rank": 1, "raise_at": 4}, resources={"workers": 2}
    )
    done = rooms.finish(run.id)
    assert (done.state, done.attempt, done.has_checkpoint) == ("failed", 1, True), rooms.log(run.id)
    assert done.error is not None
    assert (done.error["class"], done.error["message"]) == ("InvalidData", "Worker 1 found a bad word.")
    # Three words, counted once by the first worker and twice by the second; written down once.
    assert rooms.metrics(run.id)["total"] == {step: 9.0 * step for step in range(1, 4)}
    assert rooms.event_types(run.id).count("used") == 1
    assert "found a bad word" in rooms.log(run.id)
    # Nothing is left of the Ray that the attempt had for itself.
    folder = AttemptFolder.of(rooms.settings.home, run.id, 1)
    assert not folder.ray.exists()
    assert {path.name for path in folder.path.iterdir()} == {"log.txt"}
    assert not [path for path in Path("/proc").glob("[0-9]*") if run.id in _environment(path)]


def _environment(process: Path) -> str:
    try:
        return (process / "environ").read_text(errors="replace")
    except OSError:
        return ""
