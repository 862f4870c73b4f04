CREATE TABLE public.dexpy_messages (
    id bigint NOT NULL,
    queue character varying(255) NOT NULL,
    priority integer DEFAULT 0 NOT NULL,
    due_at timestamp with time zone NOT NULL,
    owner character varying(64),
    leased_until timestamp with time zone,
    message_id character varying(255) NOT NULL,
    payload text NOT NULL,
    dead boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone NOT NULL
);

CREATE SEQUENCE public.dexpy_messages_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.dexpy_messages_id_seq OWNED BY public.dexpy_messages.id;

CREATE TABLE public.operation_attempts (
    record_id character varying(40) NOT NULL,
    number integer NOT NULL,
    claim_token integer NOT NULL,
    worker character varying(64),
    started_at timestamp with time zone,
    ended_at timestamp with time zone NOT NULL,
    failure character varying(16) NOT NULL,
    error character varying(255),
    error_message text,
    traceback text
);

CREATE TABLE public.operation_gates (
    key character varying(64) NOT NULL,
    created_at timestamp with time zone NOT NULL
);

CREATE TABLE public.operation_queues (
    name character varying(64) NOT NULL,
    created_at timestamp with time zone NOT NULL
);

CREATE TABLE public.operation_records (
    id character varying(40) NOT NULL,
    operation character varying(255) NOT NULL,
    params json,
    result json,
    status character varying(16) NOT NULL,
    error character varying(255),
    failure character varying(16),
    error_message text,
    error_details json,
    queue character varying(64) DEFAULT 'default'::character varying NOT NULL,
    priority integer DEFAULT 0 NOT NULL,
    scheduled_at timestamp with time zone,
    enqueued_at timestamp with time zone,
    send_count integer DEFAULT 0 NOT NULL,
    started_at timestamp with time zone,
    completed_at timestamp with time zone,
    expires_at timestamp with time zone,
    num_attempts integer DEFAULT 0 NOT NULL,
    num_lost integer DEFAULT 0 NOT NULL,
    loss_limit integer,
    retry_counts json,
    claim_token integer DEFAULT 0 NOT NULL,
    claimed_by character varying(64),
    once_key character varying(64),
    once_digest character varying(64),
    once_expires_at timestamp with time zone,
    unique_key character varying(64),
    unique_digest character varying(64),
    unique_until character varying(8),
    unique_expires_at timestamp with time zone,
    idempotence_token character varying(255),
    concurrency_key character varying(64),
    blocked_key character varying(64),
    recurring_key character varying(255),
    run_at timestamp with time zone,
    parent_id character varying(40),
    trace_id character varying(64),
    trace json,
    actor_type character varying(64),
    actor_id character varying(255),
    tags json,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    previous_run_at timestamp with time zone,
    run_zone character varying(64),
    CONSTRAINT ck_operation_status CHECK (((status)::text = ANY ((ARRAY['pending'::character varying, 'running'::character varying, 'done'::character varying, 'failed'::character varying, 'expired'::character varying, 'cancelled'::character varying])::text[])))
);

CREATE TABLE public.operation_recurring (
    key character varying(255) NOT NULL,
    operation character varying(255) NOT NULL,
    params json,
    schedule character varying(255) NOT NULL,
    zone character varying(64),
    queue character varying(64),
    priority integer,
    options json,
    source character varying(8) NOT NULL,
    definition character varying(64) NOT NULL,
    declared_at timestamp with time zone,
    next_at timestamp with time zone,
    last_at timestamp with time zone,
    last_run_id character varying(40),
    missed_count integer DEFAULT 0 NOT NULL,
    first_missed_at timestamp with time zone,
    last_missed_at timestamp with time zone,
    skipped_count integer DEFAULT 0 NOT NULL,
    last_skipped_at timestamp with time zone,
    paused_at timestamp with time zone,
    paused_by character varying(255),
    pause_reason text,
    paused_until timestamp with time zone,
    until_at timestamp with time zone,
    remaining integer,
    undeclared_at timestamp with time zone,
    retired_at timestamp with time zone,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL
);

CREATE TABLE public.operation_schema (
    version integer NOT NULL,
    applied_at timestamp with time zone NOT NULL
);

