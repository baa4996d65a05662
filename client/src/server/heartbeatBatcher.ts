import type { SessionDetails } from "./database.js";

export interface HeartbeatSink {
  one(user: string, session: string, details: SessionDetails): Promise<boolean>;
  many(users: string[], sessions: string[]): Promise<number>;
}

interface Waiting {
  user: string;
  session: string;
  details: SessionDetails;
  promise: Promise<boolean>;
  settle: (outcome: Promise<boolean> | boolean) => void;
}

/** The details of a session are sent anew after this long, in case the database was replaced by one that does not know them. */
const REMEMBER = 10 * 60_000;
const MOST_PER_CALL = 1000;

/**
 * Collects the heartbeats of one tick into one call. Only those that say nothing new can go that way: the batch call takes ids alone, so the first one of a
 * session, or one with a new status or address, is sent by itself, with everything in it.
 */
export class HeartbeatBatcher {
  #known = new Map<string, { details: string; until: number }>();
  #waiting = new Map<string, Waiting>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly sink: HeartbeatSink,
    private readonly tick: number,
  ) {}

  async beat(user: string, session: string, details: SessionDetails): Promise<boolean> {
    const key = JSON.stringify([user, session]);
    const text = JSON.stringify(details);
    const known = this.#known.get(key);
    if (known?.details === text && known.until > Date.now()) return this.#enqueue(key, user, session, details);

    const online = await this.sink.one(user, session, details);
    this.#known.delete(key); // to the end of the map's order, which is that of expiry
    if (online) this.#known.set(key, { details: text, until: Date.now() + REMEMBER });
    this.#forgetExpired();
    return online;
  }

  forget(user: string, session: string): void {
    this.#known.delete(JSON.stringify([user, session]));
  }

  #enqueue(key: string, user: string, session: string, details: SessionDetails): Promise<boolean> {
    const already = this.#waiting.get(key);
    if (already !== undefined) return already.promise;
    let settle!: Waiting["settle"];
    const promise = new Promise<boolean>((resolve) => (settle = resolve));
    this.#waiting.set(key, { user, session, details, promise, settle });
    if (this.#waiting.size >= MOST_PER_CALL) this.#flush();
    else this.#timer ??= setTimeout(() => this.#flush(), this.tick);
    return promise;
  }

  #flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const batch = [...this.#waiting.values()];
    this.#waiting.clear();
    const call = this.sink.many(batch.map((beat) => beat.user), batch.map((beat) => beat.session));
    for (const beat of batch) {
      // The call says only how many were accepted. If not all were, each is asked for by itself; a second beat does no harm.
      beat.settle(call.then((online) => online === batch.length || this.sink.one(beat.user, beat.session, beat.details)));
    }
  }

  #forgetExpired(): void {
    for (const [key, { until }] of this.#known) {
      if (until > Date.now()) return;
      this.#known.delete(key);
    }
  }
}
