/** Those whom the page asks about, online or not: what a friend list or a team is in a real application. */
export const PEOPLE = [
  "Ada Lovelace",
  "Alan Turing",
  "Barbara Liskov",
  "Donald Knuth",
  "Edsger Dijkstra",
  "Frances Allen",
  "Grace Hopper",
  "John Backus",
  "Katherine Johnson",
  "Margaret Hamilton",
].map((name) => ({ id: idOf(name), name }));

/** A name as it is kept and shown; empty where there is nothing to see in it. */
export function tidyName(text: string): string {
  const name = [...text.normalize("NFC").replace(/[\p{Cc}\p{Cs}\s]+/gu, " ")].slice(0, 60).join("").trim();
  return /[^\p{Cc}\p{Cf}\p{Cs}\p{Z}\p{M}]/u.test(name) ? name : "";
}

export function idOf(name: string): string {
  const id = name
    .normalize("NFKD")
    .toLowerCase()
    .replace(/\p{M}/gu, "")
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-+|-+$/g, "");
  // A name of emoji or punctuation alone is told apart by its characters' numbers.
  const letters = id || [...name].map((sign) => sign.codePointAt(0)!.toString(16)).join("-");
  return [...letters].slice(0, 60).join("");
}
