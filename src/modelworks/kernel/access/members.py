"""Organisations, people, service accounts, and who may do what where."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from modelworks.contract.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from modelworks.kernel.access.roles import ROLES, organisation_of, role_in
from modelworks.kernel.access.schemas import Member, Organisation, Principal, Project, Role, Use, User, UserCreate
from modelworks.kernel.access.service import AccessService
from modelworks.kernel.access.store import MembershipRow, OrganisationRow, ProjectRow, SessionRow, UserRow
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.ids import new_id


class MemberService:
    """Memberships and what they stand for. A change counts at once here, within five seconds on other servers.

    Who may change a place (an organisation or a project): administrators of the platform; owners and admins of the
    organisation; admin keys of the project. Only an owner, or an administrator of the platform, makes or removes owners.
    """

    def __init__(self, access: AccessService, clock: Clock, events: Events) -> None:
        self.access = access
        self.db = access.db
        self._clock = clock
        self._events = events

    # Organisations and projects

    def create_organisation(self, session: Session, name: str) -> Organisation:
        """Raises Conflict where the name is taken."""
        row = OrganisationRow(id=new_id("org"), name=name, created_at=self._clock.now())
        try:
            with session.begin_nested():
                session.add(row)
        except IntegrityError as error:
            raise Conflict(f"There is an organisation {name!r} already.", hint="Choose another name.", param="name") from error
        return Organisation.model_validate(row)

    def list_organisations(self, session: Session, caller: Principal) -> list[Organisation]:
        """Every one for administrators of the platform; for others those that they or their project belong to."""
        rows = list(session.scalars(select(OrganisationRow).order_by(OrganisationRow.id)))
        if not self.access.is_platform_admin(session, caller):
            mine = {organisation_of(session, caller.project_id)}
            if caller.user_id is not None:
                query = select(MembershipRow.place_id).where(MembershipRow.user_id == caller.user_id)
                places = set(session.scalars(query))
                mine |= places | {organisation_of(session, place) for place in places}
            rows = [row for row in rows if row.id in mine]
        return [Organisation.model_validate(row) for row in rows]

    def create_project(
        self, session: Session, caller: Principal, name: str, organisation_id: str | None, use: Use | None = None
    ) -> Project:
        """A project of an organisation, by default the caller's own.

        Raises:
            NotFound: no such organisation. PermissionDenied. Conflict: the name is taken.
        """
        place = organisation_id or organisation_of(session, caller.project_id)
        if organisation_id is None or place is None:
            self.access.require_platform_admin(session, caller)
        else:
            self.require_manager(session, caller, place)
        return self.access.create_project(session, name, place, use)

    def declare_use(self, session: Session, caller: Principal, project_id: str, use: Use | None) -> Project:
        """Say what a project does with models, which licences are held against from then on; for its managers.

        Raises:
            NotFound: no such project. PermissionDenied.
        """
        self.require_manager(session, caller, project_id)
        row = session.get(ProjectRow, project_id)
        if row is None:
            raise NotFound(f"{project_id!r} is no project.", hint="GET /api/projects lists them.", code="project_not_found")
        row.use = use
        session.flush()
        return Project.model_validate(row)

    # People and service accounts

    def create_user(self, session: Session, caller: Principal, body: UserCreate) -> User:
        """A person (administrators of the platform only) or a service account, with a first membership.

        People are made by administrators of the platform alone: whoever makes an account holds its first password, and an
        address that is known here is believed in every organisation.

        Raises:
            Conflict: the address is taken. NotFound: no such place. PermissionDenied. InvalidRequest.
        """
        if body.kind == "person":
            self.access.require_platform_admin(session, caller)
        elif body.email is not None:
            raise InvalidRequest("A service account has no address.", hint="Leave the email out.", param="email")
        self._check_grant(session, caller, body.place_id, None, body.role)
        row = UserRow(id=new_id("usr"), kind=body.kind, name=body.name, email=body.email, created_at=self._clock.now())
        try:
            with session.begin_nested():
                session.add(row)
        except IntegrityError as error:
            raise Conflict(
                f"The address {body.email} belongs to an account already.",
                hint="Make it a member of further places with PUT /api/members/{user_id}.",
                param="email",
            ) from error
        self._put(session, row.id, body.place_id, body.role)
        return User.model_validate(row)

    def set_disabled(self, session: Session, caller: Principal, user_id: str, disabled: bool) -> User:
        """Let an account do nothing from now on, or let it work again: its keys and sessions with it.

        Only for administrators of the platform, as an account may belong to several organisations.
        """
        self.access.require_platform_admin(session, caller)
        row = self._user(session, user_id)
        row.disabled_at = (row.disabled_at or self._clock.now()) if disabled else None
        if disabled:
            query = select(SessionRow).where(SessionRow.user_id == user_id, SessionRow.revoked_at.is_(None))
            for found in session.scalars(query):
                found.revoked_at = self._clock.now()
        session.flush()
        self._changed(session)
        return User.model_validate(row)

    # Memberships

    def members(self, session: Session, caller: Principal, place_id: str) -> list[Member]:
        """Who may do something in a place, by name; for its managers."""
        self.require_manager(session, caller, place_id)
        query = (
            select(MembershipRow, UserRow)
            .join(UserRow, UserRow.id == MembershipRow.user_id)
            .where(MembershipRow.place_id == place_id)
            .order_by(UserRow.name, UserRow.id)
        )
        return [self._member(membership, user) for membership, user in session.execute(query).tuples()]

    def put_member(self, session: Session, caller: Principal, place_id: str, user_id: str, role: Role) -> Member:
        """Give somebody a role in a place, instead of the one held there before; `user_id` may be an address.

        Raises:
            NotFound: no such place or account. PermissionDenied. Conflict: it would take away the last owner.
        """
        user = self._user(session, user_id)
        held = session.get(MembershipRow, (user.id, place_id), with_for_update=True)
        self._check_grant(session, caller, place_id, None if held is None else held.role, role)
        if held is not None and held.role == "owner" and role != "owner":
            self._keep_an_owner(session, place_id, user.id)
        return self._member(self._put(session, user.id, place_id, role), user)

    def remove_member(self, session: Session, caller: Principal, place_id: str, user_id: str) -> Member:
        """Take a role away.

        Raises:
            NotFound: no such membership. PermissionDenied. Conflict: it is the last owner.
        """
        user = self._user(session, user_id)
        held = session.get(MembershipRow, (user.id, place_id), with_for_update=True)
        self._check_grant(session, caller, place_id, None if held is None else held.role, None)
        if held is None:
            raise NotFound(f"{user.name} has no role there.", hint="GET /api/members lists who has.")
        if held.role == "owner":
            self._keep_an_owner(session, place_id, user.id)
        gone = self._member(held, user)
        session.delete(held)
        session.flush()
        self._changed(session)
        return gone

    def require_manager(self, session: Session, caller: Principal, place_id: str) -> Role:
        """The role as which the caller may change a place.

        Raises:
            NotFound: there is no such place for the caller.
            PermissionDenied: the caller sees it and may not change it.
        """
        is_project = session.get(ProjectRow, place_id) is not None
        known = is_project or session.get(OrganisationRow, place_id) is not None
        if known and self.access.is_platform_admin(session, caller):
            return "owner"
        role = None if caller.user_id is None else role_in(session, caller.user_id, place_id)
        if known and caller.has("admin"):
            if role in ("owner", "admin"):
                return role
            if caller.user_id is None and place_id == caller.project_id:
                return "admin"
        seen = role is not None or place_id in (caller.project_id, organisation_of(session, caller.project_id))
        if known and seen:
            raise PermissionDenied(
                "Only its owners and admins may do this.", hint="Ask one of them, or an administrator of the platform."
            )
        raise NotFound(
            f"There is no organisation or project {place_id!r}.",
            hint="GET /api/organisations and GET /api/projects list them.",
            param="place_id",
        )

    def _check_grant(self, session: Session, caller: Principal, place_id: str, held: str | None, role: Role | None) -> None:
        mine = self.require_manager(session, caller, place_id)
        if role is not None and role not in ROLES:
            raise InvalidRequest(f"Unknown role {role!r}.", hint=f"Choose from: {', '.join(ROLES)}.", param="role")
        if "owner" in (held, role) and mine != "owner":
            raise PermissionDenied("Only an owner makes or removes owners.", hint="Ask an owner.", param="role")

    def _keep_an_owner(self, session: Session, place_id: str, leaving: str) -> None:
        query = (
            select(MembershipRow.user_id)
            .join(UserRow, UserRow.id == MembershipRow.user_id)
            .where(MembershipRow.place_id == place_id, MembershipRow.role == "owner", UserRow.disabled_at.is_(None))
            .with_for_update()
        )
        if set(session.scalars(query)) <= {leaving}:
            raise Conflict("It is the last owner.", hint="Make somebody else an owner first.", code="last_owner")

    def _put(self, session: Session, user_id: str, place_id: str, role: Role) -> MembershipRow:
        row = session.get(MembershipRow, (user_id, place_id))
        if row is None:
            row = MembershipRow(user_id=user_id, place_id=place_id, role=role, created_at=self._clock.now())
            session.add(row)
        row.role = role
        session.flush()
        self._changed(session)
        return row

    def _user(self, session: Session, user_id: str) -> UserRow:
        row = session.get(UserRow, user_id)
        if row is None and "@" in user_id:
            row = session.scalar(select(UserRow).where(UserRow.email == user_id.lower()))
        if row is None:
            raise NotFound(f"There is no account {user_id!r}.", hint="POST /api/users makes one.", param="user_id")
        return row

    def _changed(self, session: Session) -> None:
        self._events.publish_after_commit(session, "key.changed")

    @staticmethod
    def _member(row: MembershipRow, user: UserRow) -> Member:
        return Member(
            user_id=user.id,
            kind=user.kind,
            name=user.name,
            email=user.email,
            place_id=row.place_id,
            role=row.role,
            disabled_at=user.disabled_at,
            created_at=row.created_at,
        )
