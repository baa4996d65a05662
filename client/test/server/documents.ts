import { readFileSync } from "node:fs";

export interface Snippet {
  language: string;
  /** Its first line, without the comment sign: a file's path, or what it is. */
  name: string;
  text: string;
}

export function snippetsOf(document: string): Snippet[] {
  const text = readFileSync(new URL(`../../../${document}`, import.meta.url), "utf8");
  return [...text.matchAll(/^```(\w+)\n(.*?)^```$/gms)].map(([, language = "", body = ""]) => ({
    language,
    name: body.split("\n", 1)[0]?.replace(/^(\/\/|--) */, "") ?? "",
    text: body,
  }));
}

export function sqlOf(document: string, name: string): string {
  const found = snippetsOf(document).find((snippet) => snippet.language === "sql" && snippet.name === name);
  if (found === undefined) throw new Error(`${document} has no SQL named "${name}"`);
  return found.text;
}
