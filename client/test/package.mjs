// The package as others get it: both kinds of modules say the same, and the licence is in it. Run after the build.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { URL, fileURLToPath } from "node:url";
import { build } from "vite";

const root = fileURLToPath(new URL("..", import.meta.url));
const require = createRequire(import.meta.url);

const entries = ["", "/react", "/solid", "/vue", "/svelte", "/who-is-here", "/server"];
for (const name of entries.map((entry) => `presence-client${entry}`)) {
  const exported = Object.keys(await import(name));
  assert.ok(exported.length > 0, name);
  const required = Object.keys(require(name));
  assert.deepEqual(required.sort(), exported.sort(), name);
}

assert.equal(readFileSync(`${root}/LICENSE`, "utf8"), readFileSync(`${root}/../LICENSE`, "utf8"));
// A list of packages; of newer versions of npm an object of them by name.
const [{ files }] = Object.values(
  JSON.parse(execFileSync("npm", ["pack", "--dry-run", "--json"], { cwd: root, encoding: "utf8" })),
);
const paths = new Set(files.map(({ path }) => path));
assert.ok(paths.has("LICENSE"));
for (const path of paths) {
  if (!/^dist\/.*\.js$/.test(path)) continue;
  const { sources } = JSON.parse(readFileSync(`${root}/${path}.map`, "utf8"));
  // A source map whose source is not there shows nothing.
  for (const source of sources) assert.ok(paths.has(new URL(source, `file:///${path}`).pathname.slice(1)), path);
}

// An import for what it does, which a bundler may not leave out.
const site = mkdtempSync(`${tmpdir()}/presence-package-`);
try {
  mkdirSync(`${site}/node_modules`);
  symlinkSync(root, `${site}/node_modules/presence-client`);
  writeFileSync(`${site}/page.js`, 'import "presence-client/who-is-here";\n');
  const { output } = await build({
    root: site,
    configFile: false,
    logLevel: "error",
    build: { write: false, rollupOptions: { input: `${site}/page.js` } },
  });
  assert.match(output[0].code, /who-is-here/);
} finally {
  rmSync(site, { recursive: true });
}
