import type { PresenceStats } from "./state.js";
import type { FeedPosition } from "./feedPosition.js";
import type { PresenceEvent, PresenceEventName, PresenceSnapshot, PresenceUser } from "./types.js";

/**
 * The list of who is online, kept up to date from the feed. Users are replaced, never changed in place, and whoever did not change
 * stays the same object: that is what React's comparison and Solid's <For> want. A change costs the same however many are online;
 * the list is written out when somebody reads it.
 */
export class Roster {
  /** The feed position that `users` corresponds to; null before the first snapshot. */
  position: FeedPosition | null = null;
  /** When those who left while we watched were last seen. */
  lastSeen: ReadonlyMap<string, string> = new Map();
  #users = new Map<string, PresenceUser>(); // who came last is last
  #list: readonly PresenceUser[] | null = [];
  #sessions = 0;
  #byStatus = { active: 0, busy: 0, idle: 0, away: 0 };

  /** Newest first, like get_active_users(). The same array as before where nothing changed. */
  get users(): readonly PresenceUser[] {
    return (this.#list ??= [...this.#users.values()].reverse());
  }

  has(user: string): boolean {
    return this.#users.has(user);
  }

  get(user: string): PresenceUser | undefined {
    return this.#users.get(user);
  }

  get size(): number {
    return this.#users.size;
  }

  get counts(): Pick<PresenceStats, "online" | "sessions" | "byStatus"> {
    return { online: this.#users.size, sessions: this.#sessions, byStatus: { ...this.#byStatus } };
  }

  load(snapshot: PresenceSnapshot): void {
    const known = this.#users;
    this.position = { seq: snapshot.seq, epoch: snapshot.epoch ?? null };
    this.#users = new Map();
    this.#list = null;
    this.#sessions = 0;
    this.#byStatus = { active: 0, busy: 0, idle: 0, away: 0 };
    for (let i = snapshot.users.length - 1; i >= 0; i--) {
      const user = snapshot.users[i] as PresenceUser;
      const old = known.get(user.user_id);
      this.#replace(
        this.#users.get(user.user_id),
        old !== undefined && JSON.stringify(old) === JSON.stringify(user) ? old : user,
      );
    }
    this.#remember([...this.#users.keys()]);
  }

  /** Applies one event of the feed; false when it was known already. */
  apply(change: PresenceEvent): boolean {
    if (this.position !== null && change.seq <= this.position.seq) return false;
    this.position = { ...this.position, seq: change.seq };

    const old = this.#users.get(change.user_id);

    if (change.event === "user_offline") {
      this.#remember([], [change.user_id, change.at]);
      this.#replace(old, undefined);
    } else if (change.event === "user_online") {
      this.#remember([change.user_id]);
      const user = merge(
        { user_id: change.user_id, status: "active", sessions: 1, online_since: change.at, metadata: null },
        change,
      );
      this.#users.delete(change.user_id); // to the end of the order
      this.#replace(old, user);
    } else if (old !== undefined && OF_SESSIONS.includes(change.event)) {
      // A session event of someone unknown belongs to a user_online yet to come: only that begins a user.
      this.#replace(old, merge(old, change));
    }
    return true;
  }

  #replace(old: PresenceUser | undefined, user: PresenceUser | undefined): void {
    if (old === user) return;
    this.#list = null;
    if (old !== undefined) {
      this.#sessions -= old.sessions;
      this.#byStatus[old.status]--;
      if (user === undefined) this.#users.delete(old.user_id);
    }
    if (user !== undefined) {
      this.#sessions += user.sessions;
      this.#byStatus[user.status]++;
      this.#users.set(user.user_id, user);
    }
  }

  /** What came up to there does not concern us. */
  advance(position: FeedPosition): void {
    if (this.position !== null && position.seq >= this.position.seq) this.position = position;
  }

  #remember(online: string[], left?: [user: string, at: string]): void {
    const lastSeen = new Map(this.lastSeen);
    let changed = left !== undefined;
    for (const user of online) changed = lastSeen.delete(user) || changed;
    if (left !== undefined) {
      lastSeen.delete(left[0]); // to the end of the map's order, which is that of leaving
      lastSeen.set(...left);
      for (const [oldest] of lastSeen) if (lastSeen.size > MOST_LAST_SEEN) lastSeen.delete(oldest);
    }
    if (changed) this.lastSeen = lastSeen;
  }
}

/** Others, such as those of rooms, say nothing of the user as a whole. */
const OF_SESSIONS: readonly string[] = ["session_start", "session_end", "update"] satisfies PresenceEventName[];

/** A page may stay open for weeks. */
const MOST_LAST_SEEN = 1000;

function merge(user: PresenceUser, { event, sessions, details }: PresenceEvent): PresenceUser {
  const next = { ...user };
  if (sessions !== null) next.sessions = sessions;
  if (details.status !== undefined) next.status = details.status;
  // That of a session that ended is no longer the user's.
  if (details.metadata !== undefined && event !== "session_end") next.metadata = details.metadata;
  return JSON.stringify(next) === JSON.stringify(user) ? user : next;
}
