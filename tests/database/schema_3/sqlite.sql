PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE operation_schema (
	version INTEGER NOT NULL, 
	applied_at DATETIME NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO operation_schema VALUES(3,'2026-11-30 17:11:24.348109');
CREATE TABLE operation_records (
	id VARCHAR(40) NOT NULL, 
	operation VARCHAR(255) NOT NULL, 
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
	loss_limit INTEGER, 
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
	previous_run_at DATETIME, 
	run_zone VARCHAR(64), 
	PRIMARY KEY (id), 
	CONSTRAINT ck_operation_status CHECK (status IN ('pending', 'running', 'done', 'failed', 'expired', 'cancelled')), 
	CONSTRAINT uq_operation_token UNIQUE (operation, idempotence_token), 
	CONSTRAINT uq_operation_tick UNIQUE (recurring_key, run_at), 
	UNIQUE (once_key), 
	UNIQUE (unique_key)
);
INSERT INTO operation_records VALUES('op_01m8pq16z13fae4646eta3gxrr','invoices.send','{"number": 4}',NULL,'cancelled',NULL,'cancelled','Cancelled on request.',NULL,'default',0,NULL,'2026-11-30 17:11:24.391320',1,NULL,'2026-11-30 17:11:24.398516',NULL,0,0,4,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq16z13fae46ak2pe17fbv','{"id": "tr_01m8pq16z13fae46ak2pe17fbv", "actor": null, "stack": [["op_01m8pq16z13fae4646eta3gxrr", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 17:11:24.391370','2026-11-30 17:11:24.398531',NULL,NULL);
INSERT INTO operation_records VALUES('op_01m8pq16zf1fxry2m9qd6fb1m7','invoices.send','{"number": 5}',NULL,'expired',NULL,'expired','Expired on request.',NULL,'default',0,NULL,'2026-11-30 17:11:24.400221',1,NULL,'2026-11-30 17:11:24.403133',NULL,0,0,4,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq16zf1fxry2w2vjjxsbfe','{"id": "tr_01m8pq16zf1fxry2w2vjjxsbfe", "actor": null, "stack": [["op_01m8pq16zf1fxry2m9qd6fb1m7", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 17:11:24.400246','2026-11-30 17:11:24.403147',NULL,NULL);
INSERT INTO operation_records VALUES('op_01m8pq16zm5a9fwe6y9f1fm3ge','invoices.send','{"number": 1}','{"value": 1}','done',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 17:11:24.404283',1,'2026-11-30 17:11:25.173832','2026-11-30 17:11:25.391291',NULL,1,0,4,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq16zm5a9fweb0yb55bvr6','{"id": "tr_01m8pq16zm5a9fweb0yb55bvr6", "actor": null, "stack": [["op_01m8pq16zm5a9fwe6y9f1fm3ge", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 17:11:24.404309','2026-11-30 17:11:25.391316',NULL,NULL);
INSERT INTO operation_records VALUES('op_01m8pq16zneyrdzs0kgrgt5ftv','invoices.send_once','{"number": 2}','{"value": 2}','done',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 17:11:24.407403',1,'2026-11-30 17:11:25.173214','2026-11-30 17:11:25.233200',NULL,1,0,4,NULL,1,NULL,'f0d8c99935422397005ab2b4f54f3e9c1c8f863c9641dd3d866bc18e10f3c1c6','f0d8c99935422397005ab2b4f54f3e9c1c8f863c9641dd3d866bc18e10f3c1c6',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq16zneyrdzs79y0nj1n3g','{"id": "tr_01m8pq16zneyrdzs79y0nj1n3g", "actor": null, "stack": [["op_01m8pq16zneyrdzs0kgrgt5ftv", "invoices.send_once"]]}',NULL,NULL,NULL,'2026-11-30 17:11:24.407424','2026-11-30 17:11:25.233223',NULL,NULL);
INSERT INTO operation_records VALUES('op_01m8pq16zrde9gammh7v8q5qbe','invoices.send','{"number": 0}',NULL,'failed','no_customer','business','Invoice 0 has no customer',NULL,'default',0,NULL,'2026-11-30 17:11:24.408786',1,'2026-11-30 17:11:25.192759','2026-11-30 17:11:25.270851',NULL,1,0,4,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq16zrde9gamwfgmaegc5f','{"id": "tr_01m8pq16zrde9gamwfgmaegc5f", "actor": null, "stack": [["op_01m8pq16zrde9gammh7v8q5qbe", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 17:11:24.408811','2026-11-30 17:11:25.270878',NULL,NULL);
INSERT INTO operation_records VALUES('op_01m8pq16zsaawj9tedx4e849db','invoices.send','{"number": 13}',NULL,'failed','ConnectionError','crash','the mail server is away',NULL,'default',0,NULL,'2026-11-30 17:11:24.409993',1,'2026-11-30 17:11:25.195368','2026-11-30 17:11:25.199662',NULL,1,0,4,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq16zsaawj9tgzn3kee7r9','{"id": "tr_01m8pq16zsaawj9tgzn3kee7r9", "actor": null, "stack": [["op_01m8pq16zsaawj9tedx4e849db", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 17:11:24.410018','2026-11-30 17:11:25.199677',NULL,NULL);
INSERT INTO operation_records VALUES('op_01m8pq16zt6xj7qhvtmjs6havw','invoices.cancel_itself','{}',NULL,'cancelled','dexpy.errors.Cancelled','cancelled','The run was cancelled while it ran.',NULL,'default',0,NULL,'2026-11-30 17:11:24.411137',1,'2026-11-30 17:11:25.206294','2026-11-30 17:11:25.438745',NULL,1,0,4,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq16zt6xj7qj1k9j4pjjeh','{"id": "tr_01m8pq16zt6xj7qj1k9j4pjjeh", "actor": null, "stack": [["op_01m8pq16zt6xj7qhvtmjs6havw", "invoices.cancel_itself"]]}',NULL,NULL,NULL,'2026-11-30 17:11:24.411163','2026-11-30 17:11:25.438773',NULL,NULL);
INSERT INTO operation_records VALUES('op_01m8pq182b60esnnftn6m43ed7','invoices.collect','{"number": 6}',NULL,'running',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 17:11:25.516246',1,'2026-11-30 17:11:25.971636',NULL,NULL,1,0,4,NULL,1,'vm:11791:d2z4czeztx',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq182b60esnngdky11hk43','{"id": "tr_01m8pq182b60esnngdky11hk43", "actor": null, "stack": [["op_01m8pq182b60esnnftn6m43ed7", "invoices.collect"]]}',NULL,NULL,NULL,'2026-11-30 17:11:25.516266','2026-11-30 17:11:25.971657',NULL,NULL);
INSERT INTO operation_records VALUES('op_01m8pq194r7fhbyry2xe4hhw1b','invoices.send','{"number": 7}',NULL,'pending',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 17:11:26.617211',1,NULL,NULL,NULL,0,0,4,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq194r7fhbys14y051tkys','{"id": "tr_01m8pq194r7fhbys14y051tkys", "actor": null, "stack": [["op_01m8pq194r7fhbyry2xe4hhw1b", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 17:11:26.617252','2026-11-30 17:11:26.617260',NULL,NULL);
INSERT INTO operation_records VALUES('op_01m8pq194vfgkxt05nr9bx38xk','invoices.send','{"number": 8}',NULL,'pending',NULL,NULL,NULL,NULL,'default',0,'2126-11-06 17:11:26.621275','2026-11-30 17:11:26.621297',1,NULL,NULL,NULL,0,0,4,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq194vfgkxt0bye381dd7y','{"id": "tr_01m8pq194vfgkxt0bye381dd7y", "actor": null, "stack": [["op_01m8pq194vfgkxt05nr9bx38xk", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 17:11:26.621313','2026-11-30 17:11:26.621317',NULL,NULL);
CREATE TABLE operation_gates (
	"key" VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	PRIMARY KEY ("key")
);
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
INSERT INTO operation_attempts VALUES('op_01m8pq16zsaawj9tedx4e849db',1,1,'vm:11776:p3cjez8haq','2026-11-30 17:11:25.195368','2026-11-30 17:11:25.202306','crash','ConnectionError','the mail server is away','/tmp/wt/dumps/tests/apps/invoices.py:39 perform');
INSERT INTO operation_attempts VALUES('op_01m8pq16zrde9gammh7v8q5qbe',1,1,'vm:11776:p3cjez8haq','2026-11-30 17:11:25.192759','2026-11-30 17:11:25.293205','business','no_customer','Invoice 0 has no customer',NULL);
INSERT INTO operation_attempts VALUES('op_01m8pq16zt6xj7qhvtmjs6havw',1,1,'vm:11776:p3cjez8haq','2026-11-30 17:11:25.206294','2026-11-30 17:11:25.443704','cancelled','dexpy.errors.Cancelled','The run was cancelled while it ran.','/tmp/wt/dumps/tests/apps/invoices.py:74 perform');
CREATE TABLE operation_signals (
	record_id VARCHAR(40) NOT NULL, 
	cancel_requested_at DATETIME, 
	progress JSON, 
	PRIMARY KEY (record_id)
);
INSERT INTO operation_signals VALUES('op_01m8pq16zt6xj7qhvtmjs6havw','2026-11-30 17:11:25.218335',NULL);
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
INSERT INTO operation_steps VALUES('op_01m8pq182b60esnnftn6m43ed7',0,'total',1,NULL,'{"value": 106}',1,'2026-11-30 17:11:26.000175');
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
INSERT INTO operation_workers VALUES('vm:11791:d2z4czeztx','vm',11791,4,NULL,'2026-11-30 17:11:25.949527','2026-11-30 17:11:25.949550','2026-11-30 17:11:55.949555');
CREATE TABLE operation_worker_names (
	worker VARCHAR(64) NOT NULL, 
	names JSON, 
	recurring_keys JSON, 
	PRIMARY KEY (worker)
);
INSERT INTO operation_worker_names VALUES('vm:11791:d2z4czeztx','["dexpy.deferred.DeferredCall", "invoices.cancel_itself", "invoices.collect", "invoices.send", "invoices.send_once"]','{"started_at": "2026-11-30T17:11:25.967609+00:00", "keys": {}}');
CREATE TABLE operation_worker_sessions (
	worker VARCHAR(64) NOT NULL, 
	backend VARCHAR(96) NOT NULL, 
	PRIMARY KEY (worker, backend)
);
CREATE TABLE operation_recurring (
	"key" VARCHAR(255) NOT NULL, 
	operation VARCHAR(255) NOT NULL, 
	params JSON, 
	schedule VARCHAR(255) NOT NULL, 
	zone VARCHAR(64), 
	queue VARCHAR(64), 
	priority INTEGER, 
	options JSON, 
	source VARCHAR(8) NOT NULL, 
	definition VARCHAR(64) NOT NULL, 
	declared_at DATETIME, 
	next_at DATETIME, 
	last_at DATETIME, 
	last_run_id VARCHAR(40), 
	missed_count INTEGER DEFAULT '0' NOT NULL, 
	first_missed_at DATETIME, 
	last_missed_at DATETIME, 
	skipped_count INTEGER DEFAULT '0' NOT NULL, 
	last_skipped_at DATETIME, 
	paused_at DATETIME, 
	paused_by VARCHAR(255), 
	pause_reason TEXT, 
	paused_until DATETIME, 
	until_at DATETIME, 
	remaining INTEGER, 
	undeclared_at DATETIME, 
	retired_at DATETIME, 
	created_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO operation_recurring VALUES('nightly','invoices.send','{"number": 14}','every day at 3am','Europe/Rome',NULL,NULL,'{"grace_s": null, "missed": "skip", "max_waiting": 1, "overlap": "allow", "jitter_s": 0.0, "requires_class": false, "loss_limit": null}','api','0b6fee698ea88de4ff33702e080ddf32b367cbe2929db0c46e5802baf3bf0e69',NULL,'2026-12-01 02:00:00.000000',NULL,NULL,0,NULL,NULL,0,NULL,'2026-11-30 17:11:25.513130','an operator','not yet',NULL,NULL,NULL,NULL,NULL,'2026-11-30 17:11:25.470567','2026-11-30 17:11:25.513146');
CREATE TABLE operation_queues (
	name VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	PRIMARY KEY (name)
);
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
INSERT INTO dexpy_messages VALUES(8,'default',0,'2026-11-30 17:11:25.516542','vm:11791:2726c490ee70','2026-11-30 17:11:55.963148','8b436279-bc21-4e68-b38d-e66c7e97b539','{"queue_name":"default","actor_name":"dexpy.RecordJob","args":[],"kwargs":{"class_name":"invoices.collect","record_id":"op_01m8pq182b60esnnftn6m43ed7","trace":{"id":"tr_01m8pq182b60esnngdky11hk43"}},"options":{"dexpy":{"v":1}},"message_id":"8b436279-bc21-4e68-b38d-e66c7e97b539","message_timestamp":1796058685516}',0,'2026-11-30 17:11:25.516553');
INSERT INTO dexpy_messages VALUES(9,'default',0,'2026-11-30 17:11:26.617728',NULL,NULL,'17f462b2-8c8b-4865-b32a-f0ad402dffdc','{"queue_name":"default","actor_name":"dexpy.RecordJob","args":[],"kwargs":{"class_name":"invoices.send","record_id":"op_01m8pq194r7fhbyry2xe4hhw1b","trace":{"id":"tr_01m8pq194r7fhbys14y051tkys"}},"options":{"dexpy":{"v":1}},"message_id":"17f462b2-8c8b-4865-b32a-f0ad402dffdc","message_timestamp":1796058686616}',0,'2026-11-30 17:11:26.617745');
INSERT INTO dexpy_messages VALUES(10,'default',0,'2126-11-06 17:11:26.621710',NULL,NULL,'a9538cb9-cb29-4bed-9c23-71dcdb07646b','{"queue_name":"default","actor_name":"dexpy.RecordJob","args":[],"kwargs":{"class_name":"invoices.send","record_id":"op_01m8pq194vfgkxt05nr9bx38xk","trace":{"id":"tr_01m8pq194vfgkxt0bye381dd7y"}},"options":{"dexpy":{"v":1}},"message_id":"a9538cb9-cb29-4bed-9c23-71dcdb07646b","message_timestamp":1796058686619}',0,'2026-11-30 17:11:26.621725');
CREATE TABLE sent_invoices (
	id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	run VARCHAR(40) NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO sent_invoices VALUES(1,2,'op_01m8pq16zneyrdzs0kgrgt5ftv');
INSERT INTO sent_invoices VALUES(2,1,'op_01m8pq16zm5a9fwe6y9f1fm3ge');
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('dexpy_messages',10);
CREATE INDEX ix_operation_trace ON operation_records (trace_id);
CREATE INDEX ix_operation_blocked ON operation_records (blocked_key, priority, id) WHERE blocked_key IS NOT NULL;
CREATE INDEX ix_operation_slots ON operation_records (concurrency_key, status) WHERE concurrency_key IS NOT NULL;
CREATE INDEX ix_operation_completed ON operation_records (completed_at);
CREATE INDEX ix_operation_recurring ON operation_records (recurring_key, status, id) WHERE recurring_key IS NOT NULL;
CREATE INDEX ix_operation_owed ON operation_records (status, enqueued_at, scheduled_at);
CREATE INDEX ix_operation_expires ON operation_records (expires_at);
CREATE INDEX ix_operation_name ON operation_records (operation, status, id);
CREATE INDEX ix_operation_due ON operation_records (status, queue, priority, scheduled_at);
CREATE INDEX ix_operation_actor ON operation_records (actor_type, actor_id);
CREATE INDEX ix_operation_signals_cancelled ON operation_signals (cancel_requested_at);
CREATE INDEX ix_operation_recurring_next ON operation_recurring (next_at);
CREATE INDEX ix_message_next ON dexpy_messages (queue, dead, priority, due_at, id);
COMMIT;
