"""Flow control of a connection that isn't read while it is parsed, too."""

from __future__ import annotations

from asyncio import Transport

from uvicorn.protocols.http.flow_control import FlowControl


class HeldFlow(FlowControl):
    """Flow control with a second reason to read nothing.

    Args:
        transport: The connection's transport.
    """

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._is_held = False

    def hold(self) -> None:
        """Has nothing be read until :meth:`release`, whoever asks for more."""
        self._is_held = True
        # uvicorn resumes the transport itself, too.
        self._transport.pause_reading()

    def release(self) -> None:
        """Lets the connection be read again, unless the request doesn't want more."""
        if self._is_held:
            self._is_held = False
            if not self.read_paused:
                self._transport.resume_reading()

    def resume_reading(self) -> None:
        """Lets the connection be read again, unless it is held."""
        if self._is_held:
            self.read_paused = False
        else:
            super().resume_reading()
