BEGIN TRANSACTION;
CREATE TABLE dexpy_messages (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	queue VARCHAR(255) NOT NULL, 
	priority INTEGER DEFAULT '0' NOT NULL, 
	due_at DATETIME NOT NULL, 
	owner VARCHAR(64), 
	leased_until DATETIME, 
	message_id VARCHAR(255) NOT NULL, 
	payload TEXT NOT NULL, 
	dead BOOLEAN DEFAULT 0 NOT NULL, 
	created_at DATETIME NOT NULL
);
INSERT INTO "dexpy_messages" VALUES(8,'default',0,'2026-11-30 10:04:17.358413','billing-1:27752:81ea131a398e','2026-11-30 10:04:49.853485','47f9735b-a746-4573-9b07-1d24f54f522d','{"queue_name":"default","actor_name":"dexpy.RecordJob","args":[],"kwargs":{"class_name":"invoices.collect","record_id":"op_01m8nyk4jd301gej99kaphv3gx","trace":{"id":"tr_01m8nyk4jd301gejbyj802cd06"}},"options":{"dexpy":{"v":1}},"message_id":"47f9735b-a746-4573-9b07-1d24f54f522d","message_timestamp":1796033057357}',0,'2026-11-30 10:04:17.358427');
INSERT INTO "dexpy_messages" VALUES(9,'default',0,'2026-11-30 10:04:20.947633','billing-1:27773:54bd85d7d88a','2026-11-30 10:04:51.083692','00287f34-8cfa-4e00-8620-62a6dbcd953d','{"queue_name":"default","actor_name":"dexpy.RecordJob","args":[],"kwargs":{"class_name":"invoices.collect","record_id":"op_01m8nyk4jd301gej99kaphv3gx","trace":{"id":"tr_01m8nyk4jd301gejbyj802cd06"}},"options":{"dexpy":{"v":1}},"message_id":"00287f34-8cfa-4e00-8620-62a6dbcd953d","message_timestamp":1796033060954}',0,'2026-11-30 10:04:20.955367');
INSERT INTO "dexpy_messages" VALUES(10,'default',0,'2026-11-30 10:04:21.950448',NULL,NULL,'135c20b1-b80b-4e8a-83b8-762bbd8458bd','{"queue_name":"default","actor_name":"dexpy.RecordJob","args":[],"kwargs":{"class_name":"invoices.send","record_id":"op_01m8nyk91x00ttapfwyhpjkh2x","trace":{"id":"tr_01m8nyk91x00ttapjx7zs5j391"}},"options":{"dexpy":{"v":1}},"message_id":"135c20b1-b80b-4e8a-83b8-762bbd8458bd","message_timestamp":1796033061949}',0,'2026-11-30 10:04:21.950464');
INSERT INTO "dexpy_messages" VALUES(11,'default',0,'2126-11-06 10:04:21.958804',NULL,NULL,'da9fb0e2-07b4-4d88-9f9a-727e8fa0d817','{"queue_name":"default","actor_name":"dexpy.RecordJob","args":[],"kwargs":{"class_name":"invoices.send","record_id":"op_01m8nyk920anertvyd1hc62qf4","trace":{"id":"tr_01m8nyk920anertvyd4txgvgmd"}},"options":{"dexpy":{"v":1}},"message_id":"da9fb0e2-07b4-4d88-9f9a-727e8fa0d817","message_timestamp":1796033061952}',0,'2026-11-30 10:04:21.958818');
CREATE TABLE operation_attempts (
	record_id VARCHAR(40) NOT NULL, 
	number INTEGER NOT NULL, 
	claim_token INTEGER NOT NULL, 
	worker VARCHAR(64), 
	started_at DATETIME, 
	ended_at DATETIME NOT NULL, 
	failure VARCHAR(16) NOT NULL, 
	error VARCHAR(255), 
	error_message TEXT, 
	traceback TEXT, 
	PRIMARY KEY (record_id, number, claim_token)
);
INSERT INTO "operation_attempts" VALUES('op_01m8nyjzjs0msr42fns1v326nz',1,1,'billing-1:27633:yp30bmxd9n','2026-11-30 10:04:16.082735','2026-11-30 10:04:16.114286','crash','ConnectionError','the mail server is away','/srv/billing/invoices.py:39 perform');
INSERT INTO "operation_attempts" VALUES('op_01m8nyjzk518ca7wjvjter8e82',1,1,'billing-1:27633:yp30bmxd9n','2026-11-30 10:04:16.148527','2026-11-30 10:04:16.153253','business','no_customer','Invoice 0 has no customer',NULL);
INSERT INTO "operation_attempts" VALUES('op_01m8nyjzkk79y6a94bd9d8v96b',1,1,'billing-1:27633:yp30bmxd9n','2026-11-30 10:04:16.162078','2026-11-30 10:04:16.392241','cancelled','dexpy.Cancelled','It was called off while it ran.','/srv/billing/invoices.py:74 perform');
INSERT INTO "operation_attempts" VALUES('op_01m8nyk4jd301gej99kaphv3gx',1,1,'billing-1:27752:1rn75hwtyv','2026-11-30 10:04:19.859878','2026-11-30 10:04:20.954137','lost','dexpy.WorkerLost','The worker billing-1:27752:1rn75hwtyv stopped giving signs of life while it ran this (attempt 1). It is run again; 3 such ends are one too many.',NULL);
CREATE TABLE operation_gates (
	"key" VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	PRIMARY KEY ("key")
);
CREATE TABLE operation_queues (
	name VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE operation_records (
	id VARCHAR(40) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	params JSON, 
	result JSON, 
	status VARCHAR(16) NOT NULL, 
	error VARCHAR(255), 
	failure VARCHAR(16), 
	error_message TEXT, 
	error_details JSON, 
	queue VARCHAR(64) DEFAULT 'default' NOT NULL, 
	priority INTEGER DEFAULT '0' NOT NULL, 
	scheduled_at DATETIME, 
	enqueued_at DATETIME, 
	send_count INTEGER DEFAULT '0' NOT NULL, 
	started_at DATETIME, 
	completed_at DATETIME, 
	expires_at DATETIME, 
	num_attempts INTEGER DEFAULT '0' NOT NULL, 
	num_lost INTEGER DEFAULT '0' NOT NULL, 
	max_lost INTEGER, 
	retry_counts JSON, 
	claim_token INTEGER DEFAULT '0' NOT NULL, 
	claimed_by VARCHAR(64), 
	once_key VARCHAR(64), 
	once_digest VARCHAR(64), 
	once_expires_at DATETIME, 
	unique_key VARCHAR(64), 
	unique_digest VARCHAR(64), 
	unique_until VARCHAR(8), 
	unique_expires_at DATETIME, 
	idempotence_token VARCHAR(255), 
	concurrency_key VARCHAR(64), 
	blocked_key VARCHAR(64), 
	recurring_key VARCHAR(255), 
	run_at DATETIME, 
	parent_id VARCHAR(40), 
	trace_id VARCHAR(64), 
	trace JSON, 
	actor_type VARCHAR(64), 
	actor_id VARCHAR(255), 
	tags JSON, 
	created_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT ck_operation_status CHECK (status IN ('pending', 'running', 'done', 'failed', 'expired')), 
	CONSTRAINT uq_operation_token UNIQUE (name, idempotence_token), 
	CONSTRAINT uq_operation_tick UNIQUE (recurring_key, run_at), 
	UNIQUE (once_key), 
	UNIQUE (unique_key)
);
INSERT INTO "operation_records" VALUES('op_01m8nyjzer1jvdas7tzrpc2v3h','invoices.send','{"number": 1}','{"value": 1}','done',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 10:04:12.155806',1,'2026-11-30 10:04:15.985646','2026-11-30 10:04:16.006489',NULL,1,0,3,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nyjzer1jvdas8mjbmpw5sj','{"id": "tr_01m8nyjzer1jvdas8mjbmpw5sj", "actor": null, "stack": [["op_01m8nyjzer1jvdas7tzrpc2v3h", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 10:04:12.155845','2026-11-30 10:04:16.006510');
INSERT INTO "operation_records" VALUES('op_01m8nyjzhb435wdsn590saebjg','invoices.send_once','{"number": 2}','{"value": 2}','done',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 10:04:12.230167',1,'2026-11-30 10:04:16.036806','2026-11-30 10:04:16.045992',NULL,1,0,3,NULL,1,NULL,'f0d8c99935422397005ab2b4f54f3e9c1c8f863c9641dd3d866bc18e10f3c1c6','f0d8c99935422397005ab2b4f54f3e9c1c8f863c9641dd3d866bc18e10f3c1c6',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nyjzhb435wdsqbpz8ed2t1','{"id": "tr_01m8nyjzhb435wdsqbpz8ed2t1", "actor": null, "stack": [["op_01m8nyjzhb435wdsn590saebjg", "invoices.send_once"]]}',NULL,NULL,NULL,'2026-11-30 10:04:12.230218','2026-11-30 10:04:16.046016');
INSERT INTO "operation_records" VALUES('op_01m8nyjzjs0msr42fns1v326nz','invoices.send','{"number": 13}',NULL,'failed','ConnectionError','crash','the mail server is away',NULL,'default',0,NULL,'2026-11-30 10:04:12.249931',1,'2026-11-30 10:04:16.082735','2026-11-30 10:04:16.090492',NULL,1,0,3,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nyjzjs0msr42g5zxjgnrfp','{"id": "tr_01m8nyjzjs0msr42g5zxjgnrfp", "actor": null, "stack": [["op_01m8nyjzjs0msr42fns1v326nz", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 10:04:12.249972','2026-11-30 10:04:16.090512');
INSERT INTO "operation_records" VALUES('op_01m8nyjzk518ca7wjvjter8e82','invoices.send','{"number": 0}',NULL,'failed','no_customer','business','Invoice 0 has no customer',NULL,'default',0,NULL,'2026-11-30 10:04:12.262039',1,'2026-11-30 10:04:16.148527','2026-11-30 10:04:16.151720',NULL,1,0,3,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nyjzk518ca7wrj1dwdwhfa','{"id": "tr_01m8nyjzk518ca7wrj1dwdwhfa", "actor": null, "stack": [["op_01m8nyjzk518ca7wjvjter8e82", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 10:04:12.262074','2026-11-30 10:04:16.151740');
INSERT INTO "operation_records" VALUES('op_01m8nyjzkk79y6a94bd9d8v96b','invoices.cancel_itself','{}',NULL,'expired','dexpy.Cancelled','cancelled','It was called off while it ran.',NULL,'default',0,NULL,'2026-11-30 10:04:12.275937',1,'2026-11-30 10:04:16.162078','2026-11-30 10:04:16.391243',NULL,1,0,3,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nyjzkk79y6a94swhq8mewb','{"id": "tr_01m8nyjzkk79y6a94swhq8mewb", "actor": null, "stack": [["op_01m8nyjzkk79y6a94bd9d8v96b", "invoices.cancel_itself"]]}',NULL,NULL,NULL,'2026-11-30 10:04:12.275970','2026-11-30 10:04:16.391264');
INSERT INTO "operation_records" VALUES('op_01m8nyk4hjcgmkjzaxg3nrqtpd','invoices.send','{"number": 4}',NULL,'expired',NULL,'cancelled','It was cancelled.',NULL,'default',0,NULL,'2026-11-30 10:04:17.330849',1,NULL,'2026-11-30 10:04:17.335391',NULL,0,0,3,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nyk4hjcgmkjzdpef3nvk97','{"id": "tr_01m8nyk4hjcgmkjzdpef3nvk97", "actor": null, "stack": [["op_01m8nyk4hjcgmkjzaxg3nrqtpd", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 10:04:17.330886','2026-11-30 10:04:17.335410');
INSERT INTO "operation_records" VALUES('op_01m8nyk4hv9e0avk49ah4xd5fy','invoices.send','{"number": 5}',NULL,'expired',NULL,'expired','It was expired by hand.',NULL,'default',0,NULL,'2026-11-30 10:04:17.339551',1,NULL,'2026-11-30 10:04:17.356720',NULL,0,0,3,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nyk4hv9e0avk8k2xyvkyj1','{"id": "tr_01m8nyk4hv9e0avk8k2xyvkyj1", "actor": null, "stack": [["op_01m8nyk4hv9e0avk49ah4xd5fy", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 10:04:17.339577','2026-11-30 10:04:17.356741');
INSERT INTO "operation_records" VALUES('op_01m8nyk4jd301gej99kaphv3gx','invoices.collect','{"number": 6}',NULL,'running','dexpy.WorkerLost','lost','The worker billing-1:27752:1rn75hwtyv stopped giving signs of life while it ran this (attempt 1). It is run again; 3 such ends are one too many.',NULL,'default',0,'2026-11-30 10:04:20.947633','2026-11-30 10:04:20.947659',1,'2026-11-30 10:04:21.108776',NULL,NULL,2,1,3,NULL,2,'billing-1:27773:q4k64k81jg',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nyk4jd301gejbyj802cd06','{"id": "tr_01m8nyk4jd301gejbyj802cd06", "actor": null, "stack": [["op_01m8nyk4jd301gej99kaphv3gx", "invoices.collect"]]}',NULL,NULL,NULL,'2026-11-30 10:04:17.358186','2026-11-30 10:04:21.108806');
INSERT INTO "operation_records" VALUES('op_01m8nyk91x00ttapfwyhpjkh2x','invoices.send','{"number": 7}',NULL,'pending',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 10:04:21.949978',1,NULL,NULL,NULL,0,0,3,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nyk91x00ttapjx7zs5j391','{"id": "tr_01m8nyk91x00ttapjx7zs5j391", "actor": null, "stack": [["op_01m8nyk91x00ttapfwyhpjkh2x", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 10:04:21.950019','2026-11-30 10:04:21.950027');
INSERT INTO "operation_records" VALUES('op_01m8nyk920anertvyd1hc62qf4','invoices.send','{"number": 8}',NULL,'pending',NULL,NULL,NULL,NULL,'default',0,'2126-11-06 10:04:21.958386','2026-11-30 10:04:21.958406',1,NULL,NULL,NULL,0,0,3,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nyk920anertvyd4txgvgmd','{"id": "tr_01m8nyk920anertvyd4txgvgmd", "actor": null, "stack": [["op_01m8nyk920anertvyd1hc62qf4", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 10:04:21.958421','2026-11-30 10:04:21.958425');
CREATE TABLE operation_signals (
	record_id VARCHAR(40) NOT NULL, 
	cancel_requested_at DATETIME, 
	progress JSON, 
	PRIMARY KEY (record_id)
);
INSERT INTO "operation_signals" VALUES('op_01m8nyjzkk79y6a94bd9d8v96b','2026-11-30 10:04:16.178147',NULL);
CREATE TABLE operation_steps (
	record_id VARCHAR(40) NOT NULL, 
	position INTEGER NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	finished BOOLEAN NOT NULL, 
	cursor JSON, 
	value JSON, 
	claim_token INTEGER NOT NULL, 
	updated_at DATETIME NOT NULL, 
	PRIMARY KEY (record_id, position)
);
INSERT INTO "operation_steps" VALUES('op_01m8nyk4jd301gej99kaphv3gx',0,'total',1,NULL,'{"value": 106}',1,'2026-11-30 10:04:19.872167');
CREATE TABLE operation_worker_names (
	worker VARCHAR(64) NOT NULL, 
	names JSON, 
	PRIMARY KEY (worker)
);
INSERT INTO "operation_worker_names" VALUES('billing-1:27773:q4k64k81jg','["dexpy.deferred.DeferredCall", "invoices.cancel_itself", "invoices.collect", "invoices.send", "invoices.send_once"]');
CREATE TABLE operation_worker_sessions (
	worker VARCHAR(64) NOT NULL, 
	backend VARCHAR(96) NOT NULL, 
	PRIMARY KEY (worker, backend)
);
CREATE TABLE operation_workers (
	id VARCHAR(64) NOT NULL, 
	host VARCHAR(255) NOT NULL, 
	pid INTEGER NOT NULL, 
	threads INTEGER NOT NULL, 
	queues JSON, 
	started_at DATETIME NOT NULL, 
	beat_at DATETIME NOT NULL, 
	leased_until DATETIME NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "operation_workers" VALUES('billing-1:27773:q4k64k81jg','billing-1',27773,1,NULL,'2026-11-30 10:04:20.903103','2026-11-30 10:04:20.903130','2026-11-30 10:04:50.903136');
CREATE TABLE sent_invoices (
	id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	run VARCHAR(40) NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "sent_invoices" VALUES(1,1,'op_01m8nyjzer1jvdas7tzrpc2v3h');
INSERT INTO "sent_invoices" VALUES(2,2,'op_01m8nyjzhb435wdsn590saebjg');
CREATE INDEX ix_operation_trace ON operation_records (trace_id);
CREATE INDEX ix_operation_actor ON operation_records (actor_type, actor_id);
CREATE INDEX ix_operation_expires ON operation_records (expires_at);
CREATE INDEX ix_operation_name ON operation_records (name, status, id);
CREATE INDEX ix_operation_blocked ON operation_records (blocked_key, priority, id) WHERE blocked_key IS NOT NULL;
CREATE INDEX ix_operation_owed ON operation_records (status, enqueued_at, scheduled_at);
CREATE INDEX ix_operation_completed ON operation_records (completed_at);
CREATE INDEX ix_operation_slots ON operation_records (concurrency_key, status) WHERE concurrency_key IS NOT NULL;
CREATE INDEX ix_operation_due ON operation_records (status, queue, priority, scheduled_at);
CREATE INDEX ix_operation_signals_cancelled ON operation_signals (cancel_requested_at);
CREATE INDEX ix_message_next ON dexpy_messages (queue, dead, priority, due_at, id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('dexpy_messages',11);
COMMIT;
