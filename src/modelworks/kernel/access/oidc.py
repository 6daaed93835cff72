"""Signing in through an OpenID provider: from the first redirect to a session, with accounts and roles from the claims.

What belongs to one sign-in (state, nonce, the PKCE verifier, where to go on) lies sealed in a cookie of the browser that began
it: any server of the platform can finish it, and an answer that was meant for another browser fits none.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from modelworks.contract.errors import (
    AuthenticationFailed,
    Conflict,
    IntegrityFailed,
    InvalidRequest,
    NotFound,
    PermissionDenied,
)
from modelworks.kernel.access.oidc_provider import OidcProvider, untrusted, with_query
from modelworks.kernel.access.roles import ROLES, strongest
from modelworks.kernel.access.schemas import Role, SessionInfo
from modelworks.kernel.access.secrets import Sealer
from modelworks.kernel.access.sessions import SessionService
from modelworks.kernel.access.store import MembershipRow, OrganisationRow, ProjectRow, UserRow
from modelworks.kernel.base.changes import AUTHOR, Author
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.base.settings import Settings

log = structlog.get_logger(__name__)

#: The group in `oidc_roles` that everybody is in.
EVERYBODY: Final = "*"
#: How long a sign-in may take.
PATIENCE: Final = timedelta(minutes=10)
START_PATH: Final = "/api/session/oidc"
CALLBACK_PATH: Final = f"{START_PATH}/callback"
_CONTEXT = "oidc-sign-in"
#: A path on this server. Browsers take a backslash for a slash and leave out tabs and line ends, so neither may be in it.
_PAGE = re.compile(r"/(?![/\\])[^\\\x00-\x20\x7f]{0,2000}")
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,189}")
_MAX_GROUPS = 10_000


@dataclass(frozen=True, slots=True)
class Begun:
    """A sign-in that was begun: where the browser goes, and the sealed cookie that it keeps."""

    url: str
    cookie: str


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A finished sign-in: the new session's secret, what it is, and the page to go on with."""

    secret: str
    session: SessionInfo
    next_page: str


