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

export function idOf(name: string): string {
  return name
    .normalize("NFKD")
    .toLowerCase()
    .replace(/\p{M}/gu, "")
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-+|-+$/g, "")
    .slice(0, 60);
}

export function initialsOf(name: string): string {
  const words = name.split(/\s+/).filter(Boolean);
  return [words[0], words.length > 1 ? words.at(-1) : undefined]
    .map((word) => [...(word ?? "")][0] ?? "")
    .join("")
    .toUpperCase();
}

/** The same colour for the same person everywhere; dark enough for white letters on it. */
export function colourOf(id: string): string {
  let hash = 0;
  for (const letter of id) hash = (hash * 31 + (letter.codePointAt(0) ?? 0)) >>> 0;
  return `hsl(${hash % 360} 50% 30%)`;
}
