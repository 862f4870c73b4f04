/*M!999999\- enable the sandbox mode */ 
CREATE TABLE `dexpy_messages` (
  `id` bigint(20) NOT NULL AUTO_INCREMENT,
  `queue` varchar(255) NOT NULL,
  `priority` int(11) NOT NULL DEFAULT 0,
  `due_at` datetime(6) NOT NULL,
  `owner` varchar(64) DEFAULT NULL,
  `leased_until` datetime(6) DEFAULT NULL,
  `message_id` varchar(255) NOT NULL,
  `payload` longtext NOT NULL,
  `dead` tinyint(1) NOT NULL DEFAULT 0,
  `created_at` datetime(6) NOT NULL,
  PRIMARY KEY (`id`),
  KEY `ix_message_next` (`queue`,`dead`,`priority`,`due_at`,`id`)
) ENGINE=InnoDB AUTO_INCREMENT=11 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
INSERT INTO `dexpy_messages` VALUES (8,'default',0,'2026-11-30 17:11:32.286389','vm:11899:862314e932a1','2026-11-30 17:12:02.826924','299a97d1-0fb2-46b2-a9f2-4912ebb4b504','{\"queue_name\":\"default\",\"actor_name\":\"dexpy.RecordJob\",\"args\":[],\"kwargs\":{\"class_name\":\"invoices.collect\",\"record_id\":\"op_01m8pq1enx0v12hg1584w7kg88\",\"trace\":{\"id\":\"tr_01m8pq1enx0v12hg5p1j44312j\"}},\"options\":{\"dexpy\":{\"v\":1}},\"message_id\":\"299a97d1-0fb2-46b2-a9f2-4912ebb4b504\",\"message_timestamp\":1796058692285}',0,'2026-11-30 17:11:32.286389');
INSERT INTO `dexpy_messages` VALUES (9,'default',0,'2026-11-30 17:11:33.617318',NULL,NULL,'6f97b5cd-ca70-4e24-80bb-fa07e0cc80b7','{\"queue_name\":\"default\",\"actor_name\":\"dexpy.RecordJob\",\"args\":[],\"kwargs\":{\"class_name\":\"invoices.send\",\"record_id\":\"op_01m8pq1fzf4shha49s6em9rr5a\",\"trace\":{\"id\":\"tr_01m8pq1fzf4shha4amffq1sp15\"}},\"options\":{\"dexpy\":{\"v\":1}},\"message_id\":\"6f97b5cd-ca70-4e24-80bb-fa07e0cc80b7\",\"message_timestamp\":1796058693616}',0,'2026-11-30 17:11:33.617318');
INSERT INTO `dexpy_messages` VALUES (10,'default',0,'2126-11-06 17:11:33.621108',NULL,NULL,'48c9e961-ce1f-43f8-be01-ed8f81b78167','{\"queue_name\":\"default\",\"actor_name\":\"dexpy.RecordJob\",\"args\":[],\"kwargs\":{\"class_name\":\"invoices.send\",\"record_id\":\"op_01m8pq1fzj6zd07xh2e7801gwp\",\"trace\":{\"id\":\"tr_01m8pq1fzj6zd07xhfx3jrvrqj\"}},\"options\":{\"dexpy\":{\"v\":1}},\"message_id\":\"48c9e961-ce1f-43f8-be01-ed8f81b78167\",\"message_timestamp\":1796058693619}',0,'2026-11-30 17:11:33.621108');
CREATE TABLE `operation_attempts` (
  `record_id` varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `number` int(11) NOT NULL,
  `claim_token` int(11) NOT NULL,
  `worker` varchar(64) DEFAULT NULL,
  `started_at` datetime(6) DEFAULT NULL,
  `ended_at` datetime(6) NOT NULL,
  `failure` varchar(16) NOT NULL,
  `error` varchar(255) DEFAULT NULL,
  `error_message` text DEFAULT NULL,
  `traceback` text DEFAULT NULL,
  PRIMARY KEY (`record_id`,`number`,`claim_token`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
INSERT INTO `operation_attempts` VALUES ('op_01m8pq1dmn0ew2grmnwxgwzfxk',1,1,'vm:11877:grvc437vz0','2026-11-30 17:11:32.053553','2026-11-30 17:11:32.068233','business','no_customer','Invoice 0 has no customer',NULL);
INSERT INTO `operation_attempts` VALUES ('op_01m8pq1dmq4tb5bhmxrcc2kkjn',1,1,'vm:11877:grvc437vz0','2026-11-30 17:11:32.082114','2026-11-30 17:11:32.098357','crash','ConnectionError','the mail server is away','/tmp/wt/dumps/tests/apps/invoices.py:39 perform');
INSERT INTO `operation_attempts` VALUES ('op_01m8pq1dmseqs79jq5xr6jmf7q',1,1,'vm:11877:grvc437vz0','2026-11-30 17:11:32.108968','2026-11-30 17:11:32.254282','cancelled','dexpy.errors.Cancelled','The run was cancelled while it ran.','/tmp/wt/dumps/tests/apps/invoices.py:74 perform');
CREATE TABLE `operation_gates` (
  `key` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `created_at` datetime(6) NOT NULL,
  PRIMARY KEY (`key`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
CREATE TABLE `operation_queues` (
  `name` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `created_at` datetime(6) NOT NULL,
  PRIMARY KEY (`name`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
CREATE TABLE `operation_records` (
  `id` varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `operation` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `params` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`params`)),
  `result` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`result`)),
  `status` varchar(16) NOT NULL,
  `error` varchar(255) DEFAULT NULL,
  `failure` varchar(16) DEFAULT NULL,
  `error_message` text DEFAULT NULL,
  `error_details` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`error_details`)),
  `queue` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL DEFAULT 'default',
  `priority` int(11) NOT NULL DEFAULT 0,
  `scheduled_at` datetime(6) DEFAULT NULL,
  `enqueued_at` datetime(6) DEFAULT NULL,
  `send_count` int(11) NOT NULL DEFAULT 0,
  `started_at` datetime(6) DEFAULT NULL,
  `completed_at` datetime(6) DEFAULT NULL,
  `expires_at` datetime(6) DEFAULT NULL,
  `num_attempts` int(11) NOT NULL DEFAULT 0,
  `num_lost` int(11) NOT NULL DEFAULT 0,
  `loss_limit` int(11) DEFAULT NULL,
  `retry_counts` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`retry_counts`)),
  `claim_token` int(11) NOT NULL DEFAULT 0,
  `claimed_by` varchar(64) DEFAULT NULL,
  `once_key` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin DEFAULT NULL,
  `once_digest` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin DEFAULT NULL,
  `once_expires_at` datetime(6) DEFAULT NULL,
  `unique_key` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin DEFAULT NULL,
  `unique_digest` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin DEFAULT NULL,
  `unique_until` varchar(8) DEFAULT NULL,
  `unique_expires_at` datetime(6) DEFAULT NULL,
  `idempotence_token` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin DEFAULT NULL,
  `concurrency_key` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin DEFAULT NULL,
  `blocked_key` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin DEFAULT NULL,
  `recurring_key` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin DEFAULT NULL,
  `run_at` datetime(6) DEFAULT NULL,
  `parent_id` varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin DEFAULT NULL,
  `trace_id` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin DEFAULT NULL,
  `trace` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`trace`)),
  `actor_type` varchar(64) DEFAULT NULL,
  `actor_id` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin DEFAULT NULL,
  `tags` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`tags`)),
  `created_at` datetime(6) NOT NULL,
  `updated_at` datetime(6) NOT NULL,
  `previous_run_at` datetime(6) DEFAULT NULL,
  `run_zone` varchar(64) DEFAULT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `uq_operation_token` (`operation`,`idempotence_token`),
  UNIQUE KEY `uq_operation_tick` (`recurring_key`,`run_at`),
  UNIQUE KEY `once_key` (`once_key`),
  UNIQUE KEY `unique_key` (`unique_key`),
  KEY `ix_operation_completed` (`completed_at`),
  KEY `ix_operation_trace` (`trace_id`),
  KEY `ix_operation_recurring` (`recurring_key`,`status`,`id`),
  KEY `ix_operation_owed` (`status`,`enqueued_at`,`scheduled_at`),
  KEY `ix_operation_expires` (`expires_at`),
  KEY `ix_operation_slots` (`concurrency_key`,`status`),
  KEY `ix_operation_name` (`operation`,`status`,`id`),
  KEY `ix_operation_actor` (`actor_type`,`actor_id`),
  KEY `ix_operation_due` (`status`,`queue`,`priority`,`scheduled_at`),
  KEY `ix_operation_blocked` (`blocked_key`,`priority`,`id`),
  CONSTRAINT `ck_operation_status` CHECK (`status` in ('pending','running','done','failed','expired','cancelled'))
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
INSERT INTO `operation_records` VALUES ('op_01m8pq1djcfym4wytyzznh3htx','invoices.send','{\"number\": 4}',NULL,'cancelled',NULL,'cancelled','Cancelled on request.',NULL,'default',0,NULL,'2026-11-30 17:11:31.189253',1,NULL,'2026-11-30 17:11:31.197949',NULL,0,0,4,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq1djcfym4wyxjk082ayxt','{\"id\": \"tr_01m8pq1djcfym4wyxjk082ayxt\", \"actor\": null, \"stack\": [[\"op_01m8pq1djcfym4wytyzznh3htx\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 17:11:31.189253','2026-11-30 17:11:31.197949',NULL,NULL);
INSERT INTO `operation_records` VALUES ('op_01m8pq1dm322c4eenz1dwf40en','invoices.send','{\"number\": 5}',NULL,'expired',NULL,'expired','Expired on request.',NULL,'default',0,NULL,'2026-11-30 17:11:31.204021',1,NULL,'2026-11-30 17:11:31.210143',NULL,0,0,4,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq1dm322c4eexspvz2cfmb','{\"id\": \"tr_01m8pq1dm322c4eexspvz2cfmb\", \"actor\": null, \"stack\": [[\"op_01m8pq1dm322c4eenz1dwf40en\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 17:11:31.204021','2026-11-30 17:11:31.210143',NULL,NULL);
INSERT INTO `operation_records` VALUES ('op_01m8pq1dmccevxexe27g7tn4fq','invoices.send','{\"number\": 1}','{\"value\": 1}','done',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 17:11:31.213304',1,'2026-11-30 17:11:32.148473','2026-11-30 17:11:32.191394',NULL,1,0,4,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq1dmccevxexjaakdqtym9','{\"id\": \"tr_01m8pq1dmccevxexjaakdqtym9\", \"actor\": null, \"stack\": [[\"op_01m8pq1dmccevxexe27g7tn4fq\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 17:11:31.213304','2026-11-30 17:11:32.191394',NULL,NULL);
INSERT INTO `operation_records` VALUES ('op_01m8pq1dmf02fdf6s0mp0xzjay','invoices.send_once','{\"number\": 2}','{\"value\": 2}','done',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 17:11:31.218554',1,'2026-11-30 17:11:32.150679','2026-11-30 17:11:32.193346',NULL,1,0,4,NULL,1,NULL,'f0d8c99935422397005ab2b4f54f3e9c1c8f863c9641dd3d866bc18e10f3c1c6','f0d8c99935422397005ab2b4f54f3e9c1c8f863c9641dd3d866bc18e10f3c1c6',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq1dmf02fdf6swrxpx38xc','{\"id\": \"tr_01m8pq1dmf02fdf6swrxpx38xc\", \"actor\": null, \"stack\": [[\"op_01m8pq1dmf02fdf6s0mp0xzjay\", \"invoices.send_once\"]]}',NULL,NULL,NULL,'2026-11-30 17:11:31.218554','2026-11-30 17:11:32.193346',NULL,NULL);
INSERT INTO `operation_records` VALUES ('op_01m8pq1dmn0ew2grmnwxgwzfxk','invoices.send','{\"number\": 0}',NULL,'failed','no_customer','business','Invoice 0 has no customer',NULL,'default',0,NULL,'2026-11-30 17:11:31.221400',1,'2026-11-30 17:11:32.053553','2026-11-30 17:11:32.063335',NULL,1,0,4,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq1dmn0ew2grq0wytp5cx0','{\"id\": \"tr_01m8pq1dmn0ew2grq0wytp5cx0\", \"actor\": null, \"stack\": [[\"op_01m8pq1dmn0ew2grmnwxgwzfxk\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 17:11:31.221400','2026-11-30 17:11:32.063335',NULL,NULL);
INSERT INTO `operation_records` VALUES ('op_01m8pq1dmq4tb5bhmxrcc2kkjn','invoices.send','{\"number\": 13}',NULL,'failed','ConnectionError','crash','the mail server is away',NULL,'default',0,NULL,'2026-11-30 17:11:31.223928',1,'2026-11-30 17:11:32.082114','2026-11-30 17:11:32.093172',NULL,1,0,4,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq1dmq4tb5bhpn879scn1q','{\"id\": \"tr_01m8pq1dmq4tb5bhpn879scn1q\", \"actor\": null, \"stack\": [[\"op_01m8pq1dmq4tb5bhmxrcc2kkjn\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 17:11:31.223928','2026-11-30 17:11:32.093172',NULL,NULL);
INSERT INTO `operation_records` VALUES ('op_01m8pq1dmseqs79jq5xr6jmf7q','invoices.cancel_itself','{}',NULL,'cancelled','dexpy.errors.Cancelled','cancelled','The run was cancelled while it ran.',NULL,'default',0,NULL,'2026-11-30 17:11:31.226338',1,'2026-11-30 17:11:32.108968','2026-11-30 17:11:32.250183',NULL,1,0,4,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq1dmtee4df41dh55d9qh0','{\"id\": \"tr_01m8pq1dmtee4df41dh55d9qh0\", \"actor\": null, \"stack\": [[\"op_01m8pq1dmseqs79jq5xr6jmf7q\", \"invoices.cancel_itself\"]]}',NULL,NULL,NULL,'2026-11-30 17:11:31.226338','2026-11-30 17:11:32.250183',NULL,NULL);
INSERT INTO `operation_records` VALUES ('op_01m8pq1enx0v12hg1584w7kg88','invoices.collect','{\"number\": 6}',NULL,'running',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 17:11:32.285925',1,'2026-11-30 17:11:32.923717',NULL,NULL,1,0,4,NULL,1,'vm:11899:zwvha35wda',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq1enx0v12hg5p1j44312j','{\"id\": \"tr_01m8pq1enx0v12hg5p1j44312j\", \"actor\": null, \"stack\": [[\"op_01m8pq1enx0v12hg1584w7kg88\", \"invoices.collect\"]]}',NULL,NULL,NULL,'2026-11-30 17:11:32.285925','2026-11-30 17:11:32.923717',NULL,NULL);
INSERT INTO `operation_records` VALUES ('op_01m8pq1fzf4shha49s6em9rr5a','invoices.send','{\"number\": 7}',NULL,'pending',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 17:11:33.616735',1,NULL,NULL,NULL,0,0,4,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq1fzf4shha4amffq1sp15','{\"id\": \"tr_01m8pq1fzf4shha4amffq1sp15\", \"actor\": null, \"stack\": [[\"op_01m8pq1fzf4shha49s6em9rr5a\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 17:11:33.616735','2026-11-30 17:11:33.616735',NULL,NULL);
INSERT INTO `operation_records` VALUES ('op_01m8pq1fzj6zd07xh2e7801gwp','invoices.send','{\"number\": 8}',NULL,'pending',NULL,NULL,NULL,NULL,'default',0,'2126-11-06 17:11:33.620618','2026-11-30 17:11:33.620618',1,NULL,NULL,NULL,0,0,4,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8pq1fzj6zd07xhfx3jrvrqj','{\"id\": \"tr_01m8pq1fzj6zd07xhfx3jrvrqj\", \"actor\": null, \"stack\": [[\"op_01m8pq1fzj6zd07xh2e7801gwp\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 17:11:33.620618','2026-11-30 17:11:33.620618',NULL,NULL);
CREATE TABLE `operation_recurring` (
  `key` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `operation` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `params` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`params`)),
  `schedule` varchar(255) NOT NULL,
  `zone` varchar(64) DEFAULT NULL,
  `queue` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin DEFAULT NULL,
  `priority` int(11) DEFAULT NULL,
  `options` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`options`)),
  `source` varchar(8) NOT NULL,
  `definition` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `declared_at` datetime(6) DEFAULT NULL,
  `next_at` datetime(6) DEFAULT NULL,
  `last_at` datetime(6) DEFAULT NULL,
  `last_run_id` varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin DEFAULT NULL,
  `missed_count` int(11) NOT NULL DEFAULT 0,
  `first_missed_at` datetime(6) DEFAULT NULL,
  `last_missed_at` datetime(6) DEFAULT NULL,
  `skipped_count` int(11) NOT NULL DEFAULT 0,
  `last_skipped_at` datetime(6) DEFAULT NULL,
  `paused_at` datetime(6) DEFAULT NULL,
  `paused_by` varchar(255) DEFAULT NULL,
  `pause_reason` text DEFAULT NULL,
  `paused_until` datetime(6) DEFAULT NULL,
  `until_at` datetime(6) DEFAULT NULL,
  `remaining` int(11) DEFAULT NULL,
  `undeclared_at` datetime(6) DEFAULT NULL,
  `retired_at` datetime(6) DEFAULT NULL,
  `created_at` datetime(6) NOT NULL,
  `updated_at` datetime(6) NOT NULL,
  PRIMARY KEY (`key`),
  KEY `ix_operation_recurring_next` (`next_at`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
INSERT INTO `operation_recurring` VALUES ('nightly','invoices.send','{\"number\": 14}','every day at 3am','Europe/Rome',NULL,NULL,'{\"grace_s\": null, \"missed\": \"skip\", \"max_waiting\": 1, \"overlap\": \"allow\", \"jitter_s\": 0.0, \"requires_class\": false, \"loss_limit\": null}','api','0b6fee698ea88de4ff33702e080ddf32b367cbe2929db0c46e5802baf3bf0e69',NULL,'2026-12-01 02:00:00.000000',NULL,NULL,0,NULL,NULL,0,NULL,'2026-11-30 17:11:32.281004','an operator','not yet',NULL,NULL,NULL,NULL,NULL,'2026-11-30 17:11:32.272258','2026-11-30 17:11:32.281004');
CREATE TABLE `operation_schema` (
  `version` int(11) NOT NULL,
  `applied_at` datetime(6) NOT NULL,
  PRIMARY KEY (`version`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
INSERT INTO `operation_schema` VALUES (3,'2026-11-30 17:11:30.962530');
CREATE TABLE `operation_signals` (
  `record_id` varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `cancel_requested_at` datetime(6) DEFAULT NULL,
  `progress` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`progress`)),
  PRIMARY KEY (`record_id`),
  KEY `ix_operation_signals_cancelled` (`cancel_requested_at`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
INSERT INTO `operation_signals` VALUES ('op_01m8pq1dmseqs79jq5xr6jmf7q','2026-11-30 17:11:32.131443',NULL);
CREATE TABLE `operation_steps` (
  `record_id` varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `position` int(11) NOT NULL,
  `name` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `finished` tinyint(1) NOT NULL,
  `cursor` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`cursor`)),
  `value` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`value`)),
  `claim_token` int(11) NOT NULL,
  `updated_at` datetime(6) NOT NULL,
  PRIMARY KEY (`record_id`,`position`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
INSERT INTO `operation_steps` VALUES ('op_01m8pq1enx0v12hg1584w7kg88',0,'total',1,NULL,'{\"value\": 106}',1,'2026-11-30 17:11:32.944529');
CREATE TABLE `operation_worker_names` (
  `worker` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `names` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`names`)),
  `recurring_keys` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`recurring_keys`)),
  PRIMARY KEY (`worker`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
INSERT INTO `operation_worker_names` VALUES ('vm:11877:grvc437vz0','[\"dexpy.deferred.DeferredCall\", \"invoices.cancel_itself\", \"invoices.collect\", \"invoices.send\", \"invoices.send_once\"]','{\"started_at\": \"2026-11-30T17:11:32.049555+00:00\", \"keys\": {}}');
INSERT INTO `operation_worker_names` VALUES ('vm:11899:zwvha35wda','[\"dexpy.deferred.DeferredCall\", \"invoices.cancel_itself\", \"invoices.collect\", \"invoices.send\", \"invoices.send_once\"]','{\"started_at\": \"2026-11-30T17:11:32.906321+00:00\", \"keys\": {}}');
CREATE TABLE `operation_worker_sessions` (
  `worker` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `backend` varchar(96) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  PRIMARY KEY (`worker`,`backend`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
INSERT INTO `operation_worker_sessions` VALUES ('vm:11877:grvc437vz0','14/127.0.0.1:39966');
INSERT INTO `operation_worker_sessions` VALUES ('vm:11877:grvc437vz0','15/127.0.0.1:39976');
INSERT INTO `operation_worker_sessions` VALUES ('vm:11877:grvc437vz0','16/127.0.0.1:39986');
INSERT INTO `operation_worker_sessions` VALUES ('vm:11877:grvc437vz0','17/127.0.0.1:39992');
INSERT INTO `operation_worker_sessions` VALUES ('vm:11877:grvc437vz0','18/127.0.0.1:40000');
INSERT INTO `operation_worker_sessions` VALUES ('vm:11877:grvc437vz0','19/127.0.0.1:40006');
INSERT INTO `operation_worker_sessions` VALUES ('vm:11877:grvc437vz0','20/127.0.0.1:40020');
INSERT INTO `operation_worker_sessions` VALUES ('vm:11899:zwvha35wda','21/127.0.0.1:40024');
INSERT INTO `operation_worker_sessions` VALUES ('vm:11899:zwvha35wda','22/127.0.0.1:40034');
INSERT INTO `operation_worker_sessions` VALUES ('vm:11899:zwvha35wda','24/127.0.0.1:40042');
INSERT INTO `operation_worker_sessions` VALUES ('vm:11899:zwvha35wda','25/127.0.0.1:40054');
INSERT INTO `operation_worker_sessions` VALUES ('vm:11899:zwvha35wda','26/127.0.0.1:40064');
CREATE TABLE `operation_workers` (
  `id` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `host` varchar(255) NOT NULL,
  `pid` int(11) NOT NULL,
  `threads` int(11) NOT NULL,
  `queues` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`queues`)),
  `started_at` datetime(6) NOT NULL,
  `beat_at` datetime(6) NOT NULL,
  `leased_until` datetime(6) NOT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
INSERT INTO `operation_workers` VALUES ('vm:11877:grvc437vz0','vm',11877,4,NULL,'2026-11-30 17:11:31.955956','2026-11-30 17:11:31.955956','2026-11-30 17:12:01.955956');
INSERT INTO `operation_workers` VALUES ('vm:11899:zwvha35wda','vm',11899,4,NULL,'2026-11-30 17:11:32.790570','2026-11-30 17:11:32.790570','2026-11-30 17:12:02.790570');
CREATE TABLE `sent_invoices` (
  `id` int(11) NOT NULL AUTO_INCREMENT,
  `number` int(11) NOT NULL,
  `run` varchar(40) NOT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB AUTO_INCREMENT=3 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
INSERT INTO `sent_invoices` VALUES (1,1,'op_01m8pq1dmccevxexe27g7tn4fq');
INSERT INTO `sent_invoices` VALUES (2,2,'op_01m8pq1dmf02fdf6s0mp0xzjay');
