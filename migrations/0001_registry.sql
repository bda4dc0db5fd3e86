-- The registry: what outlives a session. Presence lives in the broker alone.
-- Times are milliseconds since 1970; keys and ids are raw bytes; words are those of the wire.

CREATE TABLE clusters (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('PRIVATE', 'PUBLIC', 'DYNAMIC')),
    -- The seed of the Ed25519 key that signs memberships and welcomes.
    signing_key BLOB NOT NULL CHECK (length(signing_key) = 32),
    created_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE seeds (
    cluster_id INTEGER NOT NULL REFERENCES clusters (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    host TEXT NOT NULL,
    port INTEGER NOT NULL CHECK (port BETWEEN 1 AND 65535),
    is_public INTEGER NOT NULL CHECK (is_public IN (0, 1)),
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (cluster_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE nodes (
    cluster_id INTEGER NOT NULL REFERENCES clusters (id) ON DELETE CASCADE,
    node_id BLOB NOT NULL CHECK (length(node_id) = 32),
    name TEXT NOT NULL,
    -- Forgotten with its session.
    ephemeral INTEGER NOT NULL CHECK (ephemeral IN (0, 1)),
    declared TEXT CHECK (declared IN ('PRIVATE', 'PUBLIC')),
    class TEXT,
    evidence TEXT,
    observed TEXT,
    version TEXT NOT NULL,
    first_seen_ms INTEGER NOT NULL,
    last_seen_ms INTEGER NOT NULL,
    PRIMARY KEY (cluster_id, node_id),
    UNIQUE (cluster_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE join_tokens (
    cluster_id INTEGER NOT NULL REFERENCES clusters (id) ON DELETE CASCADE,
    token_id BLOB NOT NULL CHECK (length(token_id) = 10),
    -- Checks joins and can't make any: the secret half is never stored.
    public_key BLOB NOT NULL CHECK (length(public_key) = 32),
    label TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    max_uses INTEGER CHECK (max_uses > 0),
    uses INTEGER NOT NULL DEFAULT 0 CHECK (uses >= 0),
    revoked_ms INTEGER,
    PRIMARY KEY (cluster_id, token_id)
) STRICT, WITHOUT ROWID;

-- How many nodes a cluster has, so that its bound costs no scan.
CREATE TABLE node_counts (
    cluster_id INTEGER PRIMARY KEY REFERENCES clusters (id) ON DELETE CASCADE,
    nodes INTEGER NOT NULL CHECK (nodes >= 0)
) STRICT;

CREATE TRIGGER clusters_start_counting AFTER INSERT ON clusters BEGIN
    INSERT INTO node_counts (cluster_id, nodes) VALUES (NEW.id, 0);
END;

CREATE TRIGGER nodes_count_up AFTER INSERT ON nodes BEGIN
    UPDATE node_counts SET nodes = nodes + 1 WHERE cluster_id = NEW.cluster_id;
END;

CREATE TRIGGER nodes_count_down AFTER DELETE ON nodes BEGIN
    UPDATE node_counts SET nodes = nodes - 1 WHERE cluster_id = OLD.cluster_id;
END;

-- Written by the readiness probe: one row, for ever.
CREATE TABLE probe (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at_ms INTEGER NOT NULL
) STRICT;

INSERT INTO probe (id, at_ms) VALUES (1, 0);
