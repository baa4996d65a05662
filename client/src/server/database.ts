import { createHash } from "node:crypto";
import type pg from "pg";
import type { FeedPosition } from "../core/feedPosition.js";
import type {
  PresenceEvent,
  PresenceSnapshot,
  PresenceUser,
  RoomSnapshot,
  RoomUser,
  StatusChoice,
  UserPresence,
} from "../core/types.js";

/** Anything that runs a query: a pool, or the one connection that listens. */
export interface Queryable {
  query<Row extends pg.QueryResultRow>(query: string | pg.QueryConfig): Promise<pg.QueryResult<Row>>;
}

export interface SessionDetails {
  userAgent: string | null;
  address: string | null;
  /** Seconds. */
  interval: number | null;
  status: string | null;
  metadata: Record<string, unknown> | null;
}

/** Where a session is. The database keeps of the degrees what presence.location_precision allows, by default nothing. */
export interface Location {
  region?: string;
  latitude?: number;
  longitude?: number;
}

/** The events after a position, and how far the feed goes. */
export interface FeedPage {
  end: FeedPosition;
  events: PresenceEvent[];
}

type Time = "timestamptz" | "timestamptz[]";
type Argument = [
  type: "id" | "id[]" | "text" | "inet" | "interval" | "jsonb" | "bigint" | "integer" | "double precision" | Time,
  value: unknown,
];

/**
 * The extension's functions. A call names the schema, passes every argument and casts each to the type that is declared, so
 * that no other function can fit as well. Were they passed as text, then whoever may create functions in that schema
 * (or, by name alone, in one before it on the search_path) could offer a better match, and would receive the calls.
 */
export class Database {
  #schema: Promise<string> | undefined;
  #edition = 0;

  /** `prepare`: by name, once for each connection. A pooler that hands connections on between transactions may not know the name. */
  constructor(private readonly prepare = false) {}

