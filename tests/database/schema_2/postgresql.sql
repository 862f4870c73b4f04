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
    CONSTRAINT ck_operation_status CHECK (((status)::text = ANY ((ARRAY['pending'::character varying, 'running'::character varying, 'done'::character varying, 'failed'::character varying, 'expired'::character varying, 'cancelled'::character varying])::text[])))
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
    names json
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

INSERT INTO public.dexpy_messages VALUES (8, 'default', 0, '2026-11-30 13:36:49.787443+00', 'billing-1:20113:a16fd2d5df8c', '2026-11-30 13:37:23.053267+00', 'e0578821-1903-46f3-86fc-09a08a7a9f59', '{"queue_name":"default","actor_name":"dexpy.RecordJob","args":[],"kwargs":{"class_name":"invoices.collect","record_id":"op_01m8para3ffpf407byjvtv59q0","trace":{"id":"tr_01m8para3ffpf407dvnes0jfw1"}},"options":{"dexpy":{"v":1}},"message_id":"e0578821-1903-46f3-86fc-09a08a7a9f59","message_timestamp":1796045809775}', false, '2026-11-30 13:36:49.78742+00');
INSERT INTO public.dexpy_messages VALUES (9, 'default', 0, '2026-11-30 13:36:53.541626+00', NULL, NULL, '6cc240e0-f4aa-4d77-9db6-18d13ff06760', '{"queue_name":"default","actor_name":"dexpy.RecordJob","args":[],"kwargs":{"class_name":"invoices.send","record_id":"op_01m8pardrz3s4299cqy0rvc0hd","trace":{"id":"tr_01m8pardrz3s4299f7nzp7y4h9"}},"options":{"dexpy":{"v":1}},"message_id":"6cc240e0-f4aa-4d77-9db6-18d13ff06760","message_timestamp":1796045813535}', false, '2026-11-30 13:36:53.541604+00');
INSERT INTO public.dexpy_messages VALUES (10, 'default', 0, '2126-11-06 13:36:53.548383+00', NULL, NULL, '1773b8a1-e85d-4853-8358-1610d4dcfee7', '{"queue_name":"default","actor_name":"dexpy.RecordJob","args":[],"kwargs":{"class_name":"invoices.send","record_id":"op_01m8pards69ay55c3rgse5tdst","trace":{"id":"tr_01m8pards74w9hhbe12b2h3yt4"}},"options":{"dexpy":{"v":1}},"message_id":"1773b8a1-e85d-4853-8358-1610d4dcfee7","message_timestamp":1796045813543}', false, '2026-11-30 13:36:53.548369+00');

INSERT INTO public.operation_attempts VALUES ('op_01m8par94b8qa2r0ee29cc3jr5', 1, 1, 'billing-1:19977:00837mjy8t', '2026-11-30 13:36:49.06716+00', '2026-11-30 13:36:49.112877+00', 'crash', 'ConnectionError', 'the mail server is away', '/srv/billing/apps/invoices.py:39 perform');
INSERT INTO public.operation_attempts VALUES ('op_01m8par94xc2we35fj6f6tenyw', 1, 1, 'billing-1:19977:00837mjy8t', '2026-11-30 13:36:49.164007+00', '2026-11-30 13:36:49.187005+00', 'business', 'no_customer', 'Invoice 0 has no customer', NULL);
INSERT INTO public.operation_attempts VALUES ('op_01m8par95k7y7tqsarz5q5vsxe', 1, 1, 'billing-1:19977:00837mjy8t', '2026-11-30 13:36:49.227134+00', '2026-11-30 13:36:49.603348+00', 'cancelled', 'dexpy.errors.Cancelled', 'The run was cancelled while it ran.', '/srv/billing/apps/invoices.py:74 perform');

