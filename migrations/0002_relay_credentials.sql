-- Who may use the relay: users whose credentials hold until they are removed, and the secrets that
-- time-limited credentials are minted with.

CREATE TABLE relay_users (
    name TEXT PRIMARY KEY,
    -- Long-term keys in the server's realm (RFC 8489, section 18.5). The password is not stored, but
    -- whoever has these can log in with them.
    md5_key BLOB NOT NULL CHECK (length(md5_key) = 16),
    sha256_key BLOB NOT NULL CHECK (length(sha256_key) = 32),
    created_ms INTEGER NOT NULL,
    changed_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE relay_secrets (
    -- The highest number is the current one: it mints. AUTOINCREMENT, so that a number never comes to
    -- name another secret.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    secret TEXT NOT NULL UNIQUE CHECK (length(CAST(secret AS BLOB)) >= 16),
    created_ms INTEGER NOT NULL,
    -- No credential minted with it, and no allocation made with such a credential, ends later. Then it
    -- is dropped, unless it is the current one.
    needed_until_ms INTEGER NOT NULL
) STRICT;
