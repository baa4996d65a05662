import pg from "pg";
import { backoff } from "../core/backoff.js";
import { maybeSameFeed, type FeedPosition } from "../core/feedPosition.js";
import type { PresenceSnapshot } from "../core/types.js";
import type { Database, FeedPage } from "./database.js";

const PAGE = 1000;
/** After changes were passed on, those of this long (ms) go to all streams in one piece. */
const GATHER = 100;

/** Hints about who is typing are gathered for this long (ms). */
const GATHER_TYPING = 50;

export interface HubListener {
  /** Of which it is told who is typing there. */
  rooms: ReadonlySet<string>;
  /** Who is typing there now; at the beginning, and when that has changed. */
  typing(room: string, users: readonly string[]): void;
  /** All of one epoch, which is that of the snapshot before. */
  changes(page: FeedPage): void;
  /** The feed does not continue from where we were, or went far ahead at once: here is the list as a whole. */
  snapshot(snapshot: PresenceSnapshot): void;
  /** The database went away, or is back and everything missed has been passed on. */
  connected(connected: boolean): void;
  /** The server shuts down. */
  end(): void;
}

interface TypingRoom {
  listeners: Set<HubListener>;
  /** Null: not known yet. */
  users: readonly string[] | null;
}

/**
 * One connection that listens, for all clients. Whoever may connect to the database may send notifications of any content on
 * any channel, so one is never believed: it only means that there may be something to read, and what is passed on is read from the
 * feed by number. So it makes no difference either whether notifications carry a number (with the worker) or none
 * (without), say a storm in one message, are shortened, are switched off, or were lost with the connection.
 */
export class EventHub {
  /** Everything up to here has been passed on; null before the first look. */
  position: FeedPosition | null = null;
  connected = false;
  #listeners = new Set<HubListener>();
  #client: pg.Client | undefined;
  #connecting: Promise<void> | undefined;
  #reading: Promise<void> | undefined;
  #again = false;
  #restUntil = 0;
  #due: ReturnType<typeof setTimeout> | undefined;
  #failures = 0;
  #typing = new Map<string, TypingRoom>();
  #typingDue = new Set<string>();
  #typingTimer: ReturnType<typeof setTimeout> | undefined;
  #poll: ReturnType<typeof setInterval> | undefined;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #closed = false;

  constructor(
    private readonly config: pg.ClientConfig,
    private readonly database: Database,
    private readonly pollInterval: number,
    /** More changes than this at once are passed on as a snapshot. */
    private readonly mostChanges: number,
    private readonly report: (error: unknown) => void,
    private readonly readTyping: (room: string) => Promise<readonly string[]>,
  ) {}

