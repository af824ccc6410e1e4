-- The table of the event-driven older service, in four partitions.
CREATE TABLE orders (
    order_id uuid NOT NULL, user_id uuid NOT NULL, amount numeric(14, 2) NOT NULL DEFAULT 0,
    status text NOT NULL DEFAULT 'new', payload jsonb, created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(), bucket int NOT NULL, PRIMARY KEY (order_id, bucket)
) PARTITION BY LIST (bucket);
CREATE TABLE orders_b0 PARTITION OF orders FOR VALUES IN (0);
CREATE TABLE orders_b1 PARTITION OF orders FOR VALUES IN (1);
CREATE TABLE orders_b2 PARTITION OF orders FOR VALUES IN (2);
CREATE TABLE orders_b3 PARTITION OF orders FOR VALUES IN (3);
-- Every tenth is deleted; each external id of a user occurs five times, the newest in the middle of
-- the table.
INSERT INTO orders (order_id, user_id, amount, status, payload, created_at, updated_at, bucket)
SELECT id, ('00000000-0000-4000-8000-' || lpad((n % 200 % 3)::text, 12, '0'))::uuid,
       n + 0.25, (ARRAY['deleted', 'new', 'processing', 'done', 'cancelled'])[CASE WHEN n % 10 = 0 THEN 1 ELSE n % 4 + 2 END],
       jsonb_build_object('id', 'ext-' || n % 200, 'text', E'"Привет" \\ \t 🛒', 'n', 12345678901234567890.25, 'none', NULL,
                          'items', jsonb_build_array(jsonb_build_object('price', 19.90, 'qty', n))),
       timestamptz '2025-01-01 00:00:00.5+03' + ((n * 7919) % 1000) * interval '1.000001 second',
       timestamptz '2025-02-01 00:00:00+03' + n * interval '1 second', get_byte(uuid_send(id), 0) % 4
FROM (SELECT n, md5(n::text)::uuid AS id FROM generate_series(1, 1000) AS n) AS numbered;
-- What is no valid order: no payload, a null, an array, a status that never was.
INSERT INTO orders (order_id, user_id, payload, status, bucket) VALUES
    ('00000000-0000-4000-8000-00000000000a', '00000000-0000-4000-8000-000000000000', NULL, 'new', 0),
    ('00000000-0000-4000-8000-00000000000b', '00000000-0000-4000-8000-000000000000', 'null', 'new', 0),
    ('00000000-0000-4000-8000-00000000000c', '00000000-0000-4000-8000-000000000000', '[1]', 'new', 0),
    ('00000000-0000-4000-8000-00000000000d', '00000000-0000-4000-8000-000000000000', '{}', 'lost', 0);
