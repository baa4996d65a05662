import { Activity } from "./core/activity.js";
import { backoff } from "./core/backoff.js";
import { ChangeFeed } from "./core/changeFeed.js";
import { resultOf, type CleanupResult } from "./core/cleanup.js";
import { Emitter } from "./core/emitter.js";
import type { BeatResult } from "./core/heartbeatLoop.js";
import { HttpTransport } from "./core/httpTransport.js";
import { settingsOf, type PresenceOptions, type Settings } from "./core/options.js";
import { Page } from "./core/page.js";
import { Roster } from "./core/roster.js";
import { Room, type RoomState } from "./core/room.js";
import { Session } from "./core/session.js";
import { sharedFollow } from "./core/sharedStream.js";
import { ChosenStatus } from "./core/chosenStatus.js";
import { OwnMetadata } from "./core/ownMetadata.js";
import { EMPTY_STATE, type PresenceEvents, type PresenceState } from "./core/state.js";
import type { PresenceError, PresenceTransport } from "./core/transport.js";
import type {
  ChoosableStatus,
  ConnectionStatus,
  Metadata,
  MetadataPatch,
  PresenceEvent,
  PresenceSnapshot,
  PresenceStatus,
  PresenceUser,
  UserPresence,
} from "./core/types.js";
import { WallTimer } from "./core/wallTimer.js";

/** A room that this tab can be in. */
export interface PresenceRoom<M extends object = Metadata> {
  readonly name: string;
  readonly state: RoomState<M>;
  /**
   * Is in the room, with what the user says there, until all that have called this have called what it returns; learns meanwhile who
   * else is. The service's event `state` tells of changes.
   */
  enter(metadata?: M): () => void;
  /** Says that the user is typing: call it at each key. It is passed on every few seconds, and ends by itself. False: no longer. */
  setTyping(typing?: boolean): void;
}

/**
 * One tab's presence: says that its user is here, says goodbye, and knows who else is.
 *
 *     const presence = new PresenceService({ userId: "ada" });
 *     presence.on("state", ({ activeUsers }) => show(activeUsers));
 *     presence.start();
 */
export class PresenceService<M extends object = Metadata> {
  readonly #settings: Settings;
  readonly #transport: PresenceTransport;
  readonly #events = new Emitter<PresenceEvents<M>>();
  readonly #roster = new Roster();
  readonly #rooms = new Map<string, Room>();
  readonly #session: Session;
  readonly #feed: ChangeFeed;
  readonly #activity: Activity;
  readonly #page: Page;

  #started = false;
  #wanted = false; // the user is to count as online here
  #unauthorized = false;
  #refusals = 0;
  readonly #renewal: WallTimer;
  #everOnline = false;
  readonly #chosen: ChosenStatus;
  readonly #metadata: OwnMetadata;
  #changes = 0;
  #lingering: ReturnType<typeof setTimeout> | undefined;
  #state: PresenceState<M> = EMPTY_STATE;
  #stateDue = false;
  #roomsDue = false;
  #lastConnection: ConnectionStatus = "stopped";
  #lastStatus: PresenceStatus;

