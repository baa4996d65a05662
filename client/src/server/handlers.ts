import pg from "pg";
import { addressFinder } from "./clientAddress.js";
import { Refusal, readJson } from "./body.js";
import { Database, isCallersFault, type Location } from "./database.js";
import { EventHub } from "./eventHub.js";
import { eventStream } from "./eventStream.js";
import { Goodbyes } from "./goodbyes.js";
import { HeartbeatBatcher } from "./heartbeatBatcher.js";
import { comesFromOurPages, corsHeaders } from "./origin.js";
import { RateLimit } from "./rateLimit.js";
import { CLOSED_ROOM, OTHER_USER, isChoosable } from "../core/transport.js";
import { parsePosition } from "../core/feedPosition.js";
import type { PresenceSnapshot, StatusChoice } from "../core/types.js";

/** Seconds; whoever has been away for longer is away. */
const LONGEST_INACTIVE = 30 * 86_400;

export interface Viewer {
  userId: string;
  /** May call the cleanup. */
  isAdmin?: boolean;
  /** Shown to others with this user (a name, a picture). Goes over what the page itself sends. */
  metadata?: Record<string, unknown>;
}

export interface PresenceServerOptions {
  /** Who sends this request, by your cookie or token; null: nobody known. */
  authenticate: (request: Request) => Viewer | null | undefined | Promise<Viewer | null | undefined>;
  /**
   * Any text that nobody can guess, the same in all processes that answer for one site. With it they know their own goodbyes, which
   * end a session also when its user's cookie is no longer there. By default each process has one of its own.
   */
  secret?: string;
  /** For node-postgres; by default the PG… environment variables. */
  database?: pg.PoolConfig;
  /**
   * Prepare statements by name, which saves the database some work with each call. Not behind a pooler in transaction mode, unless
   * it knows of names (PgBouncer does from 1.21 on, with max_prepared_statements).
   */
  preparedStatements?: boolean;
  /** For the one connection that listens, where `database` leads to a pooler that cannot. */
  listen?: pg.ClientConfig;
  /** Where the endpoints are mounted. */
  basePath?: string;
  /** Addresses and networks whose X-Forwarded-For is believed, as in ["127.0.0.1", "10.0.0.0/8"]. */
  trustedProxies?: string[];
  /** Origins other than our own that may use the endpoints. */
  allowedOrigins?: string[];
  /** Whom a viewer may see; everybody by default. */
  canSee?: (viewer: Viewer, userId: string) => boolean;
  /** Which rooms a viewer may join and look into; all by default. The page's stream asks again each time it is opened anew. */
  mayEnter?: (viewer: Viewer, room: string) => boolean | Promise<boolean>;
  /**
   * Where the session is that sends this request, its first one here: from a header of your proxy's, say, or a table of addresses.
   * Null: nobody knows.
   */
  locate?: (
    request: Request,
    viewer: Viewer,
    connection: Connection,
  ) => Location | null | undefined | Promise<Location | null | undefined>;
  /** Heartbeats are collected for this long (ms) into one call. */
  tick?: number;
  /** How often to look into the feed without having been notified (ms). */
  pollInterval?: number;
  /** Between keep-alive comments (ms). */
  keepAlive?: number;
  /**
   * How long an event stream lasts (ms) before its page opens it anew, so that a sign-out ends it: `authenticate` is asked within a
   * request and never at another time, when a framework would not know whose it is.
   */
  recheckInterval?: number;
  limits?: Partial<typeof LIMITS>;
  onError?: (error: unknown) => void;
}

const LIMITS = {
  bodyBytes: 8 * 1024,
  /** Of one user, all tabs and devices together. */
  requestsPerSecond: 10,
  requestBurst: 60,
  /** Sessions that a user may begin. Without it, one signed-in script could fill the table with made-up tabs. */
  sessionsPerSecond: 0.5,
  sessionBurst: 60,
  streamsPerUser: 30,
  streams: 10_000,
  /** Bytes a stream's reader may leave unread. */
  unreadBytes: 256 * 1024,
  lookUps: 500,
  /** Rooms of which one page is told. */
  roomsPerStream: 50,
  /** Who missed more changes than this, or more bytes of them, gets the list instead. */
  missedChanges: 5_000,
  missedBytes: 1024 * 1024,
  /** A stream may begin with a list that is this old (ms), and the changes since. */
  listAge: 1_000,
  /** Milliseconds that a call may wait for a row that somebody holds locked, and that it may take in all. */
  lockWait: 2_000,
  statement: 10_000,
};

