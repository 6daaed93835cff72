"""People who sign in: passwords, sessions of browsers, and what keeps both from being guessed, stolen or abused.

Passwords are hashed with Argon2id (RFC 9106; OWASP's parameters). A session is a random secret in a cookie that scripts cannot
read; what changes something must also carry a token that only pages of this server know (RFC 6265bis and OWASP on CSRF).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import timedelta
from http.cookies import CookieError, SimpleCookie
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete, select
from sqlalchemy.orm import Session
from starlette.types import Scope

from modelworks.contract.errors import AuthenticationFailed, InvalidRequest, NotFound, PermissionDenied, RateLimited
from modelworks.kernel.access.roles import ROLE_SCOPES, role_in
from modelworks.kernel.access.schemas import Principal, SessionInfo
from modelworks.kernel.access.service import SESSION_PREFIX, AccessService
from modelworks.kernel.access.store import ProjectRow, SessionRow, SignInFailureRow, UserRow
from modelworks.kernel.base.changes import AUTHOR, Author
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.ids import new_id

COOKIE: Final = "modelworks_session"
CSRF_HEADER: Final = "x-csrf-token"
LIFETIME: Final = timedelta(hours=12)
MIN_PASSWORD: Final = 12
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
#: Failures that cost nothing; each further one doubles the wait, up to the longest.
_FREE_BY_NAME, _FREE_BY_ADDRESS = 5, 50
_LONGEST_WAIT_S = 900
_FORGOTTEN_AFTER = timedelta(days=1)


def cookie_secret(scope: Scope) -> str | None:
    """The session's secret that a request carries in its cookie; None without one.

    Raises:
        PermissionDenied: the request changes something and lacks the session's token (`csrf_failed`): a foreign page may have
            had the browser send it.
    """
    headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name in (b"cookie", CSRF_HEADER.encode())}
    if b"cookie" not in headers:
        return None
    try:
        morsel = SimpleCookie(headers[b"cookie"]).get(COOKIE)
    except CookieError:
        return None
    if morsel is None or not morsel.value.startswith(SESSION_PREFIX):
        return None
    secret = morsel.value
    if scope["method"] not in _SAFE:
        given = headers.get(CSRF_HEADER.encode(), "")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), csrf_token(secret).encode()):
            raise PermissionDenied(
                f"The request lacks the session's token in {CSRF_HEADER}.",
                hint="Pages of this server get it from GET /api/session. Programs use an API key instead of a session.",
                code="csrf_failed",
            )
    return secret


def csrf_token(secret: str) -> str:
    """The token that belongs to a session's secret, and does not reveal it."""
    return hashlib.sha256(b"csrf:" + secret.encode()).hexdigest()