  add(listener: HubListener): void {
    if (this.#closed) return listener.end();
    this.#listeners.add(listener);
    for (const name of listener.rooms) {
      const room = this.#typing.get(name) ?? { listeners: new Set(), users: null };
      this.#typing.set(name, room);
      room.listeners.add(listener);
      if (room.users === null) this.typingChanged(name);
      else listener.typing(name, room.users);
    }
  }

  remove(listener: HubListener): void {
    this.#listeners.delete(listener);
    for (const name of listener.rooms) {
      const room = this.#typing.get(name);
      room?.listeners.delete(listener);
      if (room?.listeners.size === 0) this.#typing.delete(name);
    }
  }

  /** So it may be; the database is asked who is typing there. */
  typingChanged(room: string): void {
    if (this.#closed || !this.#typing.has(room)) return;
    this.#typingDue.add(room);
    this.#typingTimer ??= setTimeout(() => void this.#lookAtTyping(), GATHER_TYPING);
    this.#typingTimer.unref?.();
  }

  async #lookAtTyping(): Promise<void> {
    const due = [...this.#typingDue];
    this.#typingDue.clear();
    try {
      for (const name of due) {
        const users = await this.readTyping(name);
        const room = this.#typing.get(name);
        if (room === undefined || (room.users !== null && room.users.join("\n") === users.join("\n"))) continue;
        room.users = users;
        for (const listener of [...room.listeners]) listener.typing(name, users);
      }
    } catch (error) {
      if (!this.#closed) this.report(error);
    }
    this.#typingTimer = undefined;
    const [next] = this.#typingDue; // said while we looked
    if (next !== undefined) this.typingChanged(next);
  }

  /** Resolves when the feed has been read up to its end as of now, or rejects without a database. */
  async catchUp(): Promise<void> {
    if (!this.connected) await this.#connect();
    // One that is under way may have looked before the caller asked.
    if (this.#reading !== undefined) await this.#reading;
    await this.#read();
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#poll);
    clearTimeout(this.#retry);
    clearTimeout(this.#due);
    clearTimeout(this.#typingTimer);
    for (const listener of [...this.#listeners]) listener.end();
    await this.#client?.end().catch(() => {});
  }

  #connect(): Promise<void> {
    if (this.#closed) return Promise.reject(new Error("presence: closed"));
    return (this.#connecting ??= this.#open().finally(() => (this.#connecting = undefined)));
  }

  async #open(): Promise<void> {
    clearTimeout(this.#retry);
    // With a time limit, a connection that died silently is found out by the next look.
    const client = new pg.Client({
      query_timeout: 10_000,
      connectionTimeoutMillis: 10_000,
      keepAlive: true,
      ...this.config,
    });
    this.#client = client;
    client.on("error", (error) => this.#lost(client, error));
    // Who is typing is announced often, and is not in the feed.
    client.on("notification", ({ payload }) => {
      if (payload?.startsWith('{"event" : "typing_') === true) this.typingChanged(roomIn(payload));
      else this.#wake();
    });
    try {
      await client.connect();
      client.on("end", () => this.#lost(client, null));
      const channel = await this.database.channel(client);
      if (channel !== "") await client.query(`LISTEN ${client.escapeIdentifier(channel)}`);
      if (this.position === null) this.#restart(await this.database.snapshot(client));
      await this.#read(); // what happened while nobody listened
      if (this.#closed) throw new Error("presence: closed");
      this.#failures = 0;
      this.#poll = setInterval(() => {
        this.#wake();
        // Its end may not have been announced: there is no worker, or the announcement was lost.
        for (const [name, { users }] of this.#typing) if (users?.length !== 0) this.typingChanged(name);
      }, this.pollInterval);
      this.#poll.unref?.();
      this.#tell(true);
    } catch (error) {
      this.#lost(client, error);
      throw error;
    }
  }

  #lost(client: pg.Client, error: unknown): void {
    if (this.#client !== client) return;
    this.#client = undefined;
    this.#tell(false);
    clearInterval(this.#poll);
    client.end().catch(() => {});
    if (this.#closed) return;
    if (error !== null) this.report(error);
    this.#retry = setTimeout(() => void this.#connect().catch(() => {}), backoff(++this.#failures, 250, 5_000));
    this.#retry.unref?.();
  }

  /** A look is due. Any number of wake-ups during one look, or soon after one that found something, make one more. */
  #wake(): void {
    const rest = this.#restUntil - performance.now();
    if (this.#reading !== undefined) {
      this.#again = true;
    } else if (rest > 0) {
      this.#due ??= setTimeout(() => {
        this.#due = undefined;
        this.#wake();
      }, rest);
      this.#due.unref?.();
    } else {
      this.#read().catch(() => {});
    }
  }

  #tell(connected: boolean): void {
    if (this.connected === connected) return;
    this.connected = connected;
    for (const listener of [...this.#listeners]) listener.connected(connected);
  }

  #read(): Promise<void> {
    if (this.#reading !== undefined) return this.#reading;
    const client = this.#client;
    if (client === undefined) return Promise.reject(new Error("presence: no connection to the database"));
    const reading = this.#readAll(client)
      .catch((error) => {
        this.#lost(client, error);
        throw error;
      })
      .finally(() => {
        this.#reading = undefined;
        const again = this.#again;
        this.#again = false;
        if (again) this.#wake();
      });
    return (this.#reading = reading);
  }

  async #readAll(client: pg.Client): Promise<void> {
    while (this.position !== null) {
      const { seq } = this.position;
      const page = await this.database.changesSince(client, seq, PAGE);
      // Retention passed us, the feed is another one than it was (restored, made anew), or a storm has gone through it.
      if (page === null || !maybeSameFeed(this.position, page.end) || page.end.seq - seq > this.mostChanges) {
        this.#restart(await this.database.snapshot(client));
        continue;
      }
      const { events, end } = page;
      const last = events.at(-1);
      if (last === undefined) return;
      this.position = { seq: last.seq, epoch: end.epoch ?? null };
      this.#restUntil = performance.now() + GATHER;
      for (const listener of [...this.#listeners]) listener.changes(page);
      if (events.length < PAGE) return;
    }
  }

  #restart(snapshot: PresenceSnapshot): void {
    this.position = { seq: snapshot.seq, epoch: snapshot.epoch ?? null };
    for (const listener of [...this.#listeners]) listener.snapshot(snapshot);
  }
}

function roomIn(payload: string): string {
  try {
    const { room } = JSON.parse(payload) as { room?: unknown };
    return typeof room === "string" ? room : "";
  } catch {
    return ""; // no room's name
  }
}
