// The package as others get it: both kinds of modules say the same, and the licence is in it. Run after the build.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { URL, fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const require = createRequire(import.meta.url);

const entries = ["", "/react", "/solid", "/vue", "/svelte", "/server"];
for (const name of entries.map((entry) => `presence-client${entry}`)) {
  const exported = Object.keys(await import(name));
  assert.ok(exported.length > 0, name);
  const required = Object.keys(require(name));
  assert.deepEqual(required.sort(), exported.sort(), name);
}

assert.equal(readFileSync(`${root}/LICENSE`, "utf8"), readFileSync(`${root}/../LICENSE`, "utf8"));
const [{ files }] = JSON.parse(execFileSync("npm", ["pack", "--dry-run", "--json"], { cwd: root, encoding: "utf8" }));
const paths = new Set(files.map(({ path }) => path));
assert.ok(paths.has("LICENSE"));
for (const path of paths) {
  if (!/^dist\/.*\.js$/.test(path)) continue;
  const { sources } = JSON.parse(readFileSync(`${root}/${path}.map`, "utf8"));
  // A source map whose source is not there shows nothing.
  for (const source of sources) assert.ok(paths.has(new URL(source, `file:///${path}`).pathname.slice(1)), path);
}
