import type pg from "pg";
import type { PresenceEvent, PresenceSnapshot, UserPresence } from "../core/types.js";

/** Anything that runs a query: a pool, or the one connection that listens. */
export type Queryable = Pick<pg.Pool, "query"> | Pick<pg.Client, "query">;

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
    const { rows } = await db.query(
      `SELECT ${this.#schema}update_user_heartbeat($1::text, $2::text, $3, $4::inet, make_interval(secs => $5::float8), $6, $7::jsonb) AS online`,
      [user, session, userAgent, address, interval, status, metadata === null ? null : JSON.stringify(metadata)],
    );
    return rows[0].online;
  }

  /** How many of them are online now. */
  async heartbeats(db: Queryable, users: string[], sessions: string[]): Promise<number> {
    const call = `SELECT ${this.#schema}update_user_heartbeats($1::text[]::${this.#schema}presence_id[], $2::text[]::${this.#schema}presence_id[]) AS n`;
    return (await db.query(call, [users, sessions])).rows[0].n;
  }

  async disconnect(db: Queryable, user: string, session: string): Promise<boolean> {
    const { rows } = await db.query(`SELECT ${this.#schema}handle_user_disconnect($1::text, $2::text) AS offline`, [user, session]);
    return rows[0].offline;
  }

  async cleanup(db: Queryable): Promise<number> {
    return (await db.query(`SELECT ${this.#schema}cleanup_stale_presence() AS n`)).rows[0].n;
  }

  async lookUp(db: Queryable, users: string[]): Promise<UserPresence[]> {
    return (await db.query(`SELECT * FROM ${this.#schema}get_presence($1::text[]::${this.#schema}presence_id[])`, [users])).rows;
  }

  async snapshot(db: Queryable): Promise<PresenceSnapshot> {
    const { rows } = await db.query(
      `SELECT seq, user_id, status, sessions, online_since, metadata FROM ${this.#schema}presence_snapshot()`,
    );
    const users = rows.filter((row) => row.user_id !== null).map(({ seq: _, ...user }) => user);
    return { seq: Number(rows[0]?.seq ?? 0), users };
  }

  /** What others may know of the next events: no session ids, addresses or user agents. Null: `seq` is no longer in the feed. */
  async changesSince(db: Queryable, seq: number, limit: number): Promise<PresenceEvent[] | null> {
    try {
      const { rows } = await db.query(
        `SELECT seq, at, event, user_id, reason, sessions, details FROM ${this.#schema}presence_changes_since($1, $2)`,
        [seq, limit],
      );
      return rows.map((row) => {
        const { status, metadata } = row.details ?? {};
        return { ...row, seq: Number(row.seq), details: { ...(status != null && { status }), ...(metadata !== undefined && { metadata }) } };
      });
    } catch (error) {
      if (isTooOld(error)) return null;
      throw error;
    }
  }

  async channel(db: Queryable): Promise<string> {
    const { rows } = await db.query("SELECT coalesce(current_setting('presence.notify_channel', true), 'presence') AS channel");
    return rows[0].channel;
  }
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
