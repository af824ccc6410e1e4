-- Orders, how far each source has come, and the answers given to idempotent requests.
--
-- Applied by the service under an advisory lock, or by hand: psql -1 -v ON_ERROR_STOP=1 -f 0001_orders.up.sql
-- What has one of these names already was not made by it, or it was applied before: either way it changes nothing then.

CREATE TABLE IF NOT EXISTS order_service_migrations (
    number     integer     PRIMARY KEY,
    name       text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- Ranks are handed out in blocks of 4096: one call of the sequence serves a batch.
CREATE SEQUENCE orders_rank AS bigint;

-- One wide row an order. Its parts stay inside the body and are read through the views below: as tables of their own
-- they would make ingest two to three times slower.
CREATE TABLE orders (
    order_uid          text COLLATE "C"  NOT NULL,  -- canonical id
    seq                bigint            NOT NULL,  -- creation order; larger is newer
    version            bigint            NOT NULL,  -- 1 at creation, +1 per change
    changed_in         bigint            NOT NULL,  -- the transaction that wrote this version
    kind               smallint          NOT NULL,  -- 0 WB, 1 envelope
    state              smallint          NOT NULL,  -- 0 live, 1 deleted but readable by id, 2 gone
    created_at         timestamptz       NOT NULL,
    updated_at         timestamptz       NOT NULL,
    deleted_at         timestamptz,
    status             text,                        -- envelopes; 'deleted' for any deleted order
    user_id            uuid,                        -- envelopes
    external_id        text COLLATE "C",            -- payload.id of envelopes
    amount             double precision,            -- envelopes
    bucket             smallint,                    -- envelopes
    track_number       text,
    entry              text,
    locale             text,
    internal_signature text,
    customer_id        text,
    delivery_service   text,
    shardkey           text,
    sm_id              bigint,
    date_created       timestamptz,
    oof_shard          text,
    source             text              NOT NULL,  -- where the last change came from
    body               bytea             NOT NULL,  -- the producer's JSON; empty when gone
    PRIMARY KEY (order_uid)
) PARTITION BY HASH (order_uid);

CREATE TABLE orders_p0 PARTITION OF orders FOR VALUES WITH (MODULUS 4, REMAINDER 0);
CREATE TABLE orders_p1 PARTITION OF orders FOR VALUES WITH (MODULUS 4, REMAINDER 1);
CREATE TABLE orders_p2 PARTITION OF orders FOR VALUES WITH (MODULUS 4, REMAINDER 2);
CREATE TABLE orders_p3 PARTITION OF orders FOR VALUES WITH (MODULUS 4, REMAINDER 3);

-- Rows are appended in order of all three, so these are a few pages each and cost a write nothing.
CREATE INDEX orders_created_at ON orders USING brin (created_at);
CREATE INDEX orders_seq ON orders USING brin (seq) WITH (pages_per_range = 32);
CREATE INDEX orders_changed_in ON orders USING brin (changed_in) WITH (pages_per_range = 32);
CREATE INDEX orders_external ON orders (user_id, external_id, seq) WHERE external_id IS NOT NULL;

CREATE TABLE positions (
    source      text    COLLATE "C" NOT NULL,
    partition   integer NOT NULL,
    next_offset bigint  NOT NULL,
    PRIMARY KEY (source, partition)
) WITH (fillfactor = 50);

CREATE TABLE idempotency (
    key        text     COLLATE "C" PRIMARY KEY,
    digest     bytea    NOT NULL,                   -- SHA-256 of the request body
    order_uid  text     COLLATE "C" NOT NULL,
    answer     smallint NOT NULL,                   -- 0 created, 1 updated, 2 deleted, 3 unchanged, 4 was deleted before
    version    bigint   NOT NULL,
    created_at bigint   NOT NULL                    -- Unix seconds
);

CREATE INDEX idempotency_created_at ON idempotency (created_at);

-- Text that is a whole number as one; anything else, which only the lenient profile lets in, as null.
CREATE FUNCTION order_whole(value text) RETURNS bigint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT CASE WHEN value ~ '^-?[0-9]{1,18}$' THEN value::bigint END $$;

-- The body of a live WB order. As json, not jsonb: jsonb refuses numbers that JSON allows.
CREATE VIEW order_documents AS
SELECT order_uid, convert_from(body, 'UTF8')::json AS document
FROM orders
WHERE kind = 0 AND state = 0;

CREATE VIEW delivery AS
SELECT o.order_uid, part.name, part.phone, part.zip, part.city, part.address, part.region, part.email
FROM order_documents o
CROSS JOIN LATERAL json_to_record(
    CASE json_typeof(o.document -> 'delivery') WHEN 'object' THEN o.document -> 'delivery' ELSE '{}' END
) AS part (name text, phone text, zip text, city text, address text, region text, email text);

CREATE VIEW payment AS
SELECT o.order_uid, part.transaction, part.request_id, part.currency, part.provider,
       order_whole(part.amount) AS amount, order_whole(part.payment_dt) AS payment_dt, part.bank,
       order_whole(part.delivery_cost) AS delivery_cost, order_whole(part.goods_total) AS goods_total,
       order_whole(part.custom_fee) AS custom_fee
FROM order_documents o
CROSS JOIN LATERAL json_to_record(
    CASE json_typeof(o.document -> 'payment') WHEN 'object' THEN o.document -> 'payment' ELSE '{}' END
) AS part (transaction text, request_id text, currency text, provider text, amount text, payment_dt text, bank text,
           delivery_cost text, goods_total text, custom_fee text);

CREATE VIEW payments AS SELECT * FROM payment;

CREATE VIEW items AS
SELECT o.order_uid, element.position, order_whole(part.chrt_id) AS chrt_id, part.track_number,
       order_whole(part.price) AS price, part.rid, part.name, order_whole(part.sale) AS sale, part.size,
       order_whole(part.total_price) AS total_price, order_whole(part.nm_id) AS nm_id, part.brand,
       order_whole(part.status) AS status
FROM order_documents o
CROSS JOIN LATERAL json_array_elements(
    CASE json_typeof(o.document -> 'items') WHEN 'array' THEN o.document -> 'items' ELSE '[]' END
) WITH ORDINALITY AS element (item, position)
CROSS JOIN LATERAL json_to_record(
    CASE json_typeof(element.item) WHEN 'object' THEN element.item ELSE '{}' END
) AS part (chrt_id text, track_number text, price text, rid text, name text, sale text, size text, total_price text,
           nm_id text, brand text, status text);

INSERT INTO order_service_migrations (number, name) VALUES (1, 'orders');