class OidcSignIn:
    """Signs people in whom one provider vouches for.

    Args:
        base_url: how browsers reach this server; redirects lead there and never to what a request's Host says.
        roles: groups, and what each gives: `ROLE@PLACE`. In the places that stand there the provider alone decides: at every
            sign-in roles are given and taken away. Others are left alone.
        groups_claim: the claim with the groups; dots lead inwards.
        link_email: whether an account that is here already is taken over by the same address, if the provider verified it.

    Raises:
        InvalidRequest: a role does not exist (`invalid_settings`).
    """

    def __init__(
        self,
        sessions: SessionService,
        provider: OidcProvider,
        sealer: Sealer,
        clock: Clock,
        *,
        base_url: str,
        scopes: Sequence[str] = ("openid", "email", "profile"),
        roles: Mapping[str, Sequence[str]] | None = None,
        groups_claim: str = "groups",
        link_email: bool = False,
    ) -> None:
        self.sessions = sessions
        self.provider = provider
        self._sealer = sealer
        self._clock = clock
        self._base_url = base_url.rstrip("/")
        self._scopes = tuple(scopes)
        self._grants = {group: [_grant(text) for text in texts] for group, texts in (roles or {}).items()}
        self._groups_claim = groups_claim
        self._link_email = link_email

    @classmethod
    def from_settings(cls, settings: Settings, sessions: SessionService, sealer: Sealer, clock: Clock) -> OidcSignIn | None:
        """By the settings `oidc_…`; None where no provider is set."""
        if settings.oidc_issuer is None or settings.oidc_client_id is None:
            return None
        secret = None if settings.oidc_client_secret is None else settings.oidc_client_secret.get_secret_value()
        provider = OidcProvider(settings.oidc_issuer, settings.oidc_client_id, secret, clock, allow=settings.egress_allow)
        return cls(
            sessions,
            provider,
            sealer,
            clock,
            base_url=settings.public_url or settings.local_url,
            scopes=settings.oidc_scopes,
            roles=settings.oidc_roles,
            groups_claim=settings.oidc_groups_claim,
            link_email=settings.oidc_link_email,
        )

    @property
    def cookie_path(self) -> str:
        """Where the browser sends the cookie of a sign-in, as it sees this server."""
        return urlsplit(self._base_url).path + START_PATH

    @property
    def home_page(self) -> str:
        """The start page, as the browser sees this server."""
        return urlsplit(self._base_url).path + "/"

    def begin(self, next_page: str | None, project_id: str | None) -> Begun:
        """Send a browser to the provider.

        Args:
            next_page: the page to go on with: a path on this server.
            project_id: the project to sign in to; by default the first with a role.

        Raises:
            InvalidRequest: `next_page` leads elsewhere. UpstreamFailed: the provider does not answer.
        """
        page = next_page or self.home_page
        if not _PAGE.fullmatch(page):
            raise InvalidRequest("The next page must be a path on this server.", hint="Example: /console.", param="next")
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        kept = {
            "state": state,
            "nonce": nonce,
            "verifier": verifier,
            "page": page,
            "project": project_id,
            "ends": (self._clock.now() + PATIENCE).timestamp(),
        }
        url = self.provider.authorization_url(
            redirect_uri=self._redirect_uri, scopes=self._scopes, state=state, nonce=nonce, verifier=verifier
        )
        return Begun(url, self._sealer.seal(json.dumps(kept), _CONTEXT))

    def finish(self, cookie: str | None, answer: Mapping[str, str], address: str) -> SignedIn:
        """Open a session for whom the provider vouches for.

        Args:
            cookie: what `begin` sealed.
            answer: the parameters that the provider sent the browser back with.
            address: the caller's; attempts from it are counted.

        Raises:
            AuthenticationFailed: `sign_in_expired` where this browser did not begin it or took too long; `sign_in_failed`
                where the answer is not the provider's to this sign-in; `disabled_account`.
            PermissionDenied: they have no role here. Conflict: the address belongs to another account.
            RateLimited: too many failures from this address. UpstreamFailed: the provider fails.
        """
        self.sessions.check_address(address)
        try:
            kept = self._opened(cookie, answer.get("state"))
            claims = self._proven(kept, answer)
        except AuthenticationFailed as error:
            log.warning("a sign-in through the provider was refused", reason=error.message)
            self.sessions.note_failed_address(address)
            raise
        with self.sessions.db.transaction() as session:
            user_id = self._account(session, claims)
        AUTHOR.set(Author("user", user_id))
        with self.sessions.db.transaction() as session:
            secret, made = self.sessions.open(session, user_id, kept["project"])
        return SignedIn(secret, made, kept["page"])

    def farewell(self) -> str:
        """Where a browser ends its session with the provider too (RP-Initiated Logout 1.0); raises NotFound where it cannot."""
        endpoint = self.provider.metadata().end_session_endpoint
        if endpoint is None:
            raise NotFound("The provider has no page to sign out.", hint="DELETE /api/session ends the session here.")
        query = {"client_id": self.provider.client_id, "post_logout_redirect_uri": self._base_url + "/"}
        return with_query(endpoint, query)

    @property
    def _redirect_uri(self) -> str:
        return self._base_url + CALLBACK_PATH

    def _opened(self, cookie: str | None, state: str | None) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        if cookie is not None:
            try:
                kept = json.loads(self._sealer.open(cookie, _CONTEXT))
            except IntegrityFailed:
                kept = {}
        if not kept or kept["ends"] < self._clock.now().timestamp():
            raise AuthenticationFailed(
                "The sign-in began in another browser, or too long ago.", hint="Sign in again.", code="sign_in_expired"
            )
        if state is None or not secrets.compare_digest(state.encode(), kept["state"].encode()):
            raise untrusted("it does not belong to the sign-in that this browser began")
        return kept

    def _proven(self, kept: Mapping[str, Any], answer: Mapping[str, str]) -> dict[str, Any]:
        issuer = answer.get("iss")
        if issuer != self.provider.issuer and (issuer is not None or self.provider.metadata().names_itself):
            raise untrusted("it comes from another provider")
        code = answer.get("code")
        if "error" in answer or not code:
            reason = answer.get("error", "")
            shown = reason if re.fullmatch(r"[a-z_]{1,40}", reason) else "no reason given"
            raise untrusted(f"the provider refuses it ({shown})")
        tokens = self.provider.exchange(code, kept["verifier"], self._redirect_uri)
        claims = self.provider.verify(tokens, kept["nonce"])
        # Some providers keep the token small and tell the rest on request.
        is_small = "email" not in claims or _found(claims, self._groups_claim) is None
        if tokens.access_token is not None and is_small:
            claims = self.provider.userinfo(tokens.access_token, claims["sub"]) | claims
        return claims

    # Accounts and roles

    def _account(self, session: Session, claims: Mapping[str, Any]) -> str:
        """The account of whoever the claims are about, made or brought up to date; roles that are over are taken away."""
        wanted = self._wanted(session, claims)
        query = select(UserRow).where(UserRow.issuer == self.provider.issuer, UserRow.subject == claims["sub"])
        row = session.scalar(query.with_for_update())
        email, name = _email(claims), _name(claims)
        if row is None or (email is not None and row.email != email):
            row = self._matched(session, row, email)
        if row is None:
            if not any(wanted.values()):
                raise PermissionDenied(
                    "None of your groups has a role here.", hint="Ask an administrator of the platform.", code="no_role"
                )
            row = UserRow(id=new_id("usr"), kind="person", name=name, email=email, created_at=self._clock.now())
            session.add(row)
        if row.disabled_at is not None:
            raise AuthenticationFailed(
                "The account is disabled.", hint="Ask an administrator of the platform.", code="disabled_account"
            )
        row.issuer, row.subject, row.name = self.provider.issuer, claims["sub"], name
        row.email = email or row.email
        try:
            session.flush()
        except IntegrityError as error:
            raise Conflict("The account was made this very moment.", hint="Sign in again.", code="account_exists") from error
        for place, role in wanted.items():
            self._settle(session, row.id, place, role)
        session.flush()
        self.sessions.announce(session)
        return row.id

    def _matched(self, session: Session, row: UserRow | None, email: str | None) -> UserRow | None:
        """The account that a verified address belongs to, or the one that already is theirs, whose address changed."""
        other = None if email is None else session.scalar(select(UserRow).where(UserRow.email == email).with_for_update())
        if other is None:
            return row
        if row is None and other.issuer is None and self._link_email:
            return other
        raise Conflict(
            f"The address {email} belongs to another account here.",
            hint="An administrator can let the provider take it over: MODELWORKS_OIDC_LINK_EMAIL.",
            code="account_exists",
        )

    def _wanted(self, session: Session, claims: Mapping[str, Any]) -> dict[str, Role | None]:
        """The role in every place that the setting names; None: none there."""
        said = _found(claims, self._groups_claim)
        listed = said if isinstance(said, list) else [said]
        groups = {EVERYBODY, *(each for each in listed[:_MAX_GROUPS] if isinstance(each, str))}
        wanted: dict[str, Role | None] = {}
        for group, grants in self._grants.items():
            for role, named in grants:
                place = _place(session, named)
                if place is None:
                    log.warning("oidc_roles names a place that does not exist", place=named, group=group)
                    continue
                held = wanted.get(place)
                wanted[place] = strongest([each for each in (held, role) if each]) if group in groups else held
        return wanted

    def _settle(self, session: Session, user_id: str, place_id: str, role: Role | None) -> None:
        row = session.get(MembershipRow, (user_id, place_id), with_for_update=True)
        if role is None:
            if row is not None:
                session.delete(row)
        elif row is None:
            session.add(MembershipRow(user_id=user_id, place_id=place_id, role=role, created_at=self._clock.now()))
        else:
            row.role = role


