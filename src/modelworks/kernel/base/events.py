"""In-process announcements after a commit: "this changed", never "do this". Losing one delays: all consumers also poll."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy import event
from sqlalchemy.orm import Session

log = structlog.get_logger(__name__)

Handler = Callable[[str, dict[str, Any]], None]


class Events:
    """Topics such as `run.changed`, `alias.moved`, `deployment.changed`, `key.changed`; handlers must be quick."""

    def __init__(self) -> None:
        self._handlers: dict[str, list[Handler]] = defaultdict(list)
        self._taps: list[Handler] = []
        self._lock = threading.Lock()

    def subscribe(self, topic: str, handler: Handler) -> Callable[[], None]:
        """Call `handler(topic, payload)` on every announcement; returns a function that ends the subscription."""
        with self._lock:
            self._handlers[topic].append(handler)

        def unsubscribe() -> None:
            with self._lock:
                if handler in self._handlers[topic]:
                    self._handlers[topic].remove(handler)

        return unsubscribe

    def tap(self, handler: Handler) -> None:
        """Call `handler(topic, payload)` on everything that is announced here, whatever its topic; not on what is relayed."""
        self._taps.append(handler)

    def publish_after_commit(self, session: Session, topic: str, **payload: Any) -> None:
        """Announce when the session's transaction is committed, so that handlers read the new state; never after a rollback."""

        def committed(_: Session) -> None:
            # SQLAlchemy tells of savepoints too.
            if not session.in_nested_transaction() and not told:
                told.append(topic)
                self.publish(topic, **payload)

        told: list[str] = []
        event.listen(session, "after_commit", committed)

    def publish(self, topic: str, **payload: Any) -> None:
        """Announce; a failing handler is logged and does not disturb the others."""
        self.relay(topic, payload)
        self._call(self._taps, topic, payload)

    def relay(self, topic: str, payload: dict[str, Any]) -> None:
        """Announce what another process of this server has announced."""
        with self._lock:
            handlers = list(self._handlers[topic])
        self._call(handlers, topic, payload)

    def _call(self, handlers: list[Handler], topic: str, payload: dict[str, Any]) -> None:
        for handler in handlers:
            try:
                handler(topic, payload)
            except Exception:
                log.exception("event handler failed", topic=topic)
