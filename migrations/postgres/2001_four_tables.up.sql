-- Optional: views for SQL written for the older services that kept an order in four tables. SET
-- search_path = orders_four_tables is all that such SQL needs. Where the ids of parts have names of
-- their own (delivery_id, payment_id, item_id), it is orders_four_tables_named_ids.
--
-- Live WB orders, read-only. A part has one number for as long as its order is there, in the order
-- in which orders came. What an order does not have reads as '' or 0, and a number that is no whole
-- one of 64 bits as null. They cost a write nothing; a look-up by order_uid takes the primary key.
--
-- Applied by `order-service migrate up --views four-tables`, or by hand:
-- psql -1 -v ON_ERROR_STOP=1 -f 2001_four_tables.up.sql

CREATE SCHEMA orders_four_tables;

-- Joined with one row: a view of one table alone could be written through.
CREATE VIEW orders_four_tables.orders AS
SELECT o.order_uid,
       coalesce(o.track_number, document ->> 'track_number', '') AS track_number,
       coalesce(o.entry, document ->> 'entry', '') AS entry,
       coalesce(o.locale, document ->> 'locale', '') AS locale,
       coalesce(o.internal_signature, document ->> 'internal_signature', '') AS internal_signature,
       coalesce(o.customer_id, document ->> 'customer_id', '') AS customer_id,
       coalesce(o.delivery_service, document ->> 'delivery_service', '') AS delivery_service,
       coalesce(o.shardkey, document ->> 'shardkey', '') AS shardkey,
       coalesce(o.sm_id, 0) AS sm_id,
       o.date_created AT TIME ZONE 'UTC' AS date_created,
       coalesce(o.oof_shard, document ->> 'oof_shard', '') AS oof_shard
FROM orders o CROSS JOIN LATERAL (SELECT convert_from(o.body, 'UTF8')::json AS document) AS body
WHERE o.kind = 0 AND o.state = 0;

CREATE VIEW orders_four_tables.delivery AS
SELECT o.seq AS id, o.order_uid, coalesce(d.name, '') AS name, coalesce(d.phone, '') AS phone, coalesce(d.zip, '') AS zip,
       coalesce(d.city, '') AS city, coalesce(d.address, '') AS address, coalesce(d.region, '') AS region,
       coalesce(d.email, '') AS email
FROM orders o CROSS JOIN LATERAL (SELECT convert_from(o.body, 'UTF8')::json -> 'delivery' AS part) AS body
CROSS JOIN LATERAL json_to_record(CASE json_typeof(body.part) WHEN 'object' THEN body.part ELSE '{}' END)
    AS d (name text, phone text, zip text, city text, address text, region text, email text)
WHERE o.kind = 0 AND o.state = 0 AND json_typeof(body.part) = 'object';

CREATE VIEW orders_four_tables.deliveries AS SELECT * FROM orders_four_tables.delivery;

CREATE VIEW orders_four_tables.payment AS
SELECT o.seq AS id, o.order_uid, coalesce(p.transaction, '') AS transaction, coalesce(p.request_id, '') AS request_id,
       coalesce(p.currency, '') AS currency, coalesce(p.provider, '') AS provider,
       CASE WHEN p.amount IS NULL THEN 0 ELSE order_whole(p.amount) END AS amount,
       CASE WHEN p.payment_dt IS NULL THEN 0 ELSE order_whole(p.payment_dt) END AS payment_dt,
       coalesce(p.bank, '') AS bank,
       CASE WHEN p.delivery_cost IS NULL THEN 0 ELSE order_whole(p.delivery_cost) END AS delivery_cost,
       CASE WHEN p.goods_total IS NULL THEN 0 ELSE order_whole(p.goods_total) END AS goods_total,
       CASE WHEN p.custom_fee IS NULL THEN 0 ELSE order_whole(p.custom_fee) END AS custom_fee
FROM orders o CROSS JOIN LATERAL (SELECT convert_from(o.body, 'UTF8')::json -> 'payment' AS part) AS body
CROSS JOIN LATERAL json_to_record(CASE json_typeof(body.part) WHEN 'object' THEN body.part ELSE '{}' END)
    AS p (transaction text, request_id text, currency text, provider text, amount text, payment_dt text, bank text,
          delivery_cost text, goods_total text, custom_fee text)
WHERE o.kind = 0 AND o.state = 0 AND json_typeof(body.part) = 'object';

CREATE VIEW orders_four_tables.payments AS SELECT * FROM orders_four_tables.payment;

-- An order has room for a million items: it is smaller than so many.
CREATE VIEW orders_four_tables.items AS
SELECT o.seq * 1048576 + element.position AS id, o.order_uid,
       CASE WHEN i.chrt_id IS NULL THEN 0 ELSE order_whole(i.chrt_id) END AS chrt_id,
       coalesce(i.track_number, '') AS track_number,
       CASE WHEN i.price IS NULL THEN 0 ELSE order_whole(i.price) END AS price,
       coalesce(i.rid, '') AS rid, coalesce(i.name, '') AS name,
       CASE WHEN i.sale IS NULL THEN 0 ELSE order_whole(i.sale) END AS sale,
       coalesce(i.size, '') AS size,
       CASE WHEN i.total_price IS NULL THEN 0 ELSE order_whole(i.total_price) END AS total_price,
       CASE WHEN i.nm_id IS NULL THEN 0 ELSE order_whole(i.nm_id) END AS nm_id, coalesce(i.brand, '') AS brand,
       CASE WHEN i.status IS NULL THEN 0 ELSE order_whole(i.status) END AS status
FROM orders o CROSS JOIN LATERAL (SELECT convert_from(o.body, 'UTF8')::json -> 'items' AS part) AS body
CROSS JOIN LATERAL json_array_elements(CASE json_typeof(body.part) WHEN 'array' THEN body.part ELSE '[]' END)
    WITH ORDINALITY AS element (item, position)
CROSS JOIN LATERAL json_to_record(CASE json_typeof(element.item) WHEN 'object' THEN element.item ELSE '{}' END)
    AS i (chrt_id text, track_number text, price text, rid text, name text, sale text, size text, total_price text,
          nm_id text, brand text, status text)
WHERE o.kind = 0 AND o.state = 0;

CREATE SCHEMA orders_four_tables_named_ids;

CREATE VIEW orders_four_tables_named_ids.orders AS SELECT * FROM orders_four_tables.orders;

CREATE VIEW orders_four_tables_named_ids.delivery AS
SELECT id AS delivery_id, order_uid, name, phone, zip, city, address, region, email FROM orders_four_tables.delivery;

CREATE VIEW orders_four_tables_named_ids.deliveries AS SELECT * FROM orders_four_tables_named_ids.delivery;

CREATE VIEW orders_four_tables_named_ids.payment AS
SELECT id AS payment_id, order_uid, transaction, request_id, currency, provider, amount, payment_dt, bank, delivery_cost,
       goods_total, custom_fee
FROM orders_four_tables.payment;

CREATE VIEW orders_four_tables_named_ids.payments AS SELECT * FROM orders_four_tables_named_ids.payment;

CREATE VIEW orders_four_tables_named_ids.items AS
SELECT id AS item_id, order_uid, chrt_id, track_number, price, rid, name, sale, size, total_price, nm_id, brand, status
FROM orders_four_tables.items;

INSERT INTO order_service_migrations (number, name) VALUES (2001, 'four_tables');
