-- Back to batches whose orders are found by changed_in alone.
ALTER TABLE IF EXISTS outbox DROP COLUMN IF EXISTS order_uids;
DELETE FROM order_service_migrations WHERE number = 3;
