import { backoff } from "./backoff.js";
import type { FeedPosition } from "./feedPosition.js";
import {
  PresenceError,
  CLOSED_ROOM,
  type FollowedRoom,
  type PresenceTransport,
  type RoomTransport,
} from "./transport.js";
import type { Metadata, PresenceEvent, RoomSnapshot, RoomUser } from "./types.js";

/** Everything a view of a room shows; replaced as a whole when something changes. */
export interface RoomState<M extends object = Metadata> {
  /** Newest first. */
  readonly users: readonly RoomUser<M>[];
  count: number;
  /** The server counts this tab as in the room. */
  joined: boolean;
  /** The list has arrived. */
  loaded: boolean;
  /** The user may not enter. */
  forbidden: boolean;
  /** Who else is typing, longest first. */
  typing: readonly string[];
}

const NOBODY: readonly string[] = [];

export const EMPTY_ROOM: RoomState<never> = {
  users: [],
  count: 0,
  joined: false,
  loaded: false,
  forbidden: false,
  typing: NOBODY,
};

/** A component that unmounts and mounts again this soon (ms) never left. */
const LINGER = 250;
/** Typing is said again after this long (ms), half of what the server lets it last. */
const TYPING_AGAIN = 3_000;

export interface RoomOptions {
  transport: PresenceTransport;
  userId: string;
  /** Null: no heartbeat of it has been answered, so it cannot be anywhere. */
  session: () => string | null;
  /** Something that a view shows has changed. */
  changed: () => void;
  /** Other rooms are to be followed than before. */
  followed: () => void;
  failed: (error: PresenceError) => void;
  retryBase: number;
  retryMax: number;
}

/** One room, as long as somebody in this tab wants to be in it. */
export class Room {
  #holders = 0;
  #wanted = false;
  #leaving: ReturnType<typeof setTimeout> | undefined;
  #metadata: Metadata | undefined;
  #joinedAs: string | null = null;
  #doubtful = false;
  #joining = false;
  #again = false;
  #failures = 0;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #position: FeedPosition | null = null; // of the list; null: it has to be sent
  #loaded = false;
  #users = new Map<string, RoomUser>(); // who came last is last
  #forbidden = false;
  #typing = NOBODY;
  #typed = -Infinity;
  #state: RoomState | null = EMPTY_ROOM;

  constructor(
    readonly name: string,
    private readonly options: RoomOptions,
  ) {}

