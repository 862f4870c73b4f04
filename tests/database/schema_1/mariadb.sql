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

INSERT INTO `dexpy_messages` VALUES (8,'default',0,'2026-11-30 10:04:51.200548','billing-1:29077:18acd3848e2c','2026-11-30 10:05:26.340919','2067fd9a-7a22-434b-be68-ba34212a13a5','{\"queue_name\":\"default\",\"actor_name\":\"dexpy.RecordJob\",\"args\":[],\"kwargs\":{\"class_name\":\"invoices.collect\",\"record_id\":\"op_01m8nym5kx5jr5752s56qs2ahm\",\"trace\":{\"id\":\"tr_01m8nym5kx5jr57574w9z1dhh6\"}},\"options\":{\"dexpy\":{\"v\":1}},\"message_id\":\"2067fd9a-7a22-434b-be68-ba34212a13a5\",\"message_timestamp\":1796033091197}',0,'2026-11-30 10:04:51.200548');
INSERT INTO `dexpy_messages` VALUES (9,'default',0,'2026-11-30 10:04:58.488559',NULL,NULL,'8820b2a6-4c51-4962-af12-29653eb4fe24','{\"queue_name\":\"default\",\"actor_name\":\"dexpy.RecordJob\",\"args\":[],\"kwargs\":{\"class_name\":\"invoices.send\",\"record_id\":\"op_01m8nymcqn9fh0eejvr7fmb8t0\",\"trace\":{\"id\":\"tr_01m8nymcqn9fh0eeke25vs2cgy\"}},\"options\":{\"dexpy\":{\"v\":1}},\"message_id\":\"8820b2a6-4c51-4962-af12-29653eb4fe24\",\"message_timestamp\":1796033098485}',0,'2026-11-30 10:04:58.488559');
INSERT INTO `dexpy_messages` VALUES (10,'default',0,'2126-11-06 10:04:58.494624',NULL,NULL,'6550ad0c-24c7-4eda-b77a-9e610f0dbdbf','{\"queue_name\":\"default\",\"actor_name\":\"dexpy.RecordJob\",\"args\":[],\"kwargs\":{\"class_name\":\"invoices.send\",\"record_id\":\"op_01m8nymcqt4c4q6kcsd2mkkcqj\",\"trace\":{\"id\":\"tr_01m8nymcqt4c4q6ke1gev1t6z3\"}},\"options\":{\"dexpy\":{\"v\":1}},\"message_id\":\"6550ad0c-24c7-4eda-b77a-9e610f0dbdbf\",\"message_timestamp\":1796033098490}',0,'2026-11-30 10:04:58.494624');
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

INSERT INTO `operation_attempts` VALUES ('op_01m8nym0xraeqt64vsdf42cctw',1,1,'billing-1:28962:06n5xkgzy8','2026-11-30 10:04:49.533270','2026-11-30 10:04:49.543649','crash','ConnectionError','the mail server is away','/srv/billing/invoices.py:39 perform');
INSERT INTO `operation_attempts` VALUES ('op_01m8nym0y1d47ybh6p0a93c3mb',1,1,'billing-1:28962:06n5xkgzy8','2026-11-30 10:04:49.596718','2026-11-30 10:04:49.618291','business','no_customer','Invoice 0 has no customer',NULL);
INSERT INTO `operation_attempts` VALUES ('op_01m8nym0y9eypzdj5t0mn4bz3w',1,1,'billing-1:28962:06n5xkgzy8','2026-11-30 10:04:49.626038','2026-11-30 10:04:49.918658','cancelled','dexpy.Cancelled','It was called off while it ran.','/srv/billing/invoices.py:74 perform');
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
  `name` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
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
  `max_lost` int(11) DEFAULT NULL,
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
  PRIMARY KEY (`id`),
  UNIQUE KEY `uq_operation_token` (`name`,`idempotence_token`),
  UNIQUE KEY `uq_operation_tick` (`recurring_key`,`run_at`),
  UNIQUE KEY `once_key` (`once_key`),
  UNIQUE KEY `unique_key` (`unique_key`),
  KEY `ix_operation_owed` (`status`,`enqueued_at`,`scheduled_at`),
  KEY `ix_operation_name` (`name`,`status`,`id`),
  KEY `ix_operation_blocked` (`blocked_key`,`priority`,`id`),
  KEY `ix_operation_due` (`status`,`queue`,`priority`,`scheduled_at`),
  KEY `ix_operation_completed` (`completed_at`),
  KEY `ix_operation_slots` (`concurrency_key`,`status`),
  KEY `ix_operation_actor` (`actor_type`,`actor_id`),
  KEY `ix_operation_expires` (`expires_at`),
  KEY `ix_operation_trace` (`trace_id`),
  CONSTRAINT `ck_operation_status` CHECK (`status` in ('pending','running','done','failed','expired'))
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

