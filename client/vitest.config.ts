import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    // One private server and one browser at a time: the tests measure seconds.
    fileParallelism: false,
    projects: [
      {
        test: {
          name: "unit",
          include: ["test/unit/**/*.test.ts", "test/server/**/*.test.ts", "test/hooks/**/*.test.ts"],
          exclude: ["test/hooks/solid.test.ts"],
          environment: "node",
          testTimeout: 20_000,
        },
      },
      {
        // Solid has one build for the browser and one for the server, and Node would take the latter.
        resolve: { conditions: ["browser", "development"] },
        test: {
          name: "solid",
          include: ["test/hooks/solid.test.ts"],
          environment: "happy-dom",
          server: { deps: { inline: [/solid-js/] } },
        },
      },
      {
        test: {
          name: "browser",
          include: ["test/browser/**/*.test.ts"],
          environment: "node",
          testTimeout: 60_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
});
