import { Activity } from "./core/activity.js";
import { ChangeFeed } from "./core/changeFeed.js";
import { Emitter } from "./core/emitter.js";
import { HeartbeatLoop, type BeatResult } from "./core/heartbeatLoop.js";
import { HttpTransport } from "./core/httpTransport.js";
import { Roster } from "./core/roster.js";
import { Listeners } from "./core/listeners.js";
import { newSessionId } from "./core/sessionId.js";
import type { PresenceError, PresenceTransport } from "./core/transport.js";
import type {
  ConnectionStatus,
  Metadata,
  PresenceEvent,
  PresenceSnapshot,
  PresenceStatus,
  PresenceUser,
  UserPresence,
} from "./core/types.js";

export interface PresenceOptions {
  /** Who this page speaks for. The server decides by its own authentication; a different answer there is an error. */
  userId: string;
  /** How to reach the server; by default our endpoints under `/api`, with cookies. */
  transport?: PresenceTransport;
  /** Count as online from start() on. False: only watch, until join(). */
  autoJoin?: boolean;
  /** Shown to others with this user: a room, a device name. Names and pictures belong in the server's `authenticate`. */
  metadata?: Metadata;

  // All times are in milliseconds.
  /** Between heartbeats of a visible tab. */
  heartbeatInterval?: number;
  /** Between heartbeats of a hidden tab. Browsers let a hidden tab run once a minute, so not much below that. */
  hiddenHeartbeatInterval?: number;
  idleAfter?: number;
  awayAfter?: number;
  /** First pause after a failure; it doubles up to `retryMax`. */
  retryBase?: number;
  retryMax?: number;
  /** A feed connection that is silent for longer is dead (the server sends a comment every 15 s). */
  silenceLimit?: number;
  /** How soon a machine that slept is noticed. */
  wakeCheckInterval?: number;
  /**
   * How long a hidden tab keeps its feed connection. It catches up when it is looked at again; meanwhile it does not use one of the
   * six connections that HTTP/1.1 allows a site. Infinity: for ever.
   */
  hiddenFeedLinger?: number;
  /**
   * What counts as closing the page. `beforeunload` only where there is no `pagehide`: it also comes for downloads, for mailto: links and for a
   * "Leave site?" answered with no, and would announce departures that do not happen.
   */
  closingEvents?: ("pagehide" | "beforeunload")[];
  /** After a `beforeunload`, a page still alive after this long was not closed, and joins again. */
  stillHereAfter?: number;
}

export interface PresenceStats {
  online: number;
  sessions: number;
  byStatus: Record<PresenceStatus, number>;
  heartbeatsSent: number;
  heartbeatsFailed: number;
  lastHeartbeatAt: number | null;
  /** Of the last heartbeat, in ms. */
  latency: number | null;
  changes: number;
  reconnects: number;
  seq: number | null;
}

/** Everything a view shows; replaced as a whole when something changes. */
export interface PresenceState {
  activeUsers: readonly PresenceUser[];
  isConnected: boolean;
  connection: ConnectionStatus;
  /** This tab's own status. */
  status: PresenceStatus;
  /** The server counts this tab as online. */
  joined: boolean;
  stats: PresenceStats;
  /** When users who left while this page watched were last seen. */
  lastSeen: ReadonlyMap<string, string>;
}

export interface PresenceEvents {
  /** Anything changed: for views. At most once per turn of the event loop. */
  state: PresenceState;
  connection: ConnectionStatus;
  /** One change of the feed, each exactly once and in order. */
  change: PresenceEvent;
  /** The list was read as a whole: at the start, or where the feed could not continue. */
  snapshot: PresenceSnapshot;
  /** Own status, from input or setStatus(). */
  status: PresenceStatus;
  heartbeat: { online: boolean; latency: number };
  error: PresenceError;
}

