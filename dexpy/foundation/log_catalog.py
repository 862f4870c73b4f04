"""The catalog of log events: every line that dexpy logs, as data, and the names of the fields.

One file although it is long: docs/reference/logging.md and tests/foundation/test_log_catalog.py read it as a whole.
"""

from __future__ import annotations

import logging
from enum import Enum, unique
from logging import DEBUG, ERROR, INFO, WARNING

BROKER = "dexpy.broker"
DATABASE = "dexpy.database"
DECLARATION = "dexpy.declaration"
ENQUEUE = "dexpy.enqueue"
EXECUTION = "dexpy.execution"
LIVENESS = "dexpy.liveness"
RECORDING = "dexpy.recording"
RECURRING = "dexpy.recurring"
RELAY = "dexpy.relay"
RUNTIME = "dexpy.runtime"
TRANSACTIONS = "dexpy.transactions"
WORKER = "dexpy.worker"

LOGGERS = {
    EXECUTION: "runs, in place and in workers",
    TRANSACTIONS: "sessions, rollbacks and after-commit hooks",
    WORKER: "worker processes, and how they claim and end runs",
    LIVENESS: "heartbeats and leases of processes",
    ENQUEUE: "enqueueing, queues and concurrency limits",
    BROKER: "messages, and the servers that carry them",
    RELAY: "recovery of dead workers' runs, and republishing",
    RECURRING: "recurring tasks and their ticks",
    RECORDING: "records of runs",
    DATABASE: "the records' database",
    DECLARATION: "references of operations",
    RUNTIME: "configuration, redaction and periodic tasks",
}
"""The child loggers, and what each of them is about."""

FIELDS = {
    "operation": "the name of the operation",
    "run_id": "the id of the run",
    "batch_id": "the id of the batch",
    "trace_id": "the id of its trace",
    "attempt": "the number of the attempt, from 1",
    "queue": "the queue",
    "duration_ms": "how long it took, in milliseconds",
    "worker_id": "the id of a worker process in the records",
    "error": "the class of an exception, or the code of a business error",
    "error_message": "the redacted message of the error",
    "failure": "the kind of failure, as in the record",
    "reason": "why it happened",
    "advice": "what to do about it",
    "retry_in_s": "seconds until the next try",
    "action": "what was being done",
    "task": "the periodic task, or the step of the relay",
    "hook": "the name of an after-commit hook",
    "traceback": "file, line and function of each frame",
    "keys": "names of params, separated by commas",
    "key": "the key of a recurring task",
    "schedule": "the schedule of a recurring task",
    "source": "where a recurring task is defined: class, file or api",
    "tick": "the tick, a moment of the schedule",
    "next_at": "the next tick",
    "first_at": "the first of several ticks",
    "last_at": "the last of several ticks",
    "late_ms": "how late it was enqueued, in milliseconds",
    "limit": "the concurrency limit or rate limit",
    "rate_key": "the stored key of a rate limit",
    "concurrency_key": "the stored key of a concurrency limit",
    "status": "the status of the record",
    "scheduled_at": "when the run is due",
    "claimed_run_id": "the run that was claimed instead",
    "priority": "the priority of that run",
    "num_lost": "how many workers were lost with the run so far",
    "timeout_s": "the timeout, in seconds",
    "consumer_timeout_s": "RabbitMQ's `consumer_timeout`, in seconds",
    "operations": "the names of operations, separated by commas",
    "pid": "the process id",
    "host": "the address that an endpoint listens on",
    "port": "the port that an endpoint listens on",
    "group": "the worker group of the configuration file",
    "threads": "how many threads the worker has",
    "queues": "the queues that the worker serves",
    "num_runs": "how many runs the process has begun",
    "memory_mb": "the resident memory of the process, in megabytes",
    "exit_status": "the exit status; a negative number is a signal",
    "uptime_s": "how long the process ran, in seconds",
    "restart_in_s": "seconds until the process is replaced",
    "files": "the names of files, separated by commas",
    "environment": "the environment of the configuration",
    "thread_name": "the name of the thread",
    "started_at": "when the run began in this process",
    "kind": "the kind of thread or value",
    "dead": "whether the message is with the dead messages of its queue",
    "message_id": "the id of the message in the broker",
    "message_ids": "the ids of messages, some of which are meant",
    "run_error": "the error with which the run ended",
    "num_refused": "how many messages were refused for this reason",
    "count": "how many",
    "first_run_id": "the first of several runs",
    "left_out": "how many lines about the same subject were left out since the last one",
    "columns": "the columns or kinds of values",
    "column": "the column",
    "params_path": "where in the params",
    "model": "the model of a reference",
    "path": "the path of the database file",
    "database": "the URL of the database, without secrets",
    "ahead_s": "by how many seconds the clock of the database is ahead",
}
"""The fields of a record, with their meaning; units are in the names."""


