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
    name character varying(255) NOT NULL,
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
    max_lost integer,
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
    CONSTRAINT ck_operation_status CHECK (((status)::text = ANY ((ARRAY['pending'::character varying, 'running'::character varying, 'done'::character varying, 'failed'::character varying, 'expired'::character varying])::text[])))
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

INSERT INTO public.dexpy_messages VALUES (8, 'default', 0, '2026-11-30 10:04:32.772555+00', 'billing-1:28400:2d73a00f343f', '2026-11-30 10:05:07.851036+00', '8c99a1d7-25f2-48a3-b958-285d812a5b70', '{"queue_name":"default","actor_name":"dexpy.RecordJob","args":[],"kwargs":{"class_name":"invoices.collect","record_id":"op_01m8nykkkyb60wpe4n79av3nt0","trace":{"id":"tr_01m8nykkkyb60wpe76g7tqxsha"}},"options":{"dexpy":{"v":1}},"message_id":"8c99a1d7-25f2-48a3-b958-285d812a5b70","message_timestamp":1796033072766}', false, '2026-11-30 10:04:32.772542+00');
INSERT INTO public.dexpy_messages VALUES (9, 'default', 0, '2026-11-30 10:04:39.99524+00', NULL, NULL, '458fbd0f-ebcc-421d-ae0b-b37a2d4273ff', '{"queue_name":"default","actor_name":"dexpy.RecordJob","args":[],"kwargs":{"class_name":"invoices.send","record_id":"op_01m8nyktns2d10zqqh21z4af3d","trace":{"id":"tr_01m8nyktns2d10zqxpssfh045z"}},"options":{"dexpy":{"v":1}},"message_id":"458fbd0f-ebcc-421d-ae0b-b37a2d4273ff","message_timestamp":1796033079993}', false, '2026-11-30 10:04:39.995223+00');
INSERT INTO public.dexpy_messages VALUES (10, 'default', 0, '2126-11-06 10:04:40.000446+00', NULL, NULL, '1d194954-a716-45b0-a2e8-921782c67374', '{"queue_name":"default","actor_name":"dexpy.RecordJob","args":[],"kwargs":{"class_name":"invoices.send","record_id":"op_01m8nyktnxas65ghtjrq4skyry","trace":{"id":"tr_01m8nyktnxas65gj04cwvm3qjr"}},"options":{"dexpy":{"v":1}},"message_id":"1d194954-a716-45b0-a2e8-921782c67374","message_timestamp":1796033079997}', false, '2026-11-30 10:04:40.000429+00');

INSERT INTO public.operation_attempts VALUES ('op_01m8nykdqm0813amma5csejpgx', 1, 1, 'billing-1:28153:tcyt3ncmgk', '2026-11-30 10:04:31.335512+00', '2026-11-30 10:04:31.378265+00', 'crash', 'ConnectionError', 'the mail server is away', '/srv/billing/invoices.py:39 perform');
INSERT INTO public.operation_attempts VALUES ('op_01m8nykdr6admks08gqahqd94p', 1, 1, 'billing-1:28153:tcyt3ncmgk', '2026-11-30 10:04:31.408836+00', '2026-11-30 10:04:31.44584+00', 'business', 'no_customer', 'Invoice 0 has no customer', NULL);
INSERT INTO public.operation_attempts VALUES ('op_01m8nykdry3c130mzrxv187sm6', 1, 1, 'billing-1:28153:tcyt3ncmgk', '2026-11-30 10:04:31.463421+00', '2026-11-30 10:04:31.75844+00', 'cancelled', 'dexpy.Cancelled', 'It was called off while it ran.', '/srv/billing/invoices.py:74 perform');

