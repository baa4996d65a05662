import { computed, shallowRef, toValue, type ComputedRef, type MaybeRefOrGetter, type ShallowRef } from "vue";
import { EMPTY_ROOM, type RoomState } from "../core/room.js";
import type { Metadata } from "../core/types.js";
import { followRoom, pagePresence } from "../sharedService.js";
import { inPage } from "./inPage.js";

/** Who is in that room, where this user is too from now on, with what he says there. */
export function useRoom<M extends object = Metadata>(
  room: MaybeRefOrGetter<string>,
  metadata?: MaybeRefOrGetter<M | undefined>,
): Readonly<ShallowRef<RoomState<M>>> {
  const state = shallowRef<RoomState>(EMPTY_ROOM);
  // As text, so that what is said is watched to its depth, and the same said again is no change.
  inPage(
    () => JSON.stringify([toValue(room), toValue(metadata)]),
    (text) => {
      const [name, said] = JSON.parse(text) as [string, Metadata | null];
      return followRoom(name, said ?? undefined, (now) => (state.value = now));
    },
  );
  return state as unknown as Readonly<ShallowRef<RoomState<M>>>;
}

export interface Typing {
  /** Who else is typing in the room, longest first. */
  typing: ComputedRef<readonly string[]>;
  /** Call it at each key: it is passed on every few seconds, and ends by itself. False: no longer, as when a message was sent. */
  setTyping: (typing?: boolean) => void;
}

export function useTyping(room: MaybeRefOrGetter<string>): Typing {
  const state = useRoom(room);
  return {
    typing: computed(() => state.value.typing),
    setTyping: (now = true) => pagePresence()?.room(toValue(room)).setTyping(now),
  };
}
