-- What is not yet published never will be.
DROP TABLE outbox;
DROP TABLE store_identity;
