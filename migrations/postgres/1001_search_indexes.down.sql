-- Takes 1001_search_indexes back. No order is touched.

DROP INDEX IF EXISTS orders_status;
DROP INDEX IF EXISTS orders_date_created;
DROP INDEX IF EXISTS orders_track_number;
DROP INDEX IF EXISTS orders_customer_id;
DELETE FROM order_service_migrations WHERE number = 1001;
