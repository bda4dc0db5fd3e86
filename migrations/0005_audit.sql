-- Who did what, when, from where: a chain in which each entry's hash covers the one before
-- (server/src/chain.rs). Only ever added to.

CREATE TABLE audit (
    -- Without gaps, from 1.
    seq INTEGER PRIMARY KEY CHECK (seq > 0),
    at_ms INTEGER NOT NULL,
    -- 'admin', 'server', or 'node:' and an id.
    actor TEXT NOT NULL,
    -- The address it was done from. NULL: by the server itself.
    source TEXT,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    -- A JSON object in canonical form (RFC 8785): what is hashed is this text.
    detail TEXT NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;

CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit BEGIN
    SELECT RAISE(ABORT, 'the audit log is only ever added to');
END;

CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit BEGIN
    SELECT RAISE(ABORT, 'the audit log is only ever added to');
END;

-- Also keeps INSERT OR REPLACE, whose deletion fires no trigger, from changing an entry.
CREATE TRIGGER audit_has_no_gaps BEFORE INSERT ON audit
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM audit) BEGIN
    SELECT RAISE(ABORT, 'the audit log has no gaps');
END;
