import type { FeedPosition } from "./feedPosition.js";
import type { PresenceEvent, PresenceSnapshot, PresenceUser } from "./types.js";

/**
 * The list of who is online, kept up to date from the feed. Arrays and users are replaced, never changed in place, and
 * whoever did not change stays the same object: that is what React's comparison and Solid's <For> want.
 */
export class Roster {
  /** The feed position that `users` corresponds to; null before the first snapshot. */
  position: FeedPosition | null = null;
  users: readonly PresenceUser[] = [];
  /** When those who left while we watched were last seen. */
  lastSeen: ReadonlyMap<string, string> = new Map();

  load(snapshot: PresenceSnapshot): void {
    const known = new Map(this.users.map((user) => [user.user_id, user]));
    this.position = { seq: snapshot.seq, epoch: snapshot.epoch ?? null };
    this.users = snapshot.users.map((user) => {
      const old = known.get(user.user_id);
      return old !== undefined && JSON.stringify(old) === JSON.stringify(user) ? old : user;
    });
    this.#remember(this.users.map((user) => user.user_id));
  }

  /** Applies one event of the feed; false when it was known already. */
  apply(change: PresenceEvent): boolean {
    if (this.position !== null && change.seq <= this.position.seq) return false;
    this.position = { ...this.position, seq: change.seq };

    const index = this.users.findIndex((user) => user.user_id === change.user_id);
    const old = this.users[index];

    if (change.event === "user_offline") {
      this.#remember([], [change.user_id, change.at]);
      if (old !== undefined) this.users = this.users.filter((user) => user !== old);
      return true;
    }
    if (change.event === "user_online" || old === undefined) {
      // Only user_online begins a user. A session event of someone unknown belongs to a user_online yet to come.
      if (change.event !== "user_online") return true;
      this.#remember([change.user_id]);
      const user = merge(
        { user_id: change.user_id, status: "active", sessions: 1, online_since: change.at, metadata: null },
        change,
      );
      // Newest first, like get_active_users().
      this.users = [user, ...this.users.filter((other) => other !== old)];
      return true;
    }
    const next = merge(old, change);
    if (next !== old) this.users = this.users.map((user) => (user === old ? next : user));
    return true;
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
