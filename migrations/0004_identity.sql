-- Who may join, and who may come back.

-- What a join token admits, and under which names.
ALTER TABLE join_tokens ADD COLUMN scope TEXT NOT NULL DEFAULT 'node' CHECK (scope IN ('node', 'seed'));
ALTER TABLE join_tokens ADD COLUMN name_pattern TEXT;

-- The session a node may come back to: SHA-256 of its token, which is worth nothing without the node's key.
ALTER TABLE nodes ADD COLUMN session_hash BLOB CHECK (length(session_hash) = 32);
ALTER TABLE nodes ADD COLUMN session_expires_ms INTEGER;

-- What a node says of itself. Lists and maps are JSON.
ALTER TABLE nodes ADD COLUMN capabilities TEXT NOT NULL DEFAULT '[]';
ALTER TABLE nodes ADD COLUMN datacenter TEXT;
ALTER TABLE nodes ADD COLUMN rack TEXT;
ALTER TABLE nodes ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}';

CREATE TABLE cluster_secrets (
    cluster_id INTEGER NOT NULL REFERENCES clusters (id) ON DELETE CASCADE,
    secret_id BLOB NOT NULL CHECK (length(secret_id) = 10),
    -- Derived from the secret, which is not stored. Whoever has it can join this cluster: an HMAC is checked
    -- with the very key that makes it.
    mac_key BLOB NOT NULL CHECK (length(mac_key) = 32),
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (cluster_id, secret_id)
) STRICT, WITHOUT ROWID;

-- Nodes that were removed and may not come back, until the operator lifts it.
CREATE TABLE revocations (
    cluster_id INTEGER NOT NULL REFERENCES clusters (id) ON DELETE CASCADE,
    node_id BLOB NOT NULL CHECK (length(node_id) = 32),
    name TEXT NOT NULL,
    revoked_ms INTEGER NOT NULL,
    -- Seconds since 1970: no certificate of the node holds longer, and peers need not be told from then on.
    until_s INTEGER NOT NULL,
    PRIMARY KEY (cluster_id, node_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX revocations_by_end ON revocations (until_s);
