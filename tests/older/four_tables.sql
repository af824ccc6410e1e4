-- The four tables of an older service, ids of parts called id, no foreign keys; 1,000 orders and
-- what goes wrong there.
CREATE TABLE orders (
    order_uid varchar(255) PRIMARY KEY, track_number text, entry text, locale text, internal_signature text,
    customer_id text, delivery_service text, shardkey text, sm_id int, date_created timestamp, oof_shard text
);
CREATE TABLE delivery (
    id serial PRIMARY KEY, order_uid varchar(255), name text, phone text, zip text, city text, address text, region text,
    email text
);
CREATE TABLE payment (
    id serial PRIMARY KEY, order_uid varchar(255), transaction text, request_id text, currency text, provider text,
    amount bigint, payment_dt bigint, bank text, delivery_cost bigint, goods_total bigint, custom_fee bigint
);
CREATE TABLE items (
    id serial PRIMARY KEY, order_uid varchar(255), chrt_id bigint, track_number text, price bigint, rid text, name text,
    sale int, size text, total_price bigint, nm_id bigint, brand text, status int
);
INSERT INTO orders
SELECT 'b563feb7b2b84b6test' || n, 'ТРЕК-' || n, 'WBIL', CASE n % 3 WHEN 0 THEN 'en' ELSE 'ru' END,
       CASE WHEN n % 7 = 0 THEN NULL ELSE '' END, E'it''s "№ ' || n || E'" \\ \t\n\u001f 日本 🛒', 'meest', n % 10,
       CASE WHEN n % 11 = 0 THEN NULL ELSE n END,
       CASE WHEN n % 50 = 0 THEN NULL ELSE timestamp '2021-11-26 06:22:19' + (1001 - n) * interval '1.5 seconds' END, '1'
FROM generate_series(1, 1000) AS n;
INSERT INTO delivery (order_uid, name, phone, zip, city, address, region, email)
SELECT 'b563feb7b2b84b6test' || n, 'Тест "Тестов" ' || n, '+9720000000', lpad(n::text, 7, '0'), 'Kiryat Mozkin',
       '', NULL, 'test@gmail.com'
FROM generate_series(1, 1000) AS n WHERE n <> 10;
INSERT INTO payment (order_uid, transaction, request_id, currency, provider, amount, payment_dt, bank, delivery_cost,
                     goods_total, custom_fee)
SELECT 'b563feb7b2b84b6test' || n, 'b563feb7b2b84b6test' || n, '', 'USD', 'wbpay',
       CASE WHEN n = 5 THEN 9223372036854775807 ELSE n * 100 END, 1637907727, 'alpha', 1500, -n, 0
FROM generate_series(1, 1000) AS n WHERE n <> 20;
-- Backwards, so that their order is not that of the table.
INSERT INTO items (id, order_uid, chrt_id, track_number, price, rid, name, sale, size, total_price, nm_id, brand, status)
SELECT n * 10 + i, 'b563feb7b2b84b6test' || n, 9934930000000 + i, 'ТРЕК-' || n, 453, 'ab4219087a764ae0btest', 'Mascaras',
       30, '0', 317, 2389212, 'Vivienne Sabo', 202
FROM generate_series(1, 1000) AS n CROSS JOIN generate_series(1, 4) AS i WHERE i <= n % 4 ORDER BY n DESC, i DESC;
-- Parts of no order, a second delivery, and two orders that no id can name.
INSERT INTO items (id, order_uid, chrt_id) VALUES (100001, 'nowhere', 1), (100002, NULL, 2);
INSERT INTO delivery (id, order_uid, name) VALUES (100001, 'b563feb7b2b84b6test7', 'a second one');
INSERT INTO orders (order_uid, date_created) VALUES ('not an id', '2020-01-01'), (repeat('x', 200), '2030-01-01');
