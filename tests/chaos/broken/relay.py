"""No relay: nobody looks for the dead, for what is owed, or for what was lost."""

from dexpy.background.relay import Relay


class IdleRelay(Relay):
    """Says that all is well."""

    def look_after(self) -> bool:
        return True

    def send(self) -> bool:
        return True


Relay.look_after = IdleRelay.look_after  # type: ignore[method-assign]
Relay.send = IdleRelay.send  # type: ignore[method-assign]