CREATE TABLE public.operation_signals (
    record_id character varying(40) NOT NULL,
    cancel_requested_at timestamp with time zone,
    progress json
);

CREATE TABLE public.operation_steps (
    record_id character varying(40) NOT NULL,
    "position" integer NOT NULL,
    name character varying(255) NOT NULL,
    finished boolean NOT NULL,
    cursor json,
    value json,
    claim_token integer NOT NULL,
    updated_at timestamp with time zone NOT NULL
);

CREATE TABLE public.operation_worker_names (
    worker character varying(64) NOT NULL,
    names json,
    recurring_keys json
);

CREATE TABLE public.operation_worker_sessions (
    worker character varying(64) NOT NULL,
    backend character varying(96) NOT NULL
);

CREATE TABLE public.operation_workers (
    id character varying(64) NOT NULL,
    host character varying(255) NOT NULL,
    pid integer NOT NULL,
    threads integer NOT NULL,
    queues json,
    started_at timestamp with time zone NOT NULL,
    beat_at timestamp with time zone NOT NULL,
    leased_until timestamp with time zone NOT NULL
);

CREATE TABLE public.sent_invoices (
    id integer NOT NULL,
    number integer NOT NULL,
    run character varying(40) NOT NULL
);

CREATE SEQUENCE public.sent_invoices_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.sent_invoices_id_seq OWNED BY public.sent_invoices.id;

ALTER TABLE ONLY public.dexpy_messages ALTER COLUMN id SET DEFAULT nextval('public.dexpy_messages_id_seq'::regclass);

ALTER TABLE ONLY public.sent_invoices ALTER COLUMN id SET DEFAULT nextval('public.sent_invoices_id_seq'::regclass);

INSERT INTO public.dexpy_messages VALUES (8, 'default', 0, '2026-11-30 17:11:28.719712+00', 'vm:11841:eeec1d85e6ad', '2026-11-30 17:11:59.231849+00', 'bb2e2857-2771-4af4-ab2f-ca6c6f6cc31b', '{"queue_name":"default","actor_name":"dexpy.RecordJob","args":[],"kwargs":{"class_name":"invoices.collect","record_id":"op_01m8pq1b6e27969q8wsb6qx2pj","trace":{"id":"tr_01m8pq1b6e27969q9msg7r2q5a"}},"options":{"dexpy":{"v":1}},"message_id":"bb2e2857-2771-4af4-ab2f-ca6c6f6cc31b","message_timestamp":1796058688718}', false, '2026-11-30 17:11:28.719693+00');
INSERT INTO public.dexpy_messages VALUES (9, 'default', 0, '2026-11-30 17:11:29.88205+00', NULL, NULL, 'bc5519d2-ddc1-4254-9db8-acb3798a3743', '{"queue_name":"default","actor_name":"dexpy.RecordJob","args":[],"kwargs":{"class_name":"invoices.send","record_id":"op_01m8pq1caq1n4yx3ytp2jnmht9","trace":{"id":"tr_01m8pq1caq1n4yx41wn4n8q1j9"}},"options":{"dexpy":{"v":1}},"message_id":"bc5519d2-ddc1-4254-9db8-acb3798a3743","message_timestamp":1796058689880}', false, '2026-11-30 17:11:29.88203+00');
INSERT INTO public.dexpy_messages VALUES (10, 'default', 0, '2126-11-06 17:11:29.887042+00', NULL, NULL, '99b4bd28-b938-422e-998e-4011bf08b194', '{"queue_name":"default","actor_name":"dexpy.RecordJob","args":[],"kwargs":{"class_name":"invoices.send","record_id":"op_01m8pq1cavczqz05jyes27dd2j","trace":{"id":"tr_01m8pq1cavczqz05tqd4cqsjxd"}},"options":{"dexpy":{"v":1}},"message_id":"99b4bd28-b938-422e-998e-4011bf08b194","message_timestamp":1796058689884}', false, '2026-11-30 17:11:29.887024+00');

