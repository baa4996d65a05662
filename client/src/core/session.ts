import { HeartbeatLoop, type BeatResult } from "./heartbeatLoop.js";
import { newSessionId } from "./sessionId.js";
import type { PresenceTransport } from "./transport.js";
import type { Metadata, PresenceStatus } from "./types.js";

export interface SessionOptions {
  transport: PresenceTransport;
  userId: string;
  metadata: () => Metadata | undefined;
  /** Milliseconds between heartbeats, as of now. */
  interval: () => number;
  status: () => PresenceStatus;
  /** Milliseconds since the last input; null: there is none here. */
  inactiveFor: () => number | null;
  /** A heartbeat was answered, or failed. `recovered`: the one before it had failed. */
  beaten: (result: BeatResult, recovered: boolean) => void;
  retryBase: number;
  retryMax: number;
  hop: number;
}

/** This tab's own session: its heartbeats, and its goodbye. */
export class Session {
  id = newSessionId();
  /** The server counts it as online. */
  joined = false;
  /** How the last heartbeat went. */
  beat: "none" | "ok" | "failed" = "none";
  readonly counters = {
    heartbeatsSent: 0,
    heartbeatsFailed: 0,
    lastHeartbeatAt: null as number | null,
    latency: null as number | null,
  };
  #announced = false; // a heartbeat has been sent under this id, so there is something to say goodbye to
  #heartbeats: HeartbeatLoop;

  constructor(private readonly options: SessionOptions) {
    const { interval, retryBase, retryMax, hop } = options;
    this.#heartbeats = new HeartbeatLoop({
      interval,
      send: (signal) => this.#send(signal),
      done: (result) => this.#beaten(result),
      retryBase,
      retryMax,
      hop,
    });
  }

  beatNow(): void {
    this.#heartbeats.beatNow();
  }

  /** Beats at once, without waiting for a heartbeat under way. */
  restart(): void {
    this.#heartbeats.restart();
  }

  /** No heartbeat before the next call; says nothing. */
  pause(): void {
    this.#heartbeats.stop();
    this.joined = false;
    this.beat = "none";
  }

  /** Says goodbye. The id is spent: the server would ignore a late heartbeat, and the next one must not look like one. */
  end(): void {
    this.pause();
    const spent = this.#announced ? this.id : null;
    this.id = newSessionId();
    this.#announced = false;
    if (spent !== null) this.options.transport.leave(this.options.userId, spent);
  }

  #send(signal: AbortSignal): Promise<boolean> {
    this.#announced = true;
    this.counters.heartbeatsSent++;
    const { transport, userId, interval, status, inactiveFor } = this.options;
    const metadata = this.options.metadata();
    const quiet = inactiveFor();
    return transport.heartbeat(
      {
        user_id: userId,
        session_id: this.id,
        heartbeat_interval: interval() / 1000,
        status: status(),
        ...(quiet !== null && { inactive_for: Math.round(quiet / 1000) }),
        ...(metadata && { metadata }),
      },
      signal,
    );
  }

  #beaten(result: BeatResult): void {
    const recovered = this.beat === "failed" && result.ok;
    if (result.ok) {
      this.beat = "ok";
      this.joined = result.online;
      this.counters.lastHeartbeatAt = Date.now();
      this.counters.latency = result.latency;
    } else {
      this.beat = "failed";
      this.counters.heartbeatsFailed++;
    }
    this.options.beaten(result, recovered);
  }
}
