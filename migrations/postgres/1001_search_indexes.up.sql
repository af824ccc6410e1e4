-- Optional: b-trees for searches by customer, track number, date and status.
--
-- Their price, as the speed of a COPY of 500,000 orders beside the same without them (157,000 to 171,000 orders/s on two
-- cores; `cargo bench --bench pipeline`): customer_id 0.60 to 0.70, track_number 0.60 to 0.76, date_created 0.71 to 0.81,
-- status 0.80 to 0.87, all four 0.42 to 0.45.
--
-- Applied by `order-service migrate up --optional`, or by hand:
-- psql -1 -v ON_ERROR_STOP=1 -f 1001_search_indexes.up.sql

CREATE INDEX orders_customer_id ON orders (customer_id);
CREATE INDEX orders_track_number ON orders (track_number);
CREATE INDEX orders_date_created ON orders (date_created);
CREATE INDEX orders_status ON orders (status);

INSERT INTO order_service_migrations (number, name) VALUES (1001, 'search_indexes');