INSERT INTO public.operation_records VALUES ('op_01m8nykdh77swhxhrqxv171mh1', 'invoices.send', '{"number": 1}', '{"value": 1}', 'done', NULL, NULL, NULL, NULL, 'default', 0, NULL, '2026-11-30 10:04:26.682417+00', 1, '2026-11-30 10:04:31.240907+00', '2026-11-30 10:04:31.264863+00', NULL, 1, 0, 3, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8nykdh77swhxhyz6hzx4kp4', '{"id": "tr_01m8nykdh77swhxhyz6hzx4kp4", "actor": null, "stack": [["op_01m8nykdh77swhxhrqxv171mh1", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 10:04:26.682418+00', '2026-11-30 10:04:31.264863+00');
INSERT INTO public.operation_records VALUES ('op_01m8nykdq1c1rz9rkd4c3c30wk', 'invoices.send_once', '{"number": 2}', '{"value": 2}', 'done', NULL, NULL, NULL, NULL, 'default', 0, NULL, '2026-11-30 10:04:26.727249+00', 1, '2026-11-30 10:04:31.291321+00', '2026-11-30 10:04:31.31482+00', NULL, 1, 0, 3, NULL, 1, NULL, 'f0d8c99935422397005ab2b4f54f3e9c1c8f863c9641dd3d866bc18e10f3c1c6', 'f0d8c99935422397005ab2b4f54f3e9c1c8f863c9641dd3d866bc18e10f3c1c6', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8nykdq2bn912wsakm14wxep', '{"id": "tr_01m8nykdq2bn912wsakm14wxep", "actor": null, "stack": [["op_01m8nykdq1c1rz9rkd4c3c30wk", "invoices.send_once"]]}', NULL, NULL, NULL, '2026-11-30 10:04:26.727249+00', '2026-11-30 10:04:31.314821+00');
INSERT INTO public.operation_records VALUES ('op_01m8nykdqm0813amma5csejpgx', 'invoices.send', '{"number": 13}', NULL, 'failed', 'ConnectionError', 'crash', 'the mail server is away', NULL, 'default', 0, NULL, '2026-11-30 10:04:26.743395+00', 1, '2026-11-30 10:04:31.335512+00', '2026-11-30 10:04:31.350668+00', NULL, 1, 0, 3, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8nykdqn6vpsk73t4bmwkqqq', '{"id": "tr_01m8nykdqn6vpsk73t4bmwkqqq", "actor": null, "stack": [["op_01m8nykdqm0813amma5csejpgx", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 10:04:26.743396+00', '2026-11-30 10:04:31.350668+00');
INSERT INTO public.operation_records VALUES ('op_01m8nykdr6admks08gqahqd94p', 'invoices.send', '{"number": 0}', NULL, 'failed', 'no_customer', 'business', 'Invoice 0 has no customer', NULL, 'default', 0, NULL, '2026-11-30 10:04:26.769531+00', 1, '2026-11-30 10:04:31.408836+00', '2026-11-30 10:04:31.433637+00', NULL, 1, 0, 3, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8nykdr72b0eq2eszmwyspxw', '{"id": "tr_01m8nykdr72b0eq2eszmwyspxw", "actor": null, "stack": [["op_01m8nykdr6admks08gqahqd94p", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 10:04:26.769531+00', '2026-11-30 10:04:31.433637+00');
INSERT INTO public.operation_records VALUES ('op_01m8nykdry3c130mzrxv187sm6', 'invoices.cancel_itself', '{}', NULL, 'expired', 'dexpy.Cancelled', 'cancelled', 'It was called off while it ran.', NULL, 'default', 0, NULL, '2026-11-30 10:04:26.785713+00', 1, '2026-11-30 10:04:31.463421+00', '2026-11-30 10:04:31.754284+00', NULL, 1, 0, 3, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8nykdry3c130n67kw8v9r21', '{"id": "tr_01m8nykdry3c130n67kw8v9r21", "actor": null, "stack": [["op_01m8nykdry3c130mzrxv187sm6", "invoices.cancel_itself"]]}', NULL, NULL, NULL, '2026-11-30 10:04:26.785713+00', '2026-11-30 10:04:31.754284+00');
INSERT INTO public.operation_records VALUES ('op_01m8nykkhndxcvrb9mqrs6t868', 'invoices.send', '{"number": 4}', NULL, 'expired', NULL, 'cancelled', 'It was cancelled.', NULL, 'default', 0, NULL, '2026-11-30 10:04:32.697765+00', 1, NULL, '2026-11-30 10:04:32.723061+00', NULL, 0, 0, 3, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8nykkhndxcvrbhj98mhbwnt', '{"id": "tr_01m8nykkhndxcvrbhj98mhbwnt", "actor": null, "stack": [["op_01m8nykkhndxcvrb9mqrs6t868", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 10:04:32.697765+00', '2026-11-30 10:04:32.723061+00');
INSERT INTO public.operation_records VALUES ('op_01m8nykkjxdf7rt26q52y22v2f', 'invoices.send', '{"number": 5}', NULL, 'expired', NULL, 'expired', 'It was expired by hand.', NULL, 'default', 0, NULL, '2026-11-30 10:04:32.736668+00', 1, NULL, '2026-11-30 10:04:32.759772+00', NULL, 0, 0, 3, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8nykkjxdf7rt2bfemjf00ak', '{"id": "tr_01m8nykkjxdf7rt2bfemjf00ak", "actor": null, "stack": [["op_01m8nykkjxdf7rt26q52y22v2f", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 10:04:32.736668+00', '2026-11-30 10:04:32.759772+00');
INSERT INTO public.operation_records VALUES ('op_01m8nykkkyb60wpe4n79av3nt0', 'invoices.collect', '{"number": 6}', NULL, 'running', NULL, NULL, NULL, NULL, 'default', 0, NULL, '2026-11-30 10:04:32.771946+00', 1, '2026-11-30 10:04:37.852793+00', NULL, NULL, 1, 0, 3, NULL, 1, 'billing-1:28400:38c9dgk6f8', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8nykkkyb60wpe76g7tqxsha', '{"id": "tr_01m8nykkkyb60wpe76g7tqxsha", "actor": null, "stack": [["op_01m8nykkkyb60wpe4n79av3nt0", "invoices.collect"]]}', NULL, NULL, NULL, '2026-11-30 10:04:32.771946+00', '2026-11-30 10:04:37.852794+00');
INSERT INTO public.operation_records VALUES ('op_01m8nyktns2d10zqqh21z4af3d', 'invoices.send', '{"number": 7}', NULL, 'pending', NULL, NULL, NULL, NULL, 'default', 0, NULL, '2026-11-30 10:04:39.99473+00', 1, NULL, NULL, NULL, 0, 0, 3, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8nyktns2d10zqxpssfh045z', '{"id": "tr_01m8nyktns2d10zqxpssfh045z", "actor": null, "stack": [["op_01m8nyktns2d10zqqh21z4af3d", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 10:04:39.99473+00', '2026-11-30 10:04:39.99473+00');
INSERT INTO public.operation_records VALUES ('op_01m8nyktnxas65ghtjrq4skyry', 'invoices.send', '{"number": 8}', NULL, 'pending', NULL, NULL, NULL, NULL, 'default', 0, '2126-11-06 10:04:39.999504+00', '2026-11-30 10:04:39.999504+00', 1, NULL, NULL, NULL, 0, 0, 3, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'tr_01m8nyktnxas65gj04cwvm3qjr', '{"id": "tr_01m8nyktnxas65gj04cwvm3qjr", "actor": null, "stack": [["op_01m8nyktnxas65ghtjrq4skyry", "invoices.send"]]}', NULL, NULL, NULL, '2026-11-30 10:04:39.999504+00', '2026-11-30 10:04:39.999504+00');

INSERT INTO public.operation_signals VALUES ('op_01m8nykdry3c130mzrxv187sm6', '2026-11-30 10:04:31.502168+00', NULL);

INSERT INTO public.operation_steps VALUES ('op_01m8nykkkyb60wpe4n79av3nt0', 0, 'total', true, NULL, '{"value": 106}', 1, '2026-11-30 10:04:37.87445+00');

INSERT INTO public.operation_worker_names VALUES ('billing-1:28400:38c9dgk6f8', '["dexpy.deferred.DeferredCall", "invoices.cancel_itself", "invoices.collect", "invoices.send", "invoices.send_once"]');

INSERT INTO public.operation_worker_sessions VALUES ('billing-1:28400:38c9dgk6f8', '28484/1796033077.589982');
INSERT INTO public.operation_worker_sessions VALUES ('billing-1:28400:38c9dgk6f8', '28463/1796033077.367601');
INSERT INTO public.operation_worker_sessions VALUES ('billing-1:28400:38c9dgk6f8', '28490/1796033077.674409');
INSERT INTO public.operation_worker_sessions VALUES ('billing-1:28400:38c9dgk6f8', '28483/1796033077.587640');

INSERT INTO public.operation_workers VALUES ('billing-1:28400:38c9dgk6f8', 'billing-1', 28400, 1, NULL, '2026-11-30 10:04:37.567436+00', '2026-11-30 10:04:37.567436+00', '2026-11-30 10:05:07.567436+00');

INSERT INTO public.sent_invoices VALUES (1, 1, 'op_01m8nykdh77swhxhrqxv171mh1');
INSERT INTO public.sent_invoices VALUES (2, 2, 'op_01m8nykdq1c1rz9rkd4c3c30wk');

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
    ADD CONSTRAINT uq_operation_token UNIQUE (name, idempotence_token);

CREATE INDEX ix_message_next ON public.dexpy_messages USING btree (queue, dead, priority, due_at, id);

CREATE INDEX ix_operation_actor ON public.operation_records USING btree (actor_type, actor_id);

CREATE INDEX ix_operation_blocked ON public.operation_records USING btree (blocked_key, priority, id) WHERE (blocked_key IS NOT NULL);

CREATE INDEX ix_operation_completed ON public.operation_records USING btree (completed_at);

CREATE INDEX ix_operation_due ON public.operation_records USING btree (status, queue, priority, scheduled_at);

CREATE INDEX ix_operation_expires ON public.operation_records USING btree (expires_at);

CREATE INDEX ix_operation_name ON public.operation_records USING btree (name, status, id);

CREATE INDEX ix_operation_owed ON public.operation_records USING btree (status, enqueued_at, scheduled_at);

CREATE INDEX ix_operation_signals_cancelled ON public.operation_signals USING btree (cancel_requested_at);

CREATE INDEX ix_operation_slots ON public.operation_records USING btree (concurrency_key, status) WHERE (concurrency_key IS NOT NULL);

CREATE INDEX ix_operation_trace ON public.operation_records USING btree (trace_id);
