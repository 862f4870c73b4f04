"""dexpy: operations that are typed, recorded and never lost."""

from __future__ import annotations

__distribution__ = "dexpy-operations"

from typing import TYPE_CHECKING, Any

from dexpy import errors
from dexpy.codec.codecs import register_type
from dexpy.codec.constraints import prop
from dexpy.declaration.export import export
from dexpy.declaration.hooks import after, around, before, guard
from dexpy.declaration.model_loaders import register_model_loader
from dexpy.declaration.recurring import Recurring
from dexpy.declaration.refs import OptRef, Ref, Refs

# Calling later
from dexpy.deferred import DeferredCall
from dexpy.deferred.deferral import defer
from dexpy.deferred.registration import deferrable

# Declaring
from dexpy.enqueue.api import Async, enqueue_all

# The pipeline of a run, and its context
from dexpy.execution.call import Call
from dexpy.execution.explain import Explanation
from dexpy.execution.pipeline_edits import Insert, Middleware, Remove
from dexpy.foundation.context import Propagate, context, current_context
from dexpy.foundation.encryption import Encryptor, FernetEncryptor

# Outcomes and errors
from dexpy.foundation.errors import (
    Cancelled,
    ConfigurationError,
    DexpyError,
    Error,
    NotSerializable,
    OperationFailed,
    PropsError,
    TimedOut,
    WaitTimeout,
    WorkerLost,
)
from dexpy.foundation.outcome import Err, Ok

# Running
from dexpy.foundation.trace import trace
from dexpy.operation import Operation
from dexpy.policies.concurrency import Concurrency
from dexpy.policies.fair import Fair
from dexpy.policies.lock import Lock
from dexpy.policies.once import Once
from dexpy.policies.options import Recording, Reset
from dexpy.policies.queue_limit import QueueLimit
from dexpy.policies.rate import Rate
from dexpy.policies.retry import Retry
from dexpy.policies.unique import Unique
from dexpy.runtime import Runtime, configure, current_runtime

# Scheduling
from dexpy.schedules.cron import Cron
from dexpy.schedules.every import Every
from dexpy.transactions.sessions import current_session, session

if TYPE_CHECKING:
    from dexpy import batches, queues, records, recurring
    from dexpy.enqueue.batch import Batch, batch
    from dexpy.enqueue.batch_ticket import BatchTicket
    from dexpy.foundation.run_end import RunEnd
    from dexpy.policies.record_column import RecordColumn
    from dexpy.recording.ticket import Ticket
    from dexpy.worker.embedded import EmbeddedWorker

__version__ = "0.1.0"

__all__ = [
    "Async",
    "Batch",
    "BatchTicket",
    "Call",
    "Cancelled",
    "Concurrency",
    "ConfigurationError",
    "Cron",
    "DeferredCall",
    "DexpyError",
    "EmbeddedWorker",
    "Encryptor",
    "Err",
    "Error",
    "Every",
    "Explanation",
    "Fair",
    "FernetEncryptor",
    "Insert",
    "Lock",
    "Middleware",
    "NotSerializable",
    "Ok",
    "Once",
    "Operation",
    "OperationFailed",
    "OptRef",
    "Propagate",
    "PropsError",
    "QueueLimit",
    "Rate",
    "RecordColumn",
    "Recording",
    "Recurring",
    "Ref",
    "Refs",
    "Remove",
    "Reset",
    "Retry",
    "RunEnd",
    "Runtime",
    "Ticket",
    "TimedOut",
    "Unique",
    "WaitTimeout",
    "WorkerLost",
    "after",
    "around",
    "batch",
    "batches",
    "before",
    "configure",
    "context",
    "current_context",
    "current_runtime",
    "current_session",
    "defer",
    "deferrable",
    "enqueue_all",
    "errors",
    "export",
    "guard",
    "prop",
    "queues",
    "records",
    "recurring",
    "register_model_loader",
    "register_type",
    "session",
    "trace",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # Imported at the first use, because importing SQLAlchemy takes longer than the rest of the package.
        from importlib import import_module

        if name in ("Batch", "BatchTicket", "batch"):
            return getattr(import_module("dexpy.batches"), name)
        if name == "EmbeddedWorker":
            return import_module("dexpy.worker.embedded").EmbeddedWorker
        if name == "RecordColumn":
            return import_module("dexpy.policies.record_column").RecordColumn
        if name == "RunEnd":
            return import_module("dexpy.foundation.run_end").RunEnd
        if name == "Ticket":
            return import_module("dexpy.recording.ticket").Ticket
        if name == "batches":
            return import_module("dexpy.batches")
        if name == "queues":
            return import_module("dexpy.queues")
        if name == "records":
            return import_module("dexpy.records")
        if name == "recurring":
            return import_module("dexpy.recurring")
        raise AttributeError(f"module 'dexpy' has no attribute {name!r}")