  /** Is in the room until all that have called this have called what it returns. */
  enter(metadata?: Metadata): () => void {
    clearTimeout(this.#leaving);
    if (metadata !== undefined && JSON.stringify(metadata) !== JSON.stringify(this.#metadata)) {
      this.#metadata = metadata;
      this.#joinedAs = null;
    }
    if (this.#holders++ === 0 && !this.wanted) {
      this.#wanted = true;
      this.options.followed();
    }
    this.join();
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      if (--this.#holders === 0) this.#leaving = setTimeout(() => this.#leave(), LINGER);
    };
  }

  get wanted(): boolean {
    return this.#wanted;
  }

  get state(): RoomState {
    if (this.#state === null) {
      const users = this.#users;
      let list: readonly RoomUser[] | undefined;
      this.#state = {
        get users() {
          return (list ??= [...users.values()].reverse());
        },
        count: users.size,
        joined: this.#joinedAs !== null && this.#joinedAs === this.options.session(),
        loaded: this.#loaded,
        forbidden: this.#forbidden,
        typing: this.#typing,
      };
    }
    return this.#state;
  }

  /** Says that the user is typing: call it at each key, it is passed on every few seconds, and ends by itself without. False: no longer. */
  setTyping(typing = true): void {
    const { transport, userId } = this.options;
    const session = this.options.session();
    const since = Date.now() - this.#typed;
    if (session === null || this.#forbidden || (typing ? since < TYPING_AGAIN : since >= 2 * TYPING_AGAIN)) return;
    this.#typed = typing ? Date.now() : -Infinity;
    transport.rooms
      ?.setTyping({ user_id: userId, session_id: session, room: this.name, typing })
      .catch((error: unknown) => this.options.failed(PresenceError.of(error)));
  }

  // ---- what the service tells

  /** The session may no longer be where it was: join again. */
  doubt(): void {
    this.#doubtful = true;
  }

  stop(): void {
    clearTimeout(this.#retry);
    this.silence();
    this.#changed();
  }

  join(): void {
    const { transport, userId, retryBase, retryMax } = this.options;
    const session = this.options.session();
    if (!this.#wanted || session === null || this.#forbidden || (session === this.#joinedAs && !this.#doubtful)) return;
    if (this.#joining) {
      this.#again = true;
      return;
    }
    clearTimeout(this.#retry);
    this.#joining = true;
    this.#doubtful = false;
    const metadata = this.#metadata;
    (transport.rooms as RoomTransport)
      .join({ user_id: userId, session_id: session, room: this.name, ...(metadata && { metadata }) })
      .then(
        (joined) => {
          this.#failures = 0;
          // It may have been for a session, or with metadata, that is no more.
          if (session !== this.options.session()) return;
          if (!joined) this.#joinedAs = null;
          else if (metadata === this.#metadata) this.#joinedAs = session;
        },
        (thrown: unknown) => {
          const error = PresenceError.of(thrown);
          if (error.code === CLOSED_ROOM) return this.forbid();
          const pause = Math.max(backoff(++this.#failures, retryBase, retryMax), error.retryAfter ?? 0);
          this.#retry = setTimeout(() => this.join(), pause);
          this.options.failed(error);
        },
      )
      .finally(() => {
        this.#joining = false;
        if (!this.#wanted && this.#joinedAs !== null) this.#sayLeave();
        else if (this.#again) this.join();
        this.#again = false;
        this.#changed();
      });
  }

  followedAs(): FollowedRoom {
    return { room: this.name, known: this.#position !== null };
  }

  /** Nothing is known any more of who is typing. */
  silence(): void {
    if (this.#typing.length === 0) return;
    this.#typing = NOBODY;
    this.#changed();
  }

  load(list: RoomSnapshot): void {
    this.#position = { seq: list.seq, epoch: list.epoch ?? null };
    this.#users = new Map([...list.users].reverse().map((user) => [user.user_id, user]));
    this.#loaded = true;
    this.#forbidden = false;
    this.#changed();
  }

  /** The feed starts over, perhaps as another one: the list comes again. */
  forget(): void {
    this.#position = null;
  }

  forbid(): void {
    this.#forbidden = true;
    this.#position = null; // once it is open again, the list has to come
    this.#loaded = false;
    this.#users = new Map();
    this.#typing = NOBODY;
    this.#joinedAs = null;
    this.#changed();
  }

  type(users: readonly string[]): void {
    const others = users.filter((user) => user !== this.options.userId);
    if (others.join("\n") === this.#typing.join("\n")) return;
    this.#typing = others;
    this.#changed();
  }

  apply({ seq, at, event, room, user_id, sessions, details }: PresenceEvent): void {
    // Changes that come before the list are in it.
    if (this.#position === null || seq <= this.#position.seq) return;
    const old = this.#users.get(user_id);
    let user = old;
    if (room == null) {
      if (old !== undefined && details.status !== undefined) user = { ...old, status: details.status };
    } else {
      this.#position = { ...this.#position, seq };
      if (event === "room_leave") {
        user = undefined;
        // We did not ask for it: the user has become invisible, or is back meanwhile.
        if (user_id === this.options.userId) {
          this.doubt();
          this.join();
        }
      } else {
        if (event === "room_join") this.#users.delete(user_id); // to the end of the order
        const before = event === "room_join" ? undefined : old;
        user = {
          user_id,
          status: details.status ?? old?.status ?? "active",
          sessions: sessions ?? old?.sessions ?? 1,
          entered_at: before?.entered_at ?? at,
          metadata: details.metadata ?? (details.metadata === undefined ? (before?.metadata ?? null) : null),
        };
      }
    }
    if (user === old || (old !== undefined && JSON.stringify(user) === JSON.stringify(old) && this.#users.has(user_id)))
      return;
    if (user === undefined) this.#users.delete(user_id);
    else this.#users.set(user_id, user);
    this.#changed();
  }

  #leave(): void {
    if (this.#holders > 0) return;
    this.#wanted = false;
    clearTimeout(this.#retry);
    this.#position = null;
    this.#loaded = false;
    this.#users = new Map();
    this.#typing = NOBODY;
    this.#forbidden = false;
    this.options.followed();
    if (this.#joinedAs !== null) this.#sayLeave();
    this.#changed();
  }

  #sayLeave(): void {
    const session = this.#joinedAs;
    this.#joinedAs = null;
    // Of another session nothing is left to leave.
    if (session === null || session !== this.options.session()) return;
    this.options.transport.rooms
      ?.leave({ user_id: this.options.userId, session_id: session, room: this.name })
      .catch((error: unknown) => this.options.failed(PresenceError.of(error)));
  }

  #changed(): void {
    this.#state = null;
    this.options.changed();
  }
}
