-- Users, what they log in with, and API tokens. Runs on SQLite and on PostgreSQL.
-- Times are milliseconds since 1970, UTC.

CREATE TABLE users (
    name TEXT NOT NULL PRIMARY KEY,
    role TEXT NOT NULL CHECK (role IN ('viewer', 'editor', 'admin')),
    -- Argon2id, as a PHC string.
    password TEXT NOT NULL,
    -- RFC 5803 in the form of PostgreSQL: SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>.
    scram TEXT NOT NULL,
    created BIGINT NOT NULL,
    last_login BIGINT
);

-- Browsers that are logged in.
CREATE TABLE sessions (
    -- SHA-256 of what the cookie holds, in hexadecimal.
    hash TEXT NOT NULL PRIMARY KEY,
    user_name TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    created BIGINT NOT NULL,
    last_used BIGINT NOT NULL
);

CREATE INDEX sessions_by_user ON sessions (user_name, created);

CREATE TABLE tokens (
    id TEXT NOT NULL PRIMARY KEY,
    -- SHA-256 of the token, in hexadecimal.
    hash TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('viewer', 'editor', 'admin')),
    created BIGINT NOT NULL,
    -- Who made it; stays when that user goes.
    created_by TEXT NOT NULL,
    expires BIGINT,
    last_used BIGINT
);

-- What is drawn once for this installation.
CREATE TABLE secrets (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
