"""No relay: nobody looks for the dead, for what is owed, or for what was lost."""

from dexpy.maintenance.relay import Relay


class IdleRelay(Relay):
    """Says that all is well."""

    def run_once(self) -> bool:
        return True

    def publish_unpublished(self) -> bool:
        return True


Relay.run_once = IdleRelay.run_once  # type: ignore[method-assign]
Relay.publish_unpublished = IdleRelay.publish_unpublished  # type: ignore[method-assign]