  heartbeat(
    db: Queryable,
    user: string,
    session: string,
    details: SessionDetails,
    lastActivity: Date | null,
  ): Promise<boolean> {
    const { userAgent, address, interval, status, metadata } = details;
    return this.#value(db, "update_user_heartbeat", [
      ["id", user],
      ["id", session],
      ["text", userAgent],
      ["inet", address],
      ["interval", interval === null ? null : `${interval} seconds`],
      ["text", status],
      ["jsonb", metadata === null ? null : JSON.stringify(metadata)],
      ["timestamptz", lastActivity],
    ]);
  }

  /** How many of them are online now. */
  heartbeats(db: Queryable, users: string[], sessions: string[], lastActivities: (Date | null)[]): Promise<number> {
    return this.#value(db, "update_user_heartbeats", [
      ["id[]", users],
      ["id[]", sessions],
      ["timestamptz[]", lastActivities],
    ]);
  }

  disconnect(db: Queryable, user: string, session: string): Promise<boolean> {
    return this.#value(db, "handle_user_disconnect", [
      ["id", user],
      ["id", session],
    ]);
  }

  cleanup(db: Queryable): Promise<number> {
    return this.#value(db, "cleanup_stale_presence", []);
  }

  lookUp(db: Queryable, users: string[]): Promise<UserPresence[]> {
    return this.#rows<UserPresence>(db, "get_presence", [["id[]", users]]);
  }

  async snapshot(db: Queryable): Promise<PresenceSnapshot> {
    const rows = await this.#rows<PresenceUser & { seq: string; epoch?: string }>(db, "presence_snapshot", []);
    return snapshotOf(rows, ({ user_id, status, sessions, online_since, metadata }) => ({
      user_id,
      status,
      sessions,
      online_since,
      metadata,
    }));
  }

  /**
   * What others may know of the next events: no session ids, addresses or user agents. Null: the feed does not continue from
   * `seq`, because retention has passed it, or because it has not come that far.
   */
  async changesSince(db: Queryable, seq: number, limit: number): Promise<FeedPage | null> {
    try {
      // In one statement, so that the events are of the epoch that stands beside them.
      const rows = await this.#run<FeedRow>(
        db,
        (call, schema) => `
          SELECT p.epoch, p.seq AS end, c.seq, c.at, c.event, c.user_id, c.reason, c.sessions, c.details, c.room
          FROM ${schema}.presence_feed_position() AS p LEFT JOIN ${call} AS c ON true ORDER BY c.seq`,
        "presence_changes_since",
        [
          ["bigint", seq],
          ["integer", limit],
          ["id", null], // of all rooms
        ],
      );
      const events = rows.filter((row) => row.seq !== null).map(eventOf);
      return { end: { seq: Number(rows[0]?.end ?? seq), epoch: rows[0]?.epoch ?? null }, events };
    } catch (error) {
      if (codeOf(error) === "22023") return null;
      throw error;
    }
  }

  joinRoom(
    db: Queryable,
    user: string,
    session: string,
    room: string,
    metadata: Record<string, unknown> | null,
  ): Promise<boolean> {
    return this.#value(db, "join_room", [
      ["id", user],
      ["id", session],
      ["id", room],
      ["jsonb", metadata === null ? null : JSON.stringify(metadata)],
    ]);
  }

  leaveRoom(db: Queryable, user: string, session: string, room: string): Promise<boolean> {
    return this.#value(db, "leave_room", [
      ["id", user],
      ["id", session],
      ["id", room],
    ]);
  }

  async room(db: Queryable, room: string): Promise<RoomSnapshot> {
    const rows = await this.#rows<RoomUser & { seq: string; epoch: string | null }>(db, "room_snapshot", [
      ["id", room],
    ]);
    const list = snapshotOf(rows, ({ user_id, status, sessions, entered_at, metadata }) => ({
      user_id,
      status,
      sessions,
      entered_at,
      metadata,
    }));
    return { room, ...list };
  }

  async status(db: Queryable, user: string): Promise<StatusChoice & { online: boolean }> {
    const rows = await this.#rows<StatusChoice & { chosen: StatusChoice["status"] }>(db, "get_user_status", [
      ["id", user],
    ]);
    const { status = null, chosen = null, until = null, message = null } = rows[0] ?? {};
    return { status: chosen, until, message, online: status !== null && chosen !== "invisible" };
  }

  chooseStatus(db: Queryable, user: string, { status, until, message }: StatusChoice): Promise<boolean> {
    return this.#value(db, "set_user_status", [
      ["id", user],
      ["text", status],
      ["timestamptz", until],
      ["text", message],
    ]);
  }

  locate(db: Queryable, user: string, session: string, { region, latitude, longitude }: Location): Promise<boolean> {
    return this.#value(db, "set_session_location", [
      ["id", user],
      ["id", session],
      ["id", region ?? null],
      ["double precision", latitude ?? null],
      ["double precision", longitude ?? null],
    ]);
  }

  setTyping(db: Queryable, user: string, session: string, room: string, typing: boolean): Promise<boolean> {
    const who: Argument[] = [
      ["id", user],
      ["id", session],
      ["id", room],
    ];
    return typing
      ? this.#value(db, "set_typing", [...who, ["interval", TYPING]])
      : this.#value(db, "clear_typing", who);
  }

  /** Who is typing, longest first. */
  async typing(db: Queryable, room: string): Promise<string[]> {
    return (await this.#rows<{ user_id: string }>(db, "get_typing", [["id", room]])).map(({ user_id }) => user_id);
  }

  async channel(db: Queryable): Promise<string> {
    const { rows } = await db.query<{ channel: string }>(
      "SELECT coalesce(current_setting('presence.notify_channel', true), 'presence') AS channel",
    );
    return rows[0]?.channel ?? "";
  }

  async #value<Value>(db: Queryable, name: string, args: Argument[]): Promise<Value> {
    const rows = await this.#run<{ value: Value }>(db, (call) => `SELECT ${call} AS value`, name, args);
    return (rows[0] as { value: Value }).value;
  }

  #rows<Row extends pg.QueryResultRow>(db: Queryable, name: string, args: Argument[]): Promise<Row[]> {
    return this.#run<Row>(db, (call) => `SELECT * FROM ${call}`, name, args);
  }

  async #run<Row extends pg.QueryResultRow>(
    db: Queryable,
    statement: (call: string, schema: string) => string,
    name: string,
    args: Argument[],
  ): Promise<Row[]> {
    const schema = await (this.#schema ??= this.#find(db));
    const casts = args.map(([type], i) =>
      type === "id" || type === "id[]"
        ? `$${i + 1}::${type.replace("id", "text")}::${type.replace("id", `${schema}.presence_id`)}`
        : `$${i + 1}::${type}`,
    );
    const text = statement(`${schema}.${name}(${casts.join(", ")})`, schema);
    try {
      const values = args.map(([, value]) => value);
      return (await db.query<Row>({ text, values, ...(this.prepare && { name: this.#nameOf(text) }) })).rows;
    } catch (error) {
      // The result of a prepared statement is no longer what it was: the extension was upgraded.
      if (codeOf(error) === "0A000") this.#edition++;
      // No such schema, type or function: the extension was moved, or made anew elsewhere.
      if (/^(3F000|42704|42883)$/.test(codeOf(error))) this.#schema = undefined;
      throw error;
    }
  }

  #nameOf(text: string): string {
    return `presence_${createHash("sha256").update(`${this.#edition} ${text}`).digest("hex").slice(0, 32)}`;
  }

  /** Where the extension is, quoted: by the catalog, in which nothing else can say that it is the extension. */
  async #find(db: Queryable): Promise<string> {
    try {
      const { rows } = await db.query<{ nspname: string }>(
        `SELECT n.nspname FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
         WHERE e.extname = 'presence'`,
      );
      const found = rows[0];
      if (found === undefined) throw new Error("the extension presence is not installed in this database");
      return `"${found.nspname.replaceAll('"', '""')}"`;
    } catch (error) {
      this.#schema = undefined;
      throw error;
    }
  }
}

/** Pages say it again after half of this. */
const TYPING = "6 seconds";

interface FeedRow extends Omit<PresenceEvent, "room"> {
  room: string | null;
  epoch: string | null;
  end: string | null;
}

/** A list and its place in the feed; where nobody is in it, one row says that. */
function snapshotOf<Row extends { user_id: string | null; seq: string; epoch?: string | null }, User>(
  rows: Row[],
  shown: (row: Row) => User,
): FeedPosition & { users: User[] } {
  const users = rows.filter((row) => row.user_id !== null).map(shown);
  return { seq: Number(rows[0]?.seq ?? 0), epoch: rows[0]?.epoch ?? null, users };
}

function eventOf({ seq, at, event, user_id, reason, sessions, details, room }: FeedRow): PresenceEvent {
  const { status, message, metadata } = details ?? {};
  return {
    seq: Number(seq),
    at,
    event,
    user_id,
    reason,
    sessions,
    ...(room !== null && { room }),
    details: {
      ...(status != null && { status }),
      ...(message != null && { message }),
      ...(metadata !== undefined && { metadata }),
    },
  };
}

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown }).code;
  return typeof code === "string" ? code : "";
}

/** A row that somebody holds locked for too long, or a conflict with what else happens to it: calls about others may succeed. */
export function isOneUsersFault(error: unknown): boolean {
  return /^(55P03|57014|40)/.test(codeOf(error));
}

/** The caller's own fault (class 22, data exception; 54000, too large), not the server's. */
export function isCallersFault(error: unknown): error is Error {
  return /^(22|54|23514)/.test(codeOf(error));
}
