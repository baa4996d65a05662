import { createEffect, createMemo, createSignal, getOwner, on, onCleanup, runWithOwner, type Accessor } from "solid-js";
import { nobodyCleansUp, type CleanupResult } from "../core/cleanup.js";
import type { PresenceOptions } from "../core/options.js";
import { EMPTY_STATE, type PresenceState, type PresenceStats } from "../core/state.js";
import type { ChoosableStatus, ConnectionStatus, Metadata, PresenceStatus, PresenceUser } from "../core/types.js";
import type { PresenceService } from "../presenceService.js";
import { followPresence } from "../sharedService.js";

type CurrentUser = string | null | undefined;

export interface PresenceManagerOptions<M extends object = Metadata> extends Omit<PresenceOptions<M>, "userId"> {
  /** The signed-in user's id, or null before anyone is; an accessor where it can change. */
  currentUser: CurrentUser | Accessor<CurrentUser>;
}

export interface PresenceManager<M extends object = Metadata> {
  activeUsers: Accessor<readonly PresenceUser<M>[]>;
  isConnected: Accessor<boolean>;
  connection: Accessor<ConnectionStatus>;
  status: Accessor<PresenceStatus>;
  chosenStatus: Accessor<ChoosableStatus | null>;
  joined: Accessor<boolean>;
  stats: Accessor<PresenceStats>;
  lastSeen: Accessor<ReadonlyMap<string, string>>;
  /** Never rejects: `outcome` says what came of it. */
  triggerCleanup: () => Promise<CleanupResult>;
  /** For everything else; null on the server and while nobody is signed in. */
  service: Accessor<PresenceService<M> | null>;
}

/**
 * Who is online, in a Solid component:
 *
 *     const { activeUsers, isConnected, stats, triggerCleanup } = usePresenceManager({ currentUser });
 *     <For each={activeUsers()}>{(user) => <li>{user.user_id}</li>}</For>
 */
export function usePresenceManager<M extends object = Metadata>(
  options: PresenceManagerOptions<M>,
): PresenceManager<M> {
  const { currentUser, ...rest } = options;
  const [service, setService] = createSignal<PresenceService<M> | null>(null);
  const [state, setState] = createSignal<PresenceState<M>>(EMPTY_STATE);

  // Effects do not run on the server, and each run cleans up after the one before.
  createEffect(
    on(typeof currentUser === "function" ? currentUser : () => currentUser, (userId) => {
      if (userId == null) return;
      onCleanup(
        followPresence<M>({ ...rest, userId }, (next, now) => {
          setService(now);
          setState(next);
        }),
      );
    }),
  );

  return {
    activeUsers: onDemand(() => state().activeUsers),
    isConnected: createMemo(() => state().isConnected),
    connection: createMemo(() => state().connection),
    status: createMemo(() => state().status),
    chosenStatus: createMemo(() => state().chosenStatus),
    joined: createMemo(() => state().joined),
    stats: () => state().stats,
    lastSeen: () => state().lastSeen,
    triggerCleanup: () => service()?.triggerCleanup() ?? nobodyCleansUp(),
    service,
  };
}

/** A memo from the first time on that somebody asks for it: where nobody shows the list, it need not be written out. */
function onDemand<Value>(read: () => Value): Accessor<Value> {
  const owner = getOwner();
  let memo: Accessor<Value> | undefined;
  return () => (memo ??= runWithOwner(owner, () => createMemo(read)) ?? read)();
}
