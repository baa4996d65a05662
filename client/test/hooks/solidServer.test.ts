import { createComponent } from "solid-js";
import { isServer, renderToString } from "solid-js/web";
import { expect, test } from "vitest";
import { usePresenceManager } from "../../src/solid/index.js";
import { Recorder } from "../unit/recorder.js";

// In Node, "solid-js" is Solid's build for servers.
test("the server renders the empty state and starts nothing", async () => {
  expect(isServer).toBe(true);
  const transport = new Recorder();
  function People() {
    const { activeUsers, isConnected, stats } = usePresenceManager({ currentUser: "ada", transport });
    return `${isConnected() ? "on" : "off"} ${activeUsers().length} ${stats().online}`;
  }
  expect(renderToString(() => createComponent(People, {}))).toBe("off 0 0");
  await new Promise((resolve) => setTimeout(resolve, 20)); // whatever might have started has started
  expect([transport.beats.length, transport.connections.length]).toEqual([0, 0]);
});
