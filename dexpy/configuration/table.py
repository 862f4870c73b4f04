"""All settings as data: keys of the file, variables and flags are derived from this table."""

from __future__ import annotations

import os
from typing import Any

import attrs

from dexpy.configuration.kinds import (
    Applications,
    Arguments,
    Choice,
    Duration,
    KeepDuration,
    Kind,
    Number,
    QueueName,
    Queues,
    ScheduleText,
    Secret,
    Size,
    Switch,
    Text,
    Url,
    Zone,
)
from dexpy.declaration.recurring import MISSED, OVERLAPS, SHORTEST_GRACE_S
from dexpy.foundation.log_events import LOG_FORMATS
from dexpy.policies.keep import FOREVER, LONGEST_KEEP_S, SHORTEST_KEEP_S, STATUSES
from dexpy.policies.queue_limit import BLOCK_TIMEOUT_S, LONGEST_BLOCK_S, MOST_PENDING, ON_FULL

PREFIX = "DEXPY_"
TOP, WORKERS, RELAY, RETENTION, HEALTH = "", "workers", "relay", "retention", "health"
QUEUES, RECURRING = "queues", "recurring"
"""The tables of the file."""
SECTIONS = {
    TOP: "settings",
    WORKERS: "worker-groups",
    RELAY: "relay",
    RETENTION: "retention",
    HEALTH: "health",
    QUEUES: "queues",
    RECURRING: "recurring-tasks",
}
"""The section of the page on configuration for each table."""
DAY_S = 86400.0
SHORTEST_RECOVERY_S = 5.0
"""The smallest ``recover_within``, in seconds; with less, the lease of a busy worker would expire."""
LONGEST_RECOVERY_S = 100 * DAY_S
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
"""The form of the names of worker groups and environments."""


@attrs.frozen
class Setting:
    """One setting.

    Attributes:
        key: Its key in the file; after a dot for a key of a table, for example ``relay.interval``.
        kind: The kind of its values.
        summary: What it sets, as the help of its flag.
        default: Its value if nothing sets it; None for "not set".
        default_text: The default for readers, if the kind does not display it.
        short: The short form of its flag.
        in_file: Whether the file may set it.
        has_variable: Whether a variable may set it.
        has_flag: Whether a flag may set it.
        is_required: Whether a table that holds it must set it.
    """

    key: str
    kind: Kind
    summary: str
    default: Any = None
    default_text: str = ""
    short: str = ""
    in_file: bool = True
    has_variable: bool = True
    has_flag: bool = True
    is_required: bool = False

    @property
    def table(self) -> str:
        """The table of the file that holds it; "" for the top level."""
        return self.key.rpartition(".")[0]

    @property
    def page(self) -> str:
        """The section of the documentation."""
        return f"reference/configuration.md#{SECTIONS[self.table]}"

    @property
    def name(self) -> str:
        """The key within its table."""
        return self.key.rpartition(".")[2]

    @property
    def parameter(self) -> str:
        """The name of the parameter of a command."""
        return self.name if self.table in (TOP, WORKERS) else self.key.replace(".", "_")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.parameter.upper()

    @property
    def flag(self) -> str:
        """The flag of the command line."""
        return "--" + self.parameter.replace("_", "-")

    @property
    def displayed_default(self) -> str:
        """The default as text."""
        if self.is_required:
            return "required"
        return self.default_text or ("none" if self.default is None else self.kind.display(self.default))

    @property
    def plain_default(self) -> str:
        """The default as text without markup."""
        return self.displayed_default.replace("`", "")


def _key(key: str, kind: Kind, summary: str, default: Any = None, **options: Any) -> Setting:
    return Setting(key, kind, summary, default, **options)


_FILE_ONLY = {"has_variable": False, "has_flag": False}

