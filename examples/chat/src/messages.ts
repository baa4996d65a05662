/** What page and server agree on. */
export interface Message {
  id: number;
  /** Of the writer's choice, so that a message that is sent again is known again. */
  key: string;
  room: string;
  user_id: string;
  name: string;
  body: string;
  at: string;
}

/** Who is in which room: ids of users by that of the room, who came first is first. */
export type Places = Record<string, string[]>;

export const LONGEST = 2000;
/** What a reader counts as one is one, not two, where it is an emoji. */
export const lengthOf = (text: string): number => [...text].length;

/** A message as it is kept and shown; empty where there is nothing to see in it. */
export function tidyBody(text: string): string {
  const body = text
    .replace(/\r\n?/g, "\n")
    .replace(/[^\P{Cc}\n\t]|\p{Cs}/gu, "")
    .trim();
  return /[^\p{C}\p{Z}\p{M}]/u.test(body) ? body : "";
}

/** Why a tidy body cannot be sent; null: it can. */
export function problemWith(body: string): string | null {
  const over = lengthOf(body) - LONGEST;
  if (body === "") return "Write something first.";
  return over > 0 ? `${over} ${over === 1 ? "character" : "characters"} too long: ${LONGEST} at most.` : null;
}