const DEFAULTS = {
  autoJoin: true,
  heartbeatInterval: 30_000,
  hiddenHeartbeatInterval: 120_000,
  idleAfter: 5 * 60_000,
  awayAfter: 15 * 60_000,
  retryBase: 1_000,
  retryMax: 30_000,
  silenceLimit: 40_000,
  wakeCheckInterval: 5_000,
  hiddenFeedLinger: 20_000,
  stillHereAfter: 2_000,
};

const EMPTY_STATS: PresenceStats = {
  online: 0,
  sessions: 0,
  byStatus: { active: 0, busy: 0, idle: 0, away: 0 },
  heartbeatsSent: 0,
  heartbeatsFailed: 0,
  lastHeartbeatAt: null,
  latency: null,
  changes: 0,
  reconnects: 0,
  seq: null,
};

/** What a view shows before anything is known, and on the server. */
export const EMPTY_STATE: PresenceState = {
  activeUsers: [],
  isConnected: false,
  connection: "stopped",
  status: "active",
  joined: false,
  stats: EMPTY_STATS,
  lastSeen: new Map(),
};

/**
 * One tab's presence: says that its user is here, says goodbye, and knows who else is.
 *
 *     const presence = new PresenceService({ userId: "ada" });
 *     presence.on("state", ({ activeUsers }) => show(activeUsers));
 *     presence.start();
 */
export class PresenceService {
  readonly #options: PresenceOptions & typeof DEFAULTS;
  readonly #transport: PresenceTransport;
  readonly #events = new Emitter<PresenceEvents>();
  readonly #roster = new Roster();
  readonly #heartbeats: HeartbeatLoop;
  readonly #feed: ChangeFeed;
  readonly #activity: Activity;