INSERT INTO public.operation_attempts VALUES ('op_01m8pq1a5v5j624x5b6w0jrmq6', 1, 1, 'vm:11818:5hkqqk0rvg', '2026-11-30 17:11:28.459565+00', '2026-11-30 17:11:28.469752+00', 'business', 'no_customer', 'Invoice 0 has no customer', NULL);
INSERT INTO public.operation_attempts VALUES ('op_01m8pq1a5w992tv27xwxj2fqw4', 1, 1, 'vm:11818:5hkqqk0rvg', '2026-11-30 17:11:28.471989+00', '2026-11-30 17:11:28.483772+00', 'crash', 'ConnectionError', 'the mail server is away', '/tmp/wt/dumps/tests/apps/invoices.py:39 perform');
INSERT INTO public.operation_attempts VALUES ('op_01m8pq1a5y5c3t8s1az686f7n4', 1, 1, 'vm:11818:5hkqqk0rvg', '2026-11-30 17:11:28.475969+00', '2026-11-30 17:11:28.67674+00', 'cancelled', 'dexpy.errors.Cancelled', 'The run was cancelled while it ran.', '/tmp/wt/dumps/tests/apps/invoices.py:74 perform');

INSERT INTO public.operation_records VALUES ('op_01m8pq1a425p854fwhk20d0p8s', 'invoices.send', '{"number": 4}', NULL, 'cancelled', NULL, 'cancelled', 'Cancelled on request.', NULL, 'default', 0, NULL, '2026-11-30 17:11:27.651516+00', 1, NULL, '2026-11-30 17:11:27.661746+00', NULL, 0, 0, 4, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8pq1a425p854fy0ykxaktvm', '{"id": "tr_01m8pq1a425p854fy0ykxaktvm", "actor": null, "stack": [["op_01m8pq1a425p854fwhk20d0p8s", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 17:11:27.651516+00', '2026-11-30 17:11:27.661747+00', NULL, NULL);
INSERT INTO public.operation_records VALUES ('op_01m8pq1a5e03s35nt0cwyrq7wf', 'invoices.send', '{"number": 5}', NULL, 'expired', NULL, 'expired', 'Expired on request.', NULL, 'default', 0, NULL, '2026-11-30 17:11:27.66358+00', 1, NULL, '2026-11-30 17:11:27.667922+00', NULL, 0, 0, 4, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8pq1a5e03s35p0ttwvv9fwq', '{"id": "tr_01m8pq1a5e03s35p0ttwvv9fwq", "actor": null, "stack": [["op_01m8pq1a5e03s35nt0cwyrq7wf", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 17:11:27.66358+00', '2026-11-30 17:11:27.667922+00', NULL, NULL);
INSERT INTO public.operation_records VALUES ('op_01m8pq1a5m5tdwt9h9v44fnvnt', 'invoices.send', '{"number": 1}', '{"value": 1}', 'done', NULL, NULL, NULL, NULL, 'default', 0, NULL, '2026-11-30 17:11:27.669643+00', 1, '2026-11-30 17:11:28.439522+00', '2026-11-30 17:11:28.453694+00', NULL, 1, 0, 4, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8pq1a5m5tdwt9j05vpe8gv6', '{"id": "tr_01m8pq1a5m5tdwt9j05vpe8gv6", "actor": null, "stack": [["op_01m8pq1a5m5tdwt9h9v44fnvnt", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 17:11:27.669644+00', '2026-11-30 17:11:28.453694+00', NULL, NULL);
INSERT INTO public.operation_records VALUES ('op_01m8pq1a5q4h1qct3pjj559dmf', 'invoices.send_once', '{"number": 2}', '{"value": 2}', 'done', NULL, NULL, NULL, NULL, 'default', 0, NULL, '2026-11-30 17:11:27.674321+00', 1, '2026-11-30 17:11:28.452555+00', '2026-11-30 17:11:28.459874+00', NULL, 1, 0, 4, NULL, 1, NULL, 'f0d8c99935422397005ab2b4f54f3e9c1c8f863c9641dd3d866bc18e10f3c1c6', 'f0d8c99935422397005ab2b4f54f3e9c1c8f863c9641dd3d866bc18e10f3c1c6', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8pq1a5q4h1qct3yzkk6g6fq', '{"id": "tr_01m8pq1a5q4h1qct3yzkk6g6fq", "actor": null, "stack": [["op_01m8pq1a5q4h1qct3pjj559dmf", "invoices.send_once"]]}', NULL, NULL, NULL, '2026-11-30 17:11:27.674321+00', '2026-11-30 17:11:28.459874+00', NULL, NULL);
INSERT INTO public.operation_records VALUES ('op_01m8pq1a5v5j624x5b6w0jrmq6', 'invoices.send', '{"number": 0}', NULL, 'failed', 'no_customer', 'business', 'Invoice 0 has no customer', NULL, 'default', 0, NULL, '2026-11-30 17:11:27.675964+00', 1, '2026-11-30 17:11:28.459565+00', '2026-11-30 17:11:28.466134+00', NULL, 1, 0, 4, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8pq1a5v5j624xbrcw5kn73y', '{"id": "tr_01m8pq1a5v5j624xbrcw5kn73y", "actor": null, "stack": [["op_01m8pq1a5v5j624x5b6w0jrmq6", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 17:11:27.675964+00', '2026-11-30 17:11:28.466134+00', NULL, NULL);
INSERT INTO public.operation_records VALUES ('op_01m8pq1a5w992tv27xwxj2fqw4', 'invoices.send', '{"number": 13}', NULL, 'failed', 'ConnectionError', 'crash', 'the mail server is away', NULL, 'default', 0, NULL, '2026-11-30 17:11:27.677292+00', 1, '2026-11-30 17:11:28.471989+00', '2026-11-30 17:11:28.47754+00', NULL, 1, 0, 4, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8pq1a5w992tv286dzqjp71s', '{"id": "tr_01m8pq1a5w992tv286dzqjp71s", "actor": null, "stack": [["op_01m8pq1a5w992tv27xwxj2fqw4", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 17:11:27.677292+00', '2026-11-30 17:11:28.47754+00', NULL, NULL);
INSERT INTO public.operation_records VALUES ('op_01m8pq1a5y5c3t8s1az686f7n4', 'invoices.cancel_itself', '{}', NULL, 'cancelled', 'dexpy.errors.Cancelled', 'cancelled', 'The run was cancelled while it ran.', NULL, 'default', 0, NULL, '2026-11-30 17:11:27.679034+00', 1, '2026-11-30 17:11:28.475969+00', '2026-11-30 17:11:28.675211+00', NULL, 1, 0, 4, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8pq1a5y5c3t8s3mh9ex6yvt', '{"id": "tr_01m8pq1a5y5c3t8s3mh9ex6yvt", "actor": null, "stack": [["op_01m8pq1a5y5c3t8s1az686f7n4", "invoices.cancel_itself"]]}', NULL, NULL, NULL, '2026-11-30 17:11:27.679035+00', '2026-11-30 17:11:28.675211+00', NULL, NULL);
INSERT INTO public.operation_records VALUES ('op_01m8pq1b6e27969q8wsb6qx2pj', 'invoices.collect', '{"number": 6}', NULL, 'running', NULL, NULL, NULL, NULL, 'default', 0, NULL, '2026-11-30 17:11:28.719137+00', 1, '2026-11-30 17:11:29.238378+00', NULL, NULL, 1, 0, 4, NULL, 1, 'vm:11841:7m7zycfp7z', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8pq1b6e27969q9msg7r2q5a', '{"id": "tr_01m8pq1b6e27969q9msg7r2q5a", "actor": null, "stack": [["op_01m8pq1b6e27969q8wsb6qx2pj", "invoices.collect"]]}', NULL, NULL, NULL, '2026-11-30 17:11:28.719137+00', '2026-11-30 17:11:29.238378+00', NULL, NULL);
INSERT INTO public.operation_records VALUES ('op_01m8pq1caq1n4yx3ytp2jnmht9', 'invoices.send', '{"number": 7}', NULL, 'pending', NULL, NULL, NULL, NULL, 'default', 0, NULL, '2026-11-30 17:11:29.88123+00', 1, NULL, NULL, NULL, 0, 0, 4, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8pq1caq1n4yx41wn4n8q1j9', '{"id": "tr_01m8pq1caq1n4yx41wn4n8q1j9", "actor": null, "stack": [["op_01m8pq1caq1n4yx3ytp2jnmht9", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 17:11:29.88123+00', '2026-11-30 17:11:29.88123+00', NULL, NULL);
INSERT INTO public.operation_records VALUES ('op_01m8pq1cavczqz05jyes27dd2j', 'invoices.send', '{"number": 8}', NULL, 'pending', NULL, NULL, NULL, NULL, 'default', 0, '2126-11-06 17:11:29.886048+00', '2026-11-30 17:11:29.886048+00', 1, NULL, NULL, NULL, 0, 0, 4, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8pq1cavczqz05tqd4cqsjxd', '{"id": "tr_01m8pq1cavczqz05tqd4cqsjxd", "actor": null, "stack": [["op_01m8pq1cavczqz05jyes27dd2j", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 17:11:29.886049+00', '2026-11-30 17:11:29.886049+00', NULL, NULL);

INSERT INTO public.operation_recurring VALUES ('nightly', 'invoices.send', '{"number": 14}', 'every day at 3am', 'Europe/Rome', NULL, NULL, '{"grace_s": null, "missed": "skip", "max_waiting": 1, "overlap": "allow", "jitter_s": 0.0, "requires_class": false, "loss_limit": null}', 'api', '0b6fee698ea88de4ff33702e080ddf32b367cbe2929db0c46e5802baf3bf0e69', NULL, '2026-12-01 02:00:00+00', NULL, NULL, 0, NULL, NULL, 0, NULL, '2026-11-30 17:11:28.715173+00', 'an operator', 'not yet', NULL, NULL, NULL, NULL, NULL, '2026-11-30 17:11:28.705071+00', '2026-11-30 17:11:28.715173+00');

INSERT INTO public.operation_schema VALUES (3, '2026-11-30 17:11:27.541797+00');

INSERT INTO public.operation_signals VALUES ('op_01m8pq1a5y5c3t8s1az686f7n4', '2026-11-30 17:11:28.493346+00', NULL);

INSERT INTO public.operation_steps VALUES ('op_01m8pq1b6e27969q8wsb6qx2pj', 0, 'total', true, NULL, '{"value": 106}', 1, '2026-11-30 17:11:29.262137+00');

INSERT INTO public.operation_worker_names VALUES ('vm:11818:5hkqqk0rvg', '["dexpy.deferred.DeferredCall", "invoices.cancel_itself", "invoices.collect", "invoices.send", "invoices.send_once"]', '{"started_at": "2026-11-30T17:11:28.414804+00:00", "keys": {}}');
INSERT INTO public.operation_worker_names VALUES ('vm:11841:7m7zycfp7z', '["dexpy.deferred.DeferredCall", "invoices.cancel_itself", "invoices.collect", "invoices.send", "invoices.send_once"]', '{"started_at": "2026-11-30T17:11:29.229759+00:00", "keys": {}}');

INSERT INTO public.operation_worker_sessions VALUES ('vm:11818:5hkqqk0rvg', '11833/1796058688.396800');
INSERT INTO public.operation_worker_sessions VALUES ('vm:11818:5hkqqk0rvg', '11835/1796058688.398175');
INSERT INTO public.operation_worker_sessions VALUES ('vm:11818:5hkqqk0rvg', '11827/1796058688.388559');
INSERT INTO public.operation_worker_sessions VALUES ('vm:11818:5hkqqk0rvg', '11831/1796058688.391548');
INSERT INTO public.operation_worker_sessions VALUES ('vm:11818:5hkqqk0rvg', '11838/1796058688.430725');
INSERT INTO public.operation_worker_sessions VALUES ('vm:11818:5hkqqk0rvg', '11839/1796058688.436438');
INSERT INTO public.operation_worker_sessions VALUES ('vm:11841:7m7zycfp7z', '11856/1796058689.207278');
INSERT INTO public.operation_worker_sessions VALUES ('vm:11841:7m7zycfp7z', '11851/1796058689.203696');
INSERT INTO public.operation_worker_sessions VALUES ('vm:11841:7m7zycfp7z', '11858/1796058689.207648');
INSERT INTO public.operation_worker_sessions VALUES ('vm:11841:7m7zycfp7z', '11854/1796058689.205004');

INSERT INTO public.operation_workers VALUES ('vm:11818:5hkqqk0rvg', 'vm', 11818, 4, NULL, '2026-11-30 17:11:28.380228+00', '2026-11-30 17:11:28.380228+00', '2026-11-30 17:11:58.380228+00');
INSERT INTO public.operation_workers VALUES ('vm:11841:7m7zycfp7z', 'vm', 11841, 4, NULL, '2026-11-30 17:11:29.195613+00', '2026-11-30 17:11:29.195613+00', '2026-11-30 17:11:59.195613+00');

INSERT INTO public.sent_invoices VALUES (1, 1, 'op_01m8pq1a5m5tdwt9h9v44fnvnt');
INSERT INTO public.sent_invoices VALUES (2, 2, 'op_01m8pq1a5q4h1qct3pjj559dmf');

SELECT pg_catalog.setval('public.dexpy_messages_id_seq', 10, true);

SELECT pg_catalog.setval('public.sent_invoices_id_seq', 2, true);

ALTER TABLE ONLY public.dexpy_messages
    ADD CONSTRAINT dexpy_messages_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.operation_attempts
    ADD CONSTRAINT operation_attempts_pkey PRIMARY KEY (record_id, number, claim_token);

ALTER TABLE ONLY public.operation_gates
    ADD CONSTRAINT operation_gates_pkey PRIMARY KEY (key);

ALTER TABLE ONLY public.operation_queues
    ADD CONSTRAINT operation_queues_pkey PRIMARY KEY (name);

ALTER TABLE ONLY public.operation_records
    ADD CONSTRAINT operation_records_once_key_key UNIQUE (once_key);

ALTER TABLE ONLY public.operation_records
    ADD CONSTRAINT operation_records_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.operation_records
    ADD CONSTRAINT operation_records_unique_key_key UNIQUE (unique_key);

ALTER TABLE ONLY public.operation_recurring
    ADD CONSTRAINT operation_recurring_pkey PRIMARY KEY (key);

ALTER TABLE ONLY public.operation_schema
    ADD CONSTRAINT operation_schema_pkey PRIMARY KEY (version);

ALTER TABLE ONLY public.operation_signals
    ADD CONSTRAINT operation_signals_pkey PRIMARY KEY (record_id);

ALTER TABLE ONLY public.operation_steps
    ADD CONSTRAINT operation_steps_pkey PRIMARY KEY (record_id, "position");

ALTER TABLE ONLY public.operation_worker_names
    ADD CONSTRAINT operation_worker_names_pkey PRIMARY KEY (worker);

ALTER TABLE ONLY public.operation_worker_sessions
    ADD CONSTRAINT operation_worker_sessions_pkey PRIMARY KEY (worker, backend);

ALTER TABLE ONLY public.operation_workers
    ADD CONSTRAINT operation_workers_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.sent_invoices
    ADD CONSTRAINT sent_invoices_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.operation_records
    ADD CONSTRAINT uq_operation_tick UNIQUE (recurring_key, run_at);

ALTER TABLE ONLY public.operation_records
    ADD CONSTRAINT uq_operation_token UNIQUE (operation, idempotence_token);

CREATE INDEX ix_message_next ON public.dexpy_messages USING btree (queue, dead, priority, due_at, id);

CREATE INDEX ix_operation_actor ON public.operation_records USING btree (actor_type, actor_id);

CREATE INDEX ix_operation_blocked ON public.operation_records USING btree (blocked_key, priority, id) WHERE (blocked_key IS NOT NULL);

CREATE INDEX ix_operation_completed ON public.operation_records USING btree (completed_at);

CREATE INDEX ix_operation_due ON public.operation_records USING btree (status, queue, priority, scheduled_at);

CREATE INDEX ix_operation_expires ON public.operation_records USING btree (expires_at);

CREATE INDEX ix_operation_name ON public.operation_records USING btree (operation, status, id);

CREATE INDEX ix_operation_owed ON public.operation_records USING btree (status, enqueued_at, scheduled_at);

CREATE INDEX ix_operation_recurring ON public.operation_records USING btree (recurring_key, status, id) WHERE (recurring_key IS NOT NULL);

CREATE INDEX ix_operation_recurring_next ON public.operation_recurring USING btree (next_at);

CREATE INDEX ix_operation_signals_cancelled ON public.operation_signals USING btree (cancel_requested_at);

CREATE INDEX ix_operation_slots ON public.operation_records USING btree (concurrency_key, status) WHERE (concurrency_key IS NOT NULL);

CREATE INDEX ix_operation_trace ON public.operation_records USING btree (trace_id);
