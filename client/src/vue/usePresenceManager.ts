import { computed, shallowRef, toValue, type ComputedRef, type MaybeRefOrGetter, type ShallowRef } from "vue";
import { nobodyCleansUp, type CleanupResult } from "../core/cleanup.js";
import type { PresenceOptions } from "../core/options.js";
import { EMPTY_STATE, type PresenceState, type PresenceStats } from "../core/state.js";
import type { ChoosableStatus, ConnectionStatus, Metadata, PresenceStatus, PresenceUser } from "../core/types.js";
import type { PresenceService } from "../presenceService.js";
import { followPresence } from "../sharedService.js";
import { inPage } from "./inPage.js";

export interface PresenceManagerOptions<M extends object = Metadata> extends Omit<PresenceOptions<M>, "userId"> {
  /** The signed-in user's id, or null before anyone is; a ref or a getter where it can change. */
  currentUser: MaybeRefOrGetter<string | null | undefined>;
}

export interface PresenceManager<M extends object = Metadata> {
  activeUsers: ComputedRef<readonly PresenceUser<M>[]>;
  isConnected: ComputedRef<boolean>;
  connection: ComputedRef<ConnectionStatus>;
  status: ComputedRef<PresenceStatus>;
  chosenStatus: ComputedRef<ChoosableStatus | null>;
  joined: ComputedRef<boolean>;
  stats: ComputedRef<PresenceStats>;
  lastSeen: ComputedRef<ReadonlyMap<string, string>>;
  /** Never rejects: `outcome` says what came of it. */
  triggerCleanup: () => Promise<CleanupResult>;
  /** For everything else; null on the server and while nobody is signed in. */
  service: Readonly<ShallowRef<PresenceService<M> | null>>;
}

/**
 * Who is online, in the setup of a Vue component:
 *
 *     const { activeUsers, isConnected, stats, triggerCleanup } = usePresenceManager({ currentUser: () => props.me });
 */
export function usePresenceManager<M extends object = Metadata>(
  options: PresenceManagerOptions<M>,
): PresenceManager<M> {
  const { currentUser, ...rest } = options;
  const service: ShallowRef<PresenceService<M> | null> = shallowRef(null);
  const state: ShallowRef<PresenceState<M>> = shallowRef(EMPTY_STATE);
  inPage(
    () => toValue(currentUser),
    (userId) => {
      if (userId == null) return;
      return followPresence<M>({ ...rest, userId }, (next, now) => {
        service.value = now;
        state.value = next;
      });
    },
  );
  return {
    activeUsers: computed(() => state.value.activeUsers),
    isConnected: computed(() => state.value.isConnected),
    connection: computed(() => state.value.connection),
    status: computed(() => state.value.status),
    chosenStatus: computed(() => state.value.chosenStatus),
    joined: computed(() => state.value.joined),
    stats: computed(() => state.value.stats),
    lastSeen: computed(() => state.value.lastSeen),
    triggerCleanup: () => service.value?.triggerCleanup() ?? nobodyCleansUp(),
    service,
  };
}
