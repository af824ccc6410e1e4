-- Takes 2003_event_driven back. No order is touched.

DROP VIEW IF EXISTS orders_event_driven_external.orders;
DROP SCHEMA IF EXISTS orders_event_driven_external;
DROP VIEW IF EXISTS orders_event_driven.orders;
DROP FUNCTION IF EXISTS orders_event_driven.order_jsonb(json);
DROP SCHEMA IF EXISTS orders_event_driven;
DROP INDEX IF EXISTS orders_user_id;
DROP INDEX IF EXISTS orders_order_id;
DELETE FROM order_service_migrations WHERE number = 2003;
