import { isOneUsersFault, type SessionDetails } from "./database.js";
import { Turns } from "./turns.js";

export interface HeartbeatSink {
  one(user: string, session: string, details: SessionDetails, lastActivity: Date | null): Promise<boolean>;
  many(users: string[], sessions: string[], lastActivities: (Date | null)[]): Promise<number>;
}

interface Waiting {
  key: string;
  user: string;
  session: string;
  /** Differs each time, so it is none of the details that a session has told. */
  lastActivity: Date | null;
  resolve: (online: boolean) => void;
  reject: (error: unknown) => void;
}

/** The details of a session are sent anew after this long, in case the database was replaced by one that does not know them. */
const REMEMBER = 10 * 60_000;
const MOST_PER_CALL = 1000;
const PARTS = 32;

/**
 * Collects the heartbeats of one tick into one call. Only those that say nothing new can go that way: the batch call takes ids
 * alone, so the first one of a session, or one with a new status or address, is sent by itself, with everything in it.
 *
 * A user whose row somebody holds locked must not use up the connections: there is one call at a time for each user, and when
 * a batch fails because of him, the others in it are asked for without him.
 *
 * What one session asks for happens in the order in which it came: on connections of their own, a goodbye could overtake the heartbeat
 * before it, which would then bring the session back.
 */
export class HeartbeatBatcher {
  #sessions = new Turns();
  #users = new Turns();
  #known = new Map<string, { details: string; until: number }>();
  #waiting = new Map<string, Waiting>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly sink: HeartbeatSink,
    private readonly tick: number,
  ) {}

  /** Whether a heartbeat of this session has been accepted here lately. */
  knows(user: string, session: string): boolean {
    return this.#known.has(keyOf(user, session));
  }

  beat(user: string, session: string, details: SessionDetails, lastActivity: Date | null = null): Promise<boolean> {
    const key = keyOf(user, session);
    return this.#sessions.take(key, async () => {
      const text = JSON.stringify(details);
      const known = this.#known.get(key);
      if (known?.details === text && known.until > Date.now()) return this.#enqueue(key, user, session, lastActivity);

      const online = await this.#users.take(user, () => this.sink.one(user, session, details, lastActivity));
      this.#known.delete(key); // to the end of the map's order, which is that of expiry
      if (online) this.#known.set(key, { details: text, until: Date.now() + REMEMBER });
      this.#forgetExpired();
      return online;
    });
  }

  /** What else a session asks for, in its turn. */
  inTurn<Value>(user: string, session: string, task: () => Promise<Value>): Promise<Value> {
    return this.#sessions.take(keyOf(user, session), () => this.#users.take(user, task));
  }

  /** Sends the goodbye, after the heartbeat that is under way. One that only waits for its tick is left out. */
  end<Value>(user: string, session: string, goodbye: () => Promise<Value>): Promise<Value> {
    const key = keyOf(user, session);
    this.#waiting.get(key)?.resolve(false);
    this.#waiting.delete(key);
    return this.#sessions.take(key, () => {
      this.#known.delete(key);
      return this.#users.take(user, goodbye);
    });
  }

  /** Sends what waits, but for users of whom a call is still under way. */
  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const batch = [...this.#waiting.values()].filter(({ user }) => this.#users.idle(user)).slice(0, MOST_PER_CALL);
    for (const { key } of batch) this.#waiting.delete(key);
    if (batch.length > 0) {
      const sent = this.#send(batch);
      for (const user of new Set(batch.map(({ user }) => user))) void this.#users.take(user, () => sent);
    }
    if (this.#waiting.size > 0) this.#timer = setTimeout(() => this.flush(), this.tick);
  }

  #enqueue(key: string, user: string, session: string, lastActivity: Date | null): Promise<boolean> {
    return new Promise<boolean>((resolve, reject) => {
      this.#waiting.set(key, { key, user, session, lastActivity, resolve, reject });
      if (this.#waiting.size >= MOST_PER_CALL) this.flush();
      else this.#timer ??= setTimeout(() => this.flush(), this.tick);
    });
  }

  /**
   * The call says only how many are online. If that is neither all nor none, each half is asked for by itself: one ended session among a
   * thousand costs twenty calls, not a thousand, and a second heartbeat does no harm.
   */
  async #send(batch: Waiting[]): Promise<void> {
    try {
      const online = await this.sink.many(
        batch.map((beat) => beat.user),
        batch.map((beat) => beat.session),
        batch.map((beat) => beat.lastActivity),
      );
      if (online > 0 && online < batch.length) {
        const middle = batch.length >> 1;
        await this.#send(batch.slice(0, middle));
        await this.#send(batch.slice(middle));
        return;
      }
      for (const beat of batch) {
        if (online === 0) this.#known.delete(beat.key);
        beat.resolve(online > 0);
      }
    } catch (error) {
      if (batch.length > 1 && isOneUsersFault(error)) {
        // In many parts at once, so that two rounds find him, and only his part waits again.
        const size = Math.ceil(batch.length / PARTS);
        const parts = [];
        for (let i = 0; i < batch.length; i += size) parts.push(this.#send(batch.slice(i, i + size)));
        await Promise.all(parts);
        return;
      }
      for (const beat of batch) beat.reject(error);
    }
  }

  #forgetExpired(): void {
    for (const [key, { until }] of this.#known) {
      if (until > Date.now()) return;
      this.#known.delete(key);
    }
  }
}

function keyOf(user: string, session: string): string {
  return JSON.stringify([user, session]);
}
