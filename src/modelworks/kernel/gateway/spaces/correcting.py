"""What readers said of answers, on its way into samples: strangers propose, a person of the project accepts, a model learns."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.dataspace import DataspaceService
from modelworks.kernel.dataspace.learning import own_model, settings_of
from modelworks.kernel.dataspace.schemas import LearningPreview, LearningSettings
from modelworks.kernel.dataspace.store import FeedbackRow, SpaceRow
from modelworks.kernel.gateway.spaces import sharding


def written(
    session: Session, spaces: DataspaceService, catalog: CatalogService, row: SpaceRow, terms: LearningSettings
) -> str | None:
    """The id of a data set of what readers said, as `sample-making` reads it; None where nobody said anything of use.

    It is the space's own like its samples: what cites a forgotten document goes from it.
    """
    accepted = set(terms.corrections)
    lines = [_line(each, is_accepted=each.id in accepted) for each in spaces.feedback.of_use(session, row.id, accepted)]
    if not lines:
        return None
    with tempfile.TemporaryDirectory(prefix="corrections-") as folder:
        (Path(folder) / "said.jsonl").write_text(
            "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in lines), "utf-8"
        )
        name = f"{row.catalog_name}/corrections"
        known: dict[str, Any] = {"source": f"space:{row.id}", "metadata": {"form": "corrections", "num_lines": len(lines)}}
        return catalog.register_folder(session, row.project_id, kind="dataset", name=name, path=Path(folder), **known).id


def preview(session: Session, spaces: DataspaceService, row: SpaceRow, base: str, base_version_id: str) -> LearningPreview:
    """What would be learned from now."""
    terms = settings_of(row).learning
    accepted = set(terms.corrections)
    said = spaces.feedback.of_use(session, row.id, accepted)
    live = spaces.learnings.latest(session, row.id, "succeeded", untainted=True)
    is_live = live is not None and row.settings["language_model"] == own_model(row)
    return LearningPreview(
        space_id=row.id,
        name=row.name,
        base=base,
        base_version_id=base_version_id,
        num_documents=spaces.learnings.num_documents(session, row.id),
        num_closed=spaces.learnings.num_documents(session, row.id, closed=True),
        num_shards=sharding.number_of(session, spaces, row, terms),
        num_corrections=sum(each.id in accepted and each.correction is not None for each in said),
        num_unaccepted=sum(each.id not in accepted and each.correction is not None for each in said),
        num_rejected=sum(each.correction is None for each in said),
        may_go_on=terms.go_on and is_live and live is not None and live.base_version_id == base_version_id,
    )


def _line(said: FeedbackRow, *, is_accepted: bool) -> dict[str, Any]:
    return {
        "question": said.question,
        "answer": said.answer,
        # A stranger's words are learned when a person of the project has accepted them; that the answer is wrong, at once.
        "correction": said.correction if is_accepted else None,
        "origin": {"feedback_id": said.id, "documents": said.documents},
    }
