"""Prepare an enqueue: build a `PreparedJob` from an operation, without storing or publishing anything.

All validation happens here, so that `enqueue_all` stores either all jobs or none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from dexpy.database.engine import Database
from dexpy.declaration.contract import Contract
from dexpy.declaration.key_digests import check_lock_key, concurrency_key, fair_key, rate_key
from dexpy.declaration.props import encode_props
from dexpy.enqueue.jobs import (
    DirectPayload,
    EnqueueOptions,
    PreparedJob,
    Turn,
    direct_message,
    is_direct,
    record_message,
)
from dexpy.enqueue.keyed_insert import KeyedInsert, build_key_claim, with_loaded_rows
from dexpy.enqueue.transports import SHORT_DELAY_S, Transport, check_delay
from dexpy.foundation.clock import clock
from dexpy.foundation.errors import (
    ConfigurationError,
    DeclarationError,
    NotSerializable,
    OptionsError,
    SensitiveInTransit,
    listed,
)
from dexpy.foundation.ids import new_id
from dexpy.foundation.trace import Frame, current_frame
from dexpy.policies.options import AsyncOptions
from dexpy.recording.encryption import encrypt_params
from dexpy.recording.own_columns import column_values
from dexpy.recording.store import Store
from dexpy.recording.ticket import Ticket
from dexpy.transactions.commit_hooks import CommitState
from dexpy.transactions.sessions import EnqueueTransaction, ExternalConnection


class JobPreparer:
    """Prepares operations for the background.

    Args:
        store: The store of records; None when nothing is recorded.
        transport: The transport of the messages.
        is_joined: Returns whether jobs are stored in a given transaction of the application.
    """

    def __init__(
        self, store: Store | None, transport: Transport, is_joined: Callable[[EnqueueTransaction], bool]
    ) -> None:
        self._store = store
        self._transport = transport
        # Also beside a broker: delayed, retried and refused messages wait in the database.
        self._message_database = None if transport.sql_queue is None else transport.sql_queue.database
        self._is_joined = is_joined

    def prepare(
        self,
        operation: Any,
        options: AsyncOptions,
        transaction: EnqueueTransaction,
        token: str | None,
        commit_state: CommitState,
    ) -> PreparedJob:
        """Prepare an operation; see `Dispatcher.enqueue` for the exceptions."""
        contract: Contract = operation.contract
        store, owner = self._store, contract.cls.__qualname__
        if contract.unreachable is not None:
            raise DeclarationError(
                f"{owner}: workers cannot import the class: {contract.unreachable}. call() works without a worker."
            )
        run_id = new_id("op")
        params = encode_props(owner, contract.props, operation.__dict__)
        own_values: Mapping[str, Any] = {}
        if store is not None and store.record_columns and contract.record is not None:
            own_values = column_values(store.record_columns, owner, contract, params)
        if contract.encrypted_props:
            params = encrypt_params(contract, params, run_id)
        if contract.lock is not None:
            check_lock_key(operation, contract)
        resolve = partial(EnqueueOptions.of, call_options=options)
        if callable(contract.options.queue if options.queue is None else options.queue):
            # The queue function may read the rows behind references.
            resolved = with_loaded_rows(resolve, operation, contract, store, transaction)
        else:
            resolved = resolve(operation, contract)
        frame = current_frame().child(run_id, contract.name).in_background()
        # Optional: without records every message carries its params, as it does for some classes with them.
        if store is None or is_direct(contract):
            _check_no_record_required(contract, resolved, token)
            return self._prepare_direct(contract, params, resolved, frame, run_id, transaction)
        if store.database.dialect.closes_on_large_statement:
            _check_size(store.database, owner, params, frame)
        due_at = resolved.at if resolved.wait_s is None else clock.now() + timedelta(seconds=resolved.wait_s)
        snapshot: dict[str, Any] = {"id": run_id, "operation": contract.name, "status": "pending", "params": params}
        snapshot |= {"scheduled_at": due_at, "progress": None}
        ticket = Ticket[Any](run_id, contract.name, store, snapshot, commit_state)
        keyed = None
        if contract.once is not None or contract.unique is not None or token is not None:
            claim = build_key_claim(operation, contract, token, store, transaction)
            keyed = KeyedInsert(store, contract, claim, ticket, self._is_joined(transaction))
        columns = {
            "id": run_id,
            "operation": contract.name,
            **frame.columns(),
            "params": params,
            "status": "pending",
            "queue": resolved.queue,
            "priority": resolved.priority,
            "loss_limit": contract.loss_limit,
            **own_values,
        }
        if contract.concurrency is not None:
            columns["concurrency_key"] = with_loaded_rows(concurrency_key, operation, contract, store, transaction)
        if contract.rate is not None:
            columns["rate_key"] = with_loaded_rows(rate_key, operation, contract, store, transaction)
        if contract.fair is not None:
            columns["fair_key"] = with_loaded_rows(fair_key, operation, contract, store, transaction)
        turn: Turn | None = None
        if contract.fair is not None:
            turn = "waiting" if resolved.delay_s == 0 else "later"
        message = record_message(contract.name, run_id, frame.trace_id, resolved.queue, resolved.priority, turn=turn)
        # A connection has no commit event: the relay publishes its messages.
        is_due = resolved.delay_s == 0 and not isinstance(transaction, ExternalConnection)
        return PreparedJob(ticket, resolved, message, is_due, self._transport.transactional, columns, keyed)

    def prepare_stored(
        self,
        operation: str,
        params: Mapping[str, Any],
        options: EnqueueOptions,
        loss_limit: int | None,
        transaction: EnqueueTransaction,
        commit_state: CommitState,
    ) -> PreparedJob:
        """Prepare a run of a class that this process may not know, from stored params.

        Args:
            operation: The stable name of the class.
            params: The props as JSON.
            options: Its queue, priority and time.
            loss_limit: The number of lost workers that ends the run; None for the default.
            transaction: The transaction of the application that stores it; None for one of dexpy's own.
            commit_state: The state of that transaction.
        """
        run_id = new_id("op")
        frame = current_frame().child(run_id, operation).in_background()
        due_at = options.at if options.wait_s is None else clock.now() + timedelta(seconds=options.wait_s)
        snapshot = {"id": run_id, "operation": operation, "status": "pending", "params": params}
        columns = {
            "id": run_id,
            "operation": operation,
            **frame.columns(),
            "params": params,
            "status": "pending",
            "queue": options.queue,
            "priority": options.priority,
            "loss_limit": loss_limit,
        }
        return PreparedJob(
            Ticket[Any](
                run_id, operation, self._store, {**snapshot, "scheduled_at": due_at, "progress": None}, commit_state
            ),
            options,
            record_message(operation, run_id, frame.trace_id, options.queue, options.priority),
            options.delay_s == 0 and not isinstance(transaction, ExternalConnection),
            self._transport.transactional,
            columns,
        )

    def _prepare_direct(
        self,
        contract: Contract,
        params: Mapping[str, Any],
        resolved: EnqueueOptions,
        frame: Frame,
        run_id: str,
        transaction: EnqueueTransaction,
    ) -> PreparedJob:
        """Prepare a job whose message carries the params, because no record stores them."""
        if self._message_database is not None and self._message_database.dialect.closes_on_large_statement:
            _check_size(self._message_database, contract.cls.__qualname__, params, frame)
        delay_s, is_left_to_relay = resolved.delay_s, isinstance(transaction, ExternalConnection)
        is_delayed = delay_s > SHORT_DELAY_S or is_left_to_relay
        has_message_row = self._transport.transactional or (self._message_database is not None and is_delayed)
        if not has_message_row:
            check_delay(delay_s, "async_(...)")
        payload = DirectPayload(contract.name, params, frame.to_dict(), run_id)
        message, ticket = direct_message(payload, resolved.queue), Ticket[Any](run_id, contract.name, None, None)
        return PreparedJob(ticket, resolved, message, delay_s == 0 and not is_left_to_relay, has_message_row)


def _check_size(database: Database, owner: str, params: Mapping[str, Any], frame: Frame) -> None:
    """Refuse params that are too large: the server would cut the connection and roll back the caller's transaction."""
    reason = database.why_too_large(params, frame.to_dict())
    if reason is not None:
        largest = max(params, key=lambda name: len(str(params[name])), default="props")
        raise NotSerializable(f"is too large: {reason}. Pass an id or a path instead", path=largest, owner=owner)


