import type { ConnectionStatus, PresenceStatus } from "presence-client";

// Told apart by shape, so that colour is not needed: full, barred, half, crescent, cross.
const RING = "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2Zm0 2a4 4 0 1 1 0 8 4 4 0 0 1 0-8Z";
const SHAPES = {
  active: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2Z",
  busy: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2ZM4.5 6.8h7v2.4h-7Z",
  idle: `${RING}M8 3a5 5 0 0 0 0 10Z`,
  away: "M9.5 2.2A6 6 0 1 0 13.9 9.4 5.3 5.3 0 0 1 9.5 2.2Z",
  offline: "M4.2 2.6 8 6.4l3.8-3.8 1.6 1.6L9.6 8l3.8 3.8-1.6 1.6L8 9.6l-3.8 3.8-1.6-1.6L6.4 8 2.6 4.2Z",
  waiting: "M8 2a6 6 0 0 1 6 6h-2a4 4 0 0 0-4-4ZM8 14a6 6 0 0 1-6-6h2a4 4 0 0 0 4 4Z",
};
export type MarkKind = keyof typeof SHAPES;

const OF_CONNECTION: Record<ConnectionStatus, MarkKind> = {
  stopped: "offline",
  connecting: "waiting",
  online: "active",
  reconnecting: "waiting",
  unauthorized: "busy",
  offline: "offline",
};

export const markOf = (connection: ConnectionStatus): MarkKind => OF_CONNECTION[connection];

export const STATUS: Record<PresenceStatus, string> = { active: "Active", busy: "Busy", idle: "Idle", away: "Away" };

/** Decoration: what it says stands beside it as text. */
export function Mark(props: { kind: MarkKind }) {
  return (
    <svg class={`mark ${props.kind}`} viewBox="0 0 16 16" aria-hidden="true">
      <path fill-rule="evenodd" d={SHAPES[props.kind]} />
    </svg>
  );
}
