import { nobodyCleansUp, type CleanupResult } from "../core/cleanup.js";
import type { PresenceOptions } from "../core/options.js";
import { EMPTY_STATE, withState, type PresenceState } from "../core/state.js";
import type { Metadata } from "../core/types.js";
import type { PresenceService } from "../presenceService.js";
import { followPresence } from "../sharedService.js";
import { storeOf, type Readable } from "./store.js";

export interface PresenceManagerOptions<M extends object = Metadata> extends Omit<PresenceOptions<M>, "userId"> {
  /** The signed-in user's id, or null before anyone is. Where it can change, make the store anew, by $derived or $:. */
  currentUser: string | null | undefined;
}

export interface PresenceManager<M extends object = Metadata> extends PresenceState<M> {
  /** Never rejects: `outcome` says what came of it. */
  triggerCleanup: () => Promise<CleanupResult>;
  /** For everything else; null on the server and while nobody is signed in. */
  service: PresenceService<M> | null;
}

/**
 * Who is online, as a Svelte store; the user is online while anybody subscribes:
 *
 *     const presence = usePresenceManager({ currentUser });
 *     {#each $presence.activeUsers as user (user.user_id)}<li>{user.user_id}</li>{/each}
 */
export function usePresenceManager<M extends object = Metadata>(
  options: PresenceManagerOptions<M>,
): Readable<PresenceManager<M>> {
  const { currentUser: userId, ...rest } = options;
  const managerOf = (state: PresenceState<M>, service: PresenceService<M> | null): PresenceManager<M> =>
    withState(state, { service, triggerCleanup: () => service?.triggerCleanup() ?? nobodyCleansUp() });
  return storeOf(managerOf(EMPTY_STATE, null), (tell) => {
    if (userId == null) return;
    return followPresence<M>({ ...rest, userId }, (state, service) => tell(managerOf(state, service)));
  });
}
