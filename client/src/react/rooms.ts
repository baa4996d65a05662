"use client";

import { useCallback, useEffect, useRef, useSyncExternalStore } from "react";
import { EMPTY_ROOM, type RoomState } from "../core/room.js";
import type { Metadata } from "../core/types.js";
import { pagePresence, watchPresence } from "../sharedService.js";

/** Is in the room as long as the component is mounted, or another one that is in it. */
function useEntered(room: string, metadata?: Metadata): void {
  const service = useSyncExternalStore(watchPresence, pagePresence, () => null);
  const said = useRef(metadata);
  said.current = metadata;
  const text = JSON.stringify(metadata);
  useEffect(() => service?.room(room).enter(said.current), [service, room, text]);
}

const stateOf = (room: string) => pagePresence()?.room(room).state ?? EMPTY_ROOM;

/** Who is in that room, where this user is too from now on, with what he says there. Rendered again when the room changes, only. */
export function useRoom<M extends object = Metadata>(room: string, metadata?: M): RoomState<M> {
  useEntered(room, metadata as Metadata | undefined);
  const state = useSyncExternalStore<RoomState>(
    watchPresence,
    () => stateOf(room),
    () => EMPTY_ROOM,
  );
  return state as RoomState<M>;
}

export interface Typing {
  /** Who else is typing in the room, longest first. */
  typing: readonly string[];
  /** Call it at each key: it is passed on every few seconds, and ends by itself. False: no longer, as when a message was sent. */
  setTyping: (typing?: boolean) => void;
}

export function useTyping(room: string): Typing {
  useEntered(room);
  const typing = useSyncExternalStore(
    watchPresence,
    () => stateOf(room).typing,
    () => EMPTY_ROOM.typing,
  );
  const setTyping = useCallback((now = true) => pagePresence()?.room(room).setTyping(now), [room]);
  return { typing, setTyping };
}