def _check_no_record_required(contract: Contract, options: EnqueueOptions, token: str | None) -> None:
    """Refuse options that require a record, for a run that has none before it ends."""
    owner = contract.cls.__qualname__
    policies = (contract.once, contract.unique, contract.concurrency, contract.rate, contract.fair)
    if any(policy is not None for policy in policies):
        raise ConfigurationError(
            f"{owner}: Once, Unique, Concurrency, Rate and Fair require a record, but nothing is recorded here. "
            "Configure a database: dexpy.configure(database=...)."
        )
    if plain_text_props := [name for name in contract.sensitive_props if name not in contract.encrypted_props]:
        raise SensitiveInTransit(
            f"{owner}: {listed(plain_text_props)} would be sent to the broker in plain text, because no record stores "
            "the params. Turn recording on (record = True and dexpy.configure(database=...)), or declare "
            "prop(encrypted=True)."
        )
    if token is not None:
        raise OptionsError(
            f"{owner}.async_: idempotence_token requires a record, but this run has none. "
            "Leave it out, or turn recording on: record = True, dexpy.configure(database=...)."
        )
    if options.expires_in_s is not None:
        raise OptionsError(
            f"{owner}.async_: expires_in requires a record, but this run has none before it ends. "
            "Leave it out, or turn recording on: record = True, dexpy.configure(database=...)."
        )
