"""dexpy: operations that are typed, recorded and never lost."""

from __future__ import annotations

__distribution__ = "dexpy-operations"

from typing import TYPE_CHECKING, Any

from dexpy.codec.codecs import register_type
from dexpy.codec.constraints import prop
from dexpy.declaration.export import export
from dexpy.declaration.hooks import after, around, before, guard
from dexpy.declaration.model_loaders import register_model_loader
from dexpy.declaration.refs import OptRef, Ref, Refs

# Calling later
from dexpy.deferred import DeferredCall
from dexpy.deferred.deferral import defer
from dexpy.deferred.registration import deferrable

# Declaring
from dexpy.enqueue.api import Async, enqueue_all

# The steps of a run, and what is around it
from dexpy.execution.call import Call
from dexpy.execution.explain import Explanation
from dexpy.execution.pipeline_edits import Insert, Remove, Step
from dexpy.foundation.context import Travels, context, current_context
from dexpy.foundation.encryption import Encryptor, FernetEncryptor

# Outcomes and errors
from dexpy.foundation.errors import (
    BrokerUnavailable,
    Cancelled,
    ConfigurationError,
    DatabaseBusy,
    DatabaseUnavailable,
    DeclarationError,
    DecryptionFailed,
    DexpyError,
    EncryptorMissing,
    Error,
    FrozenOperation,
    Interrupted,
    InvalidTransition,
    KeyBusy,
    KeyTaken,
    LockLost,
    LostClaim,
    MissingExtra,
    NotCommitted,
    NotRecorded,
    NotRunning,
    NotSerializable,
    NotUnique,
    OnceConflict,
    OperationFailed,
    OptionsError,
    Problem,
    PropsError,
    RecordNotFound,
    RefNotFound,
    ResultNotStored,
    ResultTypeError,
    RolledBack,
    SchemaMissing,
    SensitiveInTransit,
    SessionOnLoop,
    StepError,
    TicketError,
    TimedOut,
    TransactionOwned,
    UndeclaredError,
    Undecodable,
    UnknownOperation,
    WaitTimeout,
    WorkerLost,
)
from dexpy.foundation.outcome import Err, Ok

# Running
from dexpy.foundation.trace import trace
from dexpy.operation import Operation
from dexpy.policies.concurrency import Concurrency
from dexpy.policies.lock import Lock
from dexpy.policies.once import Once
from dexpy.policies.options import Record, Reset
from dexpy.policies.retry import Retry
from dexpy.policies.unique import Unique
from dexpy.runtime import Runtime, configure, current_runtime
from dexpy.transactions.sessions import current_session, session

if TYPE_CHECKING:
    from dexpy import records
    from dexpy.recording.ticket import Ticket

__version__ = "0.1.0"

__all__ = [
    "Async",
    "BrokerUnavailable",
    "Call",
    "Cancelled",
    "Concurrency",
    "ConfigurationError",
    "DatabaseBusy",
    "DatabaseUnavailable",
    "DeclarationError",
    "DecryptionFailed",
    "DeferredCall",
    "DexpyError",
    "Encryptor",
    "EncryptorMissing",
    "Err",
    "Error",
    "Explanation",
    "FernetEncryptor",
    "FrozenOperation",
    "Insert",
    "Interrupted",
    "InvalidTransition",
    "KeyBusy",
    "KeyTaken",
    "Lock",
    "LockLost",
    "LostClaim",
    "MissingExtra",
    "NotCommitted",
    "NotRecorded",
    "NotRunning",
    "NotSerializable",
    "NotUnique",
    "Ok",
    "Once",
    "OnceConflict",
    "Operation",
    "OperationFailed",
    "OptRef",
    "OptionsError",
    "Problem",
    "PropsError",
    "Record",
    "RecordNotFound",
    "Ref",
    "RefNotFound",
    "Refs",
    "Remove",
    "Reset",
    "ResultNotStored",
    "ResultTypeError",
    "Retry",
    "RolledBack",
    "Runtime",
    "SchemaMissing",
    "SensitiveInTransit",
    "SessionOnLoop",
    "Step",
    "StepError",
    "Ticket",
    "TicketError",
    "TimedOut",
    "TransactionOwned",
    "Travels",
    "UndeclaredError",
    "Undecodable",
    "Unique",
    "UnknownOperation",
    "WaitTimeout",
    "WorkerLost",
    "after",
    "around",
    "before",
    "configure",
    "context",
    "current_context",
    "current_runtime",
    "current_session",
    "defer",
    "deferrable",
    "enqueue_all",
    "export",
    "guard",
    "prop",
    "records",
    "register_model_loader",
    "register_type",
    "session",
    "trace",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # What asks the database is loaded when it is asked for: SQLAlchemy takes longer to import than all the rest.
        if name == "Ticket":
            from dexpy.recording.ticket import Ticket

            return Ticket
        if name == "records":
            from importlib import import_module

            return import_module("dexpy.records")
        raise AttributeError(f"module 'dexpy' has no attribute {name!r}")
