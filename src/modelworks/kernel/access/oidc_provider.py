"""An OpenID provider as this platform sees it: what it says of itself, its keys, and the tokens that it signs for us.

Authorization code with PKCE: OpenID Connect Core 1.0 and Discovery 1.0, RFC 6749, RFC 7636, RFC 9207, RFC 9700.
Signatures are joserfc's; every request goes through `base/egress.py`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_plus, urlencode, urlsplit

from modelworks.contract.errors import AuthenticationFailed, ModelworksError, UpstreamFailed
from modelworks.kernel.base import egress
from modelworks.kernel.base.clock import Clock

if TYPE_CHECKING:
    # Imported where a token is looked at: most servers never see one, and would keep the library in memory.
    from joserfc import jwk, jws

#: What an ID token may be signed with, and its kind of key. Nothing symmetric: the secret would be a key that all can read.
ALGORITHMS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    **dict.fromkeys(("EdDSA", "Ed25519"), "OKP"),
}
#: How far the provider's clock may be off.
LEEWAY_S: Final = 60
_REMEMBERED_S: Final = 3600.0
#: A token that names an unknown key has the keys fetched anew, but not more often than this.
_REFETCH_S: Final = 10.0
_FAILED_S: Final = 5.0
_MAX_BYTES: Final = 1 << 20
_MAX_TOKEN_CHARS: Final = 64 << 10
_MAX_KEYS: Final = 100
MAX_SUBJECT_CHARS: Final = 255
#: Base64 of a modulus of 2,048 bits.
_MIN_MODULUS_CHARS: Final = 341
#: Tokens of other kinds, which must not pass for one that says who somebody is (RFC 8725, 3.11).
_OTHER_TYPES: Final = frozenset({"at+jwt", "logout+jwt", "secevent+jwt", "token-introspection+jwt", "oauth-authz-req+jwt"})

Ask = Callable[..., egress.Answer]


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a provider publishes about itself."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None
    end_session_endpoint: str | None
    #: Whether its answers name the issuer (RFC 9207).
    names_itself: bool
    #: Ways to prove who this platform is.
    auth_methods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a code was exchanged for."""

    id_token: str
    access_token: str | None


