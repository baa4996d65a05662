import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, expect, test } from "vitest";
import { snippetsOf } from "../server/documents.js";

const root = fileURLToPath(new URL("../..", import.meta.url));
const made: string[] = [];
afterAll(() => made.forEach((folder) => rmSync(folder, { recursive: true, force: true })));

const AUTH = `export declare function sessionOf(cookie: string | null): Promise<{ userId: string; isAdmin: boolean; name: string } | null>;\n`;

/** Everything a document says in TypeScript, at the paths that it names, given to the compiler. */
async function compile(document: string, solid: boolean): Promise<string[]> {
  const chosen = snippetsOf(document).filter(
    ({ language, text }) =>
      (language === "ts" || language === "tsx") && text.includes('from "presence-client/solid"') === solid,
  );
  const folder = mkdtempSync(join(root, ".snippets-"));
  made.push(folder);
  const write = (path: string, text: string) => {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
  };
  for (const { name, text } of chosen) {
    expect(name, `a snippet in ${document} begins with its path`).toMatch(/^[\w./[\]-]+\.tsx?/);
    write(name.split(" ")[0] ?? "", text);
  }
  write("lib/auth.ts", AUTH);
  write("auth.ts", AUTH);
  const source = (path: string) => [join(root, "src", path)];
  write(
    "tsconfig.json",
    JSON.stringify({
      extends: "../tsconfig.json",
      compilerOptions: {
        module: "ESNext",
        moduleResolution: "Bundler",
        ...(solid ? { jsx: "preserve", jsxImportSource: "solid-js" } : { jsx: "react-jsx" }),
        paths: {
          "presence-client": source("index.ts"),
          "presence-client/react": source("react/index.ts"),
          "presence-client/solid": source("solid/index.ts"),
          "presence-client/server": source("server/index.ts"),
        },
      },
      include: ["**/*.ts", "**/*.tsx"],
    }),
  );
  try {
    await promisify(execFile)(process.execPath, [
      join(root, "node_modules/typescript/bin/tsc"),
      "--noEmit",
      "-p",
      folder,
    ]);
  } catch (error) {
    expect.fail((error as { stdout: string }).stdout);
  }
  return chosen.map(({ name }) => name);
}

test.each([
  ["docs/front-end.md", false, 12],
  ["docs/front-end.md", true, 1],
  ["client/README.md", false, 2],
])("the snippets of %s compile (Solid: %s)", { timeout: 240_000 }, async (document, solid, count) => {
  expect(await compile(document, solid)).toHaveLength(count);
});
