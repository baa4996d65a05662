import { defineConfig } from "vite";
import { presenceClient } from "./vite.config.js";

// The server as plain JavaScript, so that Node 18 runs it.
export default defineConfig({
  resolve: { alias: presenceClient },
  build: {
    ssr: true,
    outDir: "dist/server",
    target: "node18",
    // Ours, also where the package beside us has none installed.
    rollupOptions: { input: ["server/main.ts", "server/visitors.ts"], external: ["pg"] },
  },
});
