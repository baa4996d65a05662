// What stands for a person where there is no picture.

/** Of the first and the last word of a name. */
export function initialsOf(name: string): string {
  const words = name.split(/\s+/).filter(Boolean);
  return [words[0], words.length > 1 ? words.at(-1) : undefined]
    .map((word) => firstCharacter(word ?? ""))
    .join("")
    .toUpperCase();
}

/** What a reader calls one character: an emoji may be many code points. */
function firstCharacter(word: string): string {
  if (typeof Intl.Segmenter === "undefined") return [...word][0] ?? "";
  const [first] = new Intl.Segmenter().segment(word);
  return first?.segment ?? "";
}

/** The same colour for the same person everywhere; dark enough for white letters on it. */
export function colourOf(id: string): string {
  let hash = 0;
  for (const letter of id) hash = (hash * 31 + (letter.codePointAt(0) ?? 0)) >>> 0;
  // Ids that differ by a number have colours far apart.
  return `hsl(${(Math.imul(hash, 0x9e3779b1) >>> 0) % 360} 50% 30%)`;
}
