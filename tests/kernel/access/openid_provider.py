"""A small OpenID provider over HTTP: signs with real keys, checks PKCE, takes each code once. Tests have it misbehave."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote_plus, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, Key, RSAKey

from modelworks.kernel.base.clock import FixedClock

CLIENT = "modelworks"
SECRET = "pass:word/%"
RSA_KEY = RSAKey.generate_key(2048, {"kid": "rsa-1", "use": "sig", "alg": "RS256"})
EC_KEY = ECKey.generate_key("P-256", {"kid": "ec-1", "use": "sig"})

Forge = Callable[[dict[str, Any], dict[str, Any]], str | None]


class OpenIdProvider:
    """One provider; `person` is who signs in next.

    `forge` may change a token's header and claims before they are signed, or return another token altogether.
    """

    def __init__(self, clock: FixedClock, redirect_uri: str) -> None:
        self.clock, self.redirect_uri = clock, redirect_uri
        self.person: dict[str, Any] = {
            "sub": "u-1",
            "name": "Ann Li",
            "email": "Ann@Plant.example",
            "email_verified": True,
            "groups": ["ml"],
        }
        self.more: dict[str, Any] = {}
        self.keys: list[Key] = [RSA_KEY]
        self.forge: Forge = lambda _header, _claims: None
        self.metadata: dict[str, Any] = {}
        self.takes_codes_twice = False
        self.codes: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.forms: list[dict[str, str]] = []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                provider.asked.append(path)
                if path == "/authorize":
                    self.send_response(302)
                    self.send_header("location", provider.authorize(dict(parse_qsl(query))))
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return
                answers: dict[str, Callable[[], Any]] = {
                    "/.well-known/openid-configuration": provider.describe,
                    "/jwks": lambda: {"keys": [key.as_dict(private=False) for key in provider.keys]},
                    "/userinfo": lambda: {"sub": provider.person["sub"], **provider.more},
                }
                self.reply(200, answers[path]())

            def do_POST(self) -> None:
                provider.asked.append(self.path)
                form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode(), strict_parsing=True)
                self.reply(*provider.token(self.headers.get("authorization"), {name: value for name, (value,) in form.items()}))

            def reply(self, status: int, content: Any) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json; charset=utf-8")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def describe(self) -> dict[str, Any]:
        paths = {"authorization_endpoint": "/authorize", "token_endpoint": "/token", "jwks_uri": "/jwks"}
        paths |= {"userinfo_endpoint": "/userinfo", "end_session_endpoint": "/end"}
        return {
            "issuer": self.issuer,
            **{name: self.issuer + path for name, path in paths.items()},
            "authorization_response_iss_parameter_supported": True,
            **self.metadata,
        }

    def authorize(self, query: dict[str, str]) -> str:
        """The person agrees at once; the address that the browser is sent back to."""
        assert (query["client_id"], query["response_type"]) == (CLIENT, "code")
        assert query["redirect_uri"] == self.redirect_uri, "only what is registered"
        assert "openid" in query["scope"].split()
        assert query["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe()
        self.codes[code] = {"challenge": query["code_challenge"], "nonce": query["nonce"]}
        return f"{self.redirect_uri}?{urlencode({'code': code, 'state': query['state'], 'iss': self.issuer})}"

    def token(self, authorization: str | None, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        self.forms.append(form)
        if authorization is not None:
            who = base64.b64decode(authorization.removeprefix("Basic ")).decode().split(":")
            if [unquote_plus(each) for each in who] != [CLIENT, SECRET]:
                return 401, {"error": "invalid_client"}
        elif form.get("client_id") != CLIENT or form.get("client_secret", SECRET) != SECRET:
            return 401, {"error": "invalid_client"}
        known = self.codes.get(form["code"]) if self.takes_codes_twice else self.codes.pop(form["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=").decode()
        if known is None or known["challenge"] != challenge or form["redirect_uri"] != self.redirect_uri:
            return 400, {"error": "invalid_grant", "error_description": "<script>"}
        access_token = secrets.token_urlsafe()
        return 200, {
            "token_type": "Bearer",
            "access_token": access_token,
            "id_token": self.id_token(known["nonce"], access_token),
        }

    def id_token(self, nonce: str, access_token: str) -> str:
        now = int(self.clock.now().timestamp())
        half = hashlib.sha256(access_token.encode()).digest()[:16]
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
            "at_hash": base64.urlsafe_b64encode(half).rstrip(b"=").decode(),
            **self.person,
        }
        key = self.keys[-1]
        header: dict[str, Any] = {"alg": "RS256" if isinstance(key, RSAKey) else "ES256", "kid": key.kid}
        return self.forge(header, claims) or jwt.encode(header, claims, key, ["RS256", "ES256"])


def parameters(location: str) -> dict[str, str]:
    """The parameters of an address."""
    return dict(parse_qsl(urlsplit(location).query))