  #sessionId = newSessionId();
  #listeners = new Listeners();
  #started = false;
  #wanted = false; // the user is to count as online here
  #announced = false; // a heartbeat has been sent under #sessionId, so there is something to say goodbye to
  #gone = false; // the page is closing, lies in the back/forward cache, or is rendered ahead and may never be looked at
  #beat: "none" | "ok" | "failed" = "none";
  #everOnline = false;
  #chosen: PresenceStatus | null = null;
  #lingering: ReturnType<typeof setTimeout> | undefined;
  #returning: ReturnType<typeof setTimeout> | undefined;
  #counters = {
    heartbeatsSent: 0,
    heartbeatsFailed: 0,
    lastHeartbeatAt: null as number | null,
    latency: null as number | null,
    changes: 0,
  };
  #state: PresenceState = EMPTY_STATE;
  #told: ConnectionStatus = "stopped";
  #toldStatus: PresenceStatus = "active";
  #stateDue = false;

  constructor(options: PresenceOptions) {
    // An option passed as undefined means its default.
    const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
    const settings = (this.#options = { ...DEFAULTS, ...given } as PresenceOptions & typeof DEFAULTS);
    this.#transport = settings.transport ?? new HttpTransport();
    const { retryBase, retryMax, wakeCheckInterval: hop } = settings;

    this.#heartbeats = new HeartbeatLoop({
      interval: () => this.#interval(),
      send: (signal) => this.#send(signal),
      done: (result) => this.#beaten(result),
      retryBase,
      retryMax,
      hop,
    });
    this.#feed = new ChangeFeed({
      transport: this.#transport,
      roster: this.#roster,
      loaded: (snapshot) => {
        this.#events.emit("snapshot", snapshot);
        this.#refresh();
      },
      changed: (event) => {
        this.#counters.changes++;
        this.#events.emit("change", event);
        this.#refresh();
      },
      failed: (error) => this.#events.emit("error", error),
      switched: () => this.#refresh(),
      silence: settings.silenceLimit,
      retryBase,
      retryMax,
      hop,
    });
    this.#activity = new Activity(settings, () => this.#statusChanged(), hop);
  }

  get sessionId(): string {
    return this.#sessionId;
  }

  get state(): PresenceState {
    return this.#state;
  }

  on<Name extends keyof PresenceEvents>(name: Name, listener: (payload: PresenceEvents[Name]) => void): () => void {
    return this.#events.on(name, listener);
  }

  start(): void {
    if (this.#started) return;
    this.#started = true;
    this.#gone = prerendering();
    this.#listen();
    if (globalThis.window !== undefined) this.#activity.start();
    // A tab opened in the background does not need the list before it is looked at.
    if (!this.#gone && (!hidden() || this.#options.hiddenFeedLinger === Infinity)) this.#feed.start();
    if (this.#options.autoJoin) this.join();
    this.#refresh();
  }

  /** Says goodbye and leaves no timer, no listener and no connection behind. */
  stop(): void {
    if (!this.#started) return;
    this.leave();
    this.#started = false;
    this.#listeners.removeAll();
    this.#activity.stop();
    this.#feed.stop();
    clearTimeout(this.#lingering);
    clearTimeout(this.#returning);
    this.#everOnline = false;
    this.#refresh();
  }

  join(): void {
    if (this.#wanted || !this.#started) return;
    this.#wanted = true;
    if (!this.#gone) this.#heartbeats.beatNow();
    this.#refresh();
  }

  /** Goes offline here and now, but keeps watching. */
  leave(): void {
    this.#wanted = false;
    this.#sayGoodbye();
    this.#refresh();
  }

  /** A status of the user's own choice, such as `busy`; null: from input again. */
  setStatus(status: PresenceStatus | null): void {
    this.#chosen = status;
    this.#statusChanged();
  }

  /** For admins: ends stale sessions now; how many users went offline. */
  triggerCleanup(): Promise<number> {
    return this.#transport.cleanup();
  }

  /** A friend list: each asked-for user, online or not, with `last_seen`. */
  lookUp(users: readonly string[]): Promise<UserPresence[]> {
    return this.#transport.lookUp(users);
  }

  // ---- heartbeats ----

  #interval(): number {
    return hidden() ? this.#options.hiddenHeartbeatInterval : this.#options.heartbeatInterval;
  }

  #status(): PresenceStatus {
    return this.#chosen ?? this.#activity.status;
  }

  #send(signal: AbortSignal): Promise<boolean> {
    this.#announced = true;
    this.#counters.heartbeatsSent++;
    const { userId, metadata } = this.#options;
    return this.#transport.heartbeat(
      {
        user_id: userId,
        session_id: this.#sessionId,
        heartbeat_interval: this.#interval() / 1000,
        status: this.#status(),
        ...(metadata && { metadata }),
      },
      signal,
    );
  }

  #beaten(result: BeatResult): void {
    const before = this.#beat;
    if (result.ok) {
      this.#beat = "ok";
      this.#counters.lastHeartbeatAt = Date.now();
      this.#counters.latency = result.latency;
      this.#joined = result.online;
      this.#events.emit("heartbeat", { online: result.online, latency: result.latency });
      // The way to the server was cut and is open again. The feed may hang in the old, dead connection.
      if (before === "failed" && this.#feed.running) this.#feed.reopen();
    } else {
      this.#beat = "failed";
      this.#counters.heartbeatsFailed++;
      this.#events.emit("error", result.error);
    }
    this.#refresh();
  }
  #joined = false;

  /** Ends the session by beacon. Its id is spent: the server would ignore a late heartbeat, and ours must not look like one. */
  #sayGoodbye(): void {
    this.#heartbeats.stop();
    const spent = this.#announced ? this.#sessionId : null;
    this.#sessionId = newSessionId();
    this.#announced = false;
    this.#joined = false;
    this.#beat = "none";
    if (spent !== null) this.#transport.leave(this.#options.userId, spent);
  }

  #statusChanged(): void {
    const status = this.#status();
    if (status === this.#toldStatus) return; // input, under a status of the user's own choice
    this.#toldStatus = status;
    this.#events.emit("status", status);
    if (this.#wanted && !this.#gone) this.#heartbeats.beatNow();
    this.#refresh();
  }

  // ---- the life of the page ----

  #listen(): void {
    const { window, document } = globalThis;
    if (window === undefined || document === undefined) return;
    const on = (target: EventTarget, name: string, listener: () => void) => this.#listeners.add(target, name, listener);
    const closing = this.#options.closingEvents ?? ["onpagehide" in window ? "pagehide" : "beforeunload"];
    for (const name of closing) on(window, name, () => this.#close(name));
    // Out of the back/forward cache: the old session has said goodbye, this is a new one.
    on(window, "pageshow", () => this.#comeBack());
    on(document, "visibilitychange", () => (hidden() ? this.#hide() : this.#show()));
    on(document, "prerenderingchange", () => this.#comeBack());
    on(document, "resume", () => this.#wake());
    on(window, "online", () => this.#wake());
    on(window, "offline", () => this.#refresh());
  }

  #close(event: string): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#sayGoodbye();
    this.#feed.stop(); // an open connection would keep the page out of the back/forward cache
    if (event === "beforeunload") this.#returning = setTimeout(() => this.#comeBack(), this.#options.stillHereAfter);
  }

  #comeBack(): void {
    if (!this.#gone) return;
    this.#gone = false;
    clearTimeout(this.#returning);
    this.#wake();
  }

  /** Visible again, thawed, or the network is back: whatever was under way may be dead. */
  #wake(): void {
    if (this.#gone) return;
    clearTimeout(this.#lingering);
    if (this.#wanted) this.#heartbeats.restart();
    if (!hidden() || this.#feed.running) this.#feed.reopen();
    this.#refresh();
  }

  #show(): void {
    this.#activity.touch();
    this.#wake();
  }

  #hide(): void {
    if (this.#gone) return;
    // At once, because this one tells the server to expect the longer interval.
    if (this.#wanted) this.#heartbeats.beatNow();
    clearTimeout(this.#lingering);
    if (Number.isFinite(this.#options.hiddenFeedLinger)) {
      this.#lingering = setTimeout(() => {
        this.#feed.stop();
        this.#refresh();
      }, this.#options.hiddenFeedLinger);
    }
  }

  // ---- what others see of all this ----

  #connection(): ConnectionStatus {
    if (!this.#started) return "stopped";
    if (globalThis.navigator?.onLine === false) return "offline";
    const heartbeatsFine = !this.#wanted || this.#beat === "ok";
    const feedFine = !this.#feed.running || this.#feed.open;
    if (heartbeatsFine && feedFine && !this.#gone) {
      this.#everOnline = true;
      return "online";
    }
    return this.#everOnline ? "reconnecting" : "connecting";
  }

  #refresh(): void {
    if (this.#stateDue) return;
    this.#stateDue = true;
    queueMicrotask(() => {
      this.#stateDue = false;
      this.#publish();
    });
  }

  #publish(): void {
    const connection = this.#connection();
    const { users, lastSeen, seq } = this.#roster;
    const byStatus = { active: 0, busy: 0, idle: 0, away: 0 };
    let sessions = 0;
    for (const user of users) {
      byStatus[user.status]++;
      sessions += user.sessions;
    }
    this.#state = {
      activeUsers: users,
      isConnected: connection === "online",
      connection,
      status: this.#status(),
      joined: this.#joined,
      stats: { online: users.length, sessions, byStatus, ...this.#counters, reconnects: this.#feed.reconnects, seq },
      lastSeen,
    };
    if (connection !== this.#told) {
      this.#told = connection;
      this.#events.emit("connection", connection);
    }
    this.#events.emit("state", this.#state);
  }
}

function hidden(): boolean {
  return globalThis.document?.visibilityState === "hidden";
}

function prerendering(): boolean {
  return (globalThis.document as { prerendering?: boolean } | undefined)?.prerendering === true;
}
