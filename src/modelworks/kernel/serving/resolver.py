"""DNS for requests to upstream servers: every answer goes through the egress check, at every new connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from aiohttp.abc import AbstractResolver, ResolveResult

from modelworks.contract.errors import ModelworksError
from modelworks.kernel.base.egress import check_url


class GuardedResolver(AbstractResolver):
    """Resolves names to public addresses only, or to what `allow` names.

    A deployment's address is checked when it is stored; a name that points elsewhere later (DNS rebinding) is refused here.

    Args:
        allow: names, addresses and networks, as in `egress.check_url`.
    """

    def __init__(self, allow: Sequence[str]) -> None:
        self._allow = tuple(allow)

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """The checked addresses of a name.

        Raises:
            OSError: the name does not resolve, or leads to an address that must not be reached.
        """
        name = f"[{host}]" if ":" in host else host
        try:
            target = await asyncio.to_thread(check_url, f"http://{name}:{port or 80}/", self._allow)
        except ModelworksError as error:
            raise OSError(error.message) from error
        found: list[ResolveResult] = []
        for address in target.addresses:
            kind = socket.AF_INET6 if ":" in address else socket.AF_INET
            if family in (socket.AF_UNSPEC, kind):
                found.append(
                    ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
                )
        if not found:
            raise OSError(f"{host} has no address of the wanted kind")
        return found

    async def close(self) -> None:
        """Nothing is held."""