  constructor(options: PresenceOptions<M>) {
    const settings = (this.#settings = settingsOf(options as PresenceOptions<never>));
    this.#transport = settings.transport ?? new HttpTransport();
    const { retryBase, retryMax, wakeCheckInterval: hop } = settings;

    this.#chosen = new ChosenStatus({
      transport: settings.userId === "" ? undefined : this.#transport.status,
      userId: settings.userId,
      ready: () => this.#started && !this.#unauthorized && !this.#page.gone,
      joined: () => this.#session.joined,
      changed: () => this.#statusChanged(),
      failed: (error) => this.#failed(error),
    });
    this.#metadata = new OwnMetadata(settings.userId, settings.metadata);
    this.#session = new Session({
      transport: this.#transport,
      userId: settings.userId,
      metadata: () => this.#metadata.value,
      interval: () => (this.#page.hidden ? settings.hiddenHeartbeatInterval : settings.heartbeatInterval),
      status: () => this.#activity.status,
      inactiveFor: () => (globalThis.window === undefined ? null : this.#activity.quiet),
      beaten: (result, recovered) => this.#beaten(result, recovered),
      retryBase,
      retryMax,
      hop,
    });
    this.#feed = new ChangeFeed({
      follow: sharedFollow(this.#transport, settings.userId, settings.silenceLimit),
      roster: this.#roster,
      loaded: (list, again) => {
        const snapshot = list as PresenceSnapshot<M>;
        for (const room of this.#rooms.values()) room.forget();
        this.#events.emit("snapshot", snapshot);
        if (again) {
          this.#chosen.ask();
          this.#events.emit("resync", snapshot);
        }
        this.#refresh();
      },
      changed: (event) => {
        this.#changes++;
        if (event.user_id === settings.userId && this.#tellsOfChoice(event)) this.#chosen.ask();
        if (event.room == null) for (const room of this.#rooms.values()) room.apply(event);
        else this.#rooms.get(event.room)?.apply(event);
        // Where he was invisible, he was in no room.
        if (event.user_id === settings.userId && event.event === "user_online")
          for (const room of this.#rooms.values()) room.join();
        this.#events.emit("change", event as PresenceEvent<M>);
        this.#refresh();
      },
      rooms: () => this.#wantedRooms().map((room) => room.followedAs()),
      room: (list) => this.#rooms.get(list.room)?.load(list),
      forbidden: (name) => this.#rooms.get(name)?.forbid(),
      typing: (name, users) => this.#rooms.get(name)?.type(users),
      failed: (error) => this.#failed(error),
      switched: () => {
        if (this.#feed.open) {
          this.#refusals = 0;
          this.#chosen.reached();
        } else for (const room of this.#rooms.values()) room.silence();
        this.#refresh();
      },
      silence: settings.silenceLimit,
      retryBase,
      retryMax,
      hop,
    });
    this.#renewal = new WallTimer(() => void this.#renew(false), hop);
    this.#activity = new Activity(settings, () => this.#activityChanged(), hop);
    this.#lastStatus = this.#status();
    this.#page = new Page({
      closed: () => this.#close(),
      hidden: () => this.#hide(),
      shown: () => {
        this.#activity.touch();
        if (!this.#page.gone) this.#wake();
      },
      woken: () => this.#wake(),
      networkLost: () => this.#networkLost(),
    });
  }

  get userId(): string {
    return this.#settings.userId;
  }

  get sessionId(): string {
    return this.#session.id;
  }

  get state(): PresenceState<M> {
    return this.#state;
  }

  /** As far as this page knows: of everybody it may see. Costs the same however many are online. */
  isOnline(user: string): boolean {
    return this.#roster.has(user);
  }

  /** One user who is online, as far as this page knows. Costs the same however many are. */
  user(id: string): PresenceUser<M> | undefined {
    return this.#roster.get(id) as PresenceUser<M> | undefined;
  }

  get onlineCount(): number {
    return this.#roster.size;
  }

  /** The room of that name: the same object each time. */
  room<R extends object = Metadata>(name: string): PresenceRoom<R> {
    let room = this.#rooms.get(name);
    if (room === undefined) {
      if (this.#transport.rooms === undefined) throw new Error("presence: this transport knows no rooms");
      room = new Room(name, {
        transport: this.#transport,
        userId: this.#settings.userId,
        session: () => (this.#session.joined ? this.#session.id : null),
        changed: () => this.#refresh(),
        followed: () => this.#roomsChanged(),
        failed: (error) => this.#failed(error),
        retryBase: this.#settings.retryBase,
        retryMax: this.#settings.retryMax,
      });
      this.#rooms.set(name, room);
    }
    return room as unknown as PresenceRoom<R>;
  }

  on<Name extends keyof PresenceEvents<M>>(
    name: Name,
    listener: (payload: PresenceEvents<M>[Name]) => void,
  ): () => void {
    return this.#events.on(name, listener);
  }

  start(): void {
    if (this.#started) return;
    this.#started = true;
    this.#page.start();
    this.#chosen.start();
    if (globalThis.window !== undefined) this.#activity.start();
    this.#follow();
    if (this.#settings.autoJoin) this.join();
    this.#refresh();
  }

  /** Says goodbye and leaves no timer, no listener and no connection behind. */
  stop(): void {
    if (!this.#started) return;
    this.leave();
    this.#started = false;
    this.#page.stop();
    this.#chosen.stop();
    this.#activity.stop();
    this.#feed.stop();
    for (const room of this.#rooms.values()) room.stop();
    this.#renewal.clear();
    clearTimeout(this.#lingering);
    this.#unauthorized = false;
    this.#everOnline = false;
    this.#refresh();
  }

  /** Counts as online from now on. While `unauthorized`: somebody has signed in, try again. */
  join(): void {
    if (!this.#started) return;
    if (this.#unauthorized) {
      this.#wanted = true;
      this.#resume();
    } else if (!this.#wanted) {
      this.#wanted = true;
      this.#beatNow();
    }
    this.#refresh();
  }

  /** Goes offline here and now, but keeps watching. */
  leave(): void {
    this.#wanted = false;
    this.#session.end();
    this.#refresh();
  }

  /**
   * A status of the user's own choice, in all tabs and on all devices, until a time or until changed; null: from input again.
   * Survives a reload; what the server could not be told is said when it can be reached.
   */
  setStatus(status: ChoosableStatus | null, { until, message }: { until?: Date; message?: string } = {}): void {
    this.#chosen.choose({ status, until: until?.toISOString() ?? null, message: message ?? null });
  }

  /** Adds to what others see of this tab's user, key by key; null removes one. Survives a reload of the tab. */
  setMetadata(patch: MetadataPatch<M>): void {
    if (!this.#metadata.merge(patch)) return;
    this.#beatNow();
    this.#refresh();
  }

  /** For admins: ends stale sessions now. Never rejects. */
  triggerCleanup(): Promise<CleanupResult> {
    return resultOf(this.#transport.cleanup());
  }

  /** A friend list: each asked-for user, online or not, with `last_seen`. */
  async lookUp(users: readonly string[]): Promise<UserPresence<M>[]> {
    return (await this.#transport.lookUp(users)) as UserPresence<M>[];
  }

  // ---- what happens here

  #beaten(result: BeatResult, recovered: boolean): void {
    if (result.ok) {
      this.#refusals = 0;
      this.#chosen.reached();
      for (const room of this.#rooms.values()) {
        if (recovered) room.doubt();
        room.join();
      }
      this.#events.emit("heartbeat", { online: result.online, latency: result.latency });
    } else {
      this.#failed(result.error);
    }
    // The way to the server was cut and is open again. The feed may hang in the old, dead connection.
    if (recovered && this.#feed.running) this.#feed.reopen();
    this.#refresh();
  }

  #failed(error: PresenceError): void {
    this.#events.emit("error", error);
    if (!error.unauthorized || !this.#started || this.#unauthorized) return;
    this.#unauthorized = true;
    // Where somebody else is signed in, the user has left. Where nobody is, his token may only have to be renewed.
    if (error.status === 401) this.#session.pause();
    else this.#session.end();
    this.#feed.stop();
    this.#awaitRenewal();
    this.#refresh();
  }

  /** No request, only a look at what the next one would be signed with. */
  #awaitRenewal(): void {
    const { retryBase, retryMax } = this.#settings;
    // Headers that differ each time are new each time, and must not be tried faster than any other failure.
    this.#renewal.set(backoff(++this.#refusals, retryBase, retryMax));
  }

  /** `looked`: somebody is here, who may have signed in meanwhile; where nobody else can tell, the server is asked once. */
  async #renew(looked: boolean): Promise<void> {
    const renewed = await (this.#transport.renewed?.() ?? Promise.resolve(null)).catch(() => false);
    if (!this.#unauthorized) return;
    if (renewed ?? looked) this.#resume();
    else if (renewed !== null) this.#awaitRenewal();
  }

  #resume(): void {
    this.#unauthorized = false;
    this.#renewal.clear();
    this.#beatNow();
    this.#follow();
    this.#refresh();
  }

  #beatNow(): void {
    if (this.#wanted && !this.#page.gone && !this.#unauthorized) this.#session.beatNow();
  }

  /** A tab in the background does not need the list before it is looked at. */
  #follow(): void {
    if (!this.#page.gone && (!this.#page.hidden || this.#settings.hiddenFeedLinger === Infinity)) this.#feed.start();
  }

  #wantedRooms(): Room[] {
    return [...this.#rooms.values()].filter(({ wanted }) => wanted);
  }

  /** The stream is opened anew once, however many rooms are entered and left in one turn. */
  #roomsChanged(): void {
    if (this.#roomsDue) return;
    this.#roomsDue = true;
    queueMicrotask(() => {
      this.#roomsDue = false;
      if (this.#feed.running) this.#feed.reopen();
    });
  }

  #status(): PresenceStatus {
    const { status } = this.#chosen.choice;
    return status === null || status === "invisible" ? this.#activity.status : status;
  }

  /** Whether the user seems to have chosen something elsewhere. Most of what a feed tells of him does not: to ask each time costs requests. */
  #tellsOfChoice({ event, details: { status, message } }: PresenceEvent): boolean {
    if (event !== "update") return event === "user_online" || event === "user_offline";
    const { choice } = this.#chosen;
    if ((message ?? null) !== choice.message) return true;
    return choice.status === null ? status === "busy" || status === "away" : status !== choice.status;
  }

  #activityChanged(): void {
    this.#statusChanged();
    this.#beatNow();
  }

  #statusChanged(): void {
    const status = this.#status();
    this.#refresh();
    if (status === this.#lastStatus) return; // input, under a status of the user's own choice
    this.#lastStatus = status;
    this.#events.emit("status", status);
  }

  #close(): void {
    this.#session.end();
    this.#feed.stop(); // an open connection would keep the page out of the back/forward cache
  }

  #wake(): void {
    clearTimeout(this.#lingering);
    this.#chosen.look(); // nobody told us while we were frozen
    if (this.#unauthorized) return void this.#renew(true);
    this.#chosen.ask();
    for (const room of this.#rooms.values()) room.doubt(); // the session may have ended while we slept
    if (this.#wanted) this.#session.restart();
    if (!this.#page.hidden || this.#feed.running) this.#feed.reopen();
    this.#refresh();
  }

  /** So says the browser; whether it is so for us, a try will tell. */
  #networkLost(): void {
    if (this.#page.gone || this.#unauthorized) return;
    if (this.#wanted) this.#session.restart();
    else if (this.#feed.running) this.#feed.reopen();
    this.#refresh();
  }

  #hide(): void {
    if (this.#page.gone) return;
    // At once, because this one tells the server to expect the longer interval.
    this.#beatNow();
    clearTimeout(this.#lingering);
    if (Number.isFinite(this.#settings.hiddenFeedLinger)) {
      this.#lingering = setTimeout(() => {
        this.#feed.stop();
        this.#refresh();
      }, this.#settings.hiddenFeedLinger);
    }
  }

  // ---- what others see of all this

  #connection(): ConnectionStatus {
    if (!this.#started) return "stopped";
    if (this.#unauthorized) return "unauthorized";
    const heartbeatsFine = !this.#wanted || this.#session.beat === "ok";
    const feedFine = !this.#feed.running || this.#feed.open;
    if (heartbeatsFine && feedFine && !this.#page.gone) {
      this.#everOnline = true;
      return "online";
    }
    // Says why nothing works, but not that nothing does: a page may well reach a server without what the browser calls a network.
    if (globalThis.navigator?.onLine === false) return "offline";
    return this.#everOnline ? "reconnecting" : "connecting";
  }

  /** Once per turn of the event loop, however much happened in it. */
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
    const roster = this.#roster;
    const { status: chosenStatus, until: statusUntil, message: statusMessage } = this.#chosen.choice;
    let users: readonly PresenceUser[] | undefined;
    this.#state = {
      get activeUsers() {
        return (users ??= roster.users) as readonly PresenceUser<M>[];
      },
      isConnected: connection === "online",
      connection,
      status: this.#status(),
      chosenStatus,
      statusUntil,
      statusMessage,
      joined: this.#session.joined,
      stats: {
        ...roster.counts,
        ...this.#session.counters,
        changes: this.#changes,
        reconnects: this.#feed.reconnects,
        seq: roster.position?.seq ?? null,
      },
      lastSeen: roster.lastSeen,
    };
    if (connection !== this.#lastConnection) {
      this.#lastConnection = connection;
      this.#events.emit("connection", connection);
    }
    this.#events.emit("state", this.#state);
  }
}
