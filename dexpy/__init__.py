"""dexpy: operations that are typed, recorded and never lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# Declaring
from dexpy.background.enqueue import Async
from dexpy.declaration.forms import register_type
from dexpy.declaration.hooks import after, around, before, guard
from dexpy.declaration.models import register_model_loader
from dexpy.declaration.policies import Record, Reset, Retry
from dexpy.declaration.props import prop
from dexpy.declaration.refs import OptRef, Ref, Refs

# Outcomes and errors
from dexpy.foundation.errors import (
    BrokerUnavailable,
    Cancelled,
    ConfigurationError,
    DatabaseUnavailable,
    DeclarationError,
    DexpyError,
    Error,
    InvalidTransition,
    LostClaim,
    MissingExtra,
    NotCommitted,
    NotRecorded,
    NotRunning,
    NotSerializable,
    OperationFailed,
    OptionsError,
    Problem,
    PropsError,
    RecordNotFound,
    RefNotFound,
    ResultNotStored,
    ResultTypeError,
    RolledBack,
    SensitiveInTransit,
    SessionOnLoop,
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
from dexpy.recording.sessions import current_session, session
from dexpy.runtime import Runtime, configure, current_runtime

if TYPE_CHECKING:
    from dexpy import records
    from dexpy.recording.ticket import Ticket

__version__ = "0.1.0"

__all__ = [
    "Async",
    "BrokerUnavailable",
    "Cancelled",
    "ConfigurationError",
    "DatabaseUnavailable",
    "DeclarationError",
    "DexpyError",
    "Err",
    "Error",
    "InvalidTransition",
    "LostClaim",
    "MissingExtra",
    "NotCommitted",
    "NotRecorded",
    "NotRunning",
    "NotSerializable",
    "Ok",
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
    "Reset",
    "ResultNotStored",
    "ResultTypeError",
    "Retry",
    "RolledBack",
    "Runtime",
    "SensitiveInTransit",
    "SessionOnLoop",
    "Ticket",
    "TicketError",
    "TimedOut",
    "TransactionOwned",
    "UndeclaredError",
    "Undecodable",
    "UnknownOperation",
    "WaitTimeout",
    "WorkerLost",
    "after",
    "around",
    "before",
    "configure",
    "current_runtime",
    "current_session",
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
