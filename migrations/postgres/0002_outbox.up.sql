-- What committed batches have yet to publish, and which store this is.
--
-- Applied by the service under an advisory lock, or by hand: psql -1 -v ON_ERROR_STOP=1 -f 0002_outbox.up.sql
-- What has one of these names already was not made by it, or it was applied before: either way it changes nothing then.

-- One row a batch, never a copy of its orders: they are found by the transaction that wrote them. A row goes once all
-- that it stands for is published. Rows that stay belong to an instance that died or cannot reach Kafka, and are taken
-- over by any other.
CREATE TABLE outbox (
    ticket     bigint      PRIMARY KEY,              -- drawn by the instance that committed the batch
    changed_in bigint      NOT NULL,                 -- the batch's transaction, as in orders.changed_in
    contents   smallint    NOT NULL,                 -- 1 snapshots, 2 events, 4 acknowledgements
    claimed_at timestamptz NOT NULL DEFAULT now()    -- when somebody last set out to publish it
);

-- Published orders say which store they are of, so that those of two stores in one topic are told apart.
CREATE TABLE store_identity (
    id      uuid    NOT NULL DEFAULT gen_random_uuid(),
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only)
);
INSERT INTO store_identity DEFAULT VALUES;

INSERT INTO order_service_migrations (number, name) VALUES (2, 'outbox');
