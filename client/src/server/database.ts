import type pg from "pg";
import type { PresenceEvent, PresenceSnapshot, PresenceUser, UserPresence } from "../core/types.js";

/** Anything that runs a query: a pool, or the one connection that listens. */
export interface Queryable {
  query<Row extends pg.QueryResultRow>(text: string, values?: unknown[]): Promise<pg.QueryResult<Row>>;
}

export interface SessionDetails {
  userAgent: string | null;
  address: string | null;
  /** Seconds. */
  interval: number | null;
  status: string | null;
  metadata: Record<string, unknown> | null;
}

/** The extension's functions, called by name in the schema that it lives in. */
export class Database {
  #schema: string;

  constructor(schema?: string) {
    this.#schema = schema === undefined ? "" : `"${schema.replaceAll('"', '""')}".`;
  }

  async heartbeat(db: Queryable, user: string, session: string, details: SessionDetails): Promise<boolean> {
    const { userAgent, address, interval, status, metadata } = details;
    return value(
      db,
      `${this.#schema}update_user_heartbeat($1::text, $2::text, $3, $4::inet, make_interval(secs => $5::float8), $6, $7::jsonb)`,
      [user, session, userAgent, address, interval, status, metadata === null ? null : JSON.stringify(metadata)],
    );
  }

  /** How many of them are online now. */
  async heartbeats(db: Queryable, users: string[], sessions: string[]): Promise<number> {
    const ids = `${this.#schema}presence_id[]`;
    return value(db, `${this.#schema}update_user_heartbeats($1::text[]::${ids}, $2::text[]::${ids})`, [
      users,
      sessions,
    ]);
  }

  async disconnect(db: Queryable, user: string, session: string): Promise<boolean> {
    return value(db, `${this.#schema}handle_user_disconnect($1::text, $2::text)`, [user, session]);
  }

  async cleanup(db: Queryable): Promise<number> {
    return value(db, `${this.#schema}cleanup_stale_presence()`);
  }

  async lookUp(db: Queryable, users: string[]): Promise<UserPresence[]> {
    return (
      await db.query<UserPresence>(
        `SELECT * FROM ${this.#schema}get_presence($1::text[]::${this.#schema}presence_id[])`,
        [users],
      )
    ).rows;
  }

  async snapshot(db: Queryable): Promise<PresenceSnapshot> {
    const { rows } = await db.query<PresenceUser & { seq: string }>(
      `SELECT seq, user_id, status, sessions, online_since, metadata FROM ${this.#schema}presence_snapshot()`,
    );
    const users = rows.filter((row) => row.user_id !== null).map(({ seq, ...user }) => user);
    return { seq: Number(rows[0]?.seq ?? 0), users };
  }

  /** What others may know of the next events: no session ids, addresses or user agents. Null: `seq` is no longer in the feed. */
  async changesSince(db: Queryable, seq: number, limit: number): Promise<PresenceEvent[] | null> {
    try {
      const { rows } = await db.query<PresenceEvent>(
        `SELECT seq, at, event, user_id, reason, sessions, details FROM ${this.#schema}presence_changes_since($1, $2)`,
        [seq, limit],
      );
      return rows.map((row) => {
        const { status, metadata } = row.details ?? {};
        return {
          ...row,
          seq: Number(row.seq),
          details: { ...(status != null && { status }), ...(metadata !== undefined && { metadata }) },
        };
      });
    } catch (error) {
      if (isTooOld(error)) return null;
      throw error;
    }
  }

  async channel(db: Queryable): Promise<string> {
    return value(db, "coalesce(current_setting('presence.notify_channel', true), 'presence')");
  }
}

/** The result of a call that has one. */
async function value<Value>(db: Queryable, call: string, values: unknown[] = []): Promise<Value> {
  const { rows } = await db.query<{ value: Value }>(`SELECT ${call} AS value`, values);
  return (rows[0] as { value: Value }).value;
}

/** SQLSTATE of presence_changes_since() for a position that retention has passed. */
function isTooOld(error: unknown): boolean {
  return (error as { code?: string }).code === TOO_OLD;
}
const TOO_OLD = "22023";

/** The caller's own fault (class 22, data exception; 54000, too large), not the server's. */
export function isCallersFault(error: unknown): error is Error {
  const code = (error as { code?: unknown }).code;
  return typeof code === "string" && /^(22|54|23514)/.test(code);
}
