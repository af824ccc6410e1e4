-- Orders, how far each source has come, and the answers given to idempotent requests.

-- An ordinary rowid table: appended in creation order, which is also the order of lists.
CREATE TABLE orders (
    seq         INTEGER PRIMARY KEY,          -- creation order; larger is newer
    uid         TEXT    NOT NULL UNIQUE,      -- canonical id
    kind        INTEGER NOT NULL,             -- 0 WB, 1 envelope
    state       INTEGER NOT NULL,             -- 0 live, 1 deleted but readable by id, 2 gone
    version     INTEGER NOT NULL,             -- 1 at creation, +1 per change
    user_id     TEXT,                         -- envelopes only
    external_id TEXT,                         -- payload.id of envelopes
    body        BLOB    NOT NULL              -- the producer's JSON; empty when gone
) STRICT;

CREATE INDEX orders_external ON orders (user_id, external_id, seq) WHERE external_id IS NOT NULL;

CREATE TABLE positions (
    source      TEXT    NOT NULL,
    partition   INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    PRIMARY KEY (source, partition)
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency (
    key         TEXT    PRIMARY KEY,
    digest      BLOB    NOT NULL,             -- SHA-256 of the request body
    uid         TEXT    NOT NULL,
    answer      INTEGER NOT NULL,             -- 0 created, 1 updated, 2 deleted, 3 unchanged, 4 was deleted before
    version     INTEGER NOT NULL,
    created_at  INTEGER NOT NULL              -- Unix seconds
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_created_at ON idempotency (created_at);
