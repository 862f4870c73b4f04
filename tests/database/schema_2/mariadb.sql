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
INSERT INTO `dexpy_messages` VALUES (8,'default',0,'2026-11-30 13:37:04.163676','billing-1:20411:f5d95134eeed','2026-11-30 13:37:37.762754','408bae8b-d65d-4ddf-b9c4-a5d7bd0d2aab','{\"queue_name\":\"default\",\"actor_name\":\"dexpy.RecordJob\",\"args\":[],\"kwargs\":{\"class_name\":\"invoices.collect\",\"record_id\":\"op_01m8parr4ycdfa2bpbjfhn0b48\",\"trace\":{\"id\":\"tr_01m8parr4ycdfa2bscqr2fyfvw\"}},\"options\":{\"dexpy\":{\"v\":1}},\"message_id\":\"408bae8b-d65d-4ddf-b9c4-a5d7bd0d2aab\",\"message_timestamp\":1796045824158}',0,'2026-11-30 13:37:04.163676');
INSERT INTO `dexpy_messages` VALUES (9,'default',0,'2026-11-30 13:37:08.611167',NULL,NULL,'cce5f929-9575-47bf-b76c-4db215d29a8d','{\"queue_name\":\"default\",\"actor_name\":\"dexpy.RecordJob\",\"args\":[],\"kwargs\":{\"class_name\":\"invoices.send\",\"record_id\":\"op_01m8parwfm1e8epjrj57j2x10d\",\"trace\":{\"id\":\"tr_01m8parwfm1e8epjw3ehrjcnc7\"}},\"options\":{\"dexpy\":{\"v\":1}},\"message_id\":\"cce5f929-9575-47bf-b76c-4db215d29a8d\",\"message_timestamp\":1796045828596}',0,'2026-11-30 13:37:08.611167');
INSERT INTO `dexpy_messages` VALUES (10,'default',0,'2126-11-06 13:37:08.621496',NULL,NULL,'f364bbe8-edaa-4712-b5bf-ce1b6e4d0a6b','{\"queue_name\":\"default\",\"actor_name\":\"dexpy.RecordJob\",\"args\":[],\"kwargs\":{\"class_name\":\"invoices.send\",\"record_id\":\"op_01m8parwg67m2an7gbbq1bfkmw\",\"trace\":{\"id\":\"tr_01m8parwg67m2an7prk328ays0\"}},\"options\":{\"dexpy\":{\"v\":1}},\"message_id\":\"f364bbe8-edaa-4712-b5bf-ce1b6e4d0a6b\",\"message_timestamp\":1796045828614}',0,'2026-11-30 13:37:08.621496');

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
INSERT INTO `operation_attempts` VALUES ('op_01m8parqf7708mnr702v88xb8a',1,1,'billing-1:20326:tnghaqxqe9','2026-11-30 13:37:03.617932','2026-11-30 13:37:03.652472','crash','ConnectionError','the mail server is away','/srv/billing/apps/invoices.py:39 perform');
INSERT INTO `operation_attempts` VALUES ('op_01m8parqfcc4z4580rfv8v7r3g',1,1,'billing-1:20326:tnghaqxqe9','2026-11-30 13:37:03.668590','2026-11-30 13:37:03.718417','business','no_customer','Invoice 0 has no customer',NULL);
INSERT INTO `operation_attempts` VALUES ('op_01m8parqfqdh4gv7w561t9m75b',1,1,'billing-1:20326:tnghaqxqe9','2026-11-30 13:37:03.763070','2026-11-30 13:37:04.038302','cancelled','dexpy.errors.Cancelled','The run was cancelled while it ran.','/srv/billing/apps/invoices.py:74 perform');

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
  PRIMARY KEY (`id`),
  UNIQUE KEY `uq_operation_token` (`operation`,`idempotence_token`),
  UNIQUE KEY `uq_operation_tick` (`recurring_key`,`run_at`),
  UNIQUE KEY `once_key` (`once_key`),
  UNIQUE KEY `unique_key` (`unique_key`),
  KEY `ix_operation_completed` (`completed_at`),
  KEY `ix_operation_expires` (`expires_at`),
  KEY `ix_operation_actor` (`actor_type`,`actor_id`),
  KEY `ix_operation_blocked` (`blocked_key`,`priority`,`id`),
  KEY `ix_operation_trace` (`trace_id`),
  KEY `ix_operation_slots` (`concurrency_key`,`status`),
  KEY `ix_operation_due` (`status`,`queue`,`priority`,`scheduled_at`),
  KEY `ix_operation_name` (`operation`,`status`,`id`),
  KEY `ix_operation_owed` (`status`,`enqueued_at`,`scheduled_at`),
  CONSTRAINT `ck_operation_status` CHECK (`status` in ('pending','running','done','failed','expired','cancelled'))
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
INSERT INTO `operation_records` VALUES ('op_01m8parq76bqr3ecwh0rajwdyg','invoices.send','{\"number\": 1}','{\"value\": 1}','done',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 13:37:03.417365',1,'2026-11-30 13:37:03.543264','2026-11-30 13:37:03.562425',NULL,1,0,4,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8parq77ahxr91etjer377jh','{\"id\": \"tr_01m8parq77ahxr91etjer377jh\", \"actor\": null, \"stack\": [[\"op_01m8parq76bqr3ecwh0rajwdyg\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 13:37:03.417365','2026-11-30 13:37:03.562425');
INSERT INTO `operation_records` VALUES ('op_01m8parqeb2fdsvkyyyaxygjm9','invoices.send_once','{\"number\": 2}','{\"value\": 2}','done',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 13:37:03.446920',1,'2026-11-30 13:37:03.587365','2026-11-30 13:37:03.608322',NULL,1,0,4,NULL,1,NULL,'f0d8c99935422397005ab2b4f54f3e9c1c8f863c9641dd3d866bc18e10f3c1c6','f0d8c99935422397005ab2b4f54f3e9c1c8f863c9641dd3d866bc18e10f3c1c6',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8parqeb2fdsvkz3mjrm391y','{\"id\": \"tr_01m8parqeb2fdsvkz3mjrm391y\", \"actor\": null, \"stack\": [[\"op_01m8parqeb2fdsvkyyyaxygjm9\", \"invoices.send_once\"]]}',NULL,NULL,NULL,'2026-11-30 13:37:03.446920','2026-11-30 13:37:03.608322');
INSERT INTO `operation_records` VALUES ('op_01m8parqf7708mnr702v88xb8a','invoices.send','{\"number\": 13}',NULL,'failed','ConnectionError','crash','the mail server is away',NULL,'default',0,NULL,'2026-11-30 13:37:03.463471',1,'2026-11-30 13:37:03.617932','2026-11-30 13:37:03.626771',NULL,1,0,4,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8parqf7708mnraje29s0r7a','{\"id\": \"tr_01m8parqf7708mnraje29s0r7a\", \"actor\": null, \"stack\": [[\"op_01m8parqf7708mnr702v88xb8a\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 13:37:03.463471','2026-11-30 13:37:03.626771');
INSERT INTO `operation_records` VALUES ('op_01m8parqfcc4z4580rfv8v7r3g','invoices.send','{\"number\": 0}',NULL,'failed','no_customer','business','Invoice 0 has no customer',NULL,'default',0,NULL,'2026-11-30 13:37:03.468766',1,'2026-11-30 13:37:03.668590','2026-11-30 13:37:03.701653',NULL,1,0,4,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8parqfcc4z45812r6az75zw','{\"id\": \"tr_01m8parqfcc4z45812r6az75zw\", \"actor\": null, \"stack\": [[\"op_01m8parqfcc4z4580rfv8v7r3g\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 13:37:03.468766','2026-11-30 13:37:03.701653');
INSERT INTO `operation_records` VALUES ('op_01m8parqfqdh4gv7w561t9m75b','invoices.cancel_itself','{}',NULL,'cancelled','dexpy.errors.Cancelled','cancelled','The run was cancelled while it ran.',NULL,'default',0,NULL,'2026-11-30 13:37:03.482720',1,'2026-11-30 13:37:03.763070','2026-11-30 13:37:04.035837',NULL,1,0,4,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8parqfqdh4gv83d0m3vq85j','{\"id\": \"tr_01m8parqfqdh4gv83d0m3vq85j\", \"actor\": null, \"stack\": [[\"op_01m8parqfqdh4gv7w561t9m75b\", \"invoices.cancel_itself\"]]}',NULL,NULL,NULL,'2026-11-30 13:37:03.482720','2026-11-30 13:37:04.035837');
INSERT INTO `operation_records` VALUES ('op_01m8parr2jeqrvjq4pffxevs95','invoices.send','{\"number\": 4}',NULL,'cancelled',NULL,'cancelled','Cancelled on request.',NULL,'default',0,NULL,'2026-11-30 13:37:04.083347',1,NULL,'2026-11-30 13:37:04.101486',NULL,0,0,4,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8parr2jeqrvjqbfcr7s5pxk','{\"id\": \"tr_01m8parr2jeqrvjqbfcr7s5pxk\", \"actor\": null, \"stack\": [[\"op_01m8parr2jeqrvjq4pffxevs95\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 13:37:04.083347','2026-11-30 13:37:04.101486');
INSERT INTO `operation_records` VALUES ('op_01m8parr3k8c0snq67g8sf50sx','invoices.send','{\"number\": 5}',NULL,'expired',NULL,'expired','Expired on request.',NULL,'default',0,NULL,'2026-11-30 13:37:04.115663',1,NULL,'2026-11-30 13:37:04.148196',NULL,0,0,4,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8parr3k8c0snq6zz63bet08','{\"id\": \"tr_01m8parr3k8c0snq6zz63bet08\", \"actor\": null, \"stack\": [[\"op_01m8parr3k8c0snq67g8sf50sx\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 13:37:04.115663','2026-11-30 13:37:04.148196');
INSERT INTO `operation_records` VALUES ('op_01m8parr4ycdfa2bpbjfhn0b48','invoices.collect','{\"number\": 6}',NULL,'running',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 13:37:04.162981',1,'2026-11-30 13:37:07.798092',NULL,NULL,1,0,4,NULL,1,'billing-1:20411:30ds4g757m',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8parr4ycdfa2bscqr2fyfvw','{\"id\": \"tr_01m8parr4ycdfa2bscqr2fyfvw\", \"actor\": null, \"stack\": [[\"op_01m8parr4ycdfa2bpbjfhn0b48\", \"invoices.collect\"]]}',NULL,NULL,NULL,'2026-11-30 13:37:04.162981','2026-11-30 13:37:07.798092');
INSERT INTO `operation_records` VALUES ('op_01m8parwfm1e8epjrj57j2x10d','invoices.send','{\"number\": 7}',NULL,'pending',NULL,NULL,NULL,NULL,'default',0,NULL,'2026-11-30 13:37:08.599216',1,NULL,NULL,NULL,0,0,4,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8parwfm1e8epjw3ehrjcnc7','{\"id\": \"tr_01m8parwfm1e8epjw3ehrjcnc7\", \"actor\": null, \"stack\": [[\"op_01m8parwfm1e8epjrj57j2x10d\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 13:37:08.599216','2026-11-30 13:37:08.599216');
INSERT INTO `operation_records` VALUES ('op_01m8parwg67m2an7gbbq1bfkmw','invoices.send','{\"number\": 8}',NULL,'pending',NULL,NULL,NULL,NULL,'default',0,'2126-11-06 13:37:08.616037','2026-11-30 13:37:08.616037',1,NULL,NULL,NULL,0,0,4,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'tr_01m8parwg67m2an7prk328ays0','{\"id\": \"tr_01m8parwg67m2an7prk328ays0\", \"actor\": null, \"stack\": [[\"op_01m8parwg67m2an7gbbq1bfkmw\", \"invoices.send\"]]}',NULL,NULL,NULL,'2026-11-30 13:37:08.616037','2026-11-30 13:37:08.616037');

CREATE TABLE `operation_schema` (
  `version` int(11) NOT NULL,
  `applied_at` datetime(6) NOT NULL,
  PRIMARY KEY (`version`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
INSERT INTO `operation_schema` VALUES (2,'2026-11-30 13:36:59.292034');

CREATE TABLE `operation_signals` (
  `record_id` varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `cancel_requested_at` datetime(6) DEFAULT NULL,
  `progress` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`progress`)),
  PRIMARY KEY (`record_id`),
  KEY `ix_operation_signals_cancelled` (`cancel_requested_at`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
INSERT INTO `operation_signals` VALUES ('op_01m8parqfqdh4gv7w561t9m75b','2026-11-30 13:37:03.805902',NULL);

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
INSERT INTO `operation_steps` VALUES ('op_01m8parr4ycdfa2bpbjfhn0b48',0,'total',1,NULL,'{\"value\": 106}',1,'2026-11-30 13:37:07.886105');

CREATE TABLE `operation_worker_names` (
  `worker` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `names` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`names`)),
  PRIMARY KEY (`worker`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
INSERT INTO `operation_worker_names` VALUES ('billing-1:20326:tnghaqxqe9','[\"dexpy.deferred.DeferredCall\", \"invoices.cancel_itself\", \"invoices.collect\", \"invoices.send\", \"invoices.send_once\"]');
INSERT INTO `operation_worker_names` VALUES ('billing-1:20411:30ds4g757m','[\"dexpy.deferred.DeferredCall\", \"invoices.cancel_itself\", \"invoices.collect\", \"invoices.send\", \"invoices.send_once\"]');

CREATE TABLE `operation_worker_sessions` (
  `worker` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `backend` varchar(96) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  PRIMARY KEY (`worker`,`backend`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
INSERT INTO `operation_worker_sessions` VALUES ('billing-1:20326:tnghaqxqe9','197/127.0.0.1:36334');
INSERT INTO `operation_worker_sessions` VALUES ('billing-1:20326:tnghaqxqe9','199/127.0.0.1:36356');
INSERT INTO `operation_worker_sessions` VALUES ('billing-1:20326:tnghaqxqe9','200/127.0.0.1:36366');
INSERT INTO `operation_worker_sessions` VALUES ('billing-1:20411:30ds4g757m','216/127.0.0.1:46814');
INSERT INTO `operation_worker_sessions` VALUES ('billing-1:20411:30ds4g757m','221/127.0.0.1:46848');
INSERT INTO `operation_worker_sessions` VALUES ('billing-1:20411:30ds4g757m','222/127.0.0.1:46854');

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
INSERT INTO `operation_workers` VALUES ('billing-1:20326:tnghaqxqe9','billing-1',20326,1,NULL,'2026-11-30 13:37:03.151824','2026-11-30 13:37:03.151824','2026-11-30 13:37:33.151824');
INSERT INTO `operation_workers` VALUES ('billing-1:20411:30ds4g757m','billing-1',20411,1,NULL,'2026-11-30 13:37:07.193320','2026-11-30 13:37:07.193320','2026-11-30 13:37:37.193320');

CREATE TABLE `sent_invoices` (
  `id` int(11) NOT NULL AUTO_INCREMENT,
  `number` int(11) NOT NULL,
  `run` varchar(40) NOT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB AUTO_INCREMENT=3 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
INSERT INTO `sent_invoices` VALUES (1,1,'op_01m8parq76bqr3ecwh0rajwdyg');
INSERT INTO `sent_invoices` VALUES (2,2,'op_01m8parqeb2fdsvkyyyaxygjm9');
