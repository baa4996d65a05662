import type { FeedPosition } from "./feedPosition.js";
import type {
  ChoosableStatus,
  Heartbeat,
  Metadata,
  PresenceEvent,
  PresenceSnapshot,
  RoomRequest,
  RoomSnapshot,
  StatusChoice,
  UserPresence,
} from "./types.js";

/** What the service needs from the other side. Two are included: HttpTransport (our endpoints) and RpcTransport (a JSON-RPC gateway). */
export interface PresenceTransport {
  /** True: the session is online now. False: ignored, because it was ended on purpose a moment ago. */
  heartbeat(beat: Heartbeat, signal: AbortSignal): Promise<boolean>;
  /** Says goodbye. Must work while the page is being torn down: it hands the message over and returns. */
  leave(user: string, session: string): void;
  /**
   * Follows the feed after `since` (null: from a snapshot) until the signal or the connection ends. Once `opened`, it is complete up to
   * a moment after the call. `user`: whom the page speaks for; a server that knows somebody else refuses.
   */
  follow(
    since: FeedPosition | null,
    sink: FeedSink,
    signal: AbortSignal,
    rooms?: readonly FollowedRoom[],
    user?: string,
  ): Promise<void>;
  /** Tabs of one user whose transports say the same here follow the feed by one stream. Undefined: each has its own. */
  readonly shared?: string | undefined;
  /**
   * Asked while the server says that we are not who we say: whether the next request would be signed otherwise than the one that
   * was refused. Null, or no such function: nobody can tell but the server.
   */
  renewed?(): Promise<boolean | null>;
  /** What concerns rooms; a transport may lack it. */
  rooms?: RoomTransport;
  /** What a person chooses to be shown as; a transport may lack it. */
  status?: StatusTransport;
  lookUp(users: readonly string[]): Promise<UserPresence[]>;
  /** Ends stale sessions now, if the viewer may; how many users went offline. */
  cleanup(): Promise<number>;
}

export interface RoomTransport {
  /** True: in the room. False: ignored, because the session was ended on purpose a moment ago. */
  join(request: RoomRequest & { metadata?: Metadata }): Promise<boolean>;
  leave(request: RoomRequest): Promise<void>;
  setTyping(request: RoomRequest & { typing: boolean }): Promise<void>;
}

/** Both say what is chosen now. */
export interface StatusTransport {
  /** `online` false: others see the user as offline. To a server that may not know who is invisible, those have chosen nothing. */
  read(user: string): Promise<StatusChoice & { online?: boolean }>;
  choose(user: string, choice: StatusChoice): Promise<StatusChoice>;
}

export interface FollowedRoom {
  room: string;
  /** Its list is known as of `since`; else it has to be sent. */
  known: boolean;
}

export interface FeedSink {
  /** The connection stands and is complete up to now. */
  opened(): void;
  /** The connection stands, but what is behind it is away; `opened` follows. */
  lost(): void;
  /** The server is about to end the connection, and nothing is wrong: another one is due. */
  renew(): void;
  /** Any sign of life, keep-alive comments included. */
  alive(): void;
  /** The list as a whole: at the beginning, where the feed cannot continue from our position, or where we missed too much. */
  snapshot(snapshot: PresenceSnapshot): void;
  change(event: PresenceEvent): void;
  /** The list of a followed room; what happens there comes as changes. */
  room(list: RoomSnapshot): void;
  /** The user may not enter that room. */
  forbidden(room: string): void;
  /** Who is typing there, from now on. */
  typing(room: string, users: readonly string[]): void;
  /** Nothing before this concerns us. */
  position(position: FeedPosition): void;
}

/** The code of an answer to somebody who is signed in, but not as the user whom the page speaks for. */
export const OTHER_USER = "other_user";

/** The code of an answer about a room that the user may not enter. */
export const CLOSED_ROOM = "closed_room";

export function isChoosable(status: unknown): status is ChoosableStatus {
  return status === "busy" || status === "away" || status === "invisible";
}

/** An answer that says no. `status` is 0 where there was no answer at all. */
export class PresenceError extends Error {
  override name = "PresenceError";
  constructor(
    message: string,
    readonly status: number,
    /** Milliseconds the server asks to wait. */
    readonly retryAfter: number | null = null,
    /** What the answer calls it. */
    readonly code: string | null = null,
  ) {
    super(message);
  }

  /** Nobody is signed in, or somebody else: to ask again is of no use before that changes. */
  get unauthorized(): boolean {
    return this.status === 401 || this.code === OTHER_USER;
  }

  /** Whatever was thrown, as one of these. */
  static of(thrown: unknown): PresenceError {
    return thrown instanceof PresenceError ? thrown : new PresenceError(String(thrown), 0);
  }
}

export type RequestHeaders = Record<string, string>;
export type HeaderSource = RequestHeaders | (() => RequestHeaders | Promise<RequestHeaders>);

/** A server, or a proxy before it, that asks for more (ms) would keep a page offline for a mistake of its own. */
const LONGEST_WAIT = 5 * 60_000;

/** Turns an answer that says no into a PresenceError. */
export async function refuseUnlessOk(response: Response): Promise<Response> {
  if (response.ok) return response;
  const text = (await response.text()).slice(0, 300);
  const seconds = Number(response.headers.get("retry-after"));
  throw new PresenceError(
    `${response.status} ${text}`.trim(),
    response.status,
    seconds > 0 ? Math.min(seconds * 1000, LONGEST_WAIT) : null,
    codeIn(text),
  );
}

function codeIn(text: string): string | null {
  try {
    const { code } = JSON.parse(text) as { code?: unknown };
    return typeof code === "string" ? code : null;
  } catch {
    return null;
  }
}

/** fetch() of a JSON answer within a time limit. Whatever goes wrong is a PresenceError. */
export async function fetchJson(url: string, init: RequestInit, timeout: number): Promise<unknown> {
  const limit = new AbortController();
  const stop = () => limit.abort();
  const timer = setTimeout(stop, timeout);
  init.signal?.addEventListener("abort", stop);
  if (init.signal?.aborted) stop();
  try {
    const response = await fetch(url, { cache: "no-store", credentials: "include", ...init, signal: limit.signal });
    return await (await refuseUnlessOk(response)).json();
  } catch (error) {
    if (error instanceof PresenceError) throw error;
    throw new PresenceError(limit.signal.aborted ? `no answer within ${timeout} ms` : String(error), 0);
  } finally {
    clearTimeout(timer);
    init.signal?.removeEventListener("abort", stop);
  }
}
