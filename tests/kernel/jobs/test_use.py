"""What a project declares to do with models, and the licences that are held against it."""

from __future__ import annotations

from datetime import UTC, datetime
from types import ModuleType

import pytest
from tests.kernel.jobs.rooms import PROJECT, Rooms

from modelworks.capabilities.weather.published import (
    aifs_files,
    aurora_files,
    fourcastnet_files,
    graphcast_files,
    pangu_files,
)
from modelworks.contract.errors import PermissionDenied
from modelworks.contract.media import File
from modelworks.kernel.access.store import ProjectRow


def declare(rooms: Rooms, use: str | None) -> None:
    with rooms.db.transaction() as session:
        row = session.get(ProjectRow, PROJECT)
        if row is None:
            row = ProjectRow(id=PROJECT, name="plant", created_at=datetime.now(UTC), organisation_id=None)
            session.add(row)
        row.use = use


def model(rooms: Rooms, name: str, licence: str) -> None:
    data = rooms.blobs.put(name.encode())
    file = File(path="weights.txt", **data.model_dump(exclude={"object"}))
    with rooms.db.transaction() as session:
        rooms.catalog.register(session, PROJECT, kind="model", name=name, files=[file], licence=licence, task="toy-count")


@pytest.mark.parametrize(("use", "told"), [("commercial", "is declared commercial"), (None, "has not declared")])
def test_a_licence_that_forbids_commercial_use_is_refused_elsewhere(rooms: Rooms, use: str | None, told: str) -> None:
    declare(rooms, use)
    model(rooms, "free", "apache-2.0")
    model(rooms, "bound", "CC-BY-NC-SA-4.0")
    rooms.submit(inputs={"base": "free"})
    with pytest.raises(PermissionDenied, match=f"'bound' has the licence CC-BY-NC-SA-4.0.*{told}") as refused:
        rooms.submit(inputs={"base": "bound"})
    assert refused.value.error_code == "licence_refused"
    assert "modelworks projects use non-commercial" in (refused.value.hint or "")
    declare(rooms, "non-commercial")
    assert rooms.submit(inputs={"base": "bound"}).inputs["base"].ref == "bound"


@pytest.mark.parametrize("weights", [pangu_files, graphcast_files, aurora_files, aifs_files, fourcastnet_files])
def test_published_weather_models_are_bound_by_what_their_import_states(rooms: Rooms, weights: ModuleType) -> None:
    declare(rooms, "commercial")
    model(rooms, "pulled", weights.LICENCE)
    if weights in (pangu_files, graphcast_files):
        with pytest.raises(PermissionDenied, match=r"CC-BY-NC-SA-4\.0, which forbids commercial use"):
            rooms.submit(inputs={"base": "pulled"})
    else:
        assert rooms.submit(inputs={"base": "pulled"}).inputs["base"].ref == "pulled"


def test_what_was_made_of_it_is_bound_as_it_is(rooms: Rooms) -> None:
    declare(rooms, "non-commercial")
    model(rooms, "bound", "cc-by-nc-4.0")
    model(rooms, "child", "mit")
    with rooms.db.transaction() as session:
        made, base = (rooms.catalog.resolve(session, PROJECT, name) for name in ("child", "bound"))
        rooms.catalog.record_edge(session, PROJECT, made.id, "parent", base.id)
    declare(rooms, "commercial")
    with pytest.raises(PermissionDenied, match=r"'child' has the licence cc-by-nc-4\.0, by way of bound"):
        rooms.submit(inputs={"base": "child"})
