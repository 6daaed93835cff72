"""Projects, API keys and their check, and sums of the recorded usage."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, String, cast, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from modelworks.contract.errors import AuthenticationFailed, Conflict, InvalidRequest, NotFound, PermissionDenied
from modelworks.kernel.access.roles import FIRST_ORGANISATION, common_scopes, rights_of, role_in
from modelworks.kernel.access.schemas import (
    SCOPES,
    GroupBy,
    Key,
    Principal,
    Project,
    UsageGroup,
    UsageRequest,
    UsageSummary,
    Use,
    networks_of,
)
from modelworks.kernel.access.store import KeyRow, OrganisationRow, ProjectRow, SessionRow, UsageRow, UserRow
from modelworks.kernel.base.clock import Clock, is_moment
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.ids import new_id

SECRET_PREFIX = "mw-"  # noqa: S105 - the visible start of every secret, not a secret
#: The project of the platform's own administrators; only its admin keys reach across projects.
PLATFORM_PROJECT = "default"
#: The visible start of a session's secret, which stands in a cookie where a key stands in a header.
SESSION_PREFIX = "mws-"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CACHE_S = 5.0
_NEGATIVE_CACHE_S = 1.0
_MAX_CACHED = 10_000


class AccessService:
    """The only reader and writer of the access tables.

    `authenticate` answers from memory: a key that is revoked here is refused at once, one revoked by another server on the
    same database within five seconds.
    """

    def __init__(self, db: Database, clock: Clock, events: Events) -> None:
        self.db = db
        self._clock = clock
        self._events = events
        self._cache: dict[bytes, tuple[float, datetime | None, Principal | AuthenticationFailed]] = {}
        #: Rises with every change, so that an answer read before the change is not cached after it.
        self._generation = 0
        events.subscribe("key.changed", lambda _topic, _payload: self._forget())

    # Projects

    def create_project(
        self, session: Session, name: str, organisation_id: str | None = None, use: Use | None = None
    ) -> Project:
        """A new tenant, by default of the first organisation.

        Raises:
            Conflict: the name is taken.
        """
        place = organisation_id or self._first_organisation(session)
        row = ProjectRow(id=new_id("prj"), name=name, created_at=self._clock.now(), organisation_id=place, use=use)
        try:
            with session.begin_nested():
                session.add(row)
        except IntegrityError as error:
            raise Conflict(f"There is a project {name!r} already.", hint="Choose another name.", param="name") from error
        return Project.model_validate(row)

    def list_projects(self, session: Session) -> list[Project]:
        """Every project, oldest first."""
        return [Project.model_validate(row) for row in session.scalars(select(ProjectRow).order_by(ProjectRow.id))]

    def project_name(self, session: Session, project_id: str) -> str:
        """The name of a project; raises NotFound where there is none."""
        name = session.scalar(select(ProjectRow.name).where(ProjectRow.id == project_id))
        if name is None:
            raise NotFound(f"There is no project {project_id!r}.", code="project_not_found")
        return name

    def visible_projects(self, session: Session, principal: Principal) -> list[Project]:
        """Every project for administrators of the platform; for others their own, and those that they have a role in."""
        projects = self.list_projects(session)
        if self.is_platform_admin(session, principal):
            return projects
        user = principal.user_id
        return [
            project
            for project in projects
            if project.id == principal.project_id or (user is not None and role_in(session, user, project.id) is not None)
        ]

    def require_platform_admin(self, session: Session, principal: Principal) -> None:
        """Raise PermissionDenied unless this is an admin key of the project "default"."""
        principal.require("admin")
        if not self.is_platform_admin(session, principal):
            raise PermissionDenied(
                "Only administrators of the platform may reach other projects.",
                hint=f"Use an admin key of the project {PLATFORM_PROJECT!r}.",
            )

    def is_platform_admin(self, session: Session, principal: Principal) -> bool:
        """Whether this is an admin key of the platform's own project."""
        return principal.has("admin") and _is_platform(session, principal.project_id)

    # Keys

    def create_key(
        self,
        session: Session,
        project_id: str,
        name: str,
        *,
        scopes: Sequence[str],
        expires_at: datetime | None = None,
        model_allow: Sequence[str] | None = None,
        ip_allow: Sequence[str] | None = None,
        user_id: str | None = None,
    ) -> tuple[Key, str]:
        """A new key and its secret, which is not kept and cannot be shown again.

        Raises:
            NotFound: no such project.
            InvalidRequest: an unknown scope, or an expiry that has passed or has no time zone.
        """
        if session.get(ProjectRow, project_id) is None:
            raise NotFound(f"There is no project {project_id!r}.", hint="GET /api/projects lists them.", param="project_id")
        if not scopes or not set(scopes) <= SCOPES:
            raise InvalidRequest(
                f"Unknown scopes: {', '.join(sorted(set(scopes) - SCOPES)) or 'none was given'}.",
                hint=f"Choose from: {', '.join(sorted(SCOPES))}.",
                param="scopes",
            )
        self._check_expiry(expires_at)
        if user_id is not None:
            self._check_holder(session, project_id, user_id, scopes)
        secret = SECRET_PREFIX + _base62(secrets.token_bytes(32))
        row = KeyRow(
            id=new_id("key"),
            project_id=project_id,
            name=name,
            prefix=secret[:9],
            secret_hash=_hash(secret).hex(),
            scopes=sorted(set(scopes)),
            model_allow=None if model_allow is None else list(model_allow),
            created_at=self._clock.now(),
            expires_at=expires_at,
            revoked_at=None,
            ip_allow=None if ip_allow is None else list(ip_allow),
            user_id=user_id,
        )
        session.add(row)
        session.flush()
        self._events.publish_after_commit(session, "key.changed", key_id=row.id, project_id=project_id)
        return Key.model_validate(row), secret

    def rotate_key(
        self, session: Session, project_id: str, key_id: str, *, overlap_s: int, expires_at: datetime | None = None
    ) -> tuple[Key, str]:
        """A successor with the same rights and a new secret; the old one works for another `overlap_s` seconds.

        Raises:
            NotFound: the project has no such key.
            Conflict: it is revoked, has expired or was rotated before.
            InvalidRequest: an expiry that has passed.
        """
        row = session.get(KeyRow, key_id, with_for_update=True)
        if row is None or row.project_id != project_id:
            raise NotFound(f"There is no API key {key_id!r} in this project.", hint="GET /api/keys lists them.")
        now = self._clock.now()
        ended = row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now)
        if ended or row.replaced_by is not None:
            raise Conflict(
                f"The API key {row.prefix}… {'no longer works' if ended else 'was rotated before'}.",
                hint="Create a new key." if ended else f"Rotate its successor {row.replaced_by}.",
                code="key_not_live",
            )
        made, secret = self.create_key(
            session,
            project_id,
            row.name,
            scopes=row.scopes,
            expires_at=expires_at or row.expires_at,
            model_allow=row.model_allow,
            ip_allow=row.ip_allow,
            user_id=row.user_id,
        )
        row.replaced_by = made.id
        if overlap_s == 0:
            row.revoked_at = now
        else:
            end = now + timedelta(seconds=overlap_s)
            row.expires_at = end if row.expires_at is None else min(end, row.expires_at)
        session.flush()
        return made, secret

    def _check_holder(self, session: Session, project_id: str, user_id: str, scopes: Sequence[str]) -> None:
        rights = rights_of(session, user_id, project_id)
        if not rights:
            raise NotFound(
                f"The account {user_id!r} has no role in this project.",
                hint="Make it a member first: PUT /api/members/{user_id}.",
                param="user_id",
            )
        if not set(scopes) <= rights:
            raise InvalidRequest(
                f"The account's role does not allow {', '.join(sorted(set(scopes) - rights))}.",
                hint=f"It allows: {', '.join(sorted(rights))}.",
                param="scopes",
            )

    def _check_expiry(self, expires_at: datetime | None) -> None:
        if expires_at is not None and (not is_moment(expires_at) or expires_at <= self._clock.now()):
            raise InvalidRequest(
                "The expiry must be a moment in the future, with its time zone.",
                hint="Example: 2027-01-31T00:00:00Z.",
                param="expires_at",
            )

    def list_keys(self, session: Session, project_id: str, after: str | None = None, limit: int = 20) -> tuple[list[Key], bool]:
        """Keys of a project, newest first, and whether there are more."""
        query = select(KeyRow).where(KeyRow.project_id == project_id).order_by(KeyRow.id.desc()).limit(limit + 1)
        if after is not None:
            query = query.where(KeyRow.id < after)
        rows = list(session.scalars(query))
        return [Key.model_validate(row) for row in rows[:limit]], len(rows) > limit

    def revoke_key(self, session: Session, project_id: str, key_id: str) -> Key:
        """Refuse a key from now on; doing it twice changes nothing.

        Raises:
            NotFound: the project has no such key.
        """
        row = session.get(KeyRow, key_id)
        if row is None or row.project_id != project_id:
            raise NotFound(f"There is no API key {key_id!r} in this project.", hint="GET /api/keys lists them.")
        if row.revoked_at is None:
            row.revoked_at = self._clock.now()
            session.flush()
            self._events.publish_after_commit(session, "key.changed", key_id=key_id, project_id=project_id)
        return Key.model_validate(row)

    def revoke_keys_named(self, session: Session, project_id: str, name: str) -> None:
        """Refuse every key of a name from now on: those that the platform made itself, for one purpose."""
        query = select(KeyRow).where(KeyRow.project_id == project_id, KeyRow.name == name, KeyRow.revoked_at.is_(None))
        for row in session.scalars(query):
            self.revoke_key(session, project_id, row.id)

    def bootstrap(self, session: Session, home: Path) -> None:
        """See to it that the platform's own project has a usable admin key; a new one is written to `home/admin.key` (0600)."""
        if self._first_organisation(session) is None:
            session.add(OrganisationRow(id=new_id("org"), name=FIRST_ORGANISATION, created_at=self._clock.now()))
            session.flush()
        for orphan in session.scalars(select(ProjectRow).where(ProjectRow.organisation_id.is_(None))):
            orphan.organisation_id = self._first_organisation(session)  # older than organisations
        project = session.scalar(select(ProjectRow).where(ProjectRow.name == PLATFORM_PROJECT))
        project_id = self.create_project(session, PLATFORM_PROJECT).id if project is None else project.id
        now = self._clock.now()
        for row in session.scalars(select(KeyRow).where(KeyRow.project_id == project_id, KeyRow.revoked_at.is_(None))):
            if "admin" in row.scopes and (row.expires_at is None or row.expires_at > now):
                return
        _, secret = self.create_key(session, project_id, "admin", scopes=sorted(SCOPES))
        # Written before the commit: a file with a key that was never stored is replaced at the next start,
        # a stored key without its file would lock everybody out.
        descriptor, draft = tempfile.mkstemp(prefix=".admin-", dir=home)
        with os.fdopen(descriptor, "w") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(home / "admin.key")

    def _first_organisation(self, session: Session) -> str | None:
        return session.scalar(select(OrganisationRow.id).where(OrganisationRow.name == FIRST_ORGANISATION))

    # The check

    def authenticate(self, secret: str | None) -> Principal:
        """The principal behind a secret.

        Raises:
            AuthenticationFailed: codes `invalid_api_key`, `expired_api_key`, `revoked_api_key`.
            Unavailable: the database does not answer.
        """
        found = self.cached(secret)
        return found if found is not None else self._look_up(secret or "")

    def principal_of(self, key_id: str) -> Principal:
        """What the holder of a key, or whoever signed in, may do now: for work that the platform does for them later.

        The address from which they may call is left out: it was checked when they asked for the work, and nobody calls now.

        Raises:
            AuthenticationFailed: as `authenticate`; also where the account is disabled. A session may be over.
        """
        with self.db.reading() as session:
            signed_in = session.get(SessionRow, key_id)
            if signed_in is None:
                outcome = self._outcome(session, session.get(KeyRow, key_id))
            else:
                outcome = self._signed_in(session, signed_in)
        if isinstance(outcome, AuthenticationFailed):
            raise outcome
        return replace(outcome, ip_allow=None)

    def cached(self, secret: str | None) -> Principal | None:
        """`authenticate` without the database: None when memory does not know."""
        if not secret:
            raise AuthenticationFailed(
                "No API key was given.",
                hint="Send 'Authorization: Bearer mw-…' or 'x-api-key'. The first key is in the home folder's admin.key.",
            )
        entry = self._cache.get(_hash(secret))
        if entry is None or entry[0] <= self._clock.monotonic():
            return None
        _, expires_at, outcome = entry
        if isinstance(outcome, AuthenticationFailed):
            raise _renewed(outcome)
        if expires_at is not None and expires_at <= self._clock.now():
            return None
        return outcome

    def _look_up(self, secret: str) -> Principal:
        generation = self._generation
        hashed = _hash(secret)
        with self.db.reading() as session:
            if secret.startswith(SESSION_PREFIX):
                outcome, expires_at = self._session_outcome(session, hashed)
            else:
                row = session.scalar(select(KeyRow).where(KeyRow.secret_hash == hashed.hex()))
                outcome = self._outcome(session, row)
                expires_at = row.expires_at if row is not None else None
        if generation == self._generation:
            if len(self._cache) >= _MAX_CACHED:
                self._forget()
            lifetime = _CACHE_S if isinstance(outcome, Principal) else _NEGATIVE_CACHE_S
            self._cache[hashed] = (self._clock.monotonic() + lifetime, expires_at, outcome)
        if isinstance(outcome, AuthenticationFailed):
            raise _renewed(outcome)
        return outcome

    def _outcome(self, session: Session, row: KeyRow | None) -> Principal | AuthenticationFailed:
        if row is None:
            return AuthenticationFailed(
                "The API key is not known here.",
                hint="Check that it was copied whole and belongs to this server, or create a new one.",
            )
        if row.revoked_at is not None:
            return AuthenticationFailed(
                f"The API key {row.prefix}… was revoked on {row.revoked_at:%Y-%m-%d}.",
                hint="Use another key, or have an administrator create one.",
                code="revoked_api_key",
            )
        if row.expires_at is not None and row.expires_at <= self._clock.now():
            return AuthenticationFailed(
                f"The API key {row.prefix}… expired on {row.expires_at:%Y-%m-%d}.",
                hint="Use another key, or have an administrator create one.",
                code="expired_api_key",
            )
        scopes = frozenset(row.scopes)
        if row.user_id is not None:
            rights = rights_of(session, row.user_id, row.project_id)
            if rights is None:
                return AuthenticationFailed(
                    f"The account of the API key {row.prefix}… is disabled.",
                    hint="Ask an administrator of the platform.",
                    code="disabled_account",
                )
            scopes = common_scopes(scopes, rights)
        return Principal(
            key_id=row.id,
            project_id=row.project_id,
            scopes=scopes,
            model_allow=None if row.model_allow is None else tuple(row.model_allow),
            ip_allow=None if row.ip_allow is None else networks_of(row.ip_allow),
            user_id=row.user_id,
            key_prefix=row.prefix,
            name=row.name,
            is_platform=_is_platform(session, row.project_id),
        )

    def _session_outcome(self, session: Session, hashed: bytes) -> tuple[Principal | AuthenticationFailed, datetime | None]:
        row = session.scalar(select(SessionRow).where(SessionRow.secret_hash == hashed.hex()))
        rights = None if row is None else rights_of(session, row.user_id, row.project_id)
        if row is None or rights is None or row.revoked_at is not None or row.expires_at <= self._clock.now():
            failed = AuthenticationFailed(
                "The session has ended.", hint="Sign in again: POST /api/session.", code="session_ended"
            )
            return failed, None
        return self._signed_in(session, row), row.expires_at

    def _signed_in(self, session: Session, row: SessionRow) -> Principal | AuthenticationFailed:
        rights = rights_of(session, row.user_id, row.project_id)
        if rights is None:
            return AuthenticationFailed(
                "The account that asked for this is disabled.",
                hint="Ask an administrator of the platform.",
                code="disabled_account",
            )
        return Principal(
            key_id=row.id,
            project_id=row.project_id,
            user_id=row.user_id,
            scopes=rights,
            key_prefix="session ",
            name=session.get_one(UserRow, row.user_id).name,
            is_platform=_is_platform(session, row.project_id),
        )

    def _forget(self) -> None:
        self._generation += 1
        self._cache = {}

    # Usage

    def usage_summary(
        self,
        session: Session,
        project_id: str,
        since: datetime | None = None,
        until: datetime | None = None,
        group_by: GroupBy = "model",
    ) -> UsageSummary:
        """Sums over a project's requests from `since` (included) to `until` (excluded), grouped."""
        group = _group_column(session, group_by)
        sums = [
            func.count(),
            func.sum(cast(UsageRow.status >= 400, UsageRow.status.type)),
            func.sum(cast(UsageRow.aborted, UsageRow.status.type)),
            func.sum(UsageRow.prompt_tokens),
            func.sum(UsageRow.completion_tokens),
            func.sum(UsageRow.cached_tokens),
            func.sum(UsageRow.reasoning_tokens),
            func.sum(UsageRow.cost),
        ]
        query = select(group, *sums).where(*_within(project_id, since, until)).group_by(group).order_by(group)
        groups = [_usage_group(str(key), values) for key, *values in session.execute(query)]
        total = _usage_group("total", [sum(column) for column in zip(*(_numbers(item) for item in groups), strict=True)])
        return UsageSummary(since=since, until=until, group_by=group_by, data=groups, total=total)

    def list_usage(
        self, session: Session, project_id: str, after: str | None = None, limit: int = 20
    ) -> tuple[list[UsageRequest], bool]:
        """Recorded requests of a project, newest first, and whether there are more."""
        query = select(UsageRow).where(UsageRow.project_id == project_id).order_by(UsageRow.id.desc()).limit(limit + 1)
        if after is not None:
            query = query.where(UsageRow.id < after)
        rows = list(session.scalars(query))
        return [UsageRequest.model_validate(row) for row in rows[:limit]], len(rows) > limit


