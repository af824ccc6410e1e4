DROP TABLE idempotency;
DROP TABLE positions;
DROP TABLE orders;
