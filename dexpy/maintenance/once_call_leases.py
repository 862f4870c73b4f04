"""The lease of a process that makes synchronous calls with an idempotency key."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from dexpy.database import lock_timeouts
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path
from dexpy.liveness.heartbeat import Heartbeat
from dexpy.maintenance.recovery import LOCK_WAIT_S, Recovery
from dexpy.recording.end_writer import EndWriter


@attrs.frozen
class HeartbeatLease:
    """See `dexpy.recording.idempotent_recorder.ProcessLease`.

    Attributes:
        heartbeat: The heartbeat of this process.
        recovery: Recovers the runs of dead processes.
        end_writer: Writes the ends of runs.
    """

    heartbeat: Heartbeat
    recovery: Recovery
    end_writer: EndWriter

    def start(self) -> str:
        """Start the heartbeat and return the process's worker id."""
        self.heartbeat.start()
        self.heartbeat.require_lease()
        self.heartbeat.stop_at_exit()
        return self.heartbeat.start()

    def recover(self) -> None:
        """Recover the runs of dead processes, because no relay may be running."""
        try:
            with lock_timeouts.limited(LOCK_WAIT_S):
                self.recovery.run_once()
        except Exception as error:  # noqa: BLE001 - the call continues to wait
            log_event(LogEvent.RECOVERY_FAILED, error=class_path(error))

    def hold(self, id: str) -> None:
        """See `dexpy.recording.idempotent_recorder.ProcessLease`."""
        self.heartbeat.called_records.hold(id)
        self.heartbeat.held_records.hold(id)

    def release(self, id: str) -> None:
        """See `dexpy.recording.idempotent_recorder.ProcessLease`."""
        self.heartbeat.held_records.release([id])
        self.heartbeat.called_records.release([id])

    def end(self, id: str, variants: Sequence[Callable[[], object]], operation: str) -> None:
        """See `dexpy.recording.idempotent_recorder.ProcessLease`."""
        self.end_writer.write(id, variants, waits=False, operation=operation)
