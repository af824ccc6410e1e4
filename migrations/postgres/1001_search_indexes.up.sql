-- Optional: b-trees for searches by customer, track number, date and status.
--
-- Their price: PRICE
--
-- Applied by `order-service migrate up --optional`, or by hand:
-- psql -1 -v ON_ERROR_STOP=1 -f 1001_search_indexes.up.sql

CREATE INDEX IF NOT EXISTS orders_customer_id ON orders (customer_id);
CREATE INDEX IF NOT EXISTS orders_track_number ON orders (track_number);
CREATE INDEX IF NOT EXISTS orders_date_created ON orders (date_created);
CREATE INDEX IF NOT EXISTS orders_status ON orders (status);

INSERT INTO schema_migrations (number, name) VALUES (1001, 'search_indexes') ON CONFLICT DO NOTHING;
