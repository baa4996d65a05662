import { backoff } from "./backoff.js";
import type { Roster } from "./roster.js";
import { PresenceError, type FeedSink, type FollowedRoom, type PresenceTransport } from "./transport.js";
import type { PresenceEvent, PresenceSnapshot, RoomSnapshot } from "./types.js";
import { WallTimer } from "./wallTimer.js";

export interface ChangeFeedOptions {
  follow: PresenceTransport["follow"];
  roster: Roster;
  /** The list was replaced as a whole. `again`: we had one, and changes after it were left out. */
  loaded: (snapshot: PresenceSnapshot, again: boolean) => void;
  /** One change was applied to the list. */
  changed: (event: PresenceEvent) => void;
  rooms: () => FollowedRoom[];
  room: (list: RoomSnapshot) => void;
  forbidden: (room: string) => void;
  typing: (room: string, users: readonly string[]) => void;
  failed: (error: PresenceError) => void;
  /** `open` has another value now. */
  switched: () => void;
  /** Silence for this long (ms) means a dead connection: nobody else would tell us for minutes. */
  silence: number;
  retryBase: number;
  retryMax: number;
  hop: number;
}

/** Keeps the roster in step with the server: connects, continues after the last position, and starts over when it has to. */
export class ChangeFeed {
  open = false;
  reconnects = 0;
  #connection: AbortController | undefined;
  #watch: WallTimer;
  #retry: WallTimer;
  #failures = 0;

  constructor(private readonly options: ChangeFeedOptions) {
    this.#watch = new WallTimer(() => this.#connection?.abort(), options.hop);
    this.#retry = new WallTimer(() => this.#connect(), options.hop);
  }

  get running(): boolean {
    return this.#connection !== undefined;
  }

  start(): void {
    if (this.#connection === undefined) this.#connect();
  }

  stop(): void {
    this.#retry.clear();
    this.#watch.clear();
    const connection = this.#connection;
    this.#connection = undefined;
    connection?.abort();
    this.#failures = 0;
    this.#setOpen(false);
  }

  /**
   * Makes a new connection, whatever the present one looks like. `open` keeps its value until the new one stands or has
   * failed, so that a look at another tab and back does not make the connection light blink.
   */
  reopen(): void {
    const old = this.#connection;
    this.#retry.clear();
    this.#failures = 0;
    this.#connect();
    old?.abort();
  }

  #connect(): void {
    const connection = (this.#connection = new AbortController());
    const { follow, roster, silence } = this.options;
    const current = () => this.#connection === connection && !connection.signal.aborted;

    const sink: FeedSink = {
      alive: () => {
        if (current()) this.#watch.set(silence);
      },
      opened: () => {
        if (!current()) return;
        this.#failures = 0;
        this.#setOpen(true);
      },
      lost: () => {
        if (current()) this.#setOpen(false);
      },
      renew: () => {
        if (current()) this.reopen();
      },
      snapshot: (snapshot) => {
        if (!current()) return;
        const again = roster.position !== null;
        roster.load(snapshot);
        this.options.loaded(snapshot, again);
      },
      change: (event) => {
        if (current() && roster.apply(event)) this.options.changed(event);
      },
      room: (list) => {
        if (current()) this.options.room(list);
      },
      forbidden: (room) => {
        if (current()) this.options.forbidden(room);
      },
      typing: (room, users) => {
        if (current()) this.options.typing(room, users);
      },
      position: (position) => {
        if (current()) roster.advance(position);
      },
    };

    this.#watch.set(silence);
    void follow(roster.position, sink, connection.signal, this.options.rooms())
      .catch((error: unknown) => PresenceError.of(error))
      .then((error) => {
        if (this.#connection !== connection) return;
        const silent = connection.signal.aborted;
        connection.abort(); // a transport that failed halfway must not go on
        this.#watch.clear();
        this.reconnects++;
        this.#failures++;
        const problem = silent ? null : (error ?? null);
        this.#retry.set(
          Math.max(backoff(this.#failures, this.options.retryBase, this.options.retryMax), problem?.retryAfter ?? 0),
        );
        this.#setOpen(false);
        if (problem !== null) this.options.failed(problem);
      });
  }

  #setOpen(open: boolean): void {
    if (this.open === open) return;
    this.open = open;
    this.options.switched();
  }
}
