-- Seeds that come and go while the server runs, and what was found out about them.

ALTER TABLE clusters ADD COLUMN
    -- Nodes that can only be relayed are kept.
    admit_relayed INTEGER NOT NULL DEFAULT 0 CHECK (admit_relayed IN (0, 1));

ALTER TABLE seeds ADD COLUMN
    -- Who named it first: the flags of the server, the operator over REST, or the seed itself.
    origin TEXT NOT NULL DEFAULT 'flag' CHECK (origin IN ('flag', 'operator', 'self'));
ALTER TABLE seeds ADD COLUMN
    -- The operator stands by it. Only such a one counts for the cluster.
    approved INTEGER NOT NULL DEFAULT 1 CHECK (approved IN (0, 1));
ALTER TABLE seeds ADD COLUMN
    declared TEXT CHECK (declared IN ('PRIVATE', 'PUBLIC'));
ALTER TABLE seeds ADD COLUMN
    -- Pinned: given by the operator, by the seed itself, or by its first answer.
    public_key BLOB CHECK (length(public_key) = 32);
ALTER TABLE seeds ADD COLUMN
    status TEXT NOT NULL DEFAULT 'unverified' CHECK (status IN ('unverified', 'up', 'down', 'refused'));
ALTER TABLE seeds ADD COLUMN
    -- Why it is not up.
    reason TEXT;
ALTER TABLE seeds ADD COLUMN
    -- When it last proved itself.
    verified_ms INTEGER;
ALTER TABLE seeds ADD COLUMN
    -- A seed that named itself: from where, and when its message was signed.
    registered_from TEXT;
ALTER TABLE seeds ADD COLUMN
    issued_ms INTEGER;

-- Seeds of the flags that the operator deleted over REST. The next start brings them back, and says so.
CREATE TABLE deleted_seeds (
    cluster_id INTEGER NOT NULL REFERENCES clusters (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    deleted_ms INTEGER NOT NULL,
    PRIMARY KEY (cluster_id, name)
) STRICT, WITHOUT ROWID;
