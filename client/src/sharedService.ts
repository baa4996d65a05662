import type { PresenceOptions } from "./core/options.js";
import { EMPTY_ROOM, type RoomState } from "./core/room.js";
import { EMPTY_STATE, type PresenceState } from "./core/state.js";
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

interface Page {
  services: Map<string, Shared>;
  current: PresenceService<never> | null;
  /** Called when `current` is another one. */
  watchers: Set<() => void>;
}

// On globalThis, so that a hot reload of this very module finds the running service instead of making a second one.
const KEY = Symbol.for("presence-client.page");
const page = ((globalThis as Record<symbol, unknown>)[KEY] ??= {
  services: new Map(),
  current: null,
  watchers: new Set(),
} satisfies Page) as Page;
const { services } = page;

/** The service that runs in this page, whichever component holds it; of several the latest. Null: none. */
export function pagePresence<M extends object = Metadata>(): PresenceService<M> | null {
  return page.current as PresenceService<M> | null;
}

/** Calls `changed` whenever something that is asked of pagePresence() may have another answer. */
export function watchPresence(changed: () => void): () => void {
  let forget = page.current?.on("state", changed);
  const moved = () => {
    forget?.();
    forget = page.current?.on("state", changed);
    changed();
  };
  page.watchers.add(moved);
  return () => {
    page.watchers.delete(moved);
    forget?.();
  };
}

function choose(): void {
  // One that nobody holds still runs for a moment, for whoever mounts again.
  const running = [...services.values()];
  const held = running.filter(({ users }) => users > 0);
  // One that only watches, for nobody, can be in no room.
  const service =
    (held.filter(({ service }) => service.userId !== "").at(-1) ?? held.at(-1) ?? running.at(-1))?.service ?? null;
  if (service === page.current) return;
  page.current = service;
  for (const moved of [...page.watchers]) moved();
}

/** A component that unmounts and mounts again this soon (ms), as in React's strict mode or a hot reload, never left. */
const LINGER = 250;

/**
 * One running service per user and page, however many components ask for it. It stops, with a goodbye, when the
 * last one has let go of it. Only the first one's options count. `server` tells apart those that speak to several.
 */
export function acquirePresence<M extends object = Metadata>(
  options: PresenceOptions<M>,
  server?: string,
): PresenceLease<M> {
  const key = JSON.stringify([options.userId, options.autoJoin ?? true, server]);
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
  if (mine.users++ === 0) {
    if (options.autoJoin !== false) mine.service.join();
    choose();
  }

  let held = true;
  return {
    service: mine.service as unknown as PresenceService<M>,
    release() {
      if (!held) return;
      held = false;
      if (--mine.users > 0) return;
      choose();
      mine.stopping = setTimeout(() => {
        if (services.get(key) === mine) services.delete(key);
        mine.service.stop();
        choose();
      }, LINGER);
    },
  };
}

// What the bindings that have effects (Solid, Vue, Svelte) do in them: each begins, tells at once, and returns what ends it.

/** Holds the user's service and tells its state. */
export function followPresence<M extends object = Metadata>(
  options: PresenceOptions<M>,
  tell: (state: PresenceState<M>, service: PresenceService<M> | null) => void,
): () => void {
  const lease = acquirePresence<M>(options);
  const { service } = lease;
  tell(service.state, service);
  const forget = service.on("state", (state) => tell(state, service));
  return () => {
    forget();
    lease.release();
    tell(EMPTY_STATE, null);
  };
}

/** Tells what pagePresence() answers; `unknown` while there is none. */
export function followAnswer<Value>(
  read: (service: PresenceService) => Value,
  unknown: Value,
  tell: (answer: Value) => void,
): () => void {
  const look = () => {
    const service = pagePresence();
    tell(service === null ? unknown : read(service));
  };
  look();
  return watchPresence(look);
}

/** Is in that room, with what is said there, and tells its state. */
export function followRoom(name: string, metadata: Metadata | undefined, tell: (state: RoomState) => void): () => void {
  let service: PresenceService | null = null;
  let leave: (() => void) | undefined;
  const forget = followAnswer(
    (now) => now,
    null,
    (now: PresenceService | null) => {
      if (now !== service) {
        leave?.();
        service = now;
        leave = service?.room(name).enter(metadata);
      }
      tell(service?.room(name).state ?? EMPTY_ROOM);
    },
  );
  return () => {
    forget();
    leave?.();
  };
}
