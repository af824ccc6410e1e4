-- The one table of an older service, parts as JSON; payments without what it never stored.
CREATE TABLE orders (
    order_uid text PRIMARY KEY, track_number text, entry text, delivery jsonb NOT NULL, payment jsonb NOT NULL,
    items jsonb NOT NULL, locale text, customer_id text, date_created timestamp without time zone, oof_shard text
);
INSERT INTO orders
SELECT 'one-' || n, 'ТРЕК-' || n, 'WBIL',
       jsonb_build_object('name', 'Тест 🛒 "' || n, 'phone', '+972', 'zip', '1', 'city', E'\\ \n', 'address', 'a',
                          'region', NULL, 'email', 'a@b.c', 'entrance', n),
       jsonb_build_object('transaction', 'one-' || n, 'currency', 'USD', 'provider', 'wbpay',
                          'amount', CASE WHEN n % 9 = 0 THEN 123456789012345678901234567890.5 ELSE n END, 'payment_dt', n,
                          'bank', 'alpha', 'delivery_cost', 1500, 'goods_total', 317),
       CASE WHEN n % 6 = 0 THEN '[]' ELSE jsonb_build_array(
           jsonb_build_object('chrt_id', n, 'price', 453, 'name', 'Mascaras', 'status', 202),
           jsonb_build_object('chrt_id', n + 1, 'price', 0.10)) END,
       'en', 'test', timestamp '2021-11-26 06:22:19' + n * interval '1 minute', '1'
FROM generate_series(1, 1000) AS n;
