import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    // One after the other: the tests measure seconds. Those in a browser are in ../test/web.
    fileParallelism: false,
    projects: [
      {
        test: {
          name: "unit",
          include: ["test/unit/**/*.test.ts", "test/server/**/*.test.ts", "test/hooks/**/*.test.ts"],
          exclude: ["test/hooks/solid.test.ts"],
          environment: "node",
          testTimeout: 60_000,
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
    ],
  },
});
