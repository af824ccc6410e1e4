-- What is not yet published never will be.
DROP TABLE IF EXISTS outbox;
DROP TABLE IF EXISTS store_identity;
DELETE FROM order_service_migrations WHERE number = 2;
