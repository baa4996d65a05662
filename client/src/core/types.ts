import type { FeedPosition } from "./feedPosition.js";

/**
 * What travels between page, endpoints and database. The names are those of the SQL contract, so that a row of
 * `get_active_users()` is the same thing in psql, in a JSON-RPC gateway and in a component.
 */

export type PresenceStatus = "active" | "busy" | "idle" | "away";

/** What a person may choose to be shown as, whatever his sessions say. `invisible`: as offline. */
export type ChoosableStatus = "busy" | "away" | "invisible";

export interface StatusChoice {
  /** Null: what the sessions say. */
  status: ChoosableStatus | null;
  /** When it is over; null: it lasts. */
  until: string | null;
  message: string | null;
}

export type Metadata = Record<string, unknown>;

/** Keys to replace; null removes one. */
export type MetadataPatch<M extends object> = { [Key in keyof M]?: M[Key] | null };

/** One user who is online. */
export interface PresenceUser<M extends object = Metadata> {
  user_id: string;
  status: PresenceStatus;
  /** Open tabs and devices. */
  sessions: number;
  online_since: string;
  metadata: M | null;
}

/** Everybody who is online, and the position of the feed at which that was so. */
export interface PresenceSnapshot<M extends object = Metadata> extends FeedPosition {
  users: PresenceUser<M>[];
}

/** One asked-for user, online or not. */
export interface UserPresence<M extends object = Metadata> {
  user_id: string;
  online: boolean;
  status: PresenceStatus | null;
  last_seen: string | null;
  sessions: number | null;
  metadata: M | null;
}

export type PresenceEventName =
  | "user_online"
  | "user_offline"
  | "session_start"
  | "session_end"
  | "update"
  | "room_join"
  | "room_leave"
  | "room_update";

/** One entry of the change feed. */
export interface PresenceEvent<M extends object = Metadata> {
  seq: number;
  at: string;
  event: PresenceEventName;
  user_id: string;
  reason: string | null;
  /** The room that it is about; of others only a page in that room is told. */
  room?: string | null;
  /** How many sessions the user has after this event, in the room if it is about one. */
  sessions: number | null;
  /** `message`: of a status that the user chose. */
  details: { status?: PresenceStatus; message?: string; metadata?: M | null } & Record<string, unknown>;
}

/** One user who is in a room. */
export interface RoomUser<M extends object = Metadata> {
  user_id: string;
  status: PresenceStatus;
  /** Of those that are in the room. */
  sessions: number;
  entered_at: string;
  /** What the user said in the room, which is not what he says everywhere. */
  metadata: M | null;
}

/** Everybody who is in a room, and the position of the feed at which that was so. */
export interface RoomSnapshot<M extends object = Metadata> extends FeedPosition {
  room: string;
  users: RoomUser<M>[];
}

/** What a session asks for in a room of its user's. */
export interface RoomRequest {
  user_id: string;
  session_id: string;
  room: string;
}

export interface Heartbeat {
  user_id: string;
  session_id: string;
  /** Seconds until the next heartbeat is due: what the server measures silence against. */
  heartbeat_interval: number;
  status: PresenceStatus;
  /** Seconds since the last input, where there is any. An age, because clocks of pages are wrong. */
  inactive_for?: number;
  metadata?: Metadata;
}

export type ConnectionStatus =
  | "stopped" // not started
  | "connecting" // started, nothing heard yet
  | "online" // heartbeats are answered and changes arrive
  | "reconnecting" // something failed, trying again
  | "unauthorized" // not signed in, or not as this user: nothing is asked for until that changes
  | "offline"; // the browser itself says that there is no network
