-- Takes 0001_orders back, with every order in it.
--
-- By hand: psql -1 -v ON_ERROR_STOP=1 -f 0001_orders.down.sql

DROP VIEW IF EXISTS items;
DROP VIEW IF EXISTS payments;
DROP VIEW IF EXISTS payment;
DROP VIEW IF EXISTS delivery;
DROP VIEW IF EXISTS order_documents;
DROP FUNCTION IF EXISTS order_whole(text);
DROP TABLE IF EXISTS idempotency;
DROP TABLE IF EXISTS positions;
DROP TABLE IF EXISTS orders;
DROP SEQUENCE IF EXISTS orders_rank;
DELETE FROM order_service_migrations WHERE number = 1;
