import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";
import solid from "vite-plugin-solid";

const client = (path: string) => fileURLToPath(new URL(`../../client/src/${path}`, import.meta.url));

/** The package beside us, from source. In an application of your own: `npm install presence-client`, and none of this. */
export const presenceClient = [
  { find: /^presence-client$/, replacement: client("index.ts") },
  { find: /^presence-client\/solid$/, replacement: client("solid/index.ts") },
  { find: /^presence-client\/server$/, replacement: client("server/index.ts") },
];

export default defineConfig({
  plugins: [solid()],
  // One copy of Solid, ours, for the hook too.
  resolve: { alias: presenceClient, dedupe: ["solid-js"] },
  build: { outDir: "dist/page", target: "es2022" },
  // "npm run dev" beside "npm start": pages from Vite, everything else from our server.
  server: {
    proxy: Object.fromEntries(
      ["/api", "/me", "/messages", "/sign-in", "/sign-out"].map((path) => [path, "http://127.0.0.1:8080"]),
    ),
  },
});