_SUMS = (
    "num_requests",
    "num_errors",
    "num_aborted",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost",
)


def _usage_group(key: str, values: Sequence[Any]) -> UsageGroup:
    numbers = [int(value or 0) for value in values] or [0] * len(_SUMS)
    return UsageGroup(key=key, **dict(zip(_SUMS, numbers, strict=True)))


def _numbers(group: UsageGroup) -> list[int]:
    return [getattr(group, name) for name in _SUMS]


def _within(project_id: str, since: datetime | None, until: datetime | None) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [UsageRow.project_id == project_id]
    if since is not None:
        conditions.append(UsageRow.created_at >= since)
    if until is not None:
        conditions.append(UsageRow.created_at < until)
    return conditions


def _group_column(session: Session, group_by: GroupBy) -> ColumnElement[Any]:
    if group_by == "model":
        return UsageRow.model.expression
    if group_by == "key":
        return UsageRow.key_id.expression
    if session.get_bind().dialect.name == "sqlite":
        return func.substr(cast(UsageRow.created_at, String), 1, 10)
    return func.to_char(func.timezone("UTC", UsageRow.created_at), "YYYY-MM-DD")


def _is_platform(session: Session, project_id: str) -> bool:
    project = session.get(ProjectRow, project_id)
    return project is not None and project.name == PLATFORM_PROJECT


def _renewed(error: AuthenticationFailed) -> AuthenticationFailed:
    """The same error anew: raising one object again and again would grow its traceback."""
    return AuthenticationFailed(error.message, hint=error.hint, code=error.error_code)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _base62(data: bytes) -> str:
    number = int.from_bytes(data)
    digits = []
    while number:
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits)).rjust(43, "0")
