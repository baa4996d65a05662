import type { PresenceEvent, PresenceSnapshot, PresenceUser } from "./types.js";

/**
 * The list of who is online, kept up to date from the feed. Arrays and users are replaced, never changed in place, and
 * whoever did not change stays the same object: that is what React's comparison and Solid's <For> want.
 */
export class Roster {
  /** The feed position that `users` corresponds to; null before the first snapshot. */
  seq: number | null = null;
  users: readonly PresenceUser[] = [];
  /** When those who left while we watched were last seen. */
  readonly lastSeen = new Map<string, string>();

  load(snapshot: PresenceSnapshot): void {
    const known = new Map(this.users.map((user) => [user.user_id, user]));
    this.seq = snapshot.seq;
    this.users = snapshot.users.map((user) => {
      const old = known.get(user.user_id);
      return old !== undefined && JSON.stringify(old) === JSON.stringify(user) ? old : user;
    });
  }

  /** Applies one event of the feed; false when it was known already. */
  apply(change: PresenceEvent): boolean {
    if (this.seq !== null && change.seq <= this.seq) return false;
    this.seq = change.seq;

    const index = this.users.findIndex((user) => user.user_id === change.user_id);
    const old = this.users[index];

    if (change.event === "user_offline") {
      this.lastSeen.set(change.user_id, change.at);
      if (old !== undefined) this.users = this.users.filter((user) => user !== old);
      return true;
    }
    if (change.event === "user_online" || old === undefined) {
      // Only user_online begins a user. A session event of someone unknown belongs to a user_online yet to come.
      if (change.event !== "user_online") return true;
      this.lastSeen.delete(change.user_id);
      const user = merge({ user_id: change.user_id, status: "active", sessions: 1, online_since: change.at, metadata: null }, change);
      // Newest first, like get_active_users().
      this.users = [user, ...this.users.filter((other) => other !== old)];
      return true;
    }
    const next = merge(old, change);
    if (next !== old) this.users = this.users.map((user) => (user === old ? next : user));
    return true;
  }
}

function merge(user: PresenceUser, { sessions, details }: PresenceEvent): PresenceUser {
  const next = { ...user };
  if (sessions !== null) next.sessions = sessions;
  if (details.status !== undefined) next.status = details.status;
  if (details.metadata !== undefined) next.metadata = details.metadata;
  return JSON.stringify(next) === JSON.stringify(user) ? user : next;
}
