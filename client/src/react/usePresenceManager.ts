"use client";

import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from "react";
import { nobodyCleansUp, type CleanupResult } from "../core/cleanup.js";
import type { PresenceOptions } from "../core/options.js";
import { EMPTY_STATE, withState, type PresenceState } from "../core/state.js";
import type { Metadata } from "../core/types.js";
import type { PresenceService } from "../presenceService.js";
import { acquirePresence } from "../sharedService.js";

export interface PresenceManagerOptions<M extends object = Metadata> extends Omit<PresenceOptions<M>, "userId"> {
  /** The signed-in user's id, or null before anyone is. A change signs the old one off and the new one on. */
  currentUser: string | null | undefined;
}

export interface PresenceManager<M extends object = Metadata> extends PresenceState<M> {
  /** Never rejects: `outcome` says what came of it. */
  triggerCleanup: () => Promise<CleanupResult>;
  /** For everything else; null on the server and while nobody is signed in. */
  service: PresenceService<M> | null;
}

/**
 * Keeps the user online, and the list up to date, as long as the component is mounted, and never renders it again for what happens:
 * for the top of a page whose other components use useIsOnline() and the like. Null on the server and while nobody is signed in.
 */
export function usePresenceService<M extends object = Metadata>(
  options: PresenceManagerOptions<M>,
): PresenceService<M> | null {
  const { currentUser, autoJoin = true } = options;
  const [service, setService] = useState<PresenceService<M> | null>(null);
  // Only currentUser and autoJoin start a new service; an options object made anew in each render must not.
  const latest = useRef(options);
  latest.current = options;

  // In an effect, so never on the server, and undone by unmounting.
  useEffect(() => {
    if (currentUser == null) return;
    const lease = acquirePresence<M>({ ...latest.current, userId: currentUser, autoJoin });
    setService(lease.service);
    return () => {
      lease.release();
      setService(null);
    };
  }, [currentUser, autoJoin]);
  return service;
}

/**
 * Who is online, in a React component:
 *
 *     const { activeUsers, isConnected, stats, triggerCleanup } = usePresenceManager({ currentUser });
 */
export function usePresenceManager<M extends object = Metadata>(
  options: PresenceManagerOptions<M>,
): PresenceManager<M> {
  const service = usePresenceService(options);
  const subscribe = useCallback((changed: () => void) => service?.on("state", changed) ?? (() => {}), [service]);
  const state = useSyncExternalStore(
    subscribe,
    () => service?.state ?? EMPTY_STATE,
    () => EMPTY_STATE,
  );
  const triggerCleanup = useCallback(() => service?.triggerCleanup() ?? nobodyCleansUp(), [service]);
  return withState(state, { triggerCleanup, service });
}
