-- Takes 2001_four_tables back. No order is touched.

DROP VIEW IF EXISTS orders_four_tables_named_ids.items;
DROP VIEW IF EXISTS orders_four_tables_named_ids.payments;
DROP VIEW IF EXISTS orders_four_tables_named_ids.payment;
DROP VIEW IF EXISTS orders_four_tables_named_ids.deliveries;
DROP VIEW IF EXISTS orders_four_tables_named_ids.delivery;
DROP VIEW IF EXISTS orders_four_tables_named_ids.orders;
DROP SCHEMA IF EXISTS orders_four_tables_named_ids;
DROP VIEW IF EXISTS orders_four_tables.items;
DROP VIEW IF EXISTS orders_four_tables.payments;
DROP VIEW IF EXISTS orders_four_tables.payment;
DROP VIEW IF EXISTS orders_four_tables.deliveries;
DROP VIEW IF EXISTS orders_four_tables.delivery;
DROP VIEW IF EXISTS orders_four_tables.orders;
DROP SCHEMA IF EXISTS orders_four_tables;
DELETE FROM order_service_migrations WHERE number = 2001;
