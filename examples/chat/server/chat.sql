-- The chat's own table. Presence knows nothing of it, and it nothing of presence.
SELECT pg_advisory_xact_lock(hashtext('chat_message schema')); -- servers that start together make it one after the other

CREATE TABLE IF NOT EXISTS chat_message (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text NOT NULL UNIQUE, -- the writer's: what is sent twice is written once
    room text NOT NULL,
    user_id text NOT NULL,
    name text NOT NULL,
    body text NOT NULL CHECK (char_length(body) BETWEEN 1 AND 2000),
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS chat_message_room ON chat_message (room, id);

-- Readers ask for what comes after a number. A message must not appear behind one that they have, so numbers are given one transaction
-- after the other.
CREATE OR REPLACE FUNCTION chat_message_take_turn() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('chat_message'));
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER take_turn BEFORE INSERT ON chat_message
    FOR EACH STATEMENT EXECUTE FUNCTION chat_message_take_turn();

-- Only where to look: the text may be too long for a notification.
CREATE OR REPLACE FUNCTION chat_message_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('chat_message', json_build_object('id', NEW.id, 'room', NEW.room)::text);
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER notify AFTER INSERT ON chat_message
    FOR EACH ROW EXECUTE FUNCTION chat_message_notify();
