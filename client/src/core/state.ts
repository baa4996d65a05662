import type { PresenceError } from "./transport.js";
import type {
  ChoosableStatus,
  ConnectionStatus,
  Metadata,
  PresenceEvent,
  PresenceSnapshot,
  PresenceStatus,
  PresenceUser,
} from "./types.js";

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
export interface PresenceState<M extends object = Metadata> {
  /** Written out when it is first read, which takes its time where very many are online. The state keeps it from then on. */
  readonly activeUsers: readonly PresenceUser<M>[];
  isConnected: boolean;
  connection: ConnectionStatus;
  /** What others see of the user, as far as it depends on this tab and on what was chosen. */
  status: PresenceStatus;
  /** What the user chose by setStatus(), here or anywhere else; null: from input. */
  chosenStatus: ChoosableStatus | null;
  /** When the choice is over; null: it lasts. */
  statusUntil: string | null;
  statusMessage: string | null;
  /** The server counts this tab as online. */
  joined: boolean;
  stats: PresenceStats;
  /** When users who left while this page watched were last seen. */
  lastSeen: ReadonlyMap<string, string>;
}

export interface PresenceEvents<M extends object = Metadata> {
  /** Anything changed: for views. At most once per turn of the event loop. */
  state: PresenceState<M>;
  connection: ConnectionStatus;
  /** One change of the feed, each exactly once and in order. */
  change: PresenceEvent<M>;
  /** The list was read as a whole: at the start, and with each `resync`. */
  snapshot: PresenceSnapshot<M>;
  /** Changes were left out, because there were too many, or the feed could not continue: the list was replaced instead. */
  resync: PresenceSnapshot<M>;
  /** Own status, from input or setStatus(). */
  status: PresenceStatus;
  heartbeat: { online: boolean; latency: number };
  error: PresenceError;
}

/** A state with more to it, without reading the list: spreading it would. */
export function withState<M extends object, More extends object>(
  state: PresenceState<M>,
  more: More,
): PresenceState<M> & More {
  return Object.defineProperties(more, Object.getOwnPropertyDescriptors(state)) as PresenceState<M> & More;
}

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
export const EMPTY_STATE: PresenceState<never> = {
  activeUsers: [],
  isConnected: false,
  connection: "stopped",
  status: "active",
  chosenStatus: null,
  statusUntil: null,
  statusMessage: null,
  joined: false,
  stats: EMPTY_STATS,
  lastSeen: new Map(),
};