class SessionService:
    """Signs people in and out.

    Args:
        hasher: OWASP's smallest parameters for Argon2id by default: 19 MiB, two passes.
    """

    def __init__(self, access: AccessService, clock: Clock, events: Events, hasher: PasswordHasher | None = None) -> None:
        self.access = access
        self.db = access.db
        self._clock = clock
        self._events = events
        self._hasher = hasher or PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        #: Verified where there is no such account, so that the time does not tell.
        self._decoy = self._hasher.hash(secrets.token_urlsafe(16))

    # Passwords

    def set_password(
        self, session: Session, caller: Principal, user_id: str, password: str, current: str | None = None
    ) -> None:
        """Give an account a password and end its sessions.

        Raises:
            NotFound: no such person. InvalidRequest: the password is too short, or is the address.
            AuthenticationFailed: `current` is wrong; a person gives it, an administrator of the platform need not.
            PermissionDenied: somebody else's, or one's own where a provider signs in and there was none before.
        """
        row = session.get(UserRow, user_id, with_for_update=True)
        own = caller.user_id == user_id
        if not own:
            self.access.require_platform_admin(session, caller)
        if row is None or row.kind != "person":
            raise NotFound(f"There is no person {user_id!r}.", hint="Service accounts have keys, not passwords.")
        if own and row.password_hash is None and row.issuer is not None:
            # It would outlive what the provider takes away.
            raise PermissionDenied(
                "Your account signs in through the provider.", hint="An administrator of the platform may set a password."
            )
        if own and row.password_hash is not None and not self._fits(row.password_hash, current or ""):
            raise AuthenticationFailed("The current password is wrong.", hint="Give it as `current`.", code="wrong_password")
        if len(password) < MIN_PASSWORD or password.lower() == row.email:
            raise InvalidRequest(
                f"A password has at least {MIN_PASSWORD} characters and is not the address.",
                hint="Several words make a good one.",
                param="password",
            )
        row.password_hash = self._hasher.hash(password)
        self._end_all(session, user_id)

    # Signing in and out

    def sign_in(self, email: str, password: str, address: str, project_id: str | None = None) -> tuple[str, SessionInfo]:
        """A new session's secret, and what it is.

        Raises:
            AuthenticationFailed: address or password is wrong, or the account is disabled; which of them is not said.
            RateLimited: too many failures with this name or from this address.
        """
        email = email.strip().lower()
        marks = [(_mark("name", email), _FREE_BY_NAME), (_mark("address", address), _FREE_BY_ADDRESS)]
        with self.db.reading() as session:
            self._check_throttle(session, marks)
            row = session.scalar(select(UserRow).where(UserRow.email == email))
            known = row is not None and row.password_hash is not None and row.disabled_at is None
            hashed = row.password_hash if row is not None and known else None
        if not self._fits(hashed or self._decoy, password) or row is None or not known:
            with self.db.transaction() as session:
                self._note_failure(session, [mark for mark, _ in marks])
            raise AuthenticationFailed(
                "The address or the password is wrong.", hint="Check both, or ask an administrator.", code="sign_in_failed"
            )
        AUTHOR.set(Author("user", row.id))
        with self.db.transaction() as session:
            session.execute(delete(SignInFailureRow).where(SignInFailureRow.id == marks[0][0]))
            return self.open(session, row.id, project_id)

    def open(self, session: Session, user_id: str, project_id: str | None = None) -> tuple[str, SessionInfo]:
        """A session of somebody whose identity is proven, in a project where they have a role.

        Raises:
            PermissionDenied: they have no role there, or in no project at all.
        """
        chosen = self._project(session, user_id, project_id)
        secret = SESSION_PREFIX + secrets.token_urlsafe(32)
        now = self._clock.now()
        row = SessionRow(
            id=new_id("ses"),
            user_id=user_id,
            project_id=chosen,
            secret_hash=_hash(secret),
            created_at=now,
            seen_at=now,
            expires_at=now + LIFETIME,
        )
        session.add(row)
        session.flush()
        return secret, self._info(session, row, secret)

    def describe(self, session: Session, secret: str) -> SessionInfo:
        """The session behind a secret, with its token; raises NotFound."""
        return self._info(session, self._row(session, secret), secret)

    def move(self, session: Session, secret: str, project_id: str) -> tuple[str, SessionInfo]:
        """Go on in another project, with a new secret: the old one ends. Raises PermissionDenied."""
        row = self._row(session, secret)
        moved = self.open(session, row.user_id, project_id)
        row.revoked_at = self._clock.now()
        self.announce(session)
        return moved

    def sign_out(self, session: Session, secret: str) -> None:
        """End a session; doing it twice changes nothing."""
        row = session.scalar(select(SessionRow).where(SessionRow.secret_hash == _hash(secret)))
        if row is not None and row.revoked_at is None:
            row.revoked_at = self._clock.now()
            self.announce(session)

    def sign_out_everywhere(self, session: Session, user_id: str) -> None:
        """End every session of an account."""
        self._end_all(session, user_id)

    def _end_all(self, session: Session, user_id: str) -> None:
        for row in session.scalars(select(SessionRow).where(SessionRow.user_id == user_id, SessionRow.revoked_at.is_(None))):
            row.revoked_at = self._clock.now()
        session.flush()
        self.announce(session)

    def _project(self, session: Session, user_id: str, project_id: str | None) -> str:
        if project_id is not None:
            if session.get(ProjectRow, project_id) is None or role_in(session, user_id, project_id) is None:
                raise PermissionDenied(f"You have no role in the project {project_id!r}.", hint="Ask one of its admins.")
            return project_id
        for candidate in session.scalars(select(ProjectRow.id).order_by(ProjectRow.id)):
            if role_in(session, user_id, candidate) is not None:
                return candidate
        raise PermissionDenied("You have no role in any project.", hint="Ask an administrator to make you a member.")

    def _row(self, session: Session, secret: str) -> SessionRow:
        row = session.scalar(select(SessionRow).where(SessionRow.secret_hash == _hash(secret)))
        if row is None or row.revoked_at is not None or row.expires_at <= self._clock.now():
            raise NotFound("There is no such session.", hint="Sign in: POST /api/session.")
        return row

    def _info(self, session: Session, row: SessionRow, secret: str) -> SessionInfo:
        user = session.get_one(UserRow, row.user_id)
        role = role_in(session, user.id, row.project_id)
        return SessionInfo(
            id=row.id,
            user_id=user.id,
            name=user.name,
            email=user.email,
            project_id=row.project_id,
            role=role,
            scopes=sorted(ROLE_SCOPES[role]) if role is not None else [],
            csrf_token=csrf_token(secret),
            created_at=row.created_at,
            expires_at=row.expires_at,
        )

    def _fits(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except (VerificationError, InvalidHashError):
            return False

    # Throttling

    def check_address(self, address: str) -> None:
        """Raise RateLimited where too many attempts from an address failed."""
        with self.db.reading() as session:
            self._check_throttle(session, [(_mark("address", address), _FREE_BY_ADDRESS)])

    def note_failed_address(self, address: str) -> None:
        """Count a failed attempt from an address."""
        with self.db.transaction() as session:
            self._note_failure(session, [_mark("address", address)])

    def _check_throttle(self, session: Session, marks: list[tuple[str, int]]) -> None:
        for mark, free in marks:
            row = session.get(SignInFailureRow, mark)
            if row is None or row.num_failures < free:
                continue
            wait_s = min(2 ** min(row.num_failures - free, 16), _LONGEST_WAIT_S)
            left = (row.last_at + timedelta(seconds=wait_s) - self._clock.now()).total_seconds()
            if left > 0:
                raise RateLimited(
                    "Too many attempts to sign in.",
                    hint=f"Wait {int(left) + 1} seconds.",
                    code="sign_in_throttled",
                    retry_after_s=int(left) + 1,
                )

    def _note_failure(self, session: Session, marks: list[str]) -> None:
        now = self._clock.now()
        for mark in sorted(marks):  # in one order, so that two attempts do not wait for each other
            row = session.get(SignInFailureRow, mark, with_for_update=True)
            if row is None:
                row = SignInFailureRow(id=mark, num_failures=0, last_at=now)
                session.add(row)
            row.num_failures = 1 if now - row.last_at > _FORGOTTEN_AFTER else row.num_failures + 1
            row.last_at = now
            session.flush()

    def announce(self, session: Session) -> None:
        """Have every check look again at what accounts may do, once this is committed."""
        self._events.publish_after_commit(session, "key.changed")


def _mark(kind: str, text: str) -> str:
    return hashlib.sha256(f"{kind}:{text}".encode()).hexdigest()


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