SETTINGS = {
    setting.key: setting
    for setting in (
        _key(
            "config",
            Text("the path of a file"),
            "The configuration file.",
            in_file=False,
            default_text="`dexpy.toml` or `pyproject.toml`, found upwards",
        ),
        _key(
            "env",
            Text("a name of letters, digits, '.', '_' or '-'", NAME),
            "The environment: its table of the file takes precedence over the top level.",
            "default",
            in_file=False,
        ),
        _key(
            "app",
            Applications(),
            "The application: modules to import, or applications in them to load.",
            default_text="none",
            short="-A",
        ),
        _key("database", Url(), "The database of the records.", default_text="`sqlite:///dexpy.db`"),
        _key("broker", Url(), "The transport of the messages.", default_text="the database of the records"),
        _key(
            "table_prefix",
            Text("at most 24 lowercase letters, digits and '_', with a letter first", r"[a-z][a-z0-9_]{0,23}"),
            "The prefix of the names of all tables.",
            default_text="none",
        ),
        _key(
            "schema",
            Text("a name of letters, digits, '_', '-' or '$'", r"[A-Za-z_][A-Za-z0-9_$-]{0,62}"),
            "The schema of the tables on PostgreSQL, or their database on MariaDB and MySQL.",
            default_text="that of the connection",
        ),
        _key(
            "recover_within",
            Duration(SHORTEST_RECOVERY_S, LONGEST_RECOVERY_S),
            "The time within which the runs of dead workers and lost messages are recovered.",
            60.0,
        ),
        _key("zone", Zone(), "The time zone of schedules without one.", default_text="`UTC`"),
        _key("skip_recurring", Switch(), "Whether this process enqueues no ticks of recurring tasks.", False),
        _key(
            "accept_unbound_ciphertext",
            Switch(),
            "Whether to decrypt ciphertext of earlier dexpy releases that is not bound to its row.",
            False,
        ),
        _key(
            "log_format",
            Choice(LOG_FORMATS, "`text` or `json`"),
            "The format of log lines on the standard streams of workers and relays.",
            default_text="that of the application's handlers",
        ),
        _key(
            "dump_signal",
            Choice(("USR1", "USR2", "off"), "`USR1`, `USR2` or `off`"),
            "The signal at which worker processes log the stacks of their threads.",
            "USR1",
        ),
        _key(
            "encryption_keys",
            Secret(),
            "The keys of the encryptor `default`, separated by commas; the first one encrypts.",
            in_file=False,
            has_flag=False,
        ),
        _key(
            "workers.name",
            Text("a name of letters, digits, '.', '_' or '-'", NAME),
            "The name of the group.",
            default_text="its position, from 1",
            **_FILE_ONLY,
        ),
        _key(
            "workers.queues",
            Queues(),
            "The queues to serve, the most urgent first.",
            default_text="`*`, all",
            short="-Q",
        ),
        _key(
            "workers.threads", Number(1, 1000, "threads"), "Operations that run at once in each process.", 8, short="-t"
        ),
        _key(
            "workers.processes",
            Number(1, 1000, "processes"),
            "Worker processes.",
            default_text="one for each CPU",
            short="-p",
        ),
        _key(
            "workers.polling_interval",
            Duration(0.01, 10.0),
            "The longest pause between two polls of an idle queue.",
            0.1,
        ),
        _key(
            "workers.shutdown_timeout",
            Duration(0.0, DAY_S),
            "The time that running operations may take to end after TERM.",
            30.0,
        ),
        _key(
            "workers.max_runs",
            Number(1, 10**9, 'runs or `"unlimited"`', "unlimited"),
            "The runs after which a process is replaced, or up to a tenth less.",
            default_text="`unlimited`",
        ),
        _key(
            "workers.max_memory",
            Size(16 * 10**6, 10**15, "unlimited", 'size or `"unlimited"`'),
            "The resident memory at which a process is replaced, or up to a tenth less.",
            default_text="`unlimited`",
        ),
        _key(
            "relay.interval",
            Duration(0.05, 600.0),
            "The pause between two polls for due records without a message.",
            0.5,
        ),
        _key("relay.batch_size", Number(1, 10000, "records"), "Records that are published in one transaction.", 100),
        *(
            _key(
                f"retention.{status}",
                KeepDuration(Duration(SHORTEST_KEEP_S, LONGEST_KEEP_S)),
                f"How long records that ended as `{status}` are kept, unless their class declares it.",
                default_text=f"`{FOREVER}`",
            )
            for status in STATUSES
        ),
        _key(
            "retention.interval",
            Duration(1.0, 30 * DAY_S),
            "The pause between two rounds of deletion in each worker and relay.",
            600.0,
        ),
        _key("retention.batch_size", Number(1, 10000, "records"), "Records that are deleted in one transaction.", 200),
        _key("retention.prune", Switch(), "Whether workers and relays delete old records.", True),
        _key(
            "health.port",
            Number(0, 65535, "port"),
            "The port of the health endpoint of `dexpy worker`; 0 for any free port.",
            default_text="none: there is no endpoint",
        ),
        _key(
            "health.host",
            Text("a host name or an address, such as 127.0.0.1 or 0.0.0.0", r"[0-9A-Za-z:.%_-]{1,255}"),
            "The address that it listens on.",
            "127.0.0.1",
        ),
        _key(
            "queues.max_pending",
            Number(1, MOST_PENDING, "runs"),
            "The number of pending runs at which the queue is full.",
            is_required=True,
            **_FILE_ONLY,
        ),
        _key(
            "queues.on_full",
            Choice(ON_FULL, "`reject` or `block`"),
            "Whether an enqueue into a full queue is refused, or waits for room.",
            "reject",
            **_FILE_ONLY,
        ),
        _key(
            "queues.block_timeout",
            Duration(0.0, LONGEST_BLOCK_S),
            "How long it waits at most, with `block`.",
            BLOCK_TIMEOUT_S,
            **_FILE_ONLY,
        ),
        _key(
            "recurring.class",
            Text("the name of an operation, such as 'shop.SyncInventory'", r"[^\0]{1,255}"),
            "The name of the operation.",
            is_required=True,
            **_FILE_ONLY,
        ),
        _key(
            "recurring.schedule",
            ScheduleText(),
            "The schedule, a phrase or a cron expression.",
            is_required=True,
            **_FILE_ONLY,
        ),
        _key("recurring.zone", Zone(), "The time zone of the schedule.", default_text="`UTC`", **_FILE_ONLY),
        _key("recurring.args", Arguments(), "The props of each run.", default_text="none", **_FILE_ONLY),
        _key("recurring.queue", QueueName(), "The queue of its runs.", default_text="that of the class", **_FILE_ONLY),
        _key(
            "recurring.priority",
            Number(-(2**31), 2**31 - 1),
            "Their priority; higher runs sooner.",
            default_text="that of the class",
            **_FILE_ONLY,
        ),
        _key(
            "recurring.grace",
            Duration(SHORTEST_GRACE_S, 3660 * DAY_S),
            "A tick that is enqueued later than this is missed.",
            default_text="the interval of the schedule, at most 5m",
            **_FILE_ONLY,
        ),
        _key(
            "recurring.missed",
            Choice(MISSED, "`skip` or `latest`"),
            "Which missed ticks have a run: none, or the newest one.",
            "skip",
            **_FILE_ONLY,
        ),
        _key(
            "recurring.max_waiting",
            Number(1, 1, '`1` or `"unlimited"`', "unlimited"),
            "The number of pending runs of the task at which a tick is skipped.",
            1,
            **_FILE_ONLY,
        ),
        _key(
            "recurring.overlap",
            Choice(OVERLAPS, "`allow` or `skip`"),
            "Whether a tick has a run although an earlier one is running.",
            "allow",
            **_FILE_ONLY,
        ),
        _key("recurring.jitter", Duration(0.0, DAY_S), "The longest delay of a run after its tick.", 0.0, **_FILE_ONLY),
        _key(
            "recurring.run_at_start",
            Switch(),
            "Whether it also runs when it is registered for the first time.",
            False,
            **_FILE_ONLY,
        ),
    )
}
"""All settings by key."""


def settings_of(table: str) -> dict[str, Setting]:
    """Return the settings of a table of the file, by their name in it."""
    return {setting.name: setting for setting in SETTINGS.values() if setting.table == table and setting.in_file}


def default_of(key: str) -> Any:
    """Return the default of a setting.

    Args:
        key: Its key in the table of settings.
    """
    return (os.cpu_count() or 1) if key == "workers.processes" else SETTINGS[key].default