class OidcProvider:
    """One provider; keeps its metadata and keys for an hour.

    Args:
        issuer: its name for itself; everything else is found from there.
        client_id: its name for this platform.
        client_secret: None where PKCE alone proves who asks.
        allow: private addresses that may be reached; see `egress.check_url`.
        ask: sends requests.
    """

    def __init__(
        self,
        issuer: str,
        client_id: str,
        client_secret: str | None,
        clock: Clock,
        *,
        allow: Sequence[str] = (),
        ask: Ask = egress.ask,
    ) -> None:
        self.issuer = issuer
        self.client_id = client_id
        self._secret = client_secret
        self._clock = clock
        self._allow = tuple(allow)
        self._ask = ask
        self._lock = threading.Lock()
        self._metadata: tuple[float, Metadata] | None = None
        self._keys: tuple[float, list[jwk.Key]] | None = None
        self._failure: tuple[float, ModelworksError] | None = None

    def metadata(self) -> Metadata:
        """What the provider says of itself; raises UpstreamFailed and what `egress.ask` raises."""
        with self._lock:
            now = self._clock.monotonic()
            if self._metadata is not None and now - self._metadata[0] < _REMEMBERED_S:
                return self._metadata[1]
            if self._failure is not None and now - self._failure[0] < _FAILED_S:
                failed = self._failure[1]
                raise type(failed)(failed.message, hint=failed.hint, code=failed.error_code, retry_after_s=_FAILED_S)
            try:
                found = self._discover()
            except ModelworksError as error:
                self._failure = (now, error)
                raise
            self._metadata = (now, found)
            return found

    def authorization_url(self, *, redirect_uri: str, scopes: Sequence[str], state: str, nonce: str, verifier: str) -> str:
        """Where a browser is sent to sign in."""
        challenge = _base64url(hashlib.sha256(verifier.encode()).digest())
        query = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return with_query(self.metadata().authorization_endpoint, query)

    def exchange(self, code: str, verifier: str, redirect_uri: str) -> Tokens:
        """The tokens that a code stands for.

        Raises:
            AuthenticationFailed: the provider refuses the code: it was used before, or is for somebody else.
            UpstreamFailed: the provider fails.
        """
        metadata = self.metadata()
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri, "code_verifier": verifier}
        headers: dict[str, str] = {}
        if self._secret is None:
            form["client_id"] = self.client_id
        elif "client_secret_basic" in metadata.auth_methods or "client_secret_post" not in metadata.auth_methods:
            pair = f"{quote_plus(self.client_id)}:{quote_plus(self._secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": self.client_id, "client_secret": self._secret}
        answer = self._ask(metadata.token_endpoint, form=form, headers=headers, max_bytes=_MAX_BYTES, allow=self._allow)
        said = _object(answer.content)
        if answer.status in (400, 401, 403):
            raise untrusted(f"it refuses the code ({_word(said.get('error'))})")
        id_token, access_token = said.get("id_token"), said.get("access_token")
        if answer.status != 200 or not isinstance(id_token, str):
            raise UpstreamFailed(f"The provider {self.issuer} gave no ID token (HTTP {answer.status}).", hint="Try again.")
        return Tokens(id_token, access_token if isinstance(access_token, str) else None)

    def verify(self, tokens: Tokens, nonce: str) -> dict[str, Any]:
        """The claims of an ID token that the provider signed, now, for this platform and this sign-in (Core 1.0, 3.1.3.7).

        Raises:
            AuthenticationFailed: it is not that; the message says what is wrong.
        """
        from joserfc import jws, jwt
        from joserfc.errors import ClaimError, JoseError

        if len(tokens.id_token) > _MAX_TOKEN_CHARS:
            raise untrusted("the token is too long")
        try:
            header = jws.extract_compact(tokens.id_token.encode(), registry=_registry(list(ALGORITHMS))).headers()
        except (JoseError, ValueError, TypeError) as error:
            raise untrusted(f"the token cannot be read ({error})") from error
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise untrusted(f"the token is signed with {_word(algorithm)}, which is not accepted")
        if str(header.get("typ", "JWT")).lower().removeprefix("application/") in _OTHER_TYPES:
            raise untrusted("the token is one of another kind")
        key = self._key(algorithm, kid if isinstance(kid, str) else None)
        try:
            claims = jwt.decode(tokens.id_token, key, [algorithm], _registry([algorithm])).claims
            jwt.JWTClaimsRegistry(
                now=int(self._clock.now().timestamp()),
                leeway=LEEWAY_S,
                iss={"essential": True, "value": self.issuer},
                aud={"essential": True, "value": self.client_id},
                sub={"essential": True},
                exp={"essential": True},
                iat={"essential": True},
                nonce={"essential": True},
            ).validate(claims)
        except ClaimError as error:
            raise untrusted(f"the token's claim {error.claim!r} does not fit") from error
        except (JoseError, ValueError, TypeError) as error:
            raise untrusted(f"the token's signature does not fit ({error})") from error
        if not isinstance(claims["nonce"], str) or not hmac.compare_digest(claims["nonce"].encode(), nonce.encode()):
            raise untrusted("the token's claim 'nonce' does not fit")
        if len(claims["sub"]) > MAX_SUBJECT_CHARS:
            raise untrusted("the token's claim 'sub' does not fit")
        authorized = claims.get("azp")
        if authorized != self.client_id and (authorized is not None or claims["aud"] not in (self.client_id, [self.client_id])):
            raise untrusted("the token's claim 'azp' does not fit")
        if tokens.access_token is not None and not _fits(claims.get("at_hash"), tokens.access_token, algorithm):
            raise untrusted("the token's claim 'at_hash' does not fit")
        return claims

    def userinfo(self, access_token: str, subject: str) -> dict[str, Any]:
        """Further claims about who signed in; none where the provider does not say any.

        Raises:
            AuthenticationFailed: they are about somebody else (Core 1.0, 5.3.2).
        """
        endpoint = self.metadata().userinfo_endpoint
        if endpoint is None:
            return {}
        headers = {"Authorization": f"Bearer {access_token}"}
        answer = self._ask(endpoint, headers=headers, max_bytes=_MAX_BYTES, allow=self._allow)
        if answer.status != 200 or answer.media_type != "application/json":
            return {}
        said = _object(answer.content)
        if said.get("sub") != subject:
            raise untrusted("its further claims are about somebody else")
        return said

    def _discover(self) -> Metadata:
        said = self._json(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
        if said.get("issuer") != self.issuer:
            raise UpstreamFailed(
                f"The provider calls itself {str(said.get('issuer'))[:200]!r}, not {self.issuer!r}.",
                hint="Write MODELWORKS_OIDC_ISSUER exactly as the provider does.",
            )
        schemes = ("https",) if self.issuer.startswith("https://") else ("https", "http")

        def optional(name: str) -> str | None:
            url = said.get(name)
            parts = urlsplit(url) if isinstance(url, str) else None
            usable = parts is not None and parts.hostname and not parts.fragment
            if url is not None and not (usable and parts is not None and parts.scheme in schemes):
                raise UpstreamFailed(f"The provider {self.issuer} publishes no usable {name}.", hint="Check its settings.")
            return url

        def needed(name: str) -> str:
            url = optional(name)
            if url is None:
                raise UpstreamFailed(f"The provider {self.issuer} publishes no {name}.", hint="Check its settings.")
            return url

        methods = said.get("token_endpoint_auth_methods_supported")
        return Metadata(
            authorization_endpoint=needed("authorization_endpoint"),
            token_endpoint=needed("token_endpoint"),
            jwks_uri=needed("jwks_uri"),
            userinfo_endpoint=optional("userinfo_endpoint"),
            end_session_endpoint=optional("end_session_endpoint"),
            names_itself=said.get("authorization_response_iss_parameter_supported") is True,
            auth_methods=tuple(str(each) for each in methods) if isinstance(methods, list) else ("client_secret_basic",),
        )

    def _key(self, algorithm: str, kid: str | None) -> jwk.Key:
        """The provider's key for a token; fetched anew where it is not known, as keys are changed from time to time."""
        uri = self.metadata().jwks_uri
        with self._lock:
            now = self._clock.monotonic()
            for stale_s in (_REMEMBERED_S, _REFETCH_S):
                if self._keys is None or now - self._keys[0] >= stale_s:
                    self._keys = (now, _usable(self._json(uri).get("keys")))
                fitting = [key for key in self._keys[1] if _is_for(key, algorithm, kid)]
                # Without a name there must be no choice.
                if fitting and (kid is not None or len(fitting) == 1):
                    return fitting[0]
        raise untrusted("the token is signed with a key that the provider does not publish")

    def _json(self, url: str) -> dict[str, Any]:
        answer = self._ask(url, max_bytes=_MAX_BYTES, allow=self._allow)
        said = _object(answer.content)
        if answer.status != 200 or not said:
            raise UpstreamFailed(
                f"{url} answered HTTP {answer.status} without a JSON object.", hint="Check MODELWORKS_OIDC_ISSUER."
            )
        return said


def untrusted(reason: str) -> AuthenticationFailed:
    """The refusal of what came from the provider, or from somebody who pretends to."""
    return AuthenticationFailed(
        f"The sign-in through the provider is not accepted: {reason}.", hint="Sign in again.", code="sign_in_failed"
    )


def with_query(url: str, query: Mapping[str, str]) -> str:
    """A URL with further parameters."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"


def _registry(algorithms: list[str]) -> jws.JWSRegistry:
    from joserfc import jws

    registry = jws.JWSRegistry(algorithms=algorithms, strict_check_header=False)
    registry.max_header_length = 16 << 10  # some providers send their certificates along; they are not looked at
    return registry


def _usable(keys: Any) -> list[jwk.Key]:
    from joserfc import jwk
    from joserfc.errors import JoseError

    found: list[jwk.Key] = []
    for data in keys[:_MAX_KEYS] if isinstance(keys, list) else []:
        if not isinstance(data, dict) or data.get("kty") not in ALGORITHMS.values() or data.get("use", "sig") != "sig":
            continue
        if data["kty"] == "RSA" and len(str(data.get("n", ""))) < _MIN_MODULUS_CHARS:
            continue
        try:
            found.append(jwk.import_key({name: data[name] for name in _PUBLIC if name in data}))
        except (JoseError, ValueError, TypeError, KeyError):
            continue  # one key that cannot be read does not take the others with it
    return found


#: Of a key: what verifies, never what signs, should a provider publish that by mistake.
_PUBLIC: Final = ("kty", "use", "alg", "kid", "n", "e", "crv", "x", "y")


def _is_for(key: jwk.Key, algorithm: str, kid: str | None) -> bool:
    return key.key_type == ALGORITHMS[algorithm] and key.alg in (None, algorithm) and kid in (None, key.kid)


def _fits(claimed: Any, access_token: str, algorithm: str) -> bool:
    """Whether a hash belongs to an access token (Core 1.0, 3.1.3.6); true where there is none, as it may be left out."""
    if claimed is None or algorithm[-3:] not in ("256", "384", "512"):
        return True
    digest = hashlib.new(f"sha{algorithm[-3:]}", access_token.encode()).digest()
    return isinstance(claimed, str) and hmac.compare_digest(claimed.encode(), _base64url(digest[: len(digest) // 2]).encode())


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _word(text: Any) -> str:
    return text if isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9_.+-]{1,40}", text) else "no reason given"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
