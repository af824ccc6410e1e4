-- Which orders a recorded batch is about. A change by another writer before it is published takes an order out of
-- changed_in, and its event and its acknowledgement must come all the same.
--
-- Applied by the service under an advisory lock, or by hand: psql -1 -v ON_ERROR_STOP=1 -f 0003_outbox_orders.up.sql

-- Null in rows of instances that did not know of it yet: theirs are found by changed_in.
ALTER TABLE outbox ADD COLUMN order_uids text[] COLLATE "C";

INSERT INTO order_service_migrations (number, name) VALUES (3, 'outbox_orders');
