import type { PresenceTransport } from "./transport.js";
import type { Metadata } from "./types.js";

export interface PresenceOptions<M extends object = Metadata> {
  /**
   * Who this page speaks for. The server decides by its own authentication; a different answer there is an error. Empty, with `autoJoin`
   * false: nobody, the page only watches.
   */
  userId: string;
  /** How to reach the server; by default our endpoints under `/api`, with cookies. */
  transport?: PresenceTransport;
  /** Count as online from start() on. False: only watch, until join(). */
  autoJoin?: boolean;
  /** Shown to others with this user: a room, a device name. Names and pictures belong in the server's `authenticate`. Further by setMetadata(). */
  metadata?: Partial<M>;

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
};

export type Settings = PresenceOptions & typeof DEFAULTS;

/** The options with what they leave out. One passed as undefined means its default. */
export function settingsOf(options: PresenceOptions<never>): Settings {
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  return { ...DEFAULTS, ...given } as Settings;
}
