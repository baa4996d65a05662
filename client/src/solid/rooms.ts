import { createEffect, createSignal, onCleanup, type Accessor } from "solid-js";
import { EMPTY_ROOM, type RoomState } from "../core/room.js";
import type { Metadata } from "../core/types.js";
import { followRoom, pagePresence } from "../sharedService.js";

type RoomName = string | Accessor<string>;
const nameOf = (room: RoomName) => (typeof room === "function" ? room() : room);

/** Who is in that room, where this user is too from now on, with what he says there; both may be accessors. */
export function useRoom<M extends object = Metadata>(
  room: RoomName,
  metadata?: M | Accessor<M>,
): Accessor<RoomState<M>> {
  const [state, setState] = createSignal<RoomState>(EMPTY_ROOM);
  // Effects do not run on the server.
  createEffect(() => {
    const name = nameOf(room);
    const said = (typeof metadata === "function" ? metadata() : metadata) as Metadata | undefined;
    onCleanup(followRoom(name, said, setState));
  });
  return state as Accessor<RoomState<M>>;
}

export interface Typing {
  /** Who else is typing in the room, longest first. */
  typing: Accessor<readonly string[]>;
  /** Call it at each key: it is passed on every few seconds, and ends by itself. False: no longer, as when a message was sent. */
  setTyping: (typing?: boolean) => void;
}

export function useTyping(room: RoomName): Typing {
  const state = useRoom(room);
  return {
    typing: () => state().typing,
    setTyping: (now = true) => pagePresence()?.room(nameOf(room)).setTyping(now),
  };
}
