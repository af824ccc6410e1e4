-- Optional: a view for SQL written for the older service that kept an order in one table, its parts
-- as JSON. SET search_path = orders_one_table is all that such SQL needs.
--
-- Live WB orders, read-only. It costs a write nothing; a look-up by order_uid takes the primary
-- key.
--
-- Applied by `order-service migrate up --views one-table`, or by hand:
-- psql -1 -v ON_ERROR_STOP=1 -f 2002_one_table.up.sql

CREATE SCHEMA orders_one_table;

-- A number that JSON allows and jsonb refuses would otherwise end every query that meets it: such a
-- part is its text.
CREATE FUNCTION orders_one_table.order_jsonb(part json) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$ BEGIN RETURN part::jsonb; EXCEPTION WHEN data_exception THEN RETURN to_jsonb(part::text); END $$;

CREATE VIEW orders_one_table.orders AS
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
       coalesce(o.oof_shard, document ->> 'oof_shard', '') AS oof_shard,
       coalesce(orders_one_table.order_jsonb(document -> 'delivery'), '{}') AS delivery,
       coalesce(orders_one_table.order_jsonb(document -> 'payment'), '{}') AS payment,
       coalesce(orders_one_table.order_jsonb(document -> 'items'), '[]') AS items
FROM orders o CROSS JOIN LATERAL (SELECT convert_from(o.body, 'UTF8')::json AS document) AS body
WHERE o.kind = 0 AND o.state = 0;

INSERT INTO order_service_migrations (number, name) VALUES (2002, 'one_table');