INSERT INTO `operation_records` VALUES ('op_01m8nym0twarefnp5ng8trhf24','invoices.send','{\"number\": 1}','{\"value\": 1}','done',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 10:04:46.372308',1,'2026-11-30 10:04:49.442876','2026-11-30 10:04:49.470181',NULL,1,0,3,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nym0twarefnp7ymn9ww5ty','{\"id\": \"tr_01m8nym0twarefnp7ymn9ww5ty\", \"actor\": null, \"stack\": [[\"op_01m8nym0twarefnp5ng8trhf24\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 10:04:46.372308','2026-11-30 10:04:49.470181');
INSERT INTO `operation_records` VALUES ('op_01m8nym0xde5cep22v3jxx6v9f','invoices.send_once','{\"number\": 2}','{\"value\": 2}','done',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 10:04:46.388455',1,'2026-11-30 10:04:49.499778','2026-11-30 10:04:49.522507',NULL,1,0,3,NULL,1,NULL,'f0d8c99935422397005ab2b4f54f3e9c1c8f863c9641dd3d866bc18e10f3c1c6','f0d8c99935422397005ab2b4f54f3e9c1c8f863c9641dd3d866bc18e10f3c1c6',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nym0xde5cep2ac4sfgdqd7','{\"id\": \"tr_01m8nym0xde5cep2ac4sfgdqd7\", \"actor\": null, \"stack\": [[\"op_01m8nym0xde5cep22v3jxx6v9f\", \"invoices.send_once\"]]}',NULL,NULL,NULL,'2026-11-30 10:04:46.388455','2026-11-30 10:04:49.522507');
INSERT INTO `operation_records` VALUES ('op_01m8nym0xraeqt64vsdf42cctw','invoices.send','{\"number\": 13}',NULL,'failed','ConnectionError','crash','the mail server is away',NULL,'default',0,NULL,'2026-11-30 10:04:46.392932',1,'2026-11-30 10:04:49.533270','2026-11-30 10:04:49.536566',NULL,1,0,3,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nym0xraeqt653qsyy451sb','{\"id\": \"tr_01m8nym0xraeqt653qsyy451sb\", \"actor\": null, \"stack\": [[\"op_01m8nym0xraeqt64vsdf42cctw\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 10:04:46.392932','2026-11-30 10:04:49.536566');
INSERT INTO `operation_records` VALUES ('op_01m8nym0y1d47ybh6p0a93c3mb','invoices.send','{\"number\": 0}',NULL,'failed','no_customer','business','Invoice 0 has no customer',NULL,'default',0,NULL,'2026-11-30 10:04:46.402414',1,'2026-11-30 10:04:49.596718','2026-11-30 10:04:49.608609',NULL,1,0,3,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nym0y1d47ybh7c2h08gx2m','{\"id\": \"tr_01m8nym0y1d47ybh7c2h08gx2m\", \"actor\": null, \"stack\": [[\"op_01m8nym0y1d47ybh6p0a93c3mb\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 10:04:46.402414','2026-11-30 10:04:49.608609');
INSERT INTO `operation_records` VALUES ('op_01m8nym0y9eypzdj5t0mn4bz3w','invoices.cancel_itself','{}',NULL,'expired','dexpy.Cancelled','cancelled','It was called off while it ran.',NULL,'default',0,NULL,'2026-11-30 10:04:46.410447',1,'2026-11-30 10:04:49.626038','2026-11-30 10:04:49.916559',NULL,1,0,3,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nym0y9eypzdjdebnjasbbf','{\"id\": \"tr_01m8nym0y9eypzdjdebnjasbbf\", \"actor\": null, \"stack\": [[\"op_01m8nym0y9eypzdj5t0mn4bz3w\", \"invoices.cancel_itself\"]]}',NULL,NULL,NULL,'2026-11-30 10:04:46.410447','2026-11-30 10:04:49.916559');
INSERT INTO `operation_records` VALUES ('op_01m8nym5jgc6a6kf4njxgbjknd','invoices.send','{\"number\": 4}',NULL,'expired',NULL,'cancelled','It was cancelled.',NULL,'default',0,NULL,'2026-11-30 10:04:51.153320',1,NULL,'2026-11-30 10:04:51.159915',NULL,0,0,3,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nym5jgc6a6kfc0xfssxh9m','{\"id\": \"tr_01m8nym5jgc6a6kfc0xfssxh9m\", \"actor\": null, \"stack\": [[\"op_01m8nym5jgc6a6kf4njxgbjknd\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 10:04:51.153320','2026-11-30 10:04:51.159915');
INSERT INTO `operation_records` VALUES ('op_01m8nym5jw6shv9q7ydbm90aqx','invoices.send','{\"number\": 5}',NULL,'expired',NULL,'expired','It was expired by hand.',NULL,'default',0,NULL,'2026-11-30 10:04:51.165012',1,NULL,'2026-11-30 10:04:51.186494',NULL,0,0,3,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nym5jw6shv9qay0b45xtxr','{\"id\": \"tr_01m8nym5jw6shv9qay0b45xtxr\", \"actor\": null, \"stack\": [[\"op_01m8nym5jw6shv9q7ydbm90aqx\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 10:04:51.165012','2026-11-30 10:04:51.186494');
INSERT INTO `operation_records` VALUES ('op_01m8nym5kx5jr5752s56qs2ahm','invoices.collect','{\"number\": 6}',NULL,'running',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 10:04:51.197742',1,'2026-11-30 10:04:56.350989',NULL,NULL,1,0,3,NULL,1,'billing-1:29077:94adbmancq',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nym5kx5jr57574w9z1dhh6','{\"id\": \"tr_01m8nym5kx5jr57574w9z1dhh6\", \"actor\": null, \"stack\": [[\"op_01m8nym5kx5jr5752s56qs2ahm\", \"invoices.collect\"]]}',NULL,NULL,NULL,'2026-11-30 10:04:51.197742','2026-11-30 10:04:56.350989');
INSERT INTO `operation_records` VALUES ('op_01m8nymcqn9fh0eejvr7fmb8t0','invoices.send','{\"number\": 7}',NULL,'pending',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 10:04:58.487981',1,NULL,NULL,NULL,0,0,3,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nymcqn9fh0eeke25vs2cgy','{\"id\": \"tr_01m8nymcqn9fh0eeke25vs2cgy\", \"actor\": null, \"stack\": [[\"op_01m8nymcqn9fh0eejvr7fmb8t0\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 10:04:58.487981','2026-11-30 10:04:58.487981');
INSERT INTO `operation_records` VALUES ('op_01m8nymcqt4c4q6kcsd2mkkcqj','invoices.send','{\"number\": 8}',NULL,'pending',NULL,NULL,NULL,NULL,'default',0,'2126-11-06 10:04:58.493222','2026-11-30 10:04:58.493222',1,NULL,NULL,NULL,0,0,3,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8nymcqt4c4q6ke1gev1t6z3','{\"id\": \"tr_01m8nymcqt4c4q6ke1gev1t6z3\", \"actor\": null, \"stack\": [[\"op_01m8nymcqt4c4q6kcsd2mkkcqj\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 10:04:58.493222','2026-11-30 10:04:58.493222');
CREATE TABLE `operation_signals` (
  `record_id` varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `cancel_requested_at` datetime(6) DEFAULT NULL,
  `progress` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`progress`)),
  PRIMARY KEY (`record_id`),
  KEY `ix_operation_signals_cancelled` (`cancel_requested_at`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

INSERT INTO `operation_signals` VALUES ('op_01m8nym0y9eypzdj5t0mn4bz3w','2026-11-30 10:04:49.650567',NULL);
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

INSERT INTO `operation_steps` VALUES ('op_01m8nym5kx5jr5752s56qs2ahm',0,'total',1,NULL,'{\"value\": 106}',1,'2026-11-30 10:04:56.363439');
CREATE TABLE `operation_worker_names` (
  `worker` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `names` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`names`)),
  PRIMARY KEY (`worker`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

INSERT INTO `operation_worker_names` VALUES ('billing-1:29077:94adbmancq','[\"dexpy.deferred.DeferredCall\", \"invoices.cancel_itself\", \"invoices.collect\", \"invoices.send\", \"invoices.send_once\"]');
CREATE TABLE `operation_worker_sessions` (
  `worker` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `backend` varchar(96) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  PRIMARY KEY (`worker`,`backend`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

INSERT INTO `operation_worker_sessions` VALUES ('billing-1:29077:94adbmancq','1838/127.0.0.1:34370');
INSERT INTO `operation_worker_sessions` VALUES ('billing-1:29077:94adbmancq','1844/127.0.0.1:34434');
INSERT INTO `operation_worker_sessions` VALUES ('billing-1:29077:94adbmancq','1845/127.0.0.1:34446');
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

INSERT INTO `operation_workers` VALUES ('billing-1:29077:94adbmancq','billing-1',29077,1,NULL,'2026-11-30 10:04:55.919567','2026-11-30 10:04:55.919567','2026-11-30 10:05:25.919567');
CREATE TABLE `sent_invoices` (
  `id` int(11) NOT NULL AUTO_INCREMENT,
  `number` int(11) NOT NULL,
  `run` varchar(40) NOT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB AUTO_INCREMENT=3 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

INSERT INTO `sent_invoices` VALUES (1,1,'op_01m8nym0twarefnp5ng8trhf24');
INSERT INTO `sent_invoices` VALUES (2,2,'op_01m8nym0xde5cep22v3jxx6v9f');
