"use client";

import { useSyncExternalStore } from "react";
import { pagePresence, watchPresence } from "../sharedService.js";

// Each renders its component again when the answer is another one, whatever else happens. They ask the service that a
// usePresenceManager() or usePresenceService() anywhere in the page keeps running.

/** Whether that user is online, as far as the signed-in one may see; false while that is not known. */
export function useIsOnline(userId: string): boolean {
  return useSyncExternalStore(
    watchPresence,
    () => pagePresence()?.isOnline(userId) ?? false,
    () => false,
  );
}

/** How many users are online. */
export function useOnlineCount(): number {
  return useSyncExternalStore(
    watchPresence,
    () => pagePresence()?.onlineCount ?? 0,
    () => 0,
  );
}
