-- Clusters whose home is another server. This one admits their members by the certificates they bring.

CREATE TABLE foreign_clusters (
    name TEXT NOT NULL PRIMARY KEY,
    -- What those certificates are checked with.
    public_key BLOB NOT NULL CHECK (length(public_key) = 32),
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
