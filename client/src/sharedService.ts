import type { PresenceOptions } from "./core/options.js";
import type { Metadata } from "./core/types.js";
import { PresenceService } from "./presenceService.js";

export interface PresenceLease<M extends object = Metadata> {
  service: PresenceService<M>;
  release(): void;
}

interface Shared {
  service: PresenceService<never>;
  users: number;
  stopping: ReturnType<typeof setTimeout> | undefined;
}

// On globalThis, so that a hot reload of this very module finds the running service instead of making a second one.
const KEY = Symbol.for("presence-client.services");
const services: Map<string, Shared> = ((globalThis as Record<symbol, unknown>)[KEY] ??= new Map()) as Map<
  string,
  Shared
>;

/** A component that unmounts and mounts again this soon (ms), as in React's strict mode or a hot reload, never left. */
const LINGER = 250;

/**
 * One running service per user and page, however many components ask for it. It stops, with a goodbye, when the
 * last one has let go of it. Only the first one's options count.
 */
export function acquirePresence<M extends object = Metadata>(options: PresenceOptions<M>): PresenceLease<M> {
  const key = JSON.stringify([options.userId, options.autoJoin ?? true]);
  let shared = services.get(key);
  if (shared === undefined) {
    shared = {
      service: new PresenceService<M>(options) as unknown as PresenceService<never>,
      users: 0,
      stopping: undefined,
    };
    services.set(key, shared);
  }
  const mine = shared;
  clearTimeout(mine.stopping);
  mine.service.start();
  // Signed out, with leave(), and in again before the service has stopped.
  if (mine.users++ === 0 && options.autoJoin !== false) mine.service.join();

  let held = true;
  return {
    service: mine.service as unknown as PresenceService<M>,
    release() {
      if (!held) return;
      held = false;
      if (--mine.users > 0) return;
      mine.stopping = setTimeout(() => {
        if (services.get(key) === mine) services.delete(key);
        mine.service.stop();
      }, LINGER);
    },
  };
}
