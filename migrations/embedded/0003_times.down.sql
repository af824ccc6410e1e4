-- The times are lost, but for those in the bodies of envelope orders.
ALTER TABLE orders DROP COLUMN updated_at;
ALTER TABLE orders DROP COLUMN created_at;