INSERT INTO public.operation_records VALUES ('op_01m8par8tv1gascw64t1k9ec6k', 'invoices.send', '{"number": 1}', '{"value": 1}', 'done', NULL, NULL, NULL, NULL, 'default', 0, NULL, '2026-11-30 13:36:48.703835+00', 1, '2026-11-30 13:36:48.816502+00', '2026-11-30 13:36:48.875143+00', NULL, 1, 0, 4, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8par8tv1gascw7fd9p1mvkb', '{"id": "tr_01m8par8tv1gascw7fd9p1mvkb", "actor": null, "stack": [["op_01m8par8tv1gascw64t1k9ec6k", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 13:36:48.703836+00', '2026-11-30 13:36:48.875143+00');
INSERT INTO public.operation_records VALUES ('op_01m8par936ft70sg5ddydryncj', 'invoices.send_once', '{"number": 2}', '{"value": 2}', 'done', NULL, NULL, NULL, NULL, 'default', 0, NULL, '2026-11-30 13:36:48.766803+00', 1, '2026-11-30 13:36:48.937723+00', '2026-11-30 13:36:49.012181+00', NULL, 1, 0, 4, NULL, 1, NULL, 'f0d8c99935422397005ab2b4f54f3e9c1c8f863c9641dd3d866bc18e10f3c1c6', 'f0d8c99935422397005ab2b4f54f3e9c1c8f863c9641dd3d866bc18e10f3c1c6', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8par936ft70sg6ejw86jhxm', '{"id": "tr_01m8par936ft70sg6ejw86jhxm", "actor": null, "stack": [["op_01m8par936ft70sg5ddydryncj", "invoices.send_once"]]}', NULL, NULL, NULL, '2026-11-30 13:36:48.766804+00', '2026-11-30 13:36:49.012181+00');
INSERT INTO public.operation_records VALUES ('op_01m8par94b8qa2r0ee29cc3jr5', 'invoices.send', '{"number": 13}', NULL, 'failed', 'ConnectionError', 'crash', 'the mail server is away', NULL, 'default', 0, NULL, '2026-11-30 13:36:48.780328+00', 1, '2026-11-30 13:36:49.06716+00', '2026-11-30 13:36:49.100329+00', NULL, 1, 0, 4, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8par94b8qa2r0nnam9qt717', '{"id": "tr_01m8par94b8qa2r0nnam9qt717", "actor": null, "stack": [["op_01m8par94b8qa2r0ee29cc3jr5", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 13:36:48.780329+00', '2026-11-30 13:36:49.100329+00');
INSERT INTO public.operation_records VALUES ('op_01m8par94xc2we35fj6f6tenyw', 'invoices.send', '{"number": 0}', NULL, 'failed', 'no_customer', 'business', 'Invoice 0 has no customer', NULL, 'default', 0, NULL, '2026-11-30 13:36:48.798079+00', 1, '2026-11-30 13:36:49.164007+00', '2026-11-30 13:36:49.179417+00', NULL, 1, 0, 4, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8par94xc2we35m8ngqzrt4q', '{"id": "tr_01m8par94xc2we35m8ngqzrt4q", "actor": null, "stack": [["op_01m8par94xc2we35fj6f6tenyw", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 13:36:48.798079+00', '2026-11-30 13:36:49.179418+00');
INSERT INTO public.operation_records VALUES ('op_01m8par95k7y7tqsarz5q5vsxe', 'invoices.cancel_itself', '{}', NULL, 'cancelled', 'dexpy.errors.Cancelled', 'cancelled', 'The run was cancelled while it ran.', NULL, 'default', 0, NULL, '2026-11-30 13:36:48.820587+00', 1, '2026-11-30 13:36:49.227134+00', '2026-11-30 13:36:49.593774+00', NULL, 1, 0, 4, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8par95k7y7tqsg5hc5d66yx', '{"id": "tr_01m8par95k7y7tqsg5hc5d66yx", "actor": null, "stack": [["op_01m8par95k7y7tqsarz5q5vsxe", "invoices.cancel_itself"]]}', NULL, NULL, NULL, '2026-11-30 13:36:48.820587+00', '2026-11-30 13:36:49.593774+00');
INSERT INTO public.operation_records VALUES ('op_01m8para0k35vja2yrc2ayjwjc', 'invoices.send', '{"number": 4}', NULL, 'cancelled', NULL, 'cancelled', 'Cancelled on request.', NULL, 'default', 0, NULL, '2026-11-30 13:36:49.691688+00', 1, NULL, '2026-11-30 13:36:49.727749+00', NULL, 0, 0, 4, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8para0k35vja31w8rd05wgh', '{"id": "tr_01m8para0k35vja31w8rd05wgh", "actor": null, "stack": [["op_01m8para0k35vja2yrc2ayjwjc", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 13:36:49.691688+00', '2026-11-30 13:36:49.727749+00');
INSERT INTO public.operation_records VALUES ('op_01m8para27ajqjt1billing-1hd1bpj72', 'invoices.send', '{"number": 5}', NULL, 'expired', NULL, 'expired', 'Expired on request.', NULL, 'default', 0, NULL, '2026-11-30 13:36:49.737749+00', 1, NULL, '2026-11-30 13:36:49.768506+00', NULL, 0, 0, 4, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8para289dw342r8c70nptcq', '{"id": "tr_01m8para289dw342r8c70nptcq", "actor": null, "stack": [["op_01m8para27ajqjt1billing-1hd1bpj72", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 13:36:49.737749+00', '2026-11-30 13:36:49.768506+00');
INSERT INTO public.operation_records VALUES ('op_01m8para3ffpf407byjvtv59q0', 'invoices.collect', '{"number": 6}', NULL, 'running', NULL, NULL, NULL, NULL, 'default', 0, NULL, '2026-11-30 13:36:49.779177+00', 1, '2026-11-30 13:36:53.060984+00', NULL, NULL, 1, 0, 4, NULL, 1, 'billing-1:20113:7179m2eyjz', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8para3ffpf407dvnes0jfw1', '{"id": "tr_01m8para3ffpf407dvnes0jfw1", "actor": null, "stack": [["op_01m8para3ffpf407byjvtv59q0", "invoices.collect"]]}', NULL, NULL, NULL, '2026-11-30 13:36:49.779178+00', '2026-11-30 13:36:53.060984+00');
INSERT INTO public.operation_records VALUES ('op_01m8pardrz3s4299cqy0rvc0hd', 'invoices.send', '{"number": 7}', NULL, 'pending', NULL, NULL, NULL, NULL, 'default', 0, NULL, '2026-11-30 13:36:53.53909+00', 1, NULL, NULL, NULL, 0, 0, 4, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8pardrz3s4299f7nzp7y4h9', '{"id": "tr_01m8pardrz3s4299f7nzp7y4h9", "actor": null, "stack": [["op_01m8pardrz3s4299cqy0rvc0hd", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 13:36:53.539091+00', '2026-11-30 13:36:53.539091+00');
INSERT INTO public.operation_records VALUES ('op_01m8pards69ay55c3rgse5tdst', 'invoices.send', '{"number": 8}', NULL, 'pending', NULL, NULL, NULL, NULL, 'default', 0, '2126-11-06 13:36:53.547217+00', '2026-11-30 13:36:53.547217+00', 1, NULL, NULL, NULL, 0, 0, 4, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8pards74w9hhbe12b2h3yt4', '{"id": "tr_01m8pards74w9hhbe12b2h3yt4", "actor": null, "stack": [["op_01m8pards69ay55c3rgse5tdst", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 13:36:53.547217+00', '2026-11-30 13:36:53.547217+00');

INSERT INTO public.operation_schema VALUES (2, '2026-11-30 13:36:43.072687+00');

INSERT INTO public.operation_signals VALUES ('op_01m8par95k7y7tqsarz5q5vsxe', '2026-11-30 13:36:49.30289+00', NULL);

INSERT INTO public.operation_steps VALUES ('op_01m8para3ffpf407byjvtv59q0', 0, 'total', true, NULL, '{"value": 106}', 1, '2026-11-30 13:36:53.090203+00');

INSERT INTO public.operation_worker_names VALUES ('billing-1:19977:00837mjy8t', '["dexpy.deferred.DeferredCall", "invoices.cancel_itself", "invoices.collect", "invoices.send", "invoices.send_once"]');
INSERT INTO public.operation_worker_names VALUES ('billing-1:20113:7179m2eyjz', '["dexpy.deferred.DeferredCall", "invoices.cancel_itself", "invoices.collect", "invoices.send", "invoices.send_once"]');

INSERT INTO public.operation_worker_sessions VALUES ('billing-1:19977:00837mjy8t', '19994/1796045808.468758');
INSERT INTO public.operation_worker_sessions VALUES ('billing-1:19977:00837mjy8t', '19988/1796045808.446518');
INSERT INTO public.operation_worker_sessions VALUES ('billing-1:19977:00837mjy8t', '19993/1796045808.466919');
INSERT INTO public.operation_worker_sessions VALUES ('billing-1:19977:00837mjy8t', '19998/1796045808.945623');
INSERT INTO public.operation_worker_sessions VALUES ('billing-1:20113:7179m2eyjz', '20144/1796045812.771372');
INSERT INTO public.operation_worker_sessions VALUES ('billing-1:20113:7179m2eyjz', '20141/1796045812.754927');
INSERT INTO public.operation_worker_sessions VALUES ('billing-1:20113:7179m2eyjz', '20139/1796045812.771017');

INSERT INTO public.operation_workers VALUES ('billing-1:19977:00837mjy8t', 'billing-1', 19977, 1, NULL, '2026-11-30 13:36:48.407735+00', '2026-11-30 13:36:48.407735+00', '2026-11-30 13:37:18.407735+00');
INSERT INTO public.operation_workers VALUES ('billing-1:20113:7179m2eyjz', 'billing-1', 20113, 1, NULL, '2026-11-30 13:36:52.687734+00', '2026-11-30 13:36:52.687734+00', '2026-11-30 13:37:22.687734+00');

INSERT INTO public.sent_invoices VALUES (1, 1, 'op_01m8par8tv1gascw64t1k9ec6k');
INSERT INTO public.sent_invoices VALUES (2, 2, 'op_01m8par936ft70sg5ddydryncj');

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

CREATE INDEX ix_operation_signals_cancelled ON public.operation_signals USING btree (cancel_requested_at);

CREATE INDEX ix_operation_slots ON public.operation_records USING btree (concurrency_key, status) WHERE (concurrency_key IS NOT NULL);

CREATE INDEX ix_operation_trace ON public.operation_records USING btree (trace_id);