def _grant(text: str) -> tuple[Role, str]:
    role, _, place = text.partition("@")
    if role not in ROLES or not place:
        raise InvalidRequest(
            f"MODELWORKS_OIDC_ROLES: {text!r} is not a role at a place.",
            hint=f"Example: developer@default. Roles: {', '.join(ROLES)}.",
            code="invalid_settings",
        )
    return role, place


def _place(session: Session, named: str) -> str | None:
    if session.get(ProjectRow, named) is not None or session.get(OrganisationRow, named) is not None:
        return named
    return session.scalar(select(ProjectRow.id).where(ProjectRow.name == named))


def _found(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, or by a path into claims; names with dots in them, as URLs have, come first."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _email(claims: Mapping[str, Any]) -> str | None:
    """The address, if the provider says that it is theirs: one that anybody can enter must not name an account."""
    email = claims.get("email")
    if claims.get("email_verified") is not True or not isinstance(email, str) or not _EMAIL.fullmatch(email):
        return None
    return email.lower()


def _name(claims: Mapping[str, Any]) -> str:
    for claim in ("name", "preferred_username", "email", "sub"):
        text = claims.get(claim)
        shown = " ".join("".join(each if each.isprintable() else " " for each in text).split()) if isinstance(text, str) else ""
        if shown:
            return shown[:128].strip()
    return "unnamed"