/** What the server knows of a request beyond its text: the address at the other end of the connection. */
export interface Connection {
  remoteAddress?: string | undefined;
}

type Handler = (request: Request, connection?: Connection) => Promise<Response>;

export interface PresenceServer {
  /** Answers what is under `basePath` and is ours; undefined: somebody else's. */
  handle: (request: Request, connection?: Connection) => Promise<Response> | undefined;
  /** Whether the path is one of ours. */
  owns: (pathname: string) => boolean;
  /** No body of ours is longer. */
  bodyBytes: number;
  close: () => Promise<void>;
}

export function createPresenceServer(options: PresenceServerOptions): PresenceServer {
  const { canSee } = options;
  const mayEnter = async (viewer: Viewer, room: string) => (await options.mayEnter?.(viewer, room)) ?? true;
  const limits = { ...LIMITS, ...options.limits };
  const allowedOrigins = options.allowedOrigins ?? [];
  const base = (options.basePath ?? "/api").replace(/\/$/, "");
  const addressOf = addressFinder(options.trustedProxies ?? []);
  const report =
    options.onError ?? ((error) => console.error("presence:", error instanceof Error ? error.message : error));

  const db = new Database(options.preparedStatements);
  const pool = new pg.Pool({
    max: 4,
    connectionTimeoutMillis: 5_000,
    query_timeout: 15_000,
    // The server itself gives up in time, so that nothing goes on there that nobody waits for any more. Not as parameters of
    // the connection, which poolers refuse. (The pool awaits what its type calls void.)
    onConnect: (client): unknown =>
      client.query("SELECT set_config('lock_timeout', $1, false), set_config('statement_timeout', $2, false)", [
        limits.lockWait,
        limits.statement,
      ]),
    ...options.database,
  });
  pool.on("error", () => {}); // an idle connection was lost; the next query makes a new one
  const { listen = options.database ?? {}, pollInterval = 2_000 } = options;
  const hub = new EventHub(listen, db, pollInterval, limits.missedChanges, report, (room) => db.typing(pool, room));
  const batcher = new HeartbeatBatcher(
    {
      one: (user, session, details, lastActivity) => db.heartbeat(pool, user, session, details, lastActivity),
      many: (users, sessions, lastActivities) => db.heartbeats(pool, users, sessions, lastActivities),
    },
    options.tick ?? 50,
  );
  const goodbyes = new Goodbyes(options.secret);
  const requests = new RateLimit(limits.requestsPerSecond, limits.requestBurst);
  // Goodbyes count apart: too many heartbeats must not keep a user online who leaves.
  const departures = new RateLimit(limits.requestsPerSecond, limits.requestBurst);
  const beginnings = new RateLimit(limits.sessionsPerSecond, limits.sessionBurst);
  const streams = new Map<string, number>();
  let streamCount = 0;
  let closing = false;

  // A restart of this process brings all pages at once: they share one look at the list, and the feed brings what it lacks.
  let shared: { list: Promise<PresenceSnapshot>; at: number } | undefined;
  const readSnapshot = (fresh: boolean) => {
    if (fresh || shared === undefined || performance.now() - shared.at > limits.listAge) {
      const mine = (shared = { list: db.snapshot(pool), at: performance.now() });
      mine.list.catch(() => shared === mine && (shared = undefined));
    }
    return shared.list;
  };

  async function viewerOf(request: Request): Promise<Viewer | null> {
    const viewer = await options.authenticate(request);
    // Nobody, too: an id that a half-made look-up left undefined would be one and the same user for everybody.
    return viewer?.userId == null || viewer.userId === "" ? null : { ...viewer, userId: String(viewer.userId) };
  }

  /** What all endpoints share: method, origin, authentication, rate, and errors as answers. */
  function endpoint(
    method: "GET" | "POST",
    rate: RateLimit,
    answer: (request: Request, viewer: Viewer, connection: Connection) => Promise<Response | object>,
    identify = viewerOf,
  ): Handler {
    return async (request, connection = {}) => {
      const cors = corsHeaders(request, allowedOrigins);
      const refuse = (status: number, error: string, headers: Record<string, string> = {}, code?: string) =>
        Response.json({ error, code }, { status, headers: { ...cors, ...headers, "cache-control": "no-store" } });
      try {
        if (closing) return refuse(503, "shutting down", { "retry-after": "1" });
        if (request.method === "OPTIONS") return new Response(null, { status: 204, headers: cors });
        if (request.method !== method) return refuse(405, `use ${method}`, { allow: method });
        // Also where nothing changes: a foreign page could not read a stream, but could use up its reader's places.
        if (!comesFromOurPages(request, allowedOrigins)) return refuse(403, "from a foreign page");
        const viewer = await identify(request);
        if (viewer === null) return refuse(401, "not signed in");
        limit(rate, viewer);

        const result = await answer(request, viewer, connection);
        if (!(result instanceof Response))
          return Response.json(result, { headers: { ...cors, "cache-control": "no-store" } });
        for (const [name, value] of Object.entries(cors)) result.headers.set(name, value);
        return result;
      } catch (error) {
        if (error instanceof Refusal) return refuse(error.status, error.message, error.headers, error.code);
        if (isCallersFault(error)) return refuse(400, error.message);
        if (!closing) report(error); // what was under way when close() was called
        return refuse(503, "presence is not available at the moment", { "retry-after": "1" });
      }
    };
  }

  function limit(rate: RateLimit, viewer: Viewer): void {
    const wait = rate.take(viewer.userId);
    if (wait > 0) throw new Refusal(429, "too many requests", { "retry-after": String(Math.ceil(wait / 1000)) });
  }

  /** A page may speak for a user who is no longer the one that is signed in. */
  function checkUser(user: unknown, viewer: Viewer): void {
    if (user != null && `${user as string | number}` !== viewer.userId)
      throw new Refusal(403, "user_id is not the signed-in user", {}, OTHER_USER);
  }

  /** The session a request speaks for, which is always one of the viewer's own. */
  function sessionOf(body: Record<string, unknown>, viewer: Viewer): string {
    checkUser(body.user_id, viewer);
    if (typeof body.session_id !== "string" || body.session_id === "") throw new Refusal(400, "session_id is missing");
    return body.session_id;
  }

  const heartbeat = endpoint("POST", requests, async (request, viewer, connection) => {
    const body = await readJson(request, limits.bodyBytes);
    const session = sessionOf(body, viewer);
    const interval = body.heartbeat_interval ?? null;
    if (interval !== null && !(typeof interval === "number" && interval > 0 && interval <= 86_400)) {
      throw new Refusal(400, "heartbeat_interval is not a number of seconds");
    }
    const { status = null } = body;
    const own = metadataOf(body);
    if (status !== null && typeof status !== "string") throw new Refusal(400, "status is not a string");
    const first = !batcher.knows(viewer.userId, session);
    if (first) limit(beginnings, viewer);
    // An empty one is one, too: the last key has been removed. None at all keeps what is known.
    const metadata = own === null && viewer.metadata === undefined ? null : { ...own, ...viewer.metadata };
    const details = {
      userAgent: request.headers.get("user-agent"),
      address: addressOf(request, connection.remoteAddress),
      interval,
      status,
      metadata,
    };
    const online = await batcher.beat(viewer.userId, session, details, lastActivityOf(body));
    if (first && online) await locate(request, viewer, session, connection);
    return { online, ...(first && { goodbye: goodbyes.of(viewer.userId, session) }) };
  });

  /** Nobody stays away for want of a map. */
  async function locate(request: Request, viewer: Viewer, session: string, connection: Connection): Promise<void> {
    try {
      const location = await options.locate?.(request, viewer, connection);
      if (location == null) return;
      await batcher.inTurn(viewer.userId, session, () => db.locate(pool, viewer.userId, session, location));
    } catch (error) {
      report(error);
    }
  }

  const status = endpoint("GET", requests, (request, viewer) => {
    checkUser(new URL(request.url).searchParams.get("user_id"), viewer);
    return db.status(pool, viewer.userId);
  });

  const chooseStatus = endpoint("POST", requests, async (request, viewer) => {
    const body = await readJson(request, limits.bodyBytes);
    checkUser(body.user_id, viewer);
    const choice = choiceOf(body);
    // In turn with what else this user asks for.
    await batcher.inTurn(viewer.userId, "", () => db.chooseStatus(pool, viewer.userId, choice));
    return choice;
  });

  /** The user of a session that proves to be his, by what the answer to its first heartbeat said; else whoever is signed in. */
  async function leaverOf(request: Request): Promise<Viewer | null> {
    const { user_id, session_id, goodbye } = await readJson(request.clone(), limits.bodyBytes);
    const proven = [user_id, session_id, goodbye].every((text) => typeof text === "string");
    if (proven && goodbyes.fits(user_id as string, session_id as string, goodbye as string))
      return { userId: user_id as string };
    return viewerOf(request);
  }

  const disconnect = endpoint(
    "POST",
    departures,
    async (request, viewer) => {
      const session = sessionOf(await readJson(request, limits.bodyBytes), viewer);
      const { userId } = viewer;
      return { offline: await batcher.end(userId, session, () => db.disconnect(pool, userId, session)) };
    },
    leaverOf,
  );

  function seenBy<User extends { user_id: string }>(viewer: Viewer, users: User[]): User[] {
    return canSee === undefined ? users : users.filter((user) => canSee(viewer, user.user_id));
  }

  /** The room that a request is about, which its viewer may enter. */
  async function roomOf(value: unknown, viewer: Viewer): Promise<string> {
    const room = roomNameOf(value);
    if (!(await mayEnter(viewer, room))) throw new Refusal(403, "not a room for you", {}, CLOSED_ROOM);
    return room;
  }

  const joinRoom = endpoint("POST", requests, async (request, viewer) => {
    const body = await readJson(request, limits.bodyBytes);
    const session = sessionOf(body, viewer);
    const room = await roomOf(body.room, viewer);
    const metadata = metadataOf(body);
    // Whoever joins is online, so this may begin a session.
    if (!batcher.knows(viewer.userId, session)) limit(beginnings, viewer);
    const join = () => db.joinRoom(pool, viewer.userId, session, room, metadata);
    return { joined: await batcher.inTurn(viewer.userId, session, join) };
  });

  const leaveRoom = endpoint("POST", departures, async (request, viewer) => {
    const body = await readJson(request, limits.bodyBytes);
    const session = sessionOf(body, viewer);
    const room = roomNameOf(body.room); // also one that he may no longer enter
    const leave = () => db.leaveRoom(pool, viewer.userId, session, room);
    return { left: await batcher.inTurn(viewer.userId, session, leave) };
  });

  const typing = endpoint("POST", requests, async (request, viewer) => {
    const body = await readJson(request, limits.bodyBytes);
    const session = sessionOf(body, viewer);
    const room = await roomOf(body.room, viewer);
    if (typeof body.typing !== "boolean") throw new Refusal(400, "typing is neither true nor false");
    const set = () => db.setTyping(pool, viewer.userId, session, room, body.typing === true);
    const done = await batcher.inTurn(viewer.userId, session, set);
    hub.typingChanged(room);
    return { typing: done && body.typing };
  });

  const listRoom = endpoint("GET", requests, async (request, viewer) => {
    const room = await roomOf(new URL(request.url).searchParams.get("room"), viewer);
    const { users, ...rest } = await db.room(pool, room);
    return { ...rest, users: seenBy(viewer, users) };
  });

  const list = endpoint("GET", requests, async (request, viewer) => {
    const asked = new URL(request.url).searchParams.getAll("user");
    if (asked.length > limits.lookUps) throw new Refusal(400, `more than ${limits.lookUps} users`);
    if (asked.length > 0) {
      const users = await db.lookUp(pool, asked.filter(canBeId));
      const nobody = { online: false, status: null, last_seen: null, sessions: null, metadata: null };
      for (const user_id of new Set(asked)) if (!canBeId(user_id)) users.push({ user_id, ...nobody });
      return { users: seenBy(viewer, users) };
    }
    const { users, ...position } = await db.snapshot(pool);
    return { ...position, users: seenBy(viewer, users) };
  });

  const events = endpoint("GET", requests, async (request, viewer) => {
    const text = request.headers.get("last-event-id") ?? new URL(request.url).searchParams.get("since");
    const since = text === null || text === "" ? null : parsePosition(text);
    if (since === null && text) throw new Refusal(400, "Last-Event-ID is not a position");
    const asked = new URL(request.url).searchParams;
    // What it brings may reach other tabs of its page's user.
    checkUser(asked.get("user_id"), viewer);
    const unknown = asked.getAll("room");
    const named = new Set([...unknown, ...asked.getAll("known_room")]);
    if (named.size > limits.roomsPerStream) throw new Refusal(400, `more than ${limits.roomsPerStream} rooms`);
    const rooms = new Set<string>();
    for (const room of named) if (canBeId(room) && (await mayEnter(viewer, room))) rooms.add(room);

    const mine = streams.get(viewer.userId) ?? 0;
    if (mine >= limits.streamsPerUser || streamCount >= limits.streams) {
      throw new Refusal(429, "too many event streams", { "retry-after": "10" });
    }
    streams.set(viewer.userId, mine + 1);
    streamCount++;
    const closed = () => {
      streamCount--;
      const left = (streams.get(viewer.userId) ?? 1) - 1;
      if (left > 0) streams.set(viewer.userId, left);
      else streams.delete(viewer.userId);
    };
    try {
      await hub.catchUp(); // without a database, an error is a clearer answer than a stream that ends
    } catch (error) {
      closed();
      throw error;
    }
    const body = eventStream({
      hub,
      since,
      readSnapshot,
      rooms,
      unknownRooms: new Set(unknown.filter((room) => rooms.has(room))),
      forbiddenRooms: new Set([...named].filter((room) => !rooms.has(room))),
      readRoom: (room) => db.room(pool, room),
      readChanges: (seq) => db.changesSince(pool, seq, 1000),
      canSee: canSee && ((user) => canSee(viewer, user)),
      catchUp: { changes: limits.missedChanges, bytes: limits.missedBytes },
      // Those that began together, at a restart, do not end together.
      lifetime: (options.recheckInterval ?? 60_000) * (0.75 + Math.random() / 4),
      keepAlive: options.keepAlive ?? 15_000,
      mostUnread: limits.unreadBytes,
      closed,
    });
    return new Response(body, {
      headers: {
        "content-type": "text/event-stream",
        "cache-control": "no-store, no-transform",
        "x-accel-buffering": "no",
      },
    });
  });

  const cleanup = endpoint("POST", requests, async (_request, viewer) => {
    if (viewer.isAdmin !== true) throw new Refusal(403, "for admins only");
    return { offline: await db.cleanup(pool) };
  });

  const routes = new Map<string, Handler>([
    ["/heartbeat", heartbeat],
    ["/user-disconnect", disconnect],
    ["/room-join", joinRoom],
    ["/room-leave", leaveRoom],
    ["/typing", typing],
    ["/status", chooseStatus],
    ["/presence", list],
    ["/presence/room", listRoom],
    ["/presence/status", status],
    ["/presence/events", events],
    ["/presence/cleanup", cleanup],
  ]);

  return {
    handle(request, connection) {
      const { pathname } = new URL(request.url);
      return pathname.startsWith(base) ? routes.get(pathname.slice(base.length))?.(request, connection) : undefined;
    },
    owns: (pathname) => pathname.startsWith(base) && routes.has(pathname.slice(base.length)),
    bodyBytes: limits.bodyBytes,
    async close() {
      closing = true;
      batcher.flush();
      await hub.close();
      await pool.end();
    },
  };
}

