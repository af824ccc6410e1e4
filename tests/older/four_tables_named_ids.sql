-- The four tables of another older service: other names, ids of parts named after them, foreign
-- keys, times with a zone, a payment known by its transaction alone.
CREATE TABLE orders (
    order_uid text PRIMARY KEY, track_number text NOT NULL, entry text NOT NULL, locale text NOT NULL,
    internal_signature text NOT NULL, customer_id text NOT NULL, delivery_service text NOT NULL, shardkey text NOT NULL,
    sm_id bigint NOT NULL, date_created timestamptz NOT NULL, oof_shard text NOT NULL
);
CREATE TABLE deliveries (
    delivery_id bigserial PRIMARY KEY, order_uid text NOT NULL REFERENCES orders ON DELETE CASCADE, name text NOT NULL,
    phone text NOT NULL, zip text NOT NULL, city text NOT NULL, address text NOT NULL, region text NOT NULL,
    email text NOT NULL
);
CREATE TABLE payments (
    payment_id bigserial PRIMARY KEY, transaction text NOT NULL REFERENCES orders (order_uid), request_id text NOT NULL,
    currency text NOT NULL, provider text NOT NULL, amount numeric(20, 2) NOT NULL, payment_dt bigint NOT NULL,
    bank text NOT NULL, delivery_cost numeric(20, 2) NOT NULL, goods_total int NOT NULL, custom_fee int NOT NULL
);
CREATE TABLE items (
    item_id bigserial PRIMARY KEY, order_uid text NOT NULL REFERENCES orders ON DELETE CASCADE, chrt_id bigint NOT NULL,
    track_number text NOT NULL, price int NOT NULL, rid text NOT NULL, name text NOT NULL, sale int NOT NULL,
    size text NOT NULL, total_price int NOT NULL, nm_id bigint NOT NULL, brand text NOT NULL, status int NOT NULL
);
INSERT INTO orders
SELECT 'named-' || n, 'WBILMTESTTRACK', 'WBIL', 'en', '', 'test', 'meest', '9', 99,
       timestamptz '2024-03-31 01:59:59+03' + n * interval '0.000001 seconds', '1'
FROM generate_series(1, 1000) AS n;
INSERT INTO deliveries (order_uid, name, phone, zip, city, address, region, email)
SELECT 'named-' || n, 'Test ' || n, '+972', '2639809', 'City', 'Street', 'Region', 'a@b.c' FROM generate_series(1, 1000) AS n;
INSERT INTO payments (transaction, request_id, currency, provider, amount, payment_dt, bank, delivery_cost, goods_total,
                      custom_fee)
SELECT 'named-' || n, '', 'USD', 'wbpay', n + 0.5, 1637907727, 'alpha', 1500, 317, 0 FROM generate_series(1, 1000) AS n;
INSERT INTO items (order_uid, chrt_id, track_number, price, rid, name, sale, size, total_price, nm_id, brand, status)
SELECT 'named-' || n, n, 'WBILMTESTTRACK', 453, 'rid', 'Mascaras', 30, '0', 317, 2389212, 'Vivienne Sabo', 202
FROM generate_series(1, 1000) AS n;
