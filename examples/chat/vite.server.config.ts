import { defineConfig } from "vite";
import { presenceClient } from "./vite.config.js";

// The server as plain JavaScript, so that Node 18 runs it.
export default defineConfig({
  resolve: { alias: presenceClient },
  ssr: { external: ["pg"] },
  build: {
    ssr: true,
    outDir: "dist/server",
    target: "node18",
    rollupOptions: { input: ["server/main.ts", "server/visitors.ts"] },
  },
});
