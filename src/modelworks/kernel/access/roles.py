"""What a role allows, and which role somebody has in a project."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from modelworks.kernel.access.schemas import Role
from modelworks.kernel.access.store import MembershipRow, OrganisationRow, ProjectRow, UserRow

#: From the strongest to the weakest: where several hold, the first one counts.
ROLES: Final[tuple[Role, ...]] = ("owner", "admin", "developer", "viewer", "service")
ROLE_SCOPES: Final[dict[Role, frozenset[str]]] = {
    # An owner may do what an admin may, and also make and remove owners.
    "owner": frozenset({"inference", "read", "write", "admin"}),
    "admin": frozenset({"inference", "read", "write", "admin"}),
    "developer": frozenset({"inference", "read", "write"}),
    "viewer": frozenset({"read"}),
    "service": frozenset({"inference"}),
}
#: The organisation of the platform itself, and of projects that are older than organisations.
FIRST_ORGANISATION: Final = "default"


def organisation_of(session: Session, project_id: str) -> str | None:
    """The id of a project's organisation; None where there is no such project or no organisation yet."""
    row = session.get(ProjectRow, project_id)
    if row is None:
        return None
    return row.organisation_id or session.scalar(select(OrganisationRow.id).where(OrganisationRow.name == FIRST_ORGANISATION))


def use_of(session: Session, project_id: str) -> str | None:
    """What a project has declared to do with models: commercial, non-commercial, or None."""
    return session.scalar(select(ProjectRow.use).where(ProjectRow.id == project_id))


def role_in(session: Session, user_id: str, place_id: str) -> Role | None:
    """The strongest role that somebody has in an organisation, or in a project or the organisation above it."""
    places = [place_id]
    above = organisation_of(session, place_id)
    if above is not None:
        places.append(above)
    query = select(MembershipRow.role).where(MembershipRow.user_id == user_id, MembershipRow.place_id.in_(places))
    return strongest(session.scalars(query))


def strongest(roles: Iterable[str]) -> Role | None:
    """The first of `ROLES` among them."""
    found = set(roles)
    return next((role for role in ROLES if role in found), None)


def rights_of(session: Session, user_id: str, project_id: str) -> frozenset[str] | None:
    """The scopes that somebody has in a project, empty for a stranger; None where the account is disabled or gone."""
    user = session.get(UserRow, user_id)
    if user is None or user.disabled_at is not None:
        return None
    role = role_in(session, user_id, project_id)
    return ROLE_SCOPES[role] if role is not None else frozenset()


def common_scopes(key: Iterable[str], rights: frozenset[str]) -> frozenset[str]:
    """What both a key and its holder's role allow; "admin" carries every scope, "write" includes "read"."""
    wide = set(key)
    if "admin" in wide:
        return rights
    if "write" in wide:
        wide.add("read")
    return rights & wide