@unique
class LogEvent(Enum):
    """Every event: its name, logger and level, what it means, and what to do.

    Attributes:
        event: The name in the log.
        logger: The child logger.
        level: As in `logging`; a caller may log repetitions at a lower one.
        meaning: What happened.
        action: What to do about it.
    """

    # Runs
    RUN_STARTED = (
        "run.started",
        EXECUTION,
        DEBUG,
        "An attempt of a run begins, in place or in a worker.",
        "Nothing.",
    )
    RUN_SUCCEEDED = (
        "run.succeeded",
        EXECUTION,
        INFO,
        "A run ended with a result; its transaction is committed.",
        "Nothing.",
    )
    RUN_REJECTED = (
        "run.rejected",
        EXECUTION,
        WARNING,
        "A guard refused a run (`failure=rejected`), or it ended with a business error "
        "(`failure=business`); `error` is the code.",
        "Nothing, unless the code is unexpected.",
    )
    RUN_RETRY_SCHEDULED = (
        "run.retry_scheduled",
        EXECUTION,
        WARNING,
        "An attempt failed and the run will be retried in `retry_in_s` seconds.",
        "Fix the cause if it persists; the attempts of the record have the tracebacks.",
    )
    RUN_FAILED = (
        "run.failed",
        EXECUTION,
        ERROR,
        "A run failed and will not be retried by itself; `failure` is the kind: crash, timeout, lost, "
        "unknown or undecodable.",
        "Fix the cause and retry the run: `dexpy.records.get(run_id).retry()`.",
    )
    RUN_DISCARDED = (
        "run.discarded",
        EXECUTION,
        WARNING,
        "A run ended without a retry because its class declares so: `discard_on`, a missing row of a "
        '`Ref`, or `Concurrency(on_conflict="discard")`.',
        "Nothing, unless there are many.",
    )
    RUN_EXPIRED = (
        "run.expired",
        EXECUTION,
        WARNING,
        "A run was not started before its `expires_at`.",
        "Add workers or extend the expiry if it happens often.",
    )
    RUN_CANCELLED = (
        "run.cancelled",
        EXECUTION,
        WARNING,
        "A run was cancelled while it ran and was rolled back.",
        "Nothing.",
    )
    RUN_RECOVERED = (
        "run.recovered",
        RELAY,
        WARNING,
        "The worker of a run died, and the run will be retried.",
        "Find out why the worker died: the memory limit, a kill, a lost connection to the database.",
    )
    RUN_INTERRUPTED = (
        "run.interrupted",
        EXECUTION,
        DEBUG,
        "A durable run stopped between two steps because its worker stops.",
        "Nothing.",
    )
    RUN_RELEASED = (
        "run.released",
        WORKER,
        WARNING,
        "A stopping worker returned a run that had not ended to its queue; the attempt does not count.",
        "Raise `--shutdown-timeout` if runs need longer.",
    )
    RUN_RELEASE_FAILED = (
        "run.release_failed",
        WORKER,
        ERROR,
        "A stopping worker could not return a run to its queue.",
        "Nothing: the run is recovered once the worker's lease expires.",
    )
    RUN_POSTPONED = (
        "run.postponed",
        WORKER,
        INFO,
        "`Ticket.perform()` did not start a run: it is not due, or a limit is reached (`reason`).",
        "Nothing.",
    )
    RUN_BLOCKED = (
        "run.blocked",
        ENQUEUE,
        INFO,
        "A run waits for a slot of its `Concurrency` limit.",
        "Raise the limit if runs wait too long.",
    )
    RUN_HELD = (
        "run.held",
        WORKER,
        INFO,
        "A message came for a run whose queue or operation is paused. The run waits, without an attempt.",
        "Resume the queue or the operation: `dexpy queues list` shows what is paused.",
    )
    RUNS_RESUMED = (
        "runs.resumed",
        ENQUEUE,
        INFO,
        "A pause is over, and the runs that it held are published again.",
        "Nothing.",
    )
    RUN_THROTTLED = (
        "run.throttled",
        ENQUEUE,
        INFO,
        "A run waits for the next start that its `Rate` limit allows.",
        "Raise the limit if runs wait too long.",
    )
    RUN_STUCK = (
        "run.stuck",
        WORKER,
        ERROR,
        "A run did not stop at its timeout. Its end is written, and it occupies a thread until it returns.",
        "Make `perform` interruptible: set timeouts for network calls and locks.",
    )
    RUN_END_NOT_WRITTEN = (
        "run.end_not_written",
        RECORDING,
        ERROR,
        "The database refused the end of a run. It is written with shorter texts, or retried; "
        "repetitions are WARNING or DEBUG.",
        "Check the disk, triggers and constraints of the records' database.",
    )
    RUN_END_WRITTEN = (
        "run.end_written",
        RECORDING,
        WARNING,
        "The end of a run was written after earlier attempts to write it failed.",
        "Nothing.",
    )
    ATTEMPT_RESTARTED = (
        "attempt.restarted",
        WORKER,
        INFO,
        "The transaction of an attempt conflicted with another one and is run again at once; no attempt is counted.",
        "Nothing.",
    )
    CLAIM_LOST = (
        "claim.lost",
        WORKER,
        WARNING,
        "An attempt ended after its claim had gone to another worker, or its record had changed; its "
        "effects are rolled back.",
        "Check for pauses of the process, and see `worker.lease_expired`.",
    )
    RETRY_RULE_FAILED = (
        "retry_rule.failed",
        WORKER,
        ERROR,
        "A retry rule, its `wait` function, or an attribute of the exception raised an error, so the run "
        "is not retried as declared.",
        "Fix the rule of the class.",
    )
    ON_ERROR_FAILED = (
        "on_error.failed",
        EXECUTION,
        ERROR,
        "`on_error` of an operation raised an error, which is ignored.",
        "Fix `on_error`.",
    )
    PARAMS_IGNORED = (
        "params.ignored",
        EXECUTION,
        INFO,
        "Stored params have keys that are no longer props of the class (`keys`).",
        "Nothing.",
    )
    PROGRESS_NOT_WRITTEN = (
        "progress.not_written",
        EXECUTION,
        WARNING,
        "The progress of a run could not be written; the run continues.",
        "Check the database.",
    )
    RESULT_NOT_DELIVERED = (
        "result.not_delivered",
        EXECUTION,
        WARNING,
        "The result of a run could not be passed to the awaiting coroutine yet; it is retried.",
        "Check the event loop of the application.",
    )
    EVENT_LOOP_FAILED = (
        "event_loop.failed",
        EXECUTION,
        ERROR,
        "The event loop for `async def perform` failed; the next run starts a new one.",
        "Check what the coroutines do with the loop.",
    )

    # Transactions
    AFTER_COMMIT_FAILED = (
        "after_commit.failed",
        TRANSACTIONS,
        ERROR,
        "An after-commit hook raised an error; the run has ended all the same. A second line at DEBUG "
        "has the traceback.",
        "Fix the hook.",
    )
    ROLLBACK_FAILED = (
        "rollback.failed",
        TRANSACTIONS,
        WARNING,
        "The rollback of a run failed after its error; the database ends the transaction with the connection.",
        "Check the database.",
    )

    # Workers
    WORKER_STARTED = (
        "worker.started",
        WORKER,
        INFO,
        "A worker process serves its queues.",
        "Nothing.",
    )
    WORKER_DRAINING = (
        "worker.draining",
        WORKER,
        INFO,
        "A worker process starts nothing new and waits for its runs to end; `reason` is why.",
        "Nothing.",
    )
    WORKER_RECYCLED = (
        "worker.recycled",
        WORKER,
        INFO,
        "A worker process reached a limit (`reason` is the setting), has finished its runs, and is replaced.",
        "Nothing.",
    )
    WORKER_STOPPED = (
        "worker.stopped",
        WORKER,
        INFO,
        "A worker process stopped.",
        "Nothing.",
    )
    HEALTH_STARTED = (
        "health.started",
        WORKER,
        INFO,
        "The health endpoint listens on `host` and `port`.",
        "Nothing.",
    )
    WORKER_FAILED = (
        "worker.failed",
        WORKER,
        ERROR,
        "The main thread of a worker process got an exception, for example from a signal handler of the "
        "application. The process ends.",
        "Fix the cause; the supervisor starts another process.",
    )
    WORKER_DIED = (
        "worker.died",
        WORKER,
        ERROR,
        "A worker process ended unexpectedly, and is replaced in `restart_in_s` seconds. A negative "
        "`exit_status` is a signal.",
        "Check the memory limit (-9), native code (-11), or the log before this line.",
    )
    WORKER_EXITED = (
        "worker.exited",
        WORKER,
        INFO,
        "A worker process ended by itself and logged the reason. It is replaced in `restart_in_s` seconds.",
        "See the line before.",
    )
    WORKER_KILLED = (
        "worker.killed",
        WORKER,
        ERROR,
        "A worker process did not end within its shutdown timeout and was killed; its runs are recovered.",
        "Raise `--shutdown-timeout`, or make runs end sooner.",
    )
    WORKER_STOP_FORCED = (
        "worker.stop_forced",
        WORKER,
        WARNING,
        "A second signal ends the worker processes at once.",
        "Nothing.",
    )
    WORKER_ORPHANED = (
        "worker.orphaned",
        WORKER,
        WARNING,
        "The supervisor of a worker process has gone, so the process stops.",
        "Find out why the supervisor ended.",
    )
    WORKER_STUCK = (
        "worker.stuck",
        WORKER,
        ERROR,
        "Every thread of a worker process runs something that did not stop at its timeout. The process "
        "ends and is replaced; an embedded worker runs nothing until its process is restarted.",
        "See `run.stuck`; restart the process of an embedded worker.",
    )
    WORKER_THREAD_DIED = (
        "worker.thread_died",
        WORKER,
        ERROR,
        "A thread of a worker process died and was replaced; its message is with the dead messages.",
        "Check that message and the log before this line.",
    )
    WORKER_DUMPED = (
        "worker.dumped",
        WORKER,
        INFO,
        "A signal requested what each thread of a process does; a `thread.dumped` for each follows. `count` is the "
        "number of runs.",
        "Nothing.",
    )
    WORKER_UNRESPONSIVE = (
        "worker.unresponsive",
        WORKER,
        WARNING,
        "A process did not answer the signal for a dump, because native code does not return; the interpreter writes "
        "the stacks of its threads to standard error.",
        "Find the native call in the stacks.",
    )
    THREAD_DUMPED = (
        "thread.dumped",
        WORKER,
        INFO,
        "What a thread of a worker process runs, if anything, and its stack.",
        "Nothing.",
    )
    WORKER_PAUSED = (
        "worker.paused",
        LIVENESS,
        WARNING,
        "The heartbeat of a process fails, so the process starts nothing new until it succeeds.",
        "Check the database and its load.",
    )
    WORKER_LEASE_EXPIRED = (
        "worker.lease_expired",
        LIVENESS,
        WARNING,
        "The lease of this process expired and its runs were recovered. It continues under a new id.",
        "Check whether the process was paused, or disconnected from the database.",
    )
    WORKER_REMOVED = (
        "worker.removed",
        RELAY,
        WARNING,
        "A dead worker was removed from the list of workers; its runs are recovered.",
        "Find out why it died.",
    )
    OPERATIONS_NOT_ANNOUNCED = (
        "operations.not_announced",
        LIVENESS,
        DEBUG,
        "A starting worker could not make the deferred messages due that it can run; they are polled later.",
        "Nothing.",
    )
    RELOAD_ENABLED = (
        "reload.enabled",
        WORKER,
        INFO,
        "The worker restarts its processes when a file of the application changes. WARNING in an environment for "
        "production.",
        "Remove `--reload` in production.",
    )
    FILES_CHANGED = (
        "files.changed",
        WORKER,
        INFO,
        "Files of the application changed (`files`, and `count` in all); the processes restart.",
        "Nothing.",
    )
    RELOAD_FAILED = (
        "reload.failed",
        WORKER,
        ERROR,
        "The processes cannot start with the changed files; the worker waits for the next change.",
        "Correct the error.",
    )
    CONSUMER_NOT_CLOSED = (
        "consumer.not_closed",
        WORKER,
        WARNING,
        "The consumer of a dead thread could not be closed; another one is started.",
        "Nothing.",
    )
    RECONCILIATION_FAILED = (
        "reconciliation.failed",
        LIVENESS,
        WARNING,
        "A record that this process claimed and does not run could not be ended; it is retried. DEBUG "
        "for a whole pass.",
        "Check the database.",
    )

    # Messages
    MESSAGE_REPUBLISHED = (
        "message.republished",
        RELAY,
        INFO,
        "The relay published messages again that were missing in the broker; `count` is how many.",
        "Check whether a queue was flushed or purged.",
    )
    MESSAGE_RETURNED = (
        "message.returned",
        WORKER,
        DEBUG,
        "A worker that does not know an operation returned its message to the queue for one that does.",
        "Nothing.",
    )
    MESSAGE_DEFERRED = (
        "message.deferred",
        WORKER,
        WARNING,
        "A worker does not know an operation, or a version of a message; the message waits for a worker "
        "that does. Logged once for each operation.",
        "Import the module of the operation in a worker of this queue.",
    )
    MESSAGE_REFUSED = (
        "message.refused",
        BROKER,
        ERROR,
        "A message is invalid or must not run; `reason` is why. With `dead=True` it is with the dead "
        "messages of its queue.",
        "Find out who sent it; see Security.",
    )
    MESSAGE_REQUEUED = (
        "message.requeued",
        BROKER,
        WARNING,
        "Messages in Redis that a process had fetched and not received were returned to their queue.",
        "Nothing.",
    )
    MESSAGE_LEASE_RELEASED = (
        "message.lease_released",
        BROKER,
        WARNING,
        "A process released messages in the database that it had leased without knowing: the reply of "
        "the database was lost.",
        "Nothing.",
    )
    MESSAGE_LEASE_NOT_RENEWED = (
        "message.lease_not_renewed",
        BROKER,
        WARNING,
        "The leases of messages in the database could not be renewed; it is retried.",
        "Check the database.",
    )
    MESSAGE_LEASE_LOST = (
        "message.lease_lost",
        BROKER,
        WARNING,
        "Messages that this process held are another process's or gone: their lease expired, or the queue was flushed.",
        "Check for pauses of the process.",
    )
    MESSAGE_NOT_ACKNOWLEDGED = (
        "message.not_acknowledged",
        BROKER,
        ERROR,
        "The end of a message in the database could not be written; the message is delivered again when "
        "its lease expires.",
        "Check the database.",
    )
    RECORD_NOT_CLAIMED = (
        "record.not_claimed",
        WORKER,
        DEBUG,
        "A message came for a record that is not pending, or not due; the message is acknowledged.",
        "Nothing.",
    )
    RECORD_OUTRANKED = (
        "record.outranked",
        WORKER,
        DEBUG,
        "A worker claimed a more urgent record (`claimed_run_id`) than that of its message.",
        "Nothing.",
    )
    RECORD_NOT_FOUND = (
        "record.not_found",
        WORKER,
        WARNING,
        "A message came for a record that does not exist: it was deleted, or is in another database.",
        "Check that workers and senders use the same database.",
    )

    # Queues and brokers
    BROKER_UNREACHABLE = (
        "broker.unreachable",
        BROKER,
        WARNING,
        "The broker does not answer. Records are stored and published later; workers reconnect. DEBUG "
        "for the heartbeat.",
        "Check the broker and the network.",
    )
    CONSUMER_TIMED_OUT = (
        "consumer.timed_out",
        BROKER,
        WARNING,
        "RabbitMQ closed a consumer, because a message was not acknowledged within `consumer_timeout`; it delivers the "
        "messages of the consumer again. Recorded runs continue, and a direct run may start again in another process.",
        "Set `consumer_timeout` in the URL of the broker, or raise it on the server.",
    )
    CONSUMER_TIMEOUT_EXCEEDED = (
        "consumer_timeout.exceeded",
        BROKER,
        WARNING,
        "At the start of a worker: runs of these operations may take longer than RabbitMQ's `consumer_timeout`. INFO "
        "if their messages are acknowledged before it, so that they run once.",
        "See `advice`: configure a database, or raise `consumer_timeout` on the server.",
    )
    QUEUE_REFUSED = (
        "queue.refused",
        BROKER,
        ERROR,
        "RabbitMQ refuses a queue, because it exists with other arguments.",
        "Delete the queue, or choose another name.",
    )
    QUEUE_IGNORED = (
        "queue.ignored",
        ENQUEUE,
        WARNING,
        "A queue with messages has an invalid name, and nothing is run from it.",
        "Delete its messages.",
    )
    QUEUE_UNSERVED = (
        "queue.unserved",
        ENQUEUE,
        WARNING,
        "No live worker serves the queue of a run that was enqueued. Logged once for each queue.",
        "Start a worker with `-Q` and the queue, or without `-Q`.",
    )
    QUEUE_NOT_CHECKED = (
        "queue.not_checked",
        ENQUEUE,
        DEBUG,
        "It could not be checked whether a worker serves a queue.",
        "Nothing.",
    )
    LISTENER_DISCONNECTED = (
        "listener.disconnected",
        BROKER,
        WARNING,
        "The connection for NOTIFY of PostgreSQL was lost; consumers poll until it is back.",
        "Check the database, if it persists.",
    )

    # Relay
    RELAY_FAILED = (
        "relay.failed",
        RELAY,
        WARNING,
        "A step of the relay failed (`task`); it is retried, and the other steps continue.",
        "Check the error and the database.",
    )
    RECOVERY_FAILED = (
        "recovery.failed",
        RELAY,
        DEBUG,
        "A waiting call could not recover the runs of dead processes; it continues to wait.",
        "Nothing.",
    )
    BATCH_FINISHED = (
        "batch.finished",
        RELAY,
        INFO,
        "All runs of a batch have ended; its callbacks are enqueued.",
        "Nothing.",
    )
    BATCH_NOT_CHECKED = (
        "batch.not_checked",
        RELAY,
        WARNING,
        "Whether a batch has ended could not be checked; the relay checks it again.",
        "If it repeats, check the error and the row of the batch in `operation_batches`.",
    )
    RECURRING_ENQUEUED = (
        "recurring.enqueued",
        RECURRING,
        DEBUG,
        "A run of a recurring task was enqueued for a tick.",
        "Nothing.",
    )
    RECURRING_MISSED = (
        "recurring.missed",
        RECURRING,
        WARNING,
        "`count` ticks of a recurring task had no run, because no worker enqueued them within its grace.",
        'Start a worker or a relay, or set `grace=` or `missed="latest"`.',
    )
    RECURRING_SKIPPED = (
        "recurring.skipped",
        RECURRING,
        INFO,
        "A tick had no run, because an earlier run is pending or running, or has the key of the class (`reason`).",
        "If it repeats, start more workers of the queue, or choose a longer interval.",
    )
    RECURRING_FAILED = (
        "recurring.failed",
        RECURRING,
        ERROR,
        "A run of a recurring task could not be enqueued; it is tried again while the tick is within its grace.",
        "Check the error, the props of the task and its row in `operation_recurring`.",
    )
    RECURRING_UNREADABLE = (
        "recurring.unreadable",
        RECURRING,
        ERROR,
        "The row of a recurring task has values that cannot be read (`columns`), so that it does not run.",
        "Correct the row in `operation_recurring`, or delete it.",
    )
    RECURRING_REGISTERED = (
        "recurring.registered",
        RECURRING,
        INFO,
        "A worker has registered a recurring task of its classes, or has registered it again.",
        "Nothing.",
    )
    RECURRING_CHANGED = (
        "recurring.changed",
        RECURRING,
        INFO,
        "A worker has replaced the definition of a recurring task by that of its own, newer release.",
        "Nothing.",
    )
    RECURRING_RETIRED = (
        "recurring.retired",
        RECURRING,
        WARNING,
        "No live worker declares a recurring task any more, so that it has no further ticks.",
        "Nothing if it was removed; otherwise start a worker that declares it.",
    )
    RECURRING_NOT_REGISTERED = (
        "recurring.not_registered",
        RECURRING,
        ERROR,
        "A recurring task of a class or a configuration file could not be registered (`reason`).",
        "Fix the cause, and restart the workers.",
    )
    SESSION_NOT_ENDED = (
        "session.not_ended",
        LIVENESS,
        WARNING,
        "The database sessions of a dead worker could not be ended; they may hold locks.",
        "Grant the privilege that `dexpy check` names.",
    )

    # Records
    RECORD_NOT_WRITTEN = (
        "record.not_written",
        RECORDING,
        ERROR,
        "The record of a call in place could not be written; the call has its result all the same. DEBUG "
        "if it is written later.",
        "Check the records' database.",
    )
    RECORD_NOT_UPDATED = (
        "record.not_updated",
        RECORDING,
        ERROR,
        "The database refused the update of one record (`action`); the others continue. Logged once for "
        "each record and error.",
        "Check triggers and constraints, and correct the record.",
    )
    RECORD_LOCKED = (
        "record.locked",
        RECORDING,
        DEBUG,
        "A record is locked by another transaction; it is retried.",
        "Nothing.",
    )
    RECORD_UNREADABLE = (
        "record.unreadable",
        DATABASE,
        WARNING,
        "A record has values that cannot be read (`columns`). Logged once for each record.",
        "Correct or delete the record in the database.",
    )
    VALUE_UNREADABLE = (
        "value.unreadable",
        DATABASE,
        WARNING,
        "A stored value of this `kind` cannot be read and counts as absent.",
        "Correct it in the database.",
    )
    RECORD_PARAMS_OMITTED = (
        "record.params_omitted",
        RECORDING,
        WARNING,
        "The params of a call in place are too large for the database and were not stored. DEBUG if they "
        "have no JSON form.",
        "Use smaller params, or raise the limit of the database.",
    )
    RECORD_COLUMN_OMITTED = (
        "record.column_omitted",
        RECORDING,
        WARNING,
        "A column of a record is too large together with others and was not stored.",
        "Raise `max_allowed_packet`.",
    )
    ONCE_ROLLED_BACK = (
        "once.rolled_back",
        RECORDING,
        WARNING,
        "A caller rolled back the effects of a run with an idempotency key; the key is free again.",
        "Nothing.",
    )
    HOOK_FAILED = (
        "hook.failed",
        WORKER,
        ERROR,
        "A hook of the application raised an error; it is not called again for this run, and the run is not affected.",
        "Fix the hook.",
    )
    HOOK_TIMED_OUT = (
        "hook.timed_out",
        WORKER,
        ERROR,
        "A hook of the application did not return in time; the next call begins while it goes on.",
        "Set a timeout in the hook, or enqueue an operation in it.",
    )
    HOOK_ABANDONED = (
        "hook.abandoned",
        WORKER,
        ERROR,
        "The process died in `count` calls of a hook for one run; it is not called again.",
        "Check whether the hook ends its process.",
    )
    HOOKS_SUSPENDED = (
        "hooks.suspended",
        WORKER,
        ERROR,
        "`count` calls of hooks hang in this process; it begins no others until one of them returns.",
        "Set a timeout in the hook, and restart the worker.",
    )
    RECORDS_ACCUMULATED = (
        "records.accumulated",
        RELAY,
        WARNING,
        "Very many ended records are stored.",
        "Set how long records are kept: `[retention]`, or `Recording(keep=...)`.",
    )
    RECORDS_PRUNED = (
        "records.pruned",
        RELAY,
        INFO,
        "Records of a class with a status were deleted, because their retention has passed; `count` is how many.",
        "Nothing.",
    )
    RECORD_NOT_DELETED = (
        "record.not_deleted",
        RECORDING,
        ERROR,
        "`prune` could not delete a record, because the database refused it.",
        "Check foreign keys and triggers.",
    )
    RECORDS_SKIPPED = (
        "records.skipped",
        RECORDING,
        WARNING,
        "`prune` skipped `count` records that could not be deleted.",
        "See `record.not_deleted`.",
    )
    WAIT_EXTENDED = (
        "wait.extended",
        RECORDING,
        DEBUG,
        "A call waits for a ticket for more than ten seconds (`timeout_s`).",
        "Nothing.",
    )
    REF_KEY_REFUSED = (
        "ref.key_refused",
        DECLARATION,
        WARNING,
        "The database refused the key of a `Ref`, so no row is found for it.",
        "Check the type of the key.",
    )

    # Database and process
    DATABASE_UNREACHABLE = (
        "database.unreachable",
        DATABASE,
        WARNING,
        "The database does not answer; `action` is retried in `retry_in_s` seconds. DEBUG for checks.",
        "Check the database and the network.",
    )
    DATABASE_FILE_REPLACED = (
        "database.file_replaced",
        DATABASE,
        ERROR,
        "The SQLite file was deleted or replaced while this process had it open.",
        "Restore the file, and restart processes that are not workers.",
    )
    DATABASE_LOCKED_LONG = (
        "database.locked_long",
        DATABASE,
        WARNING,
        "A run held the write lock of SQLite for long (`duration_ms`).",
        "Write late in `perform`, or set `transaction = False`.",
    )
    DATABASE_DEFAULTED = (
        "database.defaulted",
        RUNTIME,
        INFO,
        "No database is configured; the file at `path` is used.",
        "Set `DEXPY_DATABASE` for production.",
    )
    RECORDING_DISABLED = (
        "recording.disabled",
        RUNTIME,
        WARNING,
        "A broker and no database are configured, so runs are not recorded.",
        "Configure a database.",
    )
    SESSIONS_SEPARATED = (
        "sessions.separated",
        WORKER,
        WARNING,
        "The sessions of operations are in another database than the records: effects happen at least once.",
        "Use one database, or make effects idempotent by `self.run_id`.",
    )
    CLOCK_SKEWED = (
        "clock.skewed",
        WORKER,
        WARNING,
        "The clocks of this machine and the database differ by `ahead_s` seconds.",
        "Synchronize both by NTP.",
    )
    TASK_FAILED = (
        "task.failed",
        RUNTIME,
        WARNING,
        "A periodic task raised an error; it is retried in `retry_in_s` seconds.",
        "Check the error.",
    )
    FORK_FAILED = (
        "fork.failed",
        RUNTIME,
        ERROR,
        "A child that a run forked raised an error; the child ends where it leaves `perform`.",
        "Fix the child, or use a new interpreter.",
    )
    REDACTOR_FAILED = (
        "redactor.failed",
        RUNTIME,
        ERROR,
        "The redactor of the application raised an error; the text is replaced by `<sensitive>`.",
        "Fix the redactor.",
    )
    REDACTOR_VALUE_SKIPPED = (
        "redactor.value_skipped",
        RUNTIME,
        DEBUG,
        "A sensitive value could not be written as text, so it cannot be found in texts.",
        "Fix `__str__` of its class.",
    )

    def __init__(self, event: str, logger_name: str, level: int, meaning: str, action: str) -> None:
        self.event = event
        self.logger = logging.getLogger(logger_name)
        self.level = level
        self.meaning = meaning
        self.action = action
