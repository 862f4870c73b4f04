PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE operation_schema (
	version INTEGER NOT NULL, 
	applied_at DATETIME NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO operation_schema VALUES(2,'2026-11-30 13:36:27.054441');
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
	PRIMARY KEY (id), 
	CONSTRAINT ck_operation_status CHECK (status IN ('pending', 'running', 'done', 'failed', 'expired', 'cancelled')), 
	CONSTRAINT uq_operation_token UNIQUE (operation, idempotence_token), 
	CONSTRAINT uq_operation_tick UNIQUE (recurring_key, run_at), 
	UNIQUE (once_key), 
	UNIQUE (unique_key)
);
INSERT INTO operation_records VALUES('op_01m8paqsmp7vb9md507etfdn3w','invoices.send','{"number": 1}','{"value": 1}','done',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 13:36:32.948059',1,'2026-11-30 13:36:33.028717','2026-11-30 13:36:33.056473',NULL,1,0,4,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8paqsmp7vb9mdbabmv7kx8c','{"id": "tr_01m8paqsmp7vb9mdbabmv7kx8c", "actor": null, "stack": [["op_01m8paqsmp7vb9md507etfdn3w", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 13:36:32.948095','2026-11-30 13:36:33.056496');
INSERT INTO operation_records VALUES('op_01m8paqsp8bbkkhs9mftpk2zvp','invoices.send_once','{"number": 2}','{"value": 2}','done',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 13:36:32.978573',1,'2026-11-30 13:36:33.079368','2026-11-30 13:36:33.090578',NULL,1,0,4,NULL,1,NULL,'f0d8c99935422397005ab2b4f54f3e9c1c8f863c9641dd3d866bc18e10f3c1c6','f0d8c99935422397005ab2b4f54f3e9c1c8f863c9641dd3d866bc18e10f3c1c6',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8paqsp8bbkkhsckq4sknxvq','{"id": "tr_01m8paqsp8bbkkhsckq4sknxvq", "actor": null, "stack": [["op_01m8paqsp8bbkkhs9mftpk2zvp", "invoices.send_once"]]}',NULL,NULL,NULL,'2026-11-30 13:36:32.978618','2026-11-30 13:36:33.090600');
INSERT INTO operation_records VALUES('op_01m8paqspq9cxenswfd190ay6b','invoices.send','{"number": 13}',NULL,'failed','ConnectionError','crash','the mail server is away',NULL,'default',0,NULL,'2026-11-30 13:36:32.983500',1,'2026-11-30 13:36:33.111538','2026-11-30 13:36:33.129930',NULL,1,0,4,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8paqspq9cxensymaxbbbvkz','{"id": "tr_01m8paqspq9cxensymaxbbbvkz", "actor": null, "stack": [["op_01m8paqspq9cxenswfd190ay6b", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 13:36:32.983531','2026-11-30 13:36:33.129952');
INSERT INTO operation_records VALUES('op_01m8paqspwambw9p1pehr05e74','invoices.send','{"number": 0}',NULL,'failed','no_customer','business','Invoice 0 has no customer',NULL,'default',0,NULL,'2026-11-30 13:36:32.988631',1,'2026-11-30 13:36:33.157008','2026-11-30 13:36:33.165031',NULL,1,0,4,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8paqspwambw9p402mq4a864','{"id": "tr_01m8paqspwambw9p402mq4a864", "actor": null, "stack": [["op_01m8paqspwambw9p1pehr05e74", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 13:36:32.988661','2026-11-30 13:36:33.165051');
INSERT INTO operation_records VALUES('op_01m8paqsq74qqgpya0mt7tey1c','invoices.cancel_itself','{}',NULL,'cancelled','dexpy.errors.Cancelled','cancelled','The run was cancelled while it ran.',NULL,'default',0,NULL,'2026-11-30 13:36:32.999430',1,'2026-11-30 13:36:33.193683','2026-11-30 13:36:33.428950',NULL,1,0,4,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8paqsq74qqgpybffpdt9rcj','{"id": "tr_01m8paqsq74qqgpybffpdt9rcj", "actor": null, "stack": [["op_01m8paqsq74qqgpya0mt7tey1c", "invoices.cancel_itself"]]}',NULL,NULL,NULL,'2026-11-30 13:36:32.999458','2026-11-30 13:36:33.428974');
INSERT INTO operation_records VALUES('op_01m8paqt5y0x9g8v8k3fkr2xwc','invoices.send','{"number": 4}',NULL,'cancelled',NULL,'cancelled','Cancelled on request.',NULL,'default',0,NULL,'2026-11-30 13:36:33.472395',1,NULL,'2026-11-30 13:36:33.489206',NULL,0,0,4,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8paqt5y0x9g8v8nqfdz7h1t','{"id": "tr_01m8paqt5y0x9g8v8nqfdz7h1t", "actor": null, "stack": [["op_01m8paqt5y0x9g8v8k3fkr2xwc", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 13:36:33.472433','2026-11-30 13:36:33.489230');
INSERT INTO operation_records VALUES('op_01m8paqt6y6ycqrbtz0zay7z6z','invoices.send','{"number": 5}',NULL,'expired',NULL,'expired','Expired on request.',NULL,'default',0,NULL,'2026-11-30 13:36:33.503461',1,NULL,'2026-11-30 13:36:33.519944',NULL,0,0,4,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8paqt6z4j3daf1ftgaexds2','{"id": "tr_01m8paqt6z4j3daf1ftgaexds2", "actor": null, "stack": [["op_01m8paqt6y6ycqrbtz0zay7z6z", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 13:36:33.503495','2026-11-30 13:36:33.519967');
INSERT INTO operation_records VALUES('op_01m8paqt838gz416kvrqnwm9pg','invoices.collect','{"number": 6}',NULL,'running',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 13:36:33.539805',1,'2026-11-30 13:36:36.612478',NULL,NULL,1,0,4,NULL,1,'billing-1:19758:14jwpggk7c',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8paqt838gz416tzxav8xw4n','{"id": "tr_01m8paqt838gz416tzxav8xw4n", "actor": null, "stack": [["op_01m8paqt838gz416kvrqnwm9pg", "invoices.collect"]]}',NULL,NULL,NULL,'2026-11-30 13:36:33.539838','2026-11-30 13:36:36.612504');
INSERT INTO operation_records VALUES('op_01m8paqxpzamjapx6qyz3sayek','invoices.send','{"number": 7}',NULL,'pending',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 13:36:37.087498',1,NULL,NULL,NULL,0,0,4,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8paqxpzamjapxd396k7jmgt','{"id": "tr_01m8paqxpzamjapxd396k7jmgt", "actor": null, "stack": [["op_01m8paqxpzamjapx6qyz3sayek", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 13:36:37.087537','2026-11-30 13:36:37.087545');
INSERT INTO operation_records VALUES('op_01m8paqxqf58yadym1c1e7rq9s','invoices.send','{"number": 8}',NULL,'pending',NULL,NULL,NULL,NULL,'default',0,'2126-11-06 13:36:37.105300','2026-11-30 13:36:37.105319',1,NULL,NULL,NULL,0,0,4,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8paqxqf58yadysqg33dzcp8','{"id": "tr_01m8paqxqf58yadysqg33dzcp8", "actor": null, "stack": [["op_01m8paqxqf58yadym1c1e7rq9s", "invoices.send"]]}',NULL,NULL,NULL,'2026-11-30 13:36:37.105335','2026-11-30 13:36:37.105340');
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
INSERT INTO operation_attempts VALUES('op_01m8paqspq9cxenswfd190ay6b',1,1,'billing-1:19696:denzdxngfa','2026-11-30 13:36:33.111538','2026-11-30 13:36:33.139288','crash','ConnectionError','the mail server is away','/srv/billing/apps/invoices.py:39 perform');
INSERT INTO operation_attempts VALUES('op_01m8paqspwambw9p1pehr05e74',1,1,'billing-1:19696:denzdxngfa','2026-11-30 13:36:33.157008','2026-11-30 13:36:33.175686','business','no_customer','Invoice 0 has no customer',NULL);
INSERT INTO operation_attempts VALUES('op_01m8paqsq74qqgpya0mt7tey1c',1,1,'billing-1:19696:denzdxngfa','2026-11-30 13:36:33.193683','2026-11-30 13:36:33.429956','cancelled','dexpy.errors.Cancelled','The run was cancelled while it ran.','/srv/billing/apps/invoices.py:74 perform');
CREATE TABLE operation_signals (
	record_id VARCHAR(40) NOT NULL, 
	cancel_requested_at DATETIME, 
	progress JSON, 
	PRIMARY KEY (record_id)
);
INSERT INTO operation_signals VALUES('op_01m8paqsq74qqgpya0mt7tey1c','2026-11-30 13:36:33.223386',NULL);
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
INSERT INTO operation_steps VALUES('op_01m8paqt838gz416kvrqnwm9pg',0,'total',1,NULL,'{"value": 106}',1,'2026-11-30 13:36:36.648777');
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
INSERT INTO operation_workers VALUES('billing-1:19758:14jwpggk7c','billing-1',19758,1,NULL,'2026-11-30 13:36:36.332930','2026-11-30 13:36:36.332951','2026-11-30 13:37:06.332958');
CREATE TABLE operation_worker_names (
	worker VARCHAR(64) NOT NULL, 
	names JSON, 
	PRIMARY KEY (worker)
);
INSERT INTO operation_worker_names VALUES('billing-1:19758:14jwpggk7c','["dexpy.deferred.DeferredCall", "invoices.cancel_itself", "invoices.collect", "invoices.send", "invoices.send_once"]');
CREATE TABLE operation_worker_sessions (
	worker VARCHAR(64) NOT NULL, 
	backend VARCHAR(96) NOT NULL, 
	PRIMARY KEY (worker, backend)
);
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
INSERT INTO dexpy_messages VALUES(8,'default',0,'2026-11-30 13:36:33.540131','billing-1:19758:11a1c0d73be6','2026-11-30 13:37:06.603309','177f71f3-4953-4dd7-88a5-9f9a402d5237','{"queue_name":"default","actor_name":"dexpy.RecordJob","args":[],"kwargs":{"class_name":"invoices.collect","record_id":"op_01m8paqt838gz416kvrqnwm9pg","trace":{"id":"tr_01m8paqt838gz416tzxav8xw4n"}},"options":{"dexpy":{"v":1}},"message_id":"177f71f3-4953-4dd7-88a5-9f9a402d5237","message_timestamp":1796045793539}',0,'2026-11-30 13:36:33.540145');
INSERT INTO dexpy_messages VALUES(9,'default',0,'2026-11-30 13:36:37.087834',NULL,NULL,'6491692e-b36f-4d1f-97c7-9751467be9ed','{"queue_name":"default","actor_name":"dexpy.RecordJob","args":[],"kwargs":{"class_name":"invoices.send","record_id":"op_01m8paqxpzamjapx6qyz3sayek","trace":{"id":"tr_01m8paqxpzamjapxd396k7jmgt"}},"options":{"dexpy":{"v":1}},"message_id":"6491692e-b36f-4d1f-97c7-9751467be9ed","message_timestamp":1796045797087}',0,'2026-11-30 13:36:37.087847');
INSERT INTO dexpy_messages VALUES(10,'default',0,'2126-11-06 13:36:37.105636',NULL,NULL,'54db4aad-27f7-45c9-bf24-4012676a4a35','{"queue_name":"default","actor_name":"dexpy.RecordJob","args":[],"kwargs":{"class_name":"invoices.send","record_id":"op_01m8paqxqf58yadym1c1e7rq9s","trace":{"id":"tr_01m8paqxqf58yadysqg33dzcp8"}},"options":{"dexpy":{"v":1}},"message_id":"54db4aad-27f7-45c9-bf24-4012676a4a35","message_timestamp":1796045797103}',0,'2026-11-30 13:36:37.105651');
CREATE TABLE sent_invoices (
	id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	run VARCHAR(40) NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO sent_invoices VALUES(1,1,'op_01m8paqsmp7vb9md507etfdn3w');
INSERT INTO sent_invoices VALUES(2,2,'op_01m8paqsp8bbkkhs9mftpk2zvp');
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('dexpy_messages',10);
CREATE INDEX ix_operation_trace ON operation_records (trace_id);
CREATE INDEX ix_operation_name ON operation_records (operation, status, id);
CREATE INDEX ix_operation_due ON operation_records (status, queue, priority, scheduled_at);
CREATE INDEX ix_operation_completed ON operation_records (completed_at);
CREATE INDEX ix_operation_blocked ON operation_records (blocked_key, priority, id) WHERE blocked_key IS NOT NULL;
CREATE INDEX ix_operation_slots ON operation_records (concurrency_key, status) WHERE concurrency_key IS NOT NULL;
CREATE INDEX ix_operation_expires ON operation_records (expires_at);
CREATE INDEX ix_operation_owed ON operation_records (status, enqueued_at, scheduled_at);
CREATE INDEX ix_operation_actor ON operation_records (actor_type, actor_id);
CREATE INDEX ix_operation_signals_cancelled ON operation_signals (cancel_requested_at);
CREATE INDEX ix_message_next ON dexpy_messages (queue, dead, priority, due_at, id);
COMMIT;
