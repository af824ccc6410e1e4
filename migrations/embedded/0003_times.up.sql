-- When orders were made and last changed, in microseconds since 1970. It is not known of rows that were there before.
ALTER TABLE orders ADD COLUMN created_at INTEGER;
ALTER TABLE orders ADD COLUMN updated_at INTEGER;
