-- Takes 2002_one_table back. No order is touched.

DROP VIEW IF EXISTS orders_one_table.orders;
DROP FUNCTION IF EXISTS orders_one_table.order_jsonb(json);
DROP SCHEMA IF EXISTS orders_one_table;
DELETE FROM order_service_migrations WHERE number = 2002;
