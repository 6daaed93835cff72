"""Deployments that runs may ask: which one an input means, and the key with which one attempt asks it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Protocol

from sqlalchemy.orm import Session

from modelworks.contract.errors import InvalidRequest
from modelworks.kernel.access import AccessService
from modelworks.kernel.base.clock import Clock

#: An attempt that asks for longer gets no answer any more, ends, and is followed by one with a key of its own.
KEY_LIFE = timedelta(hours=24)
#: The tasks whose deployments a run may ask: for answers, and for vectors.
_ASKABLE = frozenset({"text-generation", "feature-extraction"})


class Deployed(Protocol):
    """What of a deployment is of interest here."""

    @property
    def name(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def version_id(self) -> str | None: ...


class Finder(Protocol):
    """Looks deployments up; the serving room's service, which stands above this one."""

    def get(self, session: Session, project_id: str, name: str) -> Deployed:
        """Raises NotFound."""
        ...


class RunDeployments:
    """The deployments of runs. An attempt's key serves inference on them alone, and ends with the attempt.

    Args:
        url: where workers of this machine reach the server, and where those of other machines do.
    """

    def __init__(self, access: AccessService, finder: Finder, clock: Clock, *, url: str, remote_url: str) -> None:
        self._access = access
        self._finder = finder
        self._clock = clock
        self._urls = {False: url, True: remote_url}

    def find(self, session: Session, project_id: str, role: str, name: str) -> Deployed:
        """The deployment that an input names.

        Raises:
            NotFound: there is none of that name.
            InvalidRequest: it answers neither chats nor with vectors.
        """
        found = self._finder.get(session, project_id, name)
        if found.task not in _ASKABLE:
            raise InvalidRequest(
                f"The input {role!r} names the deployment {name!r}, whose task is {found.task}: it cannot be asked.",
                hint="Name a deployment of a language model or of an encoder.",
                param=f"inputs.{role}",
            )
        return found

    def url(self, *, remote: bool) -> str:
        """Where an attempt reaches the server."""
        return self._urls[remote]

    def open(self, session: Session, project_id: str, run_id: str, names: Collection[str]) -> str:
        """The secret of a new key for an attempt; it replaces those of earlier attempts."""
        self.close(session, project_id, run_id)
        _, secret = self._access.create_key(
            session,
            project_id,
            run_id,
            scopes=["inference"],
            expires_at=self._clock.now() + KEY_LIFE,
            model_allow=sorted(set(names)),
        )
        return secret

    def close(self, session: Session, project_id: str, run_id: str) -> None:
        """Refuse the keys of a run's attempts from now on. Usage goes on naming them, and they their run."""
        self._access.revoke_keys_named(session, project_id, run_id)
