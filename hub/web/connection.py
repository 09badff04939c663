"""Bound one connection to the API: uvicorn waits for ever for a request that drips in, and for a client that does not read."""

import asyncio

from hub.service.bounded_server import KEEP, HalfClosing
from hub.service.enrol.bounded_listener import Accepted
from hub.web.server import REQUEST_SECONDS_MAX, WRITE_SECONDS_MAX


class Connection(HalfClosing):
    """End a connection that sends no request, or does not take what it was sent."""

    _first: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to count."""
        super().connection_made(transport)
        self._first = self.loop.call_later(REQUEST_SECONDS_MAX, self._end_if_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count no more."""
        for timer in (self._first, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Tell a request how its connection is kept."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_started:  # It begins when this turn of the loop is over.
            self.scope["state"][KEEP] = self._keep

    def _keep(self) -> None:
        accepted = getattr(self.transport.get_extra_info("socket"), "_sock", None)  # asyncio shows a view of it.
        if isinstance(accepted, Accepted):
            accepted.keep()

    def pause_writing(self) -> None:
        """Give the client a while to read."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(WRITE_SECONDS_MAX, self.transport.abort)

    def resume_writing(self) -> None:
        """Note that it has read."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _end_if_silent(self) -> None:
        if self.cycle is None:  # Not one request's headers are here.
            self.transport.abort()