function metadataOf({ metadata = null }: Record<string, unknown>): Record<string, unknown> | null {
  if (typeof metadata !== "object" || Array.isArray(metadata)) throw new Refusal(400, "metadata is not a JSON object");
  return metadata as Record<string, unknown> | null;
}

/** When the user was last active, by our clock: the page's says only how long ago that was. */
function lastActivityOf({ inactive_for: seconds = null }: Record<string, unknown>): Date | null {
  if (seconds === null) return null;
  if (!(typeof seconds === "number" && seconds >= 0 && seconds <= LONGEST_INACTIVE))
    throw new Refusal(400, "inactive_for is not a number of seconds");
  return new Date(Date.now() - seconds * 1000);
}

function choiceOf(body: Record<string, unknown>): StatusChoice {
  const { status = null, until = null, message = null } = body;
  if (status !== null && !isChoosable(status)) throw new Refusal(400, "status is none that one may choose");
  const end = until === null ? null : typeof until === "string" ? new Date(until) : new Date(NaN);
  if (end !== null && Number.isNaN(end.getTime())) throw new Refusal(400, "until is not a time");
  if (message !== null && typeof message !== "string") throw new Refusal(400, "message is not a string");
  return { status, until: end?.toISOString() ?? null, message };
}

function roomNameOf(value: unknown): string {
  if (typeof value !== "string" || !canBeId(value)) throw new Refusal(400, "room is not the name of one");
  return value;
}

/** What the database would refuse, and with it the whole look-up, is nobody's id. */
function canBeId(text: string): boolean {
  return text !== "" && Buffer.byteLength(text) <= 255 && !/\p{Cc}/u.test(text);
}
