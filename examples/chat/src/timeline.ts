import { createSignal } from "solid-js";
import type { MarkKind } from "./Mark.jsx";
import type { Message } from "./messages.js";

/** Somebody came or went. */
export interface Happening {
  at: string;
  text: string;
  mark: MarkKind;
}
export type Entry = Message | Happening;
export const isMessage = (entry: Entry | undefined): entry is Message => entry !== undefined && "body" in entry;

/** Shown while the reader is at the end, and at most while he reads further up. */
const REMEMBERED = 200;
const REMEMBERED_WHILE_READING = 1000;

/**
 * What is written in a room, and who comes and goes, in one order. Follows as long as its end is in view; whoever reads further up is left where
 * he is and told how much is new.
 */
export function createTimeline() {
  const [entries, setEntries] = createSignal<readonly Entry[]>([]);
  const [unread, setUnread] = createSignal(0);
  const [following, setFollowing] = createSignal(true);

  return {
    entries,
    unread,
    following,
    /** What was written before, in place of all messages. */
    load(history: readonly Message[]): void {
      setEntries((old) => history.reduce(insert, old.filter((entry) => !isMessage(entry)) as readonly Entry[]));
    },
    add(entry: Entry): void {
      if (isMessage(entry) && entries().some((old) => isMessage(old) && old.id === entry.id)) return;
      // Nothing is taken away above what somebody reads, which would move it.
      setEntries((old) => insert(old, entry).slice(following() ? -REMEMBERED : -REMEMBERED_WHILE_READING));
      if (!following() && isMessage(entry)) setUnread((count) => count + 1);
    },
    follow(yes: boolean): void {
      setFollowing(yes);
      if (!yes) return;
      setUnread(0);
      setEntries((old) => (old.length > REMEMBERED ? old.slice(-REMEMBERED) : old));
    },
  };
}

/** The two streams may overtake each other, so by time; messages among themselves stay in the order of their numbers. */
function insert(entries: readonly Entry[], entry: Entry): readonly Entry[] {
  let place = entries.length;
  const later = (other: Entry) =>
    !(isMessage(other) && isMessage(entry)) && Date.parse(other.at) > Date.parse(entry.at);
  while (place > 0 && later(entries[place - 1])) place--;
  return [...entries.slice(0, place), entry, ...entries.slice(place)];
}
