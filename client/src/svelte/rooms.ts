import { EMPTY_ROOM, type RoomState } from "../core/room.js";
import type { Metadata } from "../core/types.js";
import { followRoom, pagePresence } from "../sharedService.js";
import { storeOf, type Readable } from "./store.js";

/** Who is in that room, where this user is too while anybody subscribes, with what he says there. */
export function useRoom<M extends object = Metadata>(room: string, metadata?: M): Readable<RoomState<M>> {
  const state = storeOf<RoomState>(EMPTY_ROOM, (tell) => followRoom(room, metadata as Metadata | undefined, tell));
  return state as unknown as Readable<RoomState<M>>;
}

export interface Typing {
  /** Who else is typing in the room, longest first. */
  typing: Readable<readonly string[]>;
  /** Call it at each key: it is passed on every few seconds, and ends by itself. False: no longer, as when a message was sent. */
  setTyping: (typing?: boolean) => void;
}

export function useTyping(room: string): Typing {
  return {
    typing: storeOf(EMPTY_ROOM.typing, (tell) => followRoom(room, undefined, (state) => tell(state.typing))),
    setTyping: (now = true) => pagePresence()?.room(room).setTyping(now),
  };
}
