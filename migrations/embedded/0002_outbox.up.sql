-- What committed batches have yet to publish: one row a batch, never a copy of its orders. A row goes once all that it
-- stands for is published.
CREATE TABLE outbox (
    ticket     INTEGER PRIMARY KEY,
    contents   INTEGER NOT NULL,              -- 1 snapshots, 2 events, 4 acknowledgements
    uids       TEXT    NOT NULL,              -- the orders it changed, one a line
    created_at INTEGER NOT NULL               -- Unix milliseconds
) STRICT;

-- Published orders say which store they are of.
CREATE TABLE store_identity (
    id TEXT NOT NULL
) STRICT;
INSERT INTO store_identity (id) VALUES (lower(hex(randomblob(16))));
